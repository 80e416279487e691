//! `.f16` and `.bf16` arithmetic, scalar and packed.
//!
//! Every operation is computed exactly (or rounded to odd) in double precision and rounded once to 16 bits.

use super::format::Round;
use super::single;

/// Which 16-bit format the operands have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// IEEE binary16 (`.f16`).
    F16,
    /// bfloat16 (`.bf16`).
    Bf16,
}

/// The NaN every 16-bit operation returns.
pub const NAN: u16 = 0x7fff;

const SIGN: u16 = 0x8000;

/// Modifiers of a 16-bit arithmetic instruction; rounding is always to nearest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HalfMode {
    /// `.ftz`: subnormal inputs and results become zero of the same sign.
    pub ftz: bool,
    /// `.sat`: clamp to [0, 1], NaN to +0.
    pub sat: bool,
    /// `.relu`: clamp negative results to 0, NaN to the canonical NaN.
    pub relu: bool,
}

/// `.f16` bits of a single-precision value, rounded to nearest even.
#[inline(always)]
pub fn f16_from_f32(a: u32) -> u16 {
    let sign = (a >> 16) as u16 & SIGN;
    let magnitude = a & 0x7fff_ffff;
    // Adding 1/2 lines the subnormal's last place up with that of the sum, which the adder then rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = magnitude.wrapping_sub(0x3800_0000).wrapping_add(0xfff + (magnitude >> 13 & 1)) >> 13;
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let bounded = if magnitude < 0x4780_0000 { finite } else { 0x7c00 };
    if magnitude > 0x7f80_0000 { NAN } else { sign | bounded as u16 }
}

/// `.bf16` bits of a single-precision value, rounded to nearest even.
#[inline(always)]
pub fn bf16_from_f32(a: u32) -> u16 {
    let rounded = (a.wrapping_add(0x7fff + (a >> 16 & 1)) >> 16) as u16;
    if single::is_nan(a) { NAN } else { rounded }
}

/// Single-precision bits of an `.f16`, exactly; NaN becomes the canonical NaN.
#[inline(always)]
pub fn f32_from_f16(a: u16) -> u32 {
    let sign = u32::from(a & SIGN) << 16;
    let magnitude = u32::from(a & !SIGN);
    let normal = (magnitude << 13) + 0x3800_0000;
    let subnormal = (magnitude as f32 * f32::from_bits(0x3380_0000)).to_bits();
    let finite = if magnitude < 0x400 { subnormal } else { normal };
    let bounded = if magnitude < 0x7c00 { finite } else { 0x7f80_0000 };
    if magnitude > 0x7c00 { single::NAN } else { sign | bounded }
}

/// Single-precision bits of a `.bf16`, exactly; NaN becomes the canonical NaN.
#[inline(always)]
pub fn f32_from_bf16(a: u16) -> u32 {
    if a & !SIGN > 0x7f80 { single::NAN } else { u32::from(a) << 16 }
}

impl Half {
    /// Single-precision bits of a 16-bit value, exactly.
    #[inline(always)]
    pub fn to_f32(self, a: u16) -> u32 {
        match self {
            Half::F16 => f32_from_f16(a),
            Half::Bf16 => f32_from_bf16(a),
        }
    }

    /// Rounds single-precision bits to nearest even.
    #[inline(always)]
    pub fn from_f32(self, a: u32) -> u16 {
        match self {
            Half::F16 => f16_from_f32(a),
            Half::Bf16 => bf16_from_f32(a),
        }
    }

    /// Rounds a double that is exact, or rounded to odd, to nearest even.
    #[inline(always)]
    pub(super) fn narrow(self, x: f64) -> u16 {
        // Truncate to single precision with a sticky last bit: 24 places are enough to round right to 11.
        let truncated = single::round_from_f64(x, Round::Zero);
        let sticky = u32::from(f64::from(truncated) != x && !x.is_nan());
        self.from_f32(truncated.to_bits() | sticky)
    }

    #[inline(always)]
    fn smallest_normal(self) -> u16 {
        match self {
            Half::F16 => 0x0400,
            Half::Bf16 => 0x0080,
        }
    }

    #[inline(always)]
    fn infinity(self) -> u16 {
        match self {
            Half::F16 => 0x7c00,
            Half::Bf16 => 0x7f80,
        }
    }

    #[inline(always)]
    fn one(self) -> u16 {
        match self {
            Half::F16 => 0x3c00,
            Half::Bf16 => 0x3f80,
        }
    }

    #[inline(always)]
    fn is_nan(self, a: u16) -> bool {
        a & !SIGN > self.infinity()
    }

    #[inline(always)]
    fn flush_if(self, a: u16, ftz: bool) -> u16 {
        if ftz && a & !SIGN < self.smallest_normal() { a & SIGN } else { a }
    }

    #[inline(always)]
    fn operand(self, a: u16, mode: HalfMode) -> f64 {
        f64::from(f32::from_bits(self.to_f32(self.flush_if(a, mode.ftz))))
    }

    #[inline(always)]
    fn finish(self, x: f64, mode: HalfMode) -> u16 {
        let bits = self.flush_if(self.narrow(x), mode.ftz);
        if mode.sat {
            return self.saturate(bits);
        }
        if mode.relu { self.relu(bits) } else { bits }
    }

    /// Clamps to [0, 1], NaN to +0 (`.sat`).
    #[inline(always)]
    pub fn saturate(self, a: u16) -> u16 {
        if self.is_nan(a) || a & SIGN != 0 { 0 } else { a.min(self.one()) }
    }

    /// Clamps negative values to +0, NaN to the canonical NaN (`.relu`).
    #[inline(always)]
    pub fn relu(self, a: u16) -> u16 {
        if self.is_nan(a) {
            return NAN;
        }
        if a & SIGN != 0 { 0 } else { a }
    }

    /// `a + b`.
    #[inline(always)]
    pub fn add(self, a: u16, b: u16, mode: HalfMode) -> u16 {
        let (a, b) = (self.operand(a, mode), self.operand(b, mode));
        self.finish(single::add_odd(a, b, Round::Nearest), mode)
    }

    /// `a - b`.
    #[inline(always)]
    pub fn sub(self, a: u16, b: u16, mode: HalfMode) -> u16 {
        self.add(a, b ^ SIGN, mode)
    }

    /// `a · b`.
    #[inline(always)]
    pub fn mul(self, a: u16, b: u16, mode: HalfMode) -> u16 {
        self.finish(self.operand(a, mode) * self.operand(b, mode), mode)
    }

    /// `a · b + c`, rounded once.
    #[inline(always)]
    pub fn fma(self, a: u16, b: u16, c: u16, mode: HalfMode) -> u16 {
        let product = self.operand(a, mode) * self.operand(b, mode);
        self.finish(single::add_odd(product, self.operand(c, mode), Round::Nearest), mode)
    }

    /// `|a|`; NaN gives the canonical NaN.
    #[inline(always)]
    pub fn abs(self, a: u16, ftz: bool) -> u16 {
        if self.is_nan(a) { NAN } else { self.flush_if(a, ftz) & !SIGN }
    }

    /// `-a`; NaN gives the canonical NaN.
    #[inline(always)]
    pub fn neg(self, a: u16, ftz: bool) -> u16 {
        if self.is_nan(a) { NAN } else { self.flush_if(a, ftz) ^ SIGN }
    }

    /// The lesser operand; -0 counts as less than +0.
    #[inline(always)]
    pub fn min(self, a: u16, b: u16, mode: single::MinMaxMode) -> u16 {
        self.pick(a, b, mode, |x, y| x < y)
    }

    /// The greater operand; +0 counts as greater than -0.
    #[inline(always)]
    pub fn max(self, a: u16, b: u16, mode: single::MinMaxMode) -> u16 {
        self.pick(a, b, mode, |x, y| x > y)
    }

    #[inline(always)]
    fn pick(self, a: u16, b: u16, mode: single::MinMaxMode, first: impl Fn(i16, i16) -> bool) -> u16 {
        let (a, b) = (self.flush_if(a, mode.ftz), self.flush_if(b, mode.ftz));
        let (x, y) = if mode.abs { (a & !SIGN, b & !SIGN) } else { (a, b) };
        let picked = match (self.is_nan(a), self.is_nan(b)) {
            (true, true) => return NAN,
            (true, false) | (false, true) if mode.nan => return NAN,
            (true, false) => y,
            (false, true) => x,
            (false, false) if first(ordered(x), ordered(y)) => x,
            (false, false) => y,
        };
        if mode.xorsign { (a ^ b) & SIGN | picked & !SIGN } else { picked }
    }
}

/// Maps float bits to integers in the same order, -0 just below +0.
#[inline(always)]
fn ordered(a: u16) -> i16 {
    let a = a as i16;
    a ^ ((a >> 15) as u16 >> 1) as i16
}

/// Applies a one-operand function to both halves of a packed register.
#[inline(always)]
pub fn map1(a: u32, op: impl Fn(u16) -> u16) -> u32 {
    u32::from(op(a as u16)) | u32::from(op((a >> 16) as u16)) << 16
}

/// Applies a two-operand function to both halves of packed registers.
#[inline(always)]
pub fn map2(a: u32, b: u32, op: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(op(a as u16, b as u16)) | u32::from(op((a >> 16) as u16, (b >> 16) as u16)) << 16
}

/// Applies a three-operand function to both halves of packed registers.
#[inline(always)]
pub fn map3(a: u32, b: u32, c: u32, op: impl Fn(u16, u16, u16) -> u16) -> u32 {
    u32::from(op(a as u16, b as u16, c as u16))
        | u32::from(op((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16)) << 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arith::format::{Exact, Format};

    const PLAIN: HalfMode = HalfMode { ftz: false, sat: false, relu: false };

    fn format(kind: Half) -> Format {
        if kind == Half::F16 { Format::F16 } else { Format::BF16 }
    }

    #[test]
    fn conversions_agree_with_the_half_crate_for_every_pattern() {
        for bits in 0..=u16::MAX {
            let (f, b) = (::half::f16::from_bits(bits), ::half::bf16::from_bits(bits));
            if f.is_nan() {
                assert_eq!(f32_from_f16(bits), single::NAN);
            } else {
                assert_eq!(f32_from_f16(bits), f.to_f32().to_bits(), "{bits:04x}");
            }
            if b.is_nan() {
                assert_eq!(f32_from_bf16(bits), single::NAN);
            } else {
                assert_eq!(f32_from_bf16(bits), b.to_f32().to_bits());
            }
        }
    }

    /// All exponents, and every bit around the rounding position.
    #[test]
    fn narrowing_rounds_to_nearest_even() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0xfff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let bits = u32::from(high) << 16 | low;
                let x = f32::from_bits(bits);
                if x.is_nan() {
                    assert_eq!((f16_from_f32(bits), bf16_from_f32(bits)), (NAN, NAN));
                } else {
                    let exact = f64::from(x);
                    assert_eq!(
                        u64::from(f16_from_f32(bits)),
                        Format::F16.from_f64(exact, Round::Nearest),
                        "{x:e}"
                    );
                    assert_eq!(
                        u64::from(bf16_from_f32(bits)),
                        Format::BF16.from_f64(exact, Round::Nearest),
                        "{x:e}"
                    );
                }
            }
        }
    }

    /// `a · b + c` of 16-bit floats as integers over a common exponent.
    fn exact_fma(kind: Half, a: u16, b: u16, c: u16) -> Option<u16> {
        let [x, y, z] = [a, b, c].map(|v| format(kind).to_f64(u64::from(v)));
        if !(x.is_finite() && y.is_finite() && z.is_finite()) {
            return None;
        }
        let [x, y, z] = [x, y, z].map(Exact::from_f64);
        // Only 11 of the 53 bits are in use.
        let p =
            (x.negative ^ y.negative, (x.significand * y.significand) >> 84, x.exponent + y.exponent + 84);
        let q = (z.negative, z.significand >> 42, z.exponent + 42);
        let signed = |v: (bool, u128, i32), shift: i32| (if v.0 { -1 } else { 1 }) * ((v.1 << shift) as i128);
        let base = if p.1 == 0 {
            q.2
        } else if q.1 == 0 {
            p.2
        } else {
            p.2.min(q.2)
        };
        if p.1 != 0 && q.1 != 0 && (p.2 - q.2).abs() > 90 {
            return None;
        }
        let place = |v: (bool, u128, i32)| if v.1 == 0 { 0 } else { signed(v, v.2 - base) };
        let sum = place(p) + place(q);
        if sum == 0 {
            return Some(if p.0 && q.0 { SIGN } else { 0 });
        }
        Some(format(kind).encode(Exact { exponent: base, ..Exact::from_int(sum) }, Round::Nearest) as u16)
    }

    #[test]
    fn add_mul_fma_are_exact() {
        let samples: Vec<u16> = (0..150u16)
            .map(|i| match i {
                0..=9 => [0, SIGN, 1, SIGN | 1, 0x3c00, 0x3f80, 0x7bff, 0x7f7f, 0x0400, 0x0080][i as usize],
                _ => i.wrapping_mul(0x9e37) ^ i << 9,
            })
            .collect();
        for kind in [Half::F16, Half::Bf16] {
            for &a in &samples {
                for &b in &samples {
                    let one = kind.one();
                    if let Some(expected) = exact_fma(kind, a, one, b) {
                        assert_eq!(kind.add(a, b, PLAIN), expected, "{kind:?} {a:04x} + {b:04x}");
                        assert_eq!(kind.sub(a, b ^ SIGN, PLAIN), expected);
                    }
                    if let Some(expected) = exact_fma(kind, a, b, (a ^ b) & SIGN) {
                        assert_eq!(kind.mul(a, b, PLAIN), expected, "{kind:?} {a:04x} * {b:04x}");
                    }
                    for &c in &samples {
                        if let Some(expected) = exact_fma(kind, a, b, c) {
                            assert_eq!(
                                kind.fma(a, b, c, PLAIN),
                                expected,
                                "{kind:?} {a:04x} {b:04x} {c:04x}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn modifiers() {
        let one = 0x3c00;
        let ftz = HalfMode { ftz: true, ..PLAIN };
        assert_eq!(Half::F16.add(1, 1, ftz), 0);
        assert_eq!(Half::F16.add(SIGN | 1, SIGN | 1, ftz), SIGN);
        assert_eq!(Half::F16.mul(0x0400, 0x3800, ftz), 0, "a subnormal product is flushed");
        assert_eq!(Half::F16.mul(0x0400, 0x3800, PLAIN), 0x0200);
        let sat = HalfMode { sat: true, ..PLAIN };
        assert_eq!(Half::F16.add(one, one, sat), one);
        assert_eq!(Half::F16.add(NAN, one, sat), 0);
        assert_eq!(Half::F16.sub(0, one, sat), 0);
        let relu = HalfMode { relu: true, ..PLAIN };
        assert_eq!(Half::Bf16.fma(0x3f80, 0xbf80, 0, relu), 0);
        assert_eq!(Half::Bf16.fma(0xffc1, 0x3f80, 0, relu), NAN);
        assert_eq!(Half::F16.fma(0x7bff, 0x7bff, 0, relu), 0x7c00, "infinity stays");
        assert_eq!(Half::F16.add(0x7c00, 0xfc00, PLAIN), NAN);
    }

    #[test]
    fn min_max_follow_the_single_precision_rules() {
        let mode = single::MinMaxMode::default();
        assert_eq!((Half::F16.min(0, SIGN, mode), Half::F16.max(SIGN, 0, mode)), (SIGN, 0));
        assert_eq!(Half::F16.min(0x7e00, 5, mode), 5);
        assert_eq!(Half::Bf16.max(0x7fc1, 5, single::MinMaxMode { nan: true, ..mode }), NAN);
        let xorsign = single::MinMaxMode { abs: true, xorsign: true, ..mode };
        assert_eq!(Half::F16.max(0xc000, 0x3c00, xorsign), 0xc000);
        assert_eq!(map2(0x0001_0003, 0x0002_0001, |a, b| Half::F16.min(a, b, mode)), 0x0001_0001);
        for (a, b) in (0..60_000u16).step_by(7).zip((3..65_000u16).rev().step_by(11)) {
            let (x, y) = (::half::f16::from_bits(a), ::half::f16::from_bits(b));
            if !x.is_nan() && !y.is_nan() && x != y {
                assert_eq!(Half::F16.min(a, b, mode), x.min(y).to_bits());
            }
        }
    }
}
