//! Threads and contexts: any thread may call, whatever is current there, and everything must come from one
//! `Arc<CudaContext>`.

use std::process::Command;
use std::sync::Arc;
use std::thread;

use multimix::cuda::cudarc::driver::{CudaContext, CudaSlice, DevicePtr};
use multimix::cuda::raw::{self, RawAttention, RawColumns, RawView, RawWeights, RawWorkspace};
use multimix::cuda::{self, AttentionInput, DeviceView, Engine};
use multimix::{Alpha, AttentionOptions, Dtype, Mixing, Result};

use crate::calls::{Calls, Op};
use crate::support::device::device;
use crate::support::harness::{Harness, add};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    add!(
        harness,
        missing,
        a_first_call_may_come_from_any_thread,
        a_first_compilation_may_come_from_any_thread,
        raw_calls_may_come_from_any_thread,
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

/// The two raw entries through which no other op goes, with another context current or none, on the default
/// stream and another.
fn raw_calls_may_come_from_any_thread() {
    let device = device().unwrap();
    let (other, stream) = (device.second_context(), device.context().new_stream().unwrap());
    let ([b, r, d, n], mixing) = ([4, 2, 8, 5], Mixing::dirichlet(5, Alpha::PAPER));
    let features = device.upload(&vec![0.5f32; b * r * d]);
    let mut out = device.upload(&vec![0f32; r * b * n]);
    let scratch = device.uninitialised::<f32>(1 << 14);
    let pointer = |memory: &CudaSlice<f32>| memory.device_ptr(&device.stream).0;
    let weights = RawWeights {
        columns: RawColumns { mixing: &mixing, b, r, attention: None, weights: None, seed_and_step: 0 },
        dtype: Dtype::F32,
        first: 0,
        out: Some(RawView::contiguous(pointer(&out), [r, b, n])),
        mass: None,
        workspace: RawWorkspace::EMPTY,
    };
    let attention = RawAttention {
        dtype: Dtype::F32,
        options: AttentionOptions::default(),
        features: RawView::contiguous(pointer(&features), [b, r, d]),
        rows: None,
        labels: None,
        maps: RawView::contiguous(pointer(&out), [b, r]),
        d_features: None,
        d_rows: None,
        workspace: RawWorkspace { pointer: pointer(&scratch), bytes: 4 << 14 },
    };
    // SAFETY: the memory is valid, and used by nobody else until the stream is waited for below.
    let call = |op: Op, engine: &Engine, stream: usize| unsafe {
        match op {
            Op::Weights => raw::weights(engine, stream as _, &weights),
            _ => raw::attention(engine, stream as _, &attention),
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
    elsewhere(Some(&other), || raw::compile_weights(&device.fresh_engine(), &weights)).unwrap();
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
    let features = DeviceView::new(&memory, [2, 2, 3]).unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let input = AttentionInput { features, classifier: None };
    says(queue.attention_forward(&input, &AttentionOptions::default()).unwrap_err(), "features");
    let words = other.default_stream().clone_htod(&[1u64; 2]).unwrap();
    says(queue.clone().seed_and_step(DeviceView::new(&words, [2]).unwrap()).unwrap_err(), "seed and step");
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
    let compile = || -> Result<()> {
        fresh.on(&device.stream)?.compile_weights::<f32>(
            multimix::Generator::Dirichlet { alpha: Alpha::PAPER },
            4,
            true,
        )
    };
    compile().unwrap();
    assert_eq!(fresh.report().len(), 2, "the sampler, and what prepares attention");
}
