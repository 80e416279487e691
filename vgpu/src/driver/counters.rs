//! The record of launches: kept for the C interface, written out as `VGPU_COUNTERS` asks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::{Mutex, OnceLock};

use super::stream::lock;
use crate::counters::Counters;

/// Launches since the last reset; the oldest are dropped when there are very many.
static RECORD: Mutex<Record> = Mutex::new(Record { launches: vec![], dropped: 0 });
static LAST_FAULT: Mutex<Option<String>> = Mutex::new(None);
const MOST_LAUNCHES: usize = 1 << 16;

struct Record {
    launches: Vec<Counters>,
    dropped: u64,
}

/// Where `VGPU_COUNTERS` sends the counters.
enum Sink {
    Nowhere,
    /// `table`: a table of all kernels on stderr when the process ends.
    Table(Mutex<BTreeMap<String, (u64, Counters)>>),
    /// `json:FILE`: one line for each launch, as it ends.
    Lines(Mutex<File>),
}

fn sink() -> &'static Sink {
    static SINK: OnceLock<Sink> = OnceLock::new();
    SINK.get_or_init(|| match std::env::var("VGPU_COUNTERS") {
        Err(_) => Sink::Nowhere,
        Ok(wish) => open_sink(&wish).unwrap_or_else(|problem| {
            eprintln!("vgpu: VGPU_COUNTERS={wish}: {problem}");
            Sink::Nowhere
        }),
    })
}

fn open_sink(wish: &str) -> Result<Sink, String> {
    if wish == "table" {
        // SAFETY: `print_table` is a function of this library, which is linked never to be unloaded.
        let registered = unsafe { atexit(print_table) };
        return if registered == 0 {
            Ok(Sink::Table(Mutex::default()))
        } else {
            Err("no room for atexit".into())
        };
    }
    let Some(path) = wish.strip_prefix("json:") else {
        return Err("`table` or `json:FILE` is needed".into());
    };
    let file = OpenOptions::new().create(true).append(true).open(path).map_err(|error| error.to_string())?;
    Ok(Sink::Lines(Mutex::new(file)))
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> i32;
}

/// Takes a finished launch into the record.
pub fn record(counters: Counters) {
    match sink() {
        Sink::Nowhere => {}
        Sink::Table(kernels) => {
            let mut kernels = lock(kernels);
            let (launches, sum) = kernels.entry(counters.kernel.clone()).or_default();
            *launches += 1;
            add(sum, &counters);
        }
        Sink::Lines(file) => {
            let line = to_json(&counters) + "\n";
            if let Err(error) = lock(file).write_all(line.as_bytes()) {
                eprintln!("vgpu: counters could not be written: {error}");
            }
        }
    }
    let mut record = lock(&RECORD);
    if record.launches.len() == MOST_LAUNCHES {
        record.launches.drain(..MOST_LAUNCHES / 2);
        record.dropped += MOST_LAUNCHES as u64 / 2;
    }
    record.launches.push(counters);
}

/// Keeps the report of a fault for `vgpu_fault`.
pub fn set_last_fault(report: String) {
    *lock(&LAST_FAULT) = Some(report);
}

pub fn last_fault() -> Option<String> {
    lock(&LAST_FAULT).clone()
}

/// Forgets the launches and the fault recorded so far.
pub fn reset() {
    let mut record = lock(&RECORD);
    record.launches.clear();
    record.dropped = 0;
    *lock(&LAST_FAULT) = None;
}

/// The launches since the last reset, oldest first: `{"dropped": n, "launches": [...]}`.
pub fn json() -> String {
    let record = lock(&RECORD);
    let launches: Vec<String> = record.launches.iter().map(to_json).collect();
    format!("{{\"dropped\":{},\"launches\":[{}]}}", record.dropped, launches.join(","))
}

fn to_json(counters: &Counters) -> String {
    serde_json::to_string(counters).expect("counters are numbers and strings under string keys")
}

fn add(sum: &mut Counters, more: &Counters) {
    for class in 0..sum.warp_instructions.len() {
        sum.warp_instructions[class] += more.warp_instructions[class];
        sum.thread_instructions[class] += more.thread_instructions[class];
    }
    sum.branches += more.branches;
    sum.divergent_branches += more.divergent_branches;
    for (sum, more) in [
        (&mut sum.global_loads, &more.global_loads),
        (&mut sum.global_stores, &more.global_stores),
        (&mut sum.local_loads, &more.local_loads),
        (&mut sum.local_stores, &more.local_stores),
    ] {
        sum.sectors += more.sectors;
        sum.unique_sectors += more.unique_sectors;
    }
    for (sum, more) in
        [(&mut sum.shared_loads, &more.shared_loads), (&mut sum.shared_stores, &more.shared_stores)]
    {
        sum.wavefronts += more.wavefronts;
        sum.ideal_wavefronts += more.ideal_wavefronts;
    }
    sum.global_atomics += more.global_atomics;
    sum.shared_atomics += more.shared_atomics;
    sum.flops += more.flops;
    sum.tensor_flops += more.tensor_flops;
    sum.tensor_work += more.tensor_work;
    sum.barriers += more.barriers;
}

extern "C" fn print_table() {
    let Sink::Table(kernels) = sink() else { return };
    eprint!("{}", table(&lock(kernels)));
}

/// One line for each kernel: sums over its launches.
fn table(kernels: &BTreeMap<String, (u64, Counters)>) -> String {
    let columns = [
        "launches",
        "warp instr",
        "thread instr",
        "branch eff",
        "ld sectors",
        "unique",
        "st sectors",
        "unique",
        "shared wavefr",
        "ideal",
        "local sect",
        "atomics",
        "flops",
        "tensor flops",
        "barriers",
    ];
    let width = kernels.keys().map(String::len).max().unwrap_or(0).max("kernel".len());
    let mut text = format!("{:width$}", "kernel");
    for column in columns {
        let _ = write!(text, " {column:>14}");
    }
    text.push('\n');
    for (name, (launches, sum)) in kernels {
        let _ = write!(text, "{name:width$} {launches:>14}");
        let _ = write!(text, " {:>14}", sum.total_warp_instructions());
        let _ = write!(text, " {:>14}", sum.total_thread_instructions());
        let _ = write!(text, " {:>13.1}%", 100.0 * sum.branch_efficiency());
        let numbers = [
            sum.global_loads.sectors,
            sum.global_loads.unique_sectors,
            sum.global_stores.sectors,
            sum.global_stores.unique_sectors,
            sum.shared_loads.wavefronts + sum.shared_stores.wavefronts,
            sum.shared_loads.ideal_wavefronts + sum.shared_stores.ideal_wavefronts,
            sum.local_loads.sectors + sum.local_stores.sectors,
            sum.global_atomics + sum.shared_atomics,
            sum.flops,
            sum.tensor_flops,
            sum.barriers,
        ];
        for number in numbers {
            let _ = write!(text, " {number:>14}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_kernel_with_its_sums() {
        let mut one = Counters { kernel: "saxpy".into(), flops: 64, ..Counters::default() };
        one.global_loads.sectors = 8;
        let mut sum = Counters::default();
        add(&mut sum, &one);
        add(&mut sum, &one);
        let text = table(&BTreeMap::from([("saxpy".to_owned(), (2, sum))]));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1][..5], ["saxpy", "2", "0", "0", "100.0%"]);
        assert_eq!(lines[1][5], "16");
        assert_eq!(lines[1][13], "128");
    }

    #[test]
    fn counters_survive_json() {
        let mut counters = Counters { kernel: "k\"1".into(), grid: [1, 2, 3], ..Counters::default() };
        counters.warp_instructions[3] = 7;
        let back: Counters = serde_json::from_str(&to_json(&counters)).unwrap();
        assert_eq!(back, counters);
        assert!(to_json(&counters).contains("\"half\":7"));
    }
}
