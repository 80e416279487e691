//! What ptxas makes of the kernels: nothing may live in local memory, on any architecture, by any release of
//! NVRTC. And what can be said of the machine code without a device.
//!
//!     cargo test --test jit     # a few variants of every kernel
//!     cargo xtask variants      # every variant, all architectures and releases; writes target/variants.md and .csv
//!
//! The second takes hours. It notes each report in `target/jit-matrix.tsv` under the key of the program, and
//! goes on from there.

mod cubin;
mod ledger;
mod report;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ledger::Ledger;
use multimix::cuda::jit::{Cache, Compiler, Nvrtc, Resources, Target};
use multimix::cuda::{KernelVariant, kernel_variants};

use crate::support::device::described;
use crate::support::harness::{Harness, add};
use crate::support::nvrtc;

/// Compute capabilities, with the shared memory in KiB that a block of such a device may have.
const DEVICES: [(u32, u32); 7] = [(75, 64), (80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)];

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    add!(harness, missing, a_sample_stays_in_registers, cubins_are_what_the_report_says);
    let optional = missing.or(Some("takes hours; `cargo xtask variants` asks for it"));
    add!(harness, optional, every_variant_stays_in_registers);
}

/// A variant for an architecture.
struct Job {
    arch: u32,
    variant: KernelVariant,
}

/// Every file of kernels for each of three architectures, and every value of each macro for one of them.
fn a_sample_stays_in_registers() {
    let library = nvrtc::any().expect("checked in main");
    let compiler = Compiler::new(Nvrtc::open(&library).unwrap(), Cache::from_environment());
    let (mut jobs, mut seen) = (vec![], HashSet::new());
    for at in [DEVICES[4], DEVICES[1], DEVICES[0]] {
        let mut file_seen = HashSet::new();
        for variant in kernel_variants(&described(at.0, at.1)) {
            let fresh = values(&variant).into_iter().filter(|value| !seen.contains(value)).count();
            if file_seen.insert(variant.source) || fresh > 0 {
                seen.extend(values(&variant));
                jobs.push(Job { arch: at.0, variant });
            }
        }
    }
    let results = in_parallel(&jobs, |job| compile(&compiler, job));
    println!("{} variants, {} kernels", jobs.len(), results.iter().map(Vec::len).sum::<usize>());
    let spilling = spilling(&jobs, &results);
    assert!(spilling.is_empty(), "{}", spilling.join("\n"));
}

/// The values of a variant's macros.
fn values(variant: &KernelVariant) -> Vec<(&'static str, &'static str, String)> {
    variant.macros.iter().map(|(name, value)| (variant.source, *name, value.clone())).collect()
}

/// Every file of kernels for all architectures by one release, and for one of them by every other; other
/// macros each time.
fn cubins_are_what_the_report_says() {
    let releases = match nvrtc::fetched() {
        none if none.is_empty() => vec![nvrtc::any().expect("checked in main")],
        some => some,
    };
    for (turn, release) in releases.iter().enumerate() {
        let compiler = Compiler::new(Nvrtc::open(release).unwrap(), Cache::from_environment());
        let known = |at: &(u32, u32)| compiler.nvrtc().archs().contains(&at.0);
        let mut jobs = vec![];
        for (place, at) in DEVICES.into_iter().filter(known).enumerate() {
            let mut files: BTreeMap<&str, Vec<KernelVariant>> = BTreeMap::new();
            for variant in kernel_variants(&described(at.0, at.1)) {
                files.entry(variant.source).or_default().push(variant);
            }
            for (number, mut variants) in files.into_values().enumerate() {
                if turn == 0 || number % DEVICES.len() == place {
                    let variant = variants.swap_remove((31 * place + 17 * turn) % variants.len());
                    jobs.push(Job { arch: at.0, variant });
                }
            }
        }
        let kernels = in_parallel(&jobs, |job| {
            let image = compiler.image(&job.variant.program, Target::Real(job.arch)).unwrap();
            cubin::check(&image, &job.variant.program, job.arch)
        });
        let (major, minor) = compiler.nvrtc().version();
        println!("NVRTC {major}.{minor}: {} cubins, {} kernels", jobs.len(), kernels.iter().sum::<usize>());
    }
}

fn every_variant_stays_in_registers() {
    let releases = nvrtc::fetched();
    assert!(releases.len() >= 2, "`cargo xtask nvrtc` fetches two releases");
    let all = DEVICES
        .map(|at| kernel_variants(&described(at.0, at.1)).into_iter().map(move |variant| (at.0, variant)));
    let jobs: Vec<Job> = all.into_iter().flatten().map(|(arch, variant)| Job { arch, variant }).collect();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("tmp lies in the target folder");
    let ledger = Ledger::open(&target.join("jit-matrix.tsv"));
    let (mut reports, mut wrong) = (vec![], vec![]);
    for release in &releases {
        let compiler = Compiler::new(Nvrtc::open(release).unwrap(), Cache::disabled());
        let version = compiler.nvrtc().version();
        let started = std::time::Instant::now();
        let done = AtomicUsize::new(0);
        let results = in_parallel(&jobs, |job| {
            let key = job.variant.program.key(Target::Real(job.arch), version).to_string();
            let kernels = ledger.get_or_note(&key, || compile(&compiler, job));
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(250) || done == jobs.len() {
                let (major, minor) = version;
                eprintln!("NVRTC {major}.{minor}: {done} of {} after {:.0?}", jobs.len(), started.elapsed());
            }
            kernels
        });
        wrong.extend(spilling(&jobs, &results));
        reports.push((format!("{}.{}", version.0, version.1), results));
    }
    std::fs::write(target.join("variants.md"), report::summary(&jobs, &reports)).unwrap();
    std::fs::write(target.join("variants.csv"), report::list(&jobs, &reports)).unwrap();
    println!("{} variants, {} compilations; {}", jobs.len(), jobs.len() * reports.len(), target.display());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compile(compiler: &Compiler, job: &Job) -> Vec<Resources> {
    let image = compiler.image(&job.variant.program, Target::Real(job.arch)).unwrap();
    assert!(!image.cubin.is_empty(), "{}", name(&job.variant));
    image.resources()
}

fn name(variant: &KernelVariant) -> String {
    format!("{} {}", variant.source, settings(variant))
}

fn settings(variant: &KernelVariant) -> String {
    let macros = variant.macros.iter().map(|(name, value)| format!("{name}={value}"));
    macros.collect::<Vec<_>>().join(" ")
}

/// Each job's result, made on all cores.
fn in_parallel<T: Send>(jobs: &[Job], make: impl Fn(&Job) -> T + Sync) -> Vec<T> {
    let (next, made) = (AtomicUsize::new(0), Mutex::new(vec![]));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at) else { break };
                    let result = make(job);
                    made.lock().unwrap().push((at, result));
                }
            });
        }
    });
    let mut made = made.into_inner().unwrap();
    made.sort_by_key(|(at, _)| *at);
    made.into_iter().map(|(_, result)| result).collect()
}

fn spilling(jobs: &[Job], results: &[Vec<Resources>]) -> Vec<String> {
    assert_eq!(jobs.len(), results.len());
    let mut wrong = vec![];
    for (job, kernels) in jobs.iter().zip(results) {
        assert!(!kernels.is_empty(), "ptxas said nothing of {}", name(&job.variant));
        for kernel in kernels.iter().filter(|kernel| !kernel.is_clean()) {
            wrong.push(format!("sm_{}: {}: {kernel:?}", job.arch, name(&job.variant)));
        }
    }
    wrong
}
