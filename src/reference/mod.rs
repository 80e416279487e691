//! The method in f64, equation by equation: the oracle that every engine is tested against.
//!
//! Plain loops over contiguous slices, one function per equation of the poster, nothing fused, nothing
//! clever: to be read with the poster in the other hand, and to be tested against. Random numbers are not
//! drawn here; raw weights, or a factor λ and a permutation, come in as arguments.
//!
//! | equation | function |
//! |---|---|
//! | (1)(2) Λ = λI + (1 − λ)Π | [`pair_weights`], [`pair_weights_from`] |
//! | (3)(4) columns of Λ sum to 1 | [`normalise_weights`] |
//! | a = h(uᵀz), u by GAP or CAM, h by ReLU + l1 or softmax | [`attention()`], [`attention_backward`] |
//! | an all-zero attention map is uniform | [`settle_attention`] |
//! | (5) M = diag(a) Λ | [`reweight`] |
//! | (6) M̂ = M diag(1ᵀM)⁻¹, with s = 1ᵀM | [`mix_matrix`], [`mix_matrix_backward`] |
//! | (7) Z̃ = Z M̂ | [`mix_features`], [`mix_features_backward`] |
//! | (8) Ỹ = Y M̂ | [`mix_targets`], [`mix_targets_backward`] |
//! | (7) and (8) with all their gradients | [`mix()`], [`mix_backward`] |
//! | CE_k = −Σ_c Ỹ_ck log softmax(S̃_k)_c | [`cross_entropy`] |
//! | H(Ỹ_k) | [`entropy`] |
//! | q_k, the share of mixture k in the loss | [`shares`] |
//! | L = Σ q_k CE_k | [`loss()`], [`loss_backward`] |
//!
//! # Memory order
//! Arrays are flat, row-major, without gaps; the functions of [`Sizes`] index them.
//!
//! | array | order |
//! |---|---|
//! | features Z, logits S | (b, r, d), (b, r, c) |
//! | soft targets Y | (b, c) |
//! | attention a | (b, r) |
//! | weights Λ, M, mix matrix M̂ | (r, b, n) |
//! | mass s, and all that is per mixture (CE, H, log-sum-exp, share q) | (r, n) |
//! | mixed features Z̃, targets Ỹ, logits S̃ | (n, r, d), (n, r, c) |
//!
//! # Example
//! Dense MultiMix on two examples at one position, attention on the first three times that on the second.
//!
//! ```
//! use multimix::LossOptions;
//! use multimix::reference::{self, LossInputs, Sizes, Targets};
//!
//! let sizes = Sizes { b: 2, r: 1, d: 1, c: 2, n: 3 };
//! let gammas = [1.0, 0.5, 2.0, /* second example */ 1.0, 1.5, 0.0];
//! let weights = reference::normalise_weights(&sizes, &gammas)?;
//! let inputs = LossInputs {
//!     logits: &[2.0, 0.0, /* second example */ 0.0, 2.0],
//!     targets: Targets::Labels(&[0, 1]),
//!     weights: &weights,
//!     attention: Some(&[0.75, 0.25]),
//! };
//! let loss = reference::loss(&sizes, &inputs, LossOptions::default())?;
//! assert_eq!(loss.mix.matrix, [0.75, 0.5, 1.0, 0.25, 0.5, 0.0]); // M̂
//! assert_eq!(loss.mix.mass, [0.5, 0.375, 0.75]); // s
//! assert!(loss.kl >= 0.0 && loss.kl <= loss.value);
//!
//! let gradient = reference::loss_backward(&sizes, &inputs, LossOptions::default(), 1.0)?;
//! assert_eq!(gradient.logits.len(), 4);
//! assert!(gradient.attention.is_none()); // detached by default
//! # Ok::<(), multimix::Error>(())
//! ```

// Loops run over indices as the equations do.
#![allow(clippy::needless_range_loop)]

mod attention;
mod check;
mod loss;
mod mix;
mod weights;

pub use attention::{Attention, AttentionGradient, Classifier, attention, attention_backward};
pub use loss::{
    CrossEntropy, Loss, LossGradient, LossInputs, cross_entropy, entropy, loss, loss_backward, shares,
};
pub use mix::{
    MixGradient, MixInputs, Mixed, mix, mix_backward, mix_features, mix_features_backward, mix_targets,
    mix_targets_backward,
};
pub use weights::{
    MixMatrix, MixMatrixGradient, broadcast_weights, mix_matrix, mix_matrix_backward, normalise_weights,
    pair_weights, pair_weights_from, reweight, settle_attention,
};

/// The sizes of a problem. A function looks only at those that its arguments have; the default is 1 for each.
///
/// ```
/// use multimix::reference::Sizes;
/// let sizes = Sizes { b: 128, n: 1000, ..Sizes::default() };
/// assert_eq!(sizes.r, 1);
/// assert_eq!(sizes.weight(0, 2, 5), 2005);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sizes {
    /// Examples in the mini-batch.
    pub b: usize,
    /// Spatial positions of an example.
    pub r: usize,
    /// Channels of a feature.
    pub d: usize,
    /// Classes.
    pub c: usize,
    /// Mixtures per position.
    pub n: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { b: 1, r: 1, d: 1, c: 1, n: 1 }
    }
}

/// Places in the arrays. For an index outside of the sizes they mean nothing; no index panics, arithmetic
/// wraps.
impl Sizes {
    /// Place of Z\[example i, position j, channel\] in (b, r, d).
    pub fn feature(&self, i: usize, j: usize, channel: usize) -> usize {
        within(within(i, self.r, j), self.d, channel)
    }

    /// Place of S\[example i, position j, class\] in (b, r, c).
    pub fn logit(&self, i: usize, j: usize, class: usize) -> usize {
        within(within(i, self.r, j), self.c, class)
    }

    /// Place of Y\[example i, class\] in (b, c).
    pub fn target(&self, i: usize, class: usize) -> usize {
        within(i, self.c, class)
    }

    /// Place of a\[example i, position j\] in (b, r).
    pub fn attention(&self, i: usize, j: usize) -> usize {
        within(i, self.r, j)
    }

    /// Place of Λ, M or M̂ \[position j, example i, column k\] in (r, b, n).
    pub fn weight(&self, j: usize, i: usize, k: usize) -> usize {
        within(within(j, self.b, i), self.n, k)
    }

    /// Place of what is per mixture, \[position j, column k\] in (r, n).
    pub fn mixture(&self, j: usize, k: usize) -> usize {
        within(j, self.n, k)
    }

    /// Place of Z̃\[column k, position j, channel\] in (n, r, d).
    pub fn mixed_feature(&self, k: usize, j: usize, channel: usize) -> usize {
        within(within(k, self.r, j), self.d, channel)
    }

    /// Place of S̃ or Ỹ \[column k, position j, class\] in (n, r, c).
    pub fn mixed_logit(&self, k: usize, j: usize, class: usize) -> usize {
        within(within(k, self.r, j), self.c, class)
    }
}

/// The place of index `inner` of an axis of this size, within index `outer` of all axes before it.
fn within(outer: usize, size: usize, inner: usize) -> usize {
    outer.wrapping_mul(size).wrapping_add(inner)
}

/// What the examples should be classified as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Targets<'a> {
    /// One class id per example, (b).
    Labels(&'a [usize]),
    /// Rows of class probabilities, (b, c): finite and not negative. They need not sum to 1: the loss is −Σ_c
    /// Ỹ_c log p_c whatever their sum.
    Soft(&'a [f64]),
}

/// w·x, and 0 for w = 0 whatever x is: what has no weight adds nothing, though it be a class masked by −∞.
fn times(w: f64, x: f64) -> f64 {
    if w == 0.0 { 0.0 } else { w * x }
}

impl Targets<'_> {
    /// Y\[i, class\]: the soft target, or 1 at the label and 0 elsewhere.
    fn value(&self, sizes: &Sizes, i: usize, class: usize) -> f64 {
        match self {
            Targets::Labels(labels) => f64::from(labels[i] == class),
            Targets::Soft(rows) => rows[sizes.target(i, class)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn arrays_that_memory_does_not_hold_are_not_too_large() {
        let sizes = Sizes { r: 1 << 48, b: 2, ..Sizes::default() };
        let error = pair_weights(&sizes, &[0.5], &[0]).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Memory { bytes, .. } if bytes == 1 << 52), "{error}");
    }

    #[test]
    fn places_of_any_index_wrap() {
        let sizes = Sizes { b: 3, r: 5, d: 7, c: 11, n: 13 };
        let far = usize::MAX;
        assert_eq!(sizes.weight(0, 0, 12), 12);
        assert_eq!(sizes.weight(far, 2, 13), 0); // (−1 · 3 + 2) · 13 + 13
        assert_eq!([sizes.target(far, 11), sizes.attention(far, 5), sizes.mixture(far, 13)], [0; 3]);
        assert_eq!([sizes.feature(far, 4, 7), sizes.logit(far, 4, 11)], [0; 2]);
        assert_eq!([sizes.mixed_feature(far, 4, 7), sizes.mixed_logit(far, 4, 11)], [0; 2]);
    }
}
