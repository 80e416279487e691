//! Mixed features and targets, equations (5) to (8). Kernels: mix_forward.cu, prepare.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::CudaSlice;
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::call::Call;
use super::device::DeviceInfo;
use super::engine::{Engine, Launch};
use super::matrix::{Matrix, RawTargets, all_math, math};
use super::mix_input::{MixInput, RawMixInput};
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
use crate::error::Result;
use crate::problem::{Mixing, expect_shape};
use crate::view::Layout;

pub(super) const OP: &str = "mix";
const SOURCE: Source = Source { file: "mix_forward.cu", kernels: &["mix_forward"] };

/// Mixed features and targets.
#[derive(Debug)]
pub struct Mixed<T> {
    /// Z̃ (n, r, d), contiguous.
    pub features: CudaSlice<T>,
    /// Ỹ (n, r, c), contiguous, where targets were given.
    pub targets: Option<CudaSlice<f32>>,
}

/// Where [`Queue::mix_forward_into`] writes.
#[derive(Debug)]
pub struct MixOutputs<'a, T> {
    /// Z̃ (n, r, d).
    pub features: DeviceViewMut<'a, T, 3>,
    /// Ỹ (n, r, c); needs targets.
    pub targets: Option<DeviceViewMut<'a, f32, 3>>,
}

impl Queue<'_> {
    /// Mixes features, and targets where they are given.
    ///
    /// # Errors
    /// As [`Queue::mix_forward_into`]; [`ErrorKind::Cuda`](crate::ErrorKind::Cuda) when memory does not suffice.
    pub fn mix_forward<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &MixInput<'_, T>,
    ) -> Result<Mixed<T>> {
        let ([b, r, d], n) = (input.features.shape(), mixing.n);
        mixing.validate(OP, [b, r], input.weights.as_ref().map(DeviceView::layout))?;
        let count = |channels| Layout::contiguous([n, r, channels]).count(OP, "the mixed arrays");
        let mut features = self.allocate::<T>(OP, "the mixed features", count(d)?)?;
        let classes = input.targets.as_ref().map(|targets| targets.classes);
        let mut targets =
            classes.map(|c| self.allocate::<f32>(OP, "the mixed targets", count(c)?)).transpose()?;
        let bytes = self.mix_forward_workspace_bytes(input)?;
        let mut workspace = self.allocate::<u8>(OP, "the workspace", bytes)?;
        let outputs = MixOutputs {
            features: DeviceViewMut::new(&mut features, [n, r, d])?,
            targets: match (&mut targets, classes) {
                (Some(targets), Some(c)) => Some(DeviceViewMut::new(targets, [n, r, c])?),
                _ => None,
            },
        };
        self.mix_forward_into(mixing, input, outputs, &mut DeviceViewMut::new(&mut workspace, [bytes])?)?;
        Ok(Mixed { features, targets })
    }

    /// Bytes of workspace that [`Queue::mix_forward_into`] needs. Does not grow with n.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge).
    pub fn mix_forward_workspace_bytes<T: DeviceElement>(&self, input: &MixInput<'_, T>) -> Result<usize> {
        let mut carve = Carve::measure(OP);
        let [b, r, _] = input.features.shape();
        carve_attention(&mut carve, input.attention.is_some(), b, r)?;
        carve_packed(&mut carve, input.features.layout(), T::DTYPE)?;
        Ok(carve.bytes())
    }

    /// Mixes into the caller's memory. Neither allocates nor waits.
    ///
    /// # Errors
    /// Shapes that do not fit together, an α out of range, sizes of 0 or whose product overflows, a workspace that is too small, buffers that
    /// overlap or lie in another context; bf16 on a device without it; errors from compiling, loading and launching.
    pub fn mix_forward_into<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &MixInput<'_, T>,
        mut outputs: MixOutputs<'_, T>,
        workspace: &mut DeviceViewMut<'_, u8, 1>,
    ) -> Result<()> {
        let mut call = Call::new(OP, self)?;
        let workspace = call.scratch(workspace)?;
        let raw = RawMixForward { workspace, ..self.raw_mix(&mut call, mixing, input, &mut outputs)? };
        // SAFETY: the views are borrowed for the call and lie in the engine's context; their lengths were checked when they were
        // made; `call` orders the launches with other uses of the memory.
        unsafe { mix_forward(self.engine(), self.stream().cu_stream(), &raw) }
    }

    /// Compiles what [`Queue::mix_forward_into`] needs for these arguments.
    ///
    /// # Errors
    /// As [`Queue::mix_forward_into`].
    pub fn compile_mix_forward<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &MixInput<'_, T>,
        outputs: &mut MixOutputs<'_, T>,
    ) -> Result<()> {
        let raw = self.raw_mix(&mut Call::new(OP, self)?, mixing, input, outputs)?;
        compile_mix_forward(self.engine(), &raw)
    }

    /// All but the workspace.
    fn raw_mix<'s, 'm, T: DeviceElement>(
        &self,
        call: &mut Call<'s>,
        mixing: &'m Mixing,
        input: &'s MixInput<'_, T>,
        outputs: &'s mut MixOutputs<'_, T>,
    ) -> Result<RawMixForward<'m>> {
        Ok(RawMixForward {
            input: self.raw_mix_input(call, mixing, input)?,
            mixed: call.writes("the mixed features", &mut outputs.features)?,
            mixed_targets: call.may_write("the mixed targets", &mut outputs.targets)?,
            workspace: RawWorkspace::EMPTY,
        })
    }
}

/// A raw call of mixing.
#[derive(Clone, Copy, Debug)]
pub struct RawMixForward<'a> {
    /// What is read.
    pub input: RawMixInput<'a>,
    /// Z̃ (n, r, d).
    pub mixed: RawView<3>,
    /// Ỹ (n, r, c) in f32, or none.
    pub mixed_targets: Option<RawView<3>>,
    /// As many bytes as [`Queue::mix_forward_workspace_bytes`] says.
    pub workspace: RawWorkspace,
}

/// Enqueues mixing on a stream of the engine's context.
///
/// # Errors
/// As [`Queue::mix_forward_into`].
///
/// # Safety
/// All views and the workspace name memory of the engine's context that is valid, for their reach, until the stream has run
/// the call, and nobody else writes inputs or touches outputs and workspace meanwhile.
pub unsafe fn mix_forward(engine: &Engine, stream: CUstream, call: &RawMixForward<'_>) -> Result<()> {
    call.check()?;
    let kernel = call.kernel(engine)?;
    engine.prepare(OP, &call.variants(&kernel), Some(stream))?;
    let RawMixInput { columns, dtype, features, .. } = &call.input;
    let mut carve = Carve::from(OP, call.workspace.pointer);
    let prepared = columns.carve(&mut carve)?;
    let packed = carve_packed(&mut carve, &features.layout, *dtype)?;
    let launch = kernel.launch(engine, call)?;
    // SAFETY: the caller's promise; each launch reads what those before wrote on the same stream, and the parameters are those
    // that the kernels declare.
    unsafe {
        columns.prepare(OP, engine, stream, &prepared)?;
        let features = match packed {
            Some(packed) => pack_features(OP, engine, stream, features, packed, *dtype)?,
            None => *features,
        };
        let params = call.params(&prepared, &features, call.mixed_from(), launch.column_tiles, launch.splits);
        engine.launch(OP, stream, &launch.launch, &params)
    }
}

/// Compiles what [`mix_forward`] needs for a call. The workspace is not looked at.
///
/// # Errors
/// As [`mix_forward`].
pub fn compile_mix_forward(engine: &Engine, call: &RawMixForward<'_>) -> Result<()> {
    call.check_views(&mut Footprint::new(OP))?;
    engine.prepare(OP, &call.variants(&call.kernel(engine)?), None)
}

impl RawMixForward<'_> {
    /// Targets that nobody wants mixed are not read.
    fn mixed_from(&self) -> Option<&RawTargets> {
        self.input.targets.as_ref().filter(|_| self.mixed_targets.is_some())
    }

    fn kernel(&self, engine: &Engine) -> Result<Kernel> {
        let RawMixInput { columns, dtype, precision, .. } = self.input;
        let math = math(OP, engine.device(), dtype, precision)?;
        Ok(Kernel::choose(engine.device(), columns.b, draw_kind(columns.mixing.generator), (dtype, math)))
    }

    fn variants(&self, kernel: &Kernel) -> Vec<Variant> {
        let RawMixInput { columns, dtype, features, .. } = &self.input;
        let packing = needs_packing(&features.layout).then(|| prepare_variant(*dtype));
        columns.prepare_variant().into_iter().chain(packing).chain([kernel.variant]).collect()
    }

    fn check(&self) -> Result<()> {
        let mut footprint = Footprint::new(OP);
        self.check_views(&mut footprint)?;
        let mut carve = Carve::measure(OP);
        let RawMixInput { columns, dtype, features, .. } = &self.input;
        carve_attention(&mut carve, columns.attention.is_some(), columns.b, columns.r)?;
        carve_packed(&mut carve, &features.layout, *dtype)?;
        self.workspace.claim(OP, carve.bytes(), &mut footprint)
    }

    fn check_views(&self, footprint: &mut Footprint) -> Result<()> {
        self.input.check(footprint)?;
        let ([_, r, d], n) = (self.input.shape(), self.input.columns.mixing.n);
        expect_shape(OP, "the mixed features", self.mixed.layout.shape, [n, r, d])?;
        footprint.writes("the mixed features", &self.mixed, element_bytes(self.input.dtype))?;
        if let Some(mixed) = &self.mixed_targets {
            self.input.expect_targets("mixed targets are asked for, but no targets were given")?;
            expect_shape(OP, "the mixed targets", mixed.layout.shape, [n, r, self.input.classes])?;
            footprint.writes("the mixed targets", mixed, 4)?;
        }
        Ok(())
    }

    fn params(
        &self,
        prepared: &Prepared,
        features: &RawView<3>,
        targets: Option<&RawTargets>,
        column_tiles: u32,
        splits: u32,
    ) -> MixForwardParams {
        let size = element_bytes(self.input.dtype);
        let (labels, soft) = RawTargets::params(targets, self.input.classes);
        MixForwardParams {
            sampler: self.input.columns.params(prepared),
            features: Matrix::new(features, size),
            mixed: Matrix::new(&self.mixed, size),
            labels,
            soft,
            mixed_targets: self.mixed_targets.map_or(Matrix::NONE, |mixed| Matrix::new(&mixed, 4)),
            column_tiles,
            splits,
        }
    }
}

/// The variant of a call, with how its block is cut.
struct Kernel {
    variant: Variant,
    warps: u32,
}

/// A launch, with how the work is dealt out.
struct Cut {
    launch: Launch,
    column_tiles: u32,
    splits: u32,
}

impl Kernel {
    fn choose(device: &DeviceInfo, b: usize, draw: u32, (dtype, math): (Dtype, u32)) -> Self {
        let tile = Tile::choose(device, b, |tile| shared_bytes(tile, math));
        let variant = Variant::new(SOURCE)
            .name("ELEMENT", element_name(dtype))
            .number("MATH", math)
            .number("DRAW", draw)
            .tile(&tile)
            .shared(shared_bytes(&tile, math));
        Self { variant, warps: tile.warps }
    }

    /// Splits the channels only where positions and columns alone leave multiprocessors idle: each split draws again.
    fn launch(&self, engine: &Engine, call: &RawMixForward<'_>) -> Result<Cut> {
        let RawColumns { mixing, r, .. } = call.input.columns;
        let column_tiles = mixing.n.div_ceil(16 * self.warps as usize);
        let [_, _, d] = call.input.shape();
        let channel_tiles = d.div_ceil(64);
        let wanted = (engine.device().multiprocessors as usize).div_ceil(r.saturating_mul(column_tiles));
        let splits = wanted.clamp(1, channel_tiles.min(8));
        let launch =
            Launch::new(OP, self.variant, "mix_forward", &[r, column_tiles, splits], 32 * self.warps)?;
        Ok(Cut { launch, column_tiles: column_tiles as u32, splits: splits as u32 })
    }
}

/// All variants for a device.
pub(super) fn variants(device: &DeviceInfo) -> impl Iterator<Item = Variant> {
    let maths = all_math(OP, device);
    let batches = maths.flat_map(|math| Tile::batches().map(move |b| (math, b)));
    batches
        .flat_map(move |(math, b)| DRAW_KINDS.map(move |draw| Kernel::choose(device, b, draw, math).variant))
}

fn shared_bytes(tile: &Tile, math: u32) -> u32 {
    let slabs = tile.warps * 64 * (tile.panel + 8);
    let stages = if math == 2 { 2 * 9216 } else { 2 * 8704 };
    let stationary = match math {
        0 => false,
        1 => !tile.multi && tile.panel <= 128,
        _ => !tile.multi && tile.panel <= 256,
    };
    let both = if stationary { slabs.max(stages) } else { slabs + stages };
    both + tile.warps * (if tile.multi { 3072 } else { 0 } + 4608)
}

/// Whether channels are apart.
fn needs_packing(features: &Layout<3>) -> bool {
    features.strides[2] != 1 && features.shape[2] != 1
}

/// Room for a position-major copy of features whose channels are apart (NCHW); none for others.
pub(super) fn carve_packed(
    carve: &mut Carve,
    features: &Layout<3>,
    dtype: Dtype,
) -> Result<Option<RawView<3>>> {
    let [b, r, d] = features.shape;
    if !needs_packing(features) {
        return Ok(None);
    }
    let row = d.next_multiple_of(16 / element_bytes(dtype));
    let pointer = match dtype {
        Dtype::F32 => carve.take::<f32>("packed features", &[r, b, row])?,
        Dtype::F16 | Dtype::Bf16 => carve.take::<u16>("packed features", &[r, b, row])?,
    };
    let layout = Layout { shape: [b, r, d], strides: [row, b * row, 1] };
    Ok(Some(RawView { pointer, layout }))
}

/// Enqueues the copy; gives it as a view (b, r, d).
///
/// # Safety
/// `features` and `packed` are valid memory of the engine's context.
pub(super) unsafe fn pack_features(
    op: &'static str,
    engine: &Engine,
    stream: CUstream,
    features: &RawView<3>,
    packed: RawView<3>,
    dtype: Dtype,
) -> Result<RawView<3>> {
    let [b, r, d] = features.layout.shape;
    let params = PrepareFeaturesParams {
        features: features.pointer,
        example: features.stride(0),
        position: features.stride(1),
        channel: features.stride(2),
        packed: packed.pointer,
        b: b as u32,
        r: r as u32,
        d: d as u32,
        row: packed.layout.strides[0] as u32,
    };
    let blocks = [b, r.div_ceil(32), d.div_ceil(32)];
    let launch = Launch::new(op, prepare_variant(dtype), "prepare_features", &blocks, 256)?;
    // SAFETY: the caller's promise.
    unsafe { engine.launch(op, stream, &launch, &params)? };
    Ok(packed)
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
const _: () = assert!(size_of::<PrepareFeaturesParams>() == 56);

/// `MixForwardParams` of mix_forward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct MixForwardParams {
    sampler: SamplerParams,
    features: Matrix,
    mixed: Matrix,
    labels: CUdeviceptr,
    soft: Matrix,
    mixed_targets: Matrix,
    column_tiles: u32,
    splits: u32,
}
const _: () = assert!(size_of::<MixForwardParams>() == 272);
