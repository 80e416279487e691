//! Random finite values of every magnitude.

use multimix::{Dtype, Element};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What the values of one array are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Usual,
    Subnormal,
    Tiny,
    Huge,
    Largest,
    /// A scale of its own for each value, zero among them.
    Any,
}

impl Scale {
    /// Mostly the usual one.
    pub fn random(rng: &mut ChaCha8Rng) -> Self {
        let scales = [Self::Subnormal, Self::Tiny, Self::Huge, Self::Largest, Self::Any, Self::Any];
        if rng.random_bool(0.4) { Self::Usual } else { scales[rng.random_range(0..scales.len())] }
    }

    /// A finite value of either sign.
    pub fn value<T: Element>(self, rng: &mut ChaCha8Rng) -> T {
        let positive: T = self.positive(rng);
        if rng.random_bool(0.5) { positive } else { T::from_f32(-positive.to_f32()) }
    }

    /// A finite value, not negative.
    pub fn positive<T: Element>(self, rng: &mut ChaCha8Rng) -> T {
        let (smallest, largest) = match T::DTYPE {
            Dtype::F16 => (half::f16::from_bits(1).to_f32(), half::f16::MAX.to_f32()),
            Dtype::Bf16 => (half::bf16::from_bits(1).to_f32(), half::bf16::MAX.to_f32()),
            _ => (f32::from_bits(1), f32::MAX),
        };
        let share = rng.random_range(0.1..1f32);
        let value = match self {
            Self::Usual => share * 4.0,
            Self::Subnormal => smallest * (share * 100.0).floor(),
            Self::Tiny => share * 1e-30,
            Self::Huge => share * 1e30,
            Self::Largest => largest * if rng.random_bool(0.5) { 1.0 } else { share },
            Self::Any if rng.random_bool(0.2) => 0.0,
            Self::Any => share * 10f32.powi(rng.random_range(-44..39)),
        };
        T::from_f32(value.min(largest))
    }
}
