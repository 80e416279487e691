//! The same bits and the same launches as before: a fixed list of calls against files of what they gave.
//!
//! `MULTIMIX_BLESS=1` writes the files. `cpu.txt` and `gpu-<capability>.txt` have a line for each output,
//! with a hash of its bits; `launches-<capability>.txt` has each call's launches. Those of GPUs are the
//! virtual GPU's: of a real one the bits of approximate instructions differ, and nothing is compared. They
//! are the same for any order of blocks, number of threads and release of NVRTC (12.9 and 13.5 were tried).
//! On the CPU bits depend on how wide the machine's registers are: see the head of `cpu.txt`.

mod calls;
mod list;
mod problem;
mod record;

use std::collections::HashSet;
use std::process::{Command, ExitCode, Stdio};

use multimix::cuda::{DeviceInfo, KernelVariant, kernel_variants};
use record::Record;

use crate::support::device::{self, device};
use crate::support::harness::{Harness, add};

/// Set where the process only runs the calls and tells of them on stderr, among the engine's lines about
/// launches.
const WORKER: &str = "MULTIMIX_GOLDEN_WORKER";
const CALL: &str = "golden call ";
const RESULT: &str = "golden result ";
const TRACE: &str = "multimix: ";
const BLESS: &str = "by MULTIMIX_BLESS=1 cargo xtask run -- cargo test --test cuda golden";

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    let real = || matches!(device(), Ok(device) if device.virtual_gpu.is_none());
    let missing = match missing {
        None if real() => Some("the files are of the virtual GPU"),
        missing => missing,
    };
    add!(harness, missing, bits_and_launches_on_the_device);
    // Each capability's process comes by here.
    let again = std::env::var("VGPU_CC").is_ok_and(|capability| capability != "8.0");
    let once = again.then_some("runs with capability 8.0");
    add!(harness, once, launches_without_a_device);
    let elsewhere = other_machine();
    add!(harness, once.or(elsewhere.as_deref()), bits_on_the_cpu);
}

/// In a child of these tests: runs all calls that the device can do.
pub fn work_as_child() -> Option<ExitCode> {
    std::env::var_os(WORKER)?;
    Some(work())
}

/// FNV-1a.
fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

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
        if !calls::runs_on(device.engine.device(), &problem) {
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
fn bits_and_launches_on_the_device() -> Result<(), String> {
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
    let (results, launches) = sort(&log);
    let capability = capability(device()?.engine.device());
    let header = format!("FNV-1a of every output on the virtual GPU of capability {capability}; {BLESS}");
    let results = Record { header: vec![header], entries: results };
    let bits = results.check(&format!("gpu-{capability}.txt"));
    all([bits, check_launches(&capability, launches)])
}

/// As the devices that the virtual GPU can be would launch them.
fn launches_without_a_device() -> Result<(), String> {
    all([(75, 64), (80, 163), (90, 227)].map(|(capability, kib)| {
        let device = device::described(capability, kib);
        let problems = list::problems().into_iter().filter(|problem| calls::runs_on(&device, problem));
        let launches = problems.map(|problem| {
            let lines = calls::launches(&device, &problem);
            (problem.name, lines.into_iter().map(|line| line + "\n").collect())
        });
        let launches: Vec<(String, String)> = launches.collect();
        all([are_in_the_catalogue(&device, &launches), check_launches(&self::capability(&device), launches)])
    }))
}

/// Every variant that is launched is one that `kernel_variants` knows.
fn are_in_the_catalogue(device: &DeviceInfo, launches: &[(String, String)]) -> Result<(), String> {
    let name = |variant: &KernelVariant| {
        let macros = variant.macros.iter().map(|(name, value)| format!(" {name}={value}"));
        format!("{}{}", variant.source, macros.collect::<String>())
    };
    let known: HashSet<String> = kernel_variants(device).iter().map(name).collect();
    let lines = launches.iter().flat_map(|(_, lines)| lines.lines());
    let variants =
        lines.filter_map(|line| line.split_once(" of ")?.1.split_once(": grid ")).map(|(name, _)| name);
    match variants.into_iter().find(|&variant| !known.contains(variant)) {
        Some(variant) => Err(format!("the catalogue for {} lacks {variant}", device.name)),
        None => Ok(()),
    }
}

fn all<const N: usize>(checks: [Result<(), String>; N]) -> Result<(), String> {
    let problems: Vec<String> = checks.into_iter().filter_map(Result::err).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn capability(device: &DeviceInfo) -> String {
    format!("{}.{}", device.capability / 10, device.capability % 10)
}

fn check_launches(capability: &str, entries: Vec<(String, String)>) -> Result<(), String> {
    let header = format!("Launches of every call on the virtual GPU of capability {capability}; {BLESS}");
    let launches = Record { header: vec![header], entries };
    launches.check_against(&format!("launches-{capability}.txt"), |(_, lines)| {
        *lines = lines.lines().map(|line| today(line) + "\n").collect();
    })
}

/// A captured launch as it is called today. Since the files were taken,
///
/// - the sums of the loss, once compiled with every variant of loss_forward, have a source of their own
///   without macros;
/// - so has the sum of a gradient's slices, once compiled with loss_backward and mix_backward: its macro OUT
///   is the gradient's type, which is that of the features or logits, and f32 of targets;
/// - loss_backward takes the type of the gradient as OUT, which in all these calls is that of the logits.
///
/// Order, grid, block and shared memory are as they were.
fn today(launch: &str) -> String {
    let Some((op, rest)) = launch.split_once(": ") else { return launch.into() };
    let Some((kernel, rest)) = rest.split_once(" of ") else { return launch.into() };
    let Some((variant, shape)) = rest.split_once(": ") else { return launch.into() };
    let value = |name: &str| variant.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let of = |kernel: &str, variant: &str| format!("{op}: {kernel} of {variant}: {shape}");
    match (kernel, value("ELEMENT"), value("SIDE")) {
        ("loss_sums" | "loss_finish", Some(_), None) => of(kernel, "loss_reduce"),
        ("loss_backward_sum", Some(element), None) => of("split_sum", &format!("split_sum OUT={element}")),
        ("mix_backward_sum", Some(element), Some("0")) => {
            of("split_sum", &format!("split_sum OUT={element}"))
        }
        ("mix_backward_sum", Some(_), Some("1")) => of("split_sum", "split_sum OUT=float"),
        ("loss_backward", Some(element), None) if value("OUT").is_none() => {
            let element = format!("ELEMENT={element}");
            of(kernel, &variant.replacen(&element, &format!("{element} OUT={}", &element[8..]), 1))
        }
        _ => launch.into(),
    }
}

/// Names with what is recorded of them.
type Named = Vec<(String, String)>;

/// A worker's lines: results by name, and launches by call.
fn sort(log: &str) -> (Named, Named) {
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

/// Since the file was taken, the CPU engine takes the classifier of CAM in the type of the features, and
/// gives its gradient so: these three calls' inputs are others. The code of then gives the same from a
/// classifier rounded to f16, with its gradient rounded after.
const RETYPED: [(&str, &str); 3] = [
    ("cpu attention/cam-relu-f16 maps", "9b3bcd6632f082a7"),
    ("cpu attention-backward/cam-relu-f16 d_features", "5e7353e82da0617a"),
    ("cpu attention-backward/cam-relu-f16 d_classifier", "007aee02b494a44f"),
];

fn bits_on_the_cpu() -> Result<(), String> {
    let mut entries = vec![];
    for problem in list::problems() {
        for (output, bytes) in calls::on_cpu(&problem).into_iter().flatten() {
            entries.push((format!("cpu {} {output}", problem.name), format!("{:016x}", hash(bytes))));
        }
    }
    let header = vec![
        format!("FNV-1a of every output on the CPU; {BLESS}"),
        lanes(),
        // Tried with the `x86-v4` features of pulp and gemm off, which leaves 8 lanes.
        "With 8 lanes all attention differs, whose sums have as many parts as there are lanes, and dS of loss/b3 and loss/n1100-f32,".into(),
        "by the kernels of gemm; the rest is the same. With other lanes than these nothing is compared. Sums of gemm over many examples".into(),
        "may depend on the caches' sizes too, and softmax on the C library.".into(),
    ];
    Record { header, entries }.check_against("cpu.txt", |(key, hash)| {
        if let Some((_, today)) = RETYPED.iter().find(|(name, _)| key == name) {
            *hash = (*today).into();
        }
    })
}
