//! Autograd operations for [candle](candle_core) tensors, over the engines of this crate.
//!
//! Each op takes and gives tensors, and gradients flow through it as through candle's own. Tensors are f32,
//! f16 or bf16, of any strides, on the CPU or a CUDA device; only attention and explicit weights are read as
//! f32. The loss computes its gradient in the same pass as its value when something upstream is tracked, so
//! that a backward pass draws nothing.
//!
//! The versions go together: candle-core and candle-nn 0.11. A classifier that ends in a linear layer needs
//! five lines for Dense MultiMix, because mixing commutes with it:
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use multimix::{Alpha, AttentionOptions, LossOptions, Mixing, candle};
//!
//! # fn main() -> candle_core::Result<()> {
//! # let (b, d, h, w, c) = (8, 5, 2, 2, 3);
//! # let map = Tensor::rand(0f32, 1f32, (b, d, h, w), &Device::Cpu)?; // what an encoder returns
//! # let classifier = Var::zeros((d, c), candle_core::DType::F32, &Device::Cpu)?;
//! # let labels = Tensor::new(&[0u32, 1, 2, 0, 1, 2, 0, 1], &Device::Cpu)?;
//! # let step = 0;
//! let features = candle::positions(&map)?; // (b, d, h, w) to (b, r, d), contiguous
//! let attention = candle::attention(&features.detach(), None, &AttentionOptions::default())?;
//! let logits = features.broadcast_matmul(&classifier)?; // (b, r, c), unmixed
//! let mixing = Mixing::dirichlet(1000, Alpha::PAPER).seed(1).step(step);
//! let loss = candle::loss(&logits, &labels, Some(&attention), &mixing, &LossOptions::default())?;
//! let gradients = loss.backward()?;
//! # let given = loss.to_scalar::<f32>()?;
//! # assert!((given - (c as f32).ln()).abs() < 1e-5, "a classifier that knows nothing: log c, not {given}");
//! # let sums = gradients.get(&classifier).unwrap().sum(1)?.to_vec1::<f32>()?;
//! # assert!(sums.iter().all(|sum| sum.abs() < 1e-6), "softmax minus targets sums to 0, not {sums:?}");
//! # Ok(())
//! # }
//! ```
//!
//! A step of a training loop on real features is in the README, with heads that are not linear and input
//! mixup.
//!
//! Errors are candle's, and say what this crate's [`Error`] says.
//!
//! # CUDA
//!
//! With the feature `candle-cuda` the ops take tensors of candle's CUDA devices, on candle's own context and
//! stream; nothing waits for the device. Kernels are compiled when first needed, once for a context. As
//! everywhere on CUDA, values are not looked at: a label that is no class counts as a target of zeros;
//! attention and explicit weights must be finite and not negative.
//!
//! The feature turns on candle's own, which wants `nvcc` and the CUDA toolkit (cuBLAS, cuRAND, cudart) at
//! build time, and links with them and with the driver, so that a program does not start without. The feature
//! `cuda` alone needs none of that.
//!
//! **This link has not run on a real GPU.** The tests of `tests/cuda/candle.rs` passed on the virtual GPU of
//! compute capability 8.0 and 9.0, with candle's kernels from nvcc 13.0, and with stand-ins for cuBLAS and
//! cuRAND that give handles and compute nothing: candle makes these handles with every device, and the
//! virtual GPU cannot run the libraries themselves. Not exercised are the libraries, hence candle's matrix
//! products beside the ops, convolutions, several streams or devices, and capture in a graph.

mod attention;
mod backend;
mod bridge;
mod draw;
mod loss;
mod mix;
mod on_cpu;
#[cfg(feature = "candle-cuda")]
mod on_cuda;
mod op;

pub use attention::{Classifier, attention};
pub use bridge::positions;
pub use draw::Draw;
pub use loss::loss;
pub use mix::{MixMatrix, mix, mix_targets, weights};

use crate::error::Error;

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        candle_core::Error::wrap(error)
    }
}
