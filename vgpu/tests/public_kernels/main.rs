//! CUDA kernels written by others, compiled by NVRTC, run on the virtual GPU, compared with host results. On
//! a machine with a GPU they run on that.
//!
//! The kernels are those of candle 0.11 (`candle-kernels`) and dfdx 0.13, two Rust machine-learning
//! frameworks. Cargo downloads their sources for the test (`sources/Cargo.toml`); nothing of them is kept
//! here. The expectations are computed in double precision from the mathematical definition of each
//! operation.
//!
//! NVRTC and the CUDA headers come from `cargo xtask nvrtc` and `cargo xtask toolkit`. Without them, or
//! without a network the first time, every kernel is reported as ignored, with the reason.

#[path = "../nvrtc/mod.rs"]
mod nvrtc;

mod bench;
mod candle;
mod candle_reduce;
mod dfdx;
mod dfdx_shapes;
mod values;

use bench::{Bench, Sources};
use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;
use std::sync::Arc;

/// What a case does; the error says what disagrees.
pub type Run = Box<dyn Fn(&Bench) -> Result<(), String> + Send>;

/// One kernel's check: its name, and what runs it.
pub struct Case {
    name: String,
    run: Run,
}

impl Case {
    pub fn new(name: impl Into<String>, run: impl Fn(&Bench) -> Result<(), String> + Send + 'static) -> Case {
        Case { name: name.into(), run: Box::new(run) }
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One at a time: each case has the device's primary context to itself.
    arguments.test_threads = Some(1);
    let cases: Vec<Case> = [dfdx::cases(), dfdx_shapes::cases(), candle::cases(), candle_reduce::cases()]
        .into_iter()
        .flatten()
        .collect();
    let sources = if arguments.list { Err(String::new()) } else { Sources::prepare() }.map(Arc::new);
    if let (Err(reason), false) = (&sources, arguments.list) {
        println!("skipped: all {} cases: {reason}", cases.len());
    }
    let trials = cases
        .into_iter()
        .map(|case| match &sources {
            Ok(sources) => {
                let sources = Arc::clone(sources);
                Trial::test(case.name, move || Bench::run(&sources, case.run).map_err(Into::into))
            }
            Err(_) => Trial::test(case.name, || Ok(())).with_ignored_flag(!arguments.list),
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!(
        "public kernels: {} agree with the host, {} do not, {} skipped",
        conclusion.num_passed, conclusion.num_failed, conclusion.num_ignored
    );
    conclusion.exit_code()
}
