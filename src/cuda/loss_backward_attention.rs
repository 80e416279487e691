//! Kernels of loss_backward_attention.cu: the gradient with respect to attention.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::columns::Drawing;
use super::loss::{Kept, Shared};
use super::loss_backward::{LossInput, residual_bytes};
use super::matrix::{Matrix, target_kind};
use super::memory::Bare;
use super::plan::{Kernel, Params, Sink};
use super::split::{Factors, chunk_splits};
use super::variant::{self, Math, Variant};
use super::weights::Fill;
use crate::element::{Dtype, Element};
use crate::error::Result;
use crate::op::LossCall;
use crate::view::ViewMut;

/// The pass that sums da.
pub(super) struct AttentionPass {
    drawing: Drawing,
    fill: Fill,
    /// Λ of a chunk.
    lambda: Kept,
    kernel: Kernel<LossAttentionParams>,
    sum: Kernel<LossAttentionSumParams>,
    params: LossAttentionParams,
    sum_params: LossAttentionSumParams,
}

impl AttentionPass {
    pub fn new<T: Element>(
        sink: &mut Sink<'_>,
        call: &LossCall<'_, T, Bare>,
        shared: &Shared,
        out: &ViewMut<'_, f32, 2, Bare>,
    ) -> Result<Self> {
        let ([b, r, c], drawing) = (call.input.logits.shape(), shared.drawing);
        let variant = Variant::new(variant::LOSS_BACKWARD_ATTENTION)
            .element("ELEMENT", T::DTYPE)
            .math(Math::Exact)
            .number("TARGETS", target_kind(&call.input.targets))
            .number("PANEL", 64)
            .shared(residual_bytes(call.input.targets.are_soft()) + 768);
        let lambda = Kept::new(sink, "the weights of a chunk", Dtype::F32, &drawing, shared.chunk)?;
        let splits = chunk_splits(shared.chunk, r, [b, c], 64);
        let tiles = c.div_ceil(64);
        let partial = sink.part::<f32>("slices of the gradient of attention", &[splits, tiles + 2, r, b])?;
        let params = LossAttentionParams {
            input: LossInput::new(call, shared),
            weights: lambda.matrix(&drawing, shared.chunk),
            partial,
            splits: splits as u32,
            accumulate: 0,
            weighed: u32::from(shared.weighed),
            padding: 0,
        };
        let ([live, scales], out) = (drawing.live_and_scales(), out.as_read());
        let Factors { shares, upstream, factor } = Factors::new(shared.shares, &call.upstream);
        let sum_params = LossAttentionSumParams {
            partial,
            sums: shared.sums,
            shares,
            scales,
            live,
            upstream,
            out: out.data,
            example: out.stride(0),
            position: out.stride(1),
            factor,
            splits: splits as u32,
            tiles: tiles as u32,
            b: b as u32,
            r: r as u32,
            padding: 0,
        };
        let fill = Fill::new(sink, &drawing, Dtype::F32);
        let (kernel, sum) = (sink.kernel(variant), sink.kernel(variant));
        Ok(Self { drawing, fill, lambda, kernel, sum, params, sum_params })
    }

    /// Adds a chunk's share to the slices.
    pub fn add(&self, sink: &mut Sink<'_>, range: (usize, usize)) -> Result<()> {
        let (first, columns) = range;
        self.lambda.fill(sink, self.fill, &self.drawing, range, None)?;
        let params = LossAttentionParams {
            input: self.params.input.of(columns),
            accumulate: u32::from(first > 0),
            ..self.params
        };
        let LossAttentionSumParams { b, tiles, r, splits, .. } = self.sum_params;
        let blocks = [r as usize, (b as usize).div_ceil(64), tiles as usize, splits as usize];
        sink.step(self.kernel, &blocks, 128, &params)
    }

    /// After loss_finish: the sum of the slices.
    pub fn finish(&self, sink: &mut Sink<'_>) -> Result<()> {
        let blocks = self.drawing.b.saturating_mul(self.drawing.r).div_ceil(256);
        sink.step(self.sum, &[blocks], 256, &self.sum_params)
    }
}

/// `LossAttentionParams` of loss_backward_attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LossAttentionParams {
    input: LossInput,
    weights: Matrix,
    partial: CUdeviceptr,
    splits: u32,
    accumulate: u32,
    weighed: u32,
    padding: u32,
}

impl Params for LossAttentionParams {
    const KERNEL: &'static str = "loss_backward_attention";
}

/// `LossAttentionSumParams` of loss_backward_attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LossAttentionSumParams {
    partial: CUdeviceptr,
    sums: CUdeviceptr,
    shares: CUdeviceptr,
    scales: CUdeviceptr,
    live: CUdeviceptr,
    upstream: CUdeviceptr,
    out: CUdeviceptr,
    example: i64,
    position: i64,
    factor: f32,
    splits: u32,
    tiles: u32,
    b: u32,
    r: u32,
    padding: u32,
}

impl Params for LossAttentionSumParams {
    const KERNEL: &'static str = "loss_backward_attention_sum";
}
