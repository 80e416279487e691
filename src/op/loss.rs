//! The classification loss on mixed logits and targets with its gradients, equations (5) to (8).

use super::{Call, Check, Columns, Read, Targets, Write};
use crate::element::{Dtype, Element};
use crate::error::{Error, Result};
use crate::memory::{Addressed, Host, Memory};
use crate::problem::{LossOptions, at_least_one};
use crate::view::{Layout, View, ViewMut};

pub(crate) const OP: &str = "loss";

/// What the loss reads.
#[derive(Clone, Debug)]
pub struct LossInput<'a, T, M: Memory = Host> {
    /// S (b, r, c): the classifier applied to each unmixed feature. −∞ masks a class.
    pub logits: View<'a, T, 3, M>,
    /// Labels or soft targets.
    pub targets: Targets<'a, M>,
    /// a (b, r), not negative; or none for M̂ = Λ. A map of zeros:
    /// [`Mixing::empty_maps`](crate::Mixing::empty_maps).
    pub attention: Option<View<'a, f32, 2, M>>,
}

impl<T: Copy> Copy for LossInput<'_, T> {}

/// What gradients are multiplied by: a number, and one in the op's memory where the caller has it there.
#[derive(Clone, Debug)]
pub struct Upstream<'a, M: Memory = Host> {
    /// The factor.
    pub factor: f32,
    /// One more factor; a GPU reads it when the kernels run.
    pub scalar: Option<View<'a, f32, 1, M>>,
}

impl Copy for Upstream<'_> {}

impl<M: Memory> From<f32> for Upstream<'_, M> {
    fn from(factor: f32) -> Self {
        Self { factor, scalar: None }
    }
}

/// Where a call of the loss writes; what is `None` is not computed.
#[derive(Debug)]
pub struct LossOutputs<'a, T, M: Memory = Host> {
    /// The loss, in nats, one number.
    pub loss: Option<ViewMut<'a, f32, 1, M>>,
    /// KL = CE − H(Ỹ), reduced like the loss, one number. Costs a pass over the mixed targets.
    pub kl: Option<ViewMut<'a, f32, 1, M>>,
    /// dS (b, r, c) in the type of the logits.
    pub logits: Option<ViewMut<'a, T, 3, M>>,
    /// dS (b, r, c) in f32, for logits of 16 bits; in place of `logits`. Of an f16 gradient at b 128, r 49, c
    /// 1000 one entry in eleven rounds to zero.
    pub logits_f32: Option<ViewMut<'a, f32, 3, M>>,
    /// da (b, r); needs attention that is not detached.
    pub attention: Option<ViewMut<'a, f32, 2, M>>,
    /// CE of each mixture, (r, n), in nats.
    pub per_mixture: Option<ViewMut<'a, f32, 2, M>>,
    /// log Σ exp S̃ of each mixture, (r, n).
    pub log_sum_exp: Option<ViewMut<'a, f32, 2, M>>,
}

impl<T, M: Memory> Default for LossOutputs<'_, T, M> {
    fn default() -> Self {
        Self {
            loss: None,
            kl: None,
            logits: None,
            logits_f32: None,
            attention: None,
            per_mixture: None,
            log_sum_exp: None,
        }
    }
}

/// A call of the loss.
#[derive(Debug)]
pub struct LossCall<'a, T, M: Memory = Host> {
    /// Where columns come from.
    pub columns: Columns<'a, M>,
    /// What is read.
    pub input: LossInput<'a, T, M>,
    /// How it is reduced, and whether attention is detached. Whether KL is computed, the outputs say.
    pub options: LossOptions,
    /// What gradients are multiplied by.
    pub upstream: Upstream<'a, M>,
    /// What is written.
    pub outputs: LossOutputs<'a, T, M>,
}

/// What an allocating call of the loss computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Want {
    /// The loss alone.
    Loss,
    /// Also the gradients of so many times the loss, over the same draws: the cheapest way to train.
    ///
    /// Gradients of f16 logits round to zero below 3e-8 and lose digits below 6e-5: give a power of two and
    /// divide what comes of it, or take them in f32.
    Gradients(f32),
    /// As [`Want::Gradients`], with dS in f32 whatever the type of the logits: [`Loss::logits_f32`].
    GradientsInF32(f32),
}

/// A loss, and its gradients where they were asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss<T, M: Memory = Host> {
    /// The reduced cross-entropy, in nats.
    pub value: M::Number,
    /// The reduced KL = CE − H(Ỹ), when [`LossOptions::kl`] asks for it.
    pub kl: Option<M::Number>,
    /// dS (b, r, c), contiguous, in the type of the logits.
    pub logits: Option<M::Owned<T>>,
    /// dS (b, r, c), contiguous, in f32, in place of `logits`, when [`Want::GradientsInF32`] asks for it of
    /// logits of 16 bits.
    pub logits_f32: Option<M::Owned<f32>>,
    /// da (b, r), contiguous, when attention was given and is not detached.
    pub attention: Option<M::Owned<f32>>,
}

impl<M: Memory> Upstream<'_, M> {
    pub(super) fn map<'s, N: Memory>(&'s self, place: &mut impl Read<'s, M, N>) -> Result<Upstream<'s, N>> {
        Ok(Upstream { factor: self.factor, scalar: place.maybe_read("upstream", &self.scalar)? })
    }
}

impl<T: Element, M: Memory> LossInput<'_, T, M> {
    pub(crate) fn map<'s, N: Memory>(
        &'s self,
        place: &mut impl Read<'s, M, N>,
    ) -> Result<LossInput<'s, T, N>> {
        Ok(LossInput {
            logits: place.read("logits", &self.logits)?,
            targets: self.targets.map(place)?,
            attention: place.maybe_read("attention", &self.attention)?,
        })
    }

    /// Whether an allocating call returns da.
    pub(crate) fn wants_attention(&self, options: &LossOptions) -> bool {
        self.attention.is_some() && !options.detach_attention
    }
}

impl<T: Element, M: Memory> LossCall<'_, T, M> {
    pub(crate) fn map<'s, N: Memory>(
        &'s mut self,
        place: &mut impl Write<'s, M, N>,
    ) -> Result<LossCall<'s, T, N>> {
        let outputs = &mut self.outputs;
        Ok(LossCall {
            columns: self.columns.map(place)?,
            input: self.input.map(place)?,
            options: self.options,
            upstream: self.upstream.map(place)?,
            outputs: LossOutputs {
                loss: place.maybe_write("the loss", &mut outputs.loss)?,
                kl: place.maybe_write("the KL", &mut outputs.kl)?,
                logits: place.maybe_write("the gradient of the logits", &mut outputs.logits)?,
                logits_f32: place.maybe_write("the gradient of the logits", &mut outputs.logits_f32)?,
                attention: place.maybe_write("the gradient of attention", &mut outputs.attention)?,
                per_mixture: place.maybe_write("the losses of mixtures", &mut outputs.per_mixture)?,
                log_sum_exp: place.maybe_write("the log-sum-exp of mixtures", &mut outputs.log_sum_exp)?,
            },
        })
    }
}

impl<M: Addressed> Upstream<'_, M> {
    pub(super) fn check(&self, check: &mut Check) -> Result<()> {
        self.scalar.as_ref().map_or(Ok(()), |scalar| check.reads("upstream", scalar, [1]))
    }
}

impl Upstream<'_> {
    /// The product of the factors.
    pub(crate) fn value(&self) -> f32 {
        self.factor * self.scalar.map_or(1.0, |scalar| scalar.get([0]))
    }
}

impl<T: Element, M: Addressed> Call for LossCall<'_, T, M> {
    const OP: &'static str = OP;

    fn check(&self, check: &mut Check) -> Result<()> {
        let ([b, r, c], n) = (self.input.logits.layout.shape, self.columns.n());
        at_least_one(OP, "c", c)?;
        self.columns.check(OP, [b, r], &self.input.attention, check)?;
        Layout::contiguous([n, r, c]).count(OP, "the mixed logits (n, r, c)")?;
        check.reads("logits", &self.input.logits, [b, r, c])?;
        self.input.targets.check(OP, [b, c], check)?;
        self.upstream.check(check)?;
        self.check_outputs([b, r, c], n, check)
    }
}

impl<T: Element, M: Addressed> LossCall<'_, T, M> {
    fn check_outputs(&self, [b, r, c]: [usize; 3], n: usize, check: &mut Check) -> Result<()> {
        let outputs = &self.outputs;
        if outputs.logits_f32.is_some() && (outputs.logits.is_some() || T::DTYPE == Dtype::F32) {
            let what =
                "a gradient in f32 goes in place of the one in the type of the logits, where that is not f32";
            return Err(Error::arguments(OP, what));
        }
        if outputs.attention.is_some() && !self.input.wants_attention(&self.options) {
            let what = "a gradient of attention is asked for, but attention is detached or not given";
            return Err(Error::arguments(OP, what));
        }
        check.maybe_writes("the loss", &outputs.loss, [1])?;
        check.maybe_writes("the KL", &outputs.kl, [1])?;
        check.maybe_writes("the gradient of the logits", &outputs.logits, [b, r, c])?;
        check.maybe_writes("the gradient of the logits", &outputs.logits_f32, [b, r, c])?;
        check.maybe_writes("the gradient of attention", &outputs.attention, [b, r])?;
        check.maybe_writes("the losses of mixtures", &outputs.per_mixture, [r, n])?;
        check.maybe_writes("the log-sum-exp of mixtures", &outputs.log_sum_exp, [r, n])
    }
}

impl<T: Element> LossInput<'_, T> {
    /// Values that the host can look at.
    pub(crate) fn check_values(&self, columns: &Columns<'_>) -> Result<()> {
        self.targets.check_values(OP, self.logits.shape()[2])?;
        self.check_target_sums()?;
        columns.check_values(OP, &self.attention)
    }

    /// Soft targets are near distributions; sums of arbitrary size would pass what f32 holds.
    fn check_target_sums(&self) -> Result<()> {
        let Targets::Soft(rows) = &self.targets else { return Ok(()) };
        let [b, c] = rows.shape();
        for i in 0..b {
            let sum: f64 = (0..c).map(|class| f64::from(rows.get([i, class]))).sum();
            if sum > LARGEST_TARGET_SUM {
                return Err(Error::value(OP, format!("the sum of targets[{i}, :]"), sum, "at most 1e6"));
            }
        }
        Ok(())
    }
}

/// What the targets of an example may sum to.
const LARGEST_TARGET_SUM: f64 = 1e6;
