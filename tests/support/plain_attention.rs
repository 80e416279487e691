//! The plain implementation of attention and its gradient; see [`plain`](super::plain).

#![allow(clippy::needless_range_loop)] // loops run over indices as the equations do

use super::real::Real;
use multimix::reference::Sizes;
use multimix::{AttentionOptions, Normalise, Query};

/// What attention is computed from.
pub struct Inputs<'a> {
    pub sizes: Sizes,
    pub options: AttentionOptions,
    /// Z (b, r, d).
    pub features: &'a [f32],
    /// W (c, d).
    pub classifier: &'a [f32],
    pub labels: &'a [usize],
}

/// Maps and gradients.
pub struct Attention<R> {
    /// a (b, r).
    pub maps: Vec<R>,
    /// dZ (b, r, d).
    pub features: Vec<R>,
    /// dW (c, d).
    pub classifier: Vec<R>,
}

fn sum<R: Real>(terms: impl Iterator<Item = R>) -> R {
    terms.fold(R::of(0.0), |sum, term| sum + term)
}

impl Inputs<'_> {
    fn query<R: Real>(&self, i: usize) -> Vec<R> {
        let Sizes { r, d, .. } = self.sizes;
        let z = |j, ch| R::of(self.features[self.sizes.feature(i, j, ch)]);
        match self.options.query {
            Query::Gap => (0..d).map(|ch| sum((0..r).map(|j| z(j, ch))) / R::of(r as f32)).collect(),
            Query::Cam => (0..d).map(|ch| R::of(self.classifier[self.labels[i] * d + ch])).collect(),
        }
    }

    /// The map of scores t, and the sum it was divided by.
    fn normalise<R: Real>(&self, scores: &[R]) -> (Vec<R>, R) {
        let zero = R::of(0.0);
        let parts: Vec<R> = match self.options.normalise {
            Normalise::ReluL1 => scores.iter().map(|&t| if t > zero { t } else { zero }).collect(),
            Normalise::Softmax => {
                let max = scores.iter().copied().fold(scores[0], |max, t| if t > max { t } else { max });
                scores.iter().map(|&t| (t - max).exp()).collect()
            }
        };
        let total = sum(parts.iter().copied());
        if total > zero {
            return (parts.into_iter().map(|part| part / total).collect(), total);
        }
        (vec![R::of(1.0) / R::of(scores.len() as f32); scores.len()], total)
    }

    /// Maps, and the gradients that da (b, r) gives.
    pub fn run<R: Real>(&self, d_maps: &[f32]) -> Attention<R> {
        let Sizes { b, r, d, c, .. } = self.sizes;
        let zero = R::of(0.0);
        let mut out =
            Attention { maps: Vec::new(), features: vec![zero; b * r * d], classifier: vec![zero; c * d] };
        for i in 0..b {
            let query = self.query::<R>(i);
            let z = |j: usize, ch: usize| R::of(self.features[self.sizes.feature(i, j, ch)]);
            let scores: Vec<R> = (0..r).map(|j| sum((0..d).map(|ch| query[ch] * z(j, ch)))).collect();
            let (map, total) = self.normalise(&scores);
            let da = |j: usize| R::of(d_maps[i * r + j]);
            let mean = sum((0..r).map(|j| map[j] * da(j)));
            let d_score = |j: usize| match self.options.normalise {
                Normalise::ReluL1 if scores[j] > zero => (da(j) - mean) / total,
                Normalise::ReluL1 => zero,
                Normalise::Softmax => map[j] * (da(j) - mean),
            };
            let d_scores: Vec<R> = (0..r).map(d_score).collect();
            for ch in 0..d {
                let d_query = sum((0..r).map(|j| d_scores[j] * z(j, ch)));
                for j in 0..r {
                    let mut value = d_scores[j] * query[ch];
                    if self.options.query == Query::Gap {
                        value = value + d_query / R::of(r as f32);
                    }
                    out.features[self.sizes.feature(i, j, ch)] = value;
                }
                let row = &mut out.classifier[self.labels[i] * d + ch];
                *row = *row + d_query;
            }
            out.maps.extend(map);
        }
        out
    }
}
