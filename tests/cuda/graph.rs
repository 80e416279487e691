//! CUDA graphs: a captured step replayed with other inputs and another step number gives what a plain call
//! gives. All with cudarc's defaults: it tracks uses of memory by events, and orders streams by them, as soon
//! as there is a second stream.

use std::sync::Arc;

use multimix::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode};
use multimix::cuda::cudarc::driver::{CudaGraph, CudaSlice, CudaStream};
use multimix::cuda::{Engine, Queue};
use multimix::{
    Alpha, Columns, LossCall, LossInput, LossOptions, LossOutputs, Mixing, Targets, View, ViewMut,
    WeightsCall, WeightsInput, WeightsOutputs,
};

use crate::calls::{Calls, Op};
use crate::support::device::{Device, device};
use crate::support::harness::{Harness, add};

/// b, r, c and n.
const SIZES: [usize; 4] = [9, 3, 7, 40];

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    add!(
        harness,
        missing,
        a_replay_sees_new_inputs_and_a_new_step,
        plain_calls_and_captures_take_turns,
        threads_capture_at_once,
        what_cudarc_captures_comes_before_what_follows,
        capture_before_compilation_is_an_error,
        what_was_compiled_ahead_is_captured_at_once,
        a_graph_outlives_its_engine,
        engines_of_a_context_share_what_is_loaded,
    );
}

fn logits(shift: f32) -> Vec<f32> {
    let [b, r, c, _] = SIZES;
    (0..b * r * c).map(|x| (x as f32 * 0.37 + shift).sin()).collect()
}

/// A step of training: its memory, uploaded on the device's default stream.
struct Step {
    logits: CudaSlice<f32>,
    labels: CudaSlice<u32>,
    words: CudaSlice<u64>,
    loss: CudaSlice<f32>,
    gradient: CudaSlice<f32>,
    workspace: CudaSlice<u8>,
}

const WORKSPACE: usize = 1 << 20;

impl Step {
    fn new(device: &Device) -> Self {
        let [b, r, c, _] = SIZES;
        Self {
            logits: device.upload(&logits(0.0)),
            labels: device.upload(&vec![1u32; b]),
            words: device.upload(&[5u64, 0]),
            loss: device.upload(&[0f32]),
            gradient: device.upload(&vec![0f32; b * r * c]),
            workspace: device.uninitialised(WORKSPACE),
        }
    }

    /// Other inputs and another step number.
    fn set(&mut self, stream: &Arc<CudaStream>, turn: u64) {
        stream.memcpy_htod(&logits(turn as f32), &mut self.logits).unwrap();
        stream.memcpy_htod(&[5u64, 10 + turn], &mut self.words).unwrap();
    }

    fn call(&mut self, engine: &Engine, stream: &Arc<CudaStream>) -> multimix::Result<()> {
        let [b, r, c, n] = SIZES;
        let input = LossInput {
            logits: View::new(&self.logits, [b, r, c])?,
            targets: Targets::labels(View::new(&self.labels, [b])?),
            attention: None,
        };
        let outputs = LossOutputs {
            loss: Some(ViewMut::new(&mut self.loss, [1])?),
            logits: Some(ViewMut::new(&mut self.gradient, [b, r, c])?),
            ..LossOutputs::default()
        };
        let columns = Columns::drawn_from(&Mixing::dirichlet(n, Alpha::PAPER), View::new(&self.words, [2])?);
        let options = LossOptions::default();
        let call = &mut LossCall { columns, input, options, upstream: 1.0.into(), outputs };
        engine.on(stream)?.loss_into(call, &mut ViewMut::new(&mut self.workspace, [WORKSPACE])?)
    }

    fn capture(&mut self, engine: &Engine, stream: &Arc<CudaStream>) -> CudaGraph {
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        self.call(engine, stream).unwrap();
        stream.end_capture(Flags(0)).unwrap().expect("kernels were captured")
    }

    fn results(&self, stream: &Arc<CudaStream>) -> (Vec<f32>, Vec<f32>) {
        let results = (stream.clone_dtoh(&self.loss).unwrap(), stream.clone_dtoh(&self.gradient).unwrap());
        stream.synchronize().unwrap();
        results
    }
}

/// Loss and dS of a plain call on memory of its own.
fn plain(device: &Device, turn: u64) -> (Vec<f32>, Vec<f32>) {
    let mut step = Step::new(device);
    step.set(&device.stream, turn);
    step.call(&device.engine, &device.stream).unwrap();
    step.results(&device.stream)
}

fn a_replay_sees_new_inputs_and_a_new_step() {
    let device = device().unwrap();
    let expected = [0, 1, 2].map(|turn| plain(device, turn));
    assert_ne!(expected[0], expected[1]);
    let stream = device.context().new_stream().unwrap();
    let mut step = Step::new(device);
    // What the graph's stream runs must come after the uploads: the capture notes nothing of them.
    device.stream.synchronize().unwrap();
    let graph = step.capture(&device.engine, &stream);
    for (turn, expected) in expected.iter().enumerate() {
        step.set(&stream, turn as u64);
        graph.launch().unwrap();
        assert!(step.results(&stream) == *expected, "turn {turn}");
    }
    device.context().check_err().expect("cudarc kept no error");
}

/// On the same memory, on two streams, also on that of this thread; cudarc must be left with no event that
/// belongs to a capture.
fn plain_calls_and_captures_take_turns() {
    let device = device().unwrap();
    let expected = [0, 1, 2, 3, 4].map(|turn| plain(device, turn));
    for stream in [device.context().new_stream().unwrap(), device.context().per_thread_stream()] {
        let _second = device.context().new_stream().unwrap(); // from here on cudarc orders streams
        let mut step = Step::new(device);
        let turn = |step: &mut Step, run: &dyn Fn(&mut Step), number: usize, on: &Arc<CudaStream>| {
            step.set(on, number as u64);
            on.synchronize().unwrap();
            run(step);
            assert!(step.results(on) == expected[number], "turn {number}");
        };
        turn(&mut step, &|step| step.call(&device.engine, &device.stream).unwrap(), 0, &device.stream);
        let first = step.capture(&device.engine, &stream);
        turn(&mut step, &|step| step.call(&device.engine, &device.stream).unwrap(), 1, &device.stream);
        turn(&mut step, &|_| first.launch().unwrap(), 2, &stream);
        turn(&mut step, &|step| step.call(&device.engine, &stream).unwrap(), 3, &stream);
        let second = step.capture(&device.engine, &stream);
        turn(&mut step, &|_| second.launch().unwrap(), 4, &stream);
        turn(&mut step, &|_| first.launch().unwrap(), 0, &stream);
        drop((first, second, step));
        device.context().check_err().expect("cudarc kept no error");
    }
}

/// Each on a stream of its own, between plain calls, by one engine.
fn threads_capture_at_once() {
    let device = device().unwrap();
    let expected = [0, 1, 2].map(|turn| plain(device, turn));
    let streams = [0, 1, 2].map(|_| device.context().new_stream().unwrap());
    std::thread::scope(|scope| {
        for (turn, stream) in streams.iter().enumerate() {
            let expected = &expected;
            scope.spawn(move || {
                let mut step = Step::new(device);
                device.stream.synchronize().unwrap();
                for turn in (0..6usize).map(|more| (turn + more) % 3) {
                    let graph = step.capture(&device.engine, stream);
                    step.set(stream, turn as u64);
                    graph.launch().unwrap();
                    assert!(step.results(stream) == expected[turn], "turn {turn}, replayed");
                    step.call(&device.engine, stream).unwrap();
                    assert!(step.results(stream) == expected[turn], "turn {turn}");
                }
            });
        }
    });
    device.context().check_err().expect("cudarc kept no error");
}

/// Memory that cudarc itself uses in the capture carries an event of it.
fn what_cudarc_captures_comes_before_what_follows() {
    let device = device().unwrap();
    let stream = device.context().new_stream().unwrap();
    let mut step = Step::new(device);
    device.stream.memset_zeros(&mut step.logits).unwrap();
    step.call(&device.engine, &device.stream).unwrap();
    let expected = step.results(&device.stream);
    // No event of this memory was recorded yet: cudarc would have the capture wait for it, which cannot be.
    step.logits = device.uninitialised(logits(0.0).len());
    device.stream.synchronize().unwrap();
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    stream.memset_zeros(&mut step.logits).unwrap();
    step.call(&device.engine, &stream).unwrap();
    let graph = stream.end_capture(Flags(0)).unwrap().expect("kernels were captured");
    graph.launch().unwrap();
    assert!(step.results(&stream) == expected);
    drop(step);
    // cudarc cannot wait for the captured event, and notes so.
    let _ = device.context().check_err();
}

/// A graph names functions of modules, which an engine that is dropped must not unload.
fn a_graph_outlives_its_engine() {
    let device = device().unwrap();
    let expected = plain(device, 1);
    let stream = device.context().new_stream().unwrap();
    let mut step = Step::new(device);
    let engine = device.fresh_engine();
    step.call(&engine, &device.stream).unwrap();
    device.stream.synchronize().unwrap();
    let graph = step.capture(&engine, &stream);
    drop(engine);
    step.set(&stream, 1);
    graph.launch().unwrap();
    assert!(step.results(&stream) == expected, "{}", device.fault());
    // And a launch that still waits in its stream.
    let engine = device.fresh_engine();
    step.set(&stream, 1);
    step.call(&engine, &stream).unwrap();
    drop(engine);
    assert!(step.results(&stream) == expected, "{}", device.fault());
}

/// So that who makes an engine for each step loads nothing again, and leaves nothing behind.
fn engines_of_a_context_share_what_is_loaded() {
    let device = device().unwrap();
    let mut calls = Calls::new(&device.stream);
    let first = Engine::new(device.context()).unwrap();
    calls.run(Op::Weights, &first.on(&device.stream).unwrap()).unwrap();
    let report = first.report();
    drop(first);
    assert!(!report.is_empty() && Engine::new(device.context()).unwrap().report() == report);
    assert!(device.fresh_engine().report().is_empty(), "another compiler's kernels are others");
}

fn capture_before_compilation_is_an_error() {
    let device = device().unwrap();
    let fresh = device.fresh_engine();
    let stream = device.context().new_stream().unwrap();
    let mut out = stream.alloc_zeros::<f32>(6).unwrap();
    let mut workspace = stream.alloc_zeros::<u8>(1).unwrap();
    let input = WeightsInput { b: 2, r: 1, attention: None };
    let mixing = Mixing::dirichlet(3, Alpha::PAPER);
    let queue = fresh.on(&stream).unwrap();
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let outputs = WeightsOutputs { matrix: Some(ViewMut::new(&mut out, [1, 2, 3]).unwrap()), mass: None };
    let call = &mut WeightsCall { columns: mixing.into(), input, outputs };
    let scratch = &mut ViewMut::new(&mut workspace, [0]).unwrap();
    let error = queue.weights_into(call, scratch).unwrap_err().to_string();
    assert!(error.contains("not compiled yet") && error.contains("before the capture begins"), "{error}");
    // The capture itself is unharmed.
    stream.end_capture(Flags(0)).unwrap();
    queue.weights_compile(call).unwrap();
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    queue.weights_into(call, scratch).unwrap();
    assert!(stream.end_capture(Flags(0)).unwrap().is_some());
}

/// Every op on an engine that has launched nothing yet: its `…_compile`, then its capture, at which nothing
/// is compiled or loaded.
fn what_was_compiled_ahead_is_captured_at_once() {
    let device = device().unwrap();
    let stream = device.context().new_stream().unwrap();
    for op in Op::ALL {
        let mut calls = Calls::new(&device.stream);
        calls.run(op, &device.engine.on(&device.stream).unwrap()).unwrap();
        let expected = calls.result(&device.stream);
        calls.clear(&device.stream);
        let fresh = device.fresh_engine();
        let queue: Queue<'_> = fresh.on(&stream).unwrap();
        calls.compile(op, &queue).unwrap();
        let before = (fresh.compiler().compilations(), fresh.report());
        assert!(!before.1.is_empty());
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        calls.run(op, &queue).unwrap_or_else(|error| panic!("{op:?}: {error}"));
        let graph = stream.end_capture(Flags(0)).unwrap().expect("kernels were captured");
        let after = (fresh.compiler().compilations(), fresh.report());
        assert!(before == after, "{op:?} left something to compile");
        graph.launch().unwrap();
        assert!(calls.result(&stream) == expected, "{op:?}");
    }
}
