//! From typed arguments to raw ones: every view is checked to lie in the engine's context and becomes a pointer, in order with
//! other uses of its memory.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, SyncOnDrop};

use super::advice::driver_error;
use super::aside::{Aside, is_captured};
use super::engine::Engine;
use super::matrix::{DeviceTargets, RawTargets};
use super::queue::Queue;
use super::sampler::RawColumns;
use super::view::{DeviceView, DeviceViewMut, RawView};
use super::workspace::RawWorkspace;
use crate::error::Result;
use crate::problem::Mixing;

/// The views of one call. To be dropped when all of it is enqueued: then the memory is free for others, after this call.
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
    seed_and_step: Option<&'s DeviceView<'s, u64, 1>>,
    guards: Vec<SyncOnDrop<'s>>,
}

impl<'s> Call<'s> {
    pub fn new(op: &'static str, queue: &'s Queue<'_>) -> Result<Self> {
        let (engine, stream) = (queue.engine(), queue.stream().as_ref());
        let aside = if is_captured(op, stream)? { Some(engine.aside(op)?) } else { None };
        let guards = Vec::with_capacity(16);
        Ok(Self { op, engine, stream, aside, seed_and_step: queue.words(), guards })
    }

    /// An input.
    pub fn reads<T, const N: usize>(
        &mut self,
        name: &'static str,
        view: &'s DeviceView<'_, T, N>,
    ) -> Result<RawView<N>> {
        self.check(name, view.context())?;
        match &self.aside {
            Some(aside) => self.rejoin(view.resolve_aside(&aside.stream)),
            None => {
                let (view, guard) = view.resolve(self.stream);
                self.guards.push(guard);
                Ok(view)
            }
        }
    }

    /// An output.
    pub fn writes<T, const N: usize>(
        &mut self,
        name: &'static str,
        view: &'s mut DeviceViewMut<'_, T, N>,
    ) -> Result<RawView<N>> {
        self.check(name, view.context())?;
        match &self.aside {
            Some(aside) => self.rejoin(view.resolve_aside(&aside.stream)),
            None => {
                let (view, guard) = view.resolve(self.stream);
                self.guards.push(guard);
                Ok(view)
            }
        }
    }

    /// After a view of a captured call. An event of the capture itself, of memory that cudarc has used in it,
    /// draws the stream aside into the capture; it's led back, as every stream must be before the end, and
    /// another takes its place.
    fn rejoin<V>(&mut self, view: V) -> Result<V> {
        if let Some(aside) = &self.aside
            && is_captured(self.op, &aside.stream)?
        {
            let joined = self.stream.join(&aside.stream);
            joined
                .map_err(|error| driver_error(self.op, "ordering the capture after cudarc's part", error))?;
            self.aside = Some(self.engine.aside(self.op)?);
        }
        Ok(view)
    }

    /// An input, if there is one.
    pub fn may_read<T, const N: usize>(
        &mut self,
        name: &'static str,
        view: &'s Option<DeviceView<'_, T, N>>,
    ) -> Result<Option<RawView<N>>> {
        view.as_ref().map(|view| self.reads(name, view)).transpose()
    }

    /// An output, if there is one.
    pub fn may_write<T, const N: usize>(
        &mut self,
        name: &'static str,
        view: &'s mut Option<DeviceViewMut<'_, T, N>>,
    ) -> Result<Option<RawView<N>>> {
        view.as_mut().map(|view| self.writes(name, view)).transpose()
    }

    /// Scratch memory.
    pub fn scratch(&mut self, view: &'s mut DeviceViewMut<'_, u8, 1>) -> Result<RawWorkspace> {
        self.writes("the workspace", view).map(RawWorkspace::from)
    }

    /// Labels or soft targets.
    pub fn targets(&mut self, targets: &'s DeviceTargets<'_>) -> Result<RawTargets> {
        Ok(match targets {
            DeviceTargets::Labels(labels) => RawTargets::Labels(self.reads("targets", labels)?),
            DeviceTargets::Soft(rows) => RawTargets::Soft(self.reads("targets", rows)?),
        })
    }

    /// Where columns come from.
    pub fn columns<'m>(
        &mut self,
        mixing: &'m Mixing,
        [b, r]: [usize; 2],
        attention: &'s Option<DeviceView<'_, f32, 2>>,
        weights: &'s Option<DeviceView<'_, f32, 3>>,
    ) -> Result<RawColumns<'m>> {
        let (attention, weights) =
            (self.may_read("attention", attention)?, self.may_read("weights", weights)?);
        let words = self.seed_and_step.map(|words| self.reads("seed and step", words)).transpose()?;
        let seed_and_step = words.map_or(0, |words| words.pointer);
        Ok(RawColumns { mixing, b, r, attention, weights, seed_and_step })
    }

    fn check(&self, name: &'static str, context: &Arc<CudaContext>) -> Result<()> {
        self.engine.check_context(self.op, name, context)
    }
}
