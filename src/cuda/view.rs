//! Strided views of device memory, and the plain pointers with layouts that they come down to.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice,
    SyncOnDrop,
};

use crate::error::{Error, ErrorKind, Result};
use crate::view::Layout;

mod sealed {
    use super::{CudaSlice, CudaView, CudaViewMut};
    pub trait Sealed {}
    impl<T> Sealed for CudaSlice<T> {}
    impl<T> Sealed for CudaView<'_, T> {}
    impl<T> Sealed for CudaViewMut<'_, T> {}
}

/// cudarc's owners and borrowers of device memory: [`CudaSlice`], [`CudaView`], [`CudaViewMut`].
pub trait DeviceData<T>: sealed::Sealed {
    /// All of it.
    fn borrow(&self) -> CudaView<'_, T>;
}

impl<T> DeviceData<T> for CudaSlice<T> {
    fn borrow(&self) -> CudaView<'_, T> {
        self.as_view()
    }
}

impl<T> DeviceData<T> for CudaView<'_, T> {
    fn borrow(&self) -> CudaView<'_, T> {
        self.slice(..)
    }
}

impl<T> DeviceData<T> for CudaViewMut<'_, T> {
    fn borrow(&self) -> CudaView<'_, T> {
        self.as_view()
    }
}

/// Device memory that may be written.
pub trait DeviceDataMut<T>: DeviceData<T> {
    /// All of it.
    fn borrow_mut(&mut self) -> CudaViewMut<'_, T>;
}

impl<T> DeviceDataMut<T> for CudaSlice<T> {
    fn borrow_mut(&mut self) -> CudaViewMut<'_, T> {
        self.as_view_mut()
    }
}

impl<T> DeviceDataMut<T> for CudaViewMut<'_, T> {
    fn borrow_mut(&mut self) -> CudaViewMut<'_, T> {
        self.slice_mut(..)
    }
}

/// A read-only strided view of device memory: [`View`](crate::View) for the GPU.
#[derive(Debug)]
pub struct DeviceView<'a, T, const N: usize> {
    data: CudaView<'a, T>,
    layout: Layout<N>,
}

impl<T, const N: usize> Clone for DeviceView<'_, T, N> {
    fn clone(&self) -> Self {
        Self { data: self.data.slice(..), layout: self.layout }
    }
}

impl<'a, T, const N: usize> DeviceView<'a, T, N> {
    /// A contiguous, row-major view of the first elements of `data`.
    ///
    /// # Errors
    /// [`ErrorKind::Length`](crate::ErrorKind::Length) when `data` is shorter than the shape, [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) when the shape's product overflows.
    pub fn new(data: &'a impl DeviceData<T>, shape: [usize; N]) -> Result<Self> {
        Self::from_layout(data, Layout::contiguous(shape))
    }

    /// A view with explicit strides, in elements.
    ///
    /// # Errors
    /// As [`DeviceView::new`].
    pub fn with_strides(
        data: &'a impl DeviceData<T>,
        shape: [usize; N],
        strides: [usize; N],
    ) -> Result<Self> {
        Self::from_layout(data, Layout { shape, strides })
    }

    /// A view with a given layout.
    ///
    /// # Errors
    /// As [`DeviceView::new`].
    pub fn from_layout(data: &'a impl DeviceData<T>, layout: Layout<N>) -> Result<Self> {
        Self::from_memory(data.borrow(), layout)
    }

    /// A view with a given layout of memory that is borrowed already.
    pub(crate) fn from_memory(data: CudaView<'a, T>, layout: Layout<N>) -> Result<Self> {
        check_length(data.len(), &layout)?;
        Ok(Self { data, layout })
    }

    /// The shape.
    pub fn shape(&self) -> [usize; N] {
        self.layout.shape
    }

    /// Shape and strides.
    pub fn layout(&self) -> &Layout<N> {
        &self.layout
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        self.data.stream().context()
    }

    /// The pointer, once `stream` has been made to wait for writes of the memory. Drop the guard after the launch.
    pub(super) fn resolve<'s>(&'s self, stream: &'s CudaStream) -> (RawView<N>, SyncOnDrop<'s>) {
        let (pointer, guard) = self.data.device_ptr(stream);
        (RawView { pointer, layout: self.layout }, guard)
    }

    /// The pointer alone: `aside` waits, which keeps nobody waiting, and the use is not recorded.
    pub(super) fn resolve_aside(&self, aside: &CudaStream) -> RawView<N> {
        let (view, guard) = self.resolve(aside);
        std::mem::forget(guard);
        view
    }
}

/// A writable strided view of device memory; no two of its elements share memory.
#[derive(Debug)]
pub struct DeviceViewMut<'a, T, const N: usize> {
    data: CudaViewMut<'a, T>,
    layout: Layout<N>,
}

impl<'a, T, const N: usize> DeviceViewMut<'a, T, N> {
    /// A contiguous, row-major view of the first elements of `data`.
    ///
    /// # Errors
    /// As [`DeviceView::new`].
    pub fn new(data: &'a mut impl DeviceDataMut<T>, shape: [usize; N]) -> Result<Self> {
        Self::from_layout(data, Layout::contiguous(shape))
    }

    /// A view with explicit strides, in elements.
    ///
    /// # Errors
    /// As [`DeviceView::new`], and [`ErrorKind::Overlap`](crate::ErrorKind::Overlap) when two elements would share memory.
    pub fn with_strides(
        data: &'a mut impl DeviceDataMut<T>,
        shape: [usize; N],
        strides: [usize; N],
    ) -> Result<Self> {
        Self::from_layout(data, Layout { shape, strides })
    }

    /// A view with a given layout.
    ///
    /// # Errors
    /// As [`DeviceViewMut::with_strides`].
    pub fn from_layout(data: &'a mut impl DeviceDataMut<T>, layout: Layout<N>) -> Result<Self> {
        let data = data.borrow_mut();
        check_length(data.len(), &layout)?;
        if !layout.is_injective() {
            let (shape, strides) = (layout.shape.to_vec(), layout.strides.to_vec());
            return Err(Error::new("view", ErrorKind::Overlap { name: "data".into(), shape, strides }));
        }
        Ok(Self { data, layout })
    }

    /// The shape.
    pub fn shape(&self) -> [usize; N] {
        self.layout.shape
    }

    /// Shape and strides.
    pub fn layout(&self) -> &Layout<N> {
        &self.layout
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        self.data.stream().context()
    }

    /// The pointer, once `stream` has been made to wait for all uses of the memory. Drop the guard after the launch.
    pub(super) fn resolve<'s>(&'s mut self, stream: &'s CudaStream) -> (RawView<N>, SyncOnDrop<'s>) {
        let (pointer, guard) = self.data.device_ptr_mut(stream);
        (RawView { pointer, layout: self.layout }, guard)
    }

    /// As [`DeviceView::resolve_aside`].
    pub(super) fn resolve_aside(&mut self, aside: &CudaStream) -> RawView<N> {
        let (view, guard) = self.resolve(aside);
        std::mem::forget(guard);
        view
    }
}

fn check_length<const N: usize>(given: usize, layout: &Layout<N>) -> Result<()> {
    let wanted = layout.reach("view", "data")?;
    if given < wanted {
        return Err(Error::new("view", ErrorKind::Length { name: "data".into(), given, wanted }));
    }
    Ok(())
}

/// A device pointer with a layout: what the raw calls take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawView<const N: usize> {
    /// Address of the element at index zero.
    pub pointer: CUdeviceptr,
    /// Shape and strides in elements.
    pub layout: Layout<N>,
}

impl<const N: usize> RawView<N> {
    /// A contiguous, row-major array.
    pub fn contiguous(pointer: CUdeviceptr, shape: [usize; N]) -> Self {
        Self { pointer, layout: Layout::contiguous(shape) }
    }

    /// A stride as kernels take it. Layouts are checked to reach no further than `isize::MAX`.
    pub(super) fn stride(&self, axis: usize) -> i64 {
        // Along an axis of one element the stride is never used, and may be anything.
        if self.layout.shape[axis] <= 1 { 0 } else { self.layout.strides[axis] as i64 }
    }
}

/// Bytes of device memory that one argument occupies, gaps included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    name: &'static str,
    begin: u64,
    end: u64,
    written: bool,
}

/// The memory of one call: every argument checked for alignment, and what is written for sharing nothing with the rest.
#[derive(Debug, Default)]
pub(super) struct Footprint {
    op: &'static str,
    spans: [Option<Span>; 16],
}

impl Footprint {
    pub fn new(op: &'static str) -> Self {
        Self { op, spans: [None; 16] }
    }

    /// Adds an input of elements of `size` bytes.
    pub fn reads<const N: usize>(
        &mut self,
        name: &'static str,
        view: &RawView<N>,
        size: usize,
    ) -> Result<()> {
        self.add(name, view, size, false)
    }

    /// Adds an output.
    pub fn writes<const N: usize>(
        &mut self,
        name: &'static str,
        view: &RawView<N>,
        size: usize,
    ) -> Result<()> {
        if !view.layout.is_injective() {
            let (shape, strides) = (view.layout.shape.to_vec(), view.layout.strides.to_vec());
            return Err(Error::new(self.op, ErrorKind::Overlap { name: name.into(), shape, strides }));
        }
        self.add(name, view, size, true)
    }

    fn add<const N: usize>(
        &mut self,
        name: &'static str,
        view: &RawView<N>,
        size: usize,
        written: bool,
    ) -> Result<()> {
        let op = self.op;
        if view.pointer == 0 || !view.pointer.is_multiple_of(size as u64) {
            let rule = "a device address that is a multiple of the element's size";
            return Err(Error::value(op, name, format!("{:#x}", view.pointer), rule));
        }
        let too_large =
            || Error::new(op, ErrorKind::TooLarge { name: name.into(), sizes: view.layout.shape.to_vec() });
        let bytes = view.layout.reach(op, name)?.checked_mul(size).ok_or_else(too_large)?;
        let end = view.pointer.checked_add(bytes as u64).ok_or_else(too_large)?;
        let span = Span { name, begin: view.pointer, end, written };
        for other in self.spans.iter().flatten() {
            if (span.written || other.written) && span.begin < other.end && other.begin < span.end {
                let (first, second) =
                    if span.written { (span.name, other.name) } else { (other.name, span.name) };
                return Err(Error::new(op, ErrorKind::Alias { first, second }));
            }
        }
        let free =
            self.spans.iter_mut().find(|slot| slot.is_none()).expect("no call has more than 16 buffers");
        *free = Some(span);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_refused_only_where_it_is_written() {
        let at = |pointer| RawView::contiguous(pointer, [4, 4]);
        let mut call = Footprint::new("op");
        call.reads("features", &at(256), 4).unwrap();
        call.reads("attention", &at(256), 4).unwrap();
        call.writes("mixed", &at(256 + 64), 4).unwrap();
        let error = call.writes("targets", &at(256 + 64 + 60), 4).unwrap_err();
        assert_eq!(error, Error::new("op", ErrorKind::Alias { first: "targets", second: "mixed" }));
        let error = call.reads("weights", &at(256 + 4), 4).unwrap_err();
        assert_eq!(error, Error::new("op", ErrorKind::Alias { first: "mixed", second: "weights" }));
    }

    #[test]
    fn misaligned_and_overlapping_views_are_refused() {
        let mut call = Footprint::new("op");
        let misaligned = call.reads("features", &RawView::contiguous(258, [1]), 4).unwrap_err().to_string();
        assert!(misaligned.contains("features is 0x102"), "{misaligned}");
        assert!(call.reads("features", &RawView::contiguous(0, [1]), 4).is_err());
        let layout = Layout { shape: [2, 2], strides: [1, 1] };
        assert!(matches!(
            call.writes("mixed", &RawView { pointer: 256, layout }, 4),
            Err(Error { kind: ErrorKind::Overlap { .. }, .. })
        ));
        assert!(call.reads("mixed", &RawView { pointer: 256, layout }, 4).is_ok());
        let high = RawView::contiguous(u64::MAX - 7, [4]);
        assert!(matches!(call.reads("far", &high, 4), Err(Error { kind: ErrorKind::TooLarge { .. }, .. })));
    }
}
