//! One API over both engines: a training step written once runs on the CPU or on a GPU.
//!
//! [`Device`] takes and gives host memory. On a GPU it uploads what a call reads and downloads what it gives, which waits for
//! the device: for arrays that live there already, use [`crate::cuda`] itself.

use crate::cpu::{self, AttentionGradients, AttentionInput, Loss, LossGradients, LossInput, MixInput, Mixed};
use crate::cpu::{MixGradients, MixMatrix, MixedGradients, WeightsInput};
use crate::error::Result;
use crate::problem::{AttentionOptions, LossOptions, Mixing};
use crate::view::View;

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
pub use cuda::CudaDevice;

/// A storage type that every device takes: `f32`, [`half::f16`] or [`half::bf16`].
#[cfg(feature = "cuda")]
pub trait Storage: crate::cuda::DeviceElement {}
#[cfg(feature = "cuda")]
impl<T: crate::cuda::DeviceElement> Storage for T {}

/// A storage type that every device takes: `f32`, [`half::f16`] or [`half::bf16`].
#[cfg(not(feature = "cuda"))]
pub trait Storage: crate::Element {}
#[cfg(not(feature = "cuda"))]
impl<T: crate::Element> Storage for T {}

/// Where ops run.
///
/// ```
/// use multimix::cpu::{LossInput, Targets};
/// use multimix::{Alpha, Device, LossOptions, Mixing, View};
/// // On a machine with a GPU: `let device = Device::cuda(0)?;`
/// let device = Device::Cpu;
/// let logits = [2.0f32, -1.0, 0.5, 0.0, 1.0, -2.0]; // (b = 2, r = 1, c = 3)
/// let input = LossInput {
///     logits: View::new(&logits, [2, 1, 3])?,
///     targets: Targets::Labels(&[0, 2]),
///     attention: None,
///     weights: None,
/// };
/// let mixing = Mixing::dirichlet(64, Alpha::PAPER).seed(1);
/// let (loss, gradients) = device.loss_forward_backward(&mixing, &input, &LossOptions::default(), 1.0)?;
/// // A step along the gradient lowers the loss by its squared length.
/// let squared: f32 = gradients.logits.iter().map(|g| g * g).sum();
/// let stepped: Vec<f32> = logits.iter().zip(&gradients.logits).map(|(s, g)| s - 0.1 * g).collect();
/// let input = LossInput { logits: View::new(&stepped, [2, 1, 3])?, ..input };
/// let fall = loss.value - device.loss_forward(&mixing, &input, &LossOptions::default())?.value;
/// assert!((fall / (0.1 * squared) - 1.0).abs() < 0.05);
/// # Ok::<(), multimix::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Device {
    /// The CPU engine, on the current rayon pool.
    Cpu,
    /// A GPU.
    #[cfg(feature = "cuda")]
    Cuda(CudaDevice),
}

/// Runs an op on whichever engine the device is.
macro_rules! dispatch {
    ($device:expr, $op:ident($($argument:expr),*)) => {
        match $device {
            Device::Cpu => cpu::$op($($argument),*),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => device.$op($($argument),*),
        }
    };
}

impl Device {
    /// The GPU `ordinal`, with a stream of its own.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) without a driver or such a device, or with one that is too old; [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc)
    /// without NVRTC. The message says what to install.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        CudaDevice::new(ordinal).map(Device::Cuda)
    }

    /// Λ, or M̂ when attention is given; [`cpu::weights`].
    ///
    /// # Errors
    /// As [`cpu::weights`]; on a GPU also those of its driver and of NVRTC.
    pub fn weights(&self, mixing: &Mixing, input: &WeightsInput<'_>) -> Result<MixMatrix> {
        dispatch!(self, weights(mixing, input))
    }

    /// Attention maps from features; [`cpu::attention_forward`].
    ///
    /// # Errors
    /// As [`cpu::attention_forward`]; on a GPU also those of its driver and of NVRTC.
    pub fn attention_forward<T: Storage>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
    ) -> Result<Vec<f32>> {
        dispatch!(self, attention_forward(input, options))
    }

    /// The gradient through attention; [`cpu::attention_backward`].
    ///
    /// # Errors
    /// As [`cpu::attention_backward`]; on a GPU also those of its driver and of NVRTC.
    pub fn attention_backward<T: Storage>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
        d_attention: &View<'_, f32, 2>,
    ) -> Result<AttentionGradients<T>> {
        dispatch!(self, attention_backward(input, options, d_attention))
    }

    /// Mixed features and targets; [`cpu::mix_forward`].
    ///
    /// # Errors
    /// As [`cpu::mix_forward`]; on a GPU also those of its driver and of NVRTC.
    pub fn mix_forward<T: Storage>(&self, mixing: &Mixing, input: &MixInput<'_, T>) -> Result<Mixed<T>> {
        dispatch!(self, mix_forward(mixing, input))
    }

    /// The gradients of mixing; [`cpu::mix_backward`].
    ///
    /// # Errors
    /// As [`cpu::mix_backward`]; on a GPU also those of its driver and of NVRTC.
    pub fn mix_backward<T: Storage>(
        &self,
        mixing: &Mixing,
        input: &MixInput<'_, T>,
        gradients: &MixedGradients<'_, T>,
    ) -> Result<MixGradients<T>> {
        dispatch!(self, mix_backward(mixing, input, gradients))
    }

    /// The loss alone; [`cpu::loss_forward`].
    ///
    /// # Errors
    /// As [`cpu::loss_forward`]; on a GPU also those of its driver and of NVRTC.
    pub fn loss_forward<T: Storage>(
        &self,
        mixing: &Mixing,
        input: &LossInput<'_, T>,
        options: &LossOptions,
    ) -> Result<Loss> {
        dispatch!(self, loss_forward(mixing, input, options))
    }

    /// The loss, and the gradients of `upstream` times the loss; [`cpu::loss_forward_backward`].
    ///
    /// # Errors
    /// As [`cpu::loss_forward_backward`]; on a GPU also those of its driver and of NVRTC.
    pub fn loss_forward_backward<T: Storage>(
        &self,
        mixing: &Mixing,
        input: &LossInput<'_, T>,
        options: &LossOptions,
        upstream: f32,
    ) -> Result<(Loss, LossGradients<T>)> {
        dispatch!(self, loss_forward_backward(mixing, input, options, upstream))
    }
}
