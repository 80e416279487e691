//! Where the columns of Λ come from.

use super::targets::check_rows;
use super::{Check, Read};
use crate::error::{Error, Result};
use crate::memory::{Addressed, Host, Memory};
use crate::problem::{EmptyMaps, Mixing, check_non_negative, check_sizes};
use crate::view::{Layout, View};

/// Where the columns of Λ come from: drawn as a [`Mixing`] says, or given by the caller.
///
/// Every op takes `impl Into<Columns>`: a `&Mixing`, or a view of weights.
///
/// ```
/// use multimix::{Alpha, Mixing, View, WeightsInput, cpu};
/// let input = WeightsInput { b: 2, r: 1, attention: None };
/// let drawn = cpu::weights(&Mixing::dirichlet(3, Alpha::PAPER).seed(1), &input)?;
/// assert_eq!(drawn.matrix.len(), 2 * 3);
/// let weights = [1.0f32, 3.0]; // (r = 1, b = 2, n = 1): one column
/// let given = cpu::weights(View::new(&weights, [1, 2, 1])?, &input)?;
/// assert_eq!(given.matrix, [0.25, 0.75]);
/// # Ok::<(), multimix::Error>(())
/// ```
#[derive(Clone, Debug)]
pub enum Columns<'a, M: Memory = Host> {
    /// Random columns.
    Drawn {
        /// How many, from which distribution, from which random numbers.
        mixing: Mixing,
        /// Seed and step, two words side by side in the op's memory, in place of the mixing's. A GPU reads
        /// them when the kernels run: a captured graph then draws anew at each replay.
        seed_and_step: Option<View<'a, u64, 1, M>>,
    },
    /// Columns of the caller.
    Given {
        /// Λ (r, b, n), or (1, b, n) for all positions alike; not negative, and no column all zero. Columns
        /// are normalised. The engines compute no gradient for it; [`mod@crate::reference`] does.
        weights: View<'a, f32, 3, M>,
        /// What examples without attention count for.
        empty_maps: EmptyMaps,
    },
}

impl<M: Memory> From<Mixing> for Columns<'_, M> {
    fn from(mixing: Mixing) -> Self {
        Self::Drawn { mixing, seed_and_step: None }
    }
}

impl<M: Memory> From<&Mixing> for Columns<'_, M> {
    fn from(mixing: &Mixing) -> Self {
        Self::from(*mixing)
    }
}

impl<'a, M: Memory> From<View<'a, f32, 3, M>> for Columns<'a, M> {
    fn from(weights: View<'a, f32, 3, M>) -> Self {
        Self::Given { weights, empty_maps: EmptyMaps::default() }
    }
}

impl<'a, M: Memory> From<&Columns<'a, M>> for Columns<'a, M> {
    fn from(columns: &Columns<'a, M>) -> Self {
        columns.clone()
    }
}

impl Copy for Columns<'_> {}

impl<'a, M: Memory> Columns<'a, M> {
    /// Random columns whose seed and step lie in the op's memory.
    pub fn drawn_from(mixing: &Mixing, seed_and_step: View<'a, u64, 1, M>) -> Self {
        Self::Drawn { mixing: *mixing, seed_and_step: Some(seed_and_step) }
    }

    /// Mixtures per position.
    pub fn n(&self) -> usize {
        match self {
            Self::Drawn { mixing, .. } => mixing.n,
            Self::Given { weights, .. } => weights.layout.shape[2],
        }
    }

    pub(crate) fn empty_maps(&self) -> EmptyMaps {
        match self {
            Self::Drawn { mixing, .. } => mixing.empty_maps,
            Self::Given { empty_maps, .. } => *empty_maps,
        }
    }

    pub(crate) fn map<'s, N: Memory>(&'s self, place: &mut impl Read<'s, M, N>) -> Result<Columns<'s, N>> {
        Ok(match self {
            Self::Drawn { mixing, seed_and_step } => Columns::Drawn {
                mixing: *mixing,
                seed_and_step: place.maybe_read("seed and step", seed_and_step)?,
            },
            Self::Given { weights, empty_maps } => {
                Columns::Given { weights: place.read("weights", weights)?, empty_maps: *empty_maps }
            }
        })
    }
}

impl<M: Memory> Columns<'_, M> {
    /// Checks sizes and α: before anything of these sizes is allocated.
    pub(crate) fn check_sizes(&self, op: &'static str, [b, r]: [usize; 2]) -> Result<()> {
        let n = self.n();
        check_sizes(op, &[("b", b), ("r", r), ("n", n)])?;
        Layout::contiguous([r, b, n]).count(op, "the mix matrix (r, b, n)")?;
        if let Self::Drawn { mixing, .. } = self { mixing.check(op, r) } else { Ok(()) }
    }
}

impl<M: Addressed> Columns<'_, M> {
    /// Checks α, sizes and weights, and the attention (b, r) that goes with the columns.
    pub(crate) fn check(
        &self,
        op: &'static str,
        [b, r]: [usize; 2],
        attention: &Option<View<'_, f32, 2, M>>,
        check: &mut Check,
    ) -> Result<()> {
        self.check_sizes(op, [b, r])?;
        match self {
            Self::Drawn { seed_and_step, .. } => {
                if let Some(words) = seed_and_step {
                    check.reads("seed and step", words, [2])?;
                    if words.layout.strides[0] != 1 {
                        return Err(Error::arguments(op, "seed and step must lie side by side"));
                    }
                }
            }
            Self::Given { weights, .. } => {
                let positions = if weights.layout.shape[0] == 1 { 1 } else { r };
                check.reads("weights", weights, [positions, b, self.n()])?;
            }
        }
        attention.as_ref().map_or(Ok(()), |attention| check.reads("attention", attention, [b, r]))
    }
}

impl Columns<'_> {
    /// Values that the host can look at: attention, and explicit weights, no column of which is without any.
    pub(crate) fn check_values(&self, op: &'static str, attention: &Option<View<'_, f32, 2>>) -> Result<()> {
        if let Some(attention) = attention {
            check_rows(op, "attention", attention)?;
        }
        let Self::Given { weights, .. } = self else { return Ok(()) };
        let [r, b, n] = weights.shape();
        for j in 0..r {
            for (i, k) in (0..b).flat_map(|i| (0..n).map(move |k| (i, k))) {
                check_non_negative(op, weights.get([j, i, k]), || format!("weights[{j}, {i}, {k}]"))?;
            }
            if let Some(k) = (0..n).find(|&k| (0..b).all(|i| weights.get([j, i, k]) == 0.0)) {
                let rule = "a column with a positive sum";
                return Err(Error::value(op, format!("weights[{j}, :, {k}]"), "all zero", rule));
            }
        }
        Ok(())
    }
}
