//! Numbers: the element types of the kernels, inputs for them, and the comparison.

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use half::{bf16, f16};

/// An element type of a kernel.
pub trait Real: DeviceRepr + ValidAsZeroBits + Default + Copy + Send + Sync + 'static {
    /// Suffix of the kernels' names.
    const NAME: &'static str;
    /// Relative distance of neighbouring numbers.
    const EPSILON: f64;
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
}

macro_rules! real {
    ($($t:ty, $name:literal, $epsilon:expr, $from:expr, $to:expr;)*) => {$(
        impl Real for $t {
            const NAME: &'static str = $name;
            const EPSILON: f64 = $epsilon;
            fn from_f64(x: f64) -> Self {
                let from: fn(f64) -> $t = $from;
                from(x)
            }
            fn to_f64(self) -> f64 {
                let to: fn($t) -> f64 = $to;
                to(self)
            }
        }
    )*};
}

real! {
    f32, "f32", f32::EPSILON as f64, |x| x as f32, |x| x.into();
    f64, "f64", f64::EPSILON, |x| x, |x| x;
    f16, "f16", 1.0 / 1024.0, f16::from_f64, f16::to_f64;
    bf16, "bf16", 1.0 / 128.0, bf16::from_f64, bf16::to_f64;
}

/// Inputs spread over [low, high), rounded to the type, as the kernel will see them; the same on every run.
pub fn spread<T: Real>(count: usize, low: f64, high: f64, seed: u64) -> Vec<T> {
    (0..count as u64)
        .map(|i| {
            let x = (i + 1 + 1000 * seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let unit = ((x ^ x >> 29) >> 11) as f64 / (1u64 << 53) as f64;
            T::from_f64(low + (high - low) * unit)
        })
        .collect()
}

/// Compares with expectations in double precision: every element within `ulps` relative places of the type,
/// of the larger of 1 and the expected magnitude.
pub fn agree<T: Real>(seen: &[T], expected: &[f64], ulps: f64) -> Result<(), String> {
    if seen.len() != expected.len() {
        return Err(format!("{} results, {} expected", seen.len(), expected.len()));
    }
    for (i, (seen, &expected)) in seen.iter().zip(expected).enumerate() {
        let seen = seen.to_f64();
        let same = seen == expected || seen.is_nan() && expected.is_nan();
        let near = (seen - expected).abs() <= ulps * T::EPSILON * expected.abs().max(1.0);
        if !same && !near {
            return Err(format!(
                "element {i}: {seen:e}, expected {expected:e} ({} within {ulps} ulp)",
                T::NAME
            ));
        }
    }
    Ok(())
}

/// Compares exactly.
pub fn equal<T: PartialEq + std::fmt::Debug>(seen: &[T], expected: &[T]) -> Result<(), String> {
    match seen.iter().zip(expected).position(|(a, b)| a != b) {
        Some(i) => Err(format!("element {i}: {:?}, expected {:?}", seen[i], expected[i])),
        None if seen.len() != expected.len() => {
            Err(format!("{} results, {} expected", seen.len(), expected.len()))
        }
        None => Ok(()),
    }
}

/// The error function, to double precision: its Taylor series near 0, a continued fraction of erfc beyond.
pub fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    let scale = 2.0 / std::f64::consts::PI.sqrt();
    if magnitude < 1.5 {
        let mut term = magnitude;
        let mut sum = magnitude;
        for n in 1..120 {
            term *= -magnitude * magnitude / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return (scale * sum).copysign(x);
    }
    let mut fraction = magnitude;
    for n in (1..200).rev() {
        fraction = magnitude + f64::from(n) / 2.0 / fraction;
    }
    (1.0 - (-magnitude * magnitude).exp() / fraction / std::f64::consts::PI.sqrt()).copysign(x)
}
