//! How far a result may be from the reference: twice as far as a plain implementation of the same precision is.

use half::{bf16, f16};
use multimix::Element;

/// The unit roundoff of a storage type, and what a value becomes as an operand of its products.
pub trait Rounding: Element {
    const UNIT: f64;
}

impl Rounding for f32 {
    const UNIT: f64 = 5.97e-8;
}
impl Rounding for f16 {
    const UNIT: f64 = 4.89e-4;
}
impl Rounding for bf16 {
    const UNIT: f64 = 3.91e-3;
}

/// Rounds an operand as tensor cores take it.
pub fn round<T: Element>(value: f32, tf32: bool) -> f32 {
    if tf32 { to_tf32(value) } else { T::from_f32(value).to_f32() }
}

/// To 10 bits of mantissa, to nearest, ties away.
fn to_tf32(value: f32) -> f32 {
    if value.is_finite() { f32::from_bits(value.to_bits().wrapping_add(0x1000) & !0x1fff) } else { value }
}

/// Checks that `given` is as near to `exact` as `plain` is, within a factor of two; `unit` is one rounding at the end.
///
/// The measure is the largest error of the array, against the largest value: arrays are checked whole.
pub fn check(what: &str, given: &[f32], plain: &[f32], exact: &[f64], unit: f64) {
    check_at(what, given, plain, exact, unit, 0.0);
}

/// The same for results that are differences of values as large as `terms`: where these cancel, four roundings to f32 of those stay.
pub fn check_at(what: &str, given: &[f32], plain: &[f32], exact: &[f64], unit: f64, terms: f64) {
    assert_eq!((given.len(), plain.len()), (exact.len(), exact.len()), "{what}: lengths");
    let scale = exact.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    let error = |values: &[f32]| {
        let distance = |(value, exact): (&f32, &f64)| (f64::from(*value) - exact).abs();
        values
            .iter()
            .zip(exact)
            .map(distance)
            .fold(0f64, |worst, x| if x.is_nan() { f64::INFINITY } else { worst.max(x) })
    };
    let allowed = 2.0 * error(plain) + unit * scale + 4.0 * f32::UNIT * terms + f64::from(f32::MIN_POSITIVE);
    let found = error(given);
    if found <= allowed {
        return;
    }
    let worst =
        |index: &usize| (f64::from(given[*index]) - exact[*index]).abs() > allowed || given[*index].is_nan();
    let list: Vec<String> = (0..exact.len())
        .filter(worst)
        .take(5)
        .map(|index| format!("[{index}] {} and not {}", given[index], exact[index]))
        .collect();
    panic!("{what}: error {found:e}, allowed {allowed:e}, largest value {scale:e}\n{}", list.join("\n"));
}
