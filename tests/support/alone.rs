//! Tests that need a process to themselves.

use std::env;
use std::process::Command;

/// Set for the process of one test.
const ALONE: &str = "MULTIMIX_TEST_ALONE";

/// Runs a test, named as `--exact` takes it, in a process in which no other runs; what it prints is printed.
pub fn alone(test: &str, run: impl FnOnce()) {
    if env::var_os(ALONE).is_some() {
        return run();
    }
    let mut child = Command::new(env::current_exe().expect("a test has a file"));
    child.args([test, "--exact", "--nocapture"]).env(ALONE, "1");
    let output = child.output().expect("a test can start itself");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    println!("{}{}", text[0], text[1]);
    assert!(output.status.success() && text[0].contains("1 passed"), "{test} failed in its own process");
}
