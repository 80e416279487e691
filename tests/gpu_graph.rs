//! CUDA graphs: a captured step replayed with other inputs and another step number gives what a plain call gives.

mod common;

use std::process::ExitCode;

use common::device::{self, Device, device};
use common::harness::passes;
use multimix::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode};
use multimix::cuda::{
    DeviceTargets, DeviceView, DeviceViewMut, Engine, LossInput, LossOutputs, Upstream, WeightsInput,
};
use multimix::{Alpha, LossOptions, Mixing};

const SIZES: [usize; 4] = [9, 3, 7, 40];

fn main() -> ExitCode {
    device::run(|harness, missing| {
        harness.test(
            "a_replay_sees_new_inputs_and_a_new_step",
            missing,
            passes(a_replay_sees_new_inputs_and_a_new_step),
        );
        harness.test(
            "capture_before_compilation_is_an_error",
            missing,
            passes(capture_before_compilation_is_an_error),
        );
    })
}

fn logits(shift: f32) -> Vec<f32> {
    let [b, r, c, _] = SIZES;
    (0..b * r * c).map(|x| (x as f32 * 0.37 + shift).sin()).collect()
}

/// Loss and dS of a plain call.
fn plain(device: &Device, shift: f32, step: u64) -> (Vec<f32>, Vec<f32>) {
    let [b, r, c, n] = SIZES;
    let (logits, labels) = (device.upload(&logits(shift)), device.upload(&vec![1u32; b]));
    let input = LossInput {
        logits: DeviceView::new(&logits, [b, r, c]).unwrap(),
        targets: DeviceTargets::Labels(DeviceView::new(&labels, [b]).unwrap()),
        attention: None,
        weights: None,
    };
    let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(5).step(step);
    let queue = device.engine.on(&device.stream).unwrap();
    let (loss, gradients) = queue.loss_forward_backward(&mixing, &input, &LossOptions::default()).unwrap();
    (device.download(&loss.value), device.download(&gradients.logits))
}

fn a_replay_sees_new_inputs_and_a_new_step() {
    let device = device().unwrap();
    let expected: Vec<_> = (0..3).map(|turn| plain(device, turn as f32, 10 + turn)).collect();
    assert_ne!(expected[0], expected[1]);

    // Waits for events of before the capture cannot be captured; everything here is in one stream.
    // SAFETY: no memory is used from two streams at once.
    unsafe { device.context().disable_event_tracking() };
    let [b, r, c, n] = SIZES;
    let stream = device.context().new_stream().unwrap();
    let queue = device.engine.on(&stream).unwrap();
    let mut values = stream.clone_htod(&logits(0.0)).unwrap();
    let labels = stream.clone_htod(&vec![1u32; b]).unwrap();
    let mut words = stream.clone_htod(&[5u64, 10]).unwrap();
    let mut loss = stream.alloc_zeros::<f32>(1).unwrap();
    let mut gradient = stream.alloc_zeros::<f32>(b * r * c).unwrap();
    let mixing = Mixing::dirichlet(n, Alpha::PAPER);
    let graph = {
        let input = LossInput {
            logits: DeviceView::new(&values, [b, r, c]).unwrap(),
            targets: DeviceTargets::Labels(DeviceView::new(&labels, [b]).unwrap()),
            attention: None,
            weights: None,
        };
        let queue = queue.seed_and_step(DeviceView::new(&words, [2]).unwrap()).unwrap();
        let outputs = LossOutputs {
            loss: Some(DeviceViewMut::new(&mut loss, [1]).unwrap()),
            logits: Some(DeviceViewMut::new(&mut gradient, [b, r, c]).unwrap()),
            ..LossOutputs::default()
        };
        let options = LossOptions::default();
        let bytes = queue.loss_workspace_bytes(&mixing, &input, &options, &outputs).unwrap();
        let mut workspace = stream.alloc_zeros::<u8>(bytes).unwrap();
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let scratch = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
        queue.loss_into(&mixing, &input, &options, &Upstream::default(), outputs, scratch).unwrap();
        let graph = stream.end_capture(Flags(0)).unwrap().expect("kernels were captured");
        // The graph holds the workspace's address.
        std::mem::forget(workspace);
        graph
    };
    for (turn, (value, d_logits)) in expected.iter().enumerate() {
        stream.memcpy_htod(&logits(turn as f32), &mut values).unwrap();
        stream.memcpy_htod(&[5u64, 10 + turn as u64], &mut words).unwrap();
        graph.launch().unwrap();
        stream.synchronize().unwrap();
        assert_eq!(&stream.clone_dtoh(&loss).unwrap(), value, "turn {turn}");
        assert_eq!(&stream.clone_dtoh(&gradient).unwrap(), d_logits, "turn {turn}");
    }
}

fn capture_before_compilation_is_an_error() {
    let device = device().unwrap();
    let fresh = Engine::new(device.context()).unwrap();
    let stream = device.context().new_stream().unwrap();
    let mut out = stream.alloc_zeros::<f32>(6).unwrap();
    let mut workspace = stream.alloc_zeros::<u8>(1).unwrap();
    let input = WeightsInput { b: 2, r: 1, attention: None, weights: None };
    let mixing = Mixing::dirichlet(3, Alpha::PAPER);
    let queue = fresh.on(&stream).unwrap();
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    let mut output = multimix::cuda::WeightsOutput {
        columns: Some(DeviceViewMut::new(&mut out, [1, 2, 3]).unwrap()),
        mass: None,
    };
    let scratch = &mut DeviceViewMut::new(&mut workspace, [0]).unwrap();
    let error = queue.weights_into(&mixing, &input, &mut output, scratch).unwrap_err().to_string();
    assert!(error.contains("not compiled yet") && error.contains("before the capture begins"), "{error}");
    // The capture itself is unharmed.
    stream.end_capture(Flags(0)).unwrap();
    queue.compile_weights::<f32>(mixing.generator, 2, false).unwrap();
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    queue.weights_into(&mixing, &input, &mut output, scratch).unwrap();
    assert!(stream.end_capture(Flags(0)).unwrap().is_some());
}
