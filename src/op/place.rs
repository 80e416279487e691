//! Carrying the views of a call to another memory: to a device, or to the pointers that kernels take.

use crate::element::Scalar;
use crate::error::Result;
use crate::memory::Memory;
use crate::view::{View, ViewMut};

/// Carries views that are read.
pub(crate) trait Read<'s, M: Memory, N: Memory> {
    fn read<T: Scalar, const D: usize>(
        &mut self,
        name: &'static str,
        view: &'s View<'_, T, D, M>,
    ) -> Result<View<'s, T, D, N>>;

    fn maybe_read<T: Scalar, const D: usize>(
        &mut self,
        name: &'static str,
        view: &'s Option<View<'_, T, D, M>>,
    ) -> Result<Option<View<'s, T, D, N>>> {
        view.as_ref().map(|view| self.read(name, view)).transpose()
    }
}

/// Carries views that are written, too.
pub(crate) trait Write<'s, M: Memory, N: Memory>: Read<'s, M, N> {
    fn write<T: Scalar, const D: usize>(
        &mut self,
        name: &'static str,
        view: &'s mut ViewMut<'_, T, D, M>,
    ) -> Result<ViewMut<'s, T, D, N>>;

    fn maybe_write<T: Scalar, const D: usize>(
        &mut self,
        name: &'static str,
        view: &'s mut Option<ViewMut<'_, T, D, M>>,
    ) -> Result<Option<ViewMut<'s, T, D, N>>> {
        view.as_mut().map(|view| self.write(name, view)).transpose()
    }
}

/// The same memory, for a shorter time.
pub(crate) struct Reborrow;

impl<'s, M: Memory> Read<'s, M, M> for Reborrow {
    fn read<T: Scalar, const D: usize>(
        &mut self,
        _: &'static str,
        view: &'s View<'_, T, D, M>,
    ) -> Result<View<'s, T, D, M>> {
        Ok(view.reborrow())
    }
}

impl<'s, M: Memory> Write<'s, M, M> for Reborrow {
    fn write<T: Scalar, const D: usize>(
        &mut self,
        _: &'static str,
        view: &'s mut ViewMut<'_, T, D, M>,
    ) -> Result<ViewMut<'s, T, D, M>> {
        Ok(view.reborrow())
    }
}
