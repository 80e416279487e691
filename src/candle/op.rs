//! The ops as candle takes them: which backend runs, for which type, and what goes on the tape.

#[cfg(feature = "candle-cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use half::{bf16, f16};

use super::backend::Backend;
use super::bridge::{Argument, Float, Operand};
use super::on_cpu::Cpu;
#[cfg(feature = "candle-cuda")]
use super::on_cuda::Cuda;

/// An op on features or logits, and maybe on a second tensor, to both of which gradients flow.
pub(super) trait Differentiable: Send + Sync + 'static {
    const OP: &'static str;

    const ARGUMENTS: [Argument; 2];

    /// `T` is the type of the first argument.
    fn forward<B: Backend, T: Float>(
        &self,
        backend: &B,
        first: Operand<'_, B::Storage>,
        second: Option<Operand<'_, B::Storage>>,
    ) -> Result<(B::Storage, Shape)>;

    fn backward<B: Backend, T: Float>(&self, backend: &B, given: &Given<'_>) -> Result<TensorGradients>;
}

/// Gradients for the first argument, and for the second where that is tracked.
pub(super) type TensorGradients = (Tensor, Option<Tensor>);

/// What a backward pass is given.
pub(super) struct Given<'a> {
    pub first: &'a Tensor,
    pub second: Option<&'a Tensor>,
    pub upstream: &'a Tensor,
}

/// Runs an op, and puts it on the tape.
pub(super) fn apply<D: Differentiable>(op: D, first: &Tensor, second: Option<&Tensor>) -> Result<Tensor> {
    let [first_argument, second_argument] = D::ARGUMENTS;
    first_argument.expect(D::OP, first)?;
    let Some(second) = second else { return first.apply_op1(Op(op)) };
    if !first.device().same_device(second.device()) {
        let [first, second] = [first, second].map(|tensor| tensor.device().location());
        bail!(
            "{}: {} is on {second:?}, but {} on {first:?}",
            D::OP,
            second_argument.name,
            first_argument.name
        );
    }
    first.apply_op2(second, Op(op))
}

/// Runs `$body` with `$backend` bound to that of a device.
macro_rules! with_backend {
    ($op:expr, $device:expr, |$backend:ident| $body:expr) => {
        match $device {
            candle_core::Device::Cpu => {
                let $backend = &$crate::candle::on_cpu::Cpu;
                $body
            }
            #[cfg(feature = "candle-cuda")]
            candle_core::Device::Cuda(device) => {
                let $backend = &$crate::candle::on_cuda::Cuda::of(device)?;
                $body
            }
            other => candle_core::bail!("{}: no engine for {:?}", $op, other.location()),
        }
    };
}
pub(super) use with_backend;

/// An op on candle's tape.
struct Op<D>(D);

impl<D: Differentiable> Op<D> {
    fn forward<B: Backend>(
        &self,
        backend: &B,
        first: (&B::Storage, &Layout),
        second: Option<(&B::Storage, &Layout)>,
    ) -> Result<(B::Storage, Shape)> {
        let operand = |place: usize, (storage, layout)| Operand {
            op: D::OP,
            name: D::ARGUMENTS[place].name,
            storage,
            layout,
        };
        let (first, second) = (operand(0, first), second.map(|second| operand(1, second)));
        match first.storage.dtype() {
            DType::F32 => self.0.forward::<B, f32>(backend, first, second),
            DType::F16 => self.0.forward::<B, f16>(backend, first, second),
            DType::BF16 => self.0.forward::<B, bf16>(backend, first, second),
            other => {
                let name = D::ARGUMENTS[0].name;
                bail!("{}: {name} has type {other:?}, but must be f32, f16 or bf16", D::OP)
            }
        }
    }

    fn backward(
        &self,
        first: &Tensor,
        second: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<TensorGradients> {
        let given = Given { first, second, upstream };
        with_backend!(D::OP, first.device(), |backend| self.backward_on(backend, &given))
    }

    fn backward_on<B: Backend>(&self, backend: &B, given: &Given<'_>) -> Result<TensorGradients> {
        match given.first.dtype() {
            DType::F32 => self.0.backward::<B, f32>(backend, given),
            DType::F16 => self.0.backward::<B, f16>(backend, given),
            DType::BF16 => self.0.backward::<B, bf16>(backend, given),
            other => bail!("{}: no gradient for {other:?}", D::OP),
        }
    }
}

impl<D: Differentiable> CustomOp1 for Op<D> {
    fn name(&self) -> &'static str {
        D::OP
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(&Cpu, (storage, layout), None)
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward(&Cuda::of(storage.device())?, (storage, layout), None)
    }

    fn bwd(&self, argument: &Tensor, _result: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.backward(argument, None, upstream)?.0))
    }
}

impl<D: Differentiable> CustomOp2 for Op<D> {
    fn name(&self) -> &'static str {
        D::OP
    }

    fn cpu_fwd(
        &self,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(&Cpu, (first, first_layout), Some((second, second_layout)))
    }

    #[cfg(feature = "candle-cuda")]
    fn cuda_fwd(
        &self,
        first: &CudaStorage,
        first_layout: &Layout,
        second: &CudaStorage,
        second_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let backend = Cuda::of(first.device())?;
        self.forward(&backend, (first, first_layout), Some((second, second_layout)))
    }

    fn bwd(
        &self,
        first: &Tensor,
        second: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (for_first, for_second) = self.backward(first, Some(second), upstream)?;
        Ok((Some(for_first), for_second))
    }
}
