//! Mixed features and targets, equations (7) and (8), and their gradients.

use super::{Call, Check, Columns, Read, Targets, Write};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::memory::{Addressed, Host, Memory};
use crate::problem::at_least_one;
use crate::view::{Layout, View, ViewMut};

pub(crate) const OP: &str = "mix";

/// Targets to be mixed, and how many classes they speak of.
#[derive(Clone, Debug)]
pub struct MixTargets<'a, M: Memory = Host> {
    /// Labels or soft targets.
    pub targets: Targets<'a, M>,
    /// c: the length of a mixed target.
    pub classes: usize,
}

impl Copy for MixTargets<'_> {}

/// What mixing reads.
#[derive(Clone, Debug)]
pub struct MixInput<'a, T, M: Memory = Host> {
    /// Z (b, r, d).
    pub features: View<'a, T, 3, M>,
    /// Targets to be mixed with the same weights, or none.
    pub targets: Option<MixTargets<'a, M>>,
    /// a (b, r), not negative; or none for M̂ = Λ. A map of zeros:
    /// [`Mixing::empty_maps`](crate::Mixing::empty_maps).
    pub attention: Option<View<'a, f32, 2, M>>,
}

impl<T: Copy> Copy for MixInput<'_, T> {}

/// Where mixtures go.
#[derive(Debug)]
pub struct MixOutputs<'a, T, M: Memory = Host> {
    /// Z̃ (n, r, d).
    pub features: ViewMut<'a, T, 3, M>,
    /// Ỹ (n, r, c); needs targets.
    pub targets: Option<ViewMut<'a, f32, 3, M>>,
}

/// A call of mixing.
#[derive(Debug)]
pub struct MixCall<'a, T, M: Memory = Host> {
    /// Where columns come from.
    pub columns: Columns<'a, M>,
    /// What is read.
    pub input: MixInput<'a, T, M>,
    /// What is written.
    pub outputs: MixOutputs<'a, T, M>,
}

/// Mixed features and targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed<T, M: Memory = Host> {
    /// Z̃ (n, r, d), contiguous, in the type of the features.
    pub features: M::Owned<T>,
    /// Ỹ (n, r, c), contiguous, where targets were given.
    pub targets: Option<M::Owned<f32>>,
}

/// The gradients that come in.
#[derive(Clone, Debug)]
pub struct MixedGradients<'a, T, M: Memory = Host> {
    /// dZ̃ (n, r, d).
    pub features: View<'a, T, 3, M>,
    /// dỸ (n, r, c), or none.
    pub targets: Option<View<'a, f32, 3, M>>,
}

impl<T: Copy> Copy for MixedGradients<'_, T> {}

/// Where gradients of mixing go; what is `None` is not computed.
#[derive(Debug)]
pub struct MixBackwardOutputs<'a, T, M: Memory = Host> {
    /// dZ (b, r, d).
    pub features: Option<ViewMut<'a, T, 3, M>>,
    /// dY (b, c); needs dỸ and soft targets.
    pub targets: Option<ViewMut<'a, f32, 2, M>>,
    /// da (b, r); needs attention.
    pub attention: Option<ViewMut<'a, f32, 2, M>>,
}

/// A call of the gradients of mixing.
#[derive(Debug)]
pub struct MixBackwardCall<'a, T, M: Memory = Host> {
    /// Where columns come from.
    pub columns: Columns<'a, M>,
    /// What forward read.
    pub input: MixInput<'a, T, M>,
    /// The gradients that come in.
    pub gradients: MixedGradients<'a, T, M>,
    /// What is written.
    pub outputs: MixBackwardOutputs<'a, T, M>,
}

/// The gradients of mixing.
#[derive(Clone, Debug, PartialEq)]
pub struct MixGradients<T, M: Memory = Host> {
    /// dZ (b, r, d), contiguous, in the type of the features.
    pub features: M::Owned<T>,
    /// dY (b, c), contiguous, where dỸ and soft targets were given.
    pub targets: Option<M::Owned<f32>>,
    /// da (b, r), contiguous, where attention was given.
    pub attention: Option<M::Owned<f32>>,
}

impl<T, M: Memory> MixInput<'_, T, M> {
    pub(crate) fn classes(&self) -> usize {
        self.targets.as_ref().map_or(0, |targets| targets.classes)
    }
}

impl<T: Element, M: Memory> MixInput<'_, T, M> {
    pub(crate) fn map<'s, N: Memory>(
        &'s self,
        place: &mut impl Read<'s, M, N>,
    ) -> Result<MixInput<'s, T, N>> {
        let targets = match &self.targets {
            Some(MixTargets { targets, classes }) => {
                Some(MixTargets { targets: targets.map(place)?, classes: *classes })
            }
            None => None,
        };
        Ok(MixInput {
            features: place.read("features", &self.features)?,
            targets,
            attention: place.maybe_read("attention", &self.attention)?,
        })
    }
}

impl<T: Element, M: Memory> MixedGradients<'_, T, M> {
    pub(crate) fn map<'s, N: Memory>(
        &'s self,
        place: &mut impl Read<'s, M, N>,
    ) -> Result<MixedGradients<'s, T, N>> {
        Ok(MixedGradients {
            features: place.read("the gradient of the mixed features", &self.features)?,
            targets: place.maybe_read("the gradient of the mixed targets", &self.targets)?,
        })
    }
}

impl<T: Element, M: Memory> MixCall<'_, T, M> {
    pub(crate) fn map<'s, N: Memory>(
        &'s mut self,
        place: &mut impl Write<'s, M, N>,
    ) -> Result<MixCall<'s, T, N>> {
        Ok(MixCall {
            columns: self.columns.map(place)?,
            input: self.input.map(place)?,
            outputs: MixOutputs {
                features: place.write("the mixed features", &mut self.outputs.features)?,
                targets: place.maybe_write("the mixed targets", &mut self.outputs.targets)?,
            },
        })
    }
}

impl<T: Element, M: Memory> MixBackwardCall<'_, T, M> {
    pub(crate) fn map<'s, N: Memory>(
        &'s mut self,
        place: &mut impl Write<'s, M, N>,
    ) -> Result<MixBackwardCall<'s, T, N>> {
        let outputs = &mut self.outputs;
        Ok(MixBackwardCall {
            columns: self.columns.map(place)?,
            input: self.input.map(place)?,
            gradients: self.gradients.map(place)?,
            outputs: MixBackwardOutputs {
                features: place.maybe_write("the gradient of the features", &mut outputs.features)?,
                targets: place.maybe_write("the gradient of the targets", &mut outputs.targets)?,
                attention: place.maybe_write("the gradient of attention", &mut outputs.attention)?,
            },
        })
    }
}

impl<T: Element, M: Addressed> MixInput<'_, T, M> {
    fn check(&self, columns: &Columns<'_, M>, check: &mut Check) -> Result<()> {
        let ([b, r, d], n, c) = (self.features.layout.shape, columns.n(), self.classes());
        at_least_one(OP, "d", d)?;
        columns.check(OP, [b, r], &self.attention, check)?;
        Layout::contiguous([n, r, d]).count(OP, "the mixed features (n, r, d)")?;
        check.reads("features", &self.features, [b, r, d])?;
        let Some(MixTargets { targets, .. }) = &self.targets else { return Ok(()) };
        Layout::contiguous([n, r, c]).count(OP, "the mixed targets (n, r, c)")?;
        targets.check(OP, [b, c], check)
    }
}

impl<T: Element, M: Addressed> Call for MixCall<'_, T, M> {
    const OP: &'static str = OP;

    fn check(&self, check: &mut Check) -> Result<()> {
        let ([_, r, d], n, c) = (self.input.features.layout.shape, self.columns.n(), self.input.classes());
        self.input.check(&self.columns, check)?;
        if self.outputs.targets.is_some() && self.input.targets.is_none() {
            return Err(Error::arguments(OP, "mixed targets are asked for, but no targets were given"));
        }
        check.writes("the mixed features", &self.outputs.features, [n, r, d])?;
        check.maybe_writes("the mixed targets", &self.outputs.targets, [n, r, c])
    }
}

impl<T: Element, M: Addressed> Call for MixBackwardCall<'_, T, M> {
    const OP: &'static str = OP;

    fn check(&self, check: &mut Check) -> Result<()> {
        let ([b, r, d], n, c) = (self.input.features.layout.shape, self.columns.n(), self.input.classes());
        self.input.check(&self.columns, check)?;
        check.reads("the gradient of the mixed features", &self.gradients.features, [n, r, d])?;
        let soft = self.input.targets.as_ref().is_some_and(|given| given.targets.are_soft());
        if let Some(mixed) = &self.gradients.targets {
            if self.input.targets.is_none() {
                return Err(Error::arguments(OP, "a gradient of mixed targets was given, but no targets"));
            }
            check.reads("the gradient of the mixed targets", mixed, [n, r, c])?;
        }
        let MixBackwardOutputs { features, targets, attention } = &self.outputs;
        if targets.is_some() && !(soft && self.gradients.targets.is_some()) {
            let what = "the gradient of targets needs soft targets and the gradient of the mixed ones";
            return Err(Error::arguments(OP, what));
        }
        if attention.is_some() && self.input.attention.is_none() {
            let what = "the gradient of attention is asked for, but no attention was given";
            return Err(Error::arguments(OP, what));
        }
        check.maybe_writes("the gradient of the features", features, [b, r, d])?;
        check.maybe_writes("the gradient of the targets", targets, [b, c])?;
        check.maybe_writes("the gradient of attention", attention, [b, r])
    }
}

impl<T: Element> MixInput<'_, T> {
    /// Values that the host can look at.
    pub(crate) fn check_values(&self, columns: &Columns<'_>) -> Result<()> {
        columns.check_values(OP, &self.attention)?;
        self.targets.as_ref().map_or(Ok(()), |given| given.targets.check_values(OP, given.classes))
    }
}
