//! The table and the list of what ptxas said.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use multimix::cuda::jit::Resources;

use super::{DEVICES, Job, settings};

/// Release, and what ptxas said of each job's kernels.
pub type Report = (String, Vec<Vec<Resources>>);

/// target/variants.md: a line a kernel.
pub fn summary(jobs: &[Job], reports: &[Report]) -> String {
    let releases: Vec<&str> = reports.iter().map(|(release, _)| release.as_str()).collect();
    let all = reports.iter().flat_map(|(_, results)| results.iter().flatten());
    let (clean, spilled): (Vec<&Resources>, Vec<&Resources>) = all.partition(|kernel| kernel.is_clean());
    let mut text = String::new();
    let _ = writeln!(
        text,
        "# What ptxas makes of the kernels\n\n\
        Written by `cargo xtask variants`, from ptxas' own report. {} compilations: by NVRTC {}, of every variant \
        that an engine on a device of each architecture may ask for, whatever the call (`cuda::kernel_variants`). Each makes all \
        kernels of a file: {} in all. Kernels with spills or local memory: {}. [variants.csv](variants.csv) has \
        the registers of each variant, by one release / the other: those of the kernel named like its file, or else of the file's largest.\n",
        jobs.len() * reports.len(),
        releases.join(" and "),
        clean.len() + spilled.len(),
        spilled.len(),
    );
    let heads: String = DEVICES.iter().map(|(arch, _)| format!(" sm_{arch} |")).collect();
    let rules = "---|".repeat(DEVICES.len());
    let counts: String = DEVICES
        .iter()
        .map(|(arch, _)| format!(" {} |", jobs.iter().filter(|job| job.arch == *arch).count()))
        .collect();
    let _ = writeln!(text, "| |{heads}\n|---|{rules}\n| variants |{counts}\n");
    let _ = writeln!(text, "Registers of a thread, over variants and releases:\n");
    let _ = writeln!(text, "| kernel | compiled | static shared bytes |{heads}\n|---|---|---|{rules}");
    for (kernel, row) in rows(jobs, reports) {
        let all = || row.values().flatten();
        let shared = range(all().map(|one| one.shared_bytes));
        let registers =
            |arch| row.get(arch).map_or(String::new(), |all| range(all.iter().map(|one| one.registers)));
        let cells: String = DEVICES.iter().map(|(arch, _)| format!(" {} |", registers(arch))).collect();
        let _ = writeln!(text, "| {kernel} | {} | {shared} |{cells}", all().count());
    }
    text
}

/// By kernel and architecture.
fn rows<'r>(jobs: &[Job], reports: &'r [Report]) -> BTreeMap<&'r str, BTreeMap<u32, Vec<&'r Resources>>> {
    let mut rows: BTreeMap<&str, BTreeMap<u32, Vec<&Resources>>> = BTreeMap::new();
    for (_, results) in reports {
        for (job, kernels) in jobs.iter().zip(results) {
            for one in kernels {
                rows.entry(&one.kernel).or_default().entry(job.arch).or_default().push(one);
            }
        }
    }
    rows
}

fn range(all: impl Iterator<Item = u32> + Clone) -> String {
    let (low, high) = (all.clone().min().unwrap_or(0), all.max().unwrap_or(0));
    if low == high { low.to_string() } else { format!("{low}–{high}") }
}

/// Dynamic shared bytes and registers, by architecture.
type Line = BTreeMap<u32, (u32, String)>;

/// target/variants.csv: a line a variant, with the registers of the kernel named like its file, or else of
/// the file's largest, a release beside the other.
pub fn list(jobs: &[Job], reports: &[Report]) -> String {
    let mut lines: BTreeMap<(&str, String), Line> = BTreeMap::new();
    for (at, job) in jobs.iter().enumerate() {
        let own = |kernels: &[Resources]| {
            let named = kernels.iter().find(|one| one.kernel == job.variant.source).map(|one| one.registers);
            named.or(kernels.iter().map(|one| one.registers).max()).unwrap_or(0).to_string()
        };
        let registers: Vec<String> = reports.iter().map(|(_, results)| own(&results[at])).collect();
        let cell = (job.variant.dynamic_shared_bytes, registers.join("/"));
        lines.entry((job.variant.source, settings(&job.variant))).or_default().insert(job.arch, cell);
    }
    let heads: String = DEVICES.iter().map(|(arch, _)| format!(",sm_{arch}")).collect();
    let mut text = format!("source,variant,dynamic shared bytes{heads}\n");
    for ((source, settings), cells) in lines {
        let shared = cells.values().next().map_or(0, |(shared, _)| *shared);
        let cells: String = DEVICES
            .iter()
            .map(|(arch, _)| format!(",{}", cells.get(arch).map_or("", |(_, registers)| registers)))
            .collect();
        let _ = writeln!(text, "{source},{settings},{shared}{cells}");
    }
    text
}
