//! The mix matrix on its own: Λ, or M̂ of equations (5) and (6).

use super::{Call, Check, Columns, Read, Write};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::memory::{Addressed, Host, Memory};
use crate::view::{View, ViewMut};

pub(crate) const OP: &str = "weights";

/// What the mix matrix is made for.
#[derive(Clone, Debug)]
pub struct WeightsInput<'a, M: Memory = Host> {
    /// Examples in the mini-batch.
    pub b: usize,
    /// Spatial positions.
    pub r: usize,
    /// a (b, r) for M̂, not negative; none for Λ. A map of zeros:
    /// [`Mixing::empty_maps`](crate::Mixing::empty_maps).
    pub attention: Option<View<'a, f32, 2, M>>,
}

impl Copy for WeightsInput<'_> {}

/// Where the mix matrix goes; what is `None` is not computed, but not both.
#[derive(Debug)]
pub struct WeightsOutputs<'a, T, M: Memory = Host> {
    /// Λ or M̂ (r, b, n).
    pub matrix: Option<ViewMut<'a, T, 3, M>>,
    /// s (r, n), on the scale of the caller's attention; 1 without attention, 0 for a column without mass.
    pub mass: Option<ViewMut<'a, f32, 2, M>>,
}

/// A call of the sampler on its own.
#[derive(Debug)]
pub struct WeightsCall<'a, T, M: Memory = Host> {
    /// Where columns come from.
    pub columns: Columns<'a, M>,
    /// What is read.
    pub input: WeightsInput<'a, M>,
    /// What is written.
    pub outputs: WeightsOutputs<'a, T, M>,
}

/// The mix matrix and the loss weights of its columns.
#[derive(Clone, Debug, PartialEq)]
pub struct MixMatrix<T = f32, M: Memory = Host> {
    /// Λ or M̂ (r, b, n), contiguous; every column sums to 1.
    pub matrix: M::Owned<T>,
    /// s (r, n): Σ_i a_i λ_ik on the scale of the caller's attention, 0 without mass; 1 without attention.
    pub mass: M::Owned<f32>,
}

impl<M: Memory> WeightsInput<'_, M> {
    pub(crate) fn map<'s, N: Memory>(
        &'s self,
        place: &mut impl Read<'s, M, N>,
    ) -> Result<WeightsInput<'s, N>> {
        let Self { b, r, attention } = self;
        Ok(WeightsInput { b: *b, r: *r, attention: place.maybe_read("attention", attention)? })
    }
}

impl<T: Element, M: Memory> WeightsCall<'_, T, M> {
    pub(crate) fn map<'s, N: Memory>(
        &'s mut self,
        place: &mut impl Write<'s, M, N>,
    ) -> Result<WeightsCall<'s, T, N>> {
        Ok(WeightsCall {
            columns: self.columns.map(place)?,
            input: self.input.map(place)?,
            outputs: WeightsOutputs {
                matrix: place.maybe_write("the mix matrix", &mut self.outputs.matrix)?,
                mass: place.maybe_write("the mass", &mut self.outputs.mass)?,
            },
        })
    }
}

impl<T: Element, M: Addressed> Call for WeightsCall<'_, T, M> {
    const OP: &'static str = OP;

    fn check(&self, check: &mut Check) -> Result<()> {
        let (WeightsInput { b, r, attention }, n) = (&self.input, self.columns.n());
        self.columns.check(OP, [*b, *r], attention, check)?;
        let WeightsOutputs { matrix, mass } = &self.outputs;
        if matrix.is_none() && mass.is_none() {
            return Err(Error::arguments(OP, "neither the mix matrix nor the mass is asked for"));
        }
        check.maybe_writes("the mix matrix", matrix, [*r, *b, n])?;
        check.maybe_writes("the mass", mass, [*r, n])
    }
}
