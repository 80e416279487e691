//! Gradients of mixing, for features, soft targets and attention. Kernels: mix_backward.cu, mix_backward_attention.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::CudaSlice;
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::call::Call;
use super::device::DeviceInfo;
use super::engine::{Engine, Launch};
use super::matrix::{Matrix, RawTargets, all_math, fits_u32, math};
use super::mix_attention::{self, AttentionPart};
use super::mix_forward::{MixInput, OP};
use super::queue::{DeviceElement, Precision, Queue};
use super::sampler::{Prepared, RawColumns, element_bytes, element_name};
use super::tile::splits;
use super::variant::{Source, Variant};
use super::view::{DeviceView, DeviceViewMut, Footprint, RawView};
use super::weights::{Chunk, drawing_variant, fill_chunk};
use super::workspace::{Carve, RawWorkspace};
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::problem::{Mixing, at_least_one, expect_shape};
use crate::view::Layout;

const SOURCE: Source = Source { file: "mix_backward.cu", kernels: &["mix_backward", "mix_backward_sum"] };
/// Columns of the mix matrix that are kept at a time.
const CHUNK: usize = 1024;
const MOST_SPLITS: usize = 8;
const WARPS: u32 = 4;

/// The gradients that come in.
#[derive(Clone, Debug)]
pub struct MixedGradients<'a, T> {
    /// dZ̃ (n, r, d).
    pub features: DeviceView<'a, T, 3>,
    /// dỸ (n, r, c), or none.
    pub targets: Option<DeviceView<'a, f32, 3>>,
}

/// The gradients that go out.
#[derive(Debug)]
pub struct MixGradients<T> {
    /// dZ (b, r, d), contiguous.
    pub features: CudaSlice<T>,
    /// dY (b, c), contiguous, where dỸ and soft targets were given.
    pub targets: Option<CudaSlice<f32>>,
    /// da (b, r), contiguous, where attention was given.
    pub attention: Option<CudaSlice<f32>>,
}

/// Where [`Queue::mix_backward_into`] writes; what is `None` is not computed.
#[derive(Debug)]
pub struct MixBackwardOutputs<'a, T> {
    /// dZ (b, r, d).
    pub features: Option<DeviceViewMut<'a, T, 3>>,
    /// dY (b, c); needs dỸ and soft targets.
    pub targets: Option<DeviceViewMut<'a, f32, 2>>,
    /// da (b, r); needs attention.
    pub attention: Option<DeviceViewMut<'a, f32, 2>>,
}

impl Queue<'_> {
    /// All gradients that the inputs have.
    ///
    /// # Errors
    /// As [`Queue::mix_backward_into`]; [`Error::Cuda`] when memory does not suffice.
    pub fn mix_backward<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &MixInput<'_, T>,
        gradients: &MixedGradients<'_, T>,
    ) -> Result<MixGradients<T>> {
        let [b, r, d] = input.features.shape();
        let count = input.features.layout().count(OP, "the gradient of the features")?;
        let mut features = self.allocate::<T>(OP, "the gradient of the features", count)?;
        let soft = input.targets.as_ref().filter(|targets| {
            gradients.targets.is_some() && matches!(targets.targets, super::DeviceTargets::Soft(_))
        });
        let rows = soft.map(|targets| Layout::contiguous([b, targets.classes]));
        let mut targets = match &rows {
            Some(rows) => {
                Some(self.allocate::<f32>(OP, "the gradient of the targets", rows.count(OP, "targets")?)?)
            }
            None => None,
        };
        let mut attention = match input.attention {
            Some(_) => Some(self.allocate::<f32>(OP, "the gradient of attention", b * r)?),
            None => None,
        };
        let outputs = MixBackwardOutputs {
            features: Some(DeviceViewMut::new(&mut features, [b, r, d])?),
            targets: match (&mut targets, rows) {
                (Some(targets), Some(rows)) => Some(DeviceViewMut::from_layout(targets, rows)?),
                _ => None,
            },
            attention: attention.as_mut().map(|da| DeviceViewMut::new(da, [b, r])).transpose()?,
        };
        let bytes = self.mix_backward_workspace_bytes(mixing, input, &outputs)?;
        let mut workspace = self.allocate::<u8>(OP, "the workspace", bytes)?;
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes])?;
        self.mix_backward_into(mixing, input, gradients, outputs, workspace)?;
        Ok(MixGradients { features, targets, attention })
    }

    /// Bytes of workspace that [`Queue::mix_backward_into`] needs for these arguments. Does not grow with n beyond a chunk of columns.
    ///
    /// # Errors
    /// As [`Queue::mix_backward_into`] about sizes.
    pub fn mix_backward_workspace_bytes<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &MixInput<'_, T>,
        outputs: &MixBackwardOutputs<'_, T>,
    ) -> Result<usize> {
        let [b, r, d] = input.features.shape();
        mixing.validate(OP, [b, r], input.weights.as_ref().map(DeviceView::layout))?;
        let sizes = Sizes {
            b,
            r,
            d,
            c: input.targets.as_ref().map_or(0, |targets| targets.classes),
            n: mixing.n,
            dtype: T::DTYPE,
            attention: input.attention.is_some(),
            wants: [outputs.features.is_some(), outputs.targets.is_some(), outputs.attention.is_some()],
        };
        let math = math(OP, self.engine().device(), T::DTYPE, self.chosen_precision())?;
        Ok(Plan::new(self.engine(), sizes, math, 0)?.bytes)
    }

    /// Gradients into the caller's memory. Neither allocates nor waits.
    ///
    /// # Errors
    /// Shapes that do not fit together, an α out of range, sizes of 0 or whose product overflows, a workspace that is too small, buffers that
    /// overlap or lie in another context; bf16 on a device without it; errors from compiling, loading and launching.
    pub fn mix_backward_into<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &MixInput<'_, T>,
        gradients: &MixedGradients<'_, T>,
        mut outputs: MixBackwardOutputs<'_, T>,
        workspace: &mut DeviceViewMut<'_, u8, 1>,
    ) -> Result<()> {
        let mut call = Call::new(OP, self);
        let workspace = call.scratch(workspace)?;
        let raw = self.raw_mix_backward(&mut call, mixing, input, gradients, &mut outputs)?;
        let raw = RawMixBackward { workspace, ..raw };
        // SAFETY: the views are borrowed for the call and lie in the engine's context; their lengths were checked when they were
        // made; `call` orders the launches with other uses of the memory.
        unsafe { mix_backward(self.engine(), self.stream().cu_stream(), &raw) }
    }

    /// Compiles what [`Queue::mix_backward_into`] needs for these arguments.
    ///
    /// # Errors
    /// As [`Queue::mix_backward_into`].
    pub fn compile_mix_backward<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &MixInput<'_, T>,
        gradients: &MixedGradients<'_, T>,
        outputs: &mut MixBackwardOutputs<'_, T>,
    ) -> Result<()> {
        let raw = self.raw_mix_backward(&mut Call::new(OP, self), mixing, input, gradients, outputs)?;
        compile_mix_backward(self.engine(), &raw)
    }

    /// All but the workspace.
    fn raw_mix_backward<'s, 'm, T: DeviceElement>(
        &self,
        call: &mut Call<'s>,
        mixing: &'m Mixing,
        input: &'s MixInput<'_, T>,
        gradients: &'s MixedGradients<'_, T>,
        outputs: &'s mut MixBackwardOutputs<'_, T>,
    ) -> Result<RawMixBackward<'m>> {
        let [b, r, _] = input.features.shape();
        let targets = input.targets.as_ref();
        Ok(RawMixBackward {
            columns: call.columns(mixing, [b, r], &input.attention, &input.weights)?,
            dtype: T::DTYPE,
            precision: self.chosen_precision(),
            features: call.reads("features", &input.features)?,
            targets: targets.map(|given| call.targets(&given.targets)).transpose()?,
            classes: targets.map_or(0, |given| given.classes),
            d_mixed: call.reads("the gradient of the mixed features", &gradients.features)?,
            d_mixed_targets: call.may_read("the gradient of the mixed targets", &gradients.targets)?,
            d_features: call.may_write("the gradient of the features", &mut outputs.features)?,
            d_targets: call.may_write("the gradient of the targets", &mut outputs.targets)?,
            d_attention: call.may_write("the gradient of attention", &mut outputs.attention)?,
            workspace: RawWorkspace::EMPTY,
        })
    }
}

/// A raw call of the gradients of mixing.
#[derive(Clone, Copy, Debug)]
pub struct RawMixBackward<'a> {
    /// Where columns come from.
    pub columns: RawColumns<'a>,
    /// Type of features and their gradients.
    pub dtype: Dtype,
    /// How f32 is multiplied.
    pub precision: Precision,
    /// Z (b, r, d).
    pub features: RawView<3>,
    /// Targets, or none.
    pub targets: Option<RawTargets>,
    /// c; not looked at without targets.
    pub classes: usize,
    /// dZ̃ (n, r, d).
    pub d_mixed: RawView<3>,
    /// dỸ (n, r, c) in f32, or none.
    pub d_mixed_targets: Option<RawView<3>>,
    /// dZ (b, r, d), or none.
    pub d_features: Option<RawView<3>>,
    /// dY (b, c) in f32, or none.
    pub d_targets: Option<RawView<2>>,
    /// da (b, r) in f32, or none.
    pub d_attention: Option<RawView<2>>,
    /// As many bytes as [`Queue::mix_backward_workspace_bytes`] says.
    pub workspace: RawWorkspace,
}

/// Enqueues the gradients of mixing on a stream of the engine's context.
///
/// # Errors
/// As [`Queue::mix_backward_into`].
///
/// # Safety
/// All views and the workspace name memory of the engine's context that is valid, for their reach, until the stream has run
/// the call, and nobody else writes inputs or touches outputs and workspace meanwhile.
pub unsafe fn mix_backward(engine: &Engine, stream: CUstream, call: &RawMixBackward<'_>) -> Result<()> {
    let mut footprint = Footprint::new(OP);
    call.check(&mut footprint)?;
    let math = math(OP, engine.device(), call.dtype, call.precision)?;
    let plan = Plan::new(engine, call.sizes(), math, call.workspace.pointer)?;
    call.workspace.claim(OP, plan.bytes, &mut footprint)?;
    engine.prepare(OP, &call.variants(engine, math), Some(stream))?;
    let d_targets = call.d_targets.as_ref().map(as_cube);
    let sides = [
        (0, Some(&call.d_mixed), call.d_features.as_ref(), plan.features),
        (1, call.d_mixed_targets.as_ref(), d_targets.as_ref(), plan.targets),
    ];
    // SAFETY: the caller's promise, here and in all that is called; each launch reads what those before wrote.
    unsafe {
        call.columns.prepare(OP, engine, stream, &plan.prepared)?;
        let mut first = 0;
        while plan.wants_matrix() && first < plan.sizes.n {
            let columns = plan.chunk.min(plan.sizes.n - first);
            plan.fill(engine, stream, call, first, columns)?;
            for (side, mixed, out, part) in sides {
                let (Some(mixed), Some(out)) = (mixed, out) else { continue };
                plan.add(engine, stream, side, (first, columns), mixed, out, part)?;
            }
            first += columns;
        }
        for (side, _, out, part) in sides {
            let Some(out) = out.filter(|_| part.partial != 0) else { continue };
            plan.sum(engine, stream, side, out, part)?;
        }
        if let Some(out) = &call.d_attention {
            mix_attention::run(engine, stream, call, math, &plan.prepared, plan.attention, out)?;
        }
    }
    Ok(())
}

/// Compiles what [`mix_backward`] needs for a call. The workspace is not looked at.
///
/// # Errors
/// As [`mix_backward`].
pub fn compile_mix_backward(engine: &Engine, call: &RawMixBackward<'_>) -> Result<()> {
    call.check(&mut Footprint::new(OP))?;
    let math = math(OP, engine.device(), call.dtype, call.precision)?;
    engine.prepare(OP, &call.variants(engine, math), None)
}

impl RawMixBackward<'_> {
    fn variants(&self, engine: &Engine, math: u32) -> Vec<Variant> {
        let (RawColumns { mixing, b, .. }, dtype) = (self.columns, self.dtype);
        let sides = [self.d_features.is_some(), self.d_targets.is_some() && self.d_mixed_targets.is_some()];
        let mut variants: Vec<Variant> = self.columns.prepare_variant().into_iter().collect();
        if sides.contains(&true) {
            variants.push(drawing_variant(engine.device(), b, mixing.generator, dtype));
        }
        variants.extend(
            [0, 1].into_iter().filter(|&side| sides[side]).map(|side| variant((dtype, math), side as u32)),
        );
        variants.extend(self.d_attention.map(|_| mix_attention::variant_of(engine, self, math)));
        variants
    }

    fn check(&self, footprint: &mut Footprint) -> Result<()> {
        self.columns.check(OP, footprint)?;
        let RawColumns { mixing, b, r, .. } = self.columns;
        let (size, d, c, n) =
            (element_bytes(self.dtype), self.features.layout.shape[2], self.classes, mixing.n);
        at_least_one(OP, "d", d)?;
        for (name, size) in [("b", b), ("r", r), ("d", d), ("n", n), ("c", c)] {
            fits_u32(OP, name, size)?;
        }
        expect_shape(OP, "features", self.features.layout.shape, [b, r, d])?;
        footprint.reads("features", &self.features, size)?;
        expect_shape(OP, "the gradient of the mixed features", self.d_mixed.layout.shape, [n, r, d])?;
        footprint.reads("the gradient of the mixed features", &self.d_mixed, size)?;
        if let Some(targets) = &self.targets {
            targets.check(OP, b, c, footprint)?;
        }
        if let Some(view) = &self.d_mixed_targets {
            if self.targets.is_none() {
                let what = "a gradient of mixed targets was given, but no targets";
                return Err(Error::Arguments { op: OP, what });
            }
            expect_shape(OP, "the gradient of the mixed targets", view.layout.shape, [n, r, c])?;
            footprint.reads("the gradient of the mixed targets", view, 4)?;
        }
        if let Some(view) = &self.d_features {
            expect_shape(OP, "the gradient of the features", view.layout.shape, [b, r, d])?;
            footprint.writes("the gradient of the features", view, size)?;
        }
        if let Some(view) = &self.d_targets {
            let soft = matches!(self.targets, Some(RawTargets::Soft(_))) && self.d_mixed_targets.is_some();
            if !soft {
                let what = "the gradient of targets needs soft targets and the gradient of the mixed ones";
                return Err(Error::Arguments { op: OP, what });
            }
            expect_shape(OP, "the gradient of the targets", view.layout.shape, [b, c])?;
            footprint.writes("the gradient of the targets", view, 4)?;
        }
        let Some(view) = &self.d_attention else { return Ok(()) };
        if self.columns.attention.is_none() {
            let what = "the gradient of attention is asked for, but no attention was given";
            return Err(Error::Arguments { op: OP, what });
        }
        expect_shape(OP, "the gradient of attention", view.layout.shape, [b, r])?;
        footprint.writes("the gradient of attention", view, 4)
    }

    fn sizes(&self) -> Sizes {
        let [b, r, d] = self.features.layout.shape;
        Sizes {
            b,
            r,
            d,
            c: self.classes,
            n: self.columns.mixing.n,
            dtype: self.dtype,
            attention: self.columns.attention.is_some(),
            wants: [self.d_features.is_some(), self.d_targets.is_some(), self.d_attention.is_some()],
        }
    }
}

/// dY (b, c) as (b, 1, c).
fn as_cube(view: &RawView<2>) -> RawView<3> {
    let ([b, c], [row, class]) = (view.layout.shape, view.layout.strides);
    RawView { pointer: view.pointer, layout: Layout { shape: [b, 1, c], strides: [row, 0, class] } }
}

/// What decides about workspace and splits.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    b: usize,
    r: usize,
    d: usize,
    c: usize,
    n: usize,
    dtype: Dtype,
    attention: bool,
    /// dZ, dY, da.
    wants: [bool; 3],
}

/// Slices of one gradient.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    splits: usize,
    /// f32 (splits, r, b, channels), or 0 where the gradient is written directly.
    partial: CUdeviceptr,
}

struct Plan {
    sizes: Sizes,
    math: u32,
    chunk: usize,
    prepared: Prepared,
    matrix: CUdeviceptr,
    features: Part,
    targets: Part,
    attention: AttentionPart,
    bytes: usize,
}

impl Plan {
    fn new(engine: &Engine, sizes: Sizes, math: u32, workspace: CUdeviceptr) -> Result<Self> {
        let Sizes { b, r, d, c, n, .. } = sizes;
        let mut carve = Carve::from(OP, workspace);
        let prepared = super::sampler::carve_attention(&mut carve, sizes.attention, b, r)?;
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

    fn wants_matrix(&self) -> bool {
        self.sizes.wants[0] || self.sizes.wants[1]
    }

    fn pitch(&self) -> usize {
        self.chunk.next_multiple_of(64)
    }

    unsafe fn fill(
        &self,
        engine: &Engine,
        stream: CUstream,
        call: &RawMixBackward<'_>,
        first: usize,
        columns: usize,
    ) -> Result<()> {
        let (out, dtype, pitch) = (self.matrix, self.sizes.dtype, self.pitch());
        let strides = [call.columns.b * pitch, pitch, 1];
        let chunk = Chunk { first, columns, strides, out, mass: 0, dtype, matrix: true };
        // SAFETY: the caller's promise.
        unsafe { fill_chunk(OP, engine, stream, &call.columns, &self.prepared, &chunk) }
    }

    /// Adds the columns of a chunk to dZ (side 0) or dY (side 1).
    #[allow(clippy::too_many_arguments)]
    unsafe fn add(
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
    unsafe fn sum(
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

fn variant((dtype, math): (Dtype, u32), side: u32) -> Variant {
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
