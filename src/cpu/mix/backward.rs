//! The gradients of mixing: dZ = dZ̃ M̂ᵀ, dY = Σ_j dỸ^j M̂^jᵀ, and through dM̂ = Zᵀ dZ̃ + Yᵀ dỸ that of
//! attention.

use super::{Cut, OP, check, labels, read_targets};
use crate::cpu::Cpu;
use crate::cpu::attention_sums::AttentionSums;
use crate::cpu::matmul::{Matrix, Write, matmul};
use crate::cpu::pack::{read_position, read_row, write_position};
use crate::cpu::slab::{Slab, Source, even_tiles, row_stride};
use crate::cpu::workers::{self, Carve, Shared, WideSums, Word, for_each_item, share};
use crate::element::Element;
use crate::error::Result;
use crate::op::{
    Columns, Engine, MixBackwardCall, MixBackwardOutputs, MixGradients, MixInput, MixedGradients, Reborrow,
    check_call,
};
use crate::sampler::panel::{PANEL, Panel};
use crate::view::{Layout, View, ViewMut};
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// The gradients of features, soft targets and attention, from those of the mixed ones. Draws what forward
/// drew. Those of attention grow as 1 / s_k, and explode at small α: see
/// [`LossOptions::detach_attention`](crate::LossOptions::detach_attention).
///
/// # Errors
/// As [`crate::cpu::mix()`].
pub fn mix_backward<'a, T: Element>(
    columns: impl Into<Columns<'a>>,
    input: &MixInput<'_, T>,
    gradients: &MixedGradients<'_, T>,
) -> Result<MixGradients<T>> {
    Cpu.mix_backward(&columns.into(), input, gradients, true)
}

/// Bytes of workspace that [`mix_backward_into`] needs on the current rayon pool.
///
/// # Errors
/// As [`mix_backward`].
pub fn mix_backward_workspace<T: Element>(call: &MixBackwardCall<'_, T>) -> Result<usize> {
    Ok(workers::bytes(Plan::new(call)?.words()))
}

/// A cut with the gradients asked for.
#[derive(Clone, Copy)]
struct Plan {
    cut: Cut,
    features: bool,
    targets: bool,
    attention: bool,
}

impl Plan {
    /// After the checks.
    fn new<T: Element>(call: &MixBackwardCall<'_, T>) -> Result<Self> {
        check_call(call)?;
        check(&call.columns, &call.input)?;
        Ok(Self {
            cut: Cut::new(&call.columns, &call.input),
            features: call.outputs.features.is_some(),
            targets: call.outputs.targets.is_some(),
            attention: call.outputs.attention.is_some(),
        })
    }

    fn feature_words(&self) -> usize {
        if self.features { self.cut.b * self.cut.d } else { 0 }
    }

    fn attention_words(&self) -> usize {
        if self.attention { WideSums::words(self.cut.b) } else { 0 }
    }

    fn target_words(&self) -> usize {
        if self.targets { self.cut.b * self.cut.c } else { 0 }
    }

    /// Words of an item's sums: dZ where it must be summed over items, Σ for da, its part of dY.
    fn item_words(&self) -> usize {
        let features = if self.cut.splits > 1 { self.feature_words() } else { 0 };
        features + self.attention_words() + self.target_words()
    }

    fn scratch_words(&self) -> usize {
        let Cut { b, d, c, soft, tile, .. } = self.cut;
        let stride = row_stride(tile);
        let d_matrix = if self.attention { (b + 2) * stride } else { 0 };
        Panel::WORDS
            + Slab::words(b, stride, self.attention)
            + d_matrix
            + stride * (d + c)
            + b * d
            + self.feature_words()
            + if soft { b * c } else { 0 }
    }

    fn words(&self) -> usize {
        let Cut { source_words, label_words, .. } = self.cut;
        let (items, workers) = (self.cut.items(), workers::workers(self.cut.items()));
        source_words + label_words + items * self.item_words() + workers * self.scratch_words()
    }
}

/// The gradients of mixing into the caller's memory.
///
/// # Errors
/// As [`mix_backward`], and [`ErrorKind::Workspace`](crate::ErrorKind::Workspace) when the workspace is
/// smaller than [`mix_backward_workspace`] says.
pub fn mix_backward_into<T: Element>(call: &mut MixBackwardCall<'_, T>, workspace: &mut [u8]) -> Result<()> {
    let plan = Plan::new(call)?;
    let mut carve = Carve::new(workers::words(OP, workspace, plan.words())?);
    let MixBackwardCall { columns, input, gradients, outputs } = call.map(&mut Reborrow)?;
    let MixBackwardOutputs { mut features, mut targets, mut attention } = outputs;
    let source = Source::new(&columns, plan.cut.b, &input.attention, &mut carve);
    let labels = labels(&input.targets, &mut carve, plan.cut.b);
    let item_words = plan.item_words();
    let results = carve.words(plan.cut.items() * item_words);
    let scratch = carve.rest();
    let d_features = features.as_mut().map(share);
    let (input, gradients) = (&input, &gradients);
    let mut call = Attempt { plan, source: &source, input, labels, gradients, scale: 1.0, d_features };
    if !call.run(results, scratch) {
        // Sums of opposite infinities would be NaN.
        call.scale = DOWN;
        call.run(results, scratch);
    }
    if item_words > 0 {
        call.add_items(results);
        call.write_attention(results, &mut attention);
        call.sum_targets(results, &mut targets);
    }
    Ok(())
}

/// What inputs and gradients are multiplied by where sums of their products would pass what f32 holds: 2^-88.
const DOWN: f32 = 1.0 / ((1u64 << 44) as f32 * (1u64 << 44) as f32);

/// A call at work.
struct Attempt<'a, T> {
    plan: Plan,
    source: &'a Source<'a>,
    input: &'a MixInput<'a, T>,
    labels: Option<&'a [u32]>,
    gradients: &'a MixedGradients<'a, T>,
    /// What inputs and gradients are multiplied by: 1 or [`DOWN`].
    scale: f32,
    d_features: Option<(Shared<T>, Layout<3>)>,
}

impl<T: Element> Attempt<'_, T> {
    /// Runs all items; whether every sum is finite.
    fn run(&self, results: &mut [Word], scratch: &mut [Word]) -> bool {
        let (items, item_words) = (self.plan.cut.items(), self.plan.item_words());
        let (shared, finite) = (Shared::new(results), AtomicBool::new(true));
        for_each_item(items, workers::workers(items), scratch, |item, scratch| {
            // SAFETY: results outlive this call, and each item writes its own.
            let result = unsafe { shared.slice(item * item_words, item_words) };
            let d_z = self.run_item(item, scratch, result, &finite);
            if let (Some((out, layout)), 1) = (&self.d_features, self.plan.cut.splits) {
                // SAFETY: the output is borrowed for the whole call; the item is its whole position.
                unsafe { write_position(d_z, 1.0 / self.scale, *out, layout, item) };
            }
        });
        finite.into_inner()
    }

    /// Adds up the items of each position, and writes dZ where they have parts of it.
    fn add_items(&self, results: &mut [Word]) {
        let (item_words, splits) = (self.plan.item_words(), self.plan.cut.splits);
        let features = if splits > 1 { self.plan.feature_words() } else { 0 };
        let attention = features..features + self.plan.attention_words();
        results.par_chunks_exact_mut(splits * item_words).enumerate().for_each(|(j, position)| {
            let (total, rest) = position.split_at_mut(item_words);
            for next in rest.chunks_exact_mut(item_words) {
                WideSums(&mut total[attention.clone()]).add_all(&mut next[attention.clone()]);
                for part in [0..attention.start, attention.end..item_words] {
                    let sums: &mut [f32] = bytemuck::cast_slice_mut(&mut total[part.clone()]);
                    let values: &[f32] = bytemuck::cast_slice(&next[part]);
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            }
            if let (Some((out, layout)), true) = (&self.d_features, splits > 1) {
                let sums = bytemuck::cast_slice(&total[..features]);
                // SAFETY: the output is borrowed for the whole call; this closure alone writes position j.
                unsafe { write_position(sums, 1.0 / self.scale, *out, layout, j) };
            }
        });
    }

    /// da_ij = 2^e_j Σ; nothing for a map without mass, which is no variable.
    fn write_attention(&self, results: &mut [Word], out: &mut Option<ViewMut<'_, f32, 2>>) {
        let (Some(out), Some(given), Some(scaled)) = (out, &self.input.attention, &self.source.attention)
        else {
            return;
        };
        let Cut { b, r, splits, .. } = self.plan.cut;
        let at = if splits > 1 { self.plan.feature_words() } else { 0 };
        let unscale = f64::from(self.scale).powi(-2);
        for i in 0..b {
            let replaced = (0..r).all(|j| given.get([i, j]) == 0.0);
            for j in 0..r {
                let start = j * splits * self.plan.item_words() + at;
                let sum = WideSums(&mut results[start..][..self.plan.attention_words()]).get(i);
                let gradient = (f64::from(scaled.scale(j)) * unscale * sum) as f32;
                out.set([i, j], if replaced { 0.0 } else { gradient });
            }
        }
    }

    /// dY = Σ_j of the positions' parts, in order.
    fn sum_targets(&self, results: &[Word], out: &mut Option<ViewMut<'_, f32, 2>>) {
        let Some(out) = out else { return };
        let Plan { cut, .. } = self.plan;
        let (words, per_position) = (self.plan.item_words(), self.plan.item_words() * cut.splits);
        let start = words - self.plan.target_words();
        for index in 0..self.plan.target_words() {
            let parts = (0..cut.r).map(|j| f32::from_bits(results[j * per_position + start + index]));
            out.set([index / cut.c, index % cut.c], parts.sum::<f32>() / self.scale);
        }
    }

    /// Runs an item and returns its dZ^j (b, d), times the scale.
    fn run_item<'s>(
        &self,
        item: usize,
        scratch: &'s mut [Word],
        result: &'s mut [Word],
        finite: &AtomicBool,
    ) -> &'s [f32] {
        let Cut { b, d, c, soft, tile, splits, .. } = self.plan.cut;
        let (j, stride) = (item / splits, row_stride(tile));
        let (mut carve, mut result) = (Carve::new(scratch), Carve::new(result));
        let panel_words = carve.words(Panel::WORDS);
        let mut slab = Slab::new(&mut carve, b, stride, self.plan.attention);
        let own = carve.floats(self.plan.feature_words());
        let d_z = if splits > 1 { result.floats(self.plan.feature_words()) } else { own };
        let sums = result.words(self.plan.attention_words());
        let d_y = result.floats(self.plan.target_words());
        d_z.fill(0.0);
        d_y.fill(0.0);
        sums.fill(0);
        let mut sums = WideSums(sums);
        let z = carve.floats(b * d);
        read_position(&self.input.features, j, z);
        let y = carve.floats(if soft { b * c } else { 0 });
        read_targets(&self.input.targets, y);
        self.bring_to_scale(z);
        self.bring_to_scale(y);
        let d_mixed = carve.floats(stride * d);
        let d_mixed_targets = carve.floats(stride * c);
        let d_matrix = carve.floats(if self.plan.attention { b * stride } else { 0 });
        let [factor, dot] = [(); 2].map(|_| carve.floats(if self.plan.attention { stride } else { 0 }));
        factor.fill(1.0);
        let columns = self.plan.cut.columns(item);
        for first in columns.clone().step_by(PANEL) {
            let panel = self.source.panel(panel_words, j, first, PANEL.min(columns.end - first));
            let width = even_tiles(panel.k().len(), tile);
            for start in (0..panel.k().len()).step_by(width) {
                let count = width.min(panel.k().len() - start);
                let ks = self.source.columns(&panel, start, count);
                slab.draw(self.source, &panel, j, start, count);
                read_columns(&self.gradients.features, ks.clone(), j, d_mixed);
                self.bring_to_scale(&mut d_mixed[..count * d]);
                let gradient = Matrix::rows(&*d_mixed, count, d, d);
                let matrix = Matrix::rows(&*slab.matrix, b, count, stride);
                if self.plan.features {
                    matmul(Matrix::rows(&mut *d_z, b, d, d), Write::Add, matrix, gradient);
                }
                if let Some(targets) = &self.gradients.targets {
                    read_columns(targets, ks, j, d_mixed_targets);
                    self.bring_to_scale(&mut d_mixed_targets[..count * c]);
                }
                let target_gradient = Matrix::rows(&*d_mixed_targets, count, c, c);
                if self.plan.targets {
                    matmul(Matrix::rows(&mut *d_y, b, c, c), Write::Add, matrix, target_gradient);
                }
                if !self.plan.attention {
                    continue;
                }
                let out = Matrix::rows(&mut *d_matrix, b, count, stride);
                matmul(out, Write::Replace, Matrix::rows(&*z, b, d, d), gradient.transposed());
                if self.gradients.targets.is_some() {
                    self.add_targets(d_matrix, stride, y, target_gradient);
                }
                let over_mass = slab.over_mass.as_deref().unwrap_or_default();
                let tile_sums = AttentionSums {
                    d_matrix,
                    matrix: slab.matrix,
                    over_mass,
                    factor,
                    weighted: None,
                    stride,
                    count,
                };
                tile_sums.add_to(b, dot, &mut sums);
            }
        }
        let mut wide = (0..self.plan.attention_words() / 2).map(|i| sums.get(i));
        if !(d_z.iter().chain(&*d_y).all(|x| x.is_finite()) && wide.all(f64::is_finite)) {
            finite.store(false, Ordering::Relaxed);
        }
        d_z
    }

    fn bring_to_scale(&self, values: &mut [f32]) {
        if self.scale != 1.0 {
            values.iter_mut().for_each(|x| *x *= self.scale);
        }
    }

    /// dM̂ += Yᵀ dỸ.
    fn add_targets(&self, d_matrix: &mut [f32], stride: usize, y: &[f32], gradient: Matrix<&[f32]>) {
        let Cut { b, c, .. } = self.plan.cut;
        let count = gradient.rows;
        let Some(labels) = self.labels else {
            let out = Matrix::rows(d_matrix, b, count, stride);
            return matmul(out, Write::Add, Matrix::rows(y, b, c, c), gradient.transposed());
        };
        for (row, &label) in d_matrix.chunks_exact_mut(stride).zip(labels) {
            let classes = gradient.values.chunks_exact(c).map(|dy| dy[label as usize]);
            row[..count].iter_mut().zip(classes).for_each(|(d, dy)| *d += dy * self.scale);
        }
    }
}

/// Copies columns `ks` of position j of an array (n, r, length) as f32, one after another.
fn read_columns<T: Element>(
    values: &View<'_, T, 3>,
    ks: impl Iterator<Item = usize>,
    j: usize,
    out: &mut [f32],
) {
    let length = values.shape()[2];
    for (row, k) in out.chunks_exact_mut(length).zip(ks) {
        read_row(values, [k, j], row);
    }
}
