//! How columns are drawn, as kernels take it, and the kernels that make attention and features ready for it. Kernels: prepare.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::memory::Bare;
use super::plan::{Kernel, Params, Sink};
use super::variant::{self, Draw, Variant};
use crate::element::{Dtype, Element};
use crate::error::Result;
use crate::op::Columns;
use crate::problem::{Alpha, EmptyMaps, Factor, Generator, Mixing};
use crate::view::{Layout, View};

/// What every op that draws is given, and how its attention is prepared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawing<'c> {
    columns: &'c Columns<'c, Bare>,
    attention: Option<&'c View<'c, f32, 2, Bare>>,
    pub b: usize,
    pub r: usize,
    pub n: usize,
    prepared: Option<Prepared>,
}

/// Attention on the scale that kernels take it.
#[derive(Clone, Copy, Debug)]
struct Prepared {
    maps: Kernel<PrepareMapsParams>,
    scale: Kernel<PrepareAttentionParams>,
    /// Whether each example has a map of its own, (b) of u32.
    live: CUdeviceptr,
    scaled: CUdeviceptr,
    /// The power of two of each position, (r).
    scales: CUdeviceptr,
}

impl<'c> Drawing<'c> {
    /// Tells the sink of what preparation needs.
    pub fn new(
        sink: &mut Sink<'_>,
        columns: &'c Columns<'c, Bare>,
        attention: Option<&'c View<'c, f32, 2, Bare>>,
        [b, r]: [usize; 2],
    ) -> Result<Self> {
        let n = columns.n();
        sink.fit(&[("b", b), ("r", r), ("n", n)])?;
        // These kernels do not depend on the element type.
        let variant = Variant::new(variant::PREPARE).element("ELEMENT", Dtype::F32);
        let mut prepared = || {
            Ok(Prepared {
                maps: sink.kernel(variant),
                scale: sink.kernel(variant),
                live: sink.part::<u32>("prepared attention", &[b])?,
                scaled: sink.part::<f32>("prepared attention", &[r, b])?,
                scales: sink.part::<f32>("prepared attention", &[r])?,
            })
        };
        let prepared = attention.map(|_| prepared()).transpose()?;
        Ok(Self { columns, attention, b, r, n, prepared })
    }

    /// The launches that prepare attention.
    pub fn prepare(&self, sink: &mut Sink<'_>) -> Result<()> {
        let (Some(attention), Some(prepared)) = (self.attention, self.prepared) else { return Ok(()) };
        let empty = match self.columns.empty_maps() {
            EmptyMaps::Uniform => 1.0 / self.r as f32,
            EmptyMaps::LeaveOut => 0.0,
        };
        let params = PrepareAttentionParams {
            attention: attention.data,
            example: attention.stride(0),
            position: attention.stride(1),
            live: prepared.live,
            scaled: prepared.scaled,
            scales: prepared.scales,
            b: self.b as u32,
            r: self.r as u32,
            empty,
            padding: 0,
        };
        sink.step(prepared.maps, &[self.b.div_ceil(8)], 256, &PrepareMapsParams(params))?;
        sink.step(prepared.scale, &[self.r], 256, &params)
    }

    pub fn attends(&self) -> bool {
        self.attention.is_some()
    }

    /// Which examples have maps of their own, and the scales of positions; 0 without attention.
    pub fn live_and_scales(&self) -> [CUdeviceptr; 2] {
        self.prepared.map_or([0; 2], |prepared| [prepared.live, prepared.scales])
    }

    pub fn draw(&self) -> Draw {
        match self.columns {
            Columns::Drawn { mixing, .. } => Draw::of(mixing.generator),
            Columns::Given { .. } => Draw::Explicit,
        }
    }

    /// The sampler of a kernel's parameters.
    pub fn sampler(&self) -> Sampler {
        let [_, scales] = self.live_and_scales();
        let sampler = Sampler {
            attention: self.prepared.map_or(0, |prepared| prepared.scaled),
            scales,
            alpha_low: 1.0,
            alpha_high: 1.0,
            b: self.b as u32,
            r: self.r as u32,
            n: self.n as u32,
            ..Sampler::zeroed()
        };
        match self.columns {
            Columns::Given { weights, .. } => Sampler {
                weights: weights.data,
                weights_r: weights.stride(0),
                weights_b: weights.stride(1),
                weights_n: weights.stride(2),
                ..sampler
            },
            Columns::Drawn { mixing, seed_and_step } => Sampler {
                seed_and_step: seed_and_step.as_ref().map_or(0, |words| words.data),
                ..sampler.of(mixing)
            },
        }
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
    fn of(self, mixing: &Mixing) -> Self {
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
            alpha_low,
            alpha_high,
            first_position: mixing.first_position as u32,
            first_column: mixing.first_column as u32,
            flags,
            ..self
        }
    }
}

/// A position-major copy of features whose channels are apart (NCHW), so that the kernels after it read whole lines.
pub(super) struct Packing<'c, T: Element> {
    features: &'c View<'c, T, 3, Bare>,
    packed: View<'static, T, 3, Bare>,
    kernel: Kernel<PrepareFeaturesParams>,
}

impl<'c, T: Element> Packing<'c, T> {
    /// Tells the sink of it where there is something to pack.
    pub fn new(sink: &mut Sink<'_>, features: &'c View<'c, T, 3, Bare>) -> Result<Option<Self>> {
        let [b, r, d] = features.shape();
        if features.layout.strides[2] == 1 || d == 1 {
            return Ok(None);
        }
        let row = d.next_multiple_of(16 / size_of::<T>());
        let layout = Layout { shape: [b, r, d], strides: [row, b * row, 1] };
        let packed = View::at(sink.part::<T>("packed features", &[r, b, row])?, layout);
        let kernel = sink.kernel(Variant::new(variant::PREPARE).element("ELEMENT", T::DTYPE));
        Ok(Some(Self { features, packed, kernel }))
    }

    /// Copies; returns the copy.
    pub fn pack(&self, sink: &mut Sink<'_>) -> Result<&View<'static, T, 3, Bare>> {
        let ([b, r, d], features) = (self.features.shape(), self.features);
        let params = PrepareFeaturesParams {
            features: features.data,
            example: features.stride(0),
            position: features.stride(1),
            channel: features.stride(2),
            packed: self.packed.data,
            b: b as u32,
            r: r as u32,
            d: d as u32,
            row: self.packed.layout.strides[0] as u32,
        };
        sink.step(self.kernel, &[b, r.div_ceil(32), d.div_ceil(32)], 256, &params)?;
        Ok(&self.packed)
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
