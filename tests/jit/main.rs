//! The run-time compiler, and what it makes of the kernels.

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod matrix;

use std::process::ExitCode;

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
    harness.run()
}
