//! How many thread instructions the virtual GPU executes per second, and what its checks cost.
//!
//! `cargo bench -p vgpu`. Each kernel runs five times with all checks and without the optional ones, turn
//! about; the fastest run of each counts. `VGPU_THREADS` sets the host threads. Rates are given per second of
//! wall time and per second of CPU time of one core: the latter do not suffer from what else the machine
//! does.

use cpu_time::ProcessTime;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vgpu::exec::{Device, LaunchSpec, launch};
use vgpu::memory::GlobalMemory;
use vgpu::program::Module;
use vgpu::{Checks, Settings};

const RUNS: u32 = 5;
const N: u32 = 256;

struct Case {
    kernel: &'static str,
    grid: [u32; 3],
    threads: u32,
    /// Pointers to `N * N` floats, then one integer for those kernels that take it.
    pointers: usize,
    integer: Option<i32>,
}

const CASES: [Case; 5] = [
    Case { kernel: "gemm", grid: [N / 64, N / 64, 1], threads: 256, pointers: 3, integer: Some(N as i32) },
    Case {
        kernel: "gemm_naive",
        grid: [N / 32, N / 32, 1],
        threads: 1024,
        pointers: 3,
        integer: Some(N as i32),
    },
    Case { kernel: "philox", grid: [64, 1, 1], threads: 256, pointers: 1, integer: Some(40) },
    Case { kernel: "copy", grid: [N * N / 256, 1, 1], threads: 256, pointers: 2, integer: None },
    Case { kernel: "copy_halves", grid: [N * N / 256, 1, 1], threads: 256, pointers: 2, integer: None },
];

fn main() {
    let memory = Arc::new(GlobalMemory::new(1 << 30).expect("address space"));
    let module = Module::load(include_str!("kernels.ptx"), &memory).expect("the bench's own PTX loads");
    let variable = |name: &str| std::env::var(name).ok();
    let settings = Settings::from_variables(variable).unwrap_or_else(|error| panic!("{error}"));
    let buffers: Vec<u64> = (0..3)
        .map(|_| {
            let address = memory.alloc(u64::from(N * N * 4)).expect("memory");
            memory.fill(address, &1f32.to_le_bytes(), u64::from(N * N)).expect("just allocated");
            address
        })
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = if settings.threads == 0 { cores } else { settings.threads };
    println!("millions of thread instructions per second, {threads} host threads");
    println!(
        "{:12} {:>9} {:>10} {:>10} {:>10} {:>7}",
        "kernel", "millions", "checks on", "per core", "checks off", "cost"
    );
    for case in &CASES {
        let (mut checked, mut plain) = (Time::MAX, Time::MAX);
        let mut instructions = 0;
        for _ in 0..RUNS {
            let (time, count) = run(case, &module, &memory, &buffers, &settings, Checks::ALL);
            checked = checked.min(time);
            instructions = count;
            plain = plain.min(run(case, &module, &memory, &buffers, &settings, Checks::NONE).0);
        }
        let millions = instructions as f64 / 1e6;
        let rate = |time: Duration| millions / time.as_secs_f64();
        let cost = checked.cpu.as_secs_f64() / plain.cpu.as_secs_f64();
        println!(
            "{:12} {millions:9.1} {:10.0} {:10.0} {:10.0} {cost:6.2}x",
            case.kernel,
            rate(checked.wall),
            rate(checked.cpu),
            rate(plain.wall),
        );
    }
}

/// Wall time, and CPU time of all threads.
#[derive(Clone, Copy)]
struct Time {
    wall: Duration,
    cpu: Duration,
}

impl Time {
    const MAX: Time = Time { wall: Duration::MAX, cpu: Duration::MAX };

    fn min(self, other: Time) -> Time {
        Time { wall: self.wall.min(other.wall), cpu: self.cpu.min(other.cpu) }
    }
}

fn run(
    case: &Case,
    module: &Module,
    memory: &Arc<GlobalMemory>,
    buffers: &[u64],
    settings: &Settings,
    checks: Checks,
) -> (Time, u64) {
    let kernel = module.kernel(case.kernel).expect("the bench's own kernel");
    let mut params: Vec<u8> = buffers[..case.pointers].iter().flat_map(|p| p.to_le_bytes()).collect();
    params.extend(case.integer.iter().flat_map(|n| n.to_le_bytes()));
    let settings = Settings { checks, ..settings.clone() };
    let spec = LaunchSpec {
        kernel: &kernel,
        memory,
        device: &Device::default(),
        grid: case.grid,
        block: [case.threads, 1, 1],
        dynamic_shared: 0,
        params: &params,
        cooperative: false,
        settings: &settings,
    };
    let (start, cpu) = (Instant::now(), ProcessTime::now());
    let counters = launch(&spec).unwrap_or_else(|fault| panic!("{fault}"));
    (Time { wall: start.elapsed(), cpu: cpu.elapsed() }, counters.total_thread_instructions())
}
