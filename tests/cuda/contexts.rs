//! Threads and contexts: any thread may call, whatever is current there, and everything must come from one
//! `Arc<CudaContext>`.

use std::process::Command;
use std::sync::Arc;
use std::thread;

use multimix::cuda::cudarc::driver::{CudaContext, CudaSlice, DevicePtr};
use multimix::cuda::{self, Bare, Cuda, Engine};
use multimix::{
    Alpha, AttentionCall, AttentionInput, AttentionOptions, Columns, Layout, Mixing, View, ViewMut,
    WeightsCall, WeightsInput, WeightsOutputs,
};

use crate::calls::{Calls, Op};
use crate::support::device::device;
use crate::support::harness::{Harness, add};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    add!(
        harness,
        missing,
        a_first_call_may_come_from_any_thread,
        a_first_compilation_may_come_from_any_thread,
        bare_calls_may_come_from_any_thread,
        another_context_may_be_current,
        two_contexts_of_one_device_are_told_apart,
        threads_that_are_refused_are_done_without,
    );
}

/// Runs something in a thread in which `current` is current, or nothing is.
fn elsewhere<T: Send>(current: Option<&Arc<CudaContext>>, run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Some(context) = current {
                context.bind_to_thread().unwrap();
            }
            run()
        });
        thread.join().unwrap()
    })
}

fn a_first_call_may_come_from_any_thread() {
    let device = device().unwrap();
    for op in Op::ALL {
        let mut calls = Calls::new(&device.stream);
        calls.run(op, &device.engine.on(&device.stream).unwrap()).unwrap();
        let expected = calls.result(&device.stream);
        calls.clear(&device.stream);
        let fresh = device.fresh_engine();
        elsewhere(None, || calls.run(op, &fresh.on(&device.stream)?))
            .unwrap_or_else(|e| panic!("{op:?}: {e}"));
        assert_eq!(calls.result(&device.stream), expected, "{op:?}");
    }
}

fn a_first_compilation_may_come_from_any_thread() {
    let device = device().unwrap();
    for op in Op::ALL {
        let (mut calls, fresh) = (Calls::new(&device.stream), device.fresh_engine());
        elsewhere(None, || calls.compile(op, &fresh.on(&device.stream)?)).unwrap();
        assert!(!fresh.report().is_empty(), "{op:?}");
    }
}

/// A call that needs no workspace and one that does, with another context current or none, on the default
/// stream and another.
fn bare_calls_may_come_from_any_thread() {
    let device = device().unwrap();
    let (other, stream) = (device.second_context(), device.context().new_stream().unwrap());
    let ([b, r, d, n], mixing) = ([4, 2, 8, 5], Mixing::dirichlet(5, Alpha::PAPER));
    let features = device.upload(&vec![0.5f32; b * r * d]);
    let mut out = device.upload(&vec![0f32; r * b * n]);
    let scratch = device.uninitialised::<f32>(1 << 14);
    let pointer = |memory: &CudaSlice<f32>| memory.device_ptr(&device.stream).0;
    let (features, written, scratch) = (pointer(&features), pointer(&out), pointer(&scratch));
    let weights = || WeightsCall::<f32, Bare> {
        columns: mixing.into(),
        input: WeightsInput { b, r, attention: None },
        outputs: WeightsOutputs {
            matrix: Some(ViewMut::at(written, Layout::contiguous([r, b, n]))),
            mass: None,
        },
    };
    let attention = || AttentionCall::<f32, Bare> {
        input: AttentionInput {
            features: View::at(features, Layout::contiguous([b, r, d])),
            classifier: None,
        },
        options: AttentionOptions::default(),
        maps: ViewMut::at(written, Layout::contiguous([b, r])),
    };
    let call = |op: Op, engine: &Engine, stream: usize| {
        let queue = engine.on_bare(stream as _);
        // SAFETY: the memory is valid, and used by nobody else until the stream is waited for below.
        unsafe {
            match op {
                Op::Weights => queue.run(&weights(), ViewMut::at(0, Layout::contiguous([0]))),
                _ => queue.run(&attention(), ViewMut::at(scratch, Layout::contiguous([4 << 14]))),
            }
        }
    };
    device.stream.synchronize().unwrap();
    for (current, stream) in
        [None, Some(&other)].into_iter().flat_map(|c| [(c, &device.stream), (c, &stream)])
    {
        for op in [Op::Weights, Op::Attention] {
            let (fresh, handle) = (device.fresh_engine(), stream.cu_stream() as usize);
            let called = elsewhere(current, || call(op, &fresh, handle));
            called.unwrap_or_else(|error| panic!("{op:?}, {current:?}: {error}"));
            stream.synchronize().unwrap();
            assert!(device.download(&out)[..b].iter().sum::<f32>() > 0.0, "{op:?} wrote nothing");
            device.stream.memset_zeros(&mut out).unwrap();
            device.stream.synchronize().unwrap();
        }
    }
    elsewhere(Some(&other), || device.fresh_engine().on_bare(std::ptr::null_mut()).compile(&weights()))
        .unwrap();
    device.context().bind_to_thread().unwrap();
}

/// As of a framework with several devices: what is current in the thread is not the engine's.
fn another_context_may_be_current() {
    let device = device().unwrap();
    let (other, stream) = (device.second_context(), device.context().new_stream().unwrap());
    for op in Op::ALL {
        let (mut calls, fresh) = (Calls::new(&stream), device.fresh_engine());
        elsewhere(Some(&other), || calls.run(op, &fresh.on(&stream)?)).unwrap();
        assert!(calls.result(&stream).iter().any(|&x| x != 0.0), "{op:?}");
    }
    device.context().bind_to_thread().unwrap();
    drop(other);
}

/// The same device and the same context of the driver, but cudarc orders streams for each of its own objects.
fn two_contexts_of_one_device_are_told_apart() {
    let device = device().unwrap();
    let other = cuda::open(0).unwrap();
    let words = ["another", "make the engine, the stream and all buffers from one Arc<CudaContext>"];
    let says = |error: multimix::Error, name: &str| {
        let text = error.to_string();
        assert!(text.contains(name) && words.iter().all(|word| text.contains(word)), "{text}");
    };
    says(device.engine.on(&other.default_stream()).unwrap_err(), "the stream");
    let memory = other.default_stream().clone_htod(&[1f32; 12]).unwrap();
    let features = View::new(&memory, [2, 2, 3]).unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let input = AttentionInput { features, classifier: None };
    says(queue.attention(&input, &AttentionOptions::default()).unwrap_err(), "features");
    let words = other.default_stream().clone_htod(&[1u64; 2]).unwrap();
    let columns: Columns<'_, Cuda> =
        Columns::drawn_from(&Mixing::dirichlet(3, Alpha::PAPER), View::new(&words, [2]).unwrap());
    let input = WeightsInput { b: 2, r: 1, attention: None };
    says(queue.weights::<f32>(columns, &input).unwrap_err(), "seed and step");
    let own = Engine::new(&other).unwrap();
    assert!(own.on(&other.default_stream()).is_ok(), "its own engine takes it");
}

/// In a process whose threads are to have more stack than there are addresses, so that the OS makes none.
fn threads_that_are_refused_are_done_without() {
    if std::env::var_os("RUST_MIN_STACK").is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "contexts::threads_that_are_refused_are_done_without"])
            .env("RUST_MIN_STACK", (1u64 << 46).to_string());
        let output = child.output().unwrap();
        let [told, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success() && told.contains("1 passed"), "{told}{errors}");
        return;
    }
    assert!(thread::Builder::new().spawn(|| ()).is_err(), "the OS makes such a thread");
    let device = device().unwrap();
    let fresh = device.fresh_engine();
    let mut calls = Calls::new(&device.stream);
    calls.compile(Op::Weights, &fresh.on(&device.stream).unwrap()).unwrap();
    assert_eq!(fresh.report().len(), 2, "the sampler, and what prepares attention");
}
