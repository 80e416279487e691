//! A gradient times a factor.

use super::pack::{read_row, write_row};
use super::workers::share;
use crate::element::Element;
use crate::error::Result;
use crate::op::{ScaleCall, check_call};
use rayon::prelude::*;

/// out = gradient · factor · scalar, with the product of the two factors taken first and the result rounded
/// once.
///
/// # Errors
/// Shapes that do not fit together.
///
/// ```
/// use multimix::{ScaleCall, Upstream, View, ViewMut, cpu};
/// let mut out = [0f32; 2];
/// cpu::scale_into(&mut ScaleCall {
///     gradient: View::new(&[1.0f32, -3.0], [1, 1, 2])?,
///     upstream: Upstream { factor: 0.5, scalar: Some(View::new(&[4.0], [1])?) },
///     out: ViewMut::new(&mut out, [1, 1, 2])?,
/// })?;
/// assert_eq!(out, [2.0, -6.0]);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn scale_into<T: Element, G: Element>(call: &mut ScaleCall<'_, T, G>) -> Result<()> {
    check_call(call)?;
    let ScaleCall { gradient, upstream, out } = call;
    let (factor, [b, r, c]) = (upstream.value(), gradient.shape());
    let (out, layout) = share(out);
    let rows = if c == 0 { 0 } else { b * r };
    (0..rows).into_par_iter().for_each_init(
        || vec![0.0; c],
        |row, at| {
            let index = [at / r, at % r];
            read_row(gradient, index, row);
            // SAFETY: the output is borrowed for the whole call; this row belongs to this item.
            unsafe { write_row(row, factor, out, &layout, index) };
        },
    );
    Ok(())
}
