//! A gradient times a factor that a backward pass brings: in device memory, where the host can't look at it
//! without waiting.

use super::{Call, Check, Upstream, Write};
use crate::element::Element;
use crate::error::Result;
use crate::memory::{Addressed, Host, Memory};
use crate::view::{View, ViewMut};

pub(crate) const OP: &str = "scale";

/// A gradient times a factor, rounded once: out = gradient · factor · scalar.
///
/// `T` is the type of the gradient, `G` that of what is written: f32 in and f16 out for a gradient that was
/// kept in f32.
#[derive(Debug)]
pub struct ScaleCall<'a, T, G, M: Memory = Host> {
    /// The gradient, of any shape of three dimensions, (b, r, c) of a loss.
    pub gradient: View<'a, T, 3, M>,
    /// What it is multiplied by.
    pub upstream: Upstream<'a, M>,
    /// The product, of the same shape.
    pub out: ViewMut<'a, G, 3, M>,
}

impl<T: Element, G: Element, M: Memory> ScaleCall<'_, T, G, M> {
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn map<'s, N: Memory>(
        &'s mut self,
        place: &mut impl Write<'s, M, N>,
    ) -> Result<ScaleCall<'s, T, G, N>> {
        Ok(ScaleCall {
            gradient: place.read("the gradient", &self.gradient)?,
            upstream: self.upstream.map(place)?,
            out: place.write("the product", &mut self.out)?,
        })
    }
}

impl<T: Element, G: Element, M: Addressed> Call for ScaleCall<'_, T, G, M> {
    const OP: &'static str = OP;

    fn check(&self, check: &mut Check) -> Result<()> {
        let shape = self.gradient.layout.shape;
        check.reads("the gradient", &self.gradient, shape)?;
        self.upstream.check(check)?;
        check.writes("the product", &self.out, shape)
    }
}
