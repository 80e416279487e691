//! Checks on sizes and values: what the loops index has been checked here first.

use super::{Sizes, Targets};
use crate::error::{Error, ErrorKind, Result};
pub(super) use crate::memory::zeros;
use crate::problem::{at_least_one, check_label};

/// No size is zero.
pub(super) fn sizes(op: &'static str, sizes: &Sizes) -> Result<()> {
    let Sizes { b, r, d, c, n } = *sizes;
    [("b", b), ("r", r), ("d", d), ("c", c), ("n", n)]
        .into_iter()
        .try_for_each(|(name, size)| at_least_one(op, name, size))
}

/// The slice has as many elements as the shape.
pub(super) fn length<T>(op: &'static str, name: &'static str, slice: &[T], shape: &[usize]) -> Result<()> {
    if slice.len() == count(op, name, shape)? {
        return Ok(());
    }
    Err(Error::new(
        op,
        ErrorKind::Shape { name: name.into(), given: vec![slice.len()], wanted: shape.to_vec() },
    ))
}

/// As [`length`], and every value is finite and not negative.
pub(super) fn non_negative(
    op: &'static str,
    name: &'static str,
    slice: &[f64],
    shape: &[usize],
) -> Result<()> {
    length(op, name, slice, shape)?;
    match slice.iter().position(|&value| !(value >= 0.0 && value.is_finite())) {
        None => Ok(()),
        Some(at) => Err(Error::value(
            op,
            format!("{name}{:?}", index(at, shape)),
            slice[at],
            "finite and not negative",
        )),
    }
}

/// One label below c per example, or a non-negative (b, c) array.
pub(super) fn targets(op: &'static str, sizes: &Sizes, targets: Targets<'_>) -> Result<()> {
    match targets {
        Targets::Labels(given) => labels(op, sizes, given),
        Targets::Soft(rows) => non_negative(op, "targets", rows, &[sizes.b, sizes.c]),
    }
}

/// One label below c per example.
pub(super) fn labels(op: &'static str, sizes: &Sizes, labels: &[usize]) -> Result<()> {
    length(op, "labels", labels, &[sizes.b])?;
    let signed = labels.iter().map(|&label| i64::try_from(label).unwrap_or(i64::MAX));
    signed.enumerate().try_for_each(|(i, label)| check_label(op, i, label, sizes.c))
}

fn count(op: &'static str, name: &'static str, shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .ok_or_else(|| Error::new(op, ErrorKind::TooLarge { name: name.into(), sizes: shape.to_vec() }))
}

/// The index along each axis of a place in a row-major array.
fn index(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        index[axis] = at % shape[axis];
        at /= shape[axis];
    }
    index
}
