//! Mixing, equations (7) and (8), and its gradients.

use super::{MixMatrix, Sizes, Targets, check, mix_matrix, mix_matrix_backward, times};
use crate::error::Result;

/// Equation (7), Z̃ = Z M̂: Z̃_k = Σ_i M̂_ik Z_i at each position. With r = 1 and M̂ = Λ, equation (3).
///
/// `features` Z (b, r, d), `matrix` M̂ (r, b, n). Gives Z̃ (n, r, d). Logits mix the same way, with c for d:
/// the columns of M̂ sum to 1, so a linear classifier may come before mixing or after, bias included. An
/// example of weight 0 adds nothing, whatever its features.
///
/// # Errors
/// A size of 0 or another length.
///
/// ```
/// use multimix::reference::{Sizes, mix_features};
/// let sizes = Sizes { b: 2, d: 3, n: 1, ..Sizes::default() };
/// let mixed = mix_features(&sizes, &[4.0, 8.0, 0.0, /* second */ 0.0, 4.0, 4.0], &[0.75, 0.25])?;
/// assert_eq!(mixed, [3.0, 7.0, 1.0]);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn mix_features(sizes: &Sizes, features: &[f64], matrix: &[f64]) -> Result<Vec<f64>> {
    let op = "reference::mix_features";
    let Sizes { b, r, d, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::length(op, "features", features, &[b, r, d])?;
    check::length(op, "matrix", matrix, &[r, b, n])?;
    let mut mixed = check::zeros(op, "mixed features", &[n, r, d])?;
    for j in 0..r {
        for k in 0..n {
            for i in 0..b {
                let m = matrix[sizes.weight(j, i, k)];
                for ch in 0..d {
                    mixed[sizes.mixed_feature(k, j, ch)] += times(m, features[sizes.feature(i, j, ch)]);
                }
            }
        }
    }
    Ok(mixed)
}

/// Equation (8), Ỹ = Y M̂: Ỹ_k = Σ_i M̂_ik Y_i at each position. With r = 1 and M̂ = Λ, equation (4).
///
/// `targets` Y, labels (b) or rows (b, c), the same at all positions; `matrix` M̂ (r, b, n). Gives Ỹ (n, r,
/// c).
///
/// # Errors
/// A size of 0, another length, a label that is not below c, a soft target that is negative or not finite.
pub fn mix_targets(sizes: &Sizes, targets: Targets<'_>, matrix: &[f64]) -> Result<Vec<f64>> {
    let op = "reference::mix_targets";
    let Sizes { b, r, c, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::targets(op, sizes, targets)?;
    check::length(op, "matrix", matrix, &[r, b, n])?;
    let mut mixed = check::zeros(op, "mixed targets", &[n, r, c])?;
    for j in 0..r {
        for k in 0..n {
            for i in 0..b {
                let m = matrix[sizes.weight(j, i, k)];
                for class in 0..c {
                    mixed[sizes.mixed_logit(k, j, class)] += m * targets.value(sizes, i, class);
                }
            }
        }
    }
    Ok(mixed)
}

/// Backward of equation (7): dZ = dZ̃ M̂ᵀ and dM̂ = Zᵀ dZ̃ at each position.
///
/// `d_mixed` dZ̃ (n, r, d). Gives dZ (b, r, d) and dM̂ (r, b, n).
///
/// # Errors
/// A size of 0 or another length.
pub fn mix_features_backward(
    sizes: &Sizes,
    features: &[f64],
    matrix: &[f64],
    d_mixed: &[f64],
) -> Result<(Vec<f64>, Vec<f64>)> {
    let op = "reference::mix_features_backward";
    let Sizes { b, r, d, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::length(op, "features", features, &[b, r, d])?;
    check::length(op, "matrix", matrix, &[r, b, n])?;
    check::length(op, "d_mixed", d_mixed, &[n, r, d])?;
    let mut d_features = check::zeros(op, "d_features", &[b, r, d])?;
    let mut d_matrix = check::zeros(op, "d_matrix", &[r, b, n])?;
    for j in 0..r {
        for k in 0..n {
            for i in 0..b {
                let m = sizes.weight(j, i, k);
                for ch in 0..d {
                    let (at, mixed) = (sizes.feature(i, j, ch), sizes.mixed_feature(k, j, ch));
                    d_features[at] += d_mixed[mixed] * matrix[m];
                    d_matrix[m] += features[at] * d_mixed[mixed];
                }
            }
        }
    }
    Ok((d_features, d_matrix))
}

/// Backward of equation (8): dY = Σ_j dỸ^j M̂^jᵀ and dM̂ = Yᵀ dỸ at each position.
///
/// `d_mixed` dỸ (n, r, c). Gives dY (b, c), summed over positions, and dM̂ (r, b, n).
///
/// # Errors
/// As [`mix_targets`].
pub fn mix_targets_backward(
    sizes: &Sizes,
    targets: Targets<'_>,
    matrix: &[f64],
    d_mixed: &[f64],
) -> Result<(Vec<f64>, Vec<f64>)> {
    let op = "reference::mix_targets_backward";
    let Sizes { b, r, c, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::targets(op, sizes, targets)?;
    check::length(op, "matrix", matrix, &[r, b, n])?;
    check::length(op, "d_mixed", d_mixed, &[n, r, c])?;
    let mut d_targets = check::zeros(op, "d_targets", &[b, c])?;
    let mut d_matrix = check::zeros(op, "d_matrix", &[r, b, n])?;
    for j in 0..r {
        for k in 0..n {
            for i in 0..b {
                let m = sizes.weight(j, i, k);
                for class in 0..c {
                    let d = d_mixed[sizes.mixed_logit(k, j, class)];
                    d_targets[sizes.target(i, class)] += d * matrix[m];
                    d_matrix[m] += targets.value(sizes, i, class) * d;
                }
            }
        }
    }
    Ok((d_targets, d_matrix))
}

/// What [`mix()`] and [`mix_backward`] take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixInputs<'a> {
    /// Z (b, r, d).
    pub features: &'a [f64],
    /// Y, labels (b) or rows (b, c).
    pub targets: Targets<'a>,
    /// Λ (r, b, n), columns that sum to 1.
    pub weights: &'a [f64],
    /// a (b, r), or none for M̂ = Λ.
    pub attention: Option<&'a [f64]>,
}

/// What [`mix()`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    /// Z̃ (n, r, d).
    pub features: Vec<f64>,
    /// Ỹ (n, r, c).
    pub targets: Vec<f64>,
    /// M̂ and s.
    pub mix: MixMatrix,
}

/// Dense MultiMix in full: equations (5) to (8).
///
/// # Errors
/// As [`mix_matrix`], [`mix_features`] and [`mix_targets`].
///
/// ```
/// use multimix::reference::{MixInputs, Sizes, Targets, mix};
/// let sizes = Sizes { b: 2, c: 3, ..Sizes::default() };
/// let mixed = mix(
///     &sizes,
///     &MixInputs {
///         features: &[8.0, 4.0],
///         targets: Targets::Labels(&[2, 0]),
///         weights: &[0.5, 0.5],
///         attention: Some(&[3.0, 1.0]),
///     },
/// )?;
/// assert_eq!(mixed.features, [7.0]);
/// assert_eq!(mixed.targets, [0.25, 0.0, 0.75]);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn mix(sizes: &Sizes, inputs: &MixInputs<'_>) -> Result<Mixed> {
    let mix = mix_matrix(sizes, inputs.weights, inputs.attention)?;
    Ok(Mixed {
        features: mix_features(sizes, inputs.features, &mix.matrix)?,
        targets: mix_targets(sizes, inputs.targets, &mix.matrix)?,
        mix,
    })
}

/// What [`mix_backward`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct MixGradient {
    /// dZ (b, r, d).
    pub features: Vec<f64>,
    /// dY (b, c); with labels, the gradient of their one-hot rows.
    pub targets: Vec<f64>,
    /// da (b, r), where attention was given; zero for an all-zero map, which was replaced.
    pub attention: Option<Vec<f64>>,
    /// dΛ (r, b, n), each weight on its own.
    pub weights: Vec<f64>,
}

/// Backward of [`mix()`] from dZ̃ (n, r, d) and, where the mixed targets are used, dỸ (n, r, c).
///
/// dZ = dZ̃ M̂ᵀ, dY = dỸ M̂ᵀ, dM̂ = Zᵀ dZ̃ + Yᵀ dỸ, and from there as [`mix_matrix_backward`].
///
/// # Errors
/// As [`mix()`], and gradients of another length.
pub fn mix_backward(
    sizes: &Sizes,
    inputs: &MixInputs<'_>,
    d_features: &[f64],
    d_targets: Option<&[f64]>,
) -> Result<MixGradient> {
    let op = "reference::mix_backward";
    let mix = mix_matrix(sizes, inputs.weights, inputs.attention)?;
    check::targets(op, sizes, inputs.targets)?;
    let (features, mut d_matrix) = mix_features_backward(sizes, inputs.features, &mix.matrix, d_features)?;
    let targets = match d_targets {
        None => check::zeros(op, "d_targets", &[sizes.b, sizes.c])?,
        Some(d_targets) => {
            let (targets, through_targets) =
                mix_targets_backward(sizes, inputs.targets, &mix.matrix, d_targets)?;
            for (sum, term) in d_matrix.iter_mut().zip(through_targets) {
                *sum += term;
            }
            targets
        }
    };
    let through = mix_matrix_backward(sizes, inputs.weights, inputs.attention, &d_matrix, None)?;
    Ok(MixGradient { features, targets, attention: through.attention, weights: through.weights })
}
