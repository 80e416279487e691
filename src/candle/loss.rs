//! The loss on mixed logits and targets.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};
use half::{bf16, f16};

use super::bridge::{self, Float};
use super::draw::Draw;
use crate::cpu::{self, LossInput, Targets};
use crate::problem::{LossOptions, Mixing};
use crate::view::View;

const OP: &str = "loss";

/// The loss on mixtures of a mini-batch, from the logits of its unmixed features: a scalar f32 tensor, in nats.
///
/// - `logits` S (b, r, c), or (b, c) for r = 1: the linear classifier applied to each feature.
/// - `targets`: class ids (b) of u8, u32 or i64, or rows Y (b, c) of floats; constants.
/// - `attention` a (b, r), not negative; none for M̂ = Λ. Its gradient is computed where it is tracked and
///   [`LossOptions::detach_attention`] is false.
/// - `draw`: a [`Mixing`] or a tensor of explicit weights.
/// - `options`: all but [`LossOptions::kl`], since an op has one output.
///
/// The gradient of f16 logits is kept in f32 until it is multiplied by the gradient from upstream, so that loss scaling works.
///
/// # Errors
/// Whatever [`crate::cpu::loss_forward`] refuses, tensors on another device than the CPU, and types other than those named.
pub fn loss<'a>(
    logits: &Tensor,
    targets: &Tensor,
    attention: Option<&Tensor>,
    draw: impl Into<Draw<'a>>,
    options: &LossOptions,
) -> Result<Tensor> {
    bridge::expect_cpu(OP, "logits", logits)?;
    let (mixing, weights) = draw.into().resolve(OP)?;
    let attention = attention.map(|attention| bridge::to_f32(OP, "attention", attention)).transpose()?;
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
    match tracked {
        Some(attention) => logits.apply_op2(attention, op),
        None => logits.apply_op1(op),
    }
}

enum OwnedTargets {
    Labels(Vec<u32>),
    Soft(Tensor),
}

impl OwnedTargets {
    fn from_tensor(targets: &Tensor) -> Result<Self> {
        match targets.rank() {
            1 => Ok(Self::Labels(bridge::labels(OP, targets)?)),
            2 => Ok(Self::Soft(bridge::to_f32(OP, "targets", &targets.detach())?)),
            _ => {
                bail!("{OP}: targets have shape {:?}, but must be labels (b) or rows (b, c)", targets.dims())
            }
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
    gradients: OnceLock<Gradients>,
}

/// Of the loss, by what it is computed from.
struct Gradients {
    logits: Tensor,
    attention: Option<Tensor>,
}

impl LossOp {
    fn forward(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        attention: Option<View<'_, f32, 2>>,
    ) -> Result<(CpuStorage, Shape)> {
        let loss = match storage.dtype() {
            DType::F32 => self.compute(logits_view::<f32>(storage, layout)?, attention)?,
            DType::BF16 => self.compute(logits_view::<bf16>(storage, layout)?, attention)?,
            DType::F16 => {
                let logits = logits_view::<f16>(storage, layout)?;
                let widened = widen(&logits);
                self.compute(View::new(&widened, logits.shape())?, attention)?
            }
            other => bail!("{OP}: logits have type {other:?}, but must be f32, f16 or bf16"),
        };
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    fn compute<T: Float>(&self, logits: View<'_, T, 3>, attention: Option<View<'_, f32, 2>>) -> Result<f32> {
        bridge::with_optional_view(OP, "weights", self.weights.as_ref(), |weights| match &self.targets {
            OwnedTargets::Labels(labels) => {
                self.call(&LossInput { logits, targets: Targets::Labels(labels), attention, weights })
            }
            OwnedTargets::Soft(rows) => bridge::with_view(OP, "targets", rows, |rows| {
                self.call(&LossInput { logits, targets: Targets::Soft(rows), attention, weights })
            }),
        })
    }

    fn call<T: Float>(&self, input: &LossInput<'_, T>) -> Result<f32> {
        if !self.wants_gradients {
            return Ok(cpu::loss_forward(&self.mixing, input, &self.options)?.value);
        }
        let (loss, gradients) = cpu::loss_forward_backward(&self.mixing, input, &self.options)?;
        let [b, r, c] = input.logits.shape();
        let logits = Tensor::from_vec(gradients.logits, (b, r, c), &Device::Cpu)?;
        let attention =
            gradients.attention.map(|values| Tensor::from_vec(values, (b, r), &Device::Cpu)).transpose()?;
        // A custom op runs forward once; a second run would find the same gradients.
        self.gradients.get_or_init(|| Gradients { logits, attention });
        Ok(loss.value)
    }

    fn gradients(&self) -> Result<&Gradients> {
        match self.gradients.get() {
            Some(gradients) => Ok(gradients),
            None => bail!("{OP}: backward without forward"),
        }
    }
}

/// The gradient for `argument`: the one kept times the one from upstream.
fn scaled(gradient: &Tensor, upstream: &Tensor, argument: &Tensor) -> Result<Tensor> {
    let upstream = bridge::scalar(upstream)?;
    let gradient = match upstream {
        1.0 => gradient.clone(),
        _ => (gradient.to_dtype(DType::F32)? * f64::from(upstream))?,
    };
    gradient.to_dtype(argument.dtype())?.reshape(argument.shape())
}

/// Logits (b, r, c), or (b, c) seen as (b, 1, c).
fn logits_view<'a, T: Float>(storage: &'a CpuStorage, layout: &Layout) -> Result<View<'a, T, 3>> {
    let (dims, strides) = (layout.dims(), layout.stride());
    let (&[b, c], &[between_examples, between_classes]) = (dims, strides) else {
        return bridge::view(OP, "logits", storage, layout);
    };
    let values = &storage.as_slice::<T>()?[layout.start_offset()..];
    Ok(View::with_strides(values, [b, 1, c], [between_examples, 0, between_classes])?)
}

fn widen<T: Float>(values: &View<'_, T, 3>) -> Vec<f32> {
    let [b, r, c] = values.shape();
    let index = |place: usize| [place / (r * c), place / c % r, place % c];
    (0..b * r * c).map(|place| crate::Element::to_f32(values.get(index(place)))).collect()
}

impl CustomOp1 for LossOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        bridge::with_optional_view(OP, "attention", self.attention.as_ref(), |attention| {
            self.forward(logits, layout, attention)
        })
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(scaled(&self.gradients()?.logits, upstream, logits)?))
    }
}

impl CustomOp2 for LossOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        attention: &CpuStorage,
        attention_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let attention = bridge::view(OP, "attention", attention, attention_layout)?;
        self.forward(logits, logits_layout, Some(attention))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        attention: &Tensor,
        _loss: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradients = self.gradients()?;
        let for_attention = match &gradients.attention {
            Some(gradient) => Some(scaled(gradient, upstream, attention)?),
            None => None,
        };
        Ok((Some(scaled(&gradients.logits, upstream, logits)?), for_attention))
    }
}
