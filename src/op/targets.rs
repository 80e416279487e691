//! What the examples are labelled with.

use super::{Check, Read};
use crate::error::Result;
use crate::memory::{Addressed, Host, Memory};
use crate::problem::{at_least_one, check_label, check_non_negative};
use crate::view::View;

/// One class for each example, (b), of a type of integer that frameworks keep labels in; any stride.
#[derive(Clone, Debug)]
pub enum Labels<'a, M: Memory = Host> {
    /// Bytes.
    U8(View<'a, u8, 1, M>),
    /// Signed words.
    I32(View<'a, i32, 1, M>),
    /// Words.
    U32(View<'a, u32, 1, M>),
    /// Signed double words: PyTorch's.
    I64(View<'a, i64, 1, M>),
}

/// Runs `$body` for the view of whichever type.
macro_rules! each {
    ($labels:expr, $view:ident => $body:expr) => {
        match $labels {
            Labels::U8($view) => $body,
            Labels::I32($view) => $body,
            Labels::U32($view) => $body,
            Labels::I64($view) => $body,
        }
    };
}

macro_rules! from_views {
    ($($type:ty: $variant:ident),*) => {
        $(impl<'a, M: Memory> From<View<'a, $type, 1, M>> for Labels<'a, M> {
            fn from(view: View<'a, $type, 1, M>) -> Self {
                Self::$variant(view)
            }
        }

        impl<'a> From<&'a [$type]> for Labels<'a> {
            fn from(labels: &'a [$type]) -> Self {
                Self::$variant(View { data: labels, layout: crate::view::Layout::contiguous([labels.len()]) })
            }
        }

        impl<'a> From<&'a Vec<$type>> for Labels<'a> {
            fn from(labels: &'a Vec<$type>) -> Self {
                Self::from(&labels[..])
            }
        }

        impl<'a, const B: usize> From<&'a [$type; B]> for Labels<'a> {
            fn from(labels: &'a [$type; B]) -> Self {
                Self::from(&labels[..])
            }
        })*
    };
}
from_views!(u8: U8, i32: I32, u32: U32, i64: I64);

impl Copy for Labels<'_> {}

/// What the examples are labelled with.
#[derive(Clone, Debug)]
pub enum Targets<'a, M: Memory = Host> {
    /// One class for each example, (b), each below c. On a GPU, which does not look at them before, a label
    /// that is no class counts as a row of zeros.
    Labels(Labels<'a, M>),
    /// One row over the classes for each example, Y (b, c); finite, not negative. The loss takes rows that
    /// sum to at most 1e6.
    Soft(View<'a, f32, 2, M>),
}

impl Copy for Targets<'_> {}

impl<'a, M: Memory> Targets<'a, M> {
    /// Labels of any of the types: a view of one dimension, or in host memory a slice.
    pub fn labels(labels: impl Into<Labels<'a, M>>) -> Self {
        Self::Labels(labels.into())
    }

    pub(crate) fn map<'s, N: Memory>(&'s self, place: &mut impl Read<'s, M, N>) -> Result<Targets<'s, N>> {
        Ok(match self {
            Self::Labels(labels) => Targets::Labels(labels.map(place)?),
            Self::Soft(rows) => Targets::Soft(place.read("targets", rows)?),
        })
    }

    pub(crate) fn are_soft(&self) -> bool {
        matches!(self, Self::Soft(_))
    }
}

impl<M: Addressed> Targets<'_, M> {
    pub(crate) fn check(&self, op: &'static str, [b, c]: [usize; 2], check: &mut Check) -> Result<()> {
        at_least_one(op, "c", c)?;
        match self {
            Self::Labels(labels) => labels.check(b, check),
            Self::Soft(rows) => check.reads("targets", rows, [b, c]),
        }
    }
}

impl Targets<'_> {
    /// Values that the host can look at.
    pub(crate) fn check_values(&self, op: &'static str, classes: usize) -> Result<()> {
        match self {
            Self::Labels(labels) => labels.check_values(op, classes),
            Self::Soft(rows) => check_rows(op, "targets", rows),
        }
    }
}

impl<M: Memory> Labels<'_, M> {
    pub(crate) fn map<'s, N: Memory>(&'s self, place: &mut impl Read<'s, M, N>) -> Result<Labels<'s, N>> {
        Ok(match self {
            Self::U8(view) => Labels::U8(place.read("labels", view)?),
            Self::I32(view) => Labels::I32(place.read("labels", view)?),
            Self::U32(view) => Labels::U32(place.read("labels", view)?),
            Self::I64(view) => Labels::I64(place.read("labels", view)?),
        })
    }
}

impl<M: Addressed> Labels<'_, M> {
    pub(crate) fn check(&self, b: usize, check: &mut Check) -> Result<()> {
        each!(self, view => check.reads("labels", view, [b]))
    }
}

impl Labels<'_> {
    /// The class of example i, once [`Labels::check_values`] has found it below c.
    #[inline]
    pub(crate) fn class(&self, i: usize) -> usize {
        each!(self, view => view.get([i]) as usize)
    }

    #[allow(clippy::useless_conversion)] // i64 is one of the types.
    pub(crate) fn check_values(&self, op: &'static str, classes: usize) -> Result<()> {
        each!(self, view => (0..view.shape()[0]).try_for_each(|i| check_label(op, i, view.get([i]).into(), classes)))
    }
}

/// Every value finite and not negative.
pub(crate) fn check_rows(op: &'static str, name: &'static str, values: &View<'_, f32, 2>) -> Result<()> {
    let [rows, columns] = values.shape();
    for row in 0..rows {
        for column in 0..columns {
            check_non_negative(op, values.get([row, column]), || format!("{name}[{row}, {column}]"))?;
        }
    }
    Ok(())
}
