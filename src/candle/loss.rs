//! The loss on mixed logits and targets.

use std::sync::OnceLock;

use candle_core::{DType, Result, Shape, Tensor, bail};

use super::backend::{Backend, Columns, LossCall, Targets};
use super::bridge::{self, ATTENTION, Argument, Borrowed, Float, LOGITS, Operand, TARGETS};
use super::draw::Draw;
use super::op::{Differentiable, Given, TensorGradients, apply};
use crate::problem::{LossOptions, Mixing};

const OP: &str = "loss";

/// The loss on mixtures of a mini-batch, from the logits of its unmixed features: a scalar f32 tensor, in nats.
///
/// - `logits` S (b, r, c), or (b, c) for r = 1: the linear classifier applied to each feature. −∞ masks a class:
///   [special values](crate::cpu#special-values).
/// - `targets`: class ids (b) of u8, u32 or i64, or rows Y (b, c) of floats; constants.
/// - `attention` a (b, r), not negative; none for M̂ = Λ. A map of zeros becomes uniform or leaves its example out:
///   [`Mixing::empty_maps`]. The gradient is computed where attention is tracked and [`LossOptions::detach_attention`]
///   is false.
/// - `draw`: a [`Mixing`], or a tensor of explicit weights, to which no gradient flows.
/// - `options`: all but [`LossOptions::kl`], since an op has one output.
///
/// The gradient of f16 logits is kept in f32 (on the CPU) or scaled up (on CUDA) until it is multiplied by the gradient from
/// upstream, so that loss scaling works.
///
/// # Errors
/// Whatever the engine refuses ([`crate::cpu::loss_forward`], and its like on CUDA), tensors on other devices, and types other
/// than those named.
pub fn loss<'a>(
    logits: &Tensor,
    targets: &Tensor,
    attention: Option<&Tensor>,
    draw: impl Into<Draw<'a>>,
    options: &LossOptions,
) -> Result<Tensor> {
    let (mixing, weights) = draw.into().resolve(OP)?;
    let attention = attention.map(|attention| ATTENTION.to_f32(OP, attention)).transpose()?;
    let tracked = attention.as_ref().filter(|attention| !options.detach_attention && attention.track_op());
    let op = LossOp {
        targets: OwnedTargets::from_tensor(targets)?,
        attention: if tracked.is_some() { None } else { attention.as_ref().map(Tensor::detach) },
        weights,
        mixing,
        options: LossOptions { detach_attention: tracked.is_none(), kl: false, ..*options },
        wants_gradients: logits.track_op() || tracked.is_some(),
        gradients: OnceLock::new(),
    };
    apply(op, &as_positions(logits)?, tracked)
}

/// Logits (b, c) as (b, 1, c); on the CPU, those of f16 in f32, the type that their gradient is kept in.
fn as_positions(logits: &Tensor) -> Result<Tensor> {
    let logits = if logits.rank() == 2 { logits.unsqueeze(1)? } else { logits.clone() };
    match logits.dtype() {
        DType::F16 if logits.device().is_cpu() => logits.to_dtype(DType::F32),
        _ => Ok(logits),
    }
}

enum OwnedTargets {
    Labels(Tensor),
    Soft(Tensor),
}

impl OwnedTargets {
    fn from_tensor(targets: &Tensor) -> Result<Self> {
        if bridge::are_labels(targets) {
            return bridge::labels(OP, targets).map(Self::Labels);
        }
        TARGETS.to_f32(OP, &targets.detach()).map(Self::Soft)
    }

    fn tensor(&self) -> &Tensor {
        match self {
            Self::Labels(tensor) | Self::Soft(tensor) => tensor,
        }
    }
}

/// Computes the gradients along with the loss, and keeps them for the backward pass.
struct LossOp {
    targets: OwnedTargets,
    /// Attention that is a constant.
    attention: Option<Tensor>,
    weights: Option<Tensor>,
    mixing: Mixing,
    options: LossOptions,
    wants_gradients: bool,
    gradients: OnceLock<Kept>,
}

/// The gradients times `scale`.
struct Kept {
    logits: Tensor,
    attention: Option<Tensor>,
    scale: f32,
}

impl LossOp {
    fn compute<B: Backend, T: Float>(
        &self,
        backend: &B,
        call: &LossCall<'_, B::Storage>,
    ) -> Result<B::Storage> {
        if !self.wants_gradients {
            return backend.loss::<T>(call);
        }
        let computed = backend.loss_with_gradients::<T>(call)?;
        let (b, r, c) = call.logits.layout.shape().dims3()?;
        let (for_logits, for_attention) = computed.gradients;
        // A custom op runs forward once; a second run would find the same gradients.
        self.gradients.get_or_init(|| Kept {
            logits: B::tensor(for_logits, (b, r, c)),
            attention: for_attention.map(|attention| B::tensor(attention, (b, r))),
            scale: computed.scale,
        });
        Ok(computed.loss)
    }
}

impl Differentiable for LossOp {
    const OP: &'static str = OP;
    const ARGUMENTS: [Argument; 2] = [LOGITS, ATTENTION];

    fn forward<B: Backend, T: Float>(
        &self,
        backend: &B,
        logits: Operand<'_, B::Storage>,
        attention: Option<Operand<'_, B::Storage>>,
    ) -> Result<(B::Storage, Shape)> {
        let targets = Borrowed::new(OP, "targets", self.targets.tensor());
        let constant = self.attention.as_ref().map(|attention| Borrowed::new(OP, "attention", attention));
        let weights = self.weights.as_ref().map(|weights| Borrowed::new(OP, "weights", weights));
        let columns = Columns {
            mixing: &self.mixing,
            attention: match &constant {
                Some(constant) => Some(constant.operand::<B>()?),
                None => attention,
            },
            weights: weights.as_ref().map(Borrowed::operand::<B>).transpose()?,
        };
        let targets = match &self.targets {
            OwnedTargets::Labels(_) => Targets::Labels(targets.operand::<B>()?),
            OwnedTargets::Soft(_) => Targets::Soft(targets.operand::<B>()?),
        };
        let call = LossCall { columns, logits, targets, options: &self.options };
        Ok((self.compute::<B, T>(backend, &call)?, Shape::from(())))
    }

    fn backward<B: Backend, T: Float>(&self, _backend: &B, given: &Given<'_>) -> Result<TensorGradients> {
        let Some(kept) = self.gradients.get() else { bail!("{OP}: backward without forward") };
        let scaled = |gradient| scaled(gradient, kept.scale, given.upstream);
        let for_logits = scaled(&kept.logits)?.to_dtype(given.first.dtype())?;
        let for_attention = match (&kept.attention, given.second) {
            (Some(gradient), Some(_)) => Some(scaled(gradient)?),
            _ => None,
        };
        Ok((for_logits, for_attention))
    }
}

/// A gradient that was kept times `scale`, times the one from upstream. In f32, unless there is nothing to do.
fn scaled(gradient: &Tensor, scale: f32, upstream: &Tensor) -> Result<Tensor> {
    // Nothing waits for a value on a GPU.
    if scale == 1.0 && upstream.device().is_cpu() && upstream.to_scalar::<f32>()? == 1.0 {
        return Ok(gradient.clone());
    }
    gradient.to_dtype(DType::F32)?.broadcast_mul(&(upstream / f64::from(scale))?)
}
