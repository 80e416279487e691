//! Attention maps from features: a = h(uᵀz), with u by GAP or CAM and h by ReLU + l1 or softmax.

use super::{Sizes, check};
use crate::error::{Error, Result};
use crate::problem::{AttentionOptions, Normalise, Query};

/// The linear classifier and labels that CAM takes its queries from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classifier<'a> {
    /// W (c, d), one row per class.
    pub rows: &'a [f64],
    /// y (b), one label per example.
    pub labels: &'a [usize],
}

/// What [`attention()`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// u (b, d).
    pub queries: Vec<f64>,
    /// uᵀz (b, r).
    pub scores: Vec<f64>,
    /// a = h(uᵀz) (b, r); every map sums to 1.
    pub maps: Vec<f64>,
}

/// a_i = h(t_i) with scores t_ij = u_iᵀ z_ij.
///
/// - [`Query::Gap`]: u_i = Σ_j z_ij / r.  [`Query::Cam`]: u_i = W\[y_i\], the classifier's row for the label.
/// - [`Normalise::ReluL1`]: a_ij = max(t_ij, 0) / Σ_l max(t_il, 0), uniform when no score is positive.
///   [`Normalise::Softmax`]: a_ij = exp t_ij / Σ_l exp t_il.
///
/// `features` Z (b, r, d). `classifier` is for CAM only. A NaN among the features of an example gives NaN in
/// its map.
///
/// # Errors
/// A size of 0, another length, a label that is not below c, or CAM without a classifier.
///
/// ```
/// use multimix::AttentionOptions;
/// use multimix::reference::{Sizes, attention};
/// let sizes = Sizes { r: 3, d: 2, ..Sizes::default() };
/// let features = [3.0, 0.0, /* second position */ 1.0, 0.0, /* third */ -1.0, 3.0];
/// let attention = attention(&sizes, &features, AttentionOptions::default(), None)?;
/// assert_eq!(attention.queries, [1.0, 1.0]);
/// assert_eq!(attention.scores, [3.0, 1.0, 2.0]);
/// assert_eq!(attention.maps, [3.0 / 6.0, 1.0 / 6.0, 2.0 / 6.0]);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn attention(
    sizes: &Sizes,
    features: &[f64],
    options: AttentionOptions,
    classifier: Option<Classifier<'_>>,
) -> Result<Attention> {
    let op = "reference::attention";
    let Sizes { b, r, d, .. } = *sizes;
    check::sizes(op, sizes)?;
    check::length(op, "features", features, &[b, r, d])?;
    let queries = match options.query {
        Query::Gap => gap_queries(sizes, features)?,
        Query::Cam => cam_queries(sizes, required(op, classifier)?)?,
    };
    let mut scores = check::zeros(op, "scores", &[b, r])?;
    for i in 0..b {
        for j in 0..r {
            for ch in 0..d {
                scores[sizes.attention(i, j)] += queries[i * d + ch] * features[sizes.feature(i, j, ch)];
            }
        }
    }
    let mut maps = scores.clone();
    for map in maps.chunks_exact_mut(r) {
        match options.normalise {
            Normalise::ReluL1 => relu_l1(map),
            Normalise::Softmax => softmax(map),
        }
    }
    Ok(Attention { queries, scores, maps })
}

fn required<'a>(op: &'static str, classifier: Option<Classifier<'a>>) -> Result<Classifier<'a>> {
    classifier.ok_or(Error::arguments(op, "CAM needs the classifier's rows and the labels"))
}

/// u_i = Σ_j z_ij / r.
fn gap_queries(sizes: &Sizes, features: &[f64]) -> Result<Vec<f64>> {
    let Sizes { b, r, d, .. } = *sizes;
    let mut queries = check::zeros("reference::attention", "queries", &[b, d])?;
    for i in 0..b {
        for j in 0..r {
            for ch in 0..d {
                queries[i * d + ch] += features[sizes.feature(i, j, ch)] / r as f64;
            }
        }
    }
    Ok(queries)
}

/// u_i = W\[y_i\].
fn cam_queries(sizes: &Sizes, classifier: Classifier<'_>) -> Result<Vec<f64>> {
    let op = "reference::attention";
    let Sizes { b, d, c, .. } = *sizes;
    check::length(op, "classifier", classifier.rows, &[c, d])?;
    check::labels(op, sizes, classifier.labels)?;
    let mut queries = check::zeros(op, "queries", &[b, d])?;
    for i in 0..b {
        for ch in 0..d {
            queries[i * d + ch] = classifier.rows[classifier.labels[i] * d + ch];
        }
    }
    Ok(queries)
}

/// Scores to max(t, 0) / Σ max(t, 0), or to 1/r when none is positive.
fn relu_l1(map: &mut [f64]) {
    for t in map.iter_mut() {
        // A comparison and not `max`, which would drop a NaN.
        if *t < 0.0 {
            *t = 0.0;
        }
    }
    let total: f64 = map.iter().sum();
    let r = map.len() as f64;
    map.iter_mut().for_each(|t| *t = if total == 0.0 { 1.0 / r } else { *t / total });
}

/// Scores to exp t / Σ exp t.
fn softmax(map: &mut [f64]) {
    let max = map.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    map.iter_mut().for_each(|t| *t = (*t - max).exp());
    let total: f64 = map.iter().sum();
    map.iter_mut().for_each(|t| *t /= total);
}

/// What [`attention_backward`] gives.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradient {
    /// dZ (b, r, d).
    pub features: Vec<f64>,
    /// dW (c, d) with CAM, zero in the rows of classes that no example has; none with GAP.
    pub classifier: Option<Vec<f64>>,
}

/// Backward of [`attention()`] from da (b, r).
///
/// - ReLU + l1: dt_j = (da_j − Σ_l a_l da_l) / Σ_l max(t_l, 0) where t_j > 0, else 0; 0 for a map that became
///   uniform. Softmax: dt_j = a_j (da_j − Σ_l a_l da_l).
/// - dz_j = dt_j u, and du = Σ_j dt_j z_j, which goes to all z_j of the example as du / r (GAP) or to W\[y\]
///   (CAM).
///
/// # Errors
/// As [`attention()`], and a gradient of another length.
pub fn attention_backward(
    sizes: &Sizes,
    features: &[f64],
    options: AttentionOptions,
    classifier: Option<Classifier<'_>>,
    d_maps: &[f64],
) -> Result<AttentionGradient> {
    let op = "reference::attention_backward";
    let Sizes { b, r, d, c, .. } = *sizes;
    let forward = attention(sizes, features, options, classifier)?;
    check::length(op, "d_maps", d_maps, &[b, r])?;
    let mut d_features = check::zeros(op, "d_features", &[b, r, d])?;
    let mut d_rows = match options.query {
        Query::Gap => None,
        Query::Cam => Some((check::zeros(op, "d_classifier", &[c, d])?, required(op, classifier)?.labels)),
    };
    for i in 0..b {
        let of_example = sizes.attention(i, 0)..sizes.attention(i, 0) + r;
        let scores = &forward.scores[of_example.clone()];
        let map = &forward.maps[of_example.clone()];
        let d_scores = scores_backward(options.normalise, scores, map, &d_maps[of_example]);
        for ch in 0..d {
            let mut d_query = 0.0;
            for j in 0..r {
                d_features[sizes.feature(i, j, ch)] = d_scores[j] * forward.queries[i * d + ch];
                d_query += d_scores[j] * features[sizes.feature(i, j, ch)];
            }
            match &mut d_rows {
                Some((rows, labels)) => rows[labels[i] * d + ch] += d_query,
                None => (0..r).for_each(|j| d_features[sizes.feature(i, j, ch)] += d_query / r as f64),
            }
        }
    }
    Ok(AttentionGradient { features: d_features, classifier: d_rows.map(|(rows, _)| rows) })
}

/// dt of one map, from its scores t, the map a and da.
fn scores_backward(normalise: Normalise, scores: &[f64], map: &[f64], d_map: &[f64]) -> Vec<f64> {
    let mean: f64 = map.iter().zip(d_map).map(|(a, d)| a * d).sum();
    let total: f64 = scores.iter().filter(|&&t| t > 0.0).sum();
    (0..scores.len())
        .map(|j| match normalise {
            Normalise::ReluL1 if scores[j] > 0.0 => (d_map[j] - mean) / total,
            Normalise::ReluL1 => 0.0,
            Normalise::Softmax => map[j] * (d_map[j] - mean),
        })
        .collect()
}
