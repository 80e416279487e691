//! The CUDA engine: kernels compiled at run time, launched on the caller's context and stream.
//!
//! [`Engine`] belongs to one [`CudaContext`](cudarc::driver::CudaContext) and holds its compiled kernels;
//! [`Engine::on`] a stream gives a [`Queue`], whose methods are the ops. Arrays come as [`DeviceView`]s of
//! cudarc's slices and views, with any strides. Nothing synchronises. Each op has an allocating form and an
//! `_into` form that allocates nothing: outputs and workspace are the caller's, and the call can be captured
//! in a CUDA graph once its kernels are compiled: by a call before, or by the op's `compile_…` method, which
//! takes the same arguments. Any thread may call, whatever context is current there; the engine's is current
//! afterwards.
//!
//! The default stream (null) can't be captured; take one of
//! [`new_stream`](cudarc::driver::CudaContext::new_stream). Between streams cudarc orders uses of memory by
//! events, but not in a capture: a captured call waits for no event and records none, so neither its launches
//! nor those of the graph are ordered with what other streams do to the same memory. That is the caller's to
//! do, by `join` or `synchronize`: before the graph is launched, and before its results are used on another
//! stream. The memory must outlive the graph; the engine need not.
//!
//! [`raw`] holds the same ops over plain device pointers, strides and a `CUstream`, for callers with another allocator.
//!
//! Needs a driver of CUDA 12.0 or later, NVRTC 12.0 or later ([`jit`] says where it is looked for), and compute capability 7.5 or later.
//! What is missing is an [`Error`](crate::Error) that says what to install; nothing here panics for it.
//!
//! The values of device arrays cannot be looked at from the host without waiting. So labels must be below c, and attention and
//! explicit weights finite and not negative; otherwise results are unspecified, though nothing is written outside the outputs.
//!
//! # Special values
//!
//! As [on the CPU](crate::cpu#special-values) for masked classes, empty attention maps, and attention of any finite features. What differs:
//!
//! - Logits of 16 bits are mixed with weights of 16 bits: an example whose weight f16 rounds to 0 (below 3e-8) masks nothing.
//! - A column of explicit weights without any, which the CPU engine refuses, mixes to zeros; its loss is finite and means nothing.
//! - Sums are in f32 without a second try: mixed features that round past f32 are infinite, and so may be losses of logits past 1e37 or of
//!   soft targets past 1e6, and gradients from upstream gradients past 1e30; where infinities of both signs meet, NaN.

mod advice;
mod aside;
mod attention;
mod call;
mod catalogue;
mod device;
mod engine;
mod image;
pub mod jit;
mod loss;
mod loss_backward;
mod loss_backward_attention;
mod loss_forward;
mod loss_plan;
mod matrix;
mod mix_attention;
mod mix_backward;
mod mix_backward_plan;
mod mix_forward;
mod mix_input;
mod modules;
mod queue;
mod sampler;
mod tile;
mod variant;
mod view;
mod weights;
mod workspace;

pub(crate) use advice::driver_error;
pub use attention::{AttentionGradients, AttentionInput, AttentionOutputs, Classifier};
pub use catalogue::{KernelVariant, kernel_variants};
pub use cudarc;
pub use device::{DeviceInfo, open};
pub use engine::{Engine, KernelReport};
pub use loss::{Loss, LossGradients, LossInput, LossOutputs, Upstream};
pub use matrix::DeviceTargets;
pub use mix_backward::{MixBackwardOutputs, MixGradients, MixedGradients};
pub use mix_forward::{MixOutputs, Mixed};
pub use mix_input::{MixInput, MixTargets};
pub use queue::{DeviceElement, Precision, Queue};
pub use view::{DeviceData, DeviceDataMut, DeviceView, DeviceViewMut};
pub use weights::{WeightsInput, WeightsOutput, weights_workspace_bytes};

/// The ops over device pointers: what the typed calls come down to.
///
/// Options, shapes, strides, alignment and overlap are checked here, too; that the memory is there, in the engine's context, and free for what the
/// call does with it until the stream has run it, is the caller's promise.
pub mod raw {
    pub use super::attention::{RawAttention, attention, compile_attention};
    pub use super::loss::{RawLoss, RawLossOutputs, compile_loss, loss};
    pub use super::matrix::RawTargets;
    pub use super::mix_backward::{RawMixBackward, compile_mix_backward, mix_backward};
    pub use super::mix_forward::{RawMixForward, compile_mix_forward, mix_forward};
    pub use super::mix_input::RawMixInput;
    pub use super::sampler::RawColumns;
    pub use super::view::RawView;
    pub use super::weights::{RawWeights, compile_weights, weights, weights_workspace_bytes};
    pub use super::workspace::RawWorkspace;
}
