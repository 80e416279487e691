//! Weights: pair weights (1)(2), normalisation (3)(4), attention (5) and the mix matrix (6).

use super::{Sizes, check};
use crate::error::{Error, Result};

/// Λ_ik = g_ik / Σ_l g_lk: the columns of equation (3) from raw draws.
///
/// `raw` (r, b, n) holds gamma draws, g_ik ~ Gamma(α) making column k a draw of Dir(α), or any weights a
/// caller chooses. Gives Λ (r, b, n).
///
/// # Errors
/// A size of 0, another length, a value that is negative or not finite, or a column whose sum is 0 or not
/// finite.
///
/// ```
/// use multimix::reference::{Sizes, normalise_weights};
/// let sizes = Sizes { b: 2, n: 2, ..Sizes::default() };
/// assert_eq!(normalise_weights(&sizes, &[1.0, 3.0, 3.0, 0.0])?, [0.25, 1.0, 0.75, 0.0]);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn normalise_weights(sizes: &Sizes, raw: &[f64]) -> Result<Vec<f64>> {
    let op = "reference::normalise_weights";
    let Sizes { b, r, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::non_negative(op, "raw", raw, &[r, b, n])?;
    let mut weights = raw.to_vec();
    for j in 0..r {
        for k in 0..n {
            let sum: f64 = (0..b).map(|i| raw[sizes.weight(j, i, k)]).sum();
            if !(sum > 0.0 && sum.is_finite()) {
                let name = format!("the sum of column {k} at position {j}");
                return Err(Error::value(
                    op,
                    name,
                    sum,
                    "positive and finite, for the column to be normalised",
                ));
            }
            for i in 0..b {
                weights[sizes.weight(j, i, k)] /= sum;
            }
        }
    }
    Ok(weights)
}

/// Repeats weights (1, b, n) at every position: (r, b, n).
///
/// # Errors
/// A size of 0 or another length.
pub fn broadcast_weights(sizes: &Sizes, weights: &[f64]) -> Result<Vec<f64>> {
    let op = "reference::broadcast_weights";
    let Sizes { b, r, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::length(op, "weights", weights, &[1, b, n])?;
    let mut repeated = check::zeros(op, "weights", &[r, b, n])?;
    for j in 0..r {
        repeated[sizes.weight(j, 0, 0)..][..b * n].copy_from_slice(weights);
    }
    Ok(repeated)
}

/// Λ = λI + (1 − λ)Π of equations (1) and (2), for any number of columns.
///
/// Column k gives λ_k to example k mod b and 1 − λ_k to its partner: `factors` (n) holds λ_k in \[0, 1\],
/// `partners` (n) the example that column k is mixed with, which is where Π takes k mod b. The same at all
/// positions. Gives Λ (r, b, n).
///
/// # Errors
/// A size of 0, another length, a factor outside of \[0, 1\], or a partner that is not below b.
///
/// ```
/// use multimix::reference::{Sizes, pair_weights};
/// let sizes = Sizes { b: 3, n: 3, ..Sizes::default() };
/// let weights = pair_weights(&sizes, &[0.75; 3], &[1, 2, 0])?;
/// assert_eq!(weights, [0.75, 0.0, 0.25, 0.25, 0.75, 0.0, 0.0, 0.25, 0.75]);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn pair_weights(sizes: &Sizes, factors: &[f64], partners: &[usize]) -> Result<Vec<f64>> {
    pair_weights_from(sizes, 0, factors, partners)
}

/// [`pair_weights`] of a part of a larger call ([`crate::Mixing::first_column`]): column k is column k +
/// `first_column` there, and so gives λ_k to example (k + `first_column`) mod b.
///
/// # Errors
/// As [`pair_weights`].
///
/// ```
/// use multimix::reference::{Sizes, pair_weights_from};
/// let sizes = Sizes { b: 3, ..Sizes::default() };
/// assert_eq!(pair_weights_from(&sizes, 7, &[0.75], &[2])?, [0.0, 0.75, 0.25]);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn pair_weights_from(
    sizes: &Sizes,
    first_column: usize,
    factors: &[f64],
    partners: &[usize],
) -> Result<Vec<f64>> {
    let op = "reference::pair_weights";
    let Sizes { b, r, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::length(op, "factors", factors, &[n])?;
    check::length(op, "partners", partners, &[n])?;
    for k in 0..n {
        if !(0.0..=1.0).contains(&factors[k]) {
            let (name, given) = (format!("factors[{k}]"), factors[k].to_string());
            return Err(Error::value(op, name, given, "between 0 and 1"));
        }
        if partners[k] >= b {
            let (name, given) = (format!("partners[{k}]"), partners[k].to_string());
            return Err(Error::value(op, name, given, "below the number of examples"));
        }
    }
    let mut weights = check::zeros(op, "weights", &[r, b, n])?;
    for j in 0..r {
        for k in 0..n {
            // Remainders first: a sum might overflow.
            let own = (k % b + first_column % b) % b;
            weights[sizes.weight(j, own, k)] += factors[k];
            weights[sizes.weight(j, partners[k], k)] += 1.0 - factors[k];
        }
    }
    Ok(weights)
}

/// An all-zero attention map of an example becomes uniform, a_ij = 1/r; other maps stay as they are.
///
/// Takes and gives (b, r).
///
/// # Errors
/// A size of 0, another length, or a value that is negative or not finite.
pub fn settle_attention(sizes: &Sizes, attention: &[f64]) -> Result<Vec<f64>> {
    let op = "reference::settle_attention";
    check::sizes(op, sizes)?;
    check::non_negative(op, "attention", attention, &[sizes.b, sizes.r])?;
    let mut settled = attention.to_vec();
    for map in settled.chunks_exact_mut(sizes.r) {
        if is_zero(map) {
            map.fill(1.0 / sizes.r as f64);
        }
    }
    Ok(settled)
}

fn is_zero(map: &[f64]) -> bool {
    map.iter().all(|&a| a == 0.0)
}

/// Equation (5), M = diag(a) Λ: M_ik = a_i Λ_ik at each position.
///
/// `weights` Λ (r, b, n), `attention` (b, r); all-zero maps count as uniform ([`settle_attention`]). Gives M
/// (r, b, n). Values that f32 can hold are safe: f64 has room for the product of any two, with no loss to
/// subnormals.
///
/// # Errors
/// A size of 0, another length, or a value that is negative or not finite.
pub fn reweight(sizes: &Sizes, weights: &[f64], attention: &[f64]) -> Result<Vec<f64>> {
    let op = "reference::reweight";
    let Sizes { b, r, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::non_negative(op, "weights", weights, &[r, b, n])?;
    check::non_negative(op, "attention", attention, &[b, r])?;
    let settled = settle_attention(sizes, attention)?;
    let mut reweighted = weights.to_vec();
    for j in 0..r {
        for i in 0..b {
            for k in 0..n {
                reweighted[sizes.weight(j, i, k)] *= settled[sizes.attention(i, j)];
            }
        }
    }
    Ok(reweighted)
}

/// What equation (6) gives.
#[derive(Clone, Debug, PartialEq)]
pub struct MixMatrix {
    /// M̂ (r, b, n); every column sums to 1.
    pub matrix: Vec<f64>,
    /// s (r, n), the attention mass of each column, s_k = Σ_i a_i Λ_ik. Without attention: 1.
    pub mass: Vec<f64>,
}

/// Equation (6), M̂ = M diag(1ᵀM)⁻¹ with s = 1ᵀM: M̂_ik = a_i Λ_ik / s_k, s_k = Σ_i a_i Λ_ik at each
/// position.
///
/// `weights` Λ (r, b, n) with columns that sum to 1 ([`normalise_weights`], [`pair_weights`]), `attention`
/// (b, r). A column without mass mixes with the unweighted Λ and keeps s_k = 0. Without attention M̂ = Λ and
/// s = 1.
///
/// Scaling a^j, the attention of all examples at one position, leaves M̂ as it is (all-zero maps aside: they
/// count 1/r).
///
/// # Errors
/// A size of 0, another length, or a value that is negative or not finite.
///
/// ```
/// use multimix::reference::{Sizes, mix_matrix};
/// let sizes = Sizes { b: 2, r: 2, ..Sizes::default() };
/// let weights = [0.5, 0.5, /* second position */ 0.25, 0.75];
/// let attention = [1.0, 0.0, /* second example */ 3.0, 0.0];
/// let mix = mix_matrix(&sizes, &weights, Some(&attention))?;
/// assert_eq!(mix.matrix, [0.25, 0.75, 0.25, 0.75]);
/// assert_eq!(mix.mass, [2.0, 0.0]);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn mix_matrix(sizes: &Sizes, weights: &[f64], attention: Option<&[f64]>) -> Result<MixMatrix> {
    let op = "reference::mix_matrix";
    let Sizes { b, r, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::non_negative(op, "weights", weights, &[r, b, n])?;
    let mut mass = check::zeros(op, "mass", &[r, n])?;
    let Some(attention) = attention else {
        mass.fill(1.0);
        return Ok(MixMatrix { matrix: weights.to_vec(), mass });
    };
    let mut matrix = reweight(sizes, weights, attention)?;
    for j in 0..r {
        for k in 0..n {
            let s: f64 = (0..b).map(|i| matrix[sizes.weight(j, i, k)]).sum();
            mass[sizes.mixture(j, k)] = s;
            for i in 0..b {
                let at = sizes.weight(j, i, k);
                matrix[at] = if s > 0.0 { matrix[at] / s } else { weights[at] };
            }
        }
    }
    Ok(MixMatrix { matrix, mass })
}

/// What flows back through equations (5) and (6).
#[derive(Clone, Debug, PartialEq)]
pub struct MixMatrixGradient {
    /// Gradient of the attention handed in, (b, r), where there was one. Zero for an all-zero map, which was
    /// replaced.
    pub attention: Option<Vec<f64>>,
    /// Gradient of Λ (r, b, n), each weight on its own: nothing holds the columns on the simplex.
    pub weights: Vec<f64>,
}

/// Backward of equations (5) and (6), from dM̂ (r, b, n) and, where a loss depends on s itself, ds (r, n).
///
/// dM_ik = (dM̂_ik − Σ_l M̂_lk dM̂_lk) / s_k + ds_k;  da_i = Σ_k Λ_ik dM_ik;  dΛ_ik = a_i dM_ik.
/// At a column without mass M̂ jumps as soon as attention appears: no gradient flows to attention from it, by
/// convention, and dΛ = dM̂ since it mixes with Λ. Without attention dΛ = dM̂.
///
/// # Errors
/// As [`mix_matrix`], and gradients of another length.
pub fn mix_matrix_backward(
    sizes: &Sizes,
    weights: &[f64],
    attention: Option<&[f64]>,
    d_matrix: &[f64],
    d_mass: Option<&[f64]>,
) -> Result<MixMatrixGradient> {
    let op = "reference::mix_matrix_backward";
    let Sizes { b, r, n, .. } = *sizes;
    let mix = mix_matrix(sizes, weights, attention)?;
    check::length(op, "d_matrix", d_matrix, &[r, b, n])?;
    if let Some(d_mass) = d_mass {
        check::length(op, "d_mass", d_mass, &[r, n])?;
    }
    let mut d_weights = d_matrix.to_vec();
    let Some(attention) = attention else {
        return Ok(MixMatrixGradient { attention: None, weights: d_weights });
    };
    let settled = settle_attention(sizes, attention)?;
    let mut d_attention = check::zeros(op, "attention", &[b, r])?;
    for j in 0..r {
        for k in 0..n {
            let s = mix.mass[sizes.mixture(j, k)];
            if s == 0.0 {
                continue;
            }
            let d_s = d_mass.map_or(0.0, |d_mass| d_mass[sizes.mixture(j, k)]);
            let mean: f64 =
                (0..b).map(|l| mix.matrix[sizes.weight(j, l, k)] * d_matrix[sizes.weight(j, l, k)]).sum();
            for i in 0..b {
                let at = sizes.weight(j, i, k);
                let d_m = (d_matrix[at] - mean) / s + d_s;
                d_attention[sizes.attention(i, j)] += weights[at] * d_m;
                d_weights[at] = settled[sizes.attention(i, j)] * d_m;
            }
        }
    }
    for (map, d_map) in attention.chunks_exact(r).zip(d_attention.chunks_exact_mut(r)) {
        if is_zero(map) {
            d_map.fill(0.0);
        }
    }
    Ok(MixMatrixGradient { attention: Some(d_attention), weights: d_weights })
}
