//! Mixed features and targets, for classifiers that do not commute with mixing.

use candle_core::{DType, Device, Result, Shape, Tensor, bail};

use super::backend::{Backend, Columns};
use super::bridge::{self, ATTENTION, Argument, Borrowed, FEATURES, Float, Operand, TARGETS};
use super::draw::Draw;
use super::op::{Differentiable, Given, TensorGradients, apply, with_backend};
use crate::cpu;
use crate::problem::{Mixing, at_least_one, check_label, expect_shape};

const OP: &str = "mix";

/// Z̃ (n, r, d) of features Z (b, r, d), equation (7), in the features' type.
///
/// `attention` a (b, r), not negative; none for M̂ = Λ. A map of zeros becomes uniform or leaves its example out:
/// [`Mixing::empty_maps`]. `draw`: a [`Mixing`] or a tensor of explicit weights.
/// Gradients flow to the features and to the attention, not to explicit weights; detach the attention to keep
/// it constant (at small α its gradient explodes: see
/// [`LossOptions::detach_attention`](crate::LossOptions::detach_attention)). Backward draws again what
/// forward drew.
///
/// # Errors
/// Whatever the engine refuses ([`crate::cpu::mix_forward`], and its like on CUDA), tensors on other devices, and types other
/// than f32, f16, bf16.
pub fn mix<'a>(features: &Tensor, attention: Option<&Tensor>, draw: impl Into<Draw<'a>>) -> Result<Tensor> {
    let (mixing, weights) = draw.into().resolve(OP)?;
    let attention = attention.map(|attention| ATTENTION.to_f32(OP, attention)).transpose()?;
    apply(MixOp { mixing, weights }, features, attention.as_ref())
}

/// Ỹ (n, r, c) in f32, equation (8): what [`mix`] does to features, done to targets with the same draws.
///
/// `targets`: class ids (b) below `classes` of u8, u32 or i64, or rows (b, `classes`) of floats, to which gradients flow.
/// `positions` is r of the features mixed beside them.
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

/// Rows (b, c) of labels in u32. A label of no class, which a GPU does not refuse, gives a row of zeros.
fn one_hot(labels: &Tensor, classes: usize) -> Result<Tensor> {
    if labels.device().is_cpu() {
        let labels = labels.to_vec1::<u32>()?;
        let mut rows = cpu::zeros::<f32>(OP, "the rows of labels", &[labels.len(), classes])?;
        for (index, &label) in labels.iter().enumerate() {
            check_label(OP, index, label.into(), classes)?;
            rows[index * classes + label as usize] = 1.0;
        }
        return Tensor::from_vec(rows, (labels.len(), classes), &Device::Cpu);
    }
    let Ok(columns) = u32::try_from(classes) else { bail!("{OP}: {classes} classes are more than 2^32 - 1") };
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
/// Whatever the engine refuses ([`crate::cpu::weights`], and its like on CUDA), and tensors on other devices.
pub fn weights<'a>(
    b: usize,
    r: usize,
    attention: Option<&Tensor>,
    draw: impl Into<Draw<'a>>,
    device: &Device,
) -> Result<MixMatrix> {
    let op = "weights";
    let (mixing, weights) = draw.into().resolve(op)?;
    let attention = attention.map(|attention| ATTENTION.to_f32(op, attention)).transpose()?;
    with_backend!(op, device, |backend| draw_weights(backend, [b, r], &mixing, &attention, &weights))
}

fn draw_weights<B: Backend>(
    backend: &B,
    [b, r]: [usize; 2],
    mixing: &Mixing,
    attention: &Option<Tensor>,
    weights: &Option<Tensor>,
) -> Result<MixMatrix> {
    let attention = attention.as_ref().map(|attention| Borrowed::new("weights", "attention", attention));
    let weights = weights.as_ref().map(|weights| Borrowed::new("weights", "weights", weights));
    let columns = Columns {
        mixing,
        attention: attention.as_ref().map(Borrowed::operand::<B>).transpose()?,
        weights: weights.as_ref().map(Borrowed::operand::<B>).transpose()?,
    };
    let (matrix, mass) = backend.weights(&columns, b, r)?;
    Ok(MixMatrix { matrix: B::tensor(matrix, (r, b, mixing.n)), mass: B::tensor(mass, (r, mixing.n)) })
}

struct MixOp {
    mixing: Mixing,
    weights: Option<Tensor>,
}

impl MixOp {
    fn weights(&self) -> Option<Borrowed<'_>> {
        self.weights.as_ref().map(|weights| Borrowed::new(OP, "weights", weights))
    }
}

impl Differentiable for MixOp {
    const OP: &'static str = OP;
    const ARGUMENTS: [Argument; 2] = [FEATURES, ATTENTION];

    fn forward<B: Backend, T: Float>(
        &self,
        backend: &B,
        features: Operand<'_, B::Storage>,
        attention: Option<Operand<'_, B::Storage>>,
    ) -> Result<(B::Storage, Shape)> {
        let weights = self.weights();
        let weights = weights.as_ref().map(Borrowed::operand::<B>).transpose()?;
        let columns = Columns { mixing: &self.mixing, attention, weights };
        let mixed = backend.mix::<T>(&columns, features)?;
        let (_, r, d) = features.layout.shape().dims3()?;
        Ok((mixed, Shape::from((self.mixing.n, r, d))))
    }

    fn backward<B: Backend, T: Float>(&self, backend: &B, given: &Given<'_>) -> Result<TensorGradients> {
        let features = Borrowed::new(OP, "features", given.first);
        let attention = given.second.map(|attention| Borrowed::new(OP, "attention", attention));
        let upstream = Borrowed::new(OP, "the gradient", given.upstream);
        let weights = self.weights();
        let columns = Columns {
            mixing: &self.mixing,
            attention: attention.as_ref().map(Borrowed::operand::<B>).transpose()?,
            weights: weights.as_ref().map(Borrowed::operand::<B>).transpose()?,
        };
        // candle wants a gradient for every tracked argument, and has no use for the others.
        let tracked = given.second.filter(|attention| attention.track_op());
        let (features, upstream) = (features.operand::<B>()?, upstream.operand::<B>()?);
        let (for_features, for_attention) =
            backend.mix_backward::<T>(&columns, features, upstream, tracked.is_some())?;
        let for_attention =
            for_attention.zip(tracked).map(|(da, attention)| B::tensor(da, attention.shape()));
        Ok((B::tensor(for_features, given.first.shape()), for_attention))
    }
}
