//! MultiMix and Dense MultiMix (NeurIPS 2023): random convex combinations of a whole mini-batch at every spatial position, weighed
//! by attention; mixed embeddings and targets, or the classification loss on them, forward and backward.
//!
//! - [`Mixing`] says how columns are drawn, [`LossOptions`] how the loss is reduced, [`AttentionOptions`] how attention is made.
//! - [`cpu`] is the engine for machines without a GPU; `cuda` the hand-written kernels; `candle` autograd over them.
//! - [`mod@reference`] is the method in f64, one function per equation: the judge of both.
//! - [`sampler`] is the contract of the random numbers, which all engines keep bit for bit.
//!
//! Names, shapes and equation numbers are those of the README and of the paper's poster: b examples, r positions, d channels, c classes,
//! n mixtures per position.

#![warn(missing_docs)]

#[cfg(feature = "candle")]
pub mod candle;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod element;
pub mod error;
pub mod problem;
pub mod reference;
pub mod sampler;
mod simd;
pub mod view;

pub use device::Device;
pub use element::{Dtype, Element};
pub use error::{Error, Result};
pub use problem::{
    Alpha, AttentionOptions, EmptyMaps, Factor, Generator, LossOptions, Mixing, Normalise, Query, Reduction,
};
pub use view::{Layout, View, ViewMut};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
