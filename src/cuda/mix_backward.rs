//! Gradients of mixing, for features, soft targets and attention. Kernels: mix_backward.cu, mix_backward_attention.cu.

use cudarc::driver::CudaSlice;
use cudarc::driver::sys::CUstream;

use super::call::Call;
use super::engine::Engine;
use super::matrix::{RawTargets, math};
use super::mix_attention;
use super::mix_backward_plan::{Plan, Sizes, variant};
use super::mix_forward::OP;
use super::mix_input::{MixInput, RawMixInput};
use super::queue::{DeviceElement, Queue};
use super::sampler::{RawColumns, element_bytes};
use super::variant::Variant;
use super::view::{DeviceView, DeviceViewMut, Footprint, RawView};
use super::weights::drawing_variant;
use super::workspace::RawWorkspace;
use crate::error::{Error, Result};
use crate::problem::{Mixing, expect_shape};
use crate::view::Layout;

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
    /// All gradients that the inputs have; [`cpu::mix_backward`](crate::cpu::mix_backward) says how large
    /// those of attention get.
    ///
    /// # Errors
    /// As [`Queue::mix_backward_into`]; [`ErrorKind::Cuda`](crate::ErrorKind::Cuda) when memory does not suffice.
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
        let mut call = Call::new(OP, self)?;
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
        let raw = self.raw_mix_backward(&mut Call::new(OP, self)?, mixing, input, gradients, outputs)?;
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
        Ok(RawMixBackward {
            input: self.raw_mix_input(call, mixing, input)?,
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
    /// What forward read.
    pub input: RawMixInput<'a>,
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
    let math = math(OP, engine.device(), call.input.dtype, call.input.precision)?;
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
        call.input.columns.prepare(OP, engine, stream, &plan.prepared)?;
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
    let math = math(OP, engine.device(), call.input.dtype, call.input.precision)?;
    engine.prepare(OP, &call.variants(engine, math), None)
}

impl RawMixBackward<'_> {
    fn variants(&self, engine: &Engine, math: u32) -> Vec<Variant> {
        let RawMixInput { columns: RawColumns { mixing, b, .. }, dtype, .. } = self.input;
        let sides = [self.d_features.is_some(), self.d_targets.is_some() && self.d_mixed_targets.is_some()];
        let mut variants: Vec<Variant> = self.input.columns.prepare_variant().into_iter().collect();
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
        self.input.check(footprint)?;
        let ([b, r, d], n, c) = (self.input.shape(), self.input.columns.mixing.n, self.input.classes);
        let size = element_bytes(self.input.dtype);
        expect_shape(OP, "the gradient of the mixed features", self.d_mixed.layout.shape, [n, r, d])?;
        footprint.reads("the gradient of the mixed features", &self.d_mixed, size)?;
        if let Some(view) = &self.d_mixed_targets {
            self.input.expect_targets("a gradient of mixed targets was given, but no targets")?;
            expect_shape(OP, "the gradient of the mixed targets", view.layout.shape, [n, r, c])?;
            footprint.reads("the gradient of the mixed targets", view, 4)?;
        }
        if let Some(view) = &self.d_features {
            expect_shape(OP, "the gradient of the features", view.layout.shape, [b, r, d])?;
            footprint.writes("the gradient of the features", view, size)?;
        }
        if let Some(view) = &self.d_targets {
            let soft =
                matches!(self.input.targets, Some(RawTargets::Soft(_))) && self.d_mixed_targets.is_some();
            if !soft {
                let what = "the gradient of targets needs soft targets and the gradient of the mixed ones";
                return Err(Error::arguments(OP, what));
            }
            expect_shape(OP, "the gradient of the targets", view.layout.shape, [b, c])?;
            footprint.writes("the gradient of the targets", view, 4)?;
        }
        let Some(view) = &self.d_attention else { return Ok(()) };
        if self.input.columns.attention.is_none() {
            let what = "the gradient of attention is asked for, but no attention was given";
            return Err(Error::arguments(OP, what));
        }
        expect_shape(OP, "the gradient of attention", view.layout.shape, [b, r])?;
        footprint.writes("the gradient of attention", view, 4)
    }

    fn sizes(&self) -> Sizes {
        let RawMixInput { columns, dtype, classes, .. } = &self.input;
        let [b, r, d] = self.input.shape();
        Sizes {
            b,
            r,
            d,
            c: *classes,
            n: columns.mixing.n,
            dtype: *dtype,
            attention: columns.attention.is_some(),
            wants: [self.d_features.is_some(), self.d_targets.is_some(), self.d_attention.is_some()],
        }
    }
}

/// dY (b, c) as (b, 1, c).
fn as_cube(view: &RawView<2>) -> RawView<3> {
    let ([b, c], [row, class]) = (view.layout.shape, view.layout.strides);
    RawView { pointer: view.pointer, layout: Layout { shape: [b, 1, c], strides: [row, 0, class] } }
}
