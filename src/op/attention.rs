//! Attention maps from features, and the gradient through them: u = GAP or CAM, score_j = uᵀ z_j, then ReLU +
//! l1 or softmax over positions.

use super::{Call, Check, Labels, Read, Write};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::memory::{Addressed, Host, Memory};
use crate::problem::{AttentionOptions, Query, at_least_one};
use crate::view::{View, ViewMut};

pub(crate) const OP: &str = "attention";

/// The classifier that CAM attention scores features with.
#[derive(Clone, Debug)]
pub struct Classifier<'a, T, M: Memory = Host> {
    /// W (c, d): one row for each class, in the type of the features.
    pub rows: View<'a, T, 2, M>,
    /// The class of each example, (b), below c. On a GPU, which does not look at them before, a label that is
    /// no class has a query of zeros.
    pub labels: Labels<'a, M>,
}

impl<T: Copy> Copy for Classifier<'_, T> {}

/// What attention is computed from.
#[derive(Clone, Debug)]
pub struct AttentionInput<'a, T, M: Memory = Host> {
    /// Z (b, r, d).
    pub features: View<'a, T, 3, M>,
    /// The classifier, for [`Query::Cam`] and only for it.
    pub classifier: Option<Classifier<'a, T, M>>,
}

impl<T: Copy> Copy for AttentionInput<'_, T> {}

/// A call of attention.
#[derive(Debug)]
pub struct AttentionCall<'a, T, M: Memory = Host> {
    /// What is read.
    pub input: AttentionInput<'a, T, M>,
    /// Query and normalisation.
    pub options: AttentionOptions,
    /// a (b, r): each map sums to 1 over positions. On a GPU contiguous.
    pub maps: ViewMut<'a, f32, 2, M>,
}

/// Where the gradients of attention go; what is `None` is not computed.
#[derive(Debug)]
pub struct AttentionOutputs<'a, T, M: Memory = Host> {
    /// dZ (b, r, d).
    pub features: ViewMut<'a, T, 3, M>,
    /// dW (c, d), with [`Query::Cam`] only.
    pub classifier: Option<ViewMut<'a, T, 2, M>>,
}

/// A call of the gradient of attention.
#[derive(Debug)]
pub struct AttentionBackwardCall<'a, T, M: Memory = Host> {
    /// What forward read.
    pub input: AttentionInput<'a, T, M>,
    /// Query and normalisation.
    pub options: AttentionOptions,
    /// da (b, r). On a GPU contiguous.
    pub d_maps: View<'a, f32, 2, M>,
    /// What is written.
    pub outputs: AttentionOutputs<'a, T, M>,
}

/// The gradients of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradients<T, M: Memory = Host> {
    /// dZ (b, r, d), contiguous, in the type of the features.
    pub features: M::Owned<T>,
    /// dW (c, d), contiguous, with [`Query::Cam`].
    pub classifier: Option<M::Owned<T>>,
}

impl<T: Element, M: Memory> AttentionInput<'_, T, M> {
    pub(crate) fn map<'s, N: Memory>(
        &'s self,
        place: &mut impl Read<'s, M, N>,
    ) -> Result<AttentionInput<'s, T, N>> {
        let classifier = match &self.classifier {
            Some(Classifier { rows, labels }) => {
                Some(Classifier { rows: place.read("the classifier", rows)?, labels: labels.map(place)? })
            }
            None => None,
        };
        Ok(AttentionInput { features: place.read("features", &self.features)?, classifier })
    }
}

impl<T: Element, M: Memory> AttentionCall<'_, T, M> {
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn map<'s, N: Memory>(
        &'s mut self,
        place: &mut impl Write<'s, M, N>,
    ) -> Result<AttentionCall<'s, T, N>> {
        let input = self.input.map(place)?;
        Ok(AttentionCall { input, options: self.options, maps: place.write("attention", &mut self.maps)? })
    }
}

impl<T: Element, M: Memory> AttentionBackwardCall<'_, T, M> {
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn map<'s, N: Memory>(
        &'s mut self,
        place: &mut impl Write<'s, M, N>,
    ) -> Result<AttentionBackwardCall<'s, T, N>> {
        Ok(AttentionBackwardCall {
            input: self.input.map(place)?,
            options: self.options,
            d_maps: place.read("the gradient of attention", &self.d_maps)?,
            outputs: AttentionOutputs {
                features: place.write("the gradient of the features", &mut self.outputs.features)?,
                classifier: place
                    .maybe_write("the gradient of the classifier", &mut self.outputs.classifier)?,
            },
        })
    }
}

impl<T: Element, M: Addressed> AttentionInput<'_, T, M> {
    fn check(&self, options: &AttentionOptions, check: &mut Check) -> Result<()> {
        let [b, r, d] = self.features.layout.shape;
        for (name, size) in [("b", b), ("r", r), ("d", d)] {
            at_least_one(OP, name, size)?;
        }
        check.reads("features", &self.features, [b, r, d])?;
        match (options.query, &self.classifier) {
            (Query::Gap, None) => Ok(()),
            (Query::Gap, Some(_)) => {
                Err(Error::arguments(OP, "a classifier was given, but the query is Gap, which uses none"))
            }
            (Query::Cam, None) => Err(Error::arguments(OP, "the query is Cam, but no classifier was given")),
            (Query::Cam, Some(Classifier { rows, labels })) => {
                let [c, _] = rows.layout.shape;
                at_least_one(OP, "c", c)?;
                check.reads("the classifier", rows, [c, d])?;
                labels.check(b, check)
            }
        }
    }
}

impl<T: Element, M: Addressed> Call for AttentionCall<'_, T, M> {
    const OP: &'static str = OP;

    fn check(&self, check: &mut Check) -> Result<()> {
        let [b, r, _] = self.input.features.layout.shape;
        self.input.check(&self.options, check)?;
        check.writes("attention", &self.maps, [b, r])
    }
}

impl<T: Element, M: Addressed> Call for AttentionBackwardCall<'_, T, M> {
    const OP: &'static str = OP;

    fn check(&self, check: &mut Check) -> Result<()> {
        let [b, r, d] = self.input.features.layout.shape;
        self.input.check(&self.options, check)?;
        check.reads("the gradient of attention", &self.d_maps, [b, r])?;
        check.writes("the gradient of the features", &self.outputs.features, [b, r, d])?;
        match (&self.outputs.classifier, &self.input.classifier) {
            (None, _) => Ok(()),
            (Some(out), Some(Classifier { rows, .. })) => {
                check.writes("the gradient of the classifier", out, rows.layout.shape)
            }
            (Some(_), None) => {
                Err(Error::arguments(OP, "a gradient of the classifier is asked for, but none was given"))
            }
        }
    }
}

impl<T: Element> AttentionInput<'_, T> {
    /// Values that the host can look at.
    pub(crate) fn check_values(&self) -> Result<()> {
        let Some(Classifier { rows, labels }) = &self.classifier else { return Ok(()) };
        labels.check_values(OP, rows.shape()[0])
    }
}
