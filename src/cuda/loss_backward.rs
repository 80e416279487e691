//! Kernels of loss_backward.cu: the gradient with respect to the logits.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::loss::Shared;
use super::matrix::{Labels, Matrix, target_kind, target_params};
use super::memory::Bare;
use super::plan::{Kernel, Params, Sink};
use super::split::{Factors, Slices, chunk_splits};
use super::variant::{self, Math, Variant};
use crate::element::{Dtype, Element};
use crate::error::Result;
use crate::op::LossCall;

/// The pass that sums dS.
pub(super) struct LogitsPass {
    kernel: Kernel<LossBackwardParams>,
    panel: usize,
    chunk: usize,
    /// None where one chunk and one split hold all columns: dS is then written directly, at the end.
    slices: Option<Slices>,
    factors: Factors,
    params: LossBackwardParams,
}

impl LogitsPass {
    pub fn new<T: Element>(
        sink: &mut Sink<'_>,
        call: &LossCall<'_, T, Bare>,
        shared: &Shared,
    ) -> Result<Self> {
        let ([b, r, c], math, chunk) = (call.input.logits.shape(), shared.math, shared.chunk);
        let panel = if math == Math::Half && b > 64 { 128 } else { 64 };
        let (out, dtype) = match (&call.outputs.logits, &call.outputs.logits_f32) {
            (Some(out), _) => (Matrix::out(out), T::DTYPE),
            (None, Some(out)) => (Matrix::out(out), Dtype::F32),
            (None, None) => (Matrix::NONE, T::DTYPE),
        };
        let splits = chunk_splits(chunk, r, [b, c], panel);
        let directly = splits == 1 && chunk == shared.drawing.n;
        let slices = match directly {
            true => None,
            false => Some(Slices::new(sink, dtype, splits, [r, b, c])?),
        };
        let variant = Variant::new(variant::LOSS_BACKWARD)
            .element("ELEMENT", T::DTYPE)
            .element("OUT", if directly { dtype } else { T::DTYPE })
            .math(math)
            .number("TARGETS", target_kind(&call.input.targets))
            .number("PANEL", panel as u32)
            .shared(shared_bytes(math, panel as u32, call.input.targets.are_soft()));
        let factors = Factors::new(shared.shares, &call.upstream);
        let params = LossBackwardParams {
            input: LossInput::new(call, shared),
            out,
            partial: slices.as_ref().map_or(0, |slices| slices.partial),
            shares: factors.shares,
            upstream: factors.upstream,
            factor: factors.factor,
            splits: splits as u32,
            ..LossBackwardParams::zeroed()
        };
        Ok(Self { kernel: sink.kernel(variant), panel, chunk, slices, factors, params })
    }

    fn step(&self, sink: &mut Sink<'_>, (first, columns): (usize, usize)) -> Result<()> {
        let params = LossBackwardParams {
            input: self.params.input.of(columns),
            accumulate: u32::from(first > 0),
            ..self.params
        };
        let LossInput { b, r, logits, .. } = params.input;
        let tiles = (logits.channels as usize).div_ceil(64);
        let blocks = [r as usize, (b as usize).div_ceil(self.panel), tiles, params.splits as usize];
        sink.step(self.kernel, &blocks, 128, &params)
    }

    /// Adds a chunk's share to the slices.
    pub fn add(&self, sink: &mut Sink<'_>, range: (usize, usize)) -> Result<()> {
        if self.slices.is_some() { self.step(sink, range) } else { Ok(()) }
    }

    /// After loss_finish: the sum of the slices, or the one chunk straight to its place.
    pub fn finish(&self, sink: &mut Sink<'_>) -> Result<()> {
        let Some(slices) = &self.slices else { return self.step(sink, (0, self.chunk)) };
        let LossBackwardParams { input, out, splits, .. } = self.params;
        slices.sum(sink, splits as usize, [input.b as usize, input.r as usize], out, self.factors)
    }
}

fn shared_bytes(math: Math, panel: u32, soft: bool) -> u32 {
    match math {
        Math::Half => 128 * (panel + 8) + 288 * panel + 9216 + 768,
        _ => residual_bytes(soft),
    }
}

/// Shared memory of the residual in f32, with panels of 64.
pub(super) fn residual_bytes(soft: bool) -> u32 {
    3 * 17408 + 768 + if soft { 0 } else { 272 }
}

/// `LossInput` of loss_residual.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct LossInput {
    matrix: Matrix,
    pub logits: Matrix,
    soft: Matrix,
    labels: Labels,
    statistics: CUdeviceptr,
    statistics_stride: i64,
    ranges: CUdeviceptr,
    pub b: u32,
    pub r: u32,
    columns: u32,
    padding: u32,
}

impl LossInput {
    pub fn new<T: Element>(call: &LossCall<'_, T, Bare>, shared: &Shared) -> Self {
        let [b, r, c] = call.input.logits.shape();
        let (labels, soft) = target_params(Some(&call.input.targets), c);
        Self {
            matrix: shared.matrix.map_or(Matrix::NONE, |kept| kept.matrix(&shared.drawing, shared.chunk)),
            logits: Matrix::new(&call.input.logits),
            soft,
            labels,
            statistics: shared.statistics,
            statistics_stride: shared.chunk as i64,
            ranges: shared.ranges,
            b: b as u32,
            r: r as u32,
            columns: 0,
            padding: 0,
        }
    }

    /// For the first columns of a chunk.
    pub fn of(self, columns: usize) -> Self {
        Self { columns: columns as u32, ..self }
    }
}

/// `LossBackwardParams` of loss_backward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LossBackwardParams {
    input: LossInput,
    out: Matrix,
    partial: CUdeviceptr,
    shares: CUdeviceptr,
    upstream: CUdeviceptr,
    factor: f32,
    splits: u32,
    accumulate: u32,
    padding: u32,
}

impl Params for LossBackwardParams {
    const KERNEL: &'static str = "loss_backward";
}
