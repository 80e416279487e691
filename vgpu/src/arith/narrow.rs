//! `cvt` to and from packed and narrow float formats: `.f16x2 .bf16x2 .tf32`, FP8, FP6 and FP4 pairs.

use super::format::{Format, Round};
use super::half::{self, Half};
use super::single;

/// Modifiers of a narrowing conversion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Narrow {
    /// `.rn`, `.rz`, or `.rna` (tf32 only).
    pub round: Round,
    /// `.relu`: negative results become 0, NaN the canonical NaN.
    pub relu: bool,
    /// `.satfinite`: magnitudes beyond the largest finite number become that number.
    pub satfinite: bool,
}

impl Narrow {
    #[inline(always)]
    fn value(self, a: u32) -> f64 {
        let x = f64::from(f32::from_bits(a));
        if self.relu && x <= 0.0 { 0.0 } else { x }
    }

    #[inline(always)]
    fn encode(self, format: Format, x: f64) -> u64 {
        if self.satfinite { format.from_f64_satfinite(x, self.round) } else { format.from_f64(x, self.round) }
    }
}

/// `cvt.{rn,rz}.f16.f32` and `.bf16.f32`, one half of a packed register.
#[inline(always)]
pub fn to_half(kind: Half, a: u32, mode: Narrow) -> u16 {
    if mode.round == Round::Nearest && !mode.satfinite {
        let bits = kind.from_f32(a);
        return if mode.relu { kind.relu(bits) } else { bits };
    }
    let format = if kind == Half::F16 { Format::F16 } else { Format::BF16 };
    mode.encode(format, mode.value(a)) as u16
}

/// `cvt.{rn,rz}.{f16x2,bf16x2}.f32 d, a, b`: `a` in the upper half, `b` in the lower.
#[inline(always)]
pub fn pack_half(kind: Half, a: u32, b: u32, mode: Narrow) -> u32 {
    u32::from(to_half(kind, a, mode)) << 16 | u32::from(to_half(kind, b, mode))
}

/// `cvt.{rn,rz,rna}.tf32.f32`: an f32 with the low 13 mantissa bits zero.
#[inline]
pub fn to_tf32(a: u32, mode: Narrow) -> u32 {
    if single::is_nan(a) {
        return single::NAN;
    }
    (mode.encode(Format::TF32, mode.value(a)) << 13) as u32
}

/// `cvt.rn.satfinite.{e4m3x2,e5m2x2,e2m3x2,e3m2x2}.f32 d, a, b`: `a` in the upper byte, `b` in the lower.
#[inline]
pub fn pack_bytes(format: Format, a: u32, b: u32, mode: Narrow) -> u16 {
    let byte = |x: u32| mode.encode(format, mode.value(x)) as u16;
    byte(a) << 8 | byte(b)
}

/// `cvt.rn.satfinite.{e4m3x2,e5m2x2}.f16x2`.
#[inline]
pub fn pack_bytes_from_f16x2(format: Format, a: u32, mode: Narrow) -> u16 {
    let [low, high] = [a as u16, (a >> 16) as u16].map(half::f32_from_f16);
    pack_bytes(format, high, low, mode)
}

/// `cvt.rn{.relu}.f16x2.{e4m3x2,e5m2x2,e2m3x2,e3m2x2}`: exact, the upper byte into the upper half.
#[inline]
pub fn f16x2_from_bytes(format: Format, a: u16, relu: bool) -> u32 {
    f16x2(format, [a & 0xff, a >> 8], relu)
}

/// `cvt.rn.satfinite.e2m1x2.f32 d, a, b`: `a` in the upper four bits, `b` in the lower.
#[inline]
pub fn pack_e2m1(a: u32, b: u32, mode: Narrow) -> u8 {
    let nibble = |x: u32| mode.encode(Format::E2M1, mode.value(x)) as u8;
    nibble(a) << 4 | nibble(b)
}

/// `cvt.rn{.relu}.f16x2.e2m1x2`.
#[inline]
pub fn f16x2_from_e2m1(a: u8, relu: bool) -> u32 {
    f16x2(Format::E2M1, [u16::from(a & 0xf), u16::from(a >> 4)], relu)
}

fn f16x2(format: Format, [low, high]: [u16; 2], relu: bool) -> u32 {
    // Every narrow value, subnormal or not, is an f16.
    let widen = |bits: u16| {
        let bits = Format::F16.from_f64(format.to_f64(bits.into()), Round::Nearest) as u16;
        u32::from(if relu { Half::F16.relu(bits) } else { bits })
    };
    widen(high) << 16 | widen(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINITE: Narrow = Narrow { round: Round::Nearest, relu: false, satfinite: true };

    #[test]
    fn halves_are_packed_a_above_b() {
        let (one, two) = (1.0f32.to_bits(), 2.0f32.to_bits());
        assert_eq!(pack_half(Half::F16, one, two, Narrow::default()), 0x3c00_4000);
        assert_eq!(pack_half(Half::Bf16, one, two, Narrow::default()), 0x3f80_4000);
        let above = 0x3f80_ffff;
        assert_eq!(
            pack_half(Half::Bf16, above, one, Narrow { round: Round::Zero, ..Narrow::default() }),
            0x3f80_3f80
        );
        let relu = Narrow { relu: true, ..Narrow::default() };
        assert_eq!(pack_half(Half::F16, one | 1 << 31, single::NAN, relu), 0x0000_7fff);
        assert_eq!(
            to_half(Half::F16, 1e9f32.to_bits(), Narrow { satfinite: true, relu: true, ..relu }),
            0x7bff
        );
        assert_eq!(to_half(Half::Bf16, (-1e9f32).to_bits(), Narrow { satfinite: true, ..relu }), 0);
    }

    #[test]
    fn tf32_rounds_ten_bits() {
        let rna = Narrow { round: Round::NearestAway, ..Narrow::default() };
        assert_eq!(to_tf32(0x3f80_1000, rna), 0x3f80_2000, "a tie goes away from zero");
        assert_eq!(to_tf32(0xbf80_1000, rna), 0xbf80_2000);
        assert_eq!(to_tf32(0x3f80_0fff, rna), 0x3f80_0000);
        assert_eq!(to_tf32(0x3f80_1000, Narrow::default()), 0x3f80_0000, "a tie goes to even");
        assert_eq!(to_tf32(0x7f7f_ffff, rna), 0x7f80_0000);
        assert_eq!(to_tf32(0x7f7f_ffff, Narrow { satfinite: true, ..rna }), 0x7f7f_e000);
        assert_eq!(to_tf32(0xffc0_0000, rna), single::NAN);
        assert_eq!(to_tf32(0xbf80_1000, Narrow { relu: true, ..Narrow::default() }), 0);
        for i in 0..300_000u32 {
            let a = i.wrapping_mul(0x9e37_79b1);
            if a & 0x7f80_0000 != 0x7f80_0000 {
                assert_eq!(to_tf32(a, rna), a.wrapping_add(0x1000) & !0x1fff, "{a:08x}");
            }
        }
    }

    /// Every f16 value to FP8 and back: nearest, saturated, and the identity on FP8 values.
    #[test]
    fn fp8_pairs_round_trip() {
        for format in [Format::E4M3, Format::E5M2] {
            for bits in 0..=u16::MAX {
                let pair = u32::from(bits) << 16 | 0x3c00;
                let bytes = pack_bytes_from_f16x2(format, pair, FINITE);
                let back = f16x2_from_bytes(format, bytes, false);
                let (x, y) = (::half::f16::from_bits(bits).to_f64(), format.to_f64(u64::from(bytes >> 8)));
                assert_eq!(back & 0xffff, 0x3c00, "1 is exact");
                if x.is_nan() {
                    assert_eq!(bytes >> 8, 0x7f);
                    assert_eq!(back >> 16, 0x7fff);
                    continue;
                }
                assert_eq!(f64::from(::half::f16::from_bits((back >> 16) as u16)), y);
                let (below, above) = ((bytes >> 8).wrapping_sub(1), (bytes >> 8) + 1);
                for neighbour in [below, above].map(|b| format.to_f64(u64::from(b & 0xff))) {
                    if neighbour.is_finite() && x.abs() <= format.to_f64(format.max_finite()) {
                        assert!(
                            (x - y).abs() <= (x - neighbour).abs(),
                            "{format:?} {x} -> {y}, not {neighbour}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn fp8_edges() {
        let pack = |format, a: f32, b: f32| pack_bytes(format, a.to_bits(), b.to_bits(), FINITE);
        assert_eq!(pack(Format::E4M3, 448.0, -1e30), 0x7efe);
        assert_eq!(pack(Format::E4M3, f32::INFINITY, 464.0), 0x7e7e);
        assert_eq!(pack(Format::E5M2, 57344.0, 61440.0), 0x7b7b);
        assert_eq!(pack(Format::E4M3, 2.0f32.powi(-9), 2.0f32.powi(-10)), 0x0100, "a tie with 0 goes to 0");
        assert_eq!(pack(Format::E4M3, -0.0, f32::NAN), 0x807f);
        let relu = Narrow { relu: true, ..FINITE };
        assert_eq!(pack_bytes(Format::E5M2, (-2.0f32).to_bits(), 2.0f32.to_bits(), relu), 0x0040);
        assert_eq!(f16x2_from_bytes(Format::E5M2, 0x7cfc, false), 0x7c00_fc00, "e5m2 has infinities");
        assert_eq!(f16x2_from_bytes(Format::E4M3, 0x01c0, true), 0x1800_0000);
    }

    #[test]
    fn fp4_and_fp6() {
        assert_eq!(pack_e2m1(6.0f32.to_bits(), (-0.25f32).to_bits(), FINITE), 0x78);
        assert_eq!(pack_e2m1(f32::NAN.to_bits(), 100f32.to_bits(), FINITE), 0x77);
        for nibble in 0..16u8 {
            let back = f16x2_from_e2m1(nibble << 4 | nibble, false);
            let value = f32::from_bits(half::f32_from_f16(back as u16)).to_bits();
            assert_eq!(pack_e2m1(value, value, FINITE), nibble << 4 | nibble);
        }
        assert_eq!(pack_bytes(Format::E2M3, 7.5f32.to_bits(), 100f32.to_bits(), FINITE), 0x1f1f);
        assert_eq!(pack_bytes(Format::E3M2, 28f32.to_bits(), (-0.0625f32).to_bits(), FINITE), 0x1f21);
    }
}
