//! How columns are drawn, as kernels take it, and the kernels that make attention and features ready for it.
//! Kernels: prepare.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::matrix::Matrix;
use super::memory::Bare;
use super::plan::{Kernel, Params, Sink};
use super::variant::{self, Draw, Variant};
use crate::element::{Dtype, Element};
use crate::error::Result;
use crate::op::Columns;
use crate::problem::{Alpha, EmptyMaps, Factor, Generator};
use crate::view::{Layout, View};

/// How the columns of a call are drawn, and how its attention is prepared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawing {
    pub b: usize,
    pub r: usize,
    pub n: usize,
    pub draw: Draw,
    /// As kernels take it.
    pub sampler: Sampler,
    /// Where attention is given.
    prepared: Option<Prepared>,
}

/// The kernels that bring attention to the scale that others take it.
#[derive(Clone, Copy, Debug)]
struct Prepared {
    maps: Kernel<PrepareMapsParams>,
    scale: Kernel<PrepareAttentionParams>,
    params: PrepareAttentionParams,
}

impl Drawing {
    /// Tells the sink of what preparation needs.
    pub fn new(
        sink: &mut Sink<'_>,
        columns: &Columns<'_, Bare>,
        attention: &Option<View<'_, f32, 2, Bare>>,
        [b, r]: [usize; 2],
    ) -> Result<Self> {
        let n = columns.n();
        sink.fit(&[("b", b), ("r", r), ("n", n)])?;
        let prepared = match attention {
            Some(attention) => Some(Prepared::new(sink, attention, columns.empty_maps())?),
            None => None,
        };
        let draw = match columns {
            Columns::Drawn { mixing, .. } => Draw::of(mixing.generator),
            Columns::Given { .. } => Draw::Explicit,
        };
        let sampler = Sampler {
            attention: prepared.map_or(0, |prepared| prepared.params.scaled),
            scales: prepared.map_or(0, |prepared| prepared.params.scales),
            b: b as u32,
            r: r as u32,
            n: n as u32,
            ..Sampler::new(columns)
        };
        Ok(Self { b, r, n, draw, sampler, prepared })
    }

    /// The launches that prepare attention.
    pub fn prepare(&self, sink: &mut Sink<'_>) -> Result<()> {
        let Some(Prepared { maps, scale, params }) = self.prepared else { return Ok(()) };
        sink.step(maps, &[self.b.div_ceil(8)], 256, &PrepareMapsParams(params))?;
        sink.step(scale, &[self.r], 256, &params)
    }

    pub fn attends(&self) -> bool {
        self.prepared.is_some()
    }

    /// Which examples have maps of their own, and the scales of positions; 0 without attention.
    pub fn live_and_scales(&self) -> [CUdeviceptr; 2] {
        self.prepared.map_or([0; 2], |Prepared { params, .. }| [params.live, params.scales])
    }
}

impl Prepared {
    fn new(sink: &mut Sink<'_>, attention: &View<'_, f32, 2, Bare>, empty_maps: EmptyMaps) -> Result<Self> {
        let [b, r] = attention.shape();
        let params = PrepareAttentionParams {
            attention: attention.data,
            example: attention.stride(0),
            position: attention.stride(1),
            live: sink.part::<u32>("prepared attention", &[b])?,
            scaled: sink.part::<f32>("prepared attention", &[r, b])?,
            scales: sink.part::<f32>("prepared attention", &[r])?,
            b: b as u32,
            r: r as u32,
            empty: if empty_maps == EmptyMaps::Uniform { 1.0 / r as f32 } else { 0.0 },
            padding: 0,
        };
        // These kernels do not depend on the element type.
        let variant = Variant::new(variant::PREPARE).element("ELEMENT", Dtype::F32);
        Ok(Self { maps: sink.kernel(variant), scale: sink.kernel(variant), params })
    }
}

/// `Sampler` of columns.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Sampler {
    seed: u64,
    step: u64,
    seed_and_step: CUdeviceptr,
    attention: CUdeviceptr,
    scales: CUdeviceptr,
    weights: CUdeviceptr,
    weights_r: i64,
    weights_b: i64,
    weights_n: i64,
    alpha_low: f32,
    alpha_high: f32,
    b: u32,
    r: u32,
    n: u32,
    first_position: u32,
    first_column: u32,
    flags: u32,
}

const FACTOR_PER_COLUMN: u32 = 1;
const ALPHA_IS_ONE: u32 = 2;

impl Sampler {
    /// Where columns come from; sizes and attention are left to the caller.
    fn new(columns: &Columns<'_, Bare>) -> Self {
        let nothing = Self { alpha_low: 1.0, alpha_high: 1.0, ..Self::zeroed() };
        let (mixing, words) = match columns {
            Columns::Drawn { mixing, seed_and_step } => (mixing, seed_and_step),
            Columns::Given { weights, .. } => {
                let [weights_r, weights_b, weights_n] = [0, 1, 2].map(|axis| weights.stride(axis));
                return Self { weights: weights.data, weights_r, weights_b, weights_n, ..nothing };
            }
        };
        let (alpha, flags) = match mixing.generator {
            Generator::Dirichlet { alpha } => (alpha, 0),
            Generator::Pair { alpha, factor } => {
                let per_column = if factor == Factor::PerColumn { FACTOR_PER_COLUMN } else { 0 };
                let one = if alpha == Alpha::Fixed(1.0) { ALPHA_IS_ONE } else { 0 };
                (alpha, per_column | one)
            }
        };
        let (alpha_low, alpha_high) = alpha.range();
        Self {
            seed: mixing.seed,
            step: mixing.step,
            seed_and_step: words.as_ref().map_or(0, |words| words.data),
            alpha_low,
            alpha_high,
            first_position: mixing.first_position as u32,
            first_column: mixing.first_column as u32,
            flags,
            ..nothing
        }
    }
}

/// A position-major copy of features whose channels are apart (NCHW), so that the kernels after it read whole
/// lines.
pub(super) struct Packing {
    kernel: Kernel<PrepareFeaturesParams>,
    params: PrepareFeaturesParams,
    packed: Matrix,
}

impl Packing {
    /// Tells the sink of it where there is something to pack.
    pub fn new<T: Element>(sink: &mut Sink<'_>, features: &View<'_, T, 3, Bare>) -> Result<Option<Self>> {
        let [b, r, d] = features.shape();
        if features.layout.strides[2] == 1 || d == 1 {
            return Ok(None);
        }
        let row = d.next_multiple_of(16 / size_of::<T>());
        let packed = sink.part::<T>("packed features", &[r, b, row])?;
        let params = PrepareFeaturesParams {
            features: features.data,
            example: features.stride(0),
            position: features.stride(1),
            channel: features.stride(2),
            packed,
            b: b as u32,
            r: r as u32,
            d: d as u32,
            row: row as u32,
        };
        let layout = Layout { shape: [b, r, d], strides: [row, b * row, 1] };
        let kernel = sink.kernel(Variant::new(variant::PREPARE).element("ELEMENT", T::DTYPE));
        Ok(Some(Self { kernel, params, packed: Matrix::new(&View::<T, 3, Bare>::at(packed, layout)) }))
    }

    /// Copies; returns the copy (b, r, d).
    pub fn step(&self, sink: &mut Sink<'_>) -> Result<Matrix> {
        let PrepareFeaturesParams { b, r, d, .. } = self.params;
        let blocks = [b as usize, r.div_ceil(32) as usize, d.div_ceil(32) as usize];
        sink.step(self.kernel, &blocks, 256, &self.params)?;
        Ok(self.packed)
    }
}

/// `PrepareAttentionParams` of prepare.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct PrepareAttentionParams {
    attention: CUdeviceptr,
    example: i64,
    position: i64,
    live: CUdeviceptr,
    scaled: CUdeviceptr,
    scales: CUdeviceptr,
    b: u32,
    r: u32,
    empty: f32,
    padding: u32,
}

impl Params for PrepareAttentionParams {
    const KERNEL: &'static str = "prepare_attention";
}

/// The same, for the kernel before it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
struct PrepareMapsParams(PrepareAttentionParams);

impl Params for PrepareMapsParams {
    const KERNEL: &'static str = "prepare_maps";
}

/// `PrepareFeaturesParams` of prepare.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct PrepareFeaturesParams {
    features: CUdeviceptr,
    example: i64,
    position: i64,
    channel: i64,
    packed: CUdeviceptr,
    b: u32,
    r: u32,
    d: u32,
    row: u32,
}

impl Params for PrepareFeaturesParams {
    const KERNEL: &'static str = "prepare_features";
}
