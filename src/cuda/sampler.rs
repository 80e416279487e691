//! How columns are drawn, as kernels take it: mirrors `Sampler` of columns.cuh, and prepares attention for it.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::device::DeviceInfo;
use super::engine::{Engine, Launch};
use super::variant::{Source, Variant};
use super::view::{Footprint, RawView};
use super::workspace::Carve;
use crate::element::Dtype;
use crate::error::Result;
use crate::problem::{Alpha, EmptyMaps, Factor, Generator, Mixing, expect_shape};

/// Which draw kernel a generator needs: DRAW of draw.cuh.
pub(super) fn draw_kind(generator: Generator) -> u32 {
    match generator {
        Generator::Dirichlet { alpha: Alpha::Fixed(1.0) } => 0,
        Generator::Dirichlet { alpha } => {
            let (low, high) = alpha.range();
            match (low >= 1.0, high >= 1.0) {
                (true, _) => 1,
                (false, false) => 2,
                (false, true) => 3,
            }
        }
        Generator::Pair { .. } => 4,
        Generator::Explicit => 5,
    }
}

/// What [`draw_kind`] may give.
pub(super) const DRAW_KINDS: std::ops::Range<u32> = 0..6;

/// The name of an element type in kernels.
pub(super) fn element_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "float",
        Dtype::F16 => "f16",
        Dtype::Bf16 => "bf16",
    }
}

/// Bytes of an element.
pub(super) fn element_bytes(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 4,
        Dtype::F16 | Dtype::Bf16 => 2,
    }
}

/// `Sampler` of columns.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SamplerParams {
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
    flags: u32,
}
const _: () = assert!(size_of::<SamplerParams>() == 96);

const FACTOR_PER_COLUMN: u32 = 1;
const ALPHA_IS_ONE: u32 = 2;

/// Where columns come from: the inputs of every op that draws.
#[derive(Clone, Copy, Debug)]
pub struct RawColumns<'a> {
    /// Generator, n, seed and step.
    pub mixing: &'a Mixing,
    /// Examples.
    pub b: usize,
    /// Positions.
    pub r: usize,
    /// a (b, r) in f32, or none.
    pub attention: Option<RawView<2>>,
    /// Explicit weights (r or 1, b, n) in f32, for [`Generator::Explicit`].
    pub weights: Option<RawView<3>>,
    /// Seed and step in device memory, two u64, or 0 to take those of `mixing`.
    pub seed_and_step: CUdeviceptr,
}

/// Attention on the scale that kernels take it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prepared {
    /// Whether each example has a map of its own, (b) of u32.
    pub live: CUdeviceptr,
    scaled: CUdeviceptr,
    /// The power of two of each position, (r).
    pub scales: CUdeviceptr,
}

impl RawColumns<'_> {
    /// Checks options and shapes, and notes the memory read.
    pub(super) fn check(&self, op: &'static str, footprint: &mut Footprint) -> Result<()> {
        self.mixing.validate(op, [self.b, self.r], self.weights.as_ref().map(|weights| &weights.layout))?;
        if let Some(attention) = &self.attention {
            expect_shape(op, "attention", attention.layout.shape, [self.b, self.r])?;
            footprint.reads("attention", attention, 4)?;
        }
        if let Some(weights) = &self.weights {
            footprint.reads("weights", weights, 4)?;
        }
        if self.seed_and_step != 0 {
            footprint.reads("seed and step", &RawView::contiguous(self.seed_and_step, [2]), 8)?;
        }
        Ok(())
    }

    /// Takes the workspace of prepared attention.
    pub(super) fn carve(&self, carve: &mut Carve) -> Result<Prepared> {
        carve_attention(carve, self.attention.is_some(), self.b, self.r)
    }

    /// The kernels that [`RawColumns::prepare`] launches.
    pub(super) fn prepare_variant(&self) -> Option<Variant> {
        self.attention.map(|_| prepare_variant(Dtype::F32))
    }

    /// Enqueues the preparation of attention.
    ///
    /// # Safety
    /// All memory is valid, in the engine's context.
    pub(super) unsafe fn prepare(
        &self,
        op: &'static str,
        engine: &Engine,
        stream: CUstream,
        prepared: &Prepared,
    ) -> Result<()> {
        let Some(attention) = &self.attention else { return Ok(()) };
        let params = PrepareAttentionParams {
            attention: attention.pointer,
            example: attention.stride(0),
            position: attention.stride(1),
            live: prepared.live,
            scaled: prepared.scaled,
            scales: prepared.scales,
            b: self.b as u32,
            r: self.r as u32,
            empty: if self.mixing.empty_maps == EmptyMaps::Uniform { 1.0 / self.r as f32 } else { 0.0 },
            padding: 0,
        };
        let variant = prepare_variant(Dtype::F32);
        let maps = Launch::new(op, variant, "prepare_maps", &[self.b.div_ceil(8)], 256)?;
        let scale = Launch::new(op, variant, "prepare_attention", &[self.r], 256)?;
        // SAFETY: the caller's promise; the second launch reads what the first wrote on the same stream.
        unsafe {
            engine.launch(op, stream, &maps, &params)?;
            engine.launch(op, stream, &scale, &params)
        }
    }

    /// The sampler of a kernel's parameters.
    pub(super) fn params(&self, prepared: &Prepared) -> SamplerParams {
        let (alpha_low, alpha_high) = match self.mixing.generator {
            Generator::Dirichlet { alpha } | Generator::Pair { alpha, .. } => alpha.range(),
            Generator::Explicit => (1.0, 1.0),
        };
        let mut flags = 0;
        if let Generator::Pair { alpha, factor } = self.mixing.generator {
            flags |= if factor == Factor::PerColumn { FACTOR_PER_COLUMN } else { 0 };
            flags |= if alpha == Alpha::Fixed(1.0) { ALPHA_IS_ONE } else { 0 };
        }
        let weights = self.weights.unwrap_or(RawView::contiguous(0, [1, 1, 1]));
        SamplerParams {
            seed: self.mixing.seed,
            step: self.mixing.step,
            seed_and_step: self.seed_and_step,
            attention: prepared.scaled,
            scales: prepared.scales,
            weights: weights.pointer,
            weights_r: weights.stride(0),
            weights_b: weights.stride(1),
            weights_n: weights.stride(2),
            alpha_low,
            alpha_high,
            b: self.b as u32,
            r: self.r as u32,
            n: self.mixing.n as u32,
            flags,
        }
    }
}

/// As [`RawColumns::carve`], where there are sizes alone.
pub(super) fn carve_attention(carve: &mut Carve, attention: bool, b: usize, r: usize) -> Result<Prepared> {
    if !attention {
        return Ok(Prepared::default());
    }
    Ok(Prepared {
        live: carve.take::<u32>("prepared attention", &[b])?,
        scaled: carve.take::<f32>("prepared attention", &[r, b])?,
        scales: carve.take::<f32>("prepared attention", &[r])?,
    })
}

const PREPARE: Source =
    Source { file: "prepare.cu", kernels: &["prepare_maps", "prepare_attention", "prepare_features"] };

/// The kernels that prepare inputs. Those of attention do not depend on the element type.
pub(super) fn prepare_variant(dtype: Dtype) -> Variant {
    Variant::new(PREPARE).name("ELEMENT", element_name(dtype))
}

/// All variants.
pub(super) fn variants(_: &DeviceInfo) -> impl Iterator<Item = Variant> {
    Dtype::ALL.into_iter().map(prepare_variant)
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
const _: () = assert!(size_of::<PrepareAttentionParams>() == 64);
