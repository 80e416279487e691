//! Gamma draws for a tile of columns at once, in SIMD registers: lanes are columns, rows are examples.
//!
//! The same operations in the same order as [`super::gamma`], so the same bits. First attempts run without a
//! branch per draw; the few rejected ones (2 to 5%) are collected and drawn again a full register at a time.

use super::gamma::{Method, SQUEEZE};
use super::{ATTEMPTS, Domain, Stream, math, philox};
use crate::simd::{exp2, horner, log2, shift_right};
use pulp::{Arch, Simd, WithSimd};
use std::f32::consts::{LN_2, LOG2_E};

/// Columns are stored in multiples of this, so that whole registers can be read and written (16 lanes of
/// AVX-512).
pub(crate) const LANES: usize = 16;

/// The columns of a tile: for each its index k and the constants of its gamma distribution.
///
/// Boosted columns (α < 1) come first. All slices have one length, a multiple of [`LANES`].
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub k: &'a [u32],
    pub d: &'a [f32],
    pub c: &'a [f32],
    pub inverse_alpha: &'a [f32],
    pub log2_d: &'a [f32],
    /// How many columns, from the first, are boosted.
    pub boosted: usize,
    /// Whether α is fixed to 1.
    pub exponential: bool,
}

/// Where the draws of a tile go: row i of `b` starts at `i * stride`.
pub(crate) struct Rows<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
    pub b: usize,
}

/// Draws g(j, i, k) for all examples i and all columns.
pub(crate) fn fill(stream: Stream, domain: Domain, j: u32, columns: Columns<'_>, out: Rows<'_>) {
    Arch::new().dispatch(Fill { stream, domain, j, columns, out });
}

/// The same one lane at a time, whatever the machine has: for tests.
#[cfg(test)]
pub(crate) fn fill_scalar(stream: Stream, domain: Domain, j: u32, columns: Columns<'_>, out: Rows<'_>) {
    Fill { stream, domain, j, columns, out }.with_simd(pulp::Scalar);
}

struct Fill<'a> {
    stream: Stream,
    domain: Domain,
    j: u32,
    columns: Columns<'a>,
    out: Rows<'a>,
}

impl WithSimd for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.columns.k.len();
        let Rows { ref values, stride, b } = self.out;
        assert!(width.is_multiple_of(LANES) && width <= stride && values.len() >= b * stride);
        let mut drawer = Drawer { simd, fill: self, rejected: [(0, 0); REJECTED], count: 0 };
        for x in (0..width).step_by(S::F32_LANES) {
            drawer.first_attempts(x);
            drawer.redraw();
        }
    }
}

/// Room for rejected draws; they are drawn again whenever fewer than two registers' worth is left.
const REJECTED: usize = 512;

struct Drawer<'a, S> {
    simd: S,
    fill: Fill<'a>,
    /// (example, column in the tile) of the draws to be made again.
    rejected: [(u32, u32); REJECTED],
    count: usize,
}

/// The constants of the columns in a register.
struct Constants<S: Simd> {
    d: S::f32s,
    c: S::f32s,
    inverse_alpha: S::f32s,
    log2_d: S::f32s,
    is_boosted: S::m32s,
    method: Mixture,
}

/// What the lanes of a register draw.
#[derive(Clone, Copy, PartialEq)]
enum Mixture {
    All(Method),
    /// Plain and boosted lanes.
    Both,
}

/// The value of a draw that was not accepted.
const REJECT: f32 = -1.0;

impl<S: Simd> Drawer<'_, S> {
    #[inline(always)]
    fn first_attempts(&mut self, x: usize) {
        let simd = self.simd;
        let columns = self.fill.columns;
        let constants = self.constants(x);
        let (k, _) = S::as_simd_u32s(&columns.k[x..x + S::F32_LANES]);
        for p in 0..self.fill.out.b.div_ceil(2) {
            let words = self.block(k[0], p as u32);
            let (even_x, odd_x) = normal_pair(simd, words[0], words[1]);
            let even = attempt(simd, &constants, even_x, words[2]);
            self.store(2 * p, x, even);
            if 2 * p + 1 < self.fill.out.b {
                let odd = attempt(simd, &constants, odd_x, words[3]);
                self.store(2 * p + 1, x, odd);
            }
            if self.count > REJECTED - 2 * S::F32_LANES {
                self.redraw();
            }
        }
    }

    #[inline(always)]
    fn constants(&self, x: usize) -> Constants<S> {
        let (simd, columns) = (self.simd, self.fill.columns);
        let load = |values: &[f32]| S::as_simd_f32s(&values[x..x + S::F32_LANES]).0[0];
        let lanes_boosted = columns.boosted.saturating_sub(x).min(S::F32_LANES);
        let method = match lanes_boosted {
            _ if columns.exponential => Mixture::All(Method::Exponential),
            0 => Mixture::All(Method::Plain),
            all if all == S::F32_LANES => Mixture::All(Method::Boosted),
            _ => Mixture::Both,
        };
        let mut flags = [0f32; LANES];
        flags[..lanes_boosted].fill(1.0);
        let is_boosted =
            simd.greater_than_f32s(S::as_simd_f32s(&flags[..S::F32_LANES]).0[0], simd.splat_f32s(0.0));
        Constants {
            d: load(columns.d),
            c: load(columns.c),
            inverse_alpha: load(columns.inverse_alpha),
            log2_d: load(columns.log2_d),
            is_boosted,
            method,
        }
    }

    /// Philox blocks of attempt 0 for one pair and a register of columns. While counter words are the same in
    /// all lanes they stay scalar: half of the first two rounds.
    #[inline(always)]
    fn block(&self, k: S::u32s, p: u32) -> [S::u32s; 4] {
        let simd = self.simd;
        let [k0, k1] = self.fill.stream.key;
        let round_key = |round: u32| {
            let k0 = k0.wrapping_add(round.wrapping_mul(philox::WEYL_0));
            (k0, k1.wrapping_add(round.wrapping_mul(philox::WEYL_1)))
        };
        let wide = |a: u32, b: u32| ((a as u64 * b as u64) as u32, ((a as u64 * b as u64) >> 32) as u32);
        let c3 = (self.fill.domain as u32) << 16;
        // Round 0: only word 0 differs between lanes.
        let (low_0, high_0) = simd.widening_mul_u32s(simd.splat_u32s(philox::MULTIPLIER_0), k);
        let (low_1, high_1) = wide(philox::MULTIPLIER_1, self.fill.j);
        let c0 = high_1 ^ p ^ k0;
        let c2 = simd.xor_u32s(high_0, simd.splat_u32s(c3 ^ k1));
        // Round 1: words 2 and 3 differ.
        let (key_0, key_1) = round_key(1);
        let (next_low_1, next_high_1) = simd.widening_mul_u32s(simd.splat_u32s(philox::MULTIPLIER_1), c2);
        let (next_low_0, next_high_0) = wide(philox::MULTIPLIER_0, c0);
        let words = [
            simd.xor_u32s(next_high_1, simd.splat_u32s(low_1 ^ key_0)),
            next_low_1,
            simd.xor_u32s(low_0, simd.splat_u32s(next_high_0 ^ key_1)),
            simd.splat_u32s(next_low_0),
        ];
        rounds(simd, words, round_key(2), 8)
    }

    #[inline(always)]
    fn store(&mut self, i: usize, x: usize, draws: S::f32s) {
        let (simd, at) = (self.simd, i * self.fill.out.stride + x);
        let row = &mut self.fill.out.values[at..at + S::F32_LANES];
        S::as_mut_simd_f32s(row).0[0] = draws;
        if simd.first_true_m32s(simd.less_than_f32s(draws, simd.splat_f32s(0.0))) < S::F32_LANES {
            for (lane, &draw) in row.iter().enumerate() {
                self.rejected[self.count] = (i as u32, (x + lane) as u32);
                self.count += (draw < 0.0) as usize;
            }
        }
    }

    /// Makes the rejected draws again, attempt after attempt, until none is left.
    #[inline(never)]
    fn redraw(&mut self) {
        let mut attempt = 1;
        while self.count > 0 && attempt < ATTEMPTS - 1 {
            let (asked, mut kept) = (self.count, 0);
            for start in (0..asked).step_by(S::F32_LANES) {
                let group = start..asked.min(start + S::F32_LANES);
                let draws = self.simd.vectorize(RedrawGroup { drawer: self, group: group.clone(), attempt });
                for (lane, index) in group.enumerate() {
                    let (i, x) = self.rejected[index];
                    self.fill.out.values[i as usize * self.fill.out.stride + x as usize] = draws[lane];
                    self.rejected[kept] = (i, x);
                    kept += (draws[lane] < 0.0) as usize;
                }
            }
            self.count = kept;
            attempt += 1;
        }
        for &(i, x) in &self.rejected[..self.count] {
            let (columns, x) = (&self.fill.columns, x as usize);
            let boosted = math::exp2((-1f32).mul_add(columns.inverse_alpha[x], columns.log2_d[x]));
            let draw = if x < columns.boosted { boosted } else { columns.d[x] };
            self.fill.out.values[i as usize * self.fill.out.stride + x] = draw;
        }
        self.count = 0;
    }

    /// One attempt at a group of rejected draws, any example and column in any lane.
    #[inline(always)]
    fn attempt_group(&self, group: std::ops::Range<usize>, attempt_index: u32) -> [f32; LANES] {
        let (simd, columns) = (self.simd, &self.fill.columns);
        let mut k = [0u32; LANES];
        let (mut p, mut odd) = ([0u32; LANES], [0f32; LANES]);
        let (mut d, mut c, mut inverse_alpha, mut log2_d) =
            ([1f32; LANES], [0f32; LANES], [1f32; LANES], [0f32; LANES]);
        let mut boosted = [0f32; LANES];
        for (lane, &(i, x)) in self.rejected[group].iter().enumerate() {
            let x = x as usize;
            (k[lane], p[lane], odd[lane]) = (columns.k[x], i / 2, (i % 2) as f32);
            (d[lane], c[lane]) = (columns.d[x], columns.c[x]);
            (inverse_alpha[lane], log2_d[lane]) = (columns.inverse_alpha[x], columns.log2_d[x]);
            boosted[lane] = (x < columns.boosted) as u32 as f32;
        }
        let floats = |values: &[f32; LANES]| S::as_simd_f32s(&values[..S::F32_LANES]).0[0];
        let words = |values: &[u32; LANES]| S::as_simd_u32s(&values[..S::F32_LANES]).0[0];
        let zero = simd.splat_f32s(0.0);
        let constants = Constants {
            d: floats(&d),
            c: floats(&c),
            inverse_alpha: floats(&inverse_alpha),
            log2_d: floats(&log2_d),
            is_boosted: simd.greater_than_f32s(floats(&boosted), zero),
            method: Mixture::Both,
        };
        let tag = simd.splat_u32s((self.fill.domain as u32) << 16 | attempt_index);
        let counter = [words(&k), words(&p), simd.splat_u32s(self.fill.j), tag];
        let [k0, k1] = self.fill.stream.key;
        let block = rounds(simd, counter, (k0, k1), 10);
        let (even_x, odd_x) = normal_pair(simd, block[0], block[1]);
        let is_odd = simd.greater_than_f32s(floats(&odd), zero);
        let x = simd.select_f32s(is_odd, odd_x, even_x);
        let word = simd.select_u32s(is_odd, block[3], block[2]);
        let mut draws = [0f32; LANES];
        S::as_mut_simd_f32s(&mut draws[..S::F32_LANES]).0[0] = attempt(simd, &constants, x, word);
        draws
    }
}

struct RedrawGroup<'r, 'a, S> {
    drawer: &'r Drawer<'a, S>,
    group: std::ops::Range<usize>,
    attempt: u32,
}

impl<S: Simd> pulp::NullaryFnOnce for RedrawGroup<'_, '_, S> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn call(self) -> Self::Output {
        self.drawer.attempt_group(self.group, self.attempt)
    }
}

/// Philox rounds with every counter word in a register.
#[inline(always)]
fn rounds<S: Simd>(simd: S, words: [S::u32s; 4], key: (u32, u32), count: usize) -> [S::u32s; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = words;
    let (mut k0, mut k1) = key;
    for _ in 0..count {
        let (low_0, high_0) = simd.widening_mul_u32s(simd.splat_u32s(philox::MULTIPLIER_0), c0);
        let (low_1, high_1) = simd.widening_mul_u32s(simd.splat_u32s(philox::MULTIPLIER_1), c2);
        c0 = simd.xor_u32s(simd.xor_u32s(high_1, c1), simd.splat_u32s(k0));
        c2 = simd.xor_u32s(simd.xor_u32s(high_0, c3), simd.splat_u32s(k1));
        (c1, c3) = (low_1, low_0);
        k0 = k0.wrapping_add(philox::WEYL_0);
        k1 = k1.wrapping_add(philox::WEYL_1);
    }
    [c0, c1, c2, c3]
}

/// A word's upper 23 bits as a float in [1, 2).
#[inline(always)]
fn one_to_two<S: Simd>(simd: S, word: S::u32s) -> S::f32s {
    simd.transmute_f32s_u32s(simd.or_u32s(shift_right(simd, word, 9), simd.splat_u32s(0x3f80_0000)))
}

/// [`math::unit`]
#[inline(always)]
fn unit<S: Simd>(simd: S, word: S::u32s) -> S::f32s {
    simd.sub_f32s(one_to_two(simd, word), simd.splat_f32s(math::UNIT_OFFSET))
}

/// [`math::normal_pair`]
#[inline(always)]
fn normal_pair<S: Simd>(simd: S, radius: S::u32s, angle: S::u32s) -> (S::f32s, S::f32s) {
    let squared = simd.mul_f32s(log2(simd, unit(simd, radius)), simd.splat_f32s(math::MINUS_2_LN_2));
    let r = simd.sqrt_f32s(squared);
    let place = simd.wrapping_dyn_shl_u32s(angle, simd.splat_u32s(2));
    let t = simd.sub_f32s(one_to_two(simd, place), simd.splat_f32s(1.5));
    let t2 = simd.mul_f32s(t, t);
    let sin = simd.mul_f32s(t, horner(simd, &math::SIN, t2));
    let sign = simd.and_u32s(angle, simd.splat_u32s(0x8000_0000));
    let cos = simd.xor_u32s(simd.transmute_u32s_f32s(horner(simd, &math::COS, t2)), sign);
    let cos = simd.transmute_f32s_u32s(cos);
    let quarter = simd.and_u32s(angle, simd.splat_u32s(0x4000_0000));
    let straight = simd.equal_u32s(quarter, simd.splat_u32s(0));
    let x = simd.select_f32s(straight, cos, sin);
    let y = simd.select_f32s(straight, sin, cos);
    (simd.mul_f32s(r, x), simd.mul_f32s(r, y))
}

/// One attempt in every lane: the draw, or [`REJECT`].
#[inline(always)]
fn attempt<S: Simd>(simd: S, constants: &Constants<S>, x: S::f32s, word: S::u32s) -> S::f32s {
    let u = unit(simd, word);
    if constants.method == Mixture::All(Method::Exponential) {
        return simd.mul_f32s(log2(simd, u), simd.splat_f32s(-LN_2));
    }
    let one = simd.splat_f32s(1.0);
    let t = simd.mul_add_f32s(constants.c, x, one);
    let x2 = simd.mul_f32s(x, x);
    let v = simd.mul_f32s(simd.mul_f32s(t, t), t);
    let positive = simd.greater_than_f32s(t, simd.splat_f32s(0.0));
    let reject = simd.splat_f32s(REJECT);
    let plain = simd.mul_f32s(constants.d, v);
    if constants.method == Mixture::All(Method::Plain) {
        let squeezed = simd.and_m32s(positive, squeeze(simd, u, x2));
        let accepted = simd.select_f32s(squeezed, plain, reject);
        if simd.first_true_m32s(simd.less_than_f32s(accepted, simd.splat_f32s(0.0))) == S::F32_LANES {
            return accepted;
        }
        let (log2_u, h, _) = test(simd, constants, t, x2, v, u);
        let passed = simd.and_m32s(positive, simd.less_than_f32s(log2_u, h));
        return simd.select_f32s(simd.or_m32s(squeezed, passed), plain, reject);
    }
    let (log2_u, h, log2_v) = test(simd, constants, t, x2, v, u);
    let passed = simd.and_m32s(positive, simd.less_than_f32s(log2_u, h));
    let recycled = simd.sub_f32s(log2_u, simd.min_f32s(h, simd.splat_f32s(0.0)));
    let log2_g =
        simd.mul_add_f32s(recycled, constants.inverse_alpha, simd.add_f32s(log2_v, constants.log2_d));
    let boosted = simd.select_f32s(passed, exp2(simd, log2_g), reject);
    if constants.method == Mixture::All(Method::Boosted) {
        return boosted;
    }
    let squeezed = simd.and_m32s(positive, squeeze(simd, u, x2));
    let plain = simd.select_f32s(simd.or_m32s(squeezed, passed), plain, reject);
    simd.select_f32s(constants.is_boosted, boosted, plain)
}

#[inline(always)]
fn squeeze<S: Simd>(simd: S, u: S::f32s, x2: S::f32s) -> S::m32s {
    let bound = simd.mul_add_f32s(simd.splat_f32s(SQUEEZE), simd.mul_f32s(x2, x2), simd.splat_f32s(1.0));
    simd.less_than_f32s(u, bound)
}

/// log₂ u, the bound h that it must lie below, and log₂ v.
#[inline(always)]
fn test<S: Simd>(
    simd: S,
    constants: &Constants<S>,
    t: S::f32s,
    x2: S::f32s,
    v: S::f32s,
    u: S::f32s,
) -> (S::f32s, S::f32s, S::f32s) {
    let log2_v = simd.mul_f32s(simd.splat_f32s(3.0), log2(simd, t));
    let rest = simd.sub_f32s(simd.splat_f32s(1.0), v);
    let w = simd.mul_add_f32s(constants.d, rest, simd.mul_f32s(simd.splat_f32s(0.5), x2));
    let h = simd.mul_add_f32s(w, simd.splat_f32s(LOG2_E), simd.mul_f32s(constants.d, log2_v));
    (log2(simd, u), h, log2_v)
}
