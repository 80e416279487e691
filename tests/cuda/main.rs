//! The CUDA engine, and the candle ops on it: on this machine's GPU, else on the virtual one, once for each
//! generation it can be.
//!
//! Tests that need what a machine lacks are reported as ignored, with the reason, never as passed.

#[path = "../support/mod.rs"]
mod support;

mod attention;
mod calls;
#[cfg(feature = "candle-cuda")]
mod candle;
mod contexts;
mod determinism;
mod draws;
mod errors;
mod example;
mod extremes;
mod golden;
mod graph;
mod labels;
mod loss;
mod mix;
mod outputs;
mod parts;
mod upload;
mod weights;

use std::process::ExitCode;

use support::device;

fn main() -> ExitCode {
    if let Some(done) = determinism::print_as_child() {
        return done;
    }
    if let Some(done) = golden::work_as_child() {
        return done;
    }
    device::run(|harness, missing| {
        weights::add(harness.area("weights"), missing);
        draws::add(harness.area("draws"), missing);
        attention::add(harness.area("attention"), missing);
        mix::add(harness.area("mix"), missing);
        loss::add(harness.area("loss"), missing);
        labels::add(harness.area("labels"), missing);
        outputs::add(harness.area("outputs"), missing);
        parts::add(harness.area("parts"), missing);
        extremes::add(harness.area("extremes"), missing);
        determinism::add(harness.area("determinism"), missing);
        example::add(harness.area("example"), missing);
        #[cfg(feature = "candle-cuda")]
        candle::add(harness.area("candle"), missing);
        errors::add(harness.area("errors"), missing);
        graph::add(harness.area("graph"), missing);
        contexts::add(harness.area("contexts"), missing);
        golden::add(harness.area("golden"), missing);
    })
}
