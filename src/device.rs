//! One API over both engines: a training step written once runs on the CPU or on a GPU.
//!
//! [`Device`] takes and gives host memory. On a GPU it uploads what a call reads and downloads what it gives,
//! which waits for the device: for arrays that live there already, use [`crate::cuda`] itself.

use crate::cpu;
use crate::element::Element;
use crate::error::Result;
use crate::op::{
    AttentionGradients, AttentionInput, Columns, Loss, LossInput, MixGradients, MixInput, MixMatrix, Mixed,
    MixedGradients, Want, WeightsInput,
};
use crate::problem::{AttentionOptions, LossOptions};
use crate::view::View;

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
pub use cuda::CudaDevice;

/// Where ops run.
///
/// ```
/// use multimix::{Alpha, Device, LossInput, LossOptions, Mixing, Targets, View, Want};
/// // On a machine with a GPU: `let device = Device::cuda(0)?;`
/// let device = Device::Cpu;
/// let logits = [2.0f32, -1.0, 0.5, 0.0, 1.0, -2.0]; // (b = 2, r = 1, c = 3)
/// let input = LossInput {
///     logits: View::new(&logits, [2, 1, 3])?,
///     targets: Targets::labels(&[0u8, 2]),
///     attention: None,
/// };
/// let (mixing, options) = (Mixing::dirichlet(64, Alpha::PAPER).seed(1), LossOptions::default());
/// let loss = device.loss(mixing, &input, &options, Want::Gradients(1.0))?;
/// // A step along the gradient lowers the loss by its squared length.
/// let gradient = loss.logits.unwrap();
/// let squared: f32 = gradient.iter().map(|g| g * g).sum();
/// let stepped: Vec<f32> = logits.iter().zip(&gradient).map(|(s, g)| s - 0.1 * g).collect();
/// let input = LossInput { logits: View::new(&stepped, [2, 1, 3])?, ..input };
/// let fall = loss.value - device.loss(mixing, &input, &options, Want::Loss)?.value;
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
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) without a driver or such a device, or with one that is
    /// too old; [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc) without NVRTC. The message says what to
    /// install.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        CudaDevice::new(ordinal).map(Device::Cuda)
    }

    /// Λ, or M̂ when attention is given; [`cpu::weights()`].
    ///
    /// # Errors
    /// As [`cpu::weights()`]; on a GPU also those of its driver and of NVRTC.
    pub fn weights<'a>(
        &self,
        columns: impl Into<Columns<'a>>,
        input: &WeightsInput<'_>,
    ) -> Result<MixMatrix> {
        dispatch!(self, weights(&columns.into(), input))
    }

    /// Attention maps from features; [`cpu::attention()`].
    ///
    /// # Errors
    /// As [`cpu::attention()`]; on a GPU also those of its driver and of NVRTC.
    pub fn attention<T: Element>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
    ) -> Result<Vec<f32>> {
        dispatch!(self, attention(input, options))
    }

    /// The gradient through attention; [`cpu::attention_backward`].
    ///
    /// # Errors
    /// As [`cpu::attention_backward`]; on a GPU also those of its driver and of NVRTC.
    pub fn attention_backward<T: Element>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
        d_maps: &View<'_, f32, 2>,
    ) -> Result<AttentionGradients<T>> {
        dispatch!(self, attention_backward(input, options, d_maps))
    }

    /// Mixed features and targets; [`cpu::mix()`].
    ///
    /// # Errors
    /// As [`cpu::mix()`]; on a GPU also those of its driver and of NVRTC.
    pub fn mix<'a, T: Element>(
        &self,
        columns: impl Into<Columns<'a>>,
        input: &MixInput<'_, T>,
    ) -> Result<Mixed<T>> {
        dispatch!(self, mix(&columns.into(), input))
    }

    /// The gradients of mixing; [`cpu::mix_backward`].
    ///
    /// # Errors
    /// As [`cpu::mix_backward`]; on a GPU also those of its driver and of NVRTC.
    pub fn mix_backward<'a, T: Element>(
        &self,
        columns: impl Into<Columns<'a>>,
        input: &MixInput<'_, T>,
        gradients: &MixedGradients<'_, T>,
    ) -> Result<MixGradients<T>> {
        dispatch!(self, mix_backward(&columns.into(), input, gradients))
    }

    /// The loss, with the gradients that are wanted; [`cpu::loss()`].
    ///
    /// # Errors
    /// As [`cpu::loss()`]; on a GPU also those of its driver and of NVRTC.
    pub fn loss<'a, T: Element>(
        &self,
        columns: impl Into<Columns<'a>>,
        input: &LossInput<'_, T>,
        options: &LossOptions,
        want: Want,
    ) -> Result<Loss<T>> {
        dispatch!(self, loss(&columns.into(), input, options, want))
    }
}
