//! cudarc's own unit tests and examples, as they are in its release, on the virtual GPU.
//!
//! The sources are those that cargo downloaded for this crate's dependency. They are copied into the target
//! folder, with a manifest cut down to what needs no library beside the driver and NVRTC, built there once,
//! and each test and each example is run in a process of its own. What is left out, and why, is in
//! [`EXCLUDED`].

mod nvrtc;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::Arc;
use std::{env, fs};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

/// Tests of cudarc's that say nothing about a driver's correctness, or need what is not here.
const EXCLUDED: [(&str, &str); 8] = [
    ("test_default_pinned_host_reads_are_faster_than_write_combined", "measures the host's memory types"),
    ("test_pinned_copy_is_faster", "measures a bus that is not there"),
    (
        "test_par_launch",
        "wants two kernels in half the time of two kernels: kernels here share the same cores",
    ),
    ("test_multi_stream_concurrent_reads", "executes 3e10 instructions: minutes here"),
    ("test_multi_stream_writes_block", "executes 3e10 instructions: minutes here"),
    ("test_peer_memcpy_waits_for_src_stream", "wants two devices"),
    ("peer_transfer_contexts", "wants two devices"),
    ("re_associate_context_for_memory_op", "wants two devices"),
];

/// Examples that need only the driver and NVRTC. The others want cuFile, CUPTI, or two devices.
const EXAMPLES: [&str; 11] = [
    "01-allocate",
    "02-copy",
    "03-launch-kernel",
    "04-streams",
    "05-device-repr",
    "06-threading",
    "09-constant-memory",
    "10-function-attributes",
    "12-context-config",
    "matmul-kernel",
    "nvrtc-compile",
];

/// 12.9 is the last release whose bindings include the tests of contexts beside the primary one.
const MANIFEST: &str = r#"
[package]
name = "cudarc"
version = "0.0.0"
edition = "2021"
autoexamples = true

[features]
default = ["std", "driver", "nvrtc", "dynamic-loading", "cuda-12090"]
std = []
driver = []
nvrtc = []
dynamic-loading = []
cuda-12090 = []

[dependencies]
libloading = "0.9"

[lints.rust]
unexpected_cfgs = "allow"

[workspace]
"#;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let Some(nvrtc) = nvrtc::folder() else {
        let ignored = Trial::test("cudarc's tests: no NVRTC here, `cargo xtask nvrtc` fetches it", || Ok(()));
        return libtest_mimic::run(&arguments, vec![ignored.with_ignored_flag(true)]).exit_code();
    };
    let suite = Arc::new(Suite::build(&nvrtc));
    // cudarc allocates in one way or the other, as the device's attribute 115 says.
    let tests =
        suite.tests().into_iter().flat_map(|name| [(name.clone(), "1"), (name, "0")]).map(|(name, pools)| {
            let (suite, test) = (suite.clone(), name.clone());
            let left_out = EXCLUDED.iter().find(|(excluded, _)| name.ends_with(excluded));
            let title =
                left_out.map_or(format!("{name} (pools {pools})"), |(_, reason)| format!("{name}: {reason}"));
            Trial::test(title, move || suite.run_test(&test, pools)).with_ignored_flag(left_out.is_some())
        });
    let examples = EXAMPLES.map(|name| {
        let suite = suite.clone();
        Trial::test(format!("example {name}"), move || suite.run_example(name))
    });
    libtest_mimic::run(&arguments, tests.chain(examples).collect()).exit_code()
}

/// cudarc, built.
struct Suite {
    folder: PathBuf,
    unit_tests: PathBuf,
    examples: Vec<(String, PathBuf)>,
    library_path: OsString,
}

impl Suite {
    fn build(nvrtc: &Path) -> Self {
        let folder = nvrtc::target_folder().join("cudarc-suite");
        let sources = cudarc_sources();
        for part in ["src", "examples"] {
            copy_changed(&sources.join(part), &folder.join(part));
        }
        write_changed(&folder.join("build.rs"), &fs::read(sources.join("build.rs")).unwrap());
        write_changed(&folder.join("Cargo.toml"), MANIFEST.as_bytes());
        // With the versions that are downloaded already, nothing has to be fetched.
        fs::copy(workspace().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
        let (unit_tests, examples) = compile(&folder);
        let library_path = env::join_paths([driver_folder(&folder), nvrtc.to_path_buf()]).unwrap();
        Self { folder, unit_tests, examples, library_path }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("LD_LIBRARY_PATH", &self.library_path);
        command
    }

    /// Names of all unit tests, those included that cudarc runs by themselves only.
    fn tests(&self) -> Vec<String> {
        let output = self.command(&self.unit_tests).args(["--list", "--format", "terse"]).output().unwrap();
        let list = String::from_utf8(output.stdout).unwrap();
        let names: Vec<String> =
            list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
        assert!(names.len() > 50, "cudarc has many tests: {names:?}");
        names
    }

    fn run_test(&self, name: &str, pools: &str) -> Result<(), Failed> {
        let mut command = self.command(&self.unit_tests);
        let output =
            command.args(["--exact", "--include-ignored", name]).env("VGPU_POOLS", pools).output().unwrap();
        check(&output)?;
        let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
        if ran { Ok(()) } else { Err("the test was not run".into()) }
    }

    fn run_example(&self, name: &str) -> Result<(), Failed> {
        let (_, program) = self.examples.iter().find(|(known, _)| known == name).ok_or("it was not built")?;
        check(&self.command(program).output().unwrap())
    }
}

fn check(output: &Output) -> Result<(), Failed> {
    if output.status.success() {
        return Ok(());
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{}\n{out}\n{err}", output.status).into())
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Where cargo keeps the sources of the cudarc that this crate's tests are built with.
fn cudarc_sources() -> PathBuf {
    // What other systems need was not fetched by the build, and is not needed here.
    let platform = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let output = cargo()
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            &platform,
            "--manifest-path",
        ])
        .arg(workspace().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let cudarc = packages.iter().find(|package| package["name"] == "cudarc").expect("cudarc is a dependency");
    Path::new(cudarc["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

/// A folder that holds the driver under its name.
fn driver_folder(suite: &Path) -> PathBuf {
    let folder = suite.join("driver");
    fs::create_dir_all(&folder).unwrap();
    let link = folder.join("libcuda.so");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(vgpu::library_path().unwrap(), link).unwrap();
    folder
}

/// Builds the unit tests and the examples; gives their executables.
fn compile(folder: &Path) -> (PathBuf, Vec<(String, PathBuf)>) {
    let mut command = cargo();
    command.current_dir(folder).args(["test", "--no-run", "--message-format", "json", "--lib"]);
    EXAMPLES.iter().for_each(|example| {
        command.args(["--example", example]);
    });
    // Its own target folder: the other is locked by the cargo that runs this test.
    command.arg("--target-dir").arg(folder.join("target"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let artifacts = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let (mut unit_tests, mut examples) = (None, vec![]);
    for artifact in artifacts {
        let Some(executable) = artifact["executable"].as_str().map(PathBuf::from) else { continue };
        let name = artifact["target"]["name"].as_str().unwrap().to_owned();
        match artifact["target"]["kind"][0].as_str().unwrap() {
            "example" => examples.push((name, executable)),
            _ => unit_tests = Some(executable),
        }
    }
    (unit_tests.expect("cargo built the unit tests"), examples)
}

/// Copies a tree, leaving alone the files that are there and the same, so that nothing is built anew for
/// them.
fn copy_changed(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_changed(&entry.path(), &target);
        } else {
            write_changed(&target, &fs::read(entry.path()).unwrap());
        }
    }
}

fn write_changed(path: &Path, content: &[u8]) {
    if fs::read(path).is_ok_and(|old| old == content) {
        return;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}
