//! A call of each op, on small buffers of its own: for tests of what surrounds the ops.

use std::sync::Arc;

use multimix::cuda::cudarc::driver::{CudaSlice, CudaStream};
use multimix::cuda::{
    AttentionInput, AttentionOutputs, DeviceTargets, DeviceView, DeviceViewMut, LossInput, LossOutputs,
    MixBackwardOutputs, MixInput, MixOutputs, MixTargets, MixedGradients, Queue, Upstream, WeightsInput,
    WeightsOutput,
};
use multimix::{Alpha, AttentionOptions, LossOptions, Mixing, Result};

/// b, r, c, n and d.
const SIZES: [usize; 5] = [9, 3, 7, 40, 8];
const WORKSPACE: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Weights,
    Attention,
    AttentionBackward,
    MixForward,
    MixBackward,
    Loss,
}

impl Op {
    pub const ALL: [Op; 6] =
        [Op::Weights, Op::Attention, Op::AttentionBackward, Op::MixForward, Op::MixBackward, Op::Loss];
}

/// Inputs and outputs of all of them.
pub struct Calls {
    features: CudaSlice<f32>,
    logits: CudaSlice<f32>,
    attention: CudaSlice<f32>,
    soft: CudaSlice<f32>,
    d_mixed: CudaSlice<f32>,
    d_mixed_targets: CudaSlice<f32>,
    workspace: CudaSlice<u8>,
    /// Of each op the output that tests compare, and one that they do not.
    out: CudaSlice<f32>,
    targets: CudaSlice<f32>,
    d_attention: CudaSlice<f32>,
}

impl Calls {
    /// Uploaded and allocated on this stream.
    pub fn new(stream: &Arc<CudaStream>) -> Self {
        let [b, r, c, n, d] = SIZES;
        let wave = |count: usize| -> Vec<f32> { (0..count).map(|x| (x as f32 * 0.37).sin()).collect() };
        let upload = |values: &[f32]| stream.clone_htod(values).unwrap();
        let positive: Vec<f32> = wave(b * r).iter().map(|x| 1.5 + x).collect();
        let zeros = |count: usize| stream.alloc_zeros::<f32>(count).unwrap();
        Self {
            features: upload(&wave(b * r * d)),
            logits: upload(&wave(b * r * c)),
            attention: upload(&positive),
            soft: upload(&vec![1.0 / c as f32; b * c]),
            d_mixed: upload(&wave(n * r * d)),
            d_mixed_targets: upload(&wave(n * r * c)),
            workspace: stream.alloc_zeros(WORKSPACE).unwrap(),
            out: zeros(r * n * b.max(d)),
            targets: zeros(n * r * c),
            d_attention: zeros(b * r),
        }
    }

    /// What the last call computed, once `stream` has run it.
    pub fn result(&self, stream: &Arc<CudaStream>) -> Vec<f32> {
        let values = stream.clone_dtoh(&self.out).unwrap();
        stream.synchronize().unwrap();
        values
    }

    /// Forgets what was computed.
    pub fn clear(&mut self, stream: &Arc<CudaStream>) {
        stream.memset_zeros(&mut self.out).unwrap();
        stream.synchronize().unwrap();
    }

    /// The `compile_…` of an op.
    pub fn compile(&mut self, op: Op, queue: &Queue<'_>) -> Result<()> {
        self.call(op, queue, true)
    }

    /// The `_into` of an op.
    pub fn run(&mut self, op: Op, queue: &Queue<'_>) -> Result<()> {
        self.call(op, queue, false)
    }

    fn call(&mut self, op: Op, queue: &Queue<'_>, compiles: bool) -> Result<()> {
        let ([b, r, c, n, d], mixing) = (SIZES, Mixing::dirichlet(SIZES[3], Alpha::PAPER).seed(5));
        let Self { out, targets: mixed_targets, d_attention, workspace, .. } = self;
        let scratch = &mut DeviceViewMut::new(workspace, [WORKSPACE])?;
        let targets = DeviceTargets::Soft(DeviceView::new(&self.soft, [b, c])?);
        let attention = Some(DeviceView::new(&self.attention, [b, r])?);
        let mix_input = MixInput {
            // Channels apart: packed first.
            features: DeviceView::with_strides(&self.features, [b, r, d], [r * d, 1, r])?,
            targets: Some(MixTargets { targets: targets.clone(), classes: c }),
            attention: attention.clone(),
            weights: None,
        };
        let features = DeviceView::new(&self.features, [b, r, d])?;
        let (attention_input, options) =
            (AttentionInput { features, classifier: None }, AttentionOptions::default());
        match op {
            Op::Weights if compiles => queue.compile_weights::<f32>(mixing.generator, b, true),
            Op::Weights => {
                let input = WeightsInput { b, r, attention, weights: None };
                let columns = Some(DeviceViewMut::new(out, [r, b, n])?);
                queue.weights_into(&mixing, &input, &mut WeightsOutput { columns, mass: None }, scratch)
            }
            Op::Attention if compiles => queue.compile_attention(&attention_input, &options, None),
            Op::Attention => {
                let maps = DeviceViewMut::new(out, [b, r])?;
                queue.attention_forward_into(&attention_input, &options, maps, scratch)
            }
            Op::AttentionBackward => {
                let gradient = DeviceViewMut::new(out, [b, r, d])?;
                let mut outputs = AttentionOutputs { features: gradient, classifier: None };
                if compiles {
                    return queue.compile_attention(&attention_input, &options, Some(&mut outputs));
                }
                let d_maps = DeviceView::new(&self.attention, [b, r])?;
                queue.attention_backward_into(&attention_input, &options, &d_maps, outputs, scratch)
            }
            Op::MixForward => {
                let mut outputs = MixOutputs {
                    features: DeviceViewMut::new(out, [n, r, d])?,
                    targets: Some(DeviceViewMut::new(mixed_targets, [n, r, c])?),
                };
                if compiles {
                    return queue.compile_mix_forward(&mixing, &mix_input, &mut outputs);
                }
                queue.mix_forward_into(&mixing, &mix_input, outputs, scratch)
            }
            Op::MixBackward => {
                let gradients = MixedGradients {
                    features: DeviceView::new(&self.d_mixed, [n, r, d])?,
                    targets: Some(DeviceView::new(&self.d_mixed_targets, [n, r, c])?),
                };
                let mut outputs = MixBackwardOutputs {
                    features: Some(DeviceViewMut::new(out, [b, r, d])?),
                    targets: Some(DeviceViewMut::new(mixed_targets, [b, c])?),
                    attention: Some(DeviceViewMut::new(d_attention, [b, r])?),
                };
                if compiles {
                    return queue.compile_mix_backward(&mixing, &mix_input, &gradients, &mut outputs);
                }
                queue.mix_backward_into(&mixing, &mix_input, &gradients, outputs, scratch)
            }
            Op::Loss => {
                let logits = DeviceView::new(&self.logits, [b, r, c])?;
                let input = LossInput { logits, targets, attention, weights: None };
                let options = LossOptions { detach_attention: false, ..LossOptions::default() };
                let mut outputs = LossOutputs {
                    logits: Some(DeviceViewMut::new(out, [b, r, c])?),
                    attention: Some(DeviceViewMut::new(d_attention, [b, r])?),
                    ..LossOutputs::default()
                };
                if compiles {
                    return queue.compile_loss(&mixing, &input, &options, &mut outputs);
                }
                queue.loss_into(&mixing, &input, &options, &Upstream::default(), outputs, scratch)
            }
        }
    }
}
