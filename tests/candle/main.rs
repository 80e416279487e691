//! The candle ops on CPU tensors.

#[path = "../support/mod.rs"]
mod support;

mod errors;
mod ops;
mod tensors;
mod training;
