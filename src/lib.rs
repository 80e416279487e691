//! MultiMix and Dense MultiMix (NeurIPS 2023): random convex combinations of a whole mini-batch at every
//! spatial position, weighed by attention; mixed embeddings and targets, or the classification loss on them,
//! forward and backward.
//!
//! ```text
//! cargo add multimix                      # with --no-default-features: without CUDA
//! cargo add multimix --features candle    # autograd for candle 0.11
//! ```
//!
//! The loss of a training step, with what its backward pass needs:
//!
//! ```
//! use multimix::{Alpha, LossInput, LossOptions, Mixing, Targets, View, Want, cpu};
//!
//! // A linear classifier on 4 images of 2 positions: each logit says how much a position looks like a class.
//! let (b, r, c) = (4, 2, 3);
//! let labels = [0u8, 1, 2, 0];
//! let score = |at: usize| if at % c == labels[at / (r * c)] as usize { 2.0 } else { 0.0 };
//! let logits: Vec<f32> = (0..b * r * c).map(score).collect();
//! let input = LossInput {
//!     logits: View::new(&logits, [b, r, c])?,
//!     targets: Targets::labels(&labels),
//!     attention: None,
//! };
//! let mixing = Mixing::dirichlet(1000, Alpha::PAPER).seed(7).step(0); // count step up as you train
//! let loss = cpu::loss(mixing, &input, &LossOptions::default(), Want::Gradients(1.0))?;
//!
//! // Between the loss of unmixed images and that of a classifier that knows nothing.
//! let unmixed = (2f32.exp() + 2.0).ln() - 2.0;
//! assert!(unmixed < loss.value && loss.value < 3f32.ln());
//! // Softmax minus targets: every image's gradients sum to 0.
//! assert!(loss.logits.unwrap().chunks(c).all(|row| row.iter().sum::<f32>().abs() < 1e-6));
//! # Ok::<(), multimix::Error>(())
//! ```
//!
//! - [`mod@op`] describes what each op reads and writes, over any [`Memory`].
//! - [`Mixing`] says how columns are drawn, [`LossOptions`] how the loss is reduced, [`AttentionOptions`] how
//!   attention is made.
//! - [`cpu`] is the engine for machines without a GPU; `cuda` the hand-written kernels, over cudarc 0.19;
//!   [`Device`] one API over both.
//! - `candle` is autograd over them for tensors of candle 0.11; half-precision slices are of half 2.
//! - [`mod@reference`] is the method in f64, one function per equation: the judge of both.
//! - [`sampler`] is the contract of the random numbers, which all engines keep bit for bit.
//!
//! Names, shapes and equation numbers are those of the README and of the paper's poster: b examples, r
//! positions, d channels, c classes, n mixtures per position.

#![warn(missing_docs)]

#[cfg(feature = "candle")]
pub mod candle;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod element;
pub mod error;
pub mod memory;
pub mod op;
pub mod problem;
pub mod reference;
pub mod sampler;
mod simd;
pub mod view;

pub use device::Device;
pub use element::{Dtype, Element, Scalar};
pub use error::{Error, ErrorKind, Result};
pub use memory::{Host, Memory};
pub use op::{
    AttentionBackwardCall, AttentionCall, AttentionGradients, AttentionInput, AttentionOutputs, Classifier,
    Columns, Labels, Loss, LossCall, LossInput, LossOutputs, MixBackwardCall, MixBackwardOutputs, MixCall,
    MixGradients, MixInput, MixMatrix, MixOutputs, MixTargets, Mixed, MixedGradients, ScaleCall, Targets,
    Upstream, Want, WeightsCall, WeightsInput, WeightsOutputs,
};
pub use problem::{
    Alpha, AttentionOptions, EmptyMaps, Factor, Generator, LossOptions, Mixing, Normalise, Query, Reduction,
};
pub use view::{Layout, View, ViewMut};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
