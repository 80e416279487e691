//! Runs tests, some of which this machine may not be able to run.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// A list of tests.
#[derive(Default)]
pub struct Harness {
    trials: Vec<Trial>,
    skipped: Vec<String>,
    threads: Option<usize>,
}

impl Harness {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a test that runs where `missing` is none; else it is reported as ignored, for that reason.
    pub fn test(
        &mut self,
        name: &str,
        missing: Option<&str>,
        test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
    ) -> &mut Self {
        if let Some(reason) = missing {
            self.skipped.push(format!("{name}: {reason}"));
        }
        self.trials.push(Trial::test(name, test).with_ignored_flag(missing.is_some()));
        self
    }

    /// Runs tests in turn: a device is shared by all, with its settings.
    pub fn one_at_a_time(self) -> Self {
        Self { threads: Some(1), ..self }
    }

    /// Runs them all.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads = self.threads.or(arguments.test_threads);
        let conclusion = libtest_mimic::run(&arguments, self.trials);
        if !(arguments.ignored || arguments.include_ignored) {
            for skipped in &self.skipped {
                eprintln!("skipped {skipped}");
            }
        }
        conclusion.exit_code()
    }
}

/// Turns a panic-free function into a test's result.
pub fn passes(test: fn()) -> impl FnOnce() -> Result<(), Failed> + Send + 'static {
    move || {
        test();
        Ok(())
    }
}
