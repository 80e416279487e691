//! Masked classes, logits of −∞: what they change in a tile. A class is masked in every mixture in which an
//! example that masks it has weight; its probability there is 0, and a target on it makes the mixture's loss
//! infinite. An example of weight 0 masks nothing.

use super::item::ColumnValues;

/// A tile of columns some of whose classes are masked.
pub(super) struct MaskedTile<'a, 's> {
    /// b, c and the columns.
    pub shape: [usize; 3],
    /// The distance between rows of what has a value for each column.
    pub stride: usize,
    /// S^j (b, c), −0 where the class is masked.
    pub position: &'a [f32],
    /// M̂ (b, stride).
    pub matrix: &'a [f32],
    /// S̃ (c, stride), to which masked classes have added nothing.
    pub logits: &'a mut [f32],
    pub labels: Option<&'a [u32]>,
    /// Y (b, c) and Ỹ (c, stride) of soft targets.
    pub targets: &'a [f32],
    pub mixed_targets: &'a [f32],
    pub unit: f32,
    pub values: &'a mut ColumnValues<'s>,
    /// (b, stride); empty where attention gets no gradient.
    pub d_matrix: &'a mut [f32],
}

impl MaskedTile<'_, '_> {
    /// Between the sums of targets and the softmax: masks S̃; Σ Ỹ S̃ is −∞ where a target lies on a masked
    /// class. Where attention gets a gradient, leaves −Σ_y Y_iy log p_yk over the other classes for each
    /// example.
    pub fn apply(&mut self) {
        let ([b, c, count], stride) = (self.shape, self.stride);
        for (at, s) in self.position.iter().enumerate() {
            if *s != 0.0 || s.is_sign_positive() {
                continue;
            }
            let weights = &self.matrix[at / c * stride..][..count];
            let logits = &mut self.logits[at % c * stride..][..count];
            logits
                .iter_mut()
                .zip(weights)
                .filter(|(_, m)| **m > 0.0)
                .for_each(|(s, _)| *s = f32::NEG_INFINITY);
        }
        match self.labels {
            Some(labels) => {
                for (i, &label) in labels.iter().enumerate() {
                    self.forbid(label as usize, |tile, k| tile.matrix[i * stride + k]);
                }
            }
            None => {
                (0..c).for_each(|class| self.forbid(class, |tile, k| tile.mixed_targets[class * stride + k]))
            }
        }
        if !self.d_matrix.is_empty() {
            (0..count).for_each(|k| self.values.lse[k] = self.log_sum_exp(k));
            for i in 0..b {
                (0..count).for_each(|k| self.d_matrix[i * stride + k] = self.misfit(i, k));
            }
        }
    }

    /// The mixtures whose target on this class is positive, although they mask it.
    fn forbid(&mut self, class: usize, target: impl Fn(&Self, usize) -> f32) {
        for k in 0..self.shape[2] {
            if self.logits[class * self.stride + k] == f32::NEG_INFINITY && target(self, k) > 0.0 {
                self.values.fit[k] = f32::NEG_INFINITY;
            }
        }
    }

    fn log_sum_exp(&self, k: usize) -> f32 {
        let column = || self.logits.iter().skip(k).step_by(self.stride);
        let max = column().copied().fold(f32::MIN, f32::max);
        let sum: f32 = column().map(|s| ((s - max) * self.unit).exp()).sum();
        max + sum.ln() / self.unit
    }

    /// −Σ_y Y_iy log p_yk over the classes that mixture k does not mask.
    fn misfit(&self, i: usize, k: usize) -> f32 {
        let log_p = |class: usize| {
            let logit = self.logits[class * self.stride + k];
            if logit == f32::NEG_INFINITY { 0.0 } else { logit - self.values.lse[k] }
        };
        let c = self.shape[1];
        match self.labels {
            Some(labels) => -log_p(labels[i] as usize),
            None => -(0..c).map(|class| self.targets[i * c + class] * log_p(class)).sum::<f32>(),
        }
    }

    /// After the softmax, of which a column of masked classes alone has made nothing: log 0 = −∞, and a sum
    /// that can be divided by.
    pub fn finish(&mut self) {
        for k in 0..self.shape[2] {
            let all_masked = self.values.sum[k] == 0.0;
            if all_masked {
                (self.values.lse[k], self.values.sum[k], self.values.ce[k]) = (f32::NEG_INFINITY, 1.0, 0.0);
            }
            if self.values.fit[k] == f32::NEG_INFINITY {
                self.values.ce[k] = f32::INFINITY;
            }
        }
    }
}
