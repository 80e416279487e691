//! Device memory: cudarc's slices and views ([`Cuda`]), and the bare pointers that kernels take ([`Bare`]).

use std::convert::Infallible;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

use crate::memory::{Addressed, Data, DataMut, Memory, sealed::Sealed};
use crate::view::{Layout, View, ViewMut};

/// Device memory that cudarc owns: a [`View`] of it is made of a [`CudaSlice`], a [`CudaView`] or a
/// [`CudaViewMut`].
#[derive(Clone, Copy, Debug)]
pub enum Cuda {}

/// Device memory by address, of an allocator that the library knows nothing of. Views of it are made by
/// [`View::at`].
#[derive(Clone, Copy, Debug)]
pub enum Bare {}

impl Sealed for Cuda {}
impl Sealed for Bare {}

impl Memory for Cuda {
    type Ref<'a, T: 'a> = CudaView<'a, T>;
    type Mut<'a, T: 'a> = CudaViewMut<'a, T>;
    type Owned<T> = CudaSlice<T>;
    type Number = CudaSlice<f32>;

    fn copy<'a, T: 'a>(data: &CudaView<'a, T>) -> CudaView<'a, T> {
        data.slice(..)
    }

    fn reborrow<'s, T>(data: &'s CudaView<'_, T>) -> CudaView<'s, T> {
        data.slice(..)
    }

    fn reborrow_mut<'s, T>(data: &'s mut CudaViewMut<'_, T>) -> CudaViewMut<'s, T> {
        data.slice_mut(..)
    }

    fn borrow_owned<T>(array: &mut CudaSlice<T>) -> CudaViewMut<'_, T> {
        array.as_view_mut()
    }

    fn borrow_number(number: &mut CudaSlice<f32>) -> CudaViewMut<'_, f32> {
        number.as_view_mut()
    }
}

impl Memory for Bare {
    type Ref<'a, T: 'a> = CUdeviceptr;
    type Mut<'a, T: 'a> = CUdeviceptr;
    /// Nothing is allocated.
    type Owned<T> = Infallible;
    type Number = Infallible;

    fn copy<'a, T: 'a>(address: &CUdeviceptr) -> CUdeviceptr {
        *address
    }

    fn reborrow<T>(address: &CUdeviceptr) -> CUdeviceptr {
        *address
    }

    fn reborrow_mut<T>(address: &mut CUdeviceptr) -> CUdeviceptr {
        *address
    }

    fn borrow_owned<T>(array: &mut Infallible) -> CUdeviceptr {
        match *array {}
    }

    fn borrow_number(number: &mut Infallible) -> CUdeviceptr {
        match *number {}
    }
}

impl Addressed for Bare {
    fn address<T>(address: &CUdeviceptr) -> u64 {
        *address
    }

    fn address_mut<T>(address: &CUdeviceptr) -> u64 {
        *address
    }
}

impl<T, const N: usize> View<'_, T, N, Bare> {
    /// Memory of this layout; its element at index zero lies at `address`.
    pub fn at(address: CUdeviceptr, layout: Layout<N>) -> Self {
        Self { data: address, layout }
    }

    /// The same address, for as long as one likes.
    pub(super) fn detach(&self) -> View<'static, T, N, Bare>
    where
        T: 'static,
    {
        View::at(self.data, self.layout)
    }

    /// A stride as kernels take it. Layouts are checked to reach no further than `isize::MAX`.
    pub(super) fn stride(&self, axis: usize) -> i64 {
        // Along an axis of one element the stride is never used, and may be anything.
        if self.layout.shape[axis] <= 1 { 0 } else { self.layout.strides[axis] as i64 }
    }
}

impl<T, const N: usize> ViewMut<'_, T, N, Bare> {
    /// Memory of this layout; its element at index zero lies at `address`.
    pub fn at(address: CUdeviceptr, layout: Layout<N>) -> Self {
        Self { data: address, layout }
    }

    /// As what is read: to kernels an address is an address.
    pub(super) fn as_read(&self) -> View<'static, T, N, Bare>
    where
        T: 'static,
    {
        View::at(self.data, self.layout)
    }
}

macro_rules! device_data {
    ($([$($generics:tt)*] $data:ty, $data_mut:ty;)*) => {
        $(impl<$($generics)*> Sealed for $data {}
        impl<$($generics)*> Sealed for $data_mut {}

        impl<$($generics)*> Data<'a> for $data {
            type Element = T;
            type Memory = Cuda;

            fn borrow(self) -> (CudaView<'a, T>, usize) {
                (self.slice(..), self.len())
            }
        }

        impl<$($generics)*> DataMut<'a> for $data_mut {
            type Element = T;
            type Memory = Cuda;

            fn borrow_mut(self) -> (CudaViewMut<'a, T>, usize) {
                let length = self.len();
                (self.slice_mut(..), length)
            }
        })*
    };
}
device_data! {
    ['a, T] &'a CudaSlice<T>, &'a mut CudaSlice<T>;
    ['a, 'b: 'a, T: 'b] &'a CudaView<'b, T>, &'a mut CudaViewMut<'b, T>;
}

impl<T> Sealed for CudaView<'_, T> {}
impl<T> Sealed for CudaViewMut<'_, T> {}

impl<'a, T: 'a> Data<'a> for CudaView<'a, T> {
    type Element = T;
    type Memory = Cuda;

    fn borrow(self) -> (CudaView<'a, T>, usize) {
        let length = self.len();
        (self, length)
    }
}

impl<'a, T: 'a> DataMut<'a> for CudaViewMut<'a, T> {
    type Element = T;
    type Memory = Cuda;

    fn borrow_mut(self) -> (CudaViewMut<'a, T>, usize) {
        let length = self.len();
        (self, length)
    }
}
