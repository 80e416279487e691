//! The elementary functions of the sampler: polynomials in a written order, exact to about one unit in the
//! last place.
//!
//! The coefficients are minimax fits (Remez), rounded to f32. Every operation rounds correctly, so all
//! engines get the same bits.

/// Coefficients of log₂(1 + f) / f on [√½ − 1, √2 − 1], lowest power first; relative error 3e-8.
pub const LOG2: [f32; 9] = [
    f32::from_bits(0x3fb8_aa3b),
    f32::from_bits(0xbf38_aa38),
    f32::from_bits(0x3ef6_39eb),
    f32::from_bits(0xbeb8_ae27),
    f32::from_bits(0x3e93_69c2),
    f32::from_bits(0xbe74_adf4),
    f32::from_bits(0x3e5c_e48d),
    f32::from_bits(0xbe54_3e84),
    f32::from_bits(0x3e00_db6b),
];

/// Coefficients of (2^f − 1) / f on [−½, ½], lowest power first; relative error of 2^f 5e-8.
pub const EXP2: [f32; 5] = [
    f32::from_bits(0x3f31_7215),
    f32::from_bits(0x3e75_fcde),
    f32::from_bits(0x3d63_5ba9),
    f32::from_bits(0x3c1e_7534),
    f32::from_bits(0x3aad_dd21),
];

/// Coefficients of sin(π t / 2) / t in t², |t| ≤ ½; relative error 4e-9.
pub const SIN: [f32; 4] = [
    f32::from_bits(0x3fc9_0fdb),
    f32::from_bits(0xbf25_5ddd),
    f32::from_bits(0x3da3_2f49),
    f32::from_bits(0xbb96_c981),
];

/// Coefficients of cos(π t / 2) in t², |t| ≤ ½; relative error 4e-8.
pub const COS: [f32; 4] = [
    f32::from_bits(0x3f7f_ffff),
    f32::from_bits(0xbf9d_e9c6),
    f32::from_bits(0x3e81_d732),
    f32::from_bits(0xbca7_1aed),
];

/// −2 ln 2: turns a log₂ into the square of a Box–Muller radius.
pub const MINUS_2_LN_2: f32 = -2.0 * std::f32::consts::LN_2;
/// Added to the bits of x so that its exponent field, rounded at √2, is the exponent of log₂ plus 128.
pub const LOG2_BIAS: u32 = 0x4000_0000 - SQRT_HALF_BITS;
/// The bits of √½, the lower end of the reduced mantissa.
pub const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
/// 2²³ + 128: the bits of a small integer, put below this exponent, are that integer as a float after
/// subtracting this.
pub const EXPONENT_OFFSET: f32 = 8_388_736.0;
/// 1.5 · 2²³: adding and subtracting it rounds to an integer.
pub const ROUND: f32 = 12_582_912.0;
/// [`exp2`] is zero below this exponent.
pub const EXP2_MIN: f32 = -125.0;
/// 1 − 2⁻²⁴: centres [`unit()`].
pub const UNIT_OFFSET: f32 = f32::from_bits(0x3f7f_ffff);

/// A uniform number in (0, 1): ((w >> 9) + ½) 2⁻²³, exact.
#[inline(always)]
pub fn unit(word: u32) -> f32 {
    f32::from_bits(word >> 9 | 0x3f80_0000) - UNIT_OFFSET
}

/// A polynomial by Horner's rule, lowest power first.
#[inline(always)]
fn horner<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    let mut sum = coefficients[N - 1];
    for &coefficient in coefficients[..N - 1].iter().rev() {
        sum = sum.mul_add(x, coefficient);
    }
    sum
}

/// log₂ x of a positive normal number.
#[inline(always)]
pub fn log2(x: f32) -> f32 {
    let bits = x.to_bits().wrapping_add(LOG2_BIAS);
    let mantissa = f32::from_bits((bits & 0x007f_ffff) + SQRT_HALF_BITS);
    let exponent = f32::from_bits(bits >> 23 | 0x4b00_0000) - EXPONENT_OFFSET;
    let f = mantissa - 1.0;
    f.mul_add(horner(&LOG2, f), exponent)
}

/// 2^y for y < 127; zero for y < −125, so that no result is subnormal.
#[inline(always)]
pub fn exp2(y: f32) -> f32 {
    if y < EXP2_MIN {
        return 0.0;
    }
    let shifted = y + ROUND;
    let f = y - (shifted - ROUND);
    let mantissa = f.mul_add(horner(&EXP2, f), 1.0);
    f32::from_bits(mantissa.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Two independent standard normals by Box–Muller: the radius from one word, the angle from another.
///
/// The two upper bits of `angle` choose the quarter of the circle, the next 23 the place in it.
#[inline(always)]
pub fn normal_pair(radius: u32, angle: u32) -> (f32, f32) {
    let r = (log2(unit(radius)) * MINUS_2_LN_2).sqrt();
    let t = f32::from_bits((angle << 2) >> 9 | 0x3f80_0000) - 1.5;
    let t2 = t * t;
    let sin = t * horner(&SIN, t2);
    let cos = f32::from_bits(horner(&COS, t2).to_bits() ^ (angle & 0x8000_0000));
    let (x, y) = if angle & 0x4000_0000 == 0 { (cos, sin) } else { (sin, cos) };
    (r * x, r * y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_lie_inside_the_open_interval() {
        assert_eq!(unit(0), 2f32.powi(-24));
        assert_eq!(unit(u32::MAX), 1.0 - 2f32.powi(-24));
        assert_eq!(unit(1 << 31), 0.5 + 2f32.powi(-24));
    }

    #[test]
    fn log2_is_accurate() {
        for step in 0..200_000u32 {
            let x = f32::from_bits(0x0080_0000 + step * 10_000);
            let error = (log2(x) as f64 - (x as f64).log2()).abs();
            let allowed = 2e-7 * (x as f64).log2().abs().max(1e-30);
            assert!(error <= allowed, "log2({x:e}) = {}", log2(x));
        }
        assert_eq!(log2(1.0), 0.0);
    }

    #[test]
    fn exp2_is_accurate_and_never_subnormal() {
        for step in -124_900..126_000i32 {
            let y = step as f32 * 1e-3;
            let exact = (y as f64).exp2();
            assert!((exp2(y) as f64 / exact - 1.0).abs() < 2e-7, "exp2({y}) = {}", exp2(y));
        }
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(-125.5), 0.0);
        assert!(exp2(-125.0).is_normal());
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn normal_pairs_lie_where_the_words_say() {
        for step in 0..1000u32 {
            let (radius, angle) = (step.wrapping_mul(0x9e37_79b9), step.wrapping_mul(0x85eb_ca6b));
            let (x, y) = normal_pair(radius, angle);
            let squared = -2.0 * (unit(radius) as f64).ln();
            assert!(((x as f64).hypot(y as f64).powi(2) / squared - 1.0).abs() < 1e-6);
            let t = ((angle << 2) >> 9) as f64 * 2f64.powi(-23) - 0.5;
            let (mut sin, mut cos) = (t * std::f64::consts::FRAC_PI_2).sin_cos();
            if angle >> 31 == 1 {
                cos = -cos;
            }
            if angle >> 30 & 1 == 1 {
                (sin, cos) = (cos, sin);
            }
            assert!(
                (x as f64 - squared.sqrt() * cos).abs() < 2e-6
                    && (y as f64 - squared.sqrt() * sin).abs() < 2e-6
            );
        }
    }
}
