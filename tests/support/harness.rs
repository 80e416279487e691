//! Runs tests, some of which this machine may not be able to run.

use std::fmt::Display;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A list of tests that run in turn: the device, its settings and all cores are each one's own.
#[derive(Default)]
pub struct Harness {
    area: &'static str,
    trials: Vec<Trial>,
    skipped: Vec<String>,
}

impl Harness {
    pub fn new() -> Self {
        Self::default()
    }

    /// What the names of the tests that are added next begin with.
    pub fn area(&mut self, name: &'static str) -> &mut Self {
        self.area = name;
        self
    }

    /// Adds a test that runs where `missing` is none; else it is reported as ignored, for that reason.
    pub fn test<O: Outcome>(
        &mut self,
        name: &str,
        missing: Option<&str>,
        test: impl FnOnce() -> O + Send + 'static,
    ) {
        let name = format!("{}::{name}", self.area);
        if let Some(reason) = missing {
            self.skipped.push(format!("{name}: {reason}"));
        }
        self.trials.push(Trial::test(name, || test().outcome()).with_ignored_flag(missing.is_some()));
    }

    /// Runs them all.
    pub fn run(self) -> ExitCode {
        let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
        let conclusion = libtest_mimic::run(&arguments, self.trials);
        if !(arguments.ignored || arguments.include_ignored) {
            for skipped in &self.skipped {
                eprintln!("skipped {skipped}");
            }
        }
        conclusion.exit_code()
    }
}

/// Adds functions to a [`Harness`] by their own names.
macro_rules! add {
    ($harness:expr, $missing:expr, $($test:ident),+ $(,)?) => {
        $($harness.test(stringify!($test), $missing, $test);)+
    };
}
pub(crate) use add;

/// What a test gives back: nothing where it panics when it fails.
pub trait Outcome {
    fn outcome(self) -> Result<(), Failed>;
}

impl Outcome for () {
    fn outcome(self) -> Result<(), Failed> {
        Ok(())
    }
}

impl<E: Display> Outcome for Result<(), E> {
    fn outcome(self) -> Result<(), Failed> {
        self.map_err(Failed::from)
    }
}
