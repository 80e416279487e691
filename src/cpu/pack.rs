//! Rows and positions of strided arrays as contiguous f32, and back.

use super::workers::{Carve, Shared};
use crate::element::Element;
use crate::op::Targets;
use crate::view::{Layout, View};

/// Copies row `[first, second, :]` as f32.
#[inline(always)]
pub(crate) fn read_row<T: Element>(values: &View<'_, T, 3>, [first, second]: [usize; 2], out: &mut [f32]) {
    let source = &values.data()[values.layout().offset([first, second, 0])..];
    match values.layout().strides[2] {
        1 => {
            for (x, value) in out.iter_mut().zip(source) {
                *x = value.to_f32();
            }
        }
        stride => {
            for (at, x) in out.iter_mut().enumerate() {
                *x = source[at * stride].to_f32();
            }
        }
    }
}

/// The largest magnitude; not finite where a value is not.
#[inline(always)]
pub(crate) fn largest_magnitude(values: &[f32]) -> f32 {
    // Magnitudes are in the order of their bits, whose maximum takes vector instructions.
    f32::from_bits(values.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff)))
}

/// A factor of gradients in f32. One past f32's range is the largest: zero times infinity were NaN.
pub(crate) fn finite(factor: f64) -> f32 {
    (factor as f32).clamp(f32::MIN, f32::MAX)
}

/// Copies position j of `values` (rows, r, columns) into `out`, row-major (rows, columns), as f32.
pub(crate) fn read_position<T: Element>(values: &View<'_, T, 3>, j: usize, out: &mut [f32]) {
    let columns = values.shape()[2];
    for (row, out) in out.chunks_exact_mut(columns).enumerate() {
        read_row(values, [row, j], out);
    }
}

/// Labels as words, as many as examples; nothing for soft targets.
pub(crate) fn read_labels<'w>(targets: &Targets<'_>, carve: &mut Carve<'w>, b: usize) -> Option<&'w [u32]> {
    let Targets::Labels(labels) = targets else { return None };
    let words = carve.words(b);
    words.iter_mut().enumerate().for_each(|(i, word)| *word = labels.class(i) as u32);
    Some(words)
}

/// Copies soft targets Y (b, c); labels leave `out` alone.
pub(crate) fn read_soft(targets: &Targets<'_>, out: &mut [f32]) {
    let Targets::Soft(rows) = targets else { return };
    let ([b, c], [row, column]) = (rows.shape(), rows.layout().strides);
    let layout = Layout { shape: [b, 1, c], strides: [row, 0, column] };
    read_position(&View { data: rows.data(), layout }, 0, out);
}

/// Writes `values` times `scale` to row `[first, second, :]`.
///
/// # Safety
/// `out` must be a live buffer that `layout` fits, injective, and no other thread may write the row.
#[inline(always)]
pub(crate) unsafe fn write_row<T: Element>(
    values: &[f32],
    scale: f32,
    out: Shared<T>,
    layout: &Layout<3>,
    [first, second]: [usize; 2],
) {
    let start = layout.offset([first, second, 0]);
    if layout.strides[2] == 1 {
        // SAFETY: the caller's promise.
        let target = unsafe { out.slice(start, values.len()) };
        for (x, &value) in target.iter_mut().zip(values) {
            *x = T::from_f32(value * scale);
        }
        return;
    }
    for (at, &value) in values.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { out.set(start + at * layout.strides[2], T::from_f32(value * scale)) };
    }
}

/// Writes a row-major (rows, columns) matrix times `scale` to position j of an output (rows, r, columns).
///
/// # Safety
/// As [`write_row`], for position j.
pub(crate) unsafe fn write_position<T: Element>(
    values: &[f32],
    scale: f32,
    out: Shared<T>,
    layout: &Layout<3>,
    j: usize,
) {
    for (row, values) in values.chunks_exact(layout.shape[2]).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { write_row(values, scale, out, layout, [row, j]) };
    }
}
