//! The CPU engine, the f64 reference, the sampler, and what the README shows of them.

#[path = "../support/mod.rs"]
mod support;

mod against_reference;
mod determinism;
mod errors;
mod errors_proptest;
mod extremes;
mod gradient_scales;
mod labels;
mod memory;
mod parts;
mod readme;
mod reference;
mod sampler;
mod scale;
mod seed_and_step;
