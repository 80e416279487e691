//! The CUDA engine: kernels compiled at run time, launched on the caller's context and stream.
//!
//! [`Engine`] belongs to one [`CudaContext`](cudarc::driver::CudaContext) and holds its compiled kernels;
//! [`Engine::on`] a stream returns a [`Queue`], whose methods are the ops. Arrays are [`View`](crate::View)s
//! of cudarc's slices and views, with any strides. Nothing synchronises. Each op has an allocating form and
//! an `_into` form that allocates no device memory: outputs and workspace are the caller's, and the call can be
//! captured in a CUDA graph once its kernels are compiled: by a call before, or by the op's `_compile`
//! method, which takes the same call. Any thread may call, whatever context is current there; the engine's is
//! current afterwards.
//!
//! The default stream (null) can't be captured; take one of
//! [`new_stream`](cudarc::driver::CudaContext::new_stream). Between streams cudarc orders uses of memory by
//! events, but not in a capture: a captured call waits for no event and records none, so neither its launches
//! nor those of the graph are ordered with what other streams do to the same memory. That is the caller's to
//! do, by `join` or `synchronize`: before the graph is launched, and before its results are used on another
//! stream. The memory must outlive the graph; the engine need not.
//!
//! [`Engine::on_bare`] returns the same ops over plain device pointers and a `CUstream`, for callers with
//! another allocator.
//!
//! Needs a driver of CUDA 12.0 or later, NVRTC 12.0 or later ([`jit`] says where it is looked for), and
//! compute capability 7.5 or later. What is missing is an [`Error`](crate::Error) that says what to install;
//! nothing here panics for it.
//!
//! The values of device arrays cannot be looked at from the host without waiting. A label that is no class
//! counts as none: its example has a target of zeros. Attention and explicit weights must be finite and not
//! negative; otherwise results are unspecified, though nothing is read or written outside the arrays.
//!
//! # Special values
//!
//! As [on the CPU](crate::cpu#special-values) for masked classes, empty attention maps, and attention of any
//! finite features. What differs:
//!
//! - Logits of 16 bits are mixed with weights of 16 bits: an example whose weight f16 rounds to 0 (below
//!   3e-8) masks nothing.
//! - A column of explicit weights without any, which the CPU engine refuses, mixes to zeros; its loss is
//!   finite and means nothing.
//! - Sums are in f32 without a second try: mixed features that round past f32 are infinite, and so may be
//!   losses of logits past 1e37 or of soft targets past 1e6, and gradients from upstream gradients past 1e30;
//!   where infinities of both signs meet, NaN.

mod advice;
mod aside;
mod attention;
mod call;
mod catalogue;
mod columns;
mod device;
mod engine;
mod image;
pub mod jit;
mod loss;
mod loss_backward;
mod loss_backward_attention;
mod loss_forward;
mod matrix;
mod memory;
mod mix;
mod mix_backward;
mod mix_backward_attention;
mod modules;
mod plan;
mod queue;
mod scale;
mod split;
mod tile;
mod variant;
mod weights;

pub(crate) use advice::driver_error;
pub use catalogue::{KernelVariant, kernel_variants, launches};
pub use cudarc;
pub use device::{DeviceInfo, open};
pub use engine::{Engine, KernelReport};
pub use memory::{Bare, Cuda};
pub use queue::{BareCall, BareQueue, Precision, Queue};
