//! Kernels of loss_forward.cu and loss_reduce.cu: the losses of a chunk of columns, their sums, and the end
//! of a call.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::columns::Sampler;
use super::device::DeviceInfo;
use super::loss::Shared;
use super::matrix::{Labels, Matrix, target_kind, target_params};
use super::memory::Bare;
use super::plan::{Kernel, Params, Sink};
use super::tile::Tile;
use super::variant::{self, Draw, Math, Variant};
use crate::element::Element;
use crate::error::Result;
use crate::op::LossCall;
use crate::view::ViewMut;

/// The forward pass.
pub(super) struct Forward {
    kernel: Kernel<LossForwardParams>,
    sums: Kernel<LossSumsParams>,
    end: Kernel<LossFinishParams>,
    warps: u32,
    params: LossForwardParams,
    sums_params: LossSumsParams,
    end_params: LossFinishParams,
}

impl Forward {
    /// How a block draws the whole batch, if that leaves room for two warps; else columns are stored first.
    pub fn drawing_tile(device: &DeviceInfo, b: usize, math: Math, soft: bool) -> Option<Tile> {
        let tile = Tile::choose(device, b, |tile| shared_bytes(tile, math, soft));
        (!tile.multi && tile.warps >= 2).then_some(tile)
    }

    /// `partial`: f64 (r, ceil(columns / 16), 4); `masses`: s (r, columns) of columns that are stored first.
    pub fn new<T: Element>(
        sink: &mut Sink<'_>,
        call: &LossCall<'_, T, Bare>,
        shared: &Shared,
        tile: Option<Tile>,
        [partial, masses]: [CUdeviceptr; 2],
    ) -> Self {
        let (input, outputs, drawing, math) = (&call.input, &call.outputs, &shared.drawing, shared.math);
        let soft = input.targets.are_soft();
        let draw = if tile.is_some() { drawing.draw } else { Draw::Stored };
        // Of stored columns a block takes 64 examples at a time.
        let tile =
            tile.unwrap_or_else(|| Tile::choose(sink.device, 64, |tile| shared_bytes(tile, math, soft)));
        let variant = Variant::new(variant::LOSS_FORWARD)
            .element("ELEMENT", T::DTYPE)
            .math(math)
            .number("DRAW", draw as u32)
            .number("PANEL", tile.panel)
            .number("WARPS", tile.warps)
            .number("TARGETS", target_kind(&input.targets))
            .shared(shared_bytes(&tile, math, soft));
        let (labels, soft) = target_params(Some(&input.targets), input.logits.shape()[2]);
        let (pitch, chunk) = shared.matrix.map_or((0, 0), |kept| (kept.pitch as i64, kept.chunk as i64));
        let params = LossForwardParams {
            sampler: drawing.sampler,
            logits: Matrix::new(&input.logits),
            soft,
            labels,
            matrix: shared.matrix.map_or(0, |kept| kept.memory),
            matrix_column: pitch,
            matrix_position: chunk * pitch,
            masses: if drawing.attends() { masses } else { 0 },
            statistics: shared.statistics,
            statistics_stride: shared.chunk as i64,
            losses: PerMixture::new(&outputs.per_mixture),
            log_sums: PerMixture::new(&outputs.log_sum_exp),
            partial,
            weighed: u32::from(shared.weighed),
            entropies: u32::from(outputs.kl.is_some()),
            ..LossForwardParams::zeroed()
        };
        let (sums, ranges, shares) = (shared.sums, shared.ranges, shared.shares);
        let number = |out: &Option<ViewMut<'_, f32, 1, Bare>>| out.as_ref().map_or(0, |out| out.data);
        let end_params = LossFinishParams {
            sums,
            loss: number(&outputs.loss),
            kl: number(&outputs.kl),
            shares,
            r: drawing.r as u32,
            n: drawing.n as u32,
            weighed: u32::from(shared.weighed),
            padding: 0,
        };
        let reduce = Variant::new(variant::LOSS_REDUCE);
        Self {
            kernel: sink.kernel(variant),
            sums: sink.kernel(reduce),
            end: sink.kernel(reduce),
            warps: tile.warps,
            params,
            sums_params: LossSumsParams { partial, sums, ranges, tiles: 0, accumulate: 0 },
            end_params,
        }
    }

    /// The losses of a chunk and their sums.
    pub fn steps(&self, sink: &mut Sink<'_>, (first, columns): (usize, usize)) -> Result<()> {
        let r = self.end_params.r as usize;
        let column_tiles = columns.div_ceil(16 * self.warps as usize);
        let params = LossForwardParams {
            first: first as u32,
            columns: columns as u32,
            column_tiles: column_tiles as u32,
            ..self.params
        };
        sink.step(self.kernel, &[r, column_tiles], 32 * self.warps, &params)?;
        let (tiles, accumulate) = (columns.div_ceil(16) as u32, u32::from(first > 0));
        sink.step(self.sums, &[r], 32, &LossSumsParams { tiles, accumulate, ..self.sums_params })
    }

    /// The loss, the KL, and the shares of positions.
    pub fn finish(&self, sink: &mut Sink<'_>) -> Result<()> {
        sink.step(self.end, &[1], 32, &self.end_params)
    }
}

fn shared_bytes(tile: &Tile, math: Math, soft: bool) -> u32 {
    tile.warps * (64 * (tile.panel + 8) + 4608) + 2 * math.stage_bytes() * (1 + u32::from(soft))
}

/// `PerMixture` of loss_forward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct PerMixture {
    data: CUdeviceptr,
    position: i64,
    column: i64,
}

impl PerMixture {
    /// From a view (r, n).
    fn new(view: &Option<ViewMut<'_, f32, 2, Bare>>) -> Self {
        let view = view.as_ref().map(|view| view.as_read());
        view.map_or(Self::zeroed(), |view| Self {
            data: view.data,
            position: view.stride(0),
            column: view.stride(1),
        })
    }
}

/// `LossForwardParams` of loss_forward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LossForwardParams {
    sampler: Sampler,
    logits: Matrix,
    soft: Matrix,
    labels: Labels,
    matrix: CUdeviceptr,
    matrix_column: i64,
    matrix_position: i64,
    masses: CUdeviceptr,
    statistics: CUdeviceptr,
    statistics_stride: i64,
    losses: PerMixture,
    log_sums: PerMixture,
    partial: CUdeviceptr,
    first: u32,
    columns: u32,
    column_tiles: u32,
    weighed: u32,
    entropies: u32,
    padding: u32,
}

impl Params for LossForwardParams {
    const KERNEL: &'static str = "loss_forward";
}

/// `LossSumsParams` of loss_reduce.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LossSumsParams {
    partial: CUdeviceptr,
    sums: CUdeviceptr,
    ranges: CUdeviceptr,
    tiles: u32,
    accumulate: u32,
}

impl Params for LossSumsParams {
    const KERNEL: &'static str = "loss_sums";
}

/// `LossFinishParams` of loss_reduce.cu.
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

impl Params for LossFinishParams {
    const KERNEL: &'static str = "loss_finish";
}
