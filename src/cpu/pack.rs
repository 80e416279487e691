//! One position of a strided array as a contiguous f32 matrix, and back.

use super::workers::Shared;
use crate::element::Element;
use crate::view::{Layout, View};

/// Copies position j of `values` (rows, r, columns) into `out`, row-major (rows, columns), as f32.
pub(crate) fn read_position<T: Element>(values: &View<'_, T, 3>, j: usize, out: &mut [f32]) {
    let [rows, _, columns] = values.shape();
    let [_, _, stride] = values.layout().strides;
    for row in 0..rows {
        let start = values.layout().offset([row, j, 0]);
        let source = &values.data()[start..];
        let target = &mut out[row * columns..][..columns];
        if stride == 1 {
            target.iter_mut().zip(&source[..columns]).for_each(|(x, value)| *x = value.to_f32());
        } else {
            target.iter_mut().enumerate().for_each(|(column, x)| *x = source[column * stride].to_f32());
        }
    }
}

/// Writes a row-major (rows, columns) matrix times `scale` to position j of an output (rows, r, columns).
///
/// # Safety
/// `out` must be a live buffer that `layout` fits, injective, and no other thread may write position j.
pub(crate) unsafe fn write_position<T: Element>(
    values: &[f32],
    scale: f32,
    out: Shared<T>,
    layout: &Layout<3>,
    j: usize,
) {
    let [rows, _, columns] = layout.shape;
    let stride = layout.strides[2];
    for row in 0..rows {
        let start = layout.offset([row, j, 0]);
        let source = &values[row * columns..][..columns];
        if stride == 1 {
            // SAFETY: the row belongs to position j, which this thread alone writes.
            let target = unsafe { out.slice(start, columns) };
            target.iter_mut().zip(source).for_each(|(x, &value)| *x = T::from_f32(value * scale));
        } else {
            for (column, &value) in source.iter().enumerate() {
                // SAFETY: as above.
                unsafe { out.set(start + column * stride, T::from_f32(value * scale)) };
            }
        }
    }
}
