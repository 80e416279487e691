//! The loss on mixed logits and targets.

use std::sync::OnceLock;

use candle_core::{Result, Shape, Tensor, bail};

use super::backend::Backend;
use super::bridge::{self, ATTENTION, Argument, Borrowed, Float, LOGITS, Operand, TARGETS};
use super::draw::{Draw, OwnedDraw};
use super::op::{Differentiable, Given, TensorGradients, apply};
use crate::op::{Columns, Engine, LossInput, Targets, Want};
use crate::problem::LossOptions;

const OP: &str = "loss";

/// The loss on mixtures of a mini-batch, from the logits of its unmixed features: a scalar f32 tensor, in
/// nats.
///
/// - `logits` S (b, r, c), or (b, c) for r = 1: the linear classifier applied to each feature. −∞ masks a
///   class: [special values](crate::cpu#special-values).
/// - `targets`: class ids (b) of u8, i32, u32 or i64, or rows Y (b, c) of floats; constants.
/// - `attention` a (b, r), not negative; none for M̂ = Λ. A map of zeros becomes uniform or leaves its
///   example out: [`Mixing::empty_maps`](crate::Mixing::empty_maps). The gradient is computed where attention
///   is tracked and [`LossOptions::detach_attention`] is false.
/// - `draw`: a [`Mixing`](crate::Mixing), or a tensor of explicit weights, to which no gradient flows.
/// - `options`: all but [`LossOptions::kl`], since an op has one output.
///
/// The gradient of logits of 16 bits is kept in f32 until it is multiplied by the gradient from upstream, so
/// that loss scaling works.
///
/// # Errors
/// Whatever the engine refuses ([`crate::cpu::loss()`], and its like on CUDA), tensors on other devices, and
/// types other than those named.
pub fn loss<'a>(
    logits: &Tensor,
    targets: &Tensor,
    attention: Option<&Tensor>,
    draw: impl Into<Draw<'a>>,
    options: &LossOptions,
) -> Result<Tensor> {
    let draw = draw.into().to_owned(OP)?;
    let attention = attention.map(|attention| ATTENTION.to_f32(OP, attention)).transpose()?;
    let tracked = attention.as_ref().filter(|attention| !options.detach_attention && attention.track_op());
    let op = LossOp {
        targets: OwnedTargets::from_tensor(targets)?,
        attention: if tracked.is_some() { None } else { attention.as_ref().map(Tensor::detach) },
        draw,
        options: LossOptions { detach_attention: tracked.is_none(), kl: false, ..*options },
        wants_gradients: logits.track_op() || tracked.is_some(),
        gradients: OnceLock::new(),
    };
    let logits = if logits.rank() == 2 { &logits.unsqueeze(1)? } else { logits };
    apply(op, logits, tracked)
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
    draw: OwnedDraw,
    options: LossOptions,
    wants_gradients: bool,
    /// dS, in f32 for logits of 16 bits, and da.
    gradients: OnceLock<TensorGradients>,
}

impl LossOp {
    fn compute<B: Backend, T: Float>(
        &self,
        backend: &B,
        columns: &Columns<'_, B::Memory>,
        input: &LossInput<'_, T, B::Memory>,
    ) -> Result<B::Storage> {
        let want = if self.wants_gradients { Want::GradientsInF32(1.0) } else { Want::Loss };
        let loss = backend.engine()?.loss(columns, input, &self.options, want)?;
        let [b, r, c] = input.logits.shape();
        let in_type = loss.logits.map(|logits| backend.tensor(logits, (b, r, c)));
        let in_f32 = loss.logits_f32.map(|logits| backend.tensor(logits, (b, r, c)));
        if let Some(logits) = in_type.or(in_f32) {
            let attention = loss.attention.map(|attention| backend.tensor(attention, (b, r)));
            // A custom op runs forward once; a second run would find the same gradients.
            self.gradients.get_or_init(|| (logits, attention));
        }
        Ok(backend.keep_number(loss.value))
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
        let targets = Borrowed::new(OP, TARGETS.name, self.targets.tensor());
        let constant = self.attention.as_ref().map(|tensor| Borrowed::new(OP, ATTENTION.name, tensor));
        let attention = match &constant {
            Some(constant) => Some(constant.view::<B, f32, 2>()?),
            None => attention.map(B::view).transpose()?,
        };
        let targets = match &self.targets {
            OwnedTargets::Labels(_) => Targets::Labels(targets.labels::<B>()?),
            OwnedTargets::Soft(_) => Targets::Soft(targets.view::<B, f32, 2>()?),
        };
        let weights = self.draw.borrow(OP);
        let columns = self.draw.columns::<B>(&weights)?;
        let input = LossInput { logits: B::view::<T, 3>(logits)?, targets, attention };
        Ok((self.compute(backend, &columns, &input)?, Shape::from(())))
    }

    fn backward<B: Backend, T: Float>(&self, _backend: &B, given: &Given<'_>) -> Result<TensorGradients> {
        let Some((logits, attention)) = self.gradients.get() else { bail!("{OP}: backward without forward") };
        let scaled = |gradient| scaled(gradient, given.upstream);
        let attention = attention.as_ref().filter(|_| given.second.is_some());
        Ok((scaled(logits)?.to_dtype(given.first.dtype())?, attention.map(scaled).transpose()?))
    }
}

/// A gradient times the one from upstream. In f32, unless there is nothing to do.
fn scaled(gradient: &Tensor, upstream: &Tensor) -> Result<Tensor> {
    // Nothing waits for a value on a GPU.
    if upstream.device().is_cpu() && upstream.to_scalar::<f32>()? == 1.0 {
        return Ok(gradient.clone());
    }
    gradient.broadcast_mul(upstream)
}
