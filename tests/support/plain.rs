//! A plain implementation: straight loops, every sum in order, nothing fused. Run in f32 it sets the error
//! that the engine is judged by; run in [`Tracked`](super::real::Tracked) it tells how large such errors are
//! to be expected.
//!
//! The one thing it is careful about is the scale of attention, taken out by a power of two at each position:
//! without that, it would lose everything where products are subnormal, and be no measure.

#![allow(clippy::needless_range_loop)] // loops run over indices as the equations do

use super::real::Real;
use multimix::Reduction;
use multimix::reference::Sizes;

/// What the plain implementation reads; arrays as in `multimix::reference`.
pub struct Inputs {
    pub sizes: Sizes,
    /// Λ before its columns are normalised, (r, b, n).
    pub raw: Vec<f32>,
    pub attention: Option<Vec<f32>>,
    pub features: Vec<f32>,
    pub logits: Vec<f32>,
    /// Y (b, c), one-hot for labels.
    pub targets: Vec<f32>,
    /// The labels, where targets are such.
    pub labels: Option<Vec<usize>>,
}

/// Sums and shares that loss and gradients have in common.
pub struct Mix<R> {
    /// Λ (r, b, n).
    pub weights: Vec<R>,
    /// M̂ (r, b, n).
    pub matrix: Vec<R>,
    /// s (r, n) on the scale of the position.
    pub mass: Vec<R>,
    /// What attention was multiplied by at each position, a power of two, (r).
    pub scale: Vec<f32>,
    /// a (b, r) with maps without mass made uniform, on the scale of the position.
    attention: Option<Vec<R>>,
}

fn sum<R: Real>(terms: impl Iterator<Item = R>) -> R {
    terms.fold(R::of(0.0), |sum, term| sum + term)
}

impl Inputs {
    /// Equations (5) and (6).
    pub fn mix<R: Real>(&self) -> Mix<R> {
        let Sizes { b, r, n, .. } = self.sizes;
        let raw = |j, i, k| R::of(self.raw[self.sizes.weight(j, i, k)]);
        let (attention, scale) = self.scaled_attention();
        let zero = R::of(0.0);
        let mut mix = Mix {
            weights: vec![zero; r * b * n],
            matrix: vec![zero; r * b * n],
            mass: vec![R::of(1.0); r * n],
            scale,
            attention,
        };
        for j in 0..r {
            for k in 0..n {
                let total = sum((0..b).map(|i| raw(j, i, k)));
                for i in 0..b {
                    mix.weights[self.sizes.weight(j, i, k)] = raw(j, i, k) / total;
                }
                let Some(attention) = &mix.attention else {
                    for i in 0..b {
                        let at = self.sizes.weight(j, i, k);
                        mix.matrix[at] = mix.weights[at];
                    }
                    continue;
                };
                let reweighted = |i: usize| {
                    attention[self.sizes.attention(i, j)] * mix.weights[self.sizes.weight(j, i, k)]
                };
                let mass = sum((0..b).map(reweighted));
                for i in 0..b {
                    let at = self.sizes.weight(j, i, k);
                    mix.matrix[at] = if mass > zero { reweighted(i) / mass } else { mix.weights[at] };
                }
                mix.mass[self.sizes.mixture(j, k)] = mass;
            }
        }
        mix
    }

    /// Maps without mass made uniform; then each position scaled so that its largest value lies in [1, 2).
    fn scaled_attention<R: Real>(&self) -> (Option<Vec<R>>, Vec<f32>) {
        let Sizes { b, r, .. } = self.sizes;
        let Some(given) = &self.attention else { return (None, vec![1.0; r]) };
        let mut attention: Vec<R> = given.iter().map(|&a| R::of(a)).collect();
        for (map, given) in attention.chunks_exact_mut(r).zip(given.chunks_exact(r)) {
            if given.iter().all(|&a| a == 0.0) {
                map.fill(R::of(1.0) / R::of(r as f32));
            }
        }
        let mut scales = vec![1.0; r];
        for (j, scale) in scales.iter_mut().enumerate() {
            let power = |a: R| if a > R::of(0.0) { a.log2_floor() } else { i32::MIN };
            let largest = (0..b).map(|i| power(attention[i * r + j])).fold(i32::MIN, i32::max);
            if largest > i32::MIN {
                *scale = 2f32.powi(-largest.clamp(-126, 126));
            }
            (0..b).for_each(|i| attention[i * r + j] = attention[i * r + j] * R::of(*scale));
        }
        (Some(attention), scales)
    }

    /// out (n, r, width) = Σ_i M̂_ik x_i at each position; equations (7) and (8). `at` tells where x[i, j, ·]
    /// starts.
    fn mixed<R: Real>(
        &self,
        mix: &Mix<R>,
        x: &[f32],
        width: usize,
        at: impl Fn(usize, usize) -> usize,
    ) -> Vec<R> {
        let Sizes { b, r, n, .. } = self.sizes;
        let mut out = Vec::with_capacity(n * r * width);
        for k in 0..n {
            for j in 0..r {
                for ch in 0..width {
                    let term = |i| mix.matrix[self.sizes.weight(j, i, k)] * R::of(x[at(i, j) + ch]);
                    out.push(sum((0..b).map(term)));
                }
            }
        }
        out
    }

    /// Z̃ (n, r, d).
    pub fn mixed_features<R: Real>(&self, mix: &Mix<R>) -> Vec<R> {
        self.mixed(mix, &self.features, self.sizes.d, |i, j| self.sizes.feature(i, j, 0))
    }

    /// Ỹ (n, r, c).
    pub fn mixed_targets<R: Real>(&self, mix: &Mix<R>) -> Vec<R> {
        self.mixed(mix, &self.targets, self.sizes.c, |i, _| self.sizes.target(i, 0))
    }

    fn mixed_logits<R: Real>(&self, mix: &Mix<R>) -> Vec<R> {
        self.mixed(mix, &self.logits, self.sizes.c, |i, j| self.sizes.logit(i, j, 0))
    }

    /// dx (b, r, width) = Σ_k M̂_ik g_k at each position.
    fn unmixed<R: Real>(&self, mix: &Mix<R>, gradient: &[R], width: usize) -> Vec<R> {
        let Sizes { b, r, n, .. } = self.sizes;
        let mut out = Vec::with_capacity(b * r * width);
        for i in 0..b {
            for j in 0..r {
                for ch in 0..width {
                    let term = |k: usize| {
                        mix.matrix[self.sizes.weight(j, i, k)] * gradient[(k * r + j) * width + ch]
                    };
                    out.push(sum((0..n).map(term)));
                }
            }
        }
        out
    }

    /// da (b, r) from dM̂ (r, b, n) and ds (r, n) on the scale of the mix: da_i = Σ_k Λ_ik ((dM̂_ik − Σ_l
    /// M̂_lk dM̂_lk) / s_k + ds_k).
    fn attention_gradient<R: Real>(&self, mix: &Mix<R>, d_matrix: &[R], d_mass: Option<&[R]>) -> Vec<R> {
        let Sizes { b, r, n, .. } = self.sizes;
        let mut out = vec![R::of(0.0); b * r];
        let given = self.attention.as_deref().unwrap_or_default();
        for j in 0..r {
            for k in 0..n {
                let s = mix.mass[self.sizes.mixture(j, k)];
                if s <= R::of(0.0) {
                    continue;
                }
                let at = |i| self.sizes.weight(j, i, k);
                let mean = sum((0..b).map(|i| mix.matrix[at(i)] * d_matrix[at(i)]));
                for i in 0..b {
                    let mut d_m = (d_matrix[at(i)] - mean) / s;
                    if let Some(d_mass) = d_mass {
                        d_m = d_m + d_mass[self.sizes.mixture(j, k)];
                    }
                    let out = &mut out[self.sizes.attention(i, j)];
                    *out = *out + mix.weights[at(i)] * d_m;
                }
            }
        }
        for i in 0..b {
            let replaced = given[i * r..][..r].iter().all(|&a| a == 0.0);
            for j in 0..r {
                let out = &mut out[i * r + j];
                *out = if replaced { R::of(0.0) } else { *out * R::of(mix.scale[j]) };
            }
        }
        out
    }
}

/// dZ, dY, da.
pub struct MixGradients<R> {
    pub features: Vec<R>,
    pub targets: Vec<R>,
    pub attention: Option<Vec<R>>,
}

impl Inputs {
    /// The gradients of Z̃ and Ỹ, from dZ̃ (n, r, d) and, where it takes part, dỸ (n, r, c).
    pub fn mix_backward<R: Real>(
        &self,
        mix: &Mix<R>,
        d_mixed: &[f32],
        d_mixed_targets: Option<&[f32]>,
    ) -> MixGradients<R> {
        let Sizes { b, r, d, c, n } = self.sizes;
        let lift = |values: &[f32]| values.iter().map(|&x| R::of(x)).collect::<Vec<R>>();
        let d_mixed = lift(d_mixed);
        let d_mixed_targets = d_mixed_targets.map(lift);
        let features = self.unmixed(mix, &d_mixed, d);
        let mut targets = vec![R::of(0.0); b * c];
        if let Some(gradient) = &d_mixed_targets {
            let by_position = self.unmixed(mix, gradient, c);
            for i in 0..b {
                for class in 0..c {
                    targets[i * c + class] = sum((0..r).map(|j| by_position[(i * r + j) * c + class]));
                }
            }
        }
        let attention = self.attention.as_ref().map(|_| {
            let mut d_matrix = Vec::with_capacity(r * b * n);
            for (j, i, k) in indices(r, b, n) {
                let through_features = (0..d).map(|ch| {
                    R::of(self.features[self.sizes.feature(i, j, ch)]) * d_mixed[(k * r + j) * d + ch]
                });
                let mut value = sum(through_features);
                if let Some(gradient) = &d_mixed_targets {
                    let terms =
                        (0..c).map(|y| R::of(self.targets[i * c + y]) * gradient[(k * r + j) * c + y]);
                    value = value + sum(terms);
                }
                d_matrix.push(value);
            }
            self.attention_gradient(mix, &d_matrix, None)
        });
        MixGradients { features, targets, attention }
    }
}

fn indices(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |x| (0..b).flat_map(move |y| (0..c).map(move |z| (x, y, z))))
}

/// The loss, all that goes into it, and its gradients.
pub struct Loss<R> {
    pub value: R,
    pub kl: R,
    pub cross_entropy: Vec<R>,
    pub log_sum_exp: Vec<R>,
    pub logits: Vec<R>,
    pub attention: Option<Vec<R>>,
}

impl Inputs {
    /// The loss and the gradients of `upstream` times it.
    pub fn loss<R: Real>(&self, mix: &Mix<R>, reduction: Reduction, upstream: f32) -> Loss<R> {
        let Sizes { r, c, n, .. } = self.sizes;
        let zero = R::of(0.0);
        let (logits, targets) = (self.mixed_logits(mix), self.mixed_targets(mix));
        let (mut ce, mut lse, mut entropy) = (vec![zero; r * n], vec![zero; r * n], vec![zero; r * n]);
        for (j, k, _) in indices(r, n, 1) {
            let (at, row) = (self.sizes.mixture(j, k), (k * r + j) * c..(k * r + j + 1) * c);
            lse[at] = log_sum_exp(&logits[row.clone()]);
            let fit = |y: usize| targets[row.start + y] * (lse[at] - logits[row.start + y]);
            ce[at] = sum((0..c).map(fit));
            entropy[at] = zero - sum(targets[row].iter().filter(|&&y| y > zero).map(|&y| y * y.ln()));
        }
        let shares = self.shares(mix, reduction);
        let value = sum((0..r * n).map(|at| shares[at] * ce[at]));
        let kl = sum((0..r * n).map(|at| shares[at] * (ce[at] - entropy[at])));
        let residual = self.residual(&logits, &targets, &lse, &shares, upstream);
        let d_logits = self.unmixed(mix, &residual, c);
        let attention = self.attention.as_ref().map(|_| {
            let d_matrix = self.loss_d_matrix(&logits, &lse, &residual, &shares, upstream);
            let d_mass = match reduction {
                Reduction::Mean => None,
                Reduction::AttentionWeighted => Some(self.d_mass(mix, &ce, upstream)),
            };
            self.attention_gradient(mix, &d_matrix, d_mass.as_deref())
        });
        Loss { value, kl, cross_entropy: ce, log_sum_exp: lse, logits: d_logits, attention }
    }

    /// q (r, n).
    fn shares<R: Real>(&self, mix: &Mix<R>, reduction: Reduction) -> Vec<R> {
        let Sizes { r, n, .. } = self.sizes;
        let mut shares = vec![R::of(1.0) / R::of((n * r) as f32); r * n];
        if reduction == Reduction::Mean {
            return shares;
        }
        for (q, s) in shares.chunks_exact_mut(n).zip(mix.mass.chunks_exact(n)) {
            let total = sum(s.iter().copied());
            let share = |s: R| if total > R::of(0.0) { s / (R::of(r as f32) * total) } else { R::of(0.0) };
            q.iter_mut().zip(s).for_each(|(q, &s)| *q = share(s));
        }
        shares
    }

    /// G (n, r, c) = q (t p − Ỹ), times upstream.
    fn residual<R: Real>(
        &self,
        logits: &[R],
        targets: &[R],
        lse: &[R],
        shares: &[R],
        upstream: f32,
    ) -> Vec<R> {
        let Sizes { r, c, n, .. } = self.sizes;
        let mut residual = Vec::with_capacity(n * r * c);
        for (k, j, _) in indices(n, r, 1) {
            let (mixture, start) = (self.sizes.mixture(j, k), (k * r + j) * c);
            let share = shares[mixture] * R::of(upstream);
            // The columns of M̂ sum to one, so labels mix to a sum of one.
            let total = match &self.labels {
                Some(_) => R::of(1.0),
                None => sum(targets[start..][..c].iter().copied()),
            };
            for y in start..start + c {
                residual.push(share * (total * (logits[y] - lse[mixture]).exp() - targets[y]));
            }
        }
        residual
    }

    /// dM̂ (r, b, n) = S_iᵀ G_k − q_k Σ_y Y_iy log p_yk.
    fn loss_d_matrix<R: Real>(
        &self,
        logits: &[R],
        lse: &[R],
        residual: &[R],
        shares: &[R],
        upstream: f32,
    ) -> Vec<R> {
        let Sizes { b, r, c, n, .. } = self.sizes;
        let mut d_matrix = Vec::with_capacity(r * b * n);
        for (j, i, k) in indices(r, b, n) {
            let (mixture, start) = (self.sizes.mixture(j, k), (k * r + j) * c);
            let through_logits =
                sum((0..c).map(|y| R::of(self.logits[self.sizes.logit(i, j, y)]) * residual[start + y]));
            let log_p = |y: usize| logits[start + y] - lse[mixture];
            let fit = match &self.labels {
                Some(labels) => log_p(labels[i]),
                None => sum((0..c).map(|y| R::of(self.targets[i * c + y]) * log_p(y))),
            };
            d_matrix.push(through_logits - shares[mixture] * R::of(upstream) * fit);
        }
        d_matrix
    }

    /// ds (r, n) = (CE_k − L_j) / (r Σ s) of the attention-weighted reduction, times upstream.
    fn d_mass<R: Real>(&self, mix: &Mix<R>, ce: &[R], upstream: f32) -> Vec<R> {
        let Sizes { r, n, .. } = self.sizes;
        let mut d_mass = vec![R::of(0.0); r * n];
        for j in 0..r {
            let (s, ce) = (&mix.mass[j * n..][..n], &ce[j * n..][..n]);
            let total = sum(s.iter().copied());
            if total <= R::of(0.0) {
                continue;
            }
            let loss = sum(s.iter().zip(ce).map(|(&s, &ce)| s * ce)) / total;
            for k in 0..n {
                d_mass[j * n + k] = R::of(upstream) * (ce[k] - loss) / (R::of(r as f32) * total);
            }
        }
        d_mass
    }
}

fn log_sum_exp<R: Real>(row: &[R]) -> R {
    let max = row.iter().copied().fold(row[0], |max, x| if x > max { x } else { max });
    max + sum(row.iter().map(|&x| (x - max).exp())).ln()
}
