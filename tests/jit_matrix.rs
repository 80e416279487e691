//! What ptxas makes of the kernels: nothing may live in local memory, on any architecture, by any release of NVRTC.
//!
//!     cargo test --test jit_matrix                # a few variants of every kernel, over three architectures
//!     cargo test --test jit_matrix -- --ignored   # all pairs of options, all architectures and releases; writes docs/variants.md
//!
//! An engine may ask for some thousands of variants (`cuda::kernel_variants`). Compiled are those of a covering choice: each pair of
//! values that two macros of a kernel can have together occurs in one of them.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::Harness;
use common::harness::passes;
use multimix::cuda::jit::{Cache, Compiler, Nvrtc, Resources, Target};
use multimix::cuda::{DeviceInfo, KernelVariant, kernel_variants};

/// Compute capabilities, with the shared memory in KiB that a block of such a device may have.
const DEVICES: [(u32, u32); 7] = [(75, 64), (80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)];

fn main() -> ExitCode {
    let missing = (common::nvrtc::any().is_none()).then_some("no NVRTC here; `cargo xtask nvrtc` fetches it");
    let mut harness = Harness::new();
    harness.test("a_sample_stays_in_registers", missing, passes(a_sample_stays_in_registers));
    let optional = missing.or(Some("takes long; asked for by --ignored"));
    harness.test("everything_stays_in_registers", optional, passes(everything_stays_in_registers));
    harness.run()
}

fn device((capability, kib): (u32, u32)) -> DeviceInfo {
    DeviceInfo {
        name: format!("sm_{capability}"),
        capability,
        multiprocessors: 100,
        shared_per_block: kib << 10,
        shared_per_multiprocessor: kib << 10,
        driver_version: 13_000,
    }
}

/// Every file of kernels for each of three architectures, and every value of each macro for one of them.
fn a_sample_stays_in_registers() {
    let nvrtc = Nvrtc::open(&common::nvrtc::any().expect("checked in main")).unwrap();
    let compiler = Compiler::new(nvrtc, Cache::from_environment());
    let (mut jobs, mut seen) = (vec![], HashSet::new());
    for at in [DEVICES[4], DEVICES[1], DEVICES[0]] {
        let variants = kernel_variants(&device(at));
        let fresh = |variant: &KernelVariant| -> Vec<Group> {
            let values = groups(variant, 1).into_iter().filter(|group| !seen.contains(group));
            values.chain([(variant.source, vec![])]).collect()
        };
        let picked = chosen(&variants, &HashSet::new(), fresh);
        seen.extend(picked.iter().flat_map(|variant| groups(variant, 1)));
        jobs.extend(picked.into_iter().map(|variant| Job { arch: at.0, variant }));
    }
    let results = compile(&compiler, &jobs);
    let spilling = spilling(&jobs, &results);
    println!("{} variants, {} kernels", jobs.len(), results.iter().map(Vec::len).sum::<usize>());
    assert!(spilling.is_empty(), "{}", spilling.join("\n"));
}

fn everything_stays_in_registers() {
    let releases = common::nvrtc::fetched();
    assert!(releases.len() >= 2, "`cargo xtask nvrtc` fetches two releases");
    let jobs = all_jobs();
    let (mut reports, mut wrong) = (vec![], vec![]);
    for release in &releases {
        let compiler = Compiler::new(Nvrtc::open(release).unwrap(), Cache::from_environment());
        let (major, minor) = compiler.nvrtc().version();
        println!("NVRTC {major}.{minor}: {} variants", jobs.len());
        let results = compile(&compiler, &jobs);
        wrong.extend(spilling(&jobs, &results));
        reports.push((format!("{major}.{minor}"), results));
    }
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/variants.md");
    std::fs::write(&to, table(&jobs, &reports)).unwrap();
    println!("wrote {}", to.display());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A variant for an architecture.
struct Job {
    arch: u32,
    variant: KernelVariant,
}

/// Those of all architectures, the same ones for as many as have them.
fn all_jobs() -> Vec<Job> {
    let (mut jobs, mut liked) = (vec![], HashSet::new());
    for at in DEVICES {
        for variant in chosen(&kernel_variants(&device(at)), &liked, |variant| groups(variant, 2)) {
            liked.insert(name(&variant));
            jobs.push(Job { arch: at.0, variant });
        }
    }
    jobs
}

fn name(variant: &KernelVariant) -> String {
    let macros = variant.macros.iter().map(|(name, value)| format!(" {name}={value}"));
    macros.fold(variant.source.to_owned(), |name, part| name + &part)
}

/// Values that macros of a file have together.
type Group = (&'static str, Vec<(&'static str, String)>);

/// Values of a variant's macros, in groups of up to `strength`.
fn groups(variant: &KernelVariant, strength: usize) -> Vec<Group> {
    let macros = &variant.macros;
    let mut groups: Vec<Vec<_>> = macros.iter().map(|one| vec![one.clone()]).collect();
    if strength == 2 {
        let pairs =
            |x: usize| macros[x + 1..].iter().map(move |other| vec![macros[x].clone(), other.clone()]);
        groups.extend((0..macros.len()).flat_map(pairs).collect::<Vec<_>>());
    }
    groups.into_iter().map(|group| (variant.source, group)).collect()
}

/// Variants in which all groups occur, greedily: those that are liked first, then those that add most.
fn chosen(
    variants: &[KernelVariant],
    liked: &HashSet<String>,
    groups: impl Fn(&KernelVariant) -> Vec<Group>,
) -> Vec<KernelVariant> {
    let groups: Vec<_> = variants.iter().map(groups).collect();
    let liked: Vec<bool> = variants.iter().map(|variant| liked.contains(&name(variant))).collect();
    let mut open: HashSet<&Group> = groups.iter().flatten().collect();
    let mut chosen = vec![];
    while !open.is_empty() {
        let gain = |&at: &usize| {
            let adds = groups[at].iter().filter(|group| open.contains(group)).count();
            (adds > 0 && liked[at], adds, std::cmp::Reverse(at))
        };
        let best = (0..variants.len()).max_by_key(gain).expect("what is open occurs somewhere");
        open.retain(|group| !groups[best].contains(group));
        chosen.push(variants[best].clone());
    }
    chosen
}

/// Compiles on all cores; what ptxas says of each job's kernels.
fn compile(compiler: &Compiler, jobs: &[Job]) -> Vec<Vec<Resources>> {
    let (next, done) = (AtomicUsize::new(0), std::sync::Mutex::new(vec![vec![]; jobs.len()]));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((at, job)) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|at| jobs.get(at).map(|job| (at, job)))
                {
                    let image = compiler.image(&job.variant.program, Target::Real(job.arch)).unwrap();
                    assert!(!image.cubin.is_empty(), "{}", name(&job.variant));
                    done.lock().unwrap()[at] = image.resources();
                }
            });
        }
    });
    done.into_inner().unwrap()
}

fn spilling(jobs: &[Job], results: &[Vec<Resources>]) -> Vec<String> {
    let mut wrong = vec![];
    for (job, kernels) in jobs.iter().zip(results) {
        assert!(!kernels.is_empty(), "ptxas said nothing of {}", name(&job.variant));
        for kernel in kernels.iter().filter(|kernel| !kernel.is_clean()) {
            wrong.push(format!("sm_{}: {}: {kernel:?}", job.arch, name(&job.variant)));
        }
    }
    wrong
}

/// Registers by architecture.
type Row = BTreeMap<u32, Vec<u32>>;

fn table(jobs: &[Job], reports: &[(String, Vec<Vec<Resources>>)]) -> String {
    let releases: Vec<&str> = reports.iter().map(|(release, _)| release.as_str()).collect();
    let mut kernels: BTreeMap<String, (Vec<&Resources>, Row)> = BTreeMap::new();
    let mut variants: BTreeMap<(String, String, u32), Row> = BTreeMap::new();
    for (at, job) in jobs.iter().enumerate() {
        for (_, results) in reports {
            for resources in &results[at] {
                let kernel = kernels.entry(resources.kernel.clone()).or_default();
                kernel.0.push(resources);
                kernel.1.entry(job.arch).or_default().push(resources.registers);
                let macros = name(&job.variant).split_once(' ').map(|(_, macros)| macros.to_owned());
                let key =
                    (resources.kernel.clone(), macros.unwrap_or_default(), job.variant.dynamic_shared_bytes);
                variants.entry(key).or_default().entry(job.arch).or_default().push(resources.registers);
            }
        }
    }
    let spilled = reports.iter().flat_map(|(_, results)| results.iter().flatten());
    let spilled = spilled.filter(|kernel| !kernel.is_clean()).count();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "# What ptxas makes of the kernels\n\n\
        Written by `cargo test --test jit_matrix -- --ignored`, from ptxas' own report. {} compilations by NVRTC {}: variants in which \
        each pair of values that two macros can have together occurs, of all that an engine on such a device may ask for \
        (`cuda::kernel_variants`). Kernels with spills or local memory: {spilled}.\n",
        jobs.len() * reports.len(),
        releases.join(" and "),
    );
    let archs: Vec<u32> = DEVICES.iter().map(|(arch, _)| *arch).collect();
    let heads: String = archs.iter().map(|arch| format!(" sm_{arch} |")).collect();
    let rules = "---|".repeat(archs.len());
    let cells = |row: &Row, show: &dyn Fn(&[u32]) -> String| -> String {
        archs
            .iter()
            .map(|arch| format!(" {} |", row.get(arch).map_or(String::new(), |all| show(all))))
            .collect()
    };
    let range = |all: &[u32]| {
        let (low, high) = (all.iter().min().unwrap_or(&0), all.iter().max().unwrap_or(&0));
        if low == high { low.to_string() } else { format!("{low}–{high}") }
    };
    let _ = writeln!(text, "Registers of a thread, over variants and releases:\n");
    let _ = writeln!(text, "| kernel | compiled | static shared bytes |{heads}\n|---|---|---|{rules}");
    for (kernel, (all, row)) in &kernels {
        let shared: Vec<u32> = all.iter().map(|one| one.shared_bytes).collect();
        let _ = writeln!(text, "| {kernel} | {} | {} |{}", all.len(), range(&shared), cells(row, &range));
    }
    let _ = writeln!(
        text,
        "\nRegisters of each variant, by NVRTC {}; the kernels of a file that do not depend on the variant are left out:\n",
        releases.join(" / ")
    );
    let _ = writeln!(text, "| kernel | variant | dynamic shared bytes |{heads}\n|---|---|---|{rules}");
    let fixed = |kernel: &str| {
        let secondary = ["_sum", "_sums", "_finish", "prepare_maps", "prepare_attention"];
        secondary.iter().any(|end| kernel.ends_with(end))
    };
    let each = |all: &[u32]| all.iter().map(u32::to_string).collect::<Vec<_>>().join(" / ");
    for ((kernel, macros, shared), row) in variants.iter().filter(|((kernel, ..), _)| !fixed(kernel)) {
        let _ = writeln!(text, "| {kernel} | {macros} | {shared} |{}", cells(row, &each));
    }
    text
}
