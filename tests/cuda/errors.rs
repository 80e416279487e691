//! Calls that cannot be served: each is an error that says what is wrong and what to do, and leaves the
//! device usable.

use std::sync::Arc;

use multimix::cuda::jit::{Cache, Compiler, Nvrtc};
use multimix::cuda::{self, Bare, Engine, Precision};
use multimix::{
    Alpha, Error, ErrorKind, Layout, LossInput, LossOptions, MixInput, Mixing, Result, Targets, View,
    ViewMut, Want, WeightsCall, WeightsInput, WeightsOutputs,
};
use sha2::{Digest, Sha256};

use crate::support::device::device;
use crate::support::harness::{Harness, add};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    add!(
        harness,
        missing,
        no_such_device,
        shapes_that_do_not_fit,
        a_workspace_too_small,
        buffers_that_overlap,
        misaligned_memory,
        another_context,
        out_of_memory,
        what_an_older_device_lacks,
        bad_files_of_the_cache_are_replaced,
    );
}

fn mixing(n: usize) -> Mixing {
    Mixing::dirichlet(n, Alpha::PAPER)
}

fn says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} missing in: {text}");
}

fn no_such_device() {
    let error = cuda::open(4096).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Device { .. }));
    says(&error, &["no device 4096", "nvidia-smi"]);
}

fn shapes_that_do_not_fit() {
    let device = device().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let (logits, labels) = (device.upload(&[0f32; 24]), device.upload(&[0u32; 3]));
    let input = LossInput {
        logits: View::new(&logits, [2, 3, 4]).unwrap(),
        targets: Targets::labels(View::new(&labels, [3]).unwrap()),
        attention: None,
    };
    let error = queue.loss(mixing(5), &input, &LossOptions::default(), Want::Loss).unwrap_err();
    let kind = ErrorKind::Shape { name: "labels".into(), given: vec![3], wanted: vec![2] };
    assert_eq!((error.op, error.kind), ("loss", kind));
    let short = View::named("logits", &logits, Layout::contiguous([5, 5])).unwrap_err();
    let kind = ErrorKind::Length { name: "logits".into(), given: 24, wanted: 25 };
    assert_eq!((short.op, short.kind), ("view", kind));
    let alpha = Mixing::dirichlet(5, Alpha::Fixed(0.0));
    let empty = WeightsInput { b: 0, r: 1, attention: None };
    let error = queue.weights::<f32>(&mixing(5), &empty).unwrap_err();
    assert_eq!((error.op, error.kind), ("weights", ErrorKind::Empty { name: "b".into() }));
    let input = WeightsInput { b: 2, r: 1, attention: None };
    assert!(matches!(queue.weights::<f32>(&alpha, &input), Err(Error { kind: ErrorKind::Value { .. }, .. })));
}

fn a_workspace_too_small() {
    let device = device().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let attention = device.upload(&[0.5f32; 6]);
    let mut out = device.uninitialised::<f32>(30);
    let mut workspace = device.uninitialised::<u8>(64);
    let input = WeightsInput { b: 3, r: 2, attention: Some(View::new(&attention, [3, 2]).unwrap()) };
    let outputs = WeightsOutputs { matrix: Some(ViewMut::new(&mut out, [2, 3, 5]).unwrap()), mass: None };
    let call = &mut WeightsCall { columns: mixing(5).into(), input, outputs };
    let scratch = &mut ViewMut::new(&mut workspace, [64]).unwrap();
    let error = queue.weights_into(call, scratch).unwrap_err();
    says(&error, &["workspace", "64 bytes", "768"]);
}

/// A call over bare pointers, with 4 examples, one position and 5 columns.
fn bare_weights(matrix: u64, mass: Option<u64>) -> Result<()> {
    let device = device().unwrap();
    let call = WeightsCall::<f32, Bare> {
        columns: mixing(5).into(),
        input: WeightsInput { b: 4, r: 1, attention: None },
        outputs: WeightsOutputs {
            matrix: Some(ViewMut::at(matrix, Layout::contiguous([1, 4, 5]))),
            mass: mass.map(|place| ViewMut::at(place, Layout::contiguous([1, 5]))),
        },
    };
    let queue = device.engine.on_bare(device.stream.cu_stream());
    // SAFETY: the memory is valid, or the call is refused for it and nothing is launched.
    unsafe { queue.run(&call, ViewMut::at(0, Layout::contiguous([0]))) }
}

fn pointer(memory: &cuda::cudarc::driver::CudaSlice<f32>) -> u64 {
    use cuda::cudarc::driver::DevicePtr;
    memory.device_ptr(memory.stream()).0
}

fn buffers_that_overlap() {
    let device = device().unwrap();
    let memory = device.upload(&[0.5f32; 64]);
    let error = bare_weights(pointer(&memory), Some(pointer(&memory) + 40)).unwrap_err();
    let kind = ErrorKind::Alias { first: "the mass", second: "the mix matrix" };
    assert_eq!((error.op, &error.kind), ("weights", &kind));
    says(&error, &["buffer of its own"]);
}

fn misaligned_memory() {
    let device = device().unwrap();
    let memory = device.upload(&[0.5f32; 64]);
    for place in [0, pointer(&memory) + 2] {
        let error = bare_weights(place, None).unwrap_err();
        says(&error, &["the mix matrix is", "multiple of the element's size"]);
    }
    bare_weights(pointer(&memory), None).expect("the memory itself is taken");
}

fn another_context() {
    let device = device().unwrap();
    let other = device.second_context();
    let error = device.engine.on(&other.default_stream()).unwrap_err();
    says(&error, &["the stream belongs to another CUDA context", "one Arc<CudaContext>"]);
    let memory = other.default_stream().clone_htod(&[1f32; 12]).unwrap();
    // cudarc frees on the null stream of whatever context is current then: not ordered after the copy.
    other.default_stream().synchronize().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let input = MixInput { features: View::new(&memory, [2, 2, 3]).unwrap(), targets: None, attention: None };
    says(&queue.mix(mixing(4), &input).unwrap_err(), &["features belongs to another CUDA context"]);
    drop(memory);
    device.context().bind_to_thread().unwrap();
}

fn out_of_memory() {
    let device = device().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    // 2^43 bytes: more than any device has.
    let input = WeightsInput { b: 1 << 13, r: 1 << 8, attention: None };
    let error = queue.weights::<f32>(&mixing(1 << 20), &input).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Cuda { .. }));
    says(
        &error,
        &["allocating 8796093022208 bytes", "CUDA_ERROR_OUT_OF_MEMORY", "make the batch or n smaller"],
    );
    let small = WeightsInput { b: 2, r: 1, attention: None };
    queue.weights::<f32>(&mixing(3), &small).expect("the device is as usable as before");
}

fn what_an_older_device_lacks() {
    let device = device().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let memory = device.upload(&[half::bf16::ONE; 12]);
    let input = MixInput { features: View::new(&memory, [2, 2, 3]).unwrap(), targets: None, attention: None };
    if device.has_bf16() {
        queue.mix(mixing(4), &input).expect("bf16");
        return;
    }
    says(&queue.mix(mixing(4), &input).unwrap_err(), &["no bf16 arithmetic", "use f16 or f32"]);
    let error = device.engine.on(&device.stream).unwrap().precision(Precision::Tf32).unwrap_err();
    says(&error, &["no tf32", "Precision::Exact"]);
}

/// A file that is whole by its checksum, but holds what no driver takes.
fn bad_files_of_the_cache_are_replaced() {
    let device = device().unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let run = || {
        let nvrtc = Nvrtc::locate(None, &Cache::disabled()).unwrap();
        let compiler = Arc::new(Compiler::new(nvrtc, Cache::in_folder(folder.path())));
        let engine = Engine::with_compiler(device.context(), compiler).unwrap();
        let input = WeightsInput { b: 2, r: 1, attention: None };
        let drawn = engine.on(&device.stream).unwrap().weights::<f32>(&mixing(3), &input).unwrap().matrix;
        (device.download(&drawn), engine.compiler().compilations())
    };
    let expected = run().0;
    let files = || {
        let entries = std::fs::read_dir(folder.path().join(env!("CARGO_PKG_VERSION"))).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let before = files();
    assert!(!before.is_empty());
    for file in &before {
        // A mark of 8 bytes, the key, the checksum of all that follows; three lengths, then the cubin and the
        // PTX.
        let mut contents = std::fs::read(file).unwrap();
        let body = contents.split_off(72);
        let (lengths, parts) = body.split_at(24);
        let bad: Vec<u8> = [lengths, &parts.iter().map(|byte| byte ^ 0x15).collect::<Vec<_>>()].concat();
        let checksum = Sha256::digest(&bad);
        std::fs::write(file, [&contents[..40], &checksum, &bad].concat()).unwrap();
    }
    let (drawn, compilations) = run();
    assert_eq!(drawn, expected);
    assert!(compilations > 0);
    assert_eq!(run(), (expected, 0), "the file was replaced");
    assert_eq!(files().len(), before.len());
}
