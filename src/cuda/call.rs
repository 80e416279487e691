//! From cudarc's memory to addresses: every view is checked to lie in the engine's context and becomes a
//! pointer, in order with other uses of its memory.

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};

use super::advice::driver_error;
use super::aside::{Aside, is_captured};
use super::engine::Engine;
use super::memory::{Bare, Cuda};
use super::queue::Queue;
use crate::element::Scalar;
use crate::error::Result;
use crate::op::{Read, Write};
use crate::view::{View, ViewMut};

/// The views of one call. To be dropped when all of it is enqueued: then the memory is free for others, after
/// this call.
///
/// A captured call neither waits for events nor records any: what was recorded before the capture cannot be
/// waited for in it, and what is recorded in it can't be waited for afterwards. The order with other streams
/// is the caller's there.
pub(super) struct Call<'s> {
    op: &'static str,
    engine: &'s Engine,
    stream: &'s CudaStream,
    /// Where the stream is being captured.
    aside: Option<Aside<'s>>,
    guards: Vec<SyncOnDrop<'s>>,
}

impl<'s> Call<'s> {
    pub fn new(op: &'static str, queue: &'s Queue<'_>) -> Result<Self> {
        let (engine, stream) = (queue.engine(), queue.stream().as_ref());
        let aside = if is_captured(op, stream)? { Some(engine.aside(op)?) } else { None };
        Ok(Self { op, engine, stream, aside, guards: Vec::with_capacity(16) })
    }

    /// Keeps a guard until the call is enqueued.
    ///
    /// In a capture there is none: the stream aside waited, which keeps nobody waiting. An event of the
    /// capture itself, of memory that cudarc has used in it, draws the stream aside into the capture; it's
    /// led back, as every stream must be before the end, and another takes its place.
    fn settle(&mut self, guard: Option<SyncOnDrop<'s>>) -> Result<()> {
        self.guards.extend(guard);
        let Some(aside) = &self.aside else { return Ok(()) };
        if is_captured(self.op, &aside.stream)? {
            let joined = self.stream.join(&aside.stream);
            joined
                .map_err(|error| driver_error(self.op, "ordering the capture after cudarc's part", error))?;
            self.aside = Some(self.engine.aside(self.op)?);
        }
        Ok(())
    }
}

impl<'s> Read<'s, Cuda, Bare> for Call<'s> {
    fn read<T: Scalar, const D: usize>(
        &mut self,
        name: &'static str,
        view: &'s View<'_, T, D, Cuda>,
    ) -> Result<View<'s, T, D, Bare>> {
        self.engine.check_context(self.op, name, view.data.stream().context())?;
        let (address, guard) = match &self.aside {
            None => {
                let (address, guard) = view.data.device_ptr(self.stream);
                (address, Some(guard))
            }
            Some(aside) => {
                let (address, guard) = view.data.device_ptr(&aside.stream);
                std::mem::forget(guard);
                (address, None)
            }
        };
        self.settle(guard)?;
        Ok(View::at(address, view.layout))
    }
}

impl<'s> Write<'s, Cuda, Bare> for Call<'s> {
    fn write<T: Scalar, const D: usize>(
        &mut self,
        name: &'static str,
        view: &'s mut ViewMut<'_, T, D, Cuda>,
    ) -> Result<ViewMut<'s, T, D, Bare>> {
        self.engine.check_context(self.op, name, view.data.stream().context())?;
        let (address, guard) = match &self.aside {
            None => {
                let (address, guard) = view.data.device_ptr_mut(self.stream);
                (address, Some(guard))
            }
            Some(aside) => {
                let (address, guard) = view.data.device_ptr_mut(&aside.stream);
                std::mem::forget(guard);
                (address, None)
            }
        };
        self.settle(guard)?;
        Ok(ViewMut::at(address, view.layout))
    }
}
