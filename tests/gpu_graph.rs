//! CUDA graphs: a captured step replayed with other inputs and another step number gives what a plain call gives.

mod common;

use std::process::ExitCode;
use std::sync::Arc;

use common::device::{self, Device, device};
use common::harness::passes;
use multimix::cuda::cudarc::driver::CudaStream;
use multimix::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags as Flags, CUstreamCaptureMode as Mode};
use multimix::cuda::{
    AttentionInput, DeviceTargets, DeviceView, DeviceViewMut, Engine, LossInput, LossOutputs,
    MixBackwardOutputs, MixInput, MixOutputs, MixTargets, MixedGradients, Queue, Upstream, WeightsInput,
};
use multimix::{Alpha, AttentionOptions, LossOptions, Mixing};

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
        harness.test(
            "what_was_compiled_ahead_is_captured_at_once",
            missing,
            passes(what_was_compiled_ahead_is_captured_at_once),
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
    let (options, upstream) = (LossOptions::default(), Upstream::default());
    let (loss, gradients) = queue.loss_forward_backward(&mixing, &input, &options, &upstream).unwrap();
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

/// Every op on an engine that has launched nothing yet: its `compile_…`, then its capture, at which nothing is compiled or loaded.
fn what_was_compiled_ahead_is_captured_at_once() {
    let device = device().unwrap();
    let stream = device.context().new_stream().unwrap();
    let ([b, r, c, n], d) = (SIZES, 8);
    let zeros = |count: usize| stream.alloc_zeros::<f32>(count).unwrap();
    let (features, logits, attention, soft) =
        (zeros(b * r * d), zeros(b * r * c), zeros(b * r), zeros(b * c));
    let (mut mixed, mut mixed_targets, mut maps) = (zeros(n * r * d), zeros(n * r * c), zeros(b * r));
    let (mut d_features, mut d_targets, mut d_logits) = (zeros(b * r * d), zeros(b * c), zeros(b * r * c));
    let (mut d_attention, mut loss, mut columns) = (zeros(b * r), zeros(1), zeros(r * b * n));
    let (d_mixed, d_mixed_targets) = (zeros(n * r * d), zeros(n * r * c));
    let mut workspace = stream.alloc_zeros::<u8>(1 << 20).unwrap();
    let mixing = Mixing::dirichlet(n, Alpha::PAPER);
    let targets = DeviceTargets::Soft(DeviceView::new(&soft, [b, c]).unwrap());
    let attention = DeviceView::new(&attention, [b, r]).unwrap();

    captures_once_compiled(device, &stream, |queue, compiles| {
        let input = WeightsInput { b, r, attention: Some(attention.clone()), weights: None };
        let columns = Some(DeviceViewMut::new(&mut columns, [r, b, n])?);
        if compiles {
            return queue.compile_weights::<f32>(mixing.generator, b, true);
        }
        let mut output = multimix::cuda::WeightsOutput { columns, mass: None };
        queue.weights_into(&mixing, &input, &mut output, &mut DeviceViewMut::new(&mut workspace, [1 << 20])?)
    });
    captures_once_compiled(device, &stream, |queue, compiles| {
        let input = AttentionInput { features: DeviceView::new(&features, [b, r, d])?, classifier: None };
        let options = AttentionOptions::default();
        if compiles {
            return queue.compile_attention(&input, &options, None);
        }
        let scratch = &mut DeviceViewMut::new(&mut workspace, [1 << 20])?;
        queue.attention_forward_into(&input, &options, DeviceViewMut::new(&mut maps, [b, r])?, scratch)
    });
    let mix_input = || MixInput {
        // Channels apart: packed first.
        features: DeviceView::with_strides(&features, [b, r, d], [r * d, 1, r]).unwrap(),
        targets: Some(MixTargets { targets: targets.clone(), classes: c }),
        attention: Some(attention.clone()),
        weights: None,
    };
    captures_once_compiled(device, &stream, |queue, compiles| {
        let mut outputs = MixOutputs {
            features: DeviceViewMut::new(&mut mixed, [n, r, d])?,
            targets: Some(DeviceViewMut::new(&mut mixed_targets, [n, r, c])?),
        };
        if compiles {
            return queue.compile_mix_forward(&mixing, &mix_input(), &mut outputs);
        }
        let scratch = &mut DeviceViewMut::new(&mut workspace, [1 << 20])?;
        queue.mix_forward_into(&mixing, &mix_input(), outputs, scratch)
    });
    captures_once_compiled(device, &stream, |queue, compiles| {
        let gradients = MixedGradients {
            features: DeviceView::new(&d_mixed, [n, r, d])?,
            targets: Some(DeviceView::new(&d_mixed_targets, [n, r, c])?),
        };
        let mut outputs = MixBackwardOutputs {
            features: Some(DeviceViewMut::new(&mut d_features, [b, r, d])?),
            targets: Some(DeviceViewMut::new(&mut d_targets, [b, c])?),
            attention: Some(DeviceViewMut::new(&mut d_attention, [b, r])?),
        };
        if compiles {
            return queue.compile_mix_backward(&mixing, &mix_input(), &gradients, &mut outputs);
        }
        let scratch = &mut DeviceViewMut::new(&mut workspace, [1 << 20])?;
        queue.mix_backward_into(&mixing, &mix_input(), &gradients, outputs, scratch)
    });
    captures_once_compiled(device, &stream, |queue, compiles| {
        let input = LossInput {
            logits: DeviceView::new(&logits, [b, r, c])?,
            targets: targets.clone(),
            attention: Some(attention.clone()),
            weights: None,
        };
        let options = LossOptions { detach_attention: false, ..LossOptions::default() };
        let mut outputs = LossOutputs {
            loss: Some(DeviceViewMut::new(&mut loss, [1])?),
            logits: Some(DeviceViewMut::new(&mut d_logits, [b, r, c])?),
            attention: Some(DeviceViewMut::new(&mut d_attention, [b, r])?),
            ..LossOutputs::default()
        };
        if compiles {
            return queue.compile_loss(&mixing, &input, &options, &mut outputs);
        }
        let scratch = &mut DeviceViewMut::new(&mut workspace, [1 << 20])?;
        queue.loss_into(&mixing, &input, &options, &Upstream::default(), outputs, scratch)
    });
}

/// `op` compiles where it is told so, else it runs.
fn captures_once_compiled(
    device: &Device,
    stream: &Arc<CudaStream>,
    mut op: impl FnMut(&Queue<'_>, bool) -> multimix::Result<()>,
) {
    let fresh = Engine::new(device.context()).unwrap();
    let queue = fresh.on(stream).unwrap();
    op(&queue, true).unwrap();
    let before = (fresh.compiler().compilations(), fresh.report());
    assert!(!before.1.is_empty());
    stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    op(&queue, false).unwrap();
    assert!(stream.end_capture(Flags(0)).unwrap().is_some(), "kernels were captured");
    assert!((fresh.compiler().compilations(), fresh.report()) == before, "something was left to compile");
}
