//! Where the elements of a view lie: in [`Host`] memory, or with the feature `cuda` in device memory, as
//! cudarc's slices ([`crate::cuda::Cuda`]) or as bare pointers ([`crate::cuda::Bare`]).
//!
//! What an op reads and writes is described once, in [`mod@crate::op`], over any of them.

use std::fmt::Debug;

use crate::error::{Error, ErrorKind, Result};

pub(crate) mod sealed {
    pub trait Sealed {}

    /// Memory whose addresses a check can compare.
    pub trait Addressed: super::Memory {
        fn address<T>(data: &Self::Ref<'_, T>) -> u64;
        fn address_mut<T>(data: &Self::Mut<'_, T>) -> u64;
    }
}
pub(crate) use sealed::Addressed;

/// A kind of memory. A marker: it has no values.
pub trait Memory: sealed::Sealed + Copy + Debug + 'static {
    /// Elements that are read.
    type Ref<'a, T: 'a>;
    /// Elements that are written.
    type Mut<'a, T: 'a>;
    /// An array that an allocating call returns, contiguous.
    type Owned<T>;
    /// A number that an allocating call returns.
    type Number;

    #[doc(hidden)]
    fn copy<'a, T: 'a>(data: &Self::Ref<'a, T>) -> Self::Ref<'a, T>;
    #[doc(hidden)]
    fn reborrow<'s, T>(data: &'s Self::Ref<'_, T>) -> Self::Ref<'s, T>;
    #[doc(hidden)]
    fn reborrow_mut<'s, T>(data: &'s mut Self::Mut<'_, T>) -> Self::Mut<'s, T>;
    #[doc(hidden)]
    fn borrow_owned<T>(array: &mut Self::Owned<T>) -> Self::Mut<'_, T>;
    #[doc(hidden)]
    fn borrow_number(number: &mut Self::Number) -> Self::Mut<'_, f32>;
}

/// What a [`View`](crate::View) can be made of.
pub trait Data<'a>: sealed::Sealed {
    /// The type of the elements.
    type Element: 'a;
    /// Where they lie.
    type Memory: Memory;

    #[doc(hidden)]
    fn borrow(self) -> (<Self::Memory as Memory>::Ref<'a, Self::Element>, usize);
}

/// What a [`ViewMut`](crate::ViewMut) can be made of.
pub trait DataMut<'a>: sealed::Sealed {
    /// The type of the elements.
    type Element: 'a;
    /// Where they lie.
    type Memory: Memory;

    #[doc(hidden)]
    fn borrow_mut(self) -> (<Self::Memory as Memory>::Mut<'a, Self::Element>, usize);
}

/// Memory of the host: slices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Host {}

impl sealed::Sealed for Host {}

impl Memory for Host {
    type Ref<'a, T: 'a> = &'a [T];
    type Mut<'a, T: 'a> = &'a mut [T];
    type Owned<T> = Vec<T>;
    type Number = f32;

    fn copy<'a, T: 'a>(data: &&'a [T]) -> &'a [T] {
        data
    }

    fn reborrow<'s, T>(data: &'s &[T]) -> &'s [T] {
        data
    }

    fn reborrow_mut<'s, T>(data: &'s mut &mut [T]) -> &'s mut [T] {
        data
    }

    fn borrow_owned<T>(array: &mut Vec<T>) -> &mut [T] {
        array
    }

    fn borrow_number(number: &mut f32) -> &mut [f32] {
        std::slice::from_mut(number)
    }
}

impl Addressed for Host {
    fn address<T>(data: &&[T]) -> u64 {
        data.as_ptr() as u64
    }

    fn address_mut<T>(data: &&mut [T]) -> u64 {
        data.as_ptr() as u64
    }
}

/// A vector of zeros, or an error where memory does not suffice. Fresh pages are left for whoever writes them
/// first.
pub(crate) fn zeros<T: bytemuck::Zeroable>(
    op: &'static str,
    name: &'static str,
    shape: &[usize],
) -> Result<Vec<T>> {
    let product =
        |first, sizes: &[usize]| sizes.iter().try_fold(first, |x: usize, &size| x.checked_mul(size));
    let bytes = product(size_of::<T>(), shape);
    let (Some(count), Some(bytes)) = (product(1, shape), bytes) else {
        return Err(Error::new(op, ErrorKind::TooLarge { name: name.into(), sizes: shape.to_vec() }));
    };
    bytemuck::try_zeroed_vec(count)
        .map_err(|()| Error::new(op, ErrorKind::Memory { name: name.into(), bytes }))
}

macro_rules! host_data {
    ($([$($generics:tt)*] $data:ty, $data_mut:ty;)*) => {
        $(impl<$($generics)*> sealed::Sealed for $data {}
        impl<$($generics)*> sealed::Sealed for $data_mut {}

        impl<$($generics)*> Data<'a> for $data {
            type Element = T;
            type Memory = Host;

            fn borrow(self) -> (&'a [T], usize) {
                (self, self.len())
            }
        }

        impl<$($generics)*> DataMut<'a> for $data_mut {
            type Element = T;
            type Memory = Host;

            fn borrow_mut(self) -> (&'a mut [T], usize) {
                let length = self.len();
                (self, length)
            }
        })*
    };
}
host_data! {
    ['a, T] &'a [T], &'a mut [T];
    ['a, T] &'a Vec<T>, &'a mut Vec<T>;
    ['a, T, const K: usize] &'a [T; K], &'a mut [T; K];
}
