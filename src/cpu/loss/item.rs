//! One item of the loss: a position and a range of its columns, tile after tile.

use super::plan::{COLUMN_VALUES, Plan, SUM_WORDS, Sums};
use super::tile::{self, Tile};
use crate::cpu::attention_sums::AttentionSums;
use crate::cpu::matmul::{Matrix, Write, matmul};
use crate::cpu::pack::{read_position, write_position};
use crate::cpu::slab::{Slab, Source, even_tiles};
use crate::cpu::workers::{Carve, Shared, Word};
use crate::cpu::{LossInput, Targets};
use crate::element::Element;
use crate::problem::Reduction;
use crate::sampler::panel::PANEL;
use crate::view::{Layout, View};

/// Where values of single mixtures go.
pub(super) struct MixtureOutputs {
    pub ce: Option<(Shared<f32>, Layout<2>)>,
    pub lse: Option<(Shared<f32>, Layout<2>)>,
}

impl MixtureOutputs {
    /// Writes the values of columns `ks` at position j, whose logits were taken less `offset`.
    fn write(&self, j: usize, ks: &[u32], ce: &[f32], lse: &[f32], offset: f32) {
        for (out, values, offset) in [(&self.ce, ce, 0.0), (&self.lse, lse, offset)] {
            let Some((out, layout)) = out else { continue };
            for (&k, &value) in ks.iter().zip(values) {
                // SAFETY: the output is borrowed for the whole call; column k of position j belongs to one item.
                unsafe { out.set(layout.offset([j, k as usize]), value + offset) };
            }
        }
    }
}

/// The middle of the logits where they lie between half of it and its double, so that taking it off is exact, else nothing.
///
/// Loss and gradients do not see what all logits of a position have in common, but rounding does: the columns of M̂ sum to one only nearly.
/// Infinite logits, which mask classes, do not count.
fn common_offset(logits: &[f32]) -> f32 {
    let finite = logits.iter().copied().filter(|s| s.is_finite());
    let (low, high) =
        finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), s| (low.min(s), high.max(s)));
    let middle = 0.5 * low + 0.5 * high;
    let near = |s: f32| s / middle >= 0.5 && s / middle <= 2.0;
    if near(low) && near(high) { middle } else { 0.0 }
}

/// CE of the mixture that has all examples alike, or nothing where it is not finite. `mean` is scratch for one value per class.
fn even_mixture_loss(position: &[f32], labels: Option<&[u32]>, targets: &[f32], mean: &mut [f32]) -> f32 {
    let c = mean.len();
    let share = c as f32 / position.len() as f32;
    mean.fill(0.0);
    for row in position.chunks_exact(c) {
        mean.iter_mut().zip(row).for_each(|(mean, s)| *mean += share * s);
    }
    let max = mean.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let lse = max + mean.iter().map(|s| (s - max).exp()).sum::<f32>().ln();
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
    j: usize,
    columns: std::ops::Range<usize>,
    slab: Slab<'s>,
    /// S̃, then E, then the gradient on the scale of the sums; (c, stride).
    logits: &'s mut [f32],
    /// Ỹ (c, stride).
    mixed_targets: &'s mut [f32],
    /// dM̂ on the scale of the sums; (b, stride).
    d_matrix: &'s mut [f32],
    /// S^j (b, c) less its offset.
    position: &'s mut [f32],
    offset: f32,
    /// CE of the even mixture, near which those of the columns lie.
    around: f32,
    /// Y (b, c) of soft targets.
    targets: &'s mut [f32],
    values: ColumnValues<'s>,
    sums: &'s mut [Word],
    /// dS^j (b, c) before its scale.
    d_logits: &'s mut [f32],
    attention_sums: &'s mut [f32],
}

/// A value for each column of the tile.
struct ColumnValues<'s> {
    lse: &'s mut [f32],
    sum: &'s mut [f32],
    fit: &'s mut [f32],
    total: &'s mut [f32],
    entropy: &'s mut [f32],
    ce: &'s mut [f32],
    factor: &'s mut [f32],
    dot: &'s mut [f32],
}

impl<'a, 's> ItemRun<'a, 's> {
    pub fn new<T: Element>(
        plan: &'a Plan,
        source: &'a Source<'a>,
        input: &LossInput<'a, T>,
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
        let offset = common_offset(position);
        position.iter_mut().for_each(|s| *s -= offset);
        let targets = carve.floats(if plan.soft { b * c } else { 0 });
        let labels = match input.targets {
            Targets::Labels(labels) => Some(labels),
            Targets::Soft(rows) => {
                let [row, column] = rows.layout().strides;
                if let Ok(rows) = View::with_strides(rows.data(), [b, 1, c], [row, 0, column]) {
                    read_position(&rows, 0, targets);
                }
                None
            }
        };
        let around = match plan.attention_gradient {
            true => even_mixture_loss(position, labels, targets, &mut logits[..c]),
            false => 0.0,
        };
        let mut result = Carve::new(result);
        let sums = result.words(SUM_WORDS);
        let attention_sums = result.floats(if plan.attention_gradient { 3 * b } else { 0 });
        let d_logits = match plan.writes_directly() {
            true => carve.floats(b * c),
            false => result.floats(if plan.gradient { b * c } else { 0 }),
        };
        d_logits.fill(0.0);
        attention_sums.fill(0.0);
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
            offset,
            around,
            targets,
            values,
            sums,
            d_logits,
            attention_sums,
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
                let ks = &panel.k()[start..start + count];
                mixtures.write(self.j, ks, self.values.ce, self.values.lse, self.offset);
                if self.plan.gradient {
                    self.backward(count);
                }
            }
        }
        sums.around = self.around.into();
        sums.store(self.sums);
        sums
    }

    /// Writes dS of a whole position, times `scale`.
    ///
    /// # Safety
    /// As [`write_position`].
    pub unsafe fn write<T: Element>(&self, scale: f32, out: Shared<T>, layout: &Layout<3>) {
        // SAFETY: the caller's promise.
        unsafe { write_position(self.d_logits, scale, out, layout, self.j) };
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
        let values = &mut self.values;
        let logits = Tile { values: &mut *self.logits, stride, width };
        tile::exponentials(logits, c, values.lse, values.sum);
        let mut sums = Sums::default();
        let weighted = self.plan.reduction == Reduction::AttentionWeighted;
        for k in 0..count {
            values.ce[k] = values.total[k] * values.lse[k] - values.fit[k];
            let weight = if weighted { self.slab.mass[k] as f64 } else { 1.0 };
            sums.loss += weight * values.ce[k] as f64;
            sums.mass += weight;
            if self.plan.kl {
                sums.entropy += weight * values.entropy[k] as f64;
            }
        }
        sums
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

    /// Adds the tile's share of dS and of the sums for da. All on the scale of the sums: column k is Σ E_k / q_k too large.
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
            // −Σ_y Y_iy log p_yk = t_i lse_k − Σ_y Y_iy S̃_yk, of which the second part is here already.
            let total = match self.labels {
                Some(_) => 1.0,
                None => self.targets[i * c..][..c].iter().sum::<f32>(),
            };
            let row = self.d_matrix[i * stride..][..count].iter_mut().zip(&*values.lse).zip(&*values.sum);
            row.for_each(|((d, lse), sum)| *d = (total * lse + *d) * sum);
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
        sums.add_to(b, values.dot, self.attention_sums);
    }
}
