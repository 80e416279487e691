//! The types that arrays are stored in. Features and logits are f32, f16 or bf16; all arithmetic is in f32.

use std::fmt::Debug;

use half::{bf16, f16};

/// The storage type of an array, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    Bf16,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

#[cfg(feature = "cuda")]
mod device {
    /// What cudarc asks of a type that it copies to a device.
    pub trait OnDevice: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits {}
    impl<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits> OnDevice for T {}
}

#[cfg(not(feature = "cuda"))]
mod device {
    /// What cudarc would ask of a type that it copies to a device.
    pub trait OnDevice {}
    impl<T> OnDevice for T {}
}

/// A type that arrays of this crate hold, on every device.
pub trait Scalar:
    sealed::Sealed + device::OnDevice + bytemuck::Pod + Send + Sync + PartialEq + Debug
{
}

macro_rules! scalars {
    ($($type:ty),*) => {
        $(impl sealed::Sealed for $type {}
        impl Scalar for $type {})*
    };
}
scalars!(u8, i32, u32, i64, u64, f32, f16, bf16);

/// A storage type of features and logits: `f32`, [`half::f16`] or [`half::bf16`].
///
/// Reading widens exactly; writing rounds once, to nearest even.
pub trait Element: Scalar {
    /// The type as a value.
    const DTYPE: Dtype;
    /// The exact value in f32.
    fn to_f32(self) -> f32;
    /// The nearest value of this type, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
}
