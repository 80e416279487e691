//! Mixed features and targets, for classifiers that do not commute with mixing.

use candle_core::{DType, Device, Result, Shape, Tensor, bail};

use super::backend::Backend;
use super::bridge::{self, ATTENTION, Argument, Borrowed, FEATURES, Float, Operand, TARGETS};
use super::draw::{Draw, OwnedDraw};
use super::op::{Differentiable, Given, TensorGradients, apply, with_backend};
use crate::memory::zeros;
use crate::op::{Engine, MixInput, MixedGradients, WeightsInput};
use crate::problem::{at_least_one, check_label, expect_shape};

const OP: &str = "mix";

/// Z̃ (n, r, d) of features Z (b, r, d), equation (7), in the features' type.
///
/// `attention` a (b, r), not negative; none for M̂ = Λ. A map of zeros becomes uniform or leaves its example
/// out: [`Mixing::empty_maps`](crate::Mixing::empty_maps). `draw`: a [`Mixing`](crate::Mixing) or a tensor of
/// explicit weights. Gradients flow to the features and to the attention, not to explicit weights; detach the
/// attention to keep it constant (at small α its gradient explodes: see
/// [`LossOptions::detach_attention`](crate::LossOptions::detach_attention)). Backward draws again what
/// forward drew.
///
/// # Errors
/// Whatever the engine refuses ([`crate::cpu::mix()`], and its like on CUDA), tensors on other devices, and
/// types other than f32, f16, bf16.
pub fn mix<'a>(features: &Tensor, attention: Option<&Tensor>, draw: impl Into<Draw<'a>>) -> Result<Tensor> {
    let draw = draw.into().to_owned(OP)?;
    let attention = attention.map(|attention| ATTENTION.to_f32(OP, attention)).transpose()?;
    apply(MixOp(draw), features, attention.as_ref())
}

/// Ỹ (n, r, c) in f32, equation (8): what [`mix`] does to features, done to targets with the same draws.
///
/// `targets`: class ids (b) below `classes` of u8, i32, u32 or i64, or rows (b, `classes`) of floats, to
/// which gradients flow. `positions` is r of the features mixed beside them.
///
/// # Errors
/// As [`mix`], and on the CPU for a label that is not below `classes`.
pub fn mix_targets<'a>(
    targets: &Tensor,
    classes: usize,
    positions: usize,
    attention: Option<&Tensor>,
    draw: impl Into<Draw<'a>>,
) -> Result<Tensor> {
    at_least_one(OP, "c", classes)?;
    let rows = match bridge::are_labels(targets) {
        true => one_hot(&bridge::labels(OP, targets)?, classes)?,
        false => TARGETS.to_f32(OP, targets)?,
    };
    let (b, columns) = rows.dims2()?;
    expect_shape(OP, TARGETS.name, [b, columns], [b, classes])?;
    mix(&rows.unsqueeze(1)?.broadcast_as((b, positions, classes))?, attention, draw)
}

/// Rows (b, c) of labels. A label of no class, which a GPU does not refuse, has a row of zeros.
fn one_hot(labels: &Tensor, classes: usize) -> Result<Tensor> {
    let Ok(columns) = i64::try_from(classes) else { bail!("{OP}: {classes} classes are more than 2^63 - 1") };
    if labels.dtype() == DType::I32 && !labels.device().is_cpu() {
        bail!("{OP}: labels has type I32, which candle does not convert on CUDA; give u8, u32 or i64")
    }
    let labels = labels.to_dtype(DType::I64)?;
    if labels.device().is_cpu() {
        let labels = labels.to_vec1::<i64>()?;
        let mut rows = zeros::<f32>(OP, "the rows of labels", &[labels.len(), classes])?;
        for (index, &label) in labels.iter().enumerate() {
            check_label(OP, index, label, classes)?;
            rows[index * classes + label as usize] = 1.0;
        }
        return Tensor::from_vec(rows, (labels.len(), classes), &Device::Cpu);
    }
    let columns = Tensor::arange(0, columns, labels.device())?;
    labels.unsqueeze(1)?.broadcast_eq(&columns.unsqueeze(0)?)?.to_dtype(DType::F32)
}

/// The mix matrix and the loss weights of its columns, in f32. Constants: no gradient flows through them.
#[derive(Clone, Debug)]
pub struct MixMatrix {
    /// Λ (r, b, n), or M̂ where attention is given; every column sums to 1.
    pub matrix: Tensor,
    /// s (r, n): Σ_i a_i λ_ik, by which [`Reduction::AttentionWeighted`](crate::Reduction) weighs losses; 1
    /// without attention.
    pub mass: Tensor,
}

/// What the ops draw for `b` examples at `r` positions, with attention (b, r) where it is given. It is drawn
/// on `device`, where attention and explicit weights have to be.
///
/// # Errors
/// Whatever the engine refuses ([`crate::cpu::weights()`], and its like on CUDA), and tensors on other
/// devices.
pub fn weights<'a>(
    b: usize,
    r: usize,
    attention: Option<&Tensor>,
    draw: impl Into<Draw<'a>>,
    device: &Device,
) -> Result<MixMatrix> {
    let draw = draw.into().to_owned("weights")?;
    let attention = attention.map(|attention| ATTENTION.to_f32("weights", attention)).transpose()?;
    with_backend!("weights", device, |backend| draw_weights(backend, [b, r], &draw, &attention))
}

fn draw_weights<B: Backend>(
    backend: &B,
    [b, r]: [usize; 2],
    draw: &OwnedDraw,
    attention: &Option<Tensor>,
) -> Result<MixMatrix> {
    let attention = attention.as_ref().map(|tensor| Borrowed::new("weights", ATTENTION.name, tensor));
    let attention = attention.as_ref().map(Borrowed::view::<B, f32, 2>).transpose()?;
    let (weights, n) = (draw.borrow("weights"), draw.n()?);
    let columns = draw.columns::<B>(&weights)?;
    let made = backend.engine()?.weights::<f32>(&columns, &WeightsInput { b, r, attention })?;
    Ok(MixMatrix { matrix: backend.tensor(made.matrix, (r, b, n)), mass: backend.tensor(made.mass, (r, n)) })
}

struct MixOp(OwnedDraw);

impl Differentiable for MixOp {
    const OP: &'static str = OP;
    const ARGUMENTS: [Argument; 2] = [FEATURES, ATTENTION];

    fn forward<B: Backend, T: Float>(
        &self,
        backend: &B,
        features: Operand<'_, B::Storage>,
        attention: Option<Operand<'_, B::Storage>>,
    ) -> Result<(B::Storage, Shape)> {
        let weights = self.0.borrow(OP);
        let columns = self.0.columns::<B>(&weights)?;
        let attention = attention.map(B::view).transpose()?;
        let input = MixInput { features: B::view::<T, 3>(features)?, targets: None, attention };
        let [_, r, d] = input.features.shape();
        let mixed = backend.engine()?.mix(&columns, &input)?;
        Ok((backend.keep(mixed.features), Shape::from((self.0.n()?, r, d))))
    }

    fn backward<B: Backend, T: Float>(&self, backend: &B, given: &Given<'_>) -> Result<TensorGradients> {
        let features = Borrowed::new(OP, FEATURES.name, given.first);
        let attention = given.second.map(|attention| Borrowed::new(OP, ATTENTION.name, attention));
        let attention = attention.as_ref().map(Borrowed::view::<B, f32, 2>).transpose()?;
        let upstream = Borrowed::new(OP, "the gradient", given.upstream);
        let gradients = MixedGradients { features: upstream.view::<B, T, 3>()?, targets: None };
        let weights = self.0.borrow(OP);
        let columns = self.0.columns::<B>(&weights)?;
        let input = MixInput { features: features.view::<B, T, 3>()?, targets: None, attention };
        // candle wants a gradient for every tracked argument, and has no use for the others.
        let tracked = given.second.filter(|attention| attention.track_op());
        let made = backend.engine()?.mix_backward(&columns, &input, &gradients, tracked.is_some())?;
        let for_attention = made.attention.zip(tracked);
        Ok((
            backend.tensor(made.features, given.first.shape()),
            for_attention.map(|(da, attention)| backend.tensor(da, attention.shape())),
        ))
    }
}
