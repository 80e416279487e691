//! One item of the loss: a position and a range of its columns, tile after tile.

use super::masks::MaskedTile;
use super::plan::{COLUMN_VALUES, Plan, SUM_WORDS, Sums};
use super::tile::{self, Tile};
use crate::cpu::attention_sums::AttentionSums;
use crate::cpu::matmul::{Matrix, Write, matmul};
use crate::cpu::pack::{read_position, read_soft};
use crate::cpu::slab::{Slab, Source, even_tiles};
use crate::cpu::workers::{Carve, Shared, WideSums, Word};
use crate::element::Element;
use crate::op::LossInput;
use crate::problem::Reduction;
use crate::sampler::panel::PANEL;
use crate::view::Layout;

/// Where values of single mixtures go.
pub(super) struct MixtureOutputs {
    pub ce: Option<(Shared<f32>, Layout<2>)>,
    pub lse: Option<(Shared<f32>, Layout<2>)>,
}

impl MixtureOutputs {
    /// Writes the values of columns `ks` at position j, whose logits were taken on a scale.
    fn write(
        &self,
        j: usize,
        ks: impl Iterator<Item = usize> + Clone,
        ce: &[f32],
        lse: &[f32],
        scale: Scale,
    ) {
        for (out, values, offset) in [(&self.ce, ce, 0.0), (&self.lse, lse, scale.offset)] {
            let Some((out, layout)) = out else { continue };
            for (k, &value) in ks.clone().zip(values) {
                // SAFETY: the output is borrowed for the whole call; column k of position j belongs to one
                // item.
                unsafe { out.set(layout.offset([j, k]), value * scale.unit + offset) };
            }
        }
    }
}

/// Logits past this, 2^60, are taken by the [`UNIT`], so that no sum or product of theirs is infinite.
const LARGE: f32 = (1u64 << 60) as f32;
/// 2^68.
const UNIT: f32 = (1u64 << 34) as f32 * (1u64 << 34) as f32;

/// How the logits of a position are taken: less an offset, in units.
#[derive(Clone, Copy)]
struct Scale {
    offset: f32,
    unit: f32,
    /// Whether classes are masked: logits of −∞.
    masked: bool,
}

impl Scale {
    /// The offset is the middle of the logits where they lie between half of it and its double, so that
    /// taking it off is exact, else nothing: loss and gradients do not see what all logits of a position have
    /// in common, but rounding does, since the columns of M̂ sum to one only nearly.
    fn of(logits: &[f32]) -> Self {
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        let mut masked = false;
        for &s in logits {
            // No early end and no filter: this loop takes vector instructions.
            low = if s.is_finite() && s < low { s } else { low };
            high = if s.is_finite() && s > high { s } else { high };
            masked |= s == f32::NEG_INFINITY;
        }
        let middle = 0.5 * low + 0.5 * high;
        let near = |s: f32| s / middle >= 0.5 && s / middle <= 2.0;
        let offset = if near(low) && near(high) { middle } else { 0.0 };
        let largest = (low - offset).abs().max((high - offset).abs());
        let unit = if largest.is_finite() && largest > LARGE { UNIT } else { 1.0 };
        Self { offset, unit, masked }
    }

    /// Brings logits to the scale. A masked class becomes −0, which mixes as nothing and is told by its sign:
    /// no other zero is negative.
    fn take(&self, logits: &mut [f32]) {
        let to_units = 1.0 / self.unit;
        for s in logits {
            *s = if *s == f32::NEG_INFINITY { -0.0 } else { (*s - self.offset) * to_units + 0.0 };
        }
    }
}

/// CE of the mixture that has all examples alike, in units, or nothing where it is not finite. `mean` is
/// scratch for one value per class.
fn even_mixture_loss(
    position: &[f32],
    unit: f32,
    labels: Option<&[u32]>,
    targets: &[f32],
    mean: &mut [f32],
) -> f32 {
    let c = mean.len();
    let share = c as f32 / position.len() as f32;
    mean.fill(0.0);
    for row in position.chunks_exact(c) {
        mean.iter_mut().zip(row).for_each(|(mean, s)| *mean += share * s);
    }
    let max = mean.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let lse = max + mean.iter().map(|s| ((s - max) * unit).exp()).sum::<f32>().ln() / unit;
    let ce: f32 = match labels {
        Some(labels) => labels.iter().map(|&y| lse - mean[y as usize]).sum(),
        None => {
            targets.chunks_exact(c).flat_map(|row| row.iter().zip(&*mean)).map(|(y, s)| y * (lse - s)).sum()
        }
    };
    if ce.is_finite() { share * ce } else { 0.0 }
}

/// One item at work: a position and a range of its columns, in a worker's scratch.
pub(super) struct ItemRun<'a, 's> {
    plan: &'a Plan,
    source: &'a Source<'a>,
    labels: Option<&'a [u32]>,
    pub j: usize,
    columns: std::ops::Range<usize>,
    slab: Slab<'s>,
    /// S̃, then E, then the gradient on the scale of the sums; (c, stride).
    logits: &'s mut [f32],
    /// Ỹ (c, stride).
    mixed_targets: &'s mut [f32],
    /// dM̂ on the scale of the sums; (b, stride).
    d_matrix: &'s mut [f32],
    /// S^j (b, c) on its scale.
    position: &'s mut [f32],
    scale: Scale,
    /// CE of the even mixture, near which those of the columns lie, in units.
    around: f32,
    /// Y (b, c) of soft targets.
    targets: &'s mut [f32],
    values: ColumnValues<'s>,
    sums: &'s mut [Word],
    /// dS^j (b, c) before its scale.
    pub d_logits: &'s mut [f32],
    attention_sums: WideSums<'s>,
}

/// A value for each column of the tile; lse, fit and CE in units.
pub(super) struct ColumnValues<'s> {
    pub lse: &'s mut [f32],
    pub sum: &'s mut [f32],
    pub fit: &'s mut [f32],
    pub total: &'s mut [f32],
    entropy: &'s mut [f32],
    pub ce: &'s mut [f32],
    factor: &'s mut [f32],
    dot: &'s mut [f32],
}

impl<'a, 's> ItemRun<'a, 's> {
    pub fn new<T: Element>(
        plan: &'a Plan,
        source: &'a Source<'a>,
        input: &LossInput<'_, T>,
        labels: Option<&'a [u32]>,
        item: usize,
        scratch: &'s mut [Word],
        result: &'s mut [Word],
    ) -> Self {
        let (Plan { b, c, stride, .. }, j) = (*plan, item / plan.splits);
        let mut carve = Carve::new(scratch);
        let slab = Slab::new(&mut carve, b, stride, plan.attention_gradient);
        let logits = carve.floats(c * stride);
        let mixed_targets = carve.floats(if plan.has_mixed_targets() { c * stride } else { 0 });
        let d_matrix = carve.floats(if plan.attention_gradient { b * stride } else { 0 });
        let [lse, sum, fit, total, entropy, ce, factor, dot] =
            [(); COLUMN_VALUES].map(|_| carve.floats(stride));
        let values = ColumnValues { lse, sum, fit, total, entropy, ce, factor, dot };
        let position = carve.floats(b * c);
        read_position(&input.logits, j, position);
        let scale = Scale::of(position);
        scale.take(position);
        let targets = carve.floats(if plan.soft { b * c } else { 0 });
        read_soft(&input.targets, targets);
        let around = match plan.attention_gradient {
            true => even_mixture_loss(position, scale.unit, labels, targets, &mut logits[..c]),
            false => 0.0,
        };
        let mut result = Carve::new(result);
        let sums = result.words(SUM_WORDS);
        let attention_sums = result.words(plan.attention_sum_words());
        let d_logits = match plan.writes_directly() {
            true => carve.floats(b * c),
            false => result.floats(if plan.gradient { b * c } else { 0 }),
        };
        d_logits.fill(0.0);
        attention_sums.fill(0);
        let columns = plan.columns(item % plan.splits);
        Self {
            plan,
            source,
            labels,
            j,
            columns,
            slab,
            logits,
            mixed_targets,
            d_matrix,
            position,
            scale,
            around,
            targets,
            values,
            sums,
            d_logits,
            attention_sums: WideSums(attention_sums),
        }
    }

    /// Runs the item; gives its sums. dS lies in [`ItemRun::d_logits`] then.
    pub fn run(&mut self, panel: &mut [Word], mixtures: &MixtureOutputs) -> Sums {
        let mut sums = Sums::default();
        for first in self.columns.clone().step_by(PANEL) {
            let count = PANEL.min(self.columns.end - first);
            let panel = self.source.panel(panel, self.j, first, count);
            let width = even_tiles(count, self.plan.tile);
            for start in (0..count).step_by(width) {
                let count = width.min(count - start);
                self.slab.draw(self.source, &panel, self.j, start, count);
                sums = sums.plus(self.forward(count));
                let ks = self.source.columns(&panel, start, count);
                mixtures.write(self.j, ks, self.values.ce, self.values.lse, self.scale);
                if self.plan.gradient {
                    self.backward(count);
                }
            }
        }
        sums.around = self.around.into();
        sums.unit = self.scale.unit.into();
        sums.store(self.sums);
        sums
    }

    fn weighted(&self) -> bool {
        self.plan.reduction == Reduction::AttentionWeighted
    }

    /// S̃ = S M̂ and its loss; leaves E in place of S̃.
    fn forward(&mut self, count: usize) -> Sums {
        let Plan { b, c, stride, .. } = *self.plan;
        let width = count.next_multiple_of(crate::sampler::tile::LANES);
        let matrix = Matrix::rows(&*self.slab.matrix, b, count, stride);
        let out = Matrix::rows(&mut *self.logits, c, count, stride);
        matmul(out, Write::Replace, Matrix::rows(&*self.position, b, c, c).transposed(), matrix);
        self.fit(count, width);
        if self.scale.masked {
            self.masked_tile(count).apply();
        }
        let values = &mut self.values;
        let logits = Tile { values: &mut *self.logits, stride, width };
        tile::exponentials(logits, c, self.scale.unit, values.lse, values.sum);
        for k in 0..count {
            values.ce[k] = values.total[k] * values.lse[k] - values.fit[k];
        }
        if self.scale.masked {
            self.masked_tile(count).finish();
        }
        let (values, mut sums) = (&mut self.values, Sums::default());
        let (weighted, unit) =
            (self.plan.reduction == Reduction::AttentionWeighted, f64::from(self.scale.unit));
        for k in 0..count {
            let weight = if weighted { self.slab.mass[k] as f64 } else { 1.0 };
            // A mixture without weight counts for nothing, whatever its loss.
            sums.loss += if weight > 0.0 { weight * values.ce[k] as f64 * unit } else { 0.0 };
            sums.mass += weight;
            if self.plan.kl {
                sums.entropy += weight * values.entropy[k] as f64;
            }
        }
        sums
    }

    fn masked_tile(&mut self, count: usize) -> MaskedTile<'_, 's> {
        let Plan { b, c, stride, .. } = *self.plan;
        MaskedTile {
            shape: [b, c, count],
            stride,
            position: self.position,
            matrix: self.slab.matrix,
            logits: self.logits,
            labels: self.labels,
            targets: self.targets,
            mixed_targets: self.mixed_targets,
            unit: self.scale.unit,
            values: &mut self.values,
            d_matrix: self.d_matrix,
        }
    }

    /// Σ Ỹ S̃ of every column, Σ Ỹ, and the entropy where it is asked for.
    fn fit(&mut self, count: usize, width: usize) {
        let Plan { b, c, stride, .. } = *self.plan;
        let values = &mut self.values;
        let logits = Tile { values: &mut *self.logits, stride, width };
        let mut mixed = Tile { values: &mut *self.mixed_targets, stride, width };
        match self.labels {
            Some(labels) => {
                let negated = self.plan.attention_gradient.then_some(&mut *self.d_matrix);
                tile::label_fit(&logits, self.slab.matrix, labels, values.fit, negated);
                values.total[..width].fill(1.0);
                if self.plan.kl {
                    tile::mixed_labels(&mut mixed, c, self.slab.matrix, labels);
                }
            }
            None => {
                let targets = Matrix::rows(&*self.targets, b, c, c);
                let matrix = Matrix::rows(&*self.slab.matrix, b, count, stride);
                let out = Matrix::rows(&mut *mixed.values, c, count, stride);
                matmul(out, Write::Replace, targets.transposed(), matrix);
                tile::soft_fit(&logits, &mixed, c, values.fit, values.total);
                if self.plan.attention_gradient {
                    let out = Matrix::rows(&mut *self.d_matrix, b, count, stride);
                    let logits = Matrix::rows(&*logits.values, c, count, stride);
                    matmul(out, Write::Replace, targets, logits);
                    self.d_matrix.iter_mut().for_each(|d| *d = -*d);
                }
            }
        }
        if self.plan.kl {
            tile::entropy(&mixed, c, values.entropy);
        }
    }

    /// Adds the tile's share of dS and of the sums for da. All on the scale of the sums: column k is Σ E_k /
    /// q_k too large.
    fn backward(&mut self, count: usize) {
        let Plan { b, c, stride, .. } = *self.plan;
        let width = count.next_multiple_of(crate::sampler::tile::LANES);
        let weighted = self.weighted();
        let values = &mut self.values;
        let mut e = Tile { values: &mut *self.logits, stride, width };
        match self.labels {
            Some(labels) => tile::subtract_labels(&mut e, self.slab.matrix, labels, values.sum),
            None => {
                let mixed = Tile { values: &mut *self.mixed_targets, stride, width };
                tile::subtract_targets(&mut e, &mixed, c, values.total, values.sum);
            }
        }
        for k in 0..count {
            values.factor[k] = if weighted { self.slab.mass[k] } else { 1.0 } / values.sum[k];
        }
        if self.plan.attention_gradient {
            // What is infinite counts for nothing here: the position has no gradient, or the mixture no
            // weight.
            values.ce[..count].iter_mut().filter(|ce| ce.is_infinite()).for_each(|ce| *ce = self.around);
            self.attention_backward(count);
        }
        let gradient = Matrix::rows(&*self.logits, c, count, stride);
        let mut matrix = Tile { values: &mut *self.slab.matrix, stride, width };
        tile::scale_columns(&mut matrix, b, self.values.factor);
        let matrix = Matrix::rows(&*self.slab.matrix, b, count, stride);
        let out = Matrix::rows(&mut *self.d_logits, b, c, c);
        matmul(out, Write::Add, matrix, gradient.transposed());
    }

    /// dM̂_ik = S_iᵀ G_k − q_k Σ_y Y_iy log p_yk, times Σ E_k / q_k; then its sums over the columns.
    fn attention_backward(&mut self, count: usize) {
        let Plan { b, c, stride, .. } = *self.plan;
        let values = &mut self.values;
        for i in 0..b {
            // −Σ_y Y_iy log p_yk = t_i lse_k − Σ_y Y_iy S̃_yk, of which the second part is here already, and
            // all of it where classes are masked.
            let total = match self.labels {
                Some(_) => 1.0,
                None => self.targets[i * c..][..c].iter().sum::<f32>(),
            };
            let row = self.d_matrix[i * stride..][..count].iter_mut().zip(&*values.lse).zip(&*values.sum);
            match self.scale.masked {
                true => row.for_each(|((d, _), sum)| *d *= sum),
                false => row.for_each(|((d, lse), sum)| *d = (total * lse + *d) * sum),
            }
        }
        let gradient = Matrix::rows(&*self.logits, c, count, stride);
        let out = Matrix::rows(&mut *self.d_matrix, b, count, stride);
        matmul(out, Write::Add, Matrix::rows(&*self.position, b, c, c), gradient);
        let Some(over_mass) = &self.slab.over_mass else { return };
        let sums = AttentionSums {
            d_matrix: self.d_matrix,
            matrix: self.slab.matrix,
            over_mass,
            factor: values.factor,
            weighted: Some((&*self.slab.mass, &*values.ce, self.around)),
            stride,
            count,
        };
        sums.add_to(b, values.dot, &mut self.attention_sums);
    }
}
