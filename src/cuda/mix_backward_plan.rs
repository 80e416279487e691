//! How the gradients of mixing run: chunk after chunk of columns through a workspace of bounded size. Kernels: mix_backward.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::device::DeviceInfo;
use super::engine::{Engine, Launch};
use super::matrix::{Matrix, all_math, fits_u32};
use super::mix_attention::AttentionPart;
use super::mix_backward::RawMixBackward;
use super::mix_forward::OP;
use super::sampler::{Prepared, carve_attention, element_bytes, element_name};
use super::tile::splits;
use super::variant::{Source, Variant};
use super::view::RawView;
use super::weights::{Chunk, fill_chunk};
use super::workspace::Carve;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::view::Layout;

const SOURCE: Source = Source { file: "mix_backward.cu", kernels: &["mix_backward", "mix_backward_sum"] };
/// Columns of the mix matrix that are kept at a time.
const CHUNK: usize = 1024;
const MOST_SPLITS: usize = 8;
const WARPS: u32 = 4;

/// What decides about workspace and splits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub b: usize,
    pub r: usize,
    pub d: usize,
    pub c: usize,
    pub n: usize,
    pub dtype: Dtype,
    pub attention: bool,
    /// dZ, dY, da.
    pub wants: [bool; 3],
}

/// Slices of one gradient.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    pub splits: usize,
    /// f32 (splits, r, b, channels), or 0 where the gradient is written directly.
    pub partial: CUdeviceptr,
}

/// Everything about a call that its sizes and the device decide.
pub(super) struct Plan {
    pub sizes: Sizes,
    pub math: u32,
    pub chunk: usize,
    pub prepared: Prepared,
    pub matrix: CUdeviceptr,
    pub features: Part,
    pub targets: Part,
    pub attention: AttentionPart,
    pub bytes: usize,
}

impl Plan {
    pub fn new(engine: &Engine, sizes: Sizes, math: u32, workspace: CUdeviceptr) -> Result<Self> {
        let Sizes { b, r, d, c, n, .. } = sizes;
        let mut carve = Carve::from(OP, workspace);
        let prepared = carve_attention(&mut carve, sizes.attention, b, r)?;
        let chunk = n.min(CHUNK);
        let mut plan = Self {
            sizes,
            math,
            chunk,
            prepared,
            matrix: 0,
            features: Part::default(),
            targets: Part::default(),
            attention: AttentionPart::default(),
            bytes: 0,
        };
        if plan.wants_matrix() {
            let row = [r, b, plan.pitch(), element_bytes(sizes.dtype)];
            plan.matrix = carve.take::<u8>("the mix matrix of a chunk", &row)?;
        }
        let part = |carve: &mut Carve, channels: usize, direct: bool| {
            let blocks =
                r.saturating_mul(b.div_ceil(16 * WARPS as usize)).saturating_mul(channels.div_ceil(64));
            let splits = splits(blocks, chunk.div_ceil(64).min(MOST_SPLITS));
            let partial = match direct && splits == 1 && chunk == n {
                true => 0,
                false => carve.take::<f32>("slices of a gradient", &[splits, r, b, channels])?,
            };
            Ok::<Part, Error>(Part { splits, partial })
        };
        if sizes.wants[0] {
            plan.features = part(&mut carve, d, true)?;
        }
        if sizes.wants[1] {
            plan.targets = part(&mut carve, c, r == 1)?;
        }
        if sizes.wants[2] {
            plan.attention = AttentionPart::carve(engine, &mut carve, [b, r, n], math)?;
        }
        plan.bytes = carve.bytes();
        Ok(plan)
    }

    pub fn wants_matrix(&self) -> bool {
        self.sizes.wants[0] || self.sizes.wants[1]
    }

    fn pitch(&self) -> usize {
        self.chunk.next_multiple_of(64)
    }

    /// The mix matrix of a chunk of columns.
    ///
    /// # Safety
    /// All memory of the call is valid in the engine's context.
    pub unsafe fn fill(
        &self,
        engine: &Engine,
        stream: CUstream,
        call: &RawMixBackward<'_>,
        first: usize,
        columns: usize,
    ) -> Result<()> {
        let (out, dtype, pitch) = (self.matrix, self.sizes.dtype, self.pitch());
        let strides = [call.input.columns.b * pitch, pitch, 1];
        let chunk = Chunk { first, columns, strides, out, mass: 0, dtype, matrix: true };
        // SAFETY: the caller's promise.
        unsafe { fill_chunk(OP, engine, stream, &call.input.columns, &self.prepared, &chunk) }
    }

    /// Adds the columns of a chunk to dZ (side 0) or dY (side 1).
    ///
    /// # Safety
    /// All memory of the call is valid in the engine's context.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn add(
        &self,
        engine: &Engine,
        stream: CUstream,
        side: u32,
        (first, columns): (usize, usize),
        mixed: &RawView<3>,
        out: &RawView<3>,
        part: Part,
    ) -> Result<()> {
        let Sizes { b, r, .. } = self.sizes;
        let channels = out.layout.shape[2];
        let blocks = [r, b.div_ceil(16 * WARPS as usize), channels.div_ceil(64), part.splits];
        let launch = Launch::new(OP, self.variant(side), "mix_backward", &blocks, 32 * WARPS)?;
        let size = self.side_bytes(side);
        let pitch = self.pitch();
        let weights = RawView {
            pointer: self.matrix,
            layout: Layout { shape: [b, r, columns], strides: [pitch, b * pitch, 1] },
        };
        let skipped = (first * mixed.layout.strides[0] * size) as u64;
        let layout = Layout { shape: [columns, r, channels], ..mixed.layout };
        let mixed = RawView { pointer: mixed.pointer + skipped, layout };
        let params = MixBackwardParams {
            weights: Matrix::new(&weights, element_bytes(self.sizes.dtype)),
            mixed: Matrix::new(&mixed, size),
            out: Matrix::new(out, size),
            partial: part.partial,
            b: b as u32,
            r: r as u32,
            splits: part.splits as u32,
            accumulate: u32::from(first > 0),
        };
        // SAFETY: the caller's promise; the parameters are those that the kernel declares.
        unsafe { engine.launch(OP, stream, &launch, &params) }
    }

    /// The sum of the slices, over positions too for dY.
    ///
    /// # Safety
    /// All memory of the call is valid in the engine's context.
    pub unsafe fn sum(
        &self,
        engine: &Engine,
        stream: CUstream,
        side: u32,
        out: &RawView<3>,
        part: Part,
    ) -> Result<()> {
        let Sizes { b, r, .. } = self.sizes;
        let (positions, slices) = if side == 0 { (r, part.splits) } else { (1, part.splits * r) };
        let blocks = positions.saturating_mul(b).saturating_mul(out.layout.shape[2]).div_ceil(256);
        let launch =
            Launch::new(OP, self.variant(side), "mix_backward_sum", &[blocks], 256)?.without_shared();
        fits_u32(OP, "the number of slices", slices)?;
        let params = MixBackwardSumParams {
            partial: part.partial,
            out: Matrix::new(out, self.side_bytes(side)),
            slices: slices as u32,
            r: positions as u32,
            b: b as u32,
            padding: 0,
        };
        // SAFETY: the caller's promise; the parameters are those that the kernel declares.
        unsafe { engine.launch(OP, stream, &launch, &params) }
    }

    fn side_bytes(&self, side: u32) -> usize {
        if side == 0 { element_bytes(self.sizes.dtype) } else { 4 }
    }

    fn variant(&self, side: u32) -> Variant {
        variant((self.sizes.dtype, self.math), side)
    }
}

pub(super) fn variant((dtype, math): (Dtype, u32), side: u32) -> Variant {
    let (a, b) = if math == 2 { (144, 9216) } else { (160, 8704) };
    Variant::new(SOURCE)
        .name("ELEMENT", element_name(dtype))
        .number("MATH", math)
        .number("SIDE", side)
        .number("WARPS", WARPS)
        .shared((2 * (WARPS * 16 * a + b)).max(WARPS * 4608))
}

/// All variants for a device.
pub(super) fn variants(device: &DeviceInfo) -> impl Iterator<Item = Variant> {
    all_math(OP, device).flat_map(|math| [0, 1].map(|side| variant(math, side)))
}

/// `MixBackwardParams` of mix_backward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct MixBackwardParams {
    weights: Matrix,
    mixed: Matrix,
    out: Matrix,
    partial: CUdeviceptr,
    b: u32,
    r: u32,
    splits: u32,
    accumulate: u32,
}
const _: () = assert!(size_of::<MixBackwardParams>() == 144);

/// `MixBackwardSumParams` of mix_backward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct MixBackwardSumParams {
    partial: CUdeviceptr,
    out: Matrix,
    slices: u32,
    r: u32,
    b: u32,
    padding: u32,
}
const _: () = assert!(size_of::<MixBackwardSumParams>() == 64);
