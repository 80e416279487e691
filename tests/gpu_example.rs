//! The example of a step on a GPU, as it stands in `examples/`: it checks itself against the reference.

mod common;
#[path = "../examples/cuda_step.rs"]
mod cuda_step;

use std::process::ExitCode;

use common::device;

fn main() -> ExitCode {
    device::run(|harness, missing| {
        harness.test("cuda_step", missing, || {
            device::device()?; // the virtual GPU, where there is no other
            Ok(cuda_step::main()?)
        });
    })
}
