//! The sampler on its own: Λ, or the mix matrix M̂ with its masses; equations (1) to (6). Kernel: weights.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::CudaSlice;
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::call::Call;
use super::device::DeviceInfo;
use super::engine::{Engine, Launch};
use super::queue::{DeviceElement, Queue};
use super::sampler::{
    DRAW_KINDS, Prepared, RawColumns, SamplerParams, carve_attention, draw_kind, element_bytes, element_name,
    prepare_variant,
};
use super::tile::Tile;
use super::variant::{Source, Variant};
use super::view::{DeviceView, DeviceViewMut, Footprint, RawView};
use super::workspace::{Carve, RawWorkspace};
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::problem::{Generator, Mixing, expect_shape};
use crate::view::Layout;

const OP: &str = "weights";
const SOURCE: Source = Source { file: "weights.cu", kernels: &["weights"] };

/// What the sampler reads.
#[derive(Clone, Debug)]
pub struct WeightsInput<'a> {
    /// Examples.
    pub b: usize,
    /// Positions.
    pub r: usize,
    /// a (b, r), not negative; or none for M̂ = Λ. A map of zeros: [`crate::Mixing::empty_maps`].
    pub attention: Option<DeviceView<'a, f32, 2>>,
    /// Weights (r, b, n) or (1, b, n) for [`Generator::Explicit`], not negative; columns are normalised.
    pub weights: Option<DeviceView<'a, f32, 3>>,
}

/// Where [`Queue::weights_into`] writes; what is `None` is not computed.
#[derive(Debug)]
pub struct WeightsOutput<'a, T> {
    /// Λ, or M̂ where attention is given, (r, b, n).
    pub columns: Option<DeviceViewMut<'a, T, 3>>,
    /// s (r, n), on the scale of the caller's attention; 1 without attention, 0 for a column without mass.
    pub mass: Option<DeviceViewMut<'a, f32, 2>>,
}

impl Queue<'_> {
    /// Draws Λ, or M̂ where attention is given, (r, b, n), contiguous, with the masses s (r, n).
    ///
    /// # Errors
    /// As [`Queue::weights_into`]; [`ErrorKind::Cuda`](crate::ErrorKind::Cuda) when memory does not suffice.
    pub fn weights<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &WeightsInput<'_>,
    ) -> Result<(CudaSlice<T>, CudaSlice<f32>)> {
        let shape = [input.r, input.b, mixing.n];
        mixing.validate(OP, [input.b, input.r], input.weights.as_ref().map(DeviceView::layout))?;
        let mut columns = self.allocate::<T>(OP, "the columns", shape.iter().product())?;
        let mut mass = self.allocate::<f32>(OP, "the masses", input.r * mixing.n)?;
        let mut workspace = self.allocate::<u8>(
            OP,
            "the workspace",
            weights_workspace_bytes(input.b, input.r, input.attention.is_some())?,
        )?;
        let mut output = WeightsOutput {
            columns: Some(DeviceViewMut::new(&mut columns, shape)?),
            mass: Some(DeviceViewMut::new(&mut mass, [input.r, mixing.n])?),
        };
        let bytes = workspace.len();
        self.weights_into(mixing, input, &mut output, &mut DeviceViewMut::new(&mut workspace, [bytes])?)?;
        Ok((columns, mass))
    }

    /// Draws into the caller's memory. Neither allocates nor waits.
    ///
    /// # Errors
    /// Shapes that do not fit together, an α out of range, sizes of 0 or whose product overflows, a workspace below
    /// [`weights_workspace_bytes`], buffers that overlap or lie in another context; [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc) and [`ErrorKind::Cuda`](crate::ErrorKind::Cuda) from
    /// compiling, loading and launching.
    pub fn weights_into<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &WeightsInput<'_>,
        output: &mut WeightsOutput<'_, T>,
        workspace: &mut DeviceViewMut<'_, u8, 1>,
    ) -> Result<()> {
        let mut call = Call::new(OP, self)?;
        let raw = RawWeights {
            columns: call.columns(mixing, [input.b, input.r], &input.attention, &input.weights)?,
            dtype: T::DTYPE,
            first: 0,
            out: call.may_write("columns", &mut output.columns)?,
            mass: call.may_write("mass", &mut output.mass)?,
            workspace: call.scratch(workspace)?,
        };
        // SAFETY: the views are borrowed for the call and lie in the engine's context; their lengths were checked when they were
        // made; `call` orders the launches with other uses of the memory.
        unsafe { self::weights(self.engine(), self.stream().cu_stream(), &raw) }
    }

    /// Compiles what [`Queue::weights_into`] needs for `b` examples, whatever the other sizes.
    ///
    /// # Errors
    /// [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc), [`ErrorKind::Cuda`](crate::ErrorKind::Cuda).
    pub fn compile_weights<T: DeviceElement>(
        &self,
        generator: Generator,
        b: usize,
        attention: bool,
    ) -> Result<()> {
        let preparation = attention.then(|| prepare_variant(Dtype::F32));
        let drawing = drawing_variant(self.engine().device(), b, generator, T::DTYPE);
        let variants: Vec<Variant> = preparation.into_iter().chain([drawing]).collect();
        self.engine().prepare(OP, &variants, None)
    }
}

/// Bytes of workspace that drawing needs: none without attention.
///
/// # Errors
/// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge).
pub fn weights_workspace_bytes(b: usize, r: usize, attention: bool) -> Result<usize> {
    let mut carve = Carve::measure(OP);
    carve_attention(&mut carve, attention, b, r)?;
    Ok(carve.bytes())
}

/// A raw call of the sampler.
#[derive(Clone, Copy, Debug)]
pub struct RawWeights<'a> {
    /// Where columns come from.
    pub columns: RawColumns<'a>,
    /// Type of `out`.
    pub dtype: Dtype,
    /// Column k of the first of `out` and `mass`; these hold as many columns as their shapes say.
    pub first: usize,
    /// (r, b, columns), or none.
    pub out: Option<RawView<3>>,
    /// s (r, columns) in f32, columns contiguous, or none.
    pub mass: Option<RawView<2>>,
    /// [`weights_workspace_bytes`] of memory.
    pub workspace: RawWorkspace,
}

/// Enqueues the sampler on a stream of the engine's context.
///
/// # Errors
/// As [`Queue::weights_into`].
///
/// # Safety
/// All views and the workspace name memory of the engine's context that is valid, for their reach, until the stream has run
/// the call, and nobody else writes inputs or touches outputs and workspace meanwhile.
pub unsafe fn weights(engine: &Engine, stream: CUstream, call: &RawWeights<'_>) -> Result<()> {
    let columns = call.check()?;
    engine.prepare(OP, &call.variants(engine), Some(stream))?;
    let mut carve = Carve::from(OP, call.workspace.pointer);
    let prepared = call.columns.carve(&mut carve)?;
    let tile = Tile::choose(engine.device(), call.columns.b, shared_bytes);
    let tiles = columns.div_ceil(16 * tile.warps as usize);
    let variant = variant(&tile, draw_kind(call.columns.mixing.generator), call.dtype);
    let launch = Launch::new(OP, variant, "weights", &[call.columns.r, tiles], 32 * tile.warps)?;
    let out = call.out.unwrap_or(RawView::contiguous(0, [1, 1, 1]));
    let mass = call.mass.unwrap_or(RawView::contiguous(0, [1, 1]));
    let params = WeightsParams {
        sampler: call.columns.params(&prepared),
        out: out.pointer,
        mass: mass.pointer,
        out_r: out.stride(0),
        out_b: out.stride(1),
        out_n: out.stride(2),
        mass_r: mass.stride(0),
        first: call.first as u32,
        columns: columns as u32,
        matrix: 1,
        aligned: u32::from(is_aligned(&out, call.dtype)),
    };
    // SAFETY: the caller's promise; the parameters are those that weights.cu declares.
    unsafe {
        call.columns.prepare(OP, engine, stream, &prepared)?;
        engine.launch(OP, stream, &launch, &params)
    }
}

/// Compiles what [`weights`] needs for a call.
///
/// # Errors
/// As [`weights`].
pub fn compile_weights(engine: &Engine, call: &RawWeights<'_>) -> Result<()> {
    call.check()?;
    engine.prepare(OP, &call.variants(engine), None)
}

/// Some columns for a kernel that reads them, of `dtype`, with these strides of (r, b, columns); and their masses (r, columns).
pub(super) struct Chunk {
    pub first: usize,
    pub columns: usize,
    pub strides: [usize; 3],
    pub out: CUdeviceptr,
    /// Or 0.
    pub mass: CUdeviceptr,
    pub dtype: Dtype,
    /// The mix matrix, else Λ.
    pub matrix: bool,
}

/// Fills a chunk of columns that an op keeps in its workspace.
///
/// # Safety
/// The chunk's memory and that of the columns is valid, in the engine's context; attention has been prepared.
pub(super) unsafe fn fill_chunk(
    op: &'static str,
    engine: &Engine,
    stream: CUstream,
    columns: &RawColumns<'_>,
    prepared: &Prepared,
    chunk: &Chunk,
) -> Result<()> {
    let tile = Tile::choose(engine.device(), columns.b, shared_bytes);
    let tiles = chunk.columns.div_ceil(16 * tile.warps as usize);
    let variant = variant(&tile, draw_kind(columns.mixing.generator), chunk.dtype);
    let launch = Launch::new(op, variant, "weights", &[columns.r, tiles], 32 * tile.warps)?;
    let layout = Layout { shape: [columns.r, columns.b, chunk.columns], strides: chunk.strides };
    let chunk_view = RawView { pointer: chunk.out, layout };
    let params = WeightsParams {
        sampler: columns.params(prepared),
        out: chunk.out,
        mass: chunk.mass,
        out_r: chunk.strides[0] as i64,
        out_b: chunk.strides[1] as i64,
        out_n: chunk.strides[2] as i64,
        mass_r: chunk.columns as i64,
        first: chunk.first as u32,
        columns: chunk.columns as u32,
        matrix: u32::from(chunk.matrix),
        aligned: u32::from(is_aligned(&chunk_view, chunk.dtype)),
    };
    // SAFETY: the caller's promise; the parameters are those that weights.cu declares.
    unsafe { engine.launch(op, stream, &launch, &params) }
}

impl RawWeights<'_> {
    fn variants(&self, engine: &Engine) -> Vec<Variant> {
        let drawing =
            drawing_variant(engine.device(), self.columns.b, self.columns.mixing.generator, self.dtype);
        self.columns.prepare_variant().into_iter().chain([drawing]).collect()
    }

    /// Checks everything; gives the number of columns to make.
    fn check(&self) -> Result<usize> {
        let mut footprint = Footprint::new(OP);
        self.columns.check(OP, &mut footprint)?;
        let RawColumns { mixing, b, r, attention, .. } = self.columns;
        let left = mixing.n.saturating_sub(self.first);
        let count = self.out.map(|out| out.layout.shape[2]).or(self.mass.map(|mass| mass.layout.shape[1]));
        let columns = count.ok_or(Error::arguments(OP, "neither columns nor masses are asked for"))?;
        if columns == 0 || columns > left {
            let rule = "at least 1 and not beyond the mixing's n";
            return Err(Error::value(OP, "the number of columns", columns, rule));
        }
        if let Some(out) = &self.out {
            expect_shape(OP, "columns", out.layout.shape, [r, b, columns])?;
            footprint.writes("columns", out, element_bytes(self.dtype))?;
        }
        if let Some(mass) = &self.mass {
            expect_shape(OP, "mass", mass.layout.shape, [r, columns])?;
            if columns > 1 && mass.layout.strides[1] != 1 {
                return Err(Error::arguments(OP, "masses of one position must lie side by side"));
            }
            footprint.writes("mass", mass, 4)?;
        }
        let wanted = weights_workspace_bytes(b, r, attention.is_some())?;
        self.workspace.claim(OP, wanted, &mut footprint)?;
        Ok(columns)
    }
}

/// What draws columns of `b` examples.
pub(super) fn drawing_variant(device: &DeviceInfo, b: usize, generator: Generator, dtype: Dtype) -> Variant {
    variant(&Tile::choose(device, b, shared_bytes), draw_kind(generator), dtype)
}

fn variant(tile: &Tile, draw: u32, dtype: Dtype) -> Variant {
    Variant::new(SOURCE)
        .name("ELEMENT", element_name(dtype))
        .number("DRAW", draw)
        .tile(tile)
        .shared(shared_bytes(tile))
}

/// All variants for a device.
pub(super) fn variants(device: &DeviceInfo) -> impl Iterator<Item = Variant> {
    let tiles = Tile::batches().map(|b| Tile::choose(device, b, shared_bytes));
    let kinds = tiles.flat_map(|tile| DRAW_KINDS.map(move |draw| (tile, draw)));
    kinds.flat_map(|(tile, draw)| Dtype::ALL.map(|dtype| variant(&tile, draw, dtype)))
}

/// Whether rows of columns can be written sixteen bytes at a time.
fn is_aligned(out: &RawView<3>, dtype: Dtype) -> bool {
    let boundary = 16 / element_bytes(dtype) as i64;
    let rows = [out.stride(0), out.stride(1)].iter().all(|stride| stride % boundary == 0);
    rows && out.stride(2) == 1 && out.pointer.is_multiple_of(16)
}

fn shared_bytes(tile: &Tile) -> u32 {
    tile.warps * (64 * (tile.panel + 8) + 3072)
}

/// `WeightsParams` of weights.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct WeightsParams {
    sampler: SamplerParams,
    out: CUdeviceptr,
    mass: CUdeviceptr,
    out_r: i64,
    out_b: i64,
    out_n: i64,
    mass_r: i64,
    first: u32,
    columns: u32,
    matrix: u32,
    /// Columns contiguous, every row on a 16-byte boundary.
    aligned: u32,
}
const _: () = assert!(size_of::<WeightsParams>() == 160);
