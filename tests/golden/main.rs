//! The same bits and the same launches as before: a fixed list of calls against files of what they gave.
//!
//! `MULTIMIX_BLESS=1` writes the files. `cpu.txt` and `gpu-<capability>.txt` have a line for each output, with a hash of its bits;
//! `launches-<capability>.txt` has each call's launches. Those of GPUs are the virtual GPU's: of a real one the bits of approximate
//! instructions differ, and nothing is compared. They are the same for any order of blocks, number of threads and release of NVRTC
//! (12.9 and 13.5 were tried). On the CPU bits depend on how wide the machine's registers are: see the head of `cpu.txt`.

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod list;
mod problem;
mod record;

use std::process::{Command, ExitCode, Stdio};

use common::device::{self, Device, device};
use record::Record;

/// Set where the process only runs the calls and tells of them on stderr, among the engine's lines about launches.
const WORKER: &str = "MULTIMIX_GOLDEN_WORKER";
const CALL: &str = "golden call ";
const RESULT: &str = "golden result ";
const TRACE: &str = "multimix: ";

fn main() -> ExitCode {
    if std::env::var_os(WORKER).is_some() {
        return work();
    }
    device::run(|harness, missing| {
        let real = || matches!(device(), Ok(device) if device.virtual_gpu.is_none());
        let missing = match missing {
            None if real() => Some("the files are of the virtual GPU"),
            missing => missing,
        };
        harness.test("device", missing, || on_device().map_err(Into::into));
        // Each capability's process comes by here.
        let again = std::env::var("VGPU_CC").is_ok_and(|capability| capability != "8.0");
        let elsewhere = other_machine();
        let missing = if again { Some("runs with capability 8.0") } else { elsewhere.as_deref() };
        harness.test("cpu", missing, || on_cpu().map_err(Into::into));
    })
}

/// FNV-1a.
fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Runs all calls that the device can do.
fn work() -> ExitCode {
    let device = match device() {
        Ok(device) => device,
        Err(missing) => {
            eprintln!("{missing}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(gpu) = &device.virtual_gpu {
        // What they find is other tests' business; without them all is done in half the time.
        gpu.set("checks", "none").expect("checks can always be switched off");
    }
    for problem in list::problems() {
        if !calls::runs_on(device, &problem) {
            continue;
        }
        eprintln!("{CALL}{}", problem.name);
        for (output, bytes) in calls::on_device(device, &problem) {
            eprintln!("{RESULT}{} {output} {:016x}", problem.name, hash(bytes));
        }
    }
    ExitCode::SUCCESS
}

/// The calls in a process of their own: whether launches are traced is read from the environment once.
fn on_device() -> Result<(), String> {
    let worker = std::env::current_exe().and_then(|this| {
        let mut worker = Command::new(this);
        worker.env(WORKER, "1").env("MULTIMIX_TRACE", "1").stdout(Stdio::null());
        worker.output()
    });
    let output = worker.map_err(|error| format!("a test can start itself: {error}"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = log.lines().collect();
        return Err(format!("the worker failed:\n{}", lines[lines.len().saturating_sub(20)..].join("\n")));
    }
    let capability = capability(device()?);
    let (results, launches) = sort(&log);
    let header = |what: &str| {
        let made = "by MULTIMIX_BLESS=1 cargo xtask run -- cargo test --test golden";
        vec![format!("{what} on the virtual GPU of capability {capability}; {made}")]
    };
    let results = Record { header: header("FNV-1a of every output"), entries: results };
    let launches = Record { header: header("Launches of every call"), entries: launches };
    let checks = [
        results.check(&format!("gpu-{capability}.txt")),
        launches.check(&format!("launches-{capability}.txt")),
    ];
    let problems: Vec<String> = checks.into_iter().filter_map(Result::err).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn capability(device: &Device) -> String {
    let capability = device.engine.device().capability;
    format!("{}.{}", capability / 10, capability % 10)
}

/// A worker's lines: results by name, and launches by call.
fn sort(log: &str) -> (Vec<(String, String)>, Vec<(String, String)>) {
    let (mut results, mut launches) = (vec![], Vec::<(String, String)>::new());
    for line in log.lines() {
        if let Some(name) = line.strip_prefix(CALL) {
            launches.push((name.into(), String::new()));
        } else if let Some((name, hash)) = line.strip_prefix(RESULT).and_then(|line| line.rsplit_once(' ')) {
            results.push((name.into(), hash.into()));
        } else if let Some(launch) = line.strip_prefix(TRACE).filter(|line| line.contains(": grid "))
            && let Some((_, lines)) = launches.last_mut()
        {
            *lines += &format!("{launch}\n");
        }
    }
    (results, launches)
}

/// Why the CPU's file says nothing about this machine, if so.
fn other_machine() -> Option<String> {
    let lanes = lanes();
    let recorded = Record::read("cpu.txt")?.header.iter().find(|line| line.starts_with("lanes "))?.clone();
    let bless = std::env::var_os("MULTIMIX_BLESS").is_some();
    (!bless && recorded != lanes)
        .then(|| format!("cpu.txt was made with {recorded}, this machine has {lanes}"))
}

/// The machine's registers, as the engine sees them.
fn lanes() -> String {
    struct Lanes;
    impl pulp::WithSimd for Lanes {
        type Output = usize;
        fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    format!("lanes {} of f32 on {}", pulp::Arch::new().dispatch(Lanes), std::env::consts::ARCH)
}

fn on_cpu() -> Result<(), String> {
    let mut entries = vec![];
    for problem in list::problems() {
        for (output, bytes) in calls::on_cpu(&problem).into_iter().flatten() {
            entries.push((format!("cpu {} {output}", problem.name), format!("{:016x}", hash(bytes))));
        }
    }
    let header = vec![
        "FNV-1a of every output on the CPU; by MULTIMIX_BLESS=1 cargo xtask run -- cargo test --test golden"
            .into(),
        lanes(),
        // Tried with the `x86-v4` features of pulp and gemm off, which leaves 8 lanes.
        "With 8 lanes all attention differs, whose sums have as many parts as there are lanes, and dS of loss/b3 and loss/n1100-f32,".into(),
        "by the kernels of gemm; the rest is the same. With other lanes than these nothing is compared. Sums of gemm over many examples".into(),
        "may depend on the caches' sizes too, and softmax on the C library.".into(),
    ];
    Record { header, entries }.check("cpu.txt")
}
