//! Strided views: how arrays are handed to the ops, whatever their memory order and wherever they lie.
//!
//! A [`Layout`] is a shape with strides in elements. [`View`] and [`ViewMut`] put a layout on memory: of the
//! host by default, or of another [`Memory`].

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Data, DataMut, Host, Memory};

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
    /// The strides of a shape whose product passes `usize` saturate; [`Layout::reach`] then reports the
    /// error.
    pub fn contiguous(shape: [usize; N]) -> Self {
        let mut strides = [1usize; N];
        for axis in (0..N.saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1].saturating_mul(shape[axis + 1].max(1));
        }
        Self { shape, strides }
    }

    /// The number of elements, or an error where it passes `usize`.
    pub fn count(&self, op: &'static str, name: impl Into<Cow<'static, str>>) -> Result<usize> {
        self.shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))
            .filter(|&count| isize::try_from(count).is_ok())
            .ok_or_else(|| {
                Error::new(op, ErrorKind::TooLarge { name: name.into(), sizes: self.shape.to_vec() })
            })
    }

    /// How many elements of memory the layout reaches over: the largest index plus one, or zero when empty.
    pub fn reach(&self, op: &'static str, name: impl Into<Cow<'static, str>>) -> Result<usize> {
        let name = name.into();
        if self.count(op, name.clone())? == 0 {
            return Ok(0);
        }
        let last = self.shape.iter().zip(&self.strides).try_fold(0usize, |sum, (&size, &stride)| {
            (size - 1).checked_mul(stride).and_then(|step| sum.checked_add(step))
        });
        let reach = last.and_then(|last| last.checked_add(1)).filter(|&reach| isize::try_from(reach).is_ok());
        let (shape, strides) = (&self.shape, &self.strides);
        reach.ok_or_else(|| {
            Error::new(op, ErrorKind::Reach { name, shape: shape.to_vec(), strides: strides.to_vec() })
        })
    }

    /// Whether no two indices share a place. Sufficient, not necessary: sorted by stride, every axis must
    /// step past all that the finer axes reach. All layouts that come from slicing and transposing pass.
    pub fn is_injective(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut axes: [(usize, usize); N] =
            std::array::from_fn(|axis| (self.strides[axis], self.shape[axis]));
        axes.sort_unstable();
        let mut reach = 1u128;
        for (stride, size) in axes.into_iter().filter(|&(_, size)| size > 1) {
            if (stride as u128) < reach {
                return false;
            }
            reach += (size as u128 - 1) * stride as u128;
        }
        true
    }

    pub(crate) fn check_injective(&self, op: &'static str, name: impl Into<Cow<'static, str>>) -> Result<()> {
        if self.is_injective() {
            return Ok(());
        }
        let (shape, strides) = (self.shape.to_vec(), self.strides.to_vec());
        Err(Error::new(op, ErrorKind::Overlap { name: name.into(), shape, strides }))
    }

    /// The place of an index, in elements from the start. For an index outside of the shape it means nothing.
    #[inline(always)]
    pub fn offset(&self, index: [usize; N]) -> usize {
        let steps = index.iter().zip(&self.strides);
        steps.fold(0, |at, (index, &stride)| at.wrapping_add(index.wrapping_mul(stride)))
    }
}

/// A read-only strided view of memory: host slices by default.
///
/// ```
/// use multimix::View;
/// // A 2x3x4 NCHW-like array, seen as (example, position, channel) without a copy.
/// let nchw: Vec<f32> = (0..24).map(|x| x as f32).collect(); // (b = 2, d = 3, r = 4)
/// let features = View::with_strides(&nchw, [2, 4, 3], [12, 1, 4])?;
/// assert_eq!(features.get([1, 2, 0]), 14.0);
/// # Ok::<(), multimix::Error>(())
/// ```
///
/// A call (`LossCall` and its like) has one lifetime for all of its views. To use an input in one call after
/// the other, give each a [`View::reborrow`] of it; inputs have the same method.
pub struct View<'a, T: 'a, const N: usize, M: Memory = Host> {
    pub(crate) data: M::Ref<'a, T>,
    pub(crate) layout: Layout<N>,
}

/// A writable strided view of memory; no two of its elements share a place.
pub struct ViewMut<'a, T: 'a, const N: usize, M: Memory = Host> {
    pub(crate) data: M::Mut<'a, T>,
    pub(crate) layout: Layout<N>,
}

impl<'a, T, const N: usize, M: Memory> View<'a, T, N, M> {
    /// A contiguous, row-major view of the first elements of `data`: of a slice, a `Vec` or an array, or of
    /// device memory.
    ///
    /// # Errors
    /// [`ErrorKind::Length`] when `data` is shorter than the shape, [`ErrorKind::TooLarge`] and
    /// [`ErrorKind::Reach`] when that cannot be addressed. They name the line that made the view.
    #[track_caller]
    pub fn new(data: impl Data<'a, Element = T, Memory = M>, shape: [usize; N]) -> Result<Self> {
        Self::from_layout(data, Layout::contiguous(shape))
    }

    /// A view with explicit strides, in elements.
    ///
    /// # Errors
    /// As [`View::new`].
    #[track_caller]
    pub fn with_strides(
        data: impl Data<'a, Element = T, Memory = M>,
        shape: [usize; N],
        strides: [usize; N],
    ) -> Result<Self> {
        Self::from_layout(data, Layout { shape, strides })
    }

    /// A view with a given layout.
    ///
    /// # Errors
    /// As [`View::new`].
    #[track_caller]
    pub fn from_layout(data: impl Data<'a, Element = T, Memory = M>, layout: Layout<N>) -> Result<Self> {
        let at = Location::caller();
        Self::build(|| made_at(at), data, layout)
    }

    /// As [`View::from_layout`], for callers who know what the view is: errors give it this name.
    ///
    /// # Errors
    /// As [`View::new`].
    pub fn named(
        name: impl Into<Cow<'static, str>>,
        data: impl Data<'a, Element = T, Memory = M>,
        layout: Layout<N>,
    ) -> Result<Self> {
        Self::build(|| name.into(), data, layout)
    }

    fn build(
        name: impl FnOnce() -> Cow<'static, str>,
        data: impl Data<'a, Element = T, Memory = M>,
        layout: Layout<N>,
    ) -> Result<Self> {
        let (data, length) = data.borrow();
        check(name, length, &layout, false)?;
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

    /// A shorter borrow of the same view.
    #[inline]
    pub fn reborrow(&self) -> View<'_, T, N, M> {
        View { data: M::reborrow(&self.data), layout: self.layout }
    }
}

impl<'a, T: Copy, const N: usize> View<'a, T, N> {
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

impl<'a, T, const N: usize, M: Memory> ViewMut<'a, T, N, M> {
    /// A contiguous, row-major view of the first elements of `data`.
    ///
    /// # Errors
    /// As [`View::new`].
    #[track_caller]
    pub fn new(data: impl DataMut<'a, Element = T, Memory = M>, shape: [usize; N]) -> Result<Self> {
        Self::from_layout(data, Layout::contiguous(shape))
    }

    /// A view with explicit strides, in elements.
    ///
    /// # Errors
    /// As [`View::new`], and [`ErrorKind::Overlap`] when two elements would share memory.
    #[track_caller]
    pub fn with_strides(
        data: impl DataMut<'a, Element = T, Memory = M>,
        shape: [usize; N],
        strides: [usize; N],
    ) -> Result<Self> {
        Self::from_layout(data, Layout { shape, strides })
    }

    /// A view with a given layout.
    ///
    /// # Errors
    /// As [`ViewMut::with_strides`].
    #[track_caller]
    pub fn from_layout(data: impl DataMut<'a, Element = T, Memory = M>, layout: Layout<N>) -> Result<Self> {
        let at = Location::caller();
        Self::build(|| made_at(at), data, layout)
    }

    /// As [`ViewMut::from_layout`], for callers who know what the view is: errors give it this name.
    ///
    /// # Errors
    /// As [`ViewMut::with_strides`].
    pub fn named(
        name: impl Into<Cow<'static, str>>,
        data: impl DataMut<'a, Element = T, Memory = M>,
        layout: Layout<N>,
    ) -> Result<Self> {
        Self::build(|| name.into(), data, layout)
    }

    fn build(
        name: impl FnOnce() -> Cow<'static, str>,
        data: impl DataMut<'a, Element = T, Memory = M>,
        layout: Layout<N>,
    ) -> Result<Self> {
        let (data, length) = data.borrow_mut();
        check(name, length, &layout, true)?;
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

    /// A shorter borrow of the same view.
    #[inline]
    pub fn reborrow(&mut self) -> ViewMut<'_, T, N, M> {
        ViewMut { data: M::reborrow_mut(&mut self.data), layout: self.layout }
    }
}

impl<T: Copy, const N: usize> ViewMut<'_, T, N> {
    /// The memory under the view, gaps included.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [T] {
        self.data
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

const OP: &str = "view";

/// What errors call a view that has no name of its own: the line that made it.
fn made_at(at: &Location<'_>) -> Cow<'static, str> {
    format!("the view made at {}:{}", at.file(), at.line()).into()
}

/// Whether memory of `given` elements holds the layout, and no place of it twice if it is written.
fn check<const N: usize>(
    name: impl FnOnce() -> Cow<'static, str>,
    given: usize,
    layout: &Layout<N>,
    written: bool,
) -> Result<()> {
    match layout.reach(OP, "") {
        Ok(wanted) if wanted > given => {
            Err(Error::new(OP, ErrorKind::Length { name: name(), given, wanted }))
        }
        Ok(_) if !written || layout.is_injective() => Ok(()),
        Ok(_) => layout.check_injective(OP, name()),
        Err(_) => layout.reach(OP, name()).map(|_| ()),
    }
}

impl<T, const N: usize, M: Memory> Clone for View<'_, T, N, M> {
    fn clone(&self) -> Self {
        Self { data: M::copy(&self.data), layout: self.layout }
    }
}

impl<T, const N: usize> Copy for View<'_, T, N> {}

impl<T, const N: usize, M: Memory> fmt::Debug for View<'_, T, N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl<T, const N: usize, M: Memory> fmt::Debug for ViewMut<'_, T, N, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewMut").field("layout", &self.layout).finish_non_exhaustive()
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
        assert!(Layout { shape: [2, 0, 3], strides: [0, 3, 1] }.is_injective(), "nothing shares no memory");
        assert!(!Layout { shape: [2, 3], strides: [0, 1] }.is_injective());
    }

    #[test]
    fn sizes_that_overflow_are_errors() {
        let huge = Layout::contiguous([usize::MAX, 2, 3]);
        assert!(matches!(huge.reach("op", "x"), Err(Error { kind: ErrorKind::TooLarge { .. }, .. })));
        let far = Layout { shape: [2, 2, 2], strides: [usize::MAX, 1, 1] };
        assert!(matches!(far.reach("op", "x"), Err(Error { kind: ErrorKind::Reach { .. }, .. })));
        assert_eq!(Layout::contiguous([4, 0, 2]).reach("op", "x"), Ok(0));
    }

    #[test]
    fn a_short_slice_is_refused() {
        let data = [0f32; 5];
        let error = View::named("x", &data, Layout::contiguous([2, 3])).unwrap_err();
        assert_eq!(error, Error::new("view", ErrorKind::Length { name: "x".into(), given: 5, wanted: 6 }));
        let (error, line) = (View::new(&data, [2, 3]).unwrap_err().to_string(), line!());
        assert!(error.contains(&format!("{}:{line}", file!())), "{error}");
    }
}
