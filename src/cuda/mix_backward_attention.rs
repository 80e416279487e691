//! The gradient of mixing with respect to attention. Kernels: mix_backward_attention.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::columns::{Drawing, Sampler};
use super::matrix::{Labels, Matrix, target_params};
use super::memory::Bare;
use super::plan::{Kernel, Params, Sink};
use super::split::splits;
use super::tile::Tile;
use super::variant::{self, Math, Variant};
use crate::element::Element;
use crate::error::Result;
use crate::op::MixBackwardCall;
use crate::view::View;

/// Slices a warp of a split writes one of: more would cost more to add up than they save.
const MOST_SPLITS: usize = 32;

/// The pass over all columns, which draws them once more, and the sum of its slices.
pub(super) struct AttentionPass {
    kernel: Kernel<MixAttentionParams>,
    sum: Kernel<MixAttentionSumParams>,
    warps: u32,
    params: MixAttentionParams,
    sum_params: MixAttentionSumParams,
}

impl AttentionPass {
    pub fn new<T: Element>(
        sink: &mut Sink<'_>,
        call: &MixBackwardCall<'_, T, Bare>,
        drawing: &Drawing,
        math: Math,
        out: View<'_, f32, 2, Bare>,
    ) -> Result<Self> {
        let (b, r, n) = (drawing.b, drawing.r, drawing.n);
        let tile = Tile::choose(sink.device, b, |tile| shared_bytes(tile, math));
        let variant = Variant::new(variant::MIX_BACKWARD_ATTENTION)
            .element("ELEMENT", T::DTYPE)
            .math(math)
            .number("DRAW", drawing.draw as u32)
            .tile(&tile)
            .shared(shared_bytes(&tile, math));
        let splits = splits(r, n.div_ceil(16 * tile.warps as usize).min(MOST_SPLITS));
        // f32 (splits * warps, r, b)
        let sizes = [splits, tile.warps as usize, r, b];
        let partial = sink.part::<f32>("slices of the gradient of attention", &sizes)?;
        // Targets whose mixture has no gradient are not read.
        let targets = call.input.targets.as_ref().filter(|_| call.gradients.targets.is_some());
        let (labels, soft) = target_params(targets.map(|given| &given.targets), call.input.classes());
        let params = MixAttentionParams {
            sampler: drawing.sampler,
            features: Matrix::new(&call.input.features),
            d_mixed: Matrix::new(&call.gradients.features),
            labels,
            soft,
            d_mixed_targets: call.gradients.targets.as_ref().map_or(Matrix::NONE, Matrix::new),
            partial,
            splits: splits as u32,
            padding: 0,
        };
        let [live, scales] = drawing.live_and_scales();
        let sum_params = MixAttentionSumParams {
            partial,
            live,
            scales,
            out: out.data,
            example: out.stride(0),
            position: out.stride(1),
            slices: splits as u32 * tile.warps,
            b: b as u32,
            r: r as u32,
            padding: 0,
        };
        let (kernel, sum) = (sink.kernel(variant), sink.kernel(variant));
        Ok(Self { kernel, sum, warps: tile.warps, params, sum_params })
    }

    pub fn steps(&self, sink: &mut Sink<'_>) -> Result<()> {
        let [b, r] = [self.sum_params.b as usize, self.sum_params.r as usize];
        sink.step(self.kernel, &[r, self.params.splits as usize], 32 * self.warps, &self.params)?;
        sink.step(self.sum, &[b.saturating_mul(r).div_ceil(256)], 256, &self.sum_params)
    }
}

fn shared_bytes(tile: &Tile, math: Math) -> u32 {
    let span = if tile.panel >= 128 { 128 } else { 64 };
    let pitch = if math == Math::Tf32 { 96 } else { 80 };
    let slabs = tile.warps * 64 * (tile.panel + 8);
    let stages = 2 * (16 * tile.warps + span) * pitch;
    let tiles = tile.warps * 64 * (span + 8);
    let scratch = tile.warps * 3072;
    let rest = stages.max(tiles);
    slabs + if tile.multi { scratch + rest } else { rest.max(scratch) }
}

/// `MixAttentionParams` of mix_backward_attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct MixAttentionParams {
    sampler: Sampler,
    features: Matrix,
    d_mixed: Matrix,
    labels: Labels,
    soft: Matrix,
    d_mixed_targets: Matrix,
    partial: CUdeviceptr,
    splits: u32,
    padding: u32,
}

impl Params for MixAttentionParams {
    const KERNEL: &'static str = "mix_backward_attention";
}

/// `MixAttentionSumParams` of mix_backward_attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct MixAttentionSumParams {
    partial: CUdeviceptr,
    live: CUdeviceptr,
    scales: CUdeviceptr,
    out: CUdeviceptr,
    example: i64,
    position: i64,
    slices: u32,
    b: u32,
    r: u32,
    padding: u32,
}

impl Params for MixAttentionSumParams {
    const KERNEL: &'static str = "mix_backward_attention_sum";
}
