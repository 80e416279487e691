//! The classification loss on mixed logits and targets with its gradients, equations (5) to (8); nothing of size n is kept.
//! Kernels: loss_forward.cu, loss_backward.cu, loss_backward_attention.cu.

use cudarc::driver::CudaSlice;
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::call::Call;
use super::engine::Engine;
use super::loss_plan::Plan;
use super::matrix::{DeviceTargets, RawTargets, fits_u32};
use super::queue::{DeviceElement, Precision, Queue};
use super::sampler::{RawColumns, element_bytes};
use super::variant::Variant;
use super::view::{DeviceView, DeviceViewMut, Footprint, RawView};
use super::weights::drawing_variant;
use super::workspace::RawWorkspace;
use super::{loss_backward, loss_backward_attention, loss_forward};
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::problem::{LossOptions, Mixing, expect_shape};

pub(super) const OP: &str = "loss";

/// What the loss reads.
#[derive(Clone, Debug)]
pub struct LossInput<'a, T> {
    /// S (b, r, c): the classifier applied to each unmixed feature. −∞ masks a class.
    pub logits: DeviceView<'a, T, 3>,
    /// Labels or soft targets.
    pub targets: DeviceTargets<'a>,
    /// a (b, r), not negative; or none for M̂ = Λ. A map of zeros: [`crate::Mixing::empty_maps`].
    pub attention: Option<DeviceView<'a, f32, 2>>,
    /// Λ (r, b, n) or (1, b, n) for [`Generator::Explicit`](crate::Generator::Explicit), not negative and no
    /// column all zero; columns are normalised. No gradient.
    pub weights: Option<DeviceView<'a, f32, 3>>,
}

/// Where [`Queue::loss_into`] writes; what is `None` is not computed.
#[derive(Debug)]
pub struct LossOutputs<'a, T> {
    /// The loss, one number.
    pub loss: Option<DeviceViewMut<'a, f32, 1>>,
    /// KL = CE − H(Ỹ), reduced like the loss, one number.
    pub kl: Option<DeviceViewMut<'a, f32, 1>>,
    /// dS (b, r, c).
    pub logits: Option<DeviceViewMut<'a, T, 3>>,
    /// da (b, r); needs attention that is not detached.
    pub attention: Option<DeviceViewMut<'a, f32, 2>>,
    /// CE of each mixture, (r, n).
    pub per_mixture: Option<DeviceViewMut<'a, f32, 2>>,
    /// log Σ exp S̃ of each mixture, (r, n).
    pub log_sum_exp: Option<DeviceViewMut<'a, f32, 2>>,
}

impl<T> Default for LossOutputs<'_, T> {
    fn default() -> Self {
        Self { loss: None, kl: None, logits: None, attention: None, per_mixture: None, log_sum_exp: None }
    }
}

/// The loss of a call, in device memory.
#[derive(Debug)]
pub struct Loss {
    /// The reduced cross-entropy, one number.
    pub value: CudaSlice<f32>,
    /// The reduced KL, one number, when [`LossOptions::kl`] asks for it.
    pub kl: Option<CudaSlice<f32>>,
}

/// The gradients of a loss.
#[derive(Debug)]
pub struct LossGradients<T> {
    /// dS (b, r, c), contiguous, in the type of the logits.
    pub logits: CudaSlice<T>,
    /// da (b, r), contiguous, when attention was given and is not detached.
    pub attention: Option<CudaSlice<f32>>,
}

/// What gradients are multiplied by: a number, and one in device memory where the caller has it there.
#[derive(Clone, Debug)]
pub struct Upstream<'a> {
    /// The factor.
    pub factor: f32,
    /// One more factor, read when the kernels run.
    pub scalar: Option<DeviceView<'a, f32, 1>>,
}

impl Default for Upstream<'_> {
    fn default() -> Self {
        Self { factor: 1.0, scalar: None }
    }
}

impl Queue<'_> {
    /// The loss alone.
    ///
    /// # Errors
    /// As [`Queue::loss_into`]; [`ErrorKind::Cuda`](crate::ErrorKind::Cuda) when memory does not suffice.
    pub fn loss_forward<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &LossInput<'_, T>,
        options: &LossOptions,
    ) -> Result<Loss> {
        let mut loss = self.allocate_loss(options)?;
        let outputs = LossOutputs {
            loss: Some(DeviceViewMut::new(&mut loss.value, [1])?),
            kl: loss.kl.as_mut().map(|kl| DeviceViewMut::new(kl, [1])).transpose()?,
            ..LossOutputs::default()
        };
        self.loss_allocating(mixing, input, options, &Upstream::default(), outputs)?;
        Ok(loss)
    }

    /// The loss and the gradients of `upstream` times the loss, over the same draws: the cheapest way to
    /// train. [`cpu::loss_forward_backward`](crate::cpu::loss_forward_backward) says why f16 gradients want a
    /// factor.
    ///
    /// # Errors
    /// As [`Queue::loss_forward`].
    pub fn loss_forward_backward<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &LossInput<'_, T>,
        options: &LossOptions,
        upstream: &Upstream<'_>,
    ) -> Result<(Loss, LossGradients<T>)> {
        let [b, r, c] = input.logits.shape();
        let count = input.logits.layout().count(OP, "the gradient of the logits")?;
        let mut loss = self.allocate_loss(options)?;
        let mut logits = self.allocate::<T>(OP, "the gradient of the logits", count)?;
        let wants_attention = input.attention.is_some() && !options.detach_attention;
        let mut attention = match wants_attention {
            true => Some(self.allocate::<f32>(OP, "the gradient of attention", b * r)?),
            false => None,
        };
        let outputs = LossOutputs {
            loss: Some(DeviceViewMut::new(&mut loss.value, [1])?),
            kl: loss.kl.as_mut().map(|kl| DeviceViewMut::new(kl, [1])).transpose()?,
            logits: Some(DeviceViewMut::new(&mut logits, [b, r, c])?),
            attention: attention.as_mut().map(|da| DeviceViewMut::new(da, [b, r])).transpose()?,
            ..LossOutputs::default()
        };
        self.loss_allocating(mixing, input, options, upstream, outputs)?;
        Ok((loss, LossGradients { logits, attention }))
    }

    fn allocate_loss(&self, options: &LossOptions) -> Result<Loss> {
        let value = self.allocate::<f32>(OP, "the loss", 1)?;
        let kl = if options.kl { Some(self.allocate::<f32>(OP, "the KL", 1)?) } else { None };
        Ok(Loss { value, kl })
    }

    fn loss_allocating<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &LossInput<'_, T>,
        options: &LossOptions,
        upstream: &Upstream<'_>,
        outputs: LossOutputs<'_, T>,
    ) -> Result<()> {
        let bytes = self.loss_workspace_bytes(mixing, input, options, &outputs)?;
        let mut workspace = self.allocate::<u8>(OP, "the workspace", bytes)?;
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes])?;
        self.loss_into(mixing, input, options, upstream, outputs, workspace)
    }

    /// Bytes of workspace that [`Queue::loss_into`] needs for these arguments. Does not grow with n beyond a chunk of columns.
    ///
    /// # Errors
    /// As [`Queue::loss_into`] about sizes.
    pub fn loss_workspace_bytes<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &LossInput<'_, T>,
        options: &LossOptions,
        outputs: &LossOutputs<'_, T>,
    ) -> Result<usize> {
        let [b, r, _] = input.logits.shape();
        mixing.validate(OP, [b, r], input.weights.as_ref().map(DeviceView::layout))?;
        let columns = RawColumns {
            mixing,
            b,
            r,
            attention: input.attention.as_ref().map(|view| RawView { pointer: 0, layout: *view.layout() }),
            weights: input.weights.as_ref().map(|view| RawView { pointer: 0, layout: *view.layout() }),
            seed_and_step: 0,
        };
        let targets = match &input.targets {
            DeviceTargets::Labels(labels) => {
                RawTargets::Labels(RawView { pointer: 0, layout: *labels.layout() })
            }
            DeviceTargets::Soft(rows) => RawTargets::Soft(RawView { pointer: 0, layout: *rows.layout() }),
        };
        let call = RawLoss {
            columns,
            dtype: T::DTYPE,
            precision: self.chosen_precision(),
            options,
            logits: RawView { pointer: 0, layout: *input.logits.layout() },
            targets,
            factor: 1.0,
            upstream: 0,
            outputs: RawLossOutputs::places(
                outputs,
                |layout| RawView { pointer: 0, layout },
                |layout| RawView { pointer: 0, layout },
            ),
            workspace: RawWorkspace::EMPTY,
        };
        Plan::new(self.engine(), &call)?.workspace_bytes()
    }

    /// The loss and whatever `outputs` asks for, into the caller's memory: gradients are those of `upstream` times the loss. Neither
    /// allocates nor waits.
    ///
    /// # Errors
    /// Shapes that do not fit together, an α out of range, sizes of 0 or whose product overflows, a workspace that is too small, buffers
    /// that overlap or lie in another context; errors from compiling, loading and launching.
    pub fn loss_into<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &LossInput<'_, T>,
        options: &LossOptions,
        upstream: &Upstream<'_>,
        mut outputs: LossOutputs<'_, T>,
        workspace: &mut DeviceViewMut<'_, u8, 1>,
    ) -> Result<()> {
        let mut call = Call::new(OP, self)?;
        let workspace = call.scratch(workspace)?;
        let scalar = call.may_read("upstream", &upstream.scalar)?;
        let raw = RawLoss {
            factor: upstream.factor,
            upstream: scalar.map_or(0, |scalar| scalar.pointer),
            workspace,
            ..self.raw_loss(&mut call, mixing, input, options, &mut outputs)?
        };
        // SAFETY: the views are borrowed for the call and lie in the engine's context; their lengths were checked when they were
        // made; `call` orders the launches with other uses of the memory.
        unsafe { self::loss(self.engine(), self.stream().cu_stream(), &raw) }
    }

    /// Compiles what [`Queue::loss_into`] needs for these arguments.
    ///
    /// # Errors
    /// As [`Queue::loss_into`].
    pub fn compile_loss<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &LossInput<'_, T>,
        options: &LossOptions,
        outputs: &mut LossOutputs<'_, T>,
    ) -> Result<()> {
        let raw = self.raw_loss(&mut Call::new(OP, self)?, mixing, input, options, outputs)?;
        compile_loss(self.engine(), &raw)
    }

    /// All but upstream and workspace.
    fn raw_loss<'s, 'm, T: DeviceElement>(
        &self,
        call: &mut Call<'s>,
        mixing: &'m Mixing,
        input: &'s LossInput<'_, T>,
        options: &'m LossOptions,
        outputs: &'s mut LossOutputs<'_, T>,
    ) -> Result<RawLoss<'m>> {
        let [b, r, _] = input.logits.shape();
        Ok(RawLoss {
            columns: call.columns(mixing, [b, r], &input.attention, &input.weights)?,
            dtype: T::DTYPE,
            precision: self.chosen_precision(),
            options,
            logits: call.reads("logits", &input.logits)?,
            targets: call.targets(&input.targets)?,
            factor: 1.0,
            upstream: 0,
            outputs: RawLossOutputs {
                loss: call.may_write("the loss", &mut outputs.loss)?,
                kl: call.may_write("the KL", &mut outputs.kl)?,
                logits: call.may_write("the gradient of the logits", &mut outputs.logits)?,
                attention: call.may_write("the gradient of attention", &mut outputs.attention)?,
                per_mixture: call.may_write("the losses of mixtures", &mut outputs.per_mixture)?,
                log_sum_exp: call.may_write("the log-sum-exp of mixtures", &mut outputs.log_sum_exp)?,
            },
            workspace: RawWorkspace::EMPTY,
        })
    }
}

/// The outputs of a raw call; what is `None` is not computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawLossOutputs {
    /// One f32.
    pub loss: Option<RawView<1>>,
    /// One f32.
    pub kl: Option<RawView<1>>,
    /// dS (b, r, c) in the logits' type.
    pub logits: Option<RawView<3>>,
    /// da (b, r) in f32.
    pub attention: Option<RawView<2>>,
    /// (r, n) in f32.
    pub per_mixture: Option<RawView<2>>,
    /// (r, n) in f32.
    pub log_sum_exp: Option<RawView<2>>,
}

impl RawLossOutputs {
    /// Which outputs there are, by their layouts.
    fn places<T>(
        outputs: &LossOutputs<'_, T>,
        two: impl Fn(crate::view::Layout<2>) -> RawView<2>,
        three: impl Fn(crate::view::Layout<3>) -> RawView<3>,
    ) -> Self {
        let scalar = RawView::contiguous(0, [1]);
        Self {
            loss: outputs.loss.as_ref().map(|_| scalar),
            kl: outputs.kl.as_ref().map(|_| scalar),
            logits: outputs.logits.as_ref().map(|view| three(*view.layout())),
            attention: outputs.attention.as_ref().map(|view| two(*view.layout())),
            per_mixture: outputs.per_mixture.as_ref().map(|view| two(*view.layout())),
            log_sum_exp: outputs.log_sum_exp.as_ref().map(|view| two(*view.layout())),
        }
    }
}

/// A raw call of the loss.
#[derive(Clone, Copy, Debug)]
pub struct RawLoss<'a> {
    /// Where columns come from.
    pub columns: RawColumns<'a>,
    /// Type of the logits and of their gradient.
    pub dtype: Dtype,
    /// How f32 is multiplied.
    pub precision: Precision,
    /// Reduction, and whether attention is detached.
    pub options: &'a LossOptions,
    /// S (b, r, c).
    pub logits: RawView<3>,
    /// Labels or soft rows.
    pub targets: RawTargets,
    /// What gradients are multiplied by.
    pub factor: f32,
    /// One more factor, an f32 in device memory, or 0.
    pub upstream: CUdeviceptr,
    /// What is wanted.
    pub outputs: RawLossOutputs,
    /// As many bytes as [`Queue::loss_workspace_bytes`] says.
    pub workspace: RawWorkspace,
}

/// Enqueues the loss on a stream of the engine's context.
///
/// # Errors
/// As [`Queue::loss_into`].
///
/// # Safety
/// All views and the workspace name memory of the engine's context that is valid, for their reach, until the stream has run
/// the call, and nobody else writes inputs or touches outputs and workspace meanwhile.
pub unsafe fn loss(engine: &Engine, stream: CUstream, call: &RawLoss<'_>) -> Result<()> {
    let mut footprint = Footprint::new(OP);
    call.check(&mut footprint)?;
    let plan = Plan::new(engine, call)?;
    call.workspace.claim(OP, plan.workspace_bytes()?, &mut footprint)?;
    engine.prepare(OP, &plan.variants(), Some(stream))?;
    // SAFETY: the caller's promise.
    unsafe { plan.run(stream) }
}

/// Compiles what [`loss`] needs for a call. The workspace is not looked at.
///
/// # Errors
/// As [`loss`].
pub fn compile_loss(engine: &Engine, call: &RawLoss<'_>) -> Result<()> {
    call.check(&mut Footprint::new(OP))?;
    engine.prepare(OP, &Plan::new(engine, call)?.variants(), None)
}

impl Plan<'_> {
    /// All that [`Plan::run`] launches.
    fn variants(&self) -> Vec<Variant> {
        let (columns, outputs) = (&self.call.columns, &self.call.outputs);
        let drawing =
            |dtype| drawing_variant(self.engine.device(), columns.b, columns.mixing.generator, dtype);
        let mut variants: Vec<Variant> = columns.prepare_variant().into_iter().collect();
        variants.push(loss_forward::variant(self));
        if self.tile.is_none() {
            variants.push(drawing(self.number()));
        }
        if outputs.logits.is_some() {
            variants.push(loss_backward::variant(self));
        }
        if outputs.attention.is_some() {
            variants.extend([drawing(Dtype::F32), loss_backward_attention::variant(self)]);
        }
        variants
    }
}

impl RawLoss<'_> {
    fn check(&self, footprint: &mut Footprint) -> Result<()> {
        self.columns.check(OP, footprint)?;
        let ([b, r, c], n) = (self.logits.layout.shape, self.columns.mixing.n);
        for (name, size) in [("b", b), ("r", r), ("c", c), ("n", n)] {
            fits_u32(OP, name, size)?;
        }
        expect_shape(OP, "logits", self.logits.layout.shape, [self.columns.b, self.columns.r, c])?;
        let size = element_bytes(self.dtype);
        footprint.reads("logits", &self.logits, size)?;
        self.targets.check(OP, b, c, footprint)?;
        if self.upstream != 0 {
            footprint.reads("upstream", &RawView::contiguous(self.upstream, [1]), 4)?;
        }
        let outputs = &self.outputs;
        for (name, view) in [("the loss", &outputs.loss), ("the KL", &outputs.kl)] {
            let Some(view) = view else { continue };
            expect_shape(OP, name, view.layout.shape, [1])?;
            footprint.writes(name, view, 4)?;
        }
        if let Some(view) = &outputs.logits {
            expect_shape(OP, "the gradient of the logits", view.layout.shape, [b, r, c])?;
            footprint.writes("the gradient of the logits", view, size)?;
        }
        if let Some(view) = &outputs.attention {
            if self.columns.attention.is_none() || self.options.detach_attention {
                let what = "the gradient of attention is asked for, but attention is not given, or detached";
                return Err(Error::arguments(OP, what));
            }
            expect_shape(OP, "the gradient of attention", view.layout.shape, [b, r])?;
            footprint.writes("the gradient of attention", view, 4)?;
        }
        let mixtures = [
            ("the losses of mixtures", &outputs.per_mixture),
            ("the log-sum-exp of mixtures", &outputs.log_sum_exp),
        ];
        for (name, view) in mixtures {
            let Some(view) = view else { continue };
            expect_shape(OP, name, view.layout.shape, [r, n])?;
            footprint.writes(name, view, 4)?;
        }
        Ok(())
    }
}
