//! Z̃ = Z M̂ and Ỹ = Y M̂; equations (7) and (8).

use super::{Cut, OP, check, labels, read_targets};
use crate::cpu::Cpu;
use crate::cpu::matmul::{Matrix, Write, matmul};
use crate::cpu::pack::{largest_magnitude, read_position, write_row};
use crate::cpu::slab::{Slab, Source, even_tiles, row_stride};
use crate::cpu::workers::{self, Carve, Shared, Word, for_each_item, share};
use crate::element::Element;
use crate::error::Result;
use crate::op::{Columns, Engine, MixCall, MixInput, Mixed, Reborrow, check_call};
use crate::sampler::panel::{PANEL, Panel};
use crate::view::Layout;

/// n mixed embeddings at each position, and their targets when targets are given.
///
/// # Errors
/// Shapes that do not fit together, labels that are not below c, attention or weights that are negative or
/// not finite, an α out of range, sizes of 0 or whose product overflows.
///
/// ```
/// use multimix::{Alpha, MixInput, Mixing, View, cpu};
/// let features = vec![2.5f32; 8 * 4 * 3]; // (b = 8, r = 4, d = 3), all alike
/// let input = MixInput { features: View::new(&features, [8, 4, 3])?, targets: None, attention: None };
/// let mixed = cpu::mix(&Mixing::dirichlet(10, Alpha::PAPER), &input)?;
/// assert_eq!(mixed.features.len(), 10 * 4 * 3);
/// assert!(mixed.features.iter().all(|z| (z - 2.5).abs() < 1e-5)); // convex combinations
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn mix<'a, T: Element>(columns: impl Into<Columns<'a>>, input: &MixInput<'_, T>) -> Result<Mixed<T>> {
    Cpu.mix(&columns.into(), input)
}

/// Bytes of workspace that [`mix_into`] needs on the current rayon pool.
///
/// # Errors
/// As [`mix()`].
pub fn mix_workspace<T: Element>(call: &MixCall<'_, T>) -> Result<usize> {
    Ok(workers::bytes(words(&checked(call)?)))
}

fn checked<T: Element>(call: &MixCall<'_, T>) -> Result<Cut> {
    check_call(call)?;
    check(&call.columns, &call.input)?;
    Ok(Cut::new(&call.columns, &call.input))
}

fn words(cut: &Cut) -> usize {
    let soft = if cut.soft { cut.b * cut.c } else { 0 };
    let scratch = Panel::WORDS
        + Slab::words(cut.b, row_stride(cut.tile), false)
        + cut.b * cut.d
        + soft
        + row_stride(cut.tile) * cut.d.max(cut.c);
    cut.source_words + cut.label_words + workers::workers(cut.items()) * scratch
}

/// Mixed features and targets into the caller's memory.
///
/// # Errors
/// As [`mix()`], and [`ErrorKind::Workspace`](crate::ErrorKind::Workspace) when the workspace is smaller than
/// [`mix_workspace`] says.
pub fn mix_into<T: Element>(call: &mut MixCall<'_, T>, workspace: &mut [u8]) -> Result<()> {
    let cut = checked(call)?;
    let mut carve = Carve::new(workers::words(OP, workspace, words(&cut))?);
    let mut call = call.map(&mut Reborrow)?;
    let input = &call.input;
    let source = Source::new(&call.columns, cut.b, &input.attention, &mut carve);
    let labels = labels(&input.targets, &mut carve, cut.b);
    let features = share(&mut call.outputs.features);
    let targets = call.outputs.targets.as_mut().map(share);
    for_each_item(cut.items(), workers::workers(cut.items()), carve.rest(), |item, scratch| {
        Item { cut: &cut, source: &source, input, labels, item }.run(scratch, &features, &targets);
    });
    Ok(())
}

struct Item<'a, T> {
    cut: &'a Cut,
    source: &'a Source<'a>,
    input: &'a MixInput<'a, T>,
    labels: Option<&'a [u32]>,
    item: usize,
}

impl<T: Element> Item<'_, T> {
    fn run(
        &self,
        scratch: &mut [Word],
        features: &(Shared<T>, Layout<3>),
        targets: &Option<(Shared<f32>, Layout<3>)>,
    ) {
        let Cut { b, d, c, soft, tile, splits, .. } = *self.cut;
        let j = self.item / splits;
        let mut carve = Carve::new(scratch);
        let panel_words = carve.words(Panel::WORDS);
        let mut slab = Slab::new(&mut carve, b, row_stride(tile), false);
        let z = carve.floats(b * d);
        read_position(&self.input.features, j, z);
        let y = carve.floats(if soft { b * c } else { 0 });
        read_targets(&self.input.targets, y);
        let mixed = carve.floats(row_stride(tile) * d.max(c));
        let (largest_feature, largest_target) = (largest_magnitude(z), largest_magnitude(y));
        let columns = self.cut.columns(self.item);
        for first in columns.clone().step_by(PANEL) {
            let panel = self.source.panel(panel_words, j, first, PANEL.min(columns.end - first));
            let width = even_tiles(panel.k().len(), tile);
            for start in (0..panel.k().len()).step_by(width) {
                let count = width.min(panel.k().len() - start);
                let ks = self.source.columns(&panel, start, count);
                slab.draw(self.source, &panel, j, start, count);
                let matrix = Matrix::rows(&*slab.matrix, b, count, slab.stride).transposed();
                matmul(
                    Matrix::rows(&mut *mixed, count, d, d),
                    Write::Replace,
                    matrix,
                    Matrix::rows(&*z, b, d, d),
                );
                bound(&mut mixed[..count * d], largest_feature);
                write_mixed(mixed, ks.clone(), j, features);
                let Some(targets) = targets else { continue };
                match self.labels {
                    Some(labels) => mix_labels(mixed, c, &slab, labels),
                    None => {
                        let out = Matrix::rows(&mut *mixed, count, c, c);
                        matmul(out, Write::Replace, matrix, Matrix::rows(&*y, b, c, c));
                        bound(&mut mixed[..count * c], largest_target);
                    }
                }
                write_mixed(mixed, ks, j, targets);
            }
        }
    }
}

/// Keeps mixtures of values near the end of f32 within the largest of them, where rounding would carry them
/// past it.
fn bound(mixed: &mut [f32], largest: f32) {
    if largest.is_finite() && largest > f32::MAX / 2.0 {
        mixed.iter_mut().for_each(|x| *x = x.clamp(-largest, largest));
    }
}

/// Writes rows of a tile to columns `ks` of position j.
fn write_mixed<T: Element>(
    rows: &[f32],
    ks: impl Iterator<Item = usize>,
    j: usize,
    (out, layout): &(Shared<T>, Layout<3>),
) {
    let length = layout.shape[2];
    for (row, k) in rows.chunks_exact(length).zip(ks) {
        // SAFETY: the outputs are borrowed for the whole call; column k of position j belongs to one item.
        unsafe { write_row(row, 1.0, *out, layout, [k, j]) };
    }
}

/// Ỹ (columns, c) of labels: row k gathers M̂_ik at class y_i.
fn mix_labels(out: &mut [f32], c: usize, slab: &Slab<'_>, labels: &[u32]) {
    out[..slab.count * c].fill(0.0);
    for (i, &label) in labels.iter().enumerate() {
        let row = &slab.matrix[i * slab.stride..][..slab.count];
        row.iter().enumerate().for_each(|(x, m)| out[x * c + label as usize] += m);
    }
}
