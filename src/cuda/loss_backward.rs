//! Kernels of loss_backward.cu: the gradient with respect to the logits.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::device::DeviceInfo;
use super::engine::Launch;
use super::loss::OP;
use super::loss_forward::all_math;
use super::loss_plan::{Plan, Range};
use super::matrix::{Matrix, RawTargets};
use super::sampler::{element_bytes, element_name};
use super::variant::{Source, Variant};
use crate::element::Dtype;
use crate::error::Result;

const SOURCE: Source = Source { file: "loss_backward.cu", kernels: &["loss_backward", "loss_backward_sum"] };

/// Examples of a block.
pub(super) fn panel(b: usize, math: u32) -> u32 {
    if math == 2 && b > 64 { 128 } else { 64 }
}

pub(super) fn variant(plan: &Plan<'_>) -> Variant {
    let panel = panel(plan.call.columns.b, plan.math);
    variant_of(plan.call.dtype, plan.math, plan.call.targets.kind(), panel)
}

/// All variants for a device.
pub(super) fn variants(device: &DeviceInfo) -> impl Iterator<Item = Variant> {
    let panels = all_math(device).flat_map(|(dtype, math)| [64, 128].map(|b| (dtype, math, panel(b, math))));
    panels.flat_map(|(dtype, math, panel)| [1, 2].map(|targets| variant_of(dtype, math, targets, panel)))
}

fn variant_of(dtype: Dtype, math: u32, targets: u32, panel: u32) -> Variant {
    let shared = match math {
        2 => 128 * (panel + 8) + 288 * panel + 9216 + 768,
        _ => 3 * 17408 + 768 + if targets == 2 { 0 } else { 272 },
    };
    Variant::new(SOURCE)
        .name("ELEMENT", element_name(dtype))
        .number("MATH", math)
        .number("TARGETS", targets)
        .number("PANEL", panel)
        .shared(shared)
}

/// Adds a chunk's share to the slices.
///
/// # Safety
/// As [`Plan::run`].
pub(super) unsafe fn run(plan: &Plan<'_>, stream: CUstream, range: Range, accumulate: bool) -> Result<()> {
    let [b, r, c] = plan.call.logits.layout.shape;
    let variant = variant(plan);
    let rows = b.div_ceil(panel(b, plan.math) as usize);
    let launch = Launch::new(OP, variant, "loss_backward", &[r, rows, c.div_ceil(64), plan.splits], 128)?;
    let params = params(plan, range, accumulate);
    // SAFETY: the caller's promise; the parameters are those that the kernel declares.
    unsafe { plan.engine.launch(OP, stream, &launch, &params) }
}

/// After loss_finish: the sum of the slices, or the one chunk straight to its place.
///
/// # Safety
/// As [`Plan::run`].
pub(super) unsafe fn finish(plan: &Plan<'_>, stream: CUstream, range: Range) -> Result<()> {
    if plan.writes_logits_directly() {
        // SAFETY: the caller's promise.
        return unsafe { run(plan, stream, range, false) };
    }
    let [b, r, c] = plan.call.logits.layout.shape;
    let blocks = r.saturating_mul(b).saturating_mul(c).div_ceil(256);
    let launch = Launch::new(OP, variant(plan), "loss_backward_sum", &[blocks], 256)?.without_shared();
    let params = params(plan, range, false);
    // SAFETY: as in `run`.
    unsafe { plan.engine.launch(OP, stream, &launch, &params) }
}

fn params(plan: &Plan<'_>, range: Range, accumulate: bool) -> LossBackwardParams {
    let call = plan.call;
    let out = call
        .outputs
        .logits
        .as_ref()
        .map_or(Matrix::NONE, |view| Matrix::new(view, element_bytes(call.dtype)));
    LossBackwardParams {
        input: LossParams::new(plan, range),
        out,
        partial: plan.memory.d_logits,
        shares: plan.memory.shares,
        upstream: call.upstream,
        factor: call.factor,
        splits: plan.splits as u32,
        accumulate: u32::from(accumulate),
        padding: 0,
    }
}

/// `LossInput` of loss_residual.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct LossParams {
    matrix: Matrix,
    logits: Matrix,
    soft: Matrix,
    labels: CUdeviceptr,
    statistics: CUdeviceptr,
    statistics_stride: i64,
    ranges: CUdeviceptr,
    b: u32,
    r: u32,
    columns: u32,
    padding: u32,
}
const _: () = assert!(size_of::<LossParams>() == 168);

impl LossParams {
    pub fn new(plan: &Plan<'_>, range: Range) -> Self {
        let (call, memory) = (plan.call, &plan.memory);
        let (labels, soft) = RawTargets::params(Some(&call.targets), call.logits.layout.shape[2]);
        Self {
            matrix: plan.matrix(range, memory.matrix, element_bytes(plan.number())),
            logits: Matrix::new(&call.logits, element_bytes(call.dtype)),
            soft,
            labels,
            statistics: memory.statistics,
            statistics_stride: plan.chunk as i64,
            ranges: memory.ranges,
            b: call.columns.b as u32,
            r: call.columns.r as u32,
            columns: range.columns as u32,
            padding: 0,
        }
    }
}

/// `LossBackwardParams` of loss_backward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LossBackwardParams {
    input: LossParams,
    out: Matrix,
    partial: CUdeviceptr,
    shares: CUdeviceptr,
    upstream: CUdeviceptr,
    factor: f32,
    splits: u32,
    accumulate: u32,
    padding: u32,
}
const _: () = assert!(size_of::<LossBackwardParams>() == 248);
