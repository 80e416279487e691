//! Where the columns of Λ come from: the random generators of [`Mixing`], or a tensor of weights.

use candle_core::{Result, Tensor};

use super::backend::Backend;
use super::bridge::{Borrowed, WEIGHTS};
use crate::op::Columns;
use crate::problem::{EmptyMaps, Mixing};

/// What is drawn. Every op takes `impl Into<Draw>`, so that both `&Mixing` and `&Tensor` will do.
#[derive(Clone, Copy, Debug)]
pub enum Draw<'a> {
    /// Random weights.
    Mixing(&'a Mixing),
    /// Explicit weights Λ, (r, b, n) or (1, b, n) for all positions alike, not negative; columns are
    /// normalised. They count as constants: no gradient flows to them. And what examples without attention
    /// count for.
    Weights(&'a Tensor, EmptyMaps),
}

impl<'a> From<&'a Mixing> for Draw<'a> {
    fn from(mixing: &'a Mixing) -> Self {
        Self::Mixing(mixing)
    }
}

impl<'a> From<&'a Tensor> for Draw<'a> {
    fn from(weights: &'a Tensor) -> Self {
        Self::Weights(weights, EmptyMaps::default())
    }
}

/// What an op keeps of it.
pub(super) enum OwnedDraw {
    Mixing(Mixing),
    Weights(Tensor, EmptyMaps),
}

impl Draw<'_> {
    pub(super) fn to_owned(self, op: &'static str) -> Result<OwnedDraw> {
        Ok(match self {
            Draw::Mixing(mixing) => OwnedDraw::Mixing(*mixing),
            Draw::Weights(weights, empty_maps) => {
                OwnedDraw::Weights(WEIGHTS.to_f32(op, &weights.detach())?, empty_maps)
            }
        })
    }
}

impl OwnedDraw {
    /// Mixtures per position.
    pub fn n(&self) -> Result<usize> {
        match self {
            Self::Mixing(mixing) => Ok(mixing.n),
            Self::Weights(weights, _) => weights.dim(2),
        }
    }

    /// The weights, held for reading.
    pub fn borrow(&self, op: &'static str) -> Option<Borrowed<'_>> {
        match self {
            Self::Mixing(_) => None,
            Self::Weights(weights, _) => Some(Borrowed::new(op, WEIGHTS.name, weights)),
        }
    }

    /// For the engine, with the weights that [`OwnedDraw::borrow`] holds.
    pub fn columns<'a, B: Backend>(
        &self,
        weights: &'a Option<Borrowed<'_>>,
    ) -> Result<Columns<'a, B::Memory>> {
        Ok(match (self, weights) {
            (Self::Mixing(mixing), _) => mixing.into(),
            (Self::Weights(_, empty_maps), Some(weights)) => {
                Columns::Given { weights: weights.view::<B, f32, 3>()?, empty_maps: *empty_maps }
            }
            (Self::Weights(..), None) => candle_core::bail!("explicit weights are not held"),
        })
    }
}
