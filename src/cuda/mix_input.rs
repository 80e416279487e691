//! What mixing reads, forward and backward alike.

use super::call::Call;
use super::matrix::{DeviceTargets, RawTargets, fits_u32};
use super::mix_forward::OP;
use super::queue::{DeviceElement, Precision, Queue};
use super::sampler::{RawColumns, element_bytes};
use super::view::{DeviceView, Footprint, RawView};
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::problem::{Mixing, at_least_one, expect_shape};

/// Targets to be mixed, and how many classes they speak of.
#[derive(Clone, Debug)]
pub struct MixTargets<'a> {
    /// Labels or soft targets.
    pub targets: DeviceTargets<'a>,
    /// c: the length of a mixed target.
    pub classes: usize,
}

/// What mixing reads.
#[derive(Clone, Debug)]
pub struct MixInput<'a, T> {
    /// Z (b, r, d).
    pub features: DeviceView<'a, T, 3>,
    /// Targets to be mixed with the same weights, or none.
    pub targets: Option<MixTargets<'a>>,
    /// a (b, r), not negative; or none for M̂ = Λ. A map of zeros: [`crate::Mixing::empty_maps`].
    pub attention: Option<DeviceView<'a, f32, 2>>,
    /// Λ (r, b, n) or (1, b, n) for [`Generator::Explicit`](crate::Generator::Explicit), not negative and no
    /// column all zero; columns are normalised. No gradient.
    pub weights: Option<DeviceView<'a, f32, 3>>,
}

/// What a raw call of mixing reads.
#[derive(Clone, Copy, Debug)]
pub struct RawMixInput<'a> {
    /// Where columns come from.
    pub columns: RawColumns<'a>,
    /// Type of features, mixed features and their gradients.
    pub dtype: Dtype,
    /// How f32 is multiplied.
    pub precision: Precision,
    /// Z (b, r, d).
    pub features: RawView<3>,
    /// Targets, or none.
    pub targets: Option<RawTargets>,
    /// c; not looked at without targets.
    pub classes: usize,
}

impl Queue<'_> {
    pub(super) fn raw_mix_input<'s, 'm, T: DeviceElement>(
        &self,
        call: &mut Call<'s>,
        mixing: &'m Mixing,
        input: &'s MixInput<'_, T>,
    ) -> Result<RawMixInput<'m>> {
        let [b, r, _] = input.features.shape();
        let targets = input.targets.as_ref();
        Ok(RawMixInput {
            columns: call.columns(mixing, [b, r], &input.attention, &input.weights)?,
            dtype: T::DTYPE,
            precision: self.chosen_precision(),
            features: call.reads("features", &input.features)?,
            targets: targets.map(|given| call.targets(&given.targets)).transpose()?,
            classes: targets.map_or(0, |given| given.classes),
        })
    }
}

impl RawMixInput<'_> {
    /// b, r, d.
    pub(super) fn shape(&self) -> [usize; 3] {
        self.features.layout.shape
    }

    /// Checks sizes and shapes, and notes what is read.
    pub(super) fn check(&self, footprint: &mut Footprint) -> Result<()> {
        self.columns.check(OP, footprint)?;
        let RawColumns { mixing, b, r, .. } = self.columns;
        let [_, _, d] = self.shape();
        at_least_one(OP, "d", d)?;
        for (name, size) in [("b", b), ("r", r), ("d", d), ("n", mixing.n), ("c", self.classes)] {
            fits_u32(OP, name, size)?;
        }
        expect_shape(OP, "features", self.shape(), [b, r, d])?;
        footprint.reads("features", &self.features, element_bytes(self.dtype))?;
        self.targets.as_ref().map_or(Ok(()), |targets| targets.check(OP, b, self.classes, footprint))
    }

    /// Targets are there for what is asked of them.
    pub(super) fn expect_targets(&self, what: &'static str) -> Result<()> {
        if self.targets.is_none() {
            return Err(Error::arguments(OP, what));
        }
        Ok(())
    }
}
