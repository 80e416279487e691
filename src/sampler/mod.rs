//! The random numbers: one contract that the CPU and the CUDA engine keep bit for bit.
//!
//! # The contract
//!
//! A draw g(seed, step, j, i, k) — position j, example i, column k — depends on these five numbers alone: not
//! on `n`, on tiles, threads or the launch, nor on the device. Everything after the integer generator uses
//! only correctly rounded f32 additions, multiplications, fused multiply-adds, divisions and square roots, in
//! the order written in this module. The scalar functions here *are* the definition; [`crate::cpu`] computes
//! them in SIMD registers and `kernels/sampler.cuh` on the GPU, with the same bits, rejections included.
//!
//! Positions and columns are counted in the whole: a call that computes a part of it says where that begins
//! ([`Mixing::first_position`](crate::Mixing::first_position),
//! [`Mixing::first_column`](crate::Mixing::first_column)).
//!
//! **Words.** Philox4x32-10 ([`philox`]). The key is the first half of the block of counter (seed, step)
//! under a fixed key. A block has the counter `(k, p, j, domain << 16 | attempt)`; its words are `w0..w3`.
//! Examples 2p and 2p + 1 share the blocks of pair p = i / 2.
//!
//! **Uniforms.** [`math::unit`]: the upper 23 bits of a word, centred: (w >> 9 + ½) 2⁻²³, never 0 or 1.
//!
//! **Normals.** Box–Muller ([`math::normal_pair`]) makes two from `w0` (radius) and `w1` (angle): one for
//! each example of the pair.
//!
//! **Gammas.** [`Gamma::draw`], with u from `w2` for the even example and `w3` for the odd one:
//! - α fixed to 1: −ln u.
//! - α ≥ 1: Marsaglia and Tsang (ACM TOMS 26, 2000), d = α − ⅓, v = (1 + x / √(9d))³, g = d v, accepted by
//!   the squeeze u < 1 − 0.0331 x⁴, or else by ln u < h with h = x²/2 + d (1 − v + ln v).
//! - α < 1: the same for α + 1, by the second test alone, then g = d v U^{1/α}, where U is u *recycled*:
//!   given that u < eʰ, the ratio u e⁻ʰ is uniform and independent of v, so no further word is needed. It is
//!   taken in log space, so that nothing underflows early.
//! - A rejected draw takes the pair's block of the next attempt, and of it only its own half. After 63
//!   rejections v = 1 and U = ½ are taken (probability below 1e-80).
//!
//! **α per column.** [`column_alpha`]: one uniform of domain [`Domain::Alpha`], pair 0.
//!
//! **Columns.** Sums over a column add in a fixed order ([`column_sum`]), so that weights agree in their bits
//! too. [`settle`]: a column whose draws sum to less than 2⁻⁴⁰ is drawn in log₂ instead and scaled so that
//! its largest draw is 1: the weights do not see the scale. Then λ_ik = g_ik (1 / Σ g), with the reciprocal
//! rounded first. With attention, scaled at each position by the power of two that brings the largest a_i
//! into [1, 2): M̂_ik = (a_i g_ik) (1 / Σ a g) and s_k = Σ a g / Σ g. A column whose Σ a g lies below 2⁻¹²⁰
//! has no mass: M̂ = Λ, s = 0. A column of explicit weights whose largest lies outside of [2⁻⁶⁰, 2⁶⁰] is
//! first scaled by the power of two that brings that into [1, 2).
//!
//! **Pairs.** [`pair`]: λ is the first weight of a two-example Dirichlet column of domain [`Domain::Factor`];
//! the permutation ranks one word per example.

pub mod gamma;
pub mod math;
pub mod pair;
pub(crate) mod panel;
pub mod philox;
pub(crate) mod tile;

pub use gamma::{Gamma, column_alpha};
pub use pair::{factor, partner};

/// What a block of random words is for. Keeps the streams apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Domain {
    /// Gamma draws of the Dirichlet generator.
    Weight = 0,
    /// α of a column.
    Alpha = 1,
    /// Gamma draws of a pair's factor λ.
    Factor = 2,
    /// Sort keys of a permutation.
    Permutation = 3,
}

/// Attempts after which a draw is settled without a test.
pub const ATTEMPTS: u32 = 64;

/// A column whose draws sum to less than this is drawn anew in log space.
pub const SETTLE_BELOW: f32 = 1.0 / (1u64 << 40) as f32;

/// A column whose mass Σ a_i g_ik lies below this has none, on the scale of its draws: it mixes unweighted
/// and its loss weight is zero.
pub const MASSLESS_BELOW: f32 = f32::from_bits(7 << 23); // 2^-120

/// The random words of one step of one run.
///
/// ```
/// use multimix::sampler::{Domain, Stream};
/// let stream = Stream::new(7, 42);
/// let block = stream.block(Domain::Weight, 3, 0, 1, 0);
/// assert_ne!(block, stream.block(Domain::Weight, 4, 0, 1, 0));
/// assert_ne!(block, Stream::new(7, 43).block(Domain::Weight, 3, 0, 1, 0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The Philox key of all blocks.
    pub key: [u32; 2],
}

impl Stream {
    /// The stream of `(seed, step)`.
    pub fn new(seed: u64, step: u64) -> Self {
        let counter = [seed as u32, (seed >> 32) as u32, step as u32, (step >> 32) as u32];
        let block = philox::philox4x32_10(counter, [0x6d75_6c74, 0x696d_6978]); // "multimix"
        Self { key: [block[0], block[1]] }
    }

    /// Four random words: of column k, pair (or example group) p, position j.
    #[inline(always)]
    pub fn block(self, domain: Domain, k: u32, p: u32, j: u32, attempt: u32) -> [u32; 4] {
        philox::philox4x32_10([k, p, j, (domain as u32) << 16 | attempt], self.key)
    }
}

/// Examples that one partial sum of [`column_sum`] spans.
pub const CHUNK: usize = 64;

/// The sum of a column in the contract's order.
///
/// Within each run of 64 examples, example i goes to partial sum (i / 2) mod 4, in order of i (these are the
/// lanes that hold it in a tensor-core fragment); the run's sum is (p0 + p1) + (p2 + p3); runs add up from
/// the first.
pub fn column_sum(column: impl IntoIterator<Item = f32>) -> f32 {
    let (mut total, mut parts, mut inside) = (0.0f32, [0.0f32; 4], 0);
    let mut first = true;
    let mut close = |parts: &mut [f32; 4]| {
        let run = (parts[0] + parts[1]) + (parts[2] + parts[3]);
        total = if first { run } else { total + run };
        first = false;
        *parts = [0.0; 4];
    };
    for value in column {
        parts[(inside / 2) % 4] += value;
        inside += 1;
        if inside == CHUNK {
            close(&mut parts);
            inside = 0;
        }
    }
    if inside > 0 {
        close(&mut parts);
    }
    total
}

/// Puts a column of raw draws on a usable scale, in place.
///
/// `log2_draw(i)` must give log₂ of the draw of example i. Nothing changes unless the [`column_sum`] lies
/// below [`SETTLE_BELOW`].
pub fn settle(column: &mut [f32], log2_draw: impl Fn(usize) -> f32) {
    if column_sum(column.iter().copied()) >= SETTLE_BELOW {
        return;
    }
    for (i, g) in column.iter_mut().enumerate() {
        *g = log2_draw(i);
    }
    let largest = column.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for g in column.iter_mut() {
        *g = math::exp2(*g - largest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_sum_adds_in_the_written_order() {
        // 70 examples: one full run and a rest of six.
        let column: Vec<f32> = (0..70).map(|i| 1.0 + 1.0 / (i as f32 + 3.0)).collect();
        let run = |range: std::ops::Range<usize>| {
            let mut p = [0f32; 4];
            for i in range.clone() {
                p[((i - range.start) / 2) % 4] += column[i];
            }
            (p[0] + p[1]) + (p[2] + p[3])
        };
        assert_eq!(column_sum(column.iter().copied()), run(0..64) + run(64..70));
        assert_eq!(column_sum([]), 0.0);
        assert_eq!(column_sum([3.5]), 3.5);
    }

    #[test]
    fn a_column_that_underflows_is_settled_in_log_space() {
        let mut column = [0.0, 0.0, 0.0];
        settle(&mut column, |i| [-1000.0, -1001.0, -5000.0][i]);
        assert_eq!(column, [1.0, 0.5, 0.0]);
        let mut column = [1.0, 0.0];
        settle(&mut column, |_| panic!("not needed"));
        assert_eq!(column, [1.0, 0.0]);
    }
}
