//! The numbers that the plain implementation is written for: f32, and f64 that keeps account of what f32
//! would have rounded.

use std::ops::{Add, Div, Mul, Sub};

/// What the plain implementation needs of a number.
pub trait Real:
    Copy + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// An input, exact.
    fn of(value: f32) -> Self;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    /// The exponent of a positive number.
    fn log2_floor(self) -> i32;
}

impl Real for f32 {
    fn of(value: f32) -> Self {
        value
    }
    fn exp(self) -> Self {
        f32::exp(self)
    }
    fn ln(self) -> Self {
        f32::ln(self)
    }
    fn log2_floor(self) -> i32 {
        exponent(f64::from(self))
    }
}

/// An exact value with the standard deviation of the error that it would carry had every operation so far
/// rounded to f32: a statistical running error analysis. Roundings count as independent and uniform within
/// half a unit in the last place; a result that f32 can hold counts as exact, save a quotient: whoever
/// multiplies by a reciprocal rounds twice, also where dividing is exact.
#[derive(Clone, Copy, Debug)]
pub struct Tracked {
    pub value: f64,
    pub variance: f64,
}

impl Tracked {
    /// A result with the error inherited from its operands, and its own rounding.
    fn rounded(value: f64, inherited: f64) -> Self {
        let own = if f64::from(value as f32) == value { 0.0 } else { rounding_variance(value, 24, -149) };
        Self { value, variance: inherited + own }
    }

    pub fn deviation(self) -> f64 {
        self.variance.sqrt()
    }

    /// The same stored in a type with so many bits of precision and a smallest subnormal of 2^`smallest`.
    pub fn stored(self, precision: i32, smallest: i32) -> Self {
        if precision == 24 {
            return self;
        }
        let own = rounding_variance(self.value, precision, smallest);
        Self { variance: self.variance + own, ..self }
    }
}

/// A rounding error is uniform within half a unit in the last place, so its variance is a twelfth of the
/// unit's square.
fn rounding_variance(value: f64, precision: i32, smallest: i32) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let unit = 2f64.powi((exponent(value) - precision + 1).max(smallest));
    unit * unit / 12.0
}

/// The exponent of a normal number other than zero.
fn exponent(value: f64) -> i32 {
    ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

impl PartialEq for Tracked {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialOrd for Tracked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl Add for Tracked {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self::rounded(self.value + other.value, self.variance + other.variance)
    }
}

impl Sub for Tracked {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self::rounded(self.value - other.value, self.variance + other.variance)
    }
}

impl Mul for Tracked {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let inherited = other.value * other.value * self.variance + self.value * self.value * other.variance;
        Self::rounded(self.value * other.value, inherited)
    }
}

impl Div for Tracked {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let quotient = self.value / other.value;
        let inherited = (self.variance + quotient * quotient * other.variance) / (other.value * other.value);
        Self { value: quotient, variance: inherited + 2.0 * rounding_variance(quotient, 24, -149) }
    }
}

impl Real for Tracked {
    fn of(value: f32) -> Self {
        Self { value: f64::from(value), variance: 0.0 }
    }
    fn exp(self) -> Self {
        let value = self.value.exp();
        Self::rounded(value, value * value * self.variance)
    }
    fn ln(self) -> Self {
        Self::rounded(self.value.ln(), self.variance / (self.value * self.value))
    }
    fn log2_floor(self) -> i32 {
        exponent(self.value)
    }
}
