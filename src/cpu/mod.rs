//! The CPU engine: f32, threads and SIMD, the same algorithms as the CUDA kernels.
//!
//! Works on strided [`View`]s of f32, f16 or bf16; arithmetic and sums are in f32. Runs on the threads of the current rayon
//! pool; results have the same bits for any number of threads. Nothing of size n is kept: columns are drawn, normalised, used and
//! forgotten a tile at a time. Each op comes as an allocating call and as an `_into` call on the caller's outputs and workspace,
//! whose size a `_workspace_bytes` function tells.
//!
//! | op | forward | backward |
//! |---|---|---|
//! | Λ or M̂ | [`weights`] | |
//! | attention from features | [`attention_forward`] | [`attention_backward`] |
//! | mixed features and targets, equations (7), (8) | [`mix_forward`] | [`mix_backward`] |
//! | the loss on mixed logits and targets | [`loss_forward`] | [`loss_backward`], [`loss_forward_backward`] |
//!
//! # Special values
//!
//! - **A logit of −∞ masks a class**: its probability is 0 in every mixture in which the example has weight, and a target on it makes the
//!   loss infinite. An example of weight 0 masks nothing. A position whose loss is infinite gives attention no gradient, and masked
//!   classes take no part in it.
//! - **An attention map of zeros** becomes 1/r everywhere, or leaves its example out: [`Mixing::empty_maps`](crate::Mixing::empty_maps)
//!   says which. It gets no gradient either way. A column whose examples all have attention 0 mixes by Λ alone and has loss weight 0.
//! - **Finite values give no NaN**, however large or small. Mixed features never pass the largest feature; scores, sums and
//!   losses are taken on scales that f32 holds, and a result past its range is infinite. Soft targets of the loss sum to at most 1e6
//!   for each example.
//! - NaN, and infinite features or a logit of +∞, make every mixture NaN that they go into, with all that is computed from it.

mod attention;
mod attention_scale;
mod attention_sums;
mod loss;
mod matmul;
mod mix;
mod pack;
mod slab;
mod weights;
mod workers;

pub use attention::{
    AttentionGradients, AttentionInput, Classifier, attention_backward, attention_backward_into,
    attention_forward, attention_forward_into, attention_workspace_bytes,
};

pub use loss::{
    Loss, LossGradients, LossOutputs, loss_backward, loss_forward, loss_forward_backward, loss_into,
    loss_workspace_bytes,
};
pub use mix::{
    MixBackwardOutputs, MixGradients, MixInput, MixOutputs, MixTargets, Mixed, MixedGradients, mix_backward,
    mix_backward_into, mix_backward_workspace_bytes, mix_forward, mix_forward_into,
    mix_forward_workspace_bytes,
};
pub use weights::{MixMatrix, WeightsInput, weights, weights_into, weights_workspace_bytes};

use crate::error::{Error, Result};
use crate::problem::{self, expect_shape};
use crate::view::View;

/// What the examples are labelled with.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// One class for each example, (b), each below c.
    Labels(&'a [u32]),
    /// One row over the classes for each example, Y (b, c); finite, not negative. The loss takes rows that sum to at most 1e6.
    Soft(View<'a, f32, 2>),
}

impl Targets<'_> {
    pub(crate) fn validate(&self, op: &'static str, b: usize, c: usize) -> Result<()> {
        match self {
            Targets::Labels(labels) => {
                expect_shape(op, "labels", [labels.len()], [b])?;
                labels.iter().enumerate().try_for_each(|(i, &y)| problem::check_label(op, i, y.into(), c))
            }
            Targets::Soft(rows) => {
                expect_shape(op, "targets", rows.shape(), [b, c])?;
                check_all(op, "targets", rows)
            }
        }
    }
}

/// What the loss reads.
#[derive(Clone, Copy, Debug)]
pub struct LossInput<'a, T> {
    /// S (b, r, c): the classifier applied to each unmixed feature. −∞ masks a class.
    pub logits: View<'a, T, 3>,
    /// Labels or soft targets.
    pub targets: Targets<'a>,
    /// a (b, r), not negative; or none for M̂ = Λ. A map of zeros: [`crate::Mixing::empty_maps`].
    pub attention: Option<View<'a, f32, 2>>,
    /// Λ (r, b, n) or (1, b, n) for [`crate::Generator::Explicit`], not negative; columns are normalised. No
    /// gradient.
    pub weights: Option<View<'a, f32, 3>>,
}

fn check_attention_shape(op: &'static str, given: [usize; 2], b: usize, r: usize) -> Result<()> {
    expect_shape(op, "attention", given, [b, r])
}

pub(crate) fn check_attention(
    op: &'static str,
    attention: Option<&View<'_, f32, 2>>,
    b: usize,
    r: usize,
) -> Result<()> {
    let Some(attention) = attention else { return Ok(()) };
    check_attention_shape(op, attention.shape(), b, r)?;
    check_all(op, "attention", attention)
}

/// Explicit weights: values, and no column without any.
pub(crate) fn check_weights(op: &'static str, weights: Option<&View<'_, f32, 3>>) -> Result<()> {
    let Some(weights) = weights else { return Ok(()) };
    let [r, b, n] = weights.shape();
    for j in 0..r {
        for i in 0..b {
            for k in 0..n {
                let value = weights.get([j, i, k]);
                problem::check_non_negative(op, value, || format!("weights[{j}, {i}, {k}]"))?;
            }
        }
        if let Some(k) = (0..n).find(|&k| (0..b).all(|i| weights.get([j, i, k]) == 0.0)) {
            let rule = "a column with a positive sum";
            return Err(Error::Value {
                op,
                name: format!("weights[{j}, :, {k}]"),
                given: "all zero".into(),
                rule,
            });
        }
    }
    Ok(())
}

/// Every value finite and not negative.
fn check_all(op: &'static str, name: &'static str, values: &View<'_, f32, 2>) -> Result<()> {
    let [rows, columns] = values.shape();
    for row in 0..rows {
        for column in 0..columns {
            problem::check_non_negative(op, values.get([row, column]), || {
                format!("{name}[{row}, {column}]")
            })?;
        }
    }
    Ok(())
}

/// A vector of zeros, or an error where memory does not suffice. Fresh pages are left for whoever writes them first.
pub(crate) fn zeros<T: bytemuck::Zeroable>(
    op: &'static str,
    name: &'static str,
    shape: &[usize],
) -> Result<Vec<T>> {
    let product =
        |first, sizes: &[usize]| sizes.iter().try_fold(first, |x: usize, &size| x.checked_mul(size));
    let bytes = product(size_of::<T>(), shape);
    let (Some(count), Some(bytes)) = (product(1, shape), bytes) else {
        return Err(Error::TooLarge { op, name, sizes: shape.to_vec() });
    };
    bytemuck::try_zeroed_vec(count).map_err(|()| Error::Memory { op, name, bytes })
}

/// A workspace of so many bytes, or an error where memory does not suffice.
pub(crate) fn zeros_bytes(op: &'static str, bytes: usize) -> Result<Vec<u8>> {
    bytemuck::try_zeroed_vec(bytes).map_err(|()| Error::Memory { op, name: "the workspace", bytes })
}
