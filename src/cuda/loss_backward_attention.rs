//! Kernels of loss_backward_attention.cu: the gradient with respect to attention.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::device::DeviceInfo;
use super::engine::Launch;
use super::loss::OP;
use super::loss_backward::LossParams;
use super::loss_plan::{Plan, Range};
use super::matrix::Matrix;
use super::sampler::element_name;
use super::variant::{Source, Variant};
use super::view::RawView;
use crate::element::Dtype;
use crate::error::Result;

const SOURCE: Source = Source {
    file: "loss_backward_attention.cu",
    kernels: &["loss_backward_attention", "loss_backward_attention_sum"],
};

pub(super) fn variant(plan: &Plan<'_>) -> Variant {
    variant_of(plan.call.dtype, plan.call.targets.kind())
}

/// All variants.
pub(super) fn variants(_: &DeviceInfo) -> impl Iterator<Item = Variant> {
    Dtype::ALL.into_iter().flat_map(|dtype| [1, 2].map(|targets| variant_of(dtype, targets)))
}

fn variant_of(dtype: Dtype, targets: u32) -> Variant {
    Variant::new(SOURCE)
        .name("ELEMENT", element_name(dtype))
        .number("MATH", 0)
        .number("TARGETS", targets)
        .number("PANEL", 64)
        .shared(53760 + if targets == 2 { 0 } else { 272 })
}

/// Adds a chunk's share to the slices.
///
/// # Safety
/// As [`Plan::run`].
pub(super) unsafe fn run(plan: &Plan<'_>, stream: CUstream, range: Range, accumulate: bool) -> Result<()> {
    let [b, r, c] = plan.call.logits.layout.shape;
    let blocks = [r, b.div_ceil(64), c.div_ceil(64), plan.attention_splits];
    let launch = Launch::new(OP, variant(plan), "loss_backward_attention", &blocks, 128)?;
    let params = LossAttentionParams {
        input: LossParams::new(plan, range),
        weights: plan.matrix(range, plan.memory.lambda, 4),
        partial: plan.memory.d_attention,
        splits: plan.attention_splits as u32,
        accumulate: u32::from(accumulate),
        weighed: u32::from(plan.weighed()),
        padding: 0,
    };
    // SAFETY: the caller's promise; the parameters are those that the kernel declares.
    unsafe { plan.engine.launch(OP, stream, &launch, &params) }
}

/// After loss_finish: the sum of the slices.
///
/// # Safety
/// As [`Plan::run`].
pub(super) unsafe fn finish(plan: &Plan<'_>, stream: CUstream) -> Result<()> {
    let [b, r, c] = plan.call.logits.layout.shape;
    let blocks = [b.saturating_mul(r).div_ceil(256)];
    let launch =
        Launch::new(OP, variant(plan), "loss_backward_attention_sum", &blocks, 256)?.without_shared();
    let out = plan.call.outputs.attention.unwrap_or(RawView::contiguous(0, [1, 1]));
    let params = LossAttentionSumParams {
        partial: plan.memory.d_attention,
        sums: plan.memory.sums,
        shares: plan.memory.shares,
        scales: plan.memory.prepared.scales,
        live: plan.memory.prepared.live,
        upstream: plan.call.upstream,
        out: out.pointer,
        example: out.stride(0),
        position: out.stride(1),
        factor: plan.call.factor,
        splits: plan.attention_splits as u32,
        tiles: c.div_ceil(64) as u32,
        b: b as u32,
        r: r as u32,
        padding: 0,
    };
    // SAFETY: as in `run`.
    unsafe { plan.engine.launch(OP, stream, &launch, &params) }
}

/// `LossAttentionParams` of loss_backward_attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct LossAttentionParams {
    input: LossParams,
    weights: Matrix,
    partial: CUdeviceptr,
    splits: u32,
    accumulate: u32,
    weighed: u32,
    padding: u32,
}
const _: () = assert!(size_of::<LossAttentionParams>() == 232);

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
const _: () = assert!(size_of::<LossAttentionSumParams>() == 96);
