//! Where ops are called: an engine with the stream they go to.

use std::sync::Arc;

use cudarc::driver::sys::CUstream;
use cudarc::driver::{CudaSlice, CudaStream};

use super::advice::driver_error;
use super::call::Call;
use super::device::DeviceInfo;
use super::engine::Engine;
use super::memory::{Bare, Cuda};
use super::plan::{Planned, Sink};
use crate::element::{Element, Scalar};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{
    self, AttentionBackwardCall, AttentionCall, AttentionGradients, AttentionInput, Columns, Loss, LossCall,
    LossInput, MixBackwardCall, MixCall, MixGradients, MixInput, MixMatrix, Mixed, MixedGradients, ScaleCall,
    Want, WeightsCall, WeightsInput, Write,
};
use crate::problem::{AttentionOptions, LossOptions};
use crate::view::{View, ViewMut};

/// How products of f32 arrays are computed. 16-bit arrays always go through tensor cores, whose products are
/// exact and summed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Fused multiply-adds in f32.
    #[default]
    Exact,
    /// Tensor cores, with operands rounded to 10 bits of mantissa. Needs compute capability 8.0.
    Tf32,
}

impl Precision {
    pub(super) fn check(self, device: &DeviceInfo) -> Result<()> {
        if self == Self::Exact || device.has_ampere_tensor_cores() {
            return Ok(());
        }
        let what = format!("{} has no tf32: that needs compute capability 8.0", device.name);
        Err(Error::device("cuda", what, "use Precision::Exact, or f16 arrays"))
    }
}

/// An engine with the caller's stream: ops are enqueued there, in order, and nothing waits for them.
///
/// Each op has four verbs. `loss`, say, allocates what it returns; `loss_into` writes into the caller's
/// memory, allocates none, and can be captured in a graph once its kernels are compiled; `loss_workspace`
/// returns the bytes of workspace that it needs, which grow with n up to a chunk of columns and no further;
/// `loss_compile` compiles its kernels ahead of time. The last three take the same call.
///
/// ```no_run
/// use multimix::cuda::{self, Engine};
/// let engine = Engine::new(&cuda::open(0)?)?;
/// let stream = engine.context().default_stream();
/// let queue = engine.on(&stream)?;
/// # Ok::<(), multimix::Error>(())
/// ```
///
/// # Errors
/// Of every verb: shapes that do not fit together, an α out of range, sizes of 0 or whose product overflows,
/// a workspace that is too small, arrays that overlap or lie in another context, bf16 products on a device
/// without them; errors from allocating, compiling, loading and launching.
#[derive(Clone, Debug)]
#[must_use]
pub struct Queue<'a> {
    engine: &'a Engine,
    stream: &'a Arc<CudaStream>,
    precision: Precision,
}

/// An engine with a stream of any owner: the same calls over bare pointers.
///
/// Options, shapes, strides, alignment and overlap are checked as everywhere.
///
/// ```no_run
/// use multimix::cuda::{self, Bare, Engine, cudarc::driver::sys::CUstream};
/// use multimix::{Alpha, Layout, LossCall, LossInput, LossOptions, LossOutputs, Mixing, Targets, View, ViewMut};
/// # fn step(stream: CUstream, logits: u64, labels: u64, loss: u64, scratch: u64, bytes: usize) -> multimix::Result<()> {
/// let engine = Engine::new(&cuda::open(0)?)?;
/// let logits = View::<f32, 3, Bare>::at(logits, Layout::contiguous([128, 49, 100]));
/// let labels = View::<i64, 1, Bare>::at(labels, Layout::contiguous([128]));
/// let call = LossCall {
///     columns: Mixing::dirichlet(1000, Alpha::PAPER).into(),
///     input: LossInput { logits, targets: Targets::labels(labels), attention: None },
///     options: LossOptions::default(),
///     upstream: 1.0.into(),
///     outputs: LossOutputs { loss: Some(ViewMut::at(loss, Layout::contiguous([1]))), ..LossOutputs::default() },
/// };
/// let queue = engine.on_bare(stream);
/// assert!(queue.workspace(&call)? <= bytes);
/// // SAFETY: the pointers are valid until the stream has run the call, and nobody else uses them meanwhile.
/// unsafe { queue.run(&call, ViewMut::at(scratch, Layout::contiguous([bytes])))? };
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct BareQueue<'a> {
    engine: &'a Engine,
    stream: CUstream,
    precision: Precision,
}

/// A call over bare pointers: any of the crate's `…Call` types.
pub trait BareCall: Planned {}
impl<C: Planned> BareCall for C {}

impl Engine {
    /// Ops on this stream.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when the stream belongs to another context.
    pub fn on<'a>(&'a self, stream: &'a Arc<CudaStream>) -> Result<Queue<'a>> {
        self.check_context("cuda", "the stream", stream.context())?;
        Ok(Queue { engine: self, stream, precision: Precision::Exact })
    }

    /// Ops over bare pointers on a stream of the engine's context.
    pub fn on_bare(&self, stream: CUstream) -> BareQueue<'_> {
        BareQueue { engine: self, stream, precision: Precision::Exact }
    }
}

impl<'a> BareQueue<'a> {
    /// Chooses how products of f32 arrays are computed.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] for tf32 on a device without it.
    pub fn precision(self, precision: Precision) -> Result<Self> {
        precision.check(self.engine.device())?;
        Ok(Self { precision, ..self })
    }

    /// Bytes of workspace that a call needs.
    pub fn workspace(&self, call: &impl BareCall) -> Result<usize> {
        Sink::measure(self.engine.device(), self.precision, call)
    }

    /// Compiles what a call needs. Of the memory only addresses and strides are looked at.
    pub fn compile(&self, call: &impl BareCall) -> Result<()> {
        Sink::compile(self.engine, self.precision, call)
    }

    /// Enqueues a call, with a workspace on a boundary of 256 bytes.
    ///
    /// # Safety
    /// All views of the call and the workspace name memory of the engine's context that is valid, for their
    /// reach, until the stream has run the call, and nobody else writes inputs or touches outputs and
    /// workspace meanwhile.
    pub unsafe fn run(&self, call: &impl BareCall, workspace: ViewMut<'_, u8, 1, Bare>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { Sink::launch(self.engine, self.stream, self.precision, call, workspace) }
    }
}

/// A call over cudarc's memory.
trait Typed {
    type Bare<'s>: Planned
    where
        Self: 's;

    fn bare<'s>(&'s mut self, call: &mut Call<'s>) -> Result<Self::Bare<'s>>;
}

macro_rules! typed {
    ($($call:ident),*) => {
        $(impl<T: Element> Typed for $call<'_, T, Cuda> {
            type Bare<'s> = $call<'s, T, Bare> where Self: 's;

            fn bare<'s>(&'s mut self, call: &mut Call<'s>) -> Result<Self::Bare<'s>> {
                self.map(call)
            }
        })*
    };
}
typed!(WeightsCall, AttentionCall, AttentionBackwardCall, MixCall, MixBackwardCall, LossCall);

impl<T: Element, G: Element> Typed for ScaleCall<'_, T, G, Cuda> {
    type Bare<'s>
        = ScaleCall<'s, T, G, Bare>
    where
        Self: 's;

    fn bare<'s>(&'s mut self, call: &mut Call<'s>) -> Result<Self::Bare<'s>> {
        self.map(call)
    }
}

impl<'a> Queue<'a> {
    /// Chooses how products of f32 arrays are computed.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] for tf32 on a device without it.
    pub fn precision(self, precision: Precision) -> Result<Self> {
        precision.check(self.engine.device())?;
        Ok(Self { precision, ..self })
    }

    /// The engine.
    pub fn engine(&self) -> &'a Engine {
        self.engine
    }

    /// The stream.
    pub fn stream(&self) -> &'a Arc<CudaStream> {
        self.stream
    }

    fn bare(&self) -> BareQueue<'a> {
        BareQueue { engine: self.engine, stream: self.stream.cu_stream(), precision: self.precision }
    }

    fn run<'s, C: Typed>(
        &'s self,
        call: &'s mut C,
        workspace: &'s mut ViewMut<'_, u8, 1, Cuda>,
    ) -> Result<()> {
        let mut views = Call::new(<C::Bare<'s> as op::Call>::OP, self)?;
        let workspace = views.write("the workspace", workspace)?;
        let bare = call.bare(&mut views)?;
        // SAFETY: the views are borrowed for the call and lie in the engine's context; their lengths were
        // checked when they were made; `views` orders the launches with other uses of the memory.
        unsafe { self.bare().run(&bare, workspace) }
    }

    fn measure<'s, C: Typed>(&'s self, call: &'s mut C) -> Result<usize> {
        self.bare().workspace(&call.bare(&mut Call::new(<C::Bare<'s> as op::Call>::OP, self)?)?)
    }

    fn compile<'s, C: Typed>(&'s self, call: &'s mut C) -> Result<()> {
        self.bare().compile(&call.bare(&mut Call::new(<C::Bare<'s> as op::Call>::OP, self)?)?)
    }

    /// Runs a call with a workspace of its own.
    fn run_allocating<C: Typed>(&self, call: &mut C) -> Result<()> {
        let (op, bytes) = (<C::Bare<'_> as op::Call>::OP, self.measure(call)?);
        let mut workspace = self.allocate::<u8>(op, "the workspace", bytes)?;
        self.run(call, &mut ViewMut::new(&mut workspace, [bytes])?)
    }

    /// Memory of `count` elements that the op about to be enqueued fills.
    fn allocate<T: Scalar>(
        &self,
        op: &'static str,
        name: &'static str,
        count: usize,
    ) -> Result<CudaSlice<T>> {
        // Nothing of length zero can be allocated everywhere.
        let count = count.max(1);
        let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
        let too_large = || Error::new(op, ErrorKind::TooLarge { name: name.into(), sizes: vec![count] });
        let bytes = bytes.ok_or_else(too_large)?;
        // SAFETY: the caller has a kernel write all that is read of it.
        let memory = unsafe { self.stream.alloc::<T>(count) };
        memory.map_err(|error| driver_error(op, format!("allocating {bytes} bytes for {name}"), error))
    }
}

impl op::Engine for Queue<'_> {
    type Memory = Cuda;

    fn array<T: Scalar>(
        &self,
        op: &'static str,
        name: &'static str,
        shape: &[usize],
    ) -> Result<CudaSlice<T>> {
        let count = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let too_large = || Error::new(op, ErrorKind::TooLarge { name: name.into(), sizes: shape.to_vec() });
        self.allocate(op, name, count.ok_or_else(too_large)?)
    }

    fn number(&self, op: &'static str, name: &'static str) -> Result<CudaSlice<f32>> {
        self.allocate(op, name, 1)
    }

    fn run_weights<T: Element>(&self, call: &mut WeightsCall<'_, T, Cuda>) -> Result<()> {
        self.run_allocating(call)
    }

    fn run_attention<T: Element>(&self, call: &mut AttentionCall<'_, T, Cuda>) -> Result<()> {
        self.run_allocating(call)
    }

    fn run_attention_backward<T: Element>(
        &self,
        call: &mut AttentionBackwardCall<'_, T, Cuda>,
    ) -> Result<()> {
        self.run_allocating(call)
    }

    fn run_mix<T: Element>(&self, call: &mut MixCall<'_, T, Cuda>) -> Result<()> {
        self.run_allocating(call)
    }

    fn run_mix_backward<T: Element>(&self, call: &mut MixBackwardCall<'_, T, Cuda>) -> Result<()> {
        self.run_allocating(call)
    }

    fn run_loss<T: Element>(&self, call: &mut LossCall<'_, T, Cuda>) -> Result<()> {
        self.run_allocating(call)
    }
}

/// Scratch memory of a call.
type Workspace<'w> = ViewMut<'w, u8, 1, Cuda>;

impl Queue<'_> {
    /// Λ, or M̂ where attention is given, (r, b, n), with the masses (r, n).
    pub fn weights<'c, T: Element>(
        &self,
        columns: impl Into<Columns<'c, Cuda>>,
        input: &WeightsInput<'_, Cuda>,
    ) -> Result<MixMatrix<T, Cuda>> {
        op::Engine::weights(self, &columns.into(), input)
    }

    /// [`Queue::weights`] into the caller's memory.
    pub fn weights_into<T: Element>(
        &self,
        call: &mut WeightsCall<'_, T, Cuda>,
        workspace: &mut Workspace<'_>,
    ) -> Result<()> {
        self.run(call, workspace)
    }

    /// Bytes of workspace that [`Queue::weights_into`] needs.
    pub fn weights_workspace<T: Element>(&self, call: &mut WeightsCall<'_, T, Cuda>) -> Result<usize> {
        self.measure(call)
    }

    /// Compiles what [`Queue::weights_into`] needs.
    pub fn weights_compile<T: Element>(&self, call: &mut WeightsCall<'_, T, Cuda>) -> Result<()> {
        self.compile(call)
    }

    /// Attention maps a (b, r): each sums to 1 over positions.
    pub fn attention<T: Element>(
        &self,
        input: &AttentionInput<'_, T, Cuda>,
        options: &AttentionOptions,
    ) -> Result<CudaSlice<f32>> {
        op::Engine::attention(self, input, options)
    }

    /// [`Queue::attention`] into the caller's memory.
    pub fn attention_into<T: Element>(
        &self,
        call: &mut AttentionCall<'_, T, Cuda>,
        workspace: &mut Workspace<'_>,
    ) -> Result<()> {
        self.run(call, workspace)
    }

    /// Bytes of workspace that [`Queue::attention_into`] needs.
    pub fn attention_workspace<T: Element>(&self, call: &mut AttentionCall<'_, T, Cuda>) -> Result<usize> {
        self.measure(call)
    }

    /// Compiles what [`Queue::attention_into`] needs.
    pub fn attention_compile<T: Element>(&self, call: &mut AttentionCall<'_, T, Cuda>) -> Result<()> {
        self.compile(call)
    }

    /// The gradients of features, and of the classifier with CAM, from da (b, r), which is contiguous.
    pub fn attention_backward<T: Element>(
        &self,
        input: &AttentionInput<'_, T, Cuda>,
        options: &AttentionOptions,
        d_maps: &View<'_, f32, 2, Cuda>,
    ) -> Result<AttentionGradients<T, Cuda>> {
        op::Engine::attention_backward(self, input, options, d_maps)
    }

    /// [`Queue::attention_backward`] into the caller's memory.
    pub fn attention_backward_into<T: Element>(
        &self,
        call: &mut AttentionBackwardCall<'_, T, Cuda>,
        workspace: &mut Workspace<'_>,
    ) -> Result<()> {
        self.run(call, workspace)
    }

    /// Bytes of workspace that [`Queue::attention_backward_into`] needs.
    pub fn attention_backward_workspace<T: Element>(
        &self,
        call: &mut AttentionBackwardCall<'_, T, Cuda>,
    ) -> Result<usize> {
        self.measure(call)
    }

    /// Compiles what [`Queue::attention_backward_into`] needs.
    pub fn attention_backward_compile<T: Element>(
        &self,
        call: &mut AttentionBackwardCall<'_, T, Cuda>,
    ) -> Result<()> {
        self.compile(call)
    }

    /// Mixed features, and targets where they are given.
    pub fn mix<'c, T: Element>(
        &self,
        columns: impl Into<Columns<'c, Cuda>>,
        input: &MixInput<'_, T, Cuda>,
    ) -> Result<Mixed<T, Cuda>> {
        op::Engine::mix(self, &columns.into(), input)
    }

    /// [`Queue::mix`] into the caller's memory.
    pub fn mix_into<T: Element>(
        &self,
        call: &mut MixCall<'_, T, Cuda>,
        workspace: &mut Workspace<'_>,
    ) -> Result<()> {
        self.run(call, workspace)
    }

    /// Bytes of workspace that [`Queue::mix_into`] needs.
    pub fn mix_workspace<T: Element>(&self, call: &mut MixCall<'_, T, Cuda>) -> Result<usize> {
        self.measure(call)
    }

    /// Compiles what [`Queue::mix_into`] needs.
    pub fn mix_compile<T: Element>(&self, call: &mut MixCall<'_, T, Cuda>) -> Result<()> {
        self.compile(call)
    }

    /// All gradients of mixing that there are; [`cpu::mix_backward`](crate::cpu::mix_backward) says how large
    /// those of attention get.
    pub fn mix_backward<'c, T: Element>(
        &self,
        columns: impl Into<Columns<'c, Cuda>>,
        input: &MixInput<'_, T, Cuda>,
        gradients: &MixedGradients<'_, T, Cuda>,
    ) -> Result<MixGradients<T, Cuda>> {
        op::Engine::mix_backward(self, &columns.into(), input, gradients, true)
    }

    /// [`Queue::mix_backward`] into the caller's memory.
    pub fn mix_backward_into<T: Element>(
        &self,
        call: &mut MixBackwardCall<'_, T, Cuda>,
        workspace: &mut Workspace<'_>,
    ) -> Result<()> {
        self.run(call, workspace)
    }

    /// Bytes of workspace that [`Queue::mix_backward_into`] needs.
    pub fn mix_backward_workspace<T: Element>(
        &self,
        call: &mut MixBackwardCall<'_, T, Cuda>,
    ) -> Result<usize> {
        self.measure(call)
    }

    /// Compiles what [`Queue::mix_backward_into`] needs.
    pub fn mix_backward_compile<T: Element>(&self, call: &mut MixBackwardCall<'_, T, Cuda>) -> Result<()> {
        self.compile(call)
    }

    /// The loss, and its gradients where they are wanted, over the same draws.
    pub fn loss<'c, T: Element>(
        &self,
        columns: impl Into<Columns<'c, Cuda>>,
        input: &LossInput<'_, T, Cuda>,
        options: &LossOptions,
        want: Want,
    ) -> Result<Loss<T, Cuda>> {
        op::Engine::loss(self, &columns.into(), input, options, want)
    }

    /// [`Queue::loss`] into the caller's memory.
    pub fn loss_into<T: Element>(
        &self,
        call: &mut LossCall<'_, T, Cuda>,
        workspace: &mut Workspace<'_>,
    ) -> Result<()> {
        self.run(call, workspace)
    }

    /// Bytes of workspace that [`Queue::loss_into`] needs.
    pub fn loss_workspace<T: Element>(&self, call: &mut LossCall<'_, T, Cuda>) -> Result<usize> {
        self.measure(call)
    }

    /// Compiles what [`Queue::loss_into`] needs.
    pub fn loss_compile<T: Element>(&self, call: &mut LossCall<'_, T, Cuda>) -> Result<()> {
        self.compile(call)
    }

    /// A gradient times a factor, into the caller's memory. It needs no workspace.
    pub fn scale_into<T: Element, G: Element>(&self, call: &mut ScaleCall<'_, T, G, Cuda>) -> Result<()> {
        let mut views = Call::new(op::SCALE, self)?;
        let bare = call.bare(&mut views)?;
        // SAFETY: as in `run`.
        unsafe { self.bare().run(&bare, ViewMut::at(0, crate::view::Layout::contiguous([0]))) }
    }

    /// Compiles what [`Queue::scale_into`] needs.
    pub fn scale_compile<T: Element, G: Element>(&self, call: &mut ScaleCall<'_, T, G, Cuda>) -> Result<()> {
        self.compile(call)
    }
}
