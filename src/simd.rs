//! Elementary functions in SIMD registers, whatever the machine has: the operations of
//! [`crate::sampler::math`], lane by lane.

use crate::sampler::math;
use pulp::Simd;

/// Every word shifted right, zeros coming in.
#[inline(always)]
pub(crate) fn shift_right<S: Simd>(simd: S, word: S::u32s, bits: u32) -> S::u32s {
    simd.wrapping_dyn_shr_u32s(word, simd.splat_u32s(bits))
}

/// A polynomial by Horner's rule, lowest power first.
#[inline(always)]
pub(crate) fn horner<S: Simd, const N: usize>(simd: S, coefficients: &[f32; N], x: S::f32s) -> S::f32s {
    let mut sum = simd.splat_f32s(coefficients[N - 1]);
    for &coefficient in coefficients[..N - 1].iter().rev() {
        sum = simd.mul_add_f32s(sum, x, simd.splat_f32s(coefficient));
    }
    sum
}

/// [`math::log2`]
#[inline(always)]
pub(crate) fn log2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let bits = simd.add_u32s(simd.transmute_u32s_f32s(x), simd.splat_u32s(math::LOG2_BIAS));
    let fraction = simd.and_u32s(bits, simd.splat_u32s(0x007f_ffff));
    let mantissa = simd.transmute_f32s_u32s(simd.add_u32s(fraction, simd.splat_u32s(math::SQRT_HALF_BITS)));
    let shifted = simd.or_u32s(shift_right(simd, bits, 23), simd.splat_u32s(0x4b00_0000));
    let exponent = simd.sub_f32s(simd.transmute_f32s_u32s(shifted), simd.splat_f32s(math::EXPONENT_OFFSET));
    let f = simd.sub_f32s(mantissa, simd.splat_f32s(1.0));
    simd.mul_add_f32s(f, horner(simd, &math::LOG2, f), exponent)
}

/// [`math::exp2`]
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, y: S::f32s) -> S::f32s {
    let round = simd.splat_f32s(math::ROUND);
    let shifted = simd.add_f32s(y, round);
    let f = simd.sub_f32s(y, simd.sub_f32s(shifted, round));
    let mantissa = simd.mul_add_f32s(f, horner(simd, &math::EXP2, f), simd.splat_f32s(1.0));
    let power = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let value = simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(mantissa), power));
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.less_than_f32s(y, simd.splat_f32s(math::EXP2_MIN)), zero, value)
}

/// e^x for x <= 88, to about one unit in the last place; zero below -86.6, so that no result is subnormal.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let round = simd.splat_f32s(math::ROUND);
    let log2_e = simd.splat_f32s(std::f32::consts::LOG2_E);
    let shifted = simd.mul_add_f32s(x, log2_e, round);
    let n = simd.sub_f32s(shifted, round);
    // x log2 e - n in two pieces of log2 e, so that large |x| keep their fraction.
    let f = simd.mul_add_f32s(x, log2_e, simd.neg_f32s(n));
    let f = simd.mul_add_f32s(x, simd.splat_f32s(LOG2_E_LOW), f);
    let mantissa = simd.mul_add_f32s(f, horner(simd, &math::EXP2, f), simd.splat_f32s(1.0));
    let power = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let value = simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(mantissa), power));
    let too_small = simd.less_than_f32s(x, simd.splat_f32s(EXP_MIN));
    simd.select_f32s(too_small, simd.splat_f32s(0.0), value)
}

/// log2 e - (log2 e rounded to f32).
const LOG2_E_LOW: f32 = (std::f64::consts::LOG2_E - std::f32::consts::LOG2_E as f64) as f32;
/// -125 ln 2.
const EXP_MIN: f32 = -86.643_4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for step in -86_600..88_000i32 {
            let x = step as f32 * 1e-3;
            let value = exp(pulp::Scalar, x);
            assert!((value as f64 / (x as f64).exp() - 1.0).abs() < 2e-7, "exp({x}) = {value}");
        }
        assert_eq!(exp(pulp::Scalar, 0.0), 1.0);
        assert_eq!(exp(pulp::Scalar, -90.0), 0.0);
        assert_eq!(exp(pulp::Scalar, f32::NEG_INFINITY), 0.0);
    }
}
