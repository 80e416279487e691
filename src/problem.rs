//! What to compute: how columns are drawn, how attention is made, how the loss is reduced; and the checks on
//! all of it.
//!
//! These types carry no data. Every engine takes them, validates them through the functions here, and so
//! accepts and refuses the same calls.

use crate::error::{Error, ErrorKind, Result};

/// The smallest concentration that the sampler accepts.
pub const ALPHA_MIN: f32 = 1e-3;
/// The largest concentration that the sampler accepts.
pub const ALPHA_MAX: f32 = 1e3;

/// The concentration α of the Dirichlet (or Beta) distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alpha {
    /// One value for every column, in [1e-3, 1e3].
    Fixed(f32),
    /// Drawn anew for each column, uniformly from `lo` to `hi`. The paper: 0.5 to 2.
    Uniform {
        /// Lower end, at least 1e-3.
        lo: f32,
        /// Upper end, at most 1e3.
        hi: f32,
    },
}

impl Alpha {
    /// The paper's choice: U[0.5, 2] for each column.
    pub const PAPER: Alpha = Alpha::Uniform { lo: 0.5, hi: 2.0 };

    /// The ends of the range: equal for a fixed value.
    pub fn range(self) -> (f32, f32) {
        match self {
            Alpha::Fixed(alpha) => (alpha, alpha),
            Alpha::Uniform { lo, hi } => (lo, hi),
        }
    }

    fn validate(self, op: &'static str) -> Result<()> {
        let (lo, hi) = self.range();
        let names = match self {
            Alpha::Fixed(_) => ["alpha"; 2],
            Alpha::Uniform { .. } => ["alpha's low end", "alpha's high end"],
        };
        for (name, value) in names.into_iter().zip([lo, hi]) {
            if !(ALPHA_MIN..=ALPHA_MAX).contains(&value) {
                let rule = "between 1e-3 and 1e3";
                return Err(Error::value(op, name, value, rule));
            }
        }
        if lo > hi {
            let given = format!("from {lo} to {hi}");
            return Err(Error::value(op, "alpha", given, "a range with lo <= hi"));
        }
        Ok(())
    }
}

/// Whether the pair generator draws one interpolation factor or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Factor {
    /// One λ for the whole mini-batch, as in equations (1) and (2).
    PerBatch,
    /// One λ for each column.
    PerColumn,
}

/// How the columns of Λ are drawn. All generators go through the same mixing and loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Generator {
    /// λ_k ~ Dir(α) over the whole mini-batch, drawn anew at each position (MultiMix, equations 3 to 8).
    Dirichlet {
        /// The concentration.
        alpha: Alpha,
    },
    /// Λ = λI + (1 − λ)Π with λ ~ Beta(α, α) and Π a random permutation: input and manifold mixup, equations
    /// (1) and (2).
    ///
    /// Column k mixes example k mod b with its partner; each run of b columns has a permutation of its own.
    /// λ and Π are the same at all positions.
    Pair {
        /// Both parameters of the Beta distribution.
        alpha: Alpha,
        /// One λ for all columns or one for each.
        factor: Factor,
    },
}

/// What an example counts for whose attention map is zero everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum EmptyMaps {
    /// As much at every position: the map becomes 1/r.
    #[default]
    Uniform,
    /// Nothing: the example takes no part in any mixture, as one that pads the mini-batch should not. A
    /// column in which no other example has weight is one without mass: it mixes by Λ alone and has loss
    /// weight 0.
    LeaveOut,
}

/// How mixtures are drawn: how many, from which distribution, from which random numbers.
///
/// A draw depends on `(seed, step, position, example, column)` alone: not on `n`, threads, tiles or device
/// (see [`crate::sampler`]). Count `step` up once per training step; keep `seed` for the run.
///
/// ```
/// use multimix::{Alpha, Mixing};
/// let mixing = Mixing::dirichlet(1000, Alpha::PAPER).seed(7).step(42);
/// assert_eq!(mixing.n, 1000);
/// ```
///
/// A call like `mixing.step(43)` returns another value and changes nothing; unused, it warns:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// use multimix::{Alpha, Mixing};
/// let mixing = Mixing::dirichlet(1000, Alpha::PAPER);
/// mixing.step(43); // mixing = mixing.step(43), or mixing.step = 43
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct Mixing {
    /// Mixtures per position, at least 1. The time of an op grows with b·n·r and its width (c of the loss, d
    /// of mixing), and its memory does not, but for what it returns: 2^31 is allowed, and takes hours.
    pub n: usize,
    /// The distribution of the columns of Λ.
    pub generator: Generator,
    /// Names the random stream of a run.
    pub seed: u64,
    /// Names the draw within the run.
    pub step: u64,
    /// What examples without attention count for; either way their maps get no gradient.
    pub empty_maps: EmptyMaps,
    /// Where this call's positions begin in a larger call's: position j draws what position j +
    /// `first_position` does there.
    pub first_position: usize,
    /// Where this call's columns begin in a larger call's: column k draws what column k + `first_column` does
    /// there.
    pub first_column: usize,
}

impl Mixing {
    /// MultiMix: columns from Dir(α) over the mini-batch.
    pub fn dirichlet(n: usize, alpha: Alpha) -> Self {
        Self::new(n, Generator::Dirichlet { alpha })
    }

    /// Pair mixing (mixup) with Beta(α, α) factors.
    pub fn pair(n: usize, alpha: Alpha, factor: Factor) -> Self {
        Self::new(n, Generator::Pair { alpha, factor })
    }

    fn new(n: usize, generator: Generator) -> Self {
        let empty_maps = EmptyMaps::default();
        Self { n, generator, seed: 0, step: 0, empty_maps, first_position: 0, first_column: 0 }
    }

    /// The same with another seed.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The same with another step.
    pub fn step(self, step: u64) -> Self {
        Self { step, ..self }
    }

    /// The same with another rule for examples whose attention map is zero everywhere.
    ///
    /// ```
    /// use multimix::{Alpha, EmptyMaps, Mixing, View, WeightsInput, cpu};
    /// let attention = [0.5f32, 1.0, 0.0]; // (b = 3, r = 1): the third example pads
    /// let input = WeightsInput { b: 3, r: 1, attention: Some(View::new(&attention, [3, 1])?) };
    /// let mixing = Mixing::dirichlet(4, Alpha::PAPER).empty_maps(EmptyMaps::LeaveOut);
    /// let matrix = cpu::weights(&mixing, &input)?.matrix; // (r, b, n)
    /// assert_eq!(matrix[8..], [0.0; 4]);
    /// # Ok::<(), multimix::Error>(())
    /// ```
    pub fn empty_maps(self, empty_maps: EmptyMaps) -> Self {
        Self { empty_maps, ..self }
    }

    /// The same as a part of a larger call: its r positions draw what positions `first_position ..
    /// first_position + r` draw there.
    ///
    /// For a problem whose positions are split over devices or calls: each mixes its own, with features,
    /// logits, attention and outputs of its own r positions, and the parts together are the whole. Weights
    /// have its bits, and on the CPU mixtures and their losses too up to 512 examples; with more, products
    /// may add up in another order. The sum with r is at most 2^31. Pair mixing draws the same at all
    /// positions: there it has no effect. An attention map is empty ([`Mixing::empty_maps`]) when it is zero
    /// at the positions that the call has.
    ///
    /// ```
    /// use multimix::{Alpha, Mixing, WeightsInput, cpu};
    /// let mixing = Mixing::dirichlet(3, Alpha::PAPER).seed(7);
    /// let weights = |first, r| {
    ///     let input = WeightsInput { b: 5, r, attention: None };
    ///     cpu::weights(&mixing.first_position(first), &input).map(|mix| mix.matrix) // (r, b, n)
    /// };
    /// assert_eq!(weights(0, 8)?, [weights(0, 4)?, weights(4, 4)?].concat());
    /// # Ok::<(), multimix::Error>(())
    /// ```
    pub fn first_position(self, first_position: usize) -> Self {
        Self { first_position, ..self }
    }

    /// The same as a part of a larger call: its n columns are columns `first_column .. first_column + n`
    /// there.
    ///
    /// As [`Mixing::first_position`], for columns: with pair mixing column k mixes example (k +
    /// `first_column`) mod b with its partner in the permutation of that column's run, and a factor for the
    /// batch stays the one of the whole. The sum with n is at most 2^31.
    ///
    /// ```
    /// use multimix::{Alpha, Factor, Mixing, WeightsInput, cpu};
    /// let weights = |first, n| {
    ///     let mixing = Mixing::pair(n, Alpha::PAPER, Factor::PerColumn).first_column(first);
    ///     let input = WeightsInput { b: 5, r: 1, attention: None };
    ///     cpu::weights(&mixing, &input).map(|mix| mix.matrix) // (r, b, n)
    /// };
    /// let (whole, left, right) = (weights(0, 7)?, weights(0, 4)?, weights(4, 3)?);
    /// for (row, halves) in whole.chunks(7).zip(left.chunks(4).zip(right.chunks(3))) {
    ///     assert_eq!(*row, [halves.0, halves.1].concat());
    /// }
    /// # Ok::<(), multimix::Error>(())
    /// ```
    pub fn first_column(self, first_column: usize) -> Self {
        Self { first_column, ..self }
    }

    /// Checks α, and that the places of the draws can be counted.
    pub(crate) fn check(&self, op: &'static str, r: usize) -> Result<()> {
        match self.generator {
            Generator::Dirichlet { alpha } | Generator::Pair { alpha, .. } => alpha.validate(op)?,
        }
        let ends =
            [("first_position + r", self.first_position, r), ("first_column + n", self.first_column, self.n)];
        ends.into_iter()
            .try_for_each(|(name, first, count)| counter_field(op, name, first.saturating_add(count)))
    }
}

/// The vector u that scores the features of an example: score_j = uᵀ z_j.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Query {
    /// The mean of the example's features over its positions (global average pooling).
    #[default]
    Gap,
    /// The classifier's row for the example's label (class activation map).
    Cam,
}

/// How scores become attention over positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Normalise {
    /// Negative scores are cut to zero, the rest divided by their sum. A map without positive score becomes
    /// uniform.
    #[default]
    ReluL1,
    /// Softmax over positions.
    Softmax,
}

/// How attention maps are computed from features. The default is the paper's: GAP, ReLU, l1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct AttentionOptions {
    /// What scores a feature.
    pub query: Query,
    /// What makes the scores a distribution over positions.
    pub normalise: Normalise,
}

/// How per-mixture losses become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Reduction {
    /// The mean over all n·r mixtures.
    Mean,
    /// Per position Σ_k s_k CE_k / Σ_k s_k with s_k = Σ_i a_i λ_ik, then the mean over positions. A position
    /// without attention mass contributes 0. Without attention this is [`Reduction::Mean`].
    #[default]
    AttentionWeighted,
}

/// How the loss is reduced, and what is computed beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LossOptions {
    /// How the mixtures' losses are reduced.
    pub reduction: Reduction,
    /// Treat attention as a constant: no gradient flows to it (the default).
    ///
    /// Under [`Reduction::Mean`] a gradient that does flow grows as 1 / s_k, and so explodes at small α,
    /// where the mass of some columns all but vanishes: up to 2.5 at α = 0.5, 3e4 at 0.2 and 2e12 at 0.1,
    /// with 8 examples at 4 positions. That is the mathematics, not rounding.
    /// [`Reduction::AttentionWeighted`] weighs by s_k and stays below 1 there.
    pub detach_attention: bool,
    /// Also report KL = CE − H(Ỹ), reduced like the loss. Costs a pass over the mixed targets.
    pub kl: bool,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self { reduction: Reduction::default(), detach_attention: true, kl: false }
    }
}

/// Sizes that are at least one and index random numbers.
pub(crate) fn check_sizes(op: &'static str, sizes: &[(&'static str, usize)]) -> Result<()> {
    sizes.iter().try_for_each(|&(name, size)| {
        at_least_one(op, name, size)?;
        counter_field(op, name, size)
    })
}

pub(crate) fn at_least_one(op: &'static str, name: &'static str, size: usize) -> Result<()> {
    if size == 0 { Err(Error::new(op, ErrorKind::Empty { name: name.into() })) } else { Ok(()) }
}

/// Sizes that index the sampler's counter fit 32 bits; the uppermost values are set apart for other draws.
fn counter_field(op: &'static str, name: &'static str, size: usize) -> Result<()> {
    if size > (1 << 31) {
        let rule = "at most 2^31, since it indexes the random numbers";
        return Err(Error::value(op, name, size, rule));
    }
    Ok(())
}

pub(crate) fn expect_shape<const N: usize>(
    op: &'static str,
    name: &'static str,
    given: [usize; N],
    wanted: [usize; N],
) -> Result<()> {
    if given != wanted {
        return Err(Error::new(
            op,
            ErrorKind::Shape { name: name.into(), given: given.to_vec(), wanted: wanted.to_vec() },
        ));
    }
    Ok(())
}

pub(crate) fn check_label(op: &'static str, index: usize, given: i64, classes: usize) -> Result<()> {
    if usize::try_from(given).map_or(true, |given| given >= classes) {
        return Err(Error::new(op, ErrorKind::Label { index, given, classes }));
    }
    Ok(())
}

/// Attention and explicit weights must be finite and not negative.
pub(crate) fn check_non_negative(op: &'static str, value: f32, name: impl Fn() -> String) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::value(op, name(), value, "finite and not negative"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_out_of_range_is_named() {
        for alpha in [Alpha::Fixed(0.0), Alpha::Fixed(f32::NAN), Alpha::Fixed(1001.0)] {
            let error = Mixing::dirichlet(3, alpha).check("weights", 1).unwrap_err();
            assert!(error.to_string().starts_with("weights: alpha is "), "{error}");
        }
        let backwards = Alpha::Uniform { lo: 2.0, hi: 0.5 };
        assert!(Mixing::dirichlet(3, backwards).check("weights", 1).is_err());
        assert!(Mixing::dirichlet(3, Alpha::PAPER).check("weights", 1).is_ok());
    }

    #[test]
    fn empty_and_overflowing_sizes_are_errors() {
        let empty = check_sizes("op", &[("b", 2), ("n", 0)]).unwrap_err();
        assert_eq!(empty, Error::new("op", ErrorKind::Empty { name: "n".into() }));
        let large = check_sizes("op", &[("n", (1 << 31) + 1)]).unwrap_err();
        assert!(matches!(large.kind, ErrorKind::Value { .. }), "{large}");
    }
}
