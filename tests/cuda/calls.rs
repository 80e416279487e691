//! A call of each op, on small buffers of its own: for tests of what surrounds the ops.

use std::sync::Arc;

use multimix::cuda::Queue;
use multimix::cuda::cudarc::driver::{CudaSlice, CudaStream};
use multimix::{
    Alpha, AttentionBackwardCall, AttentionCall, AttentionInput, AttentionOptions, AttentionOutputs,
    LossCall, LossInput, LossOptions, LossOutputs, MixBackwardCall, MixBackwardOutputs, MixCall, MixInput,
    MixOutputs, MixTargets, MixedGradients, Mixing, Result, Targets, View, ViewMut, WeightsCall,
    WeightsInput, WeightsOutputs,
};

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

    /// The `…_compile` of an op.
    pub fn compile(&mut self, op: Op, queue: &Queue<'_>) -> Result<()> {
        self.call(op, queue, true)
    }

    /// The `…_into` of an op.
    pub fn run(&mut self, op: Op, queue: &Queue<'_>) -> Result<()> {
        self.call(op, queue, false)
    }

    fn call(&mut self, op: Op, queue: &Queue<'_>, compiles: bool) -> Result<()> {
        let ([b, r, c, n, d], mixing) = (SIZES, Mixing::dirichlet(SIZES[3], Alpha::PAPER).seed(5));
        let Self { out, targets: mixed_targets, d_attention, workspace, .. } = self;
        let scratch = &mut ViewMut::new(workspace, [WORKSPACE])?;
        let (columns, targets) = (mixing.into(), Targets::Soft(View::new(&self.soft, [b, c])?));
        let attention = Some(View::new(&self.attention, [b, r])?);
        let mix_input = MixInput {
            // Channels apart: packed first.
            features: View::with_strides(&self.features, [b, r, d], [r * d, 1, r])?,
            targets: Some(MixTargets { targets: targets.clone(), classes: c }),
            attention: attention.clone(),
        };
        let features = View::new(&self.features, [b, r, d])?;
        let (attention_input, options) =
            (AttentionInput { features, classifier: None }, AttentionOptions::default());
        match op {
            Op::Weights => {
                let outputs = WeightsOutputs { matrix: Some(ViewMut::new(out, [r, b, n])?), mass: None };
                let input = WeightsInput { b, r, attention };
                let call = &mut WeightsCall { columns, input, outputs };
                if compiles { queue.weights_compile(call) } else { queue.weights_into(call, scratch) }
            }
            Op::Attention => {
                let maps = ViewMut::new(out, [b, r])?;
                let call = &mut AttentionCall { input: attention_input, options, maps };
                if compiles { queue.attention_compile(call) } else { queue.attention_into(call, scratch) }
            }
            Op::AttentionBackward => {
                let features = ViewMut::new(out, [b, r, d])?;
                let call = &mut AttentionBackwardCall {
                    input: attention_input,
                    options,
                    d_maps: View::new(&self.attention, [b, r])?,
                    outputs: AttentionOutputs { features, classifier: None },
                };
                match compiles {
                    true => queue.attention_backward_compile(call),
                    false => queue.attention_backward_into(call, scratch),
                }
            }
            Op::MixForward => {
                let outputs = MixOutputs {
                    features: ViewMut::new(out, [n, r, d])?,
                    targets: Some(ViewMut::new(mixed_targets, [n, r, c])?),
                };
                let call = &mut MixCall { columns, input: mix_input, outputs };
                if compiles { queue.mix_compile(call) } else { queue.mix_into(call, scratch) }
            }
            Op::MixBackward => {
                let gradients = MixedGradients {
                    features: View::new(&self.d_mixed, [n, r, d])?,
                    targets: Some(View::new(&self.d_mixed_targets, [n, r, c])?),
                };
                let outputs = MixBackwardOutputs {
                    features: Some(ViewMut::new(out, [b, r, d])?),
                    targets: Some(ViewMut::new(mixed_targets, [b, c])?),
                    attention: Some(ViewMut::new(d_attention, [b, r])?),
                };
                let call = &mut MixBackwardCall { columns, input: mix_input, gradients, outputs };
                match compiles {
                    true => queue.mix_backward_compile(call),
                    false => queue.mix_backward_into(call, scratch),
                }
            }
            Op::Loss => {
                let call = &mut LossCall {
                    columns,
                    input: LossInput { logits: View::new(&self.logits, [b, r, c])?, targets, attention },
                    options: LossOptions { detach_attention: false, ..LossOptions::default() },
                    upstream: 1.0.into(),
                    outputs: LossOutputs {
                        logits: Some(ViewMut::new(out, [b, r, c])?),
                        attention: Some(ViewMut::new(d_attention, [b, r])?),
                        ..LossOutputs::default()
                    },
                };
                if compiles { queue.loss_compile(call) } else { queue.loss_into(call, scratch) }
            }
        }
    }
}
