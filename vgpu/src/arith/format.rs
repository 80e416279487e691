//! Binary floating-point formats and the one rounding step shared by everything that is not native.

/// Rounding direction of a floating-point result (`.rn .rz .rm .rp`, and `.rna` of `cvt.tf32`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Round {
    /// To nearest, ties to even (`.rn`).
    #[default]
    Nearest,
    /// Toward zero (`.rz`).
    Zero,
    /// Toward negative infinity (`.rm`).
    Down,
    /// Toward positive infinity (`.rp`).
    Up,
    /// To nearest, ties away from zero (`.rna`).
    NearestAway,
}

/// What the top of a format's exponent range encodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Top {
    /// Infinities and NaNs, as in IEEE 754.
    Ieee,
    /// Finite numbers, but for one NaN pattern per sign (`e4m3`).
    OneNan,
    /// Finite numbers only (`e2m3`, `e3m2`, `e2m1`).
    Finite,
}

/// A sign, `exponent` bits and `mantissa` bits, biased as IEEE 754 does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    exponent: u32,
    mantissa: u32,
    top: Top,
}

/// An exact value `(-1)^negative · significand · 2^exponent`, before rounding. A caller who has dropped low
/// bits folds them into the last bit of the significand (sticky), at least two places below the rounding
/// position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exact {
    /// Sign.
    pub negative: bool,
    /// Magnitude, an integer.
    pub significand: u128,
    /// Power of two that scales the significand.
    pub exponent: i32,
}

impl Format {
    /// IEEE binary16.
    pub const F16: Format = Format::ieee(5, 10);
    /// bfloat16.
    pub const BF16: Format = Format::ieee(8, 7);
    /// TensorFloat-32, as 19 bits (in a register it stands in the upper bits of an f32).
    pub const TF32: Format = Format::ieee(8, 10);
    /// IEEE binary32.
    pub const F32: Format = Format::ieee(8, 23);
    /// IEEE binary64.
    pub const F64: Format = Format::ieee(11, 52);
    /// FP8 with 4 exponent bits: no infinities, largest 448.
    pub const E4M3: Format = Format { exponent: 4, mantissa: 3, top: Top::OneNan };
    /// FP8 with 5 exponent bits.
    pub const E5M2: Format = Format::ieee(5, 2);
    /// FP6 with 2 exponent bits, largest 7.5.
    pub const E2M3: Format = Format { exponent: 2, mantissa: 3, top: Top::Finite };
    /// FP6 with 3 exponent bits, largest 28.
    pub const E3M2: Format = Format { exponent: 3, mantissa: 2, top: Top::Finite };
    /// FP4, largest 6.
    pub const E2M1: Format = Format { exponent: 2, mantissa: 1, top: Top::Finite };

    const fn ieee(exponent: u32, mantissa: u32) -> Format {
        Format { exponent, mantissa, top: Top::Ieee }
    }

    const fn sign_bit(self) -> u64 {
        1 << (self.exponent + self.mantissa)
    }

    /// Exponent of the smallest normal number.
    const fn min_exponent(self) -> i32 {
        2 - (1 << (self.exponent - 1))
    }

    /// Bit pattern of the largest finite magnitude.
    pub const fn max_finite(self) -> u64 {
        match self.top {
            Top::Ieee => self.infinity() - 1,
            Top::OneNan => self.sign_bit() - 2,
            Top::Finite => self.sign_bit() - 1,
        }
    }

    /// Bit pattern of positive infinity (of an IEEE format).
    pub const fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    /// The NaN that conversions produce: all ones but for the sign; for a format without NaN its largest
    /// number, which is what the ISA has NaN become.
    pub const fn nan(self) -> u64 {
        self.sign_bit() - 1
    }

    fn is_nan(self, magnitude: u64) -> bool {
        match self.top {
            Top::Ieee => magnitude > self.infinity(),
            Top::OneNan => magnitude == self.nan(),
            Top::Finite => false,
        }
    }

    /// Rounds an exact value; overflow goes to infinity or to the largest finite number as IEEE 754 has it
    /// for the rounding direction, always to the latter where the format has no infinity.
    pub fn encode(self, value: Exact, round: Round) -> u64 {
        let sign = if value.negative { self.sign_bit() } else { 0 };
        if value.significand == 0 {
            return sign;
        }
        let leading = value.exponent + 127 - value.significand.leading_zeros() as i32;
        let ulp = leading.max(self.min_exponent()) - self.mantissa as i32;
        let kept = round_shift(value.significand, ulp - value.exponent, value.negative, round);
        // A normal significand carries its implicit bit into the exponent field, and so does a rounding
        // carry.
        let field = (ulp + self.mantissa as i32 - self.min_exponent()) as u128;
        let magnitude = kept + (field << self.mantissa);
        if magnitude > u128::from(self.max_finite()) {
            return sign | self.overflow(value.negative, round);
        }
        sign | magnitude as u64
    }

    fn overflow(self, negative: bool, round: Round) -> u64 {
        let outward = match round {
            Round::Nearest | Round::NearestAway => true,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        if outward && self.top == Top::Ieee { self.infinity() } else { self.max_finite() }
    }

    /// Rounds a double (of any kind: zeros, infinities and NaN included) to this format.
    pub fn from_f64(self, x: f64, round: Round) -> u64 {
        if x.is_nan() {
            return self.nan();
        }
        let sign = if x.is_sign_negative() { self.sign_bit() } else { 0 };
        if x.is_infinite() {
            return sign | if self.top == Top::Ieee { self.infinity() } else { self.max_finite() };
        }
        self.encode(Exact::from_f64(x), round)
    }

    /// As [`Format::from_f64`], with every magnitude beyond the largest finite one clamped to it
    /// (`.satfinite`).
    pub fn from_f64_satfinite(self, x: f64, round: Round) -> u64 {
        let bits = self.from_f64(x, round);
        let magnitude = bits & (self.sign_bit() - 1);
        if magnitude > self.max_finite() && !self.is_nan(magnitude) {
            return bits & self.sign_bit() | self.max_finite();
        }
        bits
    }

    /// The value of a bit pattern, exactly.
    pub fn to_f64(self, bits: u64) -> f64 {
        let magnitude = bits & (self.sign_bit() - 1);
        let sign = if bits & self.sign_bit() != 0 { -1.0 } else { 1.0 };
        if self.is_nan(magnitude) {
            return f64::NAN;
        }
        if self.top == Top::Ieee && magnitude == self.infinity() {
            return sign * f64::INFINITY;
        }
        let (field, fraction) = (magnitude >> self.mantissa, magnitude & ((1 << self.mantissa) - 1));
        let (significand, field) =
            if field == 0 { (fraction, 1) } else { (fraction | 1 << self.mantissa, field) };
        let exponent = field as i32 - 1 + self.min_exponent() - self.mantissa as i32;
        sign * scale(significand as f64, exponent)
    }
}

/// `x · 2^exponent` for a product that is exact and normal in double precision.
fn scale(x: f64, exponent: i32) -> f64 {
    x * f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// `significand / 2^shift`, rounded (`shift <= 0`: multiplied, exactly).
fn round_shift(significand: u128, shift: i32, negative: bool, round: Round) -> u128 {
    if shift <= 0 {
        return significand << -shift;
    }
    // Beyond 127 places the quotient is below a quarter: any such value rounds alike.
    let (kept, rest, half) = if shift > 127 {
        (0, 1, 2)
    } else {
        (significand >> shift, significand & ((1 << shift) - 1), 1u128 << (shift - 1))
    };
    let up = match round {
        Round::Nearest => rest > half || rest == half && kept & 1 == 1,
        Round::NearestAway => rest >= half,
        Round::Zero => false,
        Round::Down => negative && rest != 0,
        Round::Up => !negative && rest != 0,
    };
    kept + u128::from(up)
}

impl Exact {
    /// Splits a finite double.
    pub fn from_f64(x: f64) -> Exact {
        let bits = x.to_bits();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = u128::from(bits & ((1 << 52) - 1));
        let significand = if field == 0 { fraction } else { fraction | 1 << 52 };
        Exact { negative: x.is_sign_negative(), significand, exponent: field.max(1) - 1075 }
    }

    /// An integer.
    pub fn from_int(x: i128) -> Exact {
        Exact { negative: x < 0, significand: x.unsigned_abs(), exponent: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_rounding_to_nearest_is_the_native_conversion() {
        for i in 0..2_000_000u64 {
            let x = f64::from_bits(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            if x.is_nan() {
                continue;
            }
            assert_eq!(Format::F32.from_f64(x, Round::Nearest), u64::from((x as f32).to_bits()), "{x:e}");
        }
        // Around every f32 exponent, where random doubles are rare.
        for e in -160..130 {
            for k in 0..64u64 {
                let x =
                    f64::from_bits(((e + 1023) as u64) << 52 | k.wrapping_mul(0x0004_1234_5678_9abc) >> 12);
                assert_eq!(Format::F32.from_f64(x, Round::Nearest), u64::from((x as f32).to_bits()), "{x:e}");
            }
        }
    }

    #[test]
    fn half_formats_agree_with_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (f, b) = (half::f16::from_bits(bits), half::bf16::from_bits(bits));
            for (format, exact) in [(Format::F16, f.to_f64()), (Format::BF16, b.to_f64())] {
                let value = format.to_f64(u64::from(bits));
                assert!(value.is_nan() && exact.is_nan() || value.to_bits() == exact.to_bits());
                if !exact.is_nan() {
                    assert_eq!(format.from_f64(value, Round::Nearest), u64::from(bits));
                }
            }
        }
        for i in 0..1_000_000u32 {
            let x = f32::from_bits(i.wrapping_mul(0x9e37_79b1));
            if !x.is_nan() {
                let (f, b) = (half::f16::from_f32(x), half::bf16::from_f32(x));
                assert_eq!(Format::F16.from_f64(x.into(), Round::Nearest), u64::from(f.to_bits()));
                assert_eq!(Format::BF16.from_f64(x.into(), Round::Nearest), u64::from(b.to_bits()));
            }
        }
    }

    /// Directed rounding by definition: the neighbour on the right side, found by scanning the format.
    #[test]
    fn directed_rounding_brackets_the_value_in_every_small_format() {
        for format in [Format::E4M3, Format::E5M2, Format::E2M3, Format::E3M2, Format::E2M1] {
            let grid: Vec<f64> = (0..=format.max_finite()).map(|bits| format.to_f64(bits)).collect();
            let top = *grid.last().unwrap();
            for step in 0..4096 {
                let x = top * f64::from(step) / 4095.0;
                let below = *grid.iter().rev().find(|&&g| g <= x).unwrap();
                let above = *grid.iter().find(|&&g| g >= x).unwrap();
                for (round, up, down) in
                    [(Round::Zero, below, below), (Round::Down, below, above), (Round::Up, above, below)]
                {
                    assert_eq!(format.to_f64(format.from_f64(x, round)), up, "{format:?} {round:?} {x}");
                    assert_eq!(format.to_f64(format.from_f64(-x, round)), -down, "{format:?} {round:?} -{x}");
                }
                let nearest = format.to_f64(format.from_f64(x, Round::Nearest));
                assert!((nearest - x).abs() <= (above - x).min(x - below), "{format:?} {x} -> {nearest}");
                if x - below == above - x && below != above {
                    assert_eq!(format.from_f64(x, Round::Nearest) & 1, 0, "ties go to even");
                    assert_eq!(format.to_f64(format.from_f64(-x, Round::NearestAway)), -above);
                }
            }
        }
    }

    #[test]
    fn limits_of_the_narrow_formats() {
        for (format, max) in [
            (Format::E4M3, 448.0),
            (Format::E5M2, 57344.0),
            (Format::E2M3, 7.5),
            (Format::E3M2, 28.0),
            (Format::E2M1, 6.0),
            (Format::F16, 65504.0),
        ] {
            assert_eq!(format.to_f64(format.max_finite()), max);
            assert_eq!(format.to_f64(format.from_f64_satfinite(1e9, Round::Nearest)), max);
            assert_eq!(format.to_f64(format.from_f64_satfinite(f64::NEG_INFINITY, Round::Nearest)), -max);
        }
        assert_eq!(Format::E4M3.from_f64_satfinite(f64::NAN, Round::Nearest), 0x7f);
        assert_eq!(Format::E5M2.from_f64_satfinite(f64::NAN, Round::Nearest), 0x7f);
        assert_eq!(Format::E2M1.from_f64_satfinite(f64::NAN, Round::Nearest), 0x7, "NaN becomes +MAX_NORM");
        assert_eq!(Format::E5M2.from_f64(60000.0, Round::Zero), 0x7b, "toward zero never reaches infinity");
        assert_eq!(Format::E5M2.from_f64(-65536.0, Round::Up), 0xfb);
        assert_eq!(Format::E5M2.from_f64(-65536.0, Round::Down), 0xfc);
    }
}
