//! Strided views of slices: how arrays are handed to the ops, whatever their memory order.
//!
//! A [`Layout`] is a shape with strides in elements; it knows nothing of where the data lies, so the CPU and the
//! CUDA engine share it and its checks. [`View`] and [`ViewMut`] put a layout on a slice of host memory.

use crate::error::{Error, Result};

/// A shape with strides, both in elements, first index slowest by convention only.
///
/// Strides may be zero in inputs (one value seen many times). Every product is checked in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Layout<const N: usize> {
    /// Elements along each axis.
    pub shape: [usize; N],
    /// Distance in elements between neighbours along each axis.
    pub strides: [usize; N],
}

impl<const N: usize> Layout<N> {
    /// Row-major layout without gaps: the last axis is contiguous.
    ///
    /// The strides of a shape whose product passes `usize` saturate; [`Layout::reach`] then reports the error.
    pub fn contiguous(shape: [usize; N]) -> Self {
        let mut strides = [1usize; N];
        for axis in (0..N.saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1].saturating_mul(shape[axis + 1].max(1));
        }
        Self { shape, strides }
    }

    /// The number of elements, or an error where it passes `usize`.
    pub fn count(&self, op: &'static str, name: &'static str) -> Result<usize> {
        self.shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))
            .filter(|&count| isize::try_from(count).is_ok())
            .ok_or_else(|| Error::TooLarge { op, name, sizes: self.shape.to_vec() })
    }

    /// How many elements of memory the layout reaches over: the largest index plus one, or zero when empty.
    pub fn reach(&self, op: &'static str, name: &'static str) -> Result<usize> {
        if self.count(op, name)? == 0 {
            return Ok(0);
        }
        let last = self.shape.iter().zip(&self.strides).try_fold(0usize, |sum, (&size, &stride)| {
            (size - 1).checked_mul(stride).and_then(|step| sum.checked_add(step))
        });
        let reach = last.and_then(|last| last.checked_add(1)).filter(|&reach| isize::try_from(reach).is_ok());
        let (shape, strides) = (&self.shape, &self.strides);
        reach.ok_or_else(|| Error::Reach { op, name, shape: shape.to_vec(), strides: strides.to_vec() })
    }

    /// Whether no two indices share a place. Sufficient, not necessary: sorted by stride, every axis must step
    /// past all that the finer axes reach. All layouts that come from slicing and transposing pass.
    pub fn is_injective(&self) -> bool {
        let mut axes: Vec<(usize, usize)> =
            self.strides.iter().copied().zip(self.shape).filter(|&(_, size)| size > 1).collect();
        axes.sort_unstable();
        let mut reach = 1u128;
        for (stride, size) in axes {
            if (stride as u128) < reach {
                return false;
            }
            reach += (size as u128 - 1) * stride as u128;
        }
        true
    }

    /// The place of an index, in elements from the start. For an index outside of the shape it means nothing.
    #[inline(always)]
    pub fn offset(&self, index: [usize; N]) -> usize {
        let steps = index.iter().zip(&self.strides);
        steps.fold(0, |at, (index, &stride)| at.wrapping_add(index.wrapping_mul(stride)))
    }
}

/// A read-only strided view of a slice.
///
/// ```
/// use multimix::View;
/// // A 2x3x4 NCHW-like array, seen as (example, position, channel) without a copy.
/// let nchw: Vec<f32> = (0..24).map(|x| x as f32).collect(); // (b = 2, d = 3, r = 4)
/// let features = View::with_strides(&nchw, [2, 4, 3], [12, 1, 4])?;
/// assert_eq!(features.get([1, 2, 0]), 14.0);
/// # Ok::<(), multimix::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T, const N: usize> {
    data: &'a [T],
    layout: Layout<N>,
}

impl<'a, T: Copy, const N: usize> View<'a, T, N> {
    /// A contiguous, row-major view of the first elements of `data`.
    ///
    /// # Errors
    /// [`Error::Length`] when `data` is shorter than the shape, [`Error::TooLarge`] and [`Error::Reach`] when
    /// that cannot be addressed.
    pub fn new(data: &'a [T], shape: [usize; N]) -> Result<Self> {
        Self::from_layout(data, Layout::contiguous(shape))
    }

    /// A view with explicit strides, in elements.
    ///
    /// # Errors
    /// As [`View::new`].
    pub fn with_strides(data: &'a [T], shape: [usize; N], strides: [usize; N]) -> Result<Self> {
        Self::from_layout(data, Layout { shape, strides })
    }

    /// A view with a given layout.
    ///
    /// # Errors
    /// As [`View::new`].
    pub fn from_layout(data: &'a [T], layout: Layout<N>) -> Result<Self> {
        let wanted = layout.reach("view", "data")?;
        if data.len() < wanted {
            return Err(Error::Length { op: "view", name: "data", given: data.len(), wanted });
        }
        Ok(Self { data, layout })
    }

    /// The shape.
    #[inline]
    pub fn shape(&self) -> [usize; N] {
        self.layout.shape
    }

    /// Shape and strides.
    #[inline]
    pub fn layout(&self) -> &Layout<N> {
        &self.layout
    }

    /// The memory under the view, gaps included.
    #[inline]
    pub fn data(&self) -> &'a [T] {
        self.data
    }

    /// One element.
    ///
    /// # Panics
    /// When the place of the index lies outside of the slice, as slice indexing does.
    #[inline(always)]
    pub fn get(&self, index: [usize; N]) -> T {
        self.data[self.layout.offset(index)]
    }
}

/// A writable strided view of a slice; no two of its elements share memory.
#[derive(Debug)]
pub struct ViewMut<'a, T, const N: usize> {
    data: &'a mut [T],
    layout: Layout<N>,
}

impl<'a, T: Copy, const N: usize> ViewMut<'a, T, N> {
    /// A contiguous, row-major view of the first elements of `data`.
    ///
    /// # Errors
    /// As [`View::new`].
    pub fn new(data: &'a mut [T], shape: [usize; N]) -> Result<Self> {
        Self::from_layout(data, Layout::contiguous(shape))
    }

    /// A view with explicit strides, in elements.
    ///
    /// # Errors
    /// As [`View::new`], and [`Error::Overlap`] when two elements would share memory.
    pub fn with_strides(data: &'a mut [T], shape: [usize; N], strides: [usize; N]) -> Result<Self> {
        Self::from_layout(data, Layout { shape, strides })
    }

    /// A view with a given layout.
    ///
    /// # Errors
    /// As [`ViewMut::with_strides`].
    pub fn from_layout(data: &'a mut [T], layout: Layout<N>) -> Result<Self> {
        let wanted = layout.reach("view", "data")?;
        if data.len() < wanted {
            return Err(Error::Length { op: "view", name: "data", given: data.len(), wanted });
        }
        if !layout.is_injective() {
            let (shape, strides) = (layout.shape.to_vec(), layout.strides.to_vec());
            return Err(Error::Overlap { op: "view", name: "data", shape, strides });
        }
        Ok(Self { data, layout })
    }

    /// The shape.
    #[inline]
    pub fn shape(&self) -> [usize; N] {
        self.layout.shape
    }

    /// Shape and strides.
    #[inline]
    pub fn layout(&self) -> &Layout<N> {
        &self.layout
    }

    /// The memory under the view, gaps included.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [T] {
        self.data
    }

    /// The same elements, read-only.
    #[inline]
    pub fn as_view(&self) -> View<'_, T, N> {
        View { data: self.data, layout: self.layout }
    }

    /// A shorter borrow of the same view.
    #[inline]
    pub fn reborrow(&mut self) -> ViewMut<'_, T, N> {
        ViewMut { data: self.data, layout: self.layout }
    }

    /// Writes one element.
    ///
    /// # Panics
    /// When the place of the index lies outside of the slice, as slice indexing does.
    #[inline(always)]
    pub fn set(&mut self, index: [usize; N], value: T) {
        self.data[self.layout.offset(index)] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_that_overlaps_is_found() {
        assert!(Layout { shape: [2, 3], strides: [3, 1] }.is_injective());
        assert!(Layout { shape: [3, 2], strides: [1, 3] }.is_injective());
        assert!(Layout { shape: [1, 3], strides: [0, 1] }.is_injective());
        assert!(!Layout { shape: [2, 3], strides: [2, 1] }.is_injective());
        assert!(!Layout { shape: [2, 3], strides: [0, 1] }.is_injective());
    }

    #[test]
    fn sizes_that_overflow_are_errors() {
        let huge = Layout::contiguous([usize::MAX, 2, 3]);
        assert!(matches!(huge.reach("op", "x"), Err(Error::TooLarge { .. })));
        let far = Layout { shape: [2, 2, 2], strides: [usize::MAX, 1, 1] };
        assert!(matches!(far.reach("op", "x"), Err(Error::Reach { .. })));
        assert_eq!(Layout::contiguous([4, 0, 2]).reach("op", "x"), Ok(0));
    }

    #[test]
    fn a_short_slice_is_refused() {
        let data = [0f32; 5];
        let error = View::new(&data, [2, 3]).unwrap_err();
        assert_eq!(error, Error::Length { op: "view", name: "data", given: 5, wanted: 6 });
    }
}
