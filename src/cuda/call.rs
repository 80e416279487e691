//! From typed arguments to raw ones: every view is checked to lie in the engine's context and becomes a pointer, in order with
//! other uses of its memory.

use cudarc::driver::{CudaContext, CudaStream, SyncOnDrop};

use super::engine::Engine;
use super::matrix::{DeviceTargets, RawTargets};
use super::queue::Queue;
use super::sampler::RawColumns;
use super::view::{DeviceView, DeviceViewMut, RawView};
use super::workspace::RawWorkspace;
use crate::error::Result;
use crate::problem::Mixing;

/// The views of one call. To be dropped when all of it is enqueued: then the memory is free for others, after this call.
pub(super) struct Call<'s> {
    op: &'static str,
    engine: &'s Engine,
    stream: &'s CudaStream,
    seed_and_step: Option<&'s DeviceView<'s, u64, 1>>,
    guards: Vec<SyncOnDrop<'s>>,
}

impl<'s> Call<'s> {
    pub fn new(op: &'static str, queue: &'s Queue<'_>) -> Self {
        let (engine, stream) = (queue.engine(), queue.stream().as_ref());
        Self { op, engine, stream, seed_and_step: queue.words(), guards: Vec::with_capacity(16) }
    }

    /// An input.
    pub fn reads<T, const N: usize>(
        &mut self,
        name: &'static str,
        view: &'s DeviceView<'_, T, N>,
    ) -> Result<RawView<N>> {
        self.check(name, view.context())?;
        let (view, guard) = view.resolve(self.stream);
        self.guards.push(guard);
        Ok(view)
    }

    /// An output.
    pub fn writes<T, const N: usize>(
        &mut self,
        name: &'static str,
        view: &'s mut DeviceViewMut<'_, T, N>,
    ) -> Result<RawView<N>> {
        self.check(name, view.context())?;
        let (view, guard) = view.resolve(self.stream);
        self.guards.push(guard);
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

    fn check(&self, name: &'static str, context: &CudaContext) -> Result<()> {
        self.engine.check_context(self.op, name, context)
    }
}
