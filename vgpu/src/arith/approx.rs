//! The approximate units: `ex2 lg2 rcp rsqrt sqrt sin cos tanh div .approx` and `div.full`.
//!
//! Each result is the exact value rounded once. Hardware differs from it in the last places, by no more than
//! the bounds the PTX ISA documents; [`Noise`] spreads results over those bounds, so that a program can be
//! seen not to rest on one device's last bits.

use super::format::Round;
use super::half::{self, Half};
use super::single::{self, flush_if};

/// Deterministic errors within the documented bounds: a function of the seed, the instruction and its
/// operands, as a real unit's error is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Noise {
    seed: u64,
}

impl Noise {
    /// No errors: correctly rounded results.
    pub const OFF: Noise = Noise { seed: 0 };

    /// Errors drawn from `seed`.
    pub fn seeded(seed: u64) -> Noise {
        // Inside, 0 stands for no noise at all.
        Noise { seed: (seed ^ 0x1f83_d9ab_fb41_bd6b).max(1) }
    }

    /// A number in [-1, 1] that depends on the seed, the unit and its input; 0 without a seed.
    #[inline(always)]
    fn unit(self, unit: Unit, input: u64) -> f64 {
        if self.seed == 0 {
            return 0.0;
        }
        // The finaliser of splitmix64.
        let mut x = self.seed ^ (unit as u64) << 56 ^ input.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) as i64 as f64 / -(i64::MIN as f64)
    }

    /// Moves a finite non-zero result by up to `bound` units in the last place.
    #[inline(always)]
    fn ulps(self, bits: u32, bound: f64, unit: Unit, input: u64) -> u32 {
        let magnitude = bits & 0x7fff_ffff;
        if self.seed == 0 || magnitude == 0 || magnitude >= 0x7f7f_fff0 {
            return bits;
        }
        let steps = (self.unit(unit, input) * bound).round() as i32;
        bits & 0x8000_0000 | magnitude.saturating_add_signed(steps).max(1)
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Sin,
    Cos,
    Tanh,
    Div,
    Ex2Half,
    TanhHalf,
}

const SIGN: u32 = 0x8000_0000;
/// Half an ulp, relative: what the final rounding may add to a relative error.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;

#[inline(always)]
fn value(a: u32) -> f64 {
    f64::from(f32::from_bits(a))
}

/// Rounds to single precision, NaN to the canonical one.
#[inline(always)]
fn bits(x: f64, ftz: bool) -> u32 {
    let rounded = x as f32;
    if rounded.is_nan() { single::NAN } else { flush_if(rounded.to_bits(), ftz) }
}

/// `ex2.approx.f32`: 2^a, within 2 ulp of the correctly rounded result.
///
/// Powers of two are exact even under noise: CUDA's own double-precision functions scale by what this
/// instruction gives for an integer.
#[inline]
pub fn ex2(a: u32, ftz: bool, noise: Noise) -> u32 {
    let a = flush_if(a, ftz);
    let x = value(a);
    let result = bits(x.exp2(), ftz);
    let exact = x == x.trunc() || x.is_nan();
    if exact { result } else { flush_if(noise.ulps(result, 2.0, Unit::Ex2, a.into()), ftz) }
}

/// `lg2.approx.f32`: log2(a), absolute error up to 2^-22 for a in (1/2, 2), relative error up to 2^-22
/// elsewhere.
#[inline]
pub fn lg2(a: u32, ftz: bool, noise: Noise) -> u32 {
    let a = flush_if(a, ftz);
    let x = value(a);
    let log = x.log2();
    let error = noise.unit(Unit::Lg2, a.into()) * 3.0 * ROUNDING;
    let near_one = x > 0.5 && x < 2.0;
    bits(if near_one { log + error } else { log * (1.0 + error) }, ftz)
}

/// `rcp.approx.f32`: 1/a, within 1 ulp.
#[inline]
pub fn rcp(a: u32, ftz: bool, noise: Noise) -> u32 {
    let a = flush_if(a, ftz);
    let result = bits(1.0 / value(a), ftz);
    flush_if(noise.ulps(result, 1.0, Unit::Rcp, a.into()), ftz)
}

/// `rsqrt.approx.f32`: 1/sqrt(a), relative error up to 2^-22.9.
#[inline]
pub fn rsqrt(a: u32, ftz: bool, noise: Noise) -> u32 {
    let a = flush_if(a, ftz);
    if a == SIGN {
        return SIGN | 0x7f80_0000;
    }
    let error = noise.unit(Unit::Rsqrt, a.into()) * (2.0f64.powf(-22.9) - ROUNDING);
    bits(1.0 / value(a).sqrt() * (1.0 + error), ftz)
}

/// `rsqrt.approx.f64`: 1/sqrt(a); the ISA documents no bound, this is the value rounded twice.
#[inline]
pub fn rsqrt_f64(a: u64) -> u64 {
    let x = f64::from_bits(a);
    if x == 0.0 {
        f64::INFINITY.copysign(x).to_bits()
    } else {
        super::double::rcp(super::double::sqrt(a, Round::Nearest), Round::Nearest)
    }
}

/// `rcp.approx.ftz.f64`: 1/a from and to the upper 32 bits.
#[inline]
pub fn rcp_ftz_f64(a: u64) -> u64 {
    gross(a, |x| 1.0 / x)
}

/// `rsqrt.approx.ftz.f64`: 1/sqrt(a) from and to the upper 32 bits.
#[inline]
pub fn rsqrt_ftz_f64(a: u64) -> u64 {
    gross(a, |x| if x == 0.0 { 1.0 / x } else { 1.0 / x.sqrt() })
}

fn gross(a: u64, f: impl Fn(f64) -> f64) -> u64 {
    let flush = |x: f64| if x.abs() < f64::MIN_POSITIVE { 0.0f64.copysign(x) } else { x };
    let result = flush(f(flush(f64::from_bits(a >> 32 << 32))));
    if f64::from_bits(a).is_nan() || result.is_nan() {
        0x7fff_ffff_0000_0000
    } else {
        result.to_bits() >> 32 << 32
    }
}

/// `sqrt.approx.f32`, relative error up to 2^-23.
#[inline]
pub fn sqrt(a: u32, ftz: bool, noise: Noise) -> u32 {
    let a = flush_if(a, ftz);
    let error = noise.unit(Unit::Sqrt, a.into()) * ROUNDING;
    bits(value(a).sqrt() * (1.0 + error), ftz)
}

/// The absolute error that `sin.approx` and `cos.approx` may have at `x`: 2^-20.5 within 2π, 2^-14.7 beyond.
#[inline(always)]
fn trigonometric_error(x: f64) -> f64 {
    let bound = if x.abs() <= std::f64::consts::TAU { 2.0f64.powf(-20.5) } else { 2.0f64.powf(-14.7) };
    bound - ROUNDING
}

/// `sin.approx.f32`: sine of radians.
#[inline]
pub fn sin(a: u32, ftz: bool, noise: Noise) -> u32 {
    let a = flush_if(a, ftz);
    if a & !SIGN == 0 {
        return a;
    }
    let x = value(a);
    bits(x.sin() + noise.unit(Unit::Sin, a.into()) * trigonometric_error(x), ftz)
}

/// `cos.approx.f32`: cosine of radians.
#[inline]
pub fn cos(a: u32, ftz: bool, noise: Noise) -> u32 {
    let a = flush_if(a, ftz);
    if a & !SIGN == 0 {
        return 0x3f80_0000;
    }
    let x = value(a);
    bits(x.cos() + noise.unit(Unit::Cos, a.into()) * trigonometric_error(x), ftz)
}

/// `tanh.approx.f32`, relative error up to 2^-11.
#[inline]
pub fn tanh(a: u32, noise: Noise) -> u32 {
    let exact = a & !SIGN >= 0x7f80_0000;
    let error = if exact { 0.0 } else { noise.unit(Unit::Tanh, a.into()) * (2.0f64.powi(-11) - ROUNDING) };
    bits(value(a).tanh() * (1.0 + error), false)
}

/// `div.approx.f32`: within 2 ulp for |b| in [2^-126, 2^126]; beyond 2^126, NaN for an infinite `a`, else a
/// zero.
#[inline]
pub fn div(a: u32, b: u32, ftz: bool, noise: Noise) -> u32 {
    let (a, b) = (flush_if(a, ftz), flush_if(b, ftz));
    let divisor = b & !SIGN;
    if divisor > 0x7e80_0000 && divisor < 0x7f80_0000 {
        let undefined = a & !SIGN >= 0x7f80_0000;
        return if undefined { single::NAN } else { (a ^ b) & SIGN };
    }
    full(a, b, ftz, noise)
}

/// `div.full.f32`: within 2 ulp over the full range.
#[inline]
pub fn div_full(a: u32, b: u32, ftz: bool, noise: Noise) -> u32 {
    full(flush_if(a, ftz), flush_if(b, ftz), ftz, noise)
}

#[inline(always)]
fn full(a: u32, b: u32, ftz: bool, noise: Noise) -> u32 {
    let result = single::div(a, b, single::F32Mode { ftz, ..Default::default() });
    flush_if(noise.ulps(result, 2.0, Unit::Div, u64::from(a) << 32 | u64::from(b)), ftz)
}

/// `ex2.approx.f16` (relative error up to 2^-9.9) and `ex2.approx.ftz.bf16` (2^-7).
#[inline]
pub fn ex2_half(kind: Half, a: u16, ftz: bool, noise: Noise) -> u16 {
    let flush = |bits: u16| match kind {
        Half::F16 if ftz && bits & 0x7fff < 0x0400 => bits & 0x8000,
        Half::Bf16 if ftz && bits & 0x7fff < 0x0080 => bits & 0x8000,
        _ => bits,
    };
    let a = flush(a);
    let (bound, rounding) = if kind == Half::F16 {
        (2.0f64.powf(-9.9), 2.0f64.powi(-11))
    } else {
        (2.0f64.powi(-7), 2.0f64.powi(-8))
    };
    let error = if a & 0x7fff == 0 { 0.0 } else { noise.unit(Unit::Ex2Half, a.into()) * (bound - rounding) };
    flush(kind.narrow(value(kind.to_f32(a)).exp2() * (1.0 + error)))
}

/// `tanh.approx.f16` (absolute error up to 2^-10.987) and `.bf16` (2^-8).
#[inline]
pub fn tanh_half(kind: Half, a: u16, noise: Noise) -> u16 {
    let x = value(kind.to_f32(a)).tanh();
    // The final rounding takes up to half an ulp below 1 of the bound: 2^-12 and 2^-9.
    let (bound, rounding) = if kind == Half::F16 {
        (2.0f64.powf(-10.987), 2.0f64.powi(-12))
    } else {
        (2.0f64.powi(-8), 2.0f64.powi(-9))
    };
    let error = if x == 0.0 || x.abs() == 1.0 {
        0.0
    } else {
        noise.unit(Unit::TanhHalf, a.into()) * (bound - rounding)
    };
    let noisy = x + error;
    // The result is an odd, bounded function whatever the error.
    let bounded = if noisy * x < 0.0 { 0.0f64.copysign(x) } else { noisy.clamp(-1.0, 1.0) };
    if x.is_nan() { half::NAN } else { kind.narrow(bounded) }
}

#[cfg(test)]
#[path = "approx_tests.rs"]
mod tests;
