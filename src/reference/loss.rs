//! The loss on mixed logits and targets, its reductions and its gradients.

use super::{MixMatrix, Sizes, Targets, check, mix_features, mix_features_backward, mix_matrix};
use super::{mix_matrix_backward, mix_targets, times};
use crate::error::Result;
use crate::problem::{LossOptions, Reduction};

/// What [`loss()`] and [`loss_backward`] take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossInputs<'a> {
    /// S (b, r, c): the classifier applied to each feature, unmixed. −∞ masks a class, see [`loss()`].
    pub logits: &'a [f64],
    /// Y, labels (b) or rows (b, c).
    pub targets: Targets<'a>,
    /// Λ (r, b, n), columns that sum to 1.
    pub weights: &'a [f64],
    /// a (b, r), or none for M̂ = Λ and s = 1.
    pub attention: Option<&'a [f64]>,
}

/// What [`cross_entropy`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// CE (r, n), in nats.
    pub values: Vec<f64>,
    /// log Σ_c exp S̃_ck, (r, n).
    pub log_sum_exp: Vec<f64>,
}

/// CE_k = −Σ_c Ỹ_ck log softmax(S̃_k)_c for each mixture.
///
/// With labels Ỹ need not be formed: CE_k = Σ_i M̂_ik (lse(S̃_k) − S̃\[y_i, k\]).
/// `mixed_logits` S̃ (n, r, c), `matrix` M̂ (r, b, n).
///
/// # Errors
/// A size of 0, another length, a label that is not below c, a soft target that is negative or not finite.
///
/// ```
/// use multimix::reference::{Sizes, Targets, cross_entropy};
/// let sizes = Sizes { b: 2, c: 2, ..Sizes::default() };
/// let ce = cross_entropy(&sizes, &[0.0, 0.0], Targets::Labels(&[0, 1]), &[0.3, 0.7])?;
/// assert!((ce.values[0] - 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn cross_entropy(
    sizes: &Sizes,
    mixed_logits: &[f64],
    targets: Targets<'_>,
    matrix: &[f64],
) -> Result<CrossEntropy> {
    let op = "reference::cross_entropy";
    let Sizes { b, r, c, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::targets(op, sizes, targets)?;
    check::length(op, "mixed_logits", mixed_logits, &[n, r, c])?;
    check::length(op, "matrix", matrix, &[r, b, n])?;
    let mut values = check::zeros(op, "cross entropy", &[r, n])?;
    let mut log_sums = check::zeros(op, "log-sum-exp", &[r, n])?;
    for j in 0..r {
        for k in 0..n {
            let row = &mixed_logits[sizes.mixed_logit(k, j, 0)..][..c];
            let lse = log_sum_exp(row);
            let mut ce = 0.0;
            for i in 0..b {
                let fit = log_likelihood(sizes, targets, i, row, |x| log_probability(x, lse));
                ce -= times(matrix[sizes.weight(j, i, k)], fit);
            }
            values[sizes.mixture(j, k)] = ce;
            log_sums[sizes.mixture(j, k)] = lse;
        }
    }
    Ok(CrossEntropy { values, log_sum_exp: log_sums })
}

/// Σ_c Y_ic log p_c: how well mixed logits explain the target of example i.
fn log_likelihood(
    sizes: &Sizes,
    targets: Targets<'_>,
    i: usize,
    row: &[f64],
    log_p: impl Fn(f64) -> f64,
) -> f64 {
    match targets {
        Targets::Labels(labels) => log_p(row[labels[i]]),
        Targets::Soft(rows) => {
            let target = &rows[sizes.target(i, 0)..][..sizes.c];
            target.iter().zip(row).map(|(&y, &x)| times(y, log_p(x))).sum()
        }
    }
}

/// log p of a mixed logit: −∞ where the class is masked, though all of them be.
fn log_probability(logit: f64, lse: f64) -> f64 {
    if logit == f64::NEG_INFINITY { logit } else { logit - lse }
}

/// log Σ exp x, without overflow; −∞ where every class is masked.
fn log_sum_exp(row: &[f64]) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY && !row.iter().any(|x| x.is_nan()) {
        return max;
    }
    max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// H(Ỹ_k) = −Σ_c Ỹ_ck log Ỹ_ck for each mixture, in nats, with 0 log 0 = 0: the least that CE_k can be.
///
/// `mixed_targets` Ỹ (n, r, c). Gives (r, n).
///
/// # Errors
/// A size of 0, another length, a target that is negative or not finite.
pub fn entropy(sizes: &Sizes, mixed_targets: &[f64]) -> Result<Vec<f64>> {
    let op = "reference::entropy";
    let Sizes { r, c, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::non_negative(op, "mixed_targets", mixed_targets, &[n, r, c])?;
    let mut entropy = check::zeros(op, "entropy", &[r, n])?;
    for j in 0..r {
        for k in 0..n {
            let row = &mixed_targets[sizes.mixed_logit(k, j, 0)..][..c];
            let terms = row.iter().map(|&y| if y > 0.0 { -y * y.ln() } else { 0.0 });
            entropy[sizes.mixture(j, k)] = terms.sum();
        }
    }
    Ok(entropy)
}

/// q_k, the share of each mixture in the loss L = Σ q_k CE_k.
///
/// [`Reduction::Mean`]: q_k = 1/(n·r). [`Reduction::AttentionWeighted`]: q_k = s_k / (r Σ_l s_l) with the sum
/// over the columns of the same position, and 0 at a position without mass. `mass` s (r, n); gives q (r, n).
///
/// # Errors
/// A size of 0, another length, a mass that is negative or not finite.
pub fn shares(sizes: &Sizes, mass: &[f64], reduction: Reduction) -> Result<Vec<f64>> {
    let op = "reference::shares";
    let Sizes { r, n, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::non_negative(op, "mass", mass, &[r, n])?;
    let mut shares = mass.to_vec();
    for position in shares.chunks_exact_mut(n) {
        let total: f64 = position.iter().sum();
        match reduction {
            Reduction::Mean => position.fill(1.0 / (n as f64 * r as f64)),
            Reduction::AttentionWeighted if total == 0.0 => position.fill(0.0),
            Reduction::AttentionWeighted => position.iter_mut().for_each(|q| *q /= r as f64 * total),
        }
    }
    Ok(shares)
}

/// What [`loss()`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// L = Σ q_k CE_k, in nats.
    pub value: f64,
    /// Σ q_k (CE_k − H(Ỹ_k)): what is left of the loss when the entropy of the targets is taken off. Always
    /// computed.
    pub kl: f64,
    /// CE (r, n).
    pub cross_entropy: Vec<f64>,
    /// H(Ỹ) (r, n).
    pub entropy: Vec<f64>,
    /// log Σ_c exp S̃_ck, (r, n).
    pub log_sum_exp: Vec<f64>,
    /// q (r, n), see [`shares`].
    pub shares: Vec<f64>,
    /// M̂ and s.
    pub mix: MixMatrix,
}

/// The loss of MultiMix and Dense MultiMix: L = Σ q_k CE_k over all columns k of all positions.
///
/// S̃ = S M̂, which for a linear classifier is the classifier of equation (7); Ỹ = Y M̂ by equation (8); then
/// [`cross_entropy`], reduced by [`shares`]. `options.kl` is not looked at: KL is always reported.
///
/// A logit of −∞ masks a class: its probability is 0 in every mixture in which the example has weight, and a
/// target on it makes the loss infinite. An example of weight 0 masks nothing. NaN and +∞ make the mixtures
/// they go into NaN.
///
/// # Errors
/// A size of 0, another length, a label that is not below c; weights, attention or soft targets that are
/// negative or not finite.
pub fn loss(sizes: &Sizes, inputs: &LossInputs<'_>, options: LossOptions) -> Result<Loss> {
    check_inputs("reference::loss", sizes, inputs)?;
    let mix = mix_matrix(sizes, inputs.weights, inputs.attention)?;
    let mixed_logits = mix_features(&logit_sizes(sizes), inputs.logits, &mix.matrix)?;
    let ce = cross_entropy(sizes, &mixed_logits, inputs.targets, &mix.matrix)?;
    let entropy = entropy(sizes, &mix_targets(sizes, inputs.targets, &mix.matrix)?)?;
    let shares = shares(sizes, &mix.mass, options.reduction)?;
    let (mut value, mut kl) = (0.0, 0.0);
    for at in 0..shares.len() {
        value += times(shares[at], ce.values[at]);
        kl += times(shares[at], ce.values[at] - entropy[at]);
    }
    Ok(Loss { value, kl, cross_entropy: ce.values, entropy, log_sum_exp: ce.log_sum_exp, shares, mix })
}

fn check_inputs(op: &'static str, sizes: &Sizes, inputs: &LossInputs<'_>) -> Result<()> {
    check::sizes(op, sizes)?;
    check::length(op, "logits", inputs.logits, &[sizes.b, sizes.r, sizes.c])?;
    check::targets(op, sizes, inputs.targets)
}

/// Logits are mixed as features with c channels are.
fn logit_sizes(sizes: &Sizes) -> Sizes {
    Sizes { d: sizes.c, ..*sizes }
}

/// What [`loss_backward`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct LossGradient {
    /// dS (b, r, c).
    pub logits: Vec<f64>,
    /// da (b, r), where attention was given and is not detached; zero for an all-zero map, which was
    /// replaced.
    pub attention: Option<Vec<f64>>,
}

/// Backward of [`loss()`], times `upstream`, the gradient of whatever the loss goes into (1 for the loss
/// itself).
///
/// With p_k = softmax(S̃_k) and t_k = Σ_c Ỹ_ck (1 for targets that are distributions):
///
/// - G_k = q_k (t_k p_k − Ỹ_k);  dS = G M̂ᵀ
/// - dM̂_ik = S_iᵀ G_k − q_k Σ_c Y_ic log p_ck
/// - attention-weighted: ds_k = (CE_k − L_j) / (r Σ_l s_l) with L_j = Σ s_k CE_k / Σ s_k of the position
/// - da as [`mix_matrix_backward`]: none from a column without mass, none to a position whose loss is
///   infinite, and masked classes take no part in dM̂
///
/// # Errors
/// As [`loss()`].
///
/// ```
/// use multimix::LossOptions;
/// use multimix::reference::{LossInputs, Sizes, Targets, loss_backward};
/// let sizes = Sizes { b: 2, c: 2, ..Sizes::default() };
/// let inputs = LossInputs {
///     logits: &[0.0; 4],
///     targets: Targets::Labels(&[0, 0]),
///     weights: &[0.25, 0.75],
///     attention: None,
/// };
/// let gradient = loss_backward(&sizes, &inputs, LossOptions::default(), 1.0)?;
/// assert_eq!(gradient.logits, [-0.125, 0.125, -0.375, 0.375]);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn loss_backward(
    sizes: &Sizes,
    inputs: &LossInputs<'_>,
    options: LossOptions,
    upstream: f64,
) -> Result<LossGradient> {
    let forward = loss(sizes, inputs, options)?;
    let shares: Vec<f64> = forward.shares.iter().map(|q| q * upstream).collect();
    let matrix = &forward.mix.matrix;
    let mixed_logits = mix_features(&logit_sizes(sizes), inputs.logits, matrix)?;
    let mixed_targets = mix_targets(sizes, inputs.targets, matrix)?;
    let residual = residual(sizes, &mixed_logits, &mixed_targets, &forward.log_sum_exp, &shares);
    let unmasked: Vec<f64> =
        inputs.logits.iter().map(|&s| if s == f64::NEG_INFINITY { 0.0 } else { s }).collect();
    let (logits, mut d_matrix) = mix_features_backward(&logit_sizes(sizes), &unmasked, matrix, &residual)?;
    if inputs.attention.is_none() || options.detach_attention {
        return Ok(LossGradient { logits, attention: None });
    }
    let Sizes { b, r, c, n, .. } = *sizes;
    for j in 0..r {
        for i in 0..b {
            for k in 0..n {
                let row = &mixed_logits[sizes.mixed_logit(k, j, 0)..][..c];
                let at = sizes.mixture(j, k);
                let lse = forward.log_sum_exp[at];
                let log_p = |x: f64| if x == f64::NEG_INFINITY { 0.0 } else { x - lse };
                let fit = log_likelihood(sizes, inputs.targets, i, row, log_p);
                d_matrix[sizes.weight(j, i, k)] -= shares[at] * fit;
            }
        }
    }
    let d_mass = match options.reduction {
        Reduction::Mean => None,
        Reduction::AttentionWeighted => Some(mass_gradient(sizes, &forward, upstream)),
    };
    let through = mix_matrix_backward(sizes, inputs.weights, inputs.attention, &d_matrix, d_mass.as_deref())?;
    let mut attention = through.attention;
    for (at, d) in attention.iter_mut().flatten().enumerate() {
        if position_loss(sizes, &forward, at % r).is_infinite() {
            *d = 0.0;
        }
    }
    Ok(LossGradient { logits, attention })
}

/// Σ_k q_k CE_k of position j.
fn position_loss(sizes: &Sizes, forward: &Loss, j: usize) -> f64 {
    let position = sizes.mixture(j, 0)..sizes.mixture(j, 0) + sizes.n;
    let (shares, ce) = (&forward.shares[position.clone()], &forward.cross_entropy[position]);
    shares.iter().zip(ce).map(|(&q, &ce)| times(q, ce)).sum()
}

/// G_k = q_k (t_k softmax(S̃_k) − Ỹ_k), the gradient of S̃ (n, r, c).
fn residual(
    sizes: &Sizes,
    mixed_logits: &[f64],
    mixed_targets: &[f64],
    log_sum_exp: &[f64],
    shares: &[f64],
) -> Vec<f64> {
    let Sizes { r, c, n, .. } = *sizes;
    let mut residual = mixed_logits.to_vec();
    for j in 0..r {
        for k in 0..n {
            let mixture = sizes.mixture(j, k);
            let total: f64 = mixed_targets[sizes.mixed_logit(k, j, 0)..][..c].iter().sum();
            for class in 0..c {
                let at = sizes.mixed_logit(k, j, class);
                let p = log_probability(mixed_logits[at], log_sum_exp[mixture]).exp();
                residual[at] = shares[mixture] * (total * p - mixed_targets[at]);
            }
        }
    }
    residual
}

/// ds_k = (CE_k − L_j) / (r Σ_l s_l) of the attention-weighted reduction, (r, n); 0 at a position without
/// mass.
fn mass_gradient(sizes: &Sizes, forward: &Loss, upstream: f64) -> Vec<f64> {
    let Sizes { r, n, .. } = *sizes;
    let mut gradient = vec![0.0; r * n];
    for j in 0..r {
        let position = sizes.mixture(j, 0)..sizes.mixture(j, 0) + n;
        let (mass, ce) = (&forward.mix.mass[position.clone()], &forward.cross_entropy[position]);
        let total: f64 = mass.iter().sum();
        if total == 0.0 {
            continue;
        }
        let loss = mass.iter().zip(ce).map(|(&s, &ce)| times(s, ce)).sum::<f64>() / total;
        for k in 0..n {
            gradient[sizes.mixture(j, k)] = upstream * (ce[k] - loss) / (r as f64 * total);
        }
    }
    gradient
}
