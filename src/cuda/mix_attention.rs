//! The gradient of mixing with respect to attention. Kernels: mix_backward_attention.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::device::DeviceInfo;
use super::engine::{Engine, Launch};
use super::matrix::{Matrix, RawTargets, all_math};
use super::mix_backward::RawMixBackward;
use super::mix_forward::OP;
use super::mix_input::RawMixInput;
use super::sampler::{
    DRAW_KINDS, Prepared, RawColumns, SamplerParams, draw_kind, element_bytes, element_name,
};
use super::tile::{Tile, splits};
use super::variant::{Source, Variant};
use super::view::RawView;
use super::workspace::Carve;
use crate::element::Dtype;
use crate::error::Result;

const SOURCE: Source = Source {
    file: "mix_backward_attention.cu",
    kernels: &["mix_backward_attention", "mix_backward_attention_sum"],
};
/// Slices a warp of a split writes one of: more would cost more to add up than they save.
const MOST_SPLITS: usize = 32;

/// How columns are dealt out, and the slices that come of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AttentionPart {
    splits: usize,
    /// f32 (splits * warps, r, b).
    partial: CUdeviceptr,
}

impl AttentionPart {
    /// Takes the workspace of the slices.
    pub fn carve(engine: &Engine, carve: &mut Carve, [b, r, n]: [usize; 3], math: u32) -> Result<Self> {
        let tile = choose_tile(engine, b, math);
        let splits = splits(r, n.div_ceil(16 * tile.warps as usize).min(MOST_SPLITS));
        let sizes = [splits, tile.warps as usize, r, b];
        Ok(Self { splits, partial: carve.take::<f32>("slices of the gradient of attention", &sizes)? })
    }
}

fn choose_tile(engine: &Engine, b: usize, math: u32) -> Tile {
    Tile::choose(engine.device(), b, |tile| shared_bytes(tile, math))
}

fn variant(tile: &Tile, draw: u32, (dtype, math): (Dtype, u32)) -> Variant {
    Variant::new(SOURCE)
        .name("ELEMENT", element_name(dtype))
        .number("MATH", math)
        .number("DRAW", draw)
        .tile(tile)
        .shared(shared_bytes(tile, math))
}

/// The variant of a call.
pub(super) fn variant_of(engine: &Engine, call: &RawMixBackward<'_>, math: u32) -> Variant {
    let RawMixInput { columns: RawColumns { mixing, b, .. }, dtype, .. } = call.input;
    variant(&choose_tile(engine, b, math), draw_kind(mixing.generator), (dtype, math))
}

/// Targets whose mixture has no gradient are not read.
fn targets_of<'c>(call: &'c RawMixBackward<'_>) -> Option<&'c RawTargets> {
    call.input.targets.as_ref().filter(|_| call.d_mixed_targets.is_some())
}

/// All variants for a device.
pub(super) fn variants(device: &DeviceInfo) -> impl Iterator<Item = Variant> {
    let tiles = all_math(OP, device).flat_map(move |math| {
        Tile::batches().map(move |b| (math, Tile::choose(device, b, |tile| shared_bytes(tile, math.1))))
    });
    tiles.flat_map(|(math, tile)| DRAW_KINDS.map(move |draw| variant(&tile, draw, math)))
}

fn shared_bytes(tile: &Tile, math: u32) -> u32 {
    let span = if tile.panel >= 128 { 128 } else { 64 };
    let pitch = if math == 1 { 96 } else { 80 };
    let slabs = tile.warps * 64 * (tile.panel + 8);
    let stages = 2 * (16 * tile.warps + span) * pitch;
    let tiles = tile.warps * 64 * (span + 8);
    let scratch = tile.warps * 3072;
    let rest = stages.max(tiles);
    slabs + if tile.multi { scratch + rest } else { rest.max(scratch) }
}

/// # Safety
/// All memory of the call is valid in the engine's context, and attention has been prepared.
pub(super) unsafe fn run(
    engine: &Engine,
    stream: CUstream,
    call: &RawMixBackward<'_>,
    math: u32,
    prepared: &Prepared,
    part: AttentionPart,
    out: &RawView<2>,
) -> Result<()> {
    let (columns, size) = (&call.input.columns, element_bytes(call.input.dtype));
    let tile = choose_tile(engine, columns.b, math);
    let targets = targets_of(call);
    let variant = variant_of(engine, call, math);
    let launch =
        Launch::new(OP, variant, "mix_backward_attention", &[columns.r, part.splits], 32 * tile.warps)?;
    let (labels, soft) = RawTargets::params(targets, call.input.classes);
    let params = MixAttentionParams {
        sampler: columns.params(prepared),
        features: Matrix::new(&call.input.features, size),
        d_mixed: Matrix::new(&call.d_mixed, size),
        labels,
        soft,
        d_mixed_targets: call.d_mixed_targets.map_or(Matrix::NONE, |view| Matrix::new(&view, 4)),
        partial: part.partial,
        splits: part.splits as u32,
        padding: 0,
    };
    let blocks = columns.b.saturating_mul(columns.r).div_ceil(256);
    let sum = Launch::new(OP, variant, "mix_backward_attention_sum", &[blocks], 256)?.without_shared();
    let sum_params = MixAttentionSumParams {
        partial: part.partial,
        live: prepared.live,
        scales: prepared.scales,
        out: out.pointer,
        example: out.stride(0),
        position: out.stride(1),
        slices: part.splits as u32 * tile.warps,
        b: columns.b as u32,
        r: columns.r as u32,
        padding: 0,
    };
    // SAFETY: the caller's promise; the parameters are those that the kernels declare; the second reads what the first wrote.
    unsafe {
        engine.launch(OP, stream, &launch, &params)?;
        engine.launch(OP, stream, &sum, &sum_params)
    }
}

/// `MixAttentionParams` of mix_backward_attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct MixAttentionParams {
    sampler: SamplerParams,
    features: Matrix,
    d_mixed: Matrix,
    labels: CUdeviceptr,
    soft: Matrix,
    d_mixed_targets: Matrix,
    partial: CUdeviceptr,
    splits: u32,
    padding: u32,
}
const _: () = assert!(size_of::<MixAttentionParams>() == 280);

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
const _: () = assert!(size_of::<MixAttentionSumParams>() == 64);
