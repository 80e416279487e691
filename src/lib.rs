//! MultiMix and Dense MultiMix: random convex combinations of a whole mini-batch, and the loss on them.

#![warn(missing_docs)]

#[cfg(feature = "candle")]
pub mod candle;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod element;
pub mod error;
pub mod problem;
pub mod reference;
pub mod sampler;
mod simd;
pub mod view;

pub use element::{Dtype, Element};
pub use error::{Error, Result};
pub use problem::{
    Alpha, AttentionOptions, Factor, Generator, LossOptions, Mixing, Normalise, Query, Reduction,
};
pub use view::{Layout, View, ViewMut};
