//! Gradients that are summed in slices: each split of the columns has one, in f32, and they are added in
//! order. Kernel: split_sum.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::matrix::Matrix;
use super::memory::Bare;
use super::plan::{Kernel, Params, Sink};
use super::variant::{self, Variant};
use crate::element::Dtype;
use crate::error::Result;
use crate::op::Upstream;

/// Columns of a mix matrix that are kept at a time: 128 x 49 of them in 16 bits are 13 MB, which stays in the
/// L2 cache.
pub(super) const CHUNK: usize = 1024;
/// Slices over which the columns of a chunk are split at most.
const MOST_SPLITS: usize = 8;
/// Blocks that sums over columns are split for where the sizes make fewer: the multiprocessors of a large
/// device. Not this device's, so that the same sums are made everywhere.
const BLOCKS: usize = 132;

/// Into how many slices, `most` at most, the columns of a sum that `blocks` blocks make are split.
pub(super) fn splits(blocks: usize, most: usize) -> usize {
    BLOCKS.div_ceil(blocks.max(1)).clamp(1, most.max(1))
}

/// As [`splits`], of a chunk's columns for a gradient of rows by channels at r positions, in blocks of
/// `panel` rows by 64 channels.
pub(super) fn chunk_splits(chunk: usize, r: usize, [rows, channels]: [usize; 2], panel: usize) -> usize {
    let blocks = r.saturating_mul(rows.div_ceil(panel)).saturating_mul(channels.div_ceil(64));
    splits(blocks, chunk.div_ceil(64).min(MOST_SPLITS))
}

/// Ranges of columns of at most a chunk.
pub(super) fn chunks(n: usize, chunk: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(chunk).map(move |first| (first, chunk.min(n - first)))
}

/// One gradient (b, r, channels) that is summed in slices.
pub(super) struct Slices {
    /// f32 (splits, r, b, channels).
    pub partial: CUdeviceptr,
    kernel: Kernel<SplitSumParams>,
}

/// What the sum is multiplied by.
#[derive(Clone, Copy, Default)]
pub(super) struct Factors {
    /// f64 (r), or 0.
    pub shares: CUdeviceptr,
    /// One f32, or 0.
    pub upstream: CUdeviceptr,
    pub factor: f32,
}

impl Factors {
    pub fn new(shares: CUdeviceptr, upstream: &Upstream<'_, Bare>) -> Self {
        let scalar = upstream.scalar.as_ref().map_or(0, |scalar| scalar.data);
        Self { shares, upstream: scalar, factor: upstream.factor }
    }
}

impl Slices {
    pub fn new(
        sink: &mut Sink<'_>,
        dtype: Dtype,
        splits: usize,
        [r, b, channels]: [usize; 3],
    ) -> Result<Self> {
        let partial = sink.part::<f32>("slices of a gradient", &[splits, r, b, channels])?;
        let kernel = sink.kernel(Variant::new(variant::SPLIT_SUM).element("OUT", dtype));
        Ok(Self { partial, kernel })
    }

    /// Adds `slices` slices up into `out` (b, r, channels).
    pub fn sum(
        &self,
        sink: &mut Sink<'_>,
        slices: usize,
        [b, r]: [usize; 2],
        out: Matrix,
        factors: Factors,
    ) -> Result<()> {
        sink.fit(&[("the number of slices", slices)])?;
        let Factors { shares, upstream, factor } = factors;
        let params = SplitSumParams {
            partial: self.partial,
            out,
            shares,
            upstream,
            factor,
            slices: slices as u32,
            r: r as u32,
            b: b as u32,
        };
        let blocks = r.saturating_mul(b).saturating_mul(out.channels as usize).div_ceil(256);
        sink.step(self.kernel, &[blocks], 256, &params)
    }
}

/// `SplitSumParams` of split_sum.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct SplitSumParams {
    partial: CUdeviceptr,
    out: Matrix,
    shares: CUdeviceptr,
    upstream: CUdeviceptr,
    factor: f32,
    slices: u32,
    r: u32,
    b: u32,
}

impl Params for SplitSumParams {
    const KERNEL: &'static str = "split_sum";
}
