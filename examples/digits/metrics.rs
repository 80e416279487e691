//! What is measured on a trained model: detection of unknown classes, and the shape of the embedding space.
//!
//! Scores are `f32`, sums are `f64`. Every function says what it does with ties and with too little data.

use anyhow::{Result, ensure};

/// The area under the ROC curve: the probability that a positive outscores a negative, ties counting one
/// half.
pub fn auroc(positives: &[f32], negatives: &[f32]) -> Result<f64> {
    let ranked = rank(positives, negatives)?;
    let mut negatives_below = 0.0;
    let mut wins = 0.0;
    for group in ranked.iter().rev() {
        wins += group.positives * (negatives_below + 0.5 * group.negatives);
        negatives_below += group.negatives;
    }
    Ok(wins / (positives.len() as f64 * negatives.len() as f64))
}

/// The area under the precision-recall curve as average precision: Σ (R_t − R_{t−1}) P_t over the distinct
/// scores t, from the highest.
pub fn average_precision(positives: &[f32], negatives: &[f32]) -> Result<f64> {
    let (mut true_positives, mut selected, mut area) = (0.0, 0.0, 0.0);
    for group in rank(positives, negatives)? {
        true_positives += group.positives;
        selected += group.positives + group.negatives;
        area += group.positives * true_positives / selected;
    }
    Ok(area / positives.len() as f64)
}

/// How many positives and negatives share one score.
struct Tie {
    positives: f64,
    negatives: f64,
}

/// Groups of equal scores, from the highest.
fn rank(positives: &[f32], negatives: &[f32]) -> Result<Vec<Tie>> {
    ensure!(!positives.is_empty() && !negatives.is_empty(), "both kinds of examples are needed");
    ensure!(positives.iter().chain(negatives).all(|score| !score.is_nan()), "a score is not a number");
    let of = |scores: &[f32], kind: bool| scores.iter().map(|&score| (score, kind)).collect::<Vec<_>>();
    let mut scores = [of(positives, true), of(negatives, false)].concat();
    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(scores
        .chunk_by(|a, b| a.0 == b.0)
        .map(|group| {
            let positives = group.iter().filter(|(_, positive)| *positive).count();
            Tie { positives: positives as f64, negatives: (group.len() - positives) as f64 }
        })
        .collect())
}

/// How alignment and uniformity are computed (Wang and Isola, 2020). The defaults are theirs.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Scale every embedding to length 1 first.
    pub normalize: bool,
    /// The power of the distance in the alignment.
    pub alpha: f64,
    /// The scale of the Gaussian kernel in the uniformity.
    pub t: f64,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { normalize: true, alpha: 2.0, t: 2.0 }
    }
}

/// Embeddings of equal length, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Embeddings {
    /// `count x width` values.
    pub values: Vec<f32>,
    /// Length of one embedding.
    pub width: usize,
}

impl Embeddings {
    /// The embeddings one by one.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.width)
    }

    /// Each divided by its length; a zero embedding stays.
    pub fn normalized(&self) -> Self {
        let unit = |row: &[f32]| {
            let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
            row.iter().map(|&x| (f64::from(x) * scale) as f32).collect::<Vec<_>>()
        };
        Self { values: self.rows().flat_map(unit).collect(), width: self.width }
    }
}

/// Alignment and uniformity, both the lower the better.
///
/// Alignment: the mean of ‖x − y‖^α over pairs of one class. Uniformity: the logarithm of the mean of exp(−t
/// ‖x − y‖²) over all pairs. A pair is two different examples, counted once.
pub fn alignment_uniformity(embeddings: &Embeddings, labels: &[u32], how: Geometry) -> Result<(f64, f64)> {
    let embeddings = if how.normalize { embeddings.normalized() } else { embeddings.clone() };
    let rows: Vec<&[f32]> = embeddings.rows().collect();
    ensure!(rows.len() == labels.len(), "{} embeddings, but {} labels", rows.len(), labels.len());
    let (mut aligned, mut same, mut kernel, mut pairs) = (0.0, 0u64, 0.0, 0u64);
    for (i, x) in rows.iter().enumerate() {
        for (j, y) in rows.iter().enumerate().take(i) {
            let squared: f32 = x.iter().zip(*y).map(|(x, y)| (x - y) * (x - y)).sum();
            let squared = f64::from(squared);
            kernel += (-how.t * squared).exp();
            pairs += 1;
            if labels[i] == labels[j] {
                aligned += squared.powf(how.alpha / 2.0);
                same += 1;
            }
        }
    }
    ensure!(same > 0, "no two examples share a class");
    Ok((aligned / same as f64, (kernel / pairs as f64).ln()))
}

/// Mean and sample standard deviation (0 for a single value).
pub fn mean_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(given: f64, wanted: f64) {
        assert!((given - wanted).abs() < 1e-6, "{given}, not {wanted}");
    }

    #[test]
    fn auroc_counts_pairs_and_halves_of_ties() {
        close(auroc(&[0.9, 0.8], &[0.1, 0.2]).unwrap(), 1.0);
        close(auroc(&[0.1, 0.2], &[0.9, 0.8]).unwrap(), 0.0);
        close(auroc(&[0.5, 0.5], &[0.5]).unwrap(), 0.5);
        // Pairs: 0.8 beats 0.3 and 0.5; 0.5 beats 0.3 and ties 0.5; 0.2 beats none: 3.5 of 6.
        close(auroc(&[0.8, 0.5, 0.2], &[0.3, 0.5]).unwrap(), 3.5 / 6.0);
    }

    #[test]
    fn average_precision_by_hand() {
        close(average_precision(&[0.9, 0.8], &[0.1]).unwrap(), 1.0);
        // From the top: + (P 1), - , + (P 2/3), - : (1 + 2/3) / 2.
        close(average_precision(&[0.9, 0.4], &[0.6, 0.1]).unwrap(), 5.0 / 6.0);
        // All tied: one threshold, precision = share of positives.
        close(average_precision(&[0.5, 0.5], &[0.5, 0.5, 0.5]).unwrap(), 0.4);
        // 0.8 (P 1), then a tie of one positive with one negative (P 2/3).
        close(average_precision(&[0.8, 0.5], &[0.5]).unwrap(), 0.5 + 0.5 * 2.0 / 3.0);
    }

    #[test]
    fn scores_that_cannot_be_ranked_are_errors() {
        assert!(auroc(&[], &[0.5]).is_err());
        assert!(auroc(&[f32::NAN], &[0.5]).is_err());
        assert!(average_precision(&[0.5], &[]).is_err());
    }

    #[test]
    fn geometry_by_hand() {
        let embeddings = Embeddings { values: vec![3.0, 0.0, 0.0, 2.0, 0.0, 5.0], width: 2 };
        let labels = [0, 0, 1];
        // On the unit circle: (1,0), (0,1), (0,1). Squared distances 2 (same class), 2, 0.
        let (alignment, uniformity) =
            alignment_uniformity(&embeddings, &labels, Geometry::default()).unwrap();
        close(alignment, 2.0);
        close(uniformity, ((2.0 * (-4f64).exp() + 1.0) / 3.0).ln());
        // As given: squared distances 13 (same class), 34, 9.
        let raw = Geometry { normalize: false, alpha: 1.0, t: 0.1 };
        let (alignment, uniformity) = alignment_uniformity(&embeddings, &labels, raw).unwrap();
        close(alignment, 13f64.sqrt());
        close(uniformity, (((-1.3f64).exp() + (-3.4f64).exp() + (-0.9f64).exp()) / 3.0).ln());
    }

    #[test]
    fn geometry_needs_a_pair_and_survives_zero() {
        let embeddings = Embeddings { values: vec![0.0, 0.0, 1.0, 0.0], width: 2 };
        assert!(alignment_uniformity(&embeddings, &[0, 1], Geometry::default()).is_err());
        close(alignment_uniformity(&embeddings, &[0, 0], Geometry::default()).unwrap().0, 1.0);
    }

    #[test]
    fn mean_and_deviation() {
        let (mean, deviation) = mean_deviation(&[1.0, 2.0, 6.0]);
        close(mean, 3.0);
        close(deviation, 7f64.sqrt());
        assert_eq!(mean_deviation(&[4.0]), (4.0, 0.0));
    }
}
