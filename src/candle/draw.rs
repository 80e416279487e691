//! Where the columns of Λ come from: the random generators of [`Mixing`], or a tensor of weights.

use candle_core::{Result, Tensor};

use super::bridge::WEIGHTS;
use crate::problem::Mixing;

/// What is drawn. Every op takes `impl Into<Draw>`, so that both `&Mixing` and `&Tensor` will do.
#[derive(Clone, Copy, Debug)]
pub enum Draw<'a> {
    /// Random weights.
    Mixing(&'a Mixing),
    /// Explicit weights Λ, (r, b, n) or (1, b, n) for all positions alike, not negative; columns are normalised. They count
    /// as constants: no gradient flows to them. An attention map of zeros is uniform with them: give an example that is to be left out
    /// no weight.
    Weights(&'a Tensor),
}

impl<'a> From<&'a Mixing> for Draw<'a> {
    fn from(mixing: &'a Mixing) -> Self {
        Self::Mixing(mixing)
    }
}

impl<'a> From<&'a Tensor> for Draw<'a> {
    fn from(weights: &'a Tensor) -> Self {
        Self::Weights(weights)
    }
}

impl Draw<'_> {
    /// The generator, and the explicit weights where there are any.
    pub(super) fn resolve(self, op: &'static str) -> Result<(Mixing, Option<Tensor>)> {
        match self {
            Draw::Mixing(mixing) => Ok((*mixing, None)),
            Draw::Weights(weights) => {
                let weights = WEIGHTS.to_f32(op, &weights.detach())?;
                Ok((Mixing::explicit(weights.dim(2)?), Some(weights)))
            }
        }
    }
}
