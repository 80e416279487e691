//! `.f32` arithmetic: IEEE 754 results in all four rounding directions, `.ftz` and `.sat`.
//!
//! Round to nearest is the host's own arithmetic. The directed modes compute in double precision, rounded to
//! odd, and round once more: 53 bits hold a correctly sticky result for any 24-bit target.

use super::format::Round;

/// The NaN every single-precision operation returns.
pub const NAN: u32 = 0x7fff_ffff;

const SIGN: u32 = 0x8000_0000;
const MIN_NORMAL: u32 = 0x0080_0000;
const INFINITY: u32 = 0x7f80_0000;

/// Modifiers of an `.f32` arithmetic instruction. The default is `.rn`, without `.ftz` and `.sat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct F32Mode {
    /// Rounding direction.
    pub round: Round,
    /// `.ftz`: subnormal inputs and results become zero of the same sign.
    pub ftz: bool,
    /// `.sat`: the result is clamped to [0, 1], NaN to +0.
    pub sat: bool,
}

/// Flushes a subnormal to the zero of its sign.
#[inline(always)]
pub fn flush(a: u32) -> u32 {
    if a & !SIGN < MIN_NORMAL { a & SIGN } else { a }
}

/// [`flush`] when `ftz` holds.
#[inline(always)]
pub fn flush_if(a: u32, ftz: bool) -> u32 {
    if ftz { flush(a) } else { a }
}

#[inline(always)]
pub(super) fn is_nan(a: u32) -> bool {
    a & !SIGN > INFINITY
}

/// Clamps to [0, 1], NaN to +0 (`.sat`). -0 becomes +0.
#[inline(always)]
pub fn saturate(a: u32) -> u32 {
    let x = f32::from_bits(a);
    if x > 0.0 { if x < 1.0 { a } else { 0x3f80_0000 } } else { 0 }
}

#[inline(always)]
fn finish(x: f32, mode: F32Mode) -> u32 {
    let mut bits = if x.is_nan() { NAN } else { x.to_bits() };
    if mode.ftz {
        bits = flush(bits);
    }
    if mode.sat { saturate(bits) } else { bits }
}

#[inline(always)]
fn operand(a: u32, mode: F32Mode) -> f32 {
    f32::from_bits(flush_if(a, mode.ftz))
}

/// `a + b`.
#[inline(always)]
pub fn add(a: u32, b: u32, mode: F32Mode) -> u32 {
    let (a, b) = (operand(a, mode), operand(b, mode));
    match mode.round {
        Round::Nearest => finish(a + b, mode),
        round => finish(round_from_f64(add_odd(a.into(), b.into(), round), round), mode),
    }
}

/// `a - b`.
#[inline(always)]
pub fn sub(a: u32, b: u32, mode: F32Mode) -> u32 {
    add(a, b ^ SIGN, mode)
}

/// `a · b`.
#[inline(always)]
pub fn mul(a: u32, b: u32, mode: F32Mode) -> u32 {
    let (a, b) = (operand(a, mode), operand(b, mode));
    match mode.round {
        Round::Nearest => finish(a * b, mode),
        round => finish(round_from_f64(f64::from(a) * f64::from(b), round), mode),
    }
}

/// `a · b + c`, rounded once.
#[inline(always)]
pub fn fma(a: u32, b: u32, c: u32, mode: F32Mode) -> u32 {
    let (a, b, c) = (operand(a, mode), operand(b, mode), operand(c, mode));
    match mode.round {
        Round::Nearest => finish(a.mul_add(b, c), mode),
        round => {
            let product = f64::from(a) * f64::from(b);
            finish(round_from_f64(add_odd(product, c.into(), round), round), mode)
        }
    }
}

/// `a / b`.
#[inline(always)]
pub fn div(a: u32, b: u32, mode: F32Mode) -> u32 {
    let (a, b) = (operand(a, mode), operand(b, mode));
    match mode.round {
        Round::Nearest => finish(a / b, mode),
        round => finish(div_directed(a.into(), b.into(), round), mode),
    }
}

/// `1 / a`.
#[inline(always)]
pub fn rcp(a: u32, mode: F32Mode) -> u32 {
    div(1.0f32.to_bits(), a, mode)
}

/// Square root.
#[inline(always)]
pub fn sqrt(a: u32, mode: F32Mode) -> u32 {
    let a = operand(a, mode);
    match mode.round {
        Round::Nearest => finish(a.sqrt(), mode),
        round => finish(sqrt_directed(a.into(), round), mode),
    }
}

fn div_directed(a: f64, b: f64, round: Round) -> f32 {
    let q = a / b;
    // The remainder of a rounded quotient is exact; its sign says on which side of `a / b` the quotient fell.
    let remainder = (-q).mul_add(b, a);
    let exact = !q.is_finite() || q == 0.0 || remainder == 0.0;
    round_from_f64(if exact { q } else { to_odd(q, (remainder > 0.0) == (b > 0.0)) }, round)
}

fn sqrt_directed(a: f64, round: Round) -> f32 {
    let root = a.sqrt();
    let remainder = (-root).mul_add(root, a);
    let exact = !root.is_finite() || root == 0.0 || remainder == 0.0;
    round_from_f64(if exact { root } else { to_odd(root, remainder > 0.0) }, round)
}

/// Turns an inexact nearest result into the one rounded to odd; `above`: the exact value lies above `x`.
#[inline(always)]
fn to_odd(x: f64, above: bool) -> f64 {
    let bits = x.to_bits();
    if bits & 1 == 1 {
        return x;
    }
    f64::from_bits(if above == (x > 0.0) { bits + 1 } else { bits - 1 })
}

/// `a + b` rounded to odd in double precision; an exact zero sum takes the sign that `round` gives it.
#[inline(always)]
pub(super) fn add_odd(a: f64, b: f64, round: Round) -> f64 {
    let sum = a + b;
    if sum == 0.0 && round == Round::Down && (a.is_sign_negative() || b.is_sign_negative()) {
        return -0.0;
    }
    let b_seen = sum - a;
    let error = (a - (sum - b_seen)) + (b - b_seen);
    if error == 0.0 || !sum.is_finite() { sum } else { to_odd(sum, error > 0.0) }
}

/// Rounds a double that is exact or rounded to odd to single precision.
#[inline(always)]
pub(super) fn round_from_f64(x: f64, round: Round) -> f32 {
    let nearest = x as f32;
    let wide = f64::from(nearest);
    match round {
        Round::Down if wide > x => nearest.next_down(),
        Round::Up if wide < x => nearest.next_up(),
        Round::Zero if wide.abs() > x.abs() => f32::from_bits(nearest.to_bits() - 1),
        _ => nearest,
    }
}

/// `|a|`; NaN gives the canonical NaN.
#[inline(always)]
pub fn abs(a: u32, ftz: bool) -> u32 {
    if is_nan(a) { NAN } else { flush_if(a, ftz) & !SIGN }
}

/// `-a`; NaN gives the canonical NaN.
#[inline(always)]
pub fn neg(a: u32, ftz: bool) -> u32 {
    if is_nan(a) { NAN } else { flush_if(a, ftz) ^ SIGN }
}

/// The value of `b` with the sign of `a`.
#[inline(always)]
pub fn copysign(a: u32, b: u32) -> u32 {
    a & SIGN | b & !SIGN
}

/// Modifiers of `min` and `max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MinMaxMode {
    /// `.ftz`.
    pub ftz: bool,
    /// `.NaN`: a NaN input makes the result NaN; without it the other operand is the result.
    pub nan: bool,
    /// `.abs` or `.xorsign.abs`: magnitudes are compared.
    pub abs: bool,
    /// `.xorsign`: the sign of the result is the product of the operands' signs.
    pub xorsign: bool,
}

/// The lesser operand; -0 counts as less than +0.
#[inline(always)]
pub fn min(a: u32, b: u32, mode: MinMaxMode) -> u32 {
    pick(a, b, mode, |x, y| x < y)
}

/// The greater operand; +0 counts as greater than -0.
#[inline(always)]
pub fn max(a: u32, b: u32, mode: MinMaxMode) -> u32 {
    pick(a, b, mode, |x, y| x > y)
}

#[inline(always)]
fn pick(a: u32, b: u32, mode: MinMaxMode, first: impl Fn(i32, i32) -> bool) -> u32 {
    let (a, b) = (flush_if(a, mode.ftz), flush_if(b, mode.ftz));
    let (x, y) = if mode.abs { (a & !SIGN, b & !SIGN) } else { (a, b) };
    if is_nan(a) || is_nan(b) {
        if mode.nan || is_nan(a) && is_nan(b) {
            return NAN;
        }
        let number = if is_nan(a) { y } else { x };
        return if mode.xorsign { (a ^ b) & SIGN | number & !SIGN } else { number };
    }
    let picked = if first(ordered(x), ordered(y)) { x } else { y };
    if mode.xorsign { (a ^ b) & SIGN | picked & !SIGN } else { picked }
}

/// Maps float bits to integers in the same order, -0 just below +0.
#[inline(always)]
fn ordered(a: u32) -> i32 {
    let a = a as i32;
    a ^ ((a >> 31) as u32 >> 1) as i32
}

/// Property tested by `testp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TestProperty {
    /// Neither infinite nor NaN.
    Finite,
    /// Infinite.
    Infinite,
    /// Not NaN.
    Number,
    /// NaN.
    NotANumber,
    /// A normal number; zeros count as normal.
    Normal,
    /// A subnormal number.
    Subnormal,
}

impl TestProperty {
    fn of(self, class: std::num::FpCategory) -> bool {
        use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal, Zero};
        match self {
            TestProperty::Finite => matches!(class, Normal | Subnormal | Zero),
            TestProperty::Infinite => class == Infinite,
            TestProperty::Number => class != Nan,
            TestProperty::NotANumber => class == Nan,
            TestProperty::Normal => matches!(class, Normal | Zero),
            TestProperty::Subnormal => class == Subnormal,
        }
    }

    /// `testp.f32`.
    #[inline]
    pub fn f32(self, a: u32) -> bool {
        self.of(f32::from_bits(a).classify())
    }

    /// `testp.f64`.
    #[inline]
    pub fn f64(self, a: u64) -> bool {
        self.of(f64::from_bits(a).classify())
    }
}

#[cfg(test)]
#[path = "single_tests.rs"]
mod tests;
