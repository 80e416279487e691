//! Kernels of loss_forward.cu: the losses of a chunk of columns, their sums, and the end of a call.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::device::DeviceInfo;
use super::engine::{Engine, Launch};
use super::loss::OP;
use super::loss_plan::{Plan, Range, choose_math};
use super::matrix::{Matrix, RawTargets};
use super::queue::Precision;
use super::sampler::{DRAW_KINDS, SamplerParams, draw_kind, element_bytes, element_name};
use super::tile::Tile;
use super::variant::{Source, Variant};
use super::view::RawView;
use crate::element::Dtype;
use crate::error::Result;

const SOURCE: Source =
    Source { file: "loss_forward.cu", kernels: &["loss_forward", "loss_sums", "loss_finish"] };
/// DRAW of columns that `weights` has stored.
const STORED: u32 = 6;

/// How a block draws the whole batch, if that leaves room for two warps; else columns are stored first.
pub(super) fn choose_tile(engine: &Engine, b: usize, math: u32, soft: bool) -> Option<Tile> {
    drawing_tile(engine.device(), b, math, soft)
}

fn drawing_tile(device: &DeviceInfo, b: usize, math: u32, soft: bool) -> Option<Tile> {
    let tile = Tile::choose(device, b, |tile| shared_bytes(tile, math, soft));
    (!tile.multi && tile.warps >= 2).then_some(tile)
}

/// How a block works on stored columns: 64 examples at a time.
fn stored_tile(device: &DeviceInfo, math: u32, soft: bool) -> Tile {
    Tile::choose(device, 64, |tile| shared_bytes(tile, math, soft))
}

fn tile(plan: &Plan<'_>) -> Tile {
    let soft = matches!(plan.call.targets, RawTargets::Soft(_));
    plan.tile.unwrap_or_else(|| stored_tile(plan.engine.device(), plan.math, soft))
}

fn shared_bytes(tile: &Tile, math: u32, soft: bool) -> u32 {
    let stage = if math == 2 { 9216 } else { 8704 };
    tile.warps * (64 * (tile.panel + 8) + 4608) + 2 * stage * (1 + u32::from(soft))
}

pub(super) fn variant(plan: &Plan<'_>) -> Variant {
    let call = plan.call;
    let choice = Choice {
        dtype: call.dtype,
        math: plan.math,
        draw: if plan.tile.is_some() { draw_kind(call.columns.mixing.generator) } else { STORED },
        tile: tile(plan),
        targets: call.targets.kind(),
    };
    choice.variant()
}

/// What decides about the variant.
#[derive(Clone, Copy, Debug)]
struct Choice {
    dtype: Dtype,
    math: u32,
    draw: u32,
    tile: Tile,
    targets: u32,
}

impl Choice {
    fn variant(&self) -> Variant {
        Variant::new(SOURCE)
            .name("ELEMENT", element_name(self.dtype))
            .number("MATH", self.math)
            .number("DRAW", self.draw)
            .number("PANEL", self.tile.panel)
            .number("WARPS", self.tile.warps)
            .number("TARGETS", self.targets)
            .shared(shared_bytes(&self.tile, self.math, self.targets == 2))
    }
}

/// Element types with MATH of the loss's kernels on a device, some of them twice.
pub(super) fn all_math(device: &DeviceInfo) -> impl Iterator<Item = (Dtype, u32)> {
    let precisions = [Precision::Exact, Precision::Tf32]
        .into_iter()
        .filter(|precision| *precision == Precision::Exact || device.has_ampere_tensor_cores());
    let pairs = precisions.flat_map(|precision| Dtype::ALL.map(|dtype| (dtype, precision)));
    let all =
        pairs.flat_map(|(dtype, precision)| [false, true].map(|attention| (dtype, precision, attention)));
    all.filter_map(|(dtype, precision, attention)| {
        Some((dtype, choose_math(device, dtype, precision, attention).ok()?))
    })
}

/// All variants for a device.
pub(super) fn variants(device: &DeviceInfo) -> impl Iterator<Item = Variant> {
    let targets = all_math(device).flat_map(|math| [1, 2].map(|targets| (math, targets)));
    targets.flat_map(move |((dtype, math), targets)| {
        let choice = move |draw, tile| Choice { dtype, math, draw, tile, targets };
        let soft = targets == 2;
        let drawing = Tile::batches().filter_map(move |b| drawing_tile(device, b, math, soft));
        let drawn = drawing.flat_map(move |tile| DRAW_KINDS.map(move |draw| choice(draw, tile)));
        drawn.chain([choice(STORED, stored_tile(device, math, soft))]).map(|choice| choice.variant())
    })
}

/// # Safety
/// As [`Plan::run`].
pub(super) unsafe fn run(plan: &Plan<'_>, stream: CUstream, range: Range) -> Result<()> {
    let (call, memory, tile) = (plan.call, &plan.memory, tile(plan));
    let r = call.columns.r;
    let column_tiles = range.columns.div_ceil(16 * tile.warps as usize);
    let launch = Launch::new(OP, variant(plan), "loss_forward", &[r, column_tiles], 32 * tile.warps)?;
    let (labels, soft) = RawTargets::params(Some(&call.targets), call.logits.layout.shape[2]);
    let params = LossForwardParams {
        sampler: call.columns.params(&memory.prepared),
        logits: Matrix::new(&call.logits, element_bytes(call.dtype)),
        soft,
        labels,
        matrix: memory.matrix,
        matrix_column: plan.pitch() as i64,
        matrix_position: (plan.chunk * plan.pitch()) as i64,
        masses: if call.columns.attention.is_some() { memory.masses } else { 0 },
        statistics: memory.statistics,
        statistics_stride: plan.chunk as i64,
        losses: PerMixture::from(call.outputs.per_mixture),
        log_sums: PerMixture::from(call.outputs.log_sum_exp),
        mass: PerMixture::from(None),
        partial: memory.partial,
        first: range.first as u32,
        columns: range.columns as u32,
        column_tiles: column_tiles as u32,
        weighed: u32::from(plan.weighed()),
        entropies: u32::from(call.outputs.kl.is_some()),
        padding: 0,
    };
    // SAFETY: the caller's promise; the parameters are those that the kernel declares.
    unsafe { plan.engine.launch(OP, stream, &launch, &params) }
}

/// # Safety
/// As [`Plan::run`].
pub(super) unsafe fn add_up(plan: &Plan<'_>, stream: CUstream, range: Range, accumulate: bool) -> Result<()> {
    let launch = Launch::new(OP, variant(plan), "loss_sums", &[plan.call.columns.r], 32)?.without_shared();
    let params = LossSumsParams {
        partial: plan.memory.partial,
        sums: plan.memory.sums,
        ranges: plan.memory.ranges,
        tiles: range.columns.div_ceil(16) as u32,
        accumulate: u32::from(accumulate),
    };
    // SAFETY: as in `run`.
    unsafe { plan.engine.launch(OP, stream, &launch, &params) }
}

/// # Safety
/// As [`Plan::run`].
pub(super) unsafe fn finish(plan: &Plan<'_>, stream: CUstream) -> Result<()> {
    let launch = Launch::new(OP, variant(plan), "loss_finish", &[1], 32)?.without_shared();
    let pointer = |view: Option<RawView<1>>| view.map_or(0, |view| view.pointer);
    let params = LossFinishParams {
        sums: plan.memory.sums,
        loss: pointer(plan.call.outputs.loss),
        kl: pointer(plan.call.outputs.kl),
        shares: plan.memory.shares,
        r: plan.call.columns.r as u32,
        n: plan.call.columns.mixing.n as u32,
        weighed: u32::from(plan.weighed()),
        padding: 0,
    };
    // SAFETY: as in `run`.
    unsafe { plan.engine.launch(OP, stream, &launch, &params) }
}

/// `PerMixture` of loss_forward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct PerMixture {
    data: CUdeviceptr,
    position: i64,
    column: i64,
}

impl From<Option<RawView<2>>> for PerMixture {
    /// From a view (r, n).
    fn from(view: Option<RawView<2>>) -> Self {
        let view = view.unwrap_or(RawView::contiguous(0, [1, 1]));
        Self { data: view.pointer, position: view.stride(0), column: view.stride(1) }
    }
}

/// `LossForwardParams` of loss_forward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LossForwardParams {
    sampler: SamplerParams,
    logits: Matrix,
    soft: Matrix,
    labels: CUdeviceptr,
    matrix: CUdeviceptr,
    matrix_column: i64,
    matrix_position: i64,
    masses: CUdeviceptr,
    statistics: CUdeviceptr,
    statistics_stride: i64,
    losses: PerMixture,
    log_sums: PerMixture,
    mass: PerMixture,
    partial: CUdeviceptr,
    first: u32,
    columns: u32,
    column_tiles: u32,
    weighed: u32,
    entropies: u32,
    padding: u32,
}
const _: () = assert!(size_of::<LossForwardParams>() == 336);

/// `LossSumsParams` of loss_forward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LossSumsParams {
    partial: CUdeviceptr,
    sums: CUdeviceptr,
    ranges: CUdeviceptr,
    tiles: u32,
    accumulate: u32,
}
const _: () = assert!(size_of::<LossSumsParams>() == 32);

/// `LossFinishParams` of loss_forward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LossFinishParams {
    sums: CUdeviceptr,
    loss: CUdeviceptr,
    kl: CUdeviceptr,
    shares: CUdeviceptr,
    r: u32,
    n: u32,
    weighed: u32,
    padding: u32,
}
const _: () = assert!(size_of::<LossFinishParams>() == 48);
