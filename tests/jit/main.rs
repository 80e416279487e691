//! The run-time compiler, and what it makes of the kernels.

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod matrix;
mod mirrors;

use std::process::ExitCode;

use mirrors::{kernels_are_launched_with_what_they_take, parameter_structs_are_those_of_the_kernels};
use support::harness::Harness;
use support::nvrtc;

fn main() -> ExitCode {
    if let Some(done) = cache::compile_as_child() {
        return done;
    }
    let missing = nvrtc::any().is_none().then_some(nvrtc::MISSING);
    let mut harness = Harness::new();
    cache::add(harness.area("cache"), missing);
    matrix::add(harness.area("matrix"), missing);
    support::harness::add!(
        harness.area("mirrors"),
        None,
        parameter_structs_are_those_of_the_kernels,
        kernels_are_launched_with_what_they_take
    );
    harness.run()
}
