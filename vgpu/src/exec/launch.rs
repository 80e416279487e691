//! A launch: its blocks over host threads, its counters, its first finding.

use super::LaunchSpec;
use super::block::{Block, Progress};
use super::finding::{Finding, Step};
use super::order::BlockOrder;
use super::report;
use crate::arith::Noise;
use crate::counters::Counters;
use crate::fault::{Fault, FaultKind};
use crate::memory::Allocation;
use crate::program::code::Code;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Blocks that may be under way at once, per host thread, before suspended ones go on first.
const RESIDENT: usize = 64;
/// Slices that a block runs before another one has its turn.
const TURNS: u32 = 16;

static LAUNCHES: AtomicU64 = AtomicU64::new(1);

/// What the blocks of a launch share.
pub(crate) struct Launch<'a> {
    pub(crate) spec: &'a LaunchSpec<'a>,
    pub(crate) code: &'a Code,
    pub(crate) allocations: Vec<Allocation>,
    pub(crate) shared_bytes: u32,
    pub(crate) noise: Noise,
    pub(crate) order: BlockOrder,
    /// `%gridid`.
    pub(crate) number: u64,
    pub(crate) started: Instant,
    executed: AtomicU64,
    stop: AtomicBool,
    /// Taken for accesses of 16 bytes as one.
    wide: Mutex<()>,
}

/// Blocks that wait to be run, and the outcome.
struct Queue<'a> {
    next: u64,
    total: u64,
    order: Shuffled,
    suspended: VecDeque<Block<'a>>,
    idle: Vec<Block<'a>>,
    /// Blocks that some thread is running.
    running: usize,
    fault: Option<Fault>,
}

/// Runs the whole grid.
#[allow(clippy::result_large_err)] // One report per launch: moving it costs nothing beside the launch.
pub(super) fn run(spec: &LaunchSpec<'_>, code: &Code) -> Result<Counters, Fault> {
    let _exclusive = spec.memory.lock_launches();
    let launch = Launch::new(spec, code);
    let total = spec.grid.iter().map(|&n| u64::from(n)).product();
    let queue = Mutex::new(Queue {
        next: 0,
        total,
        order: Shuffled::new(total, spec.settings.seed),
        suspended: VecDeque::new(),
        idle: Vec::new(),
        running: 0,
        fault: None,
    });
    let threads = match spec.settings.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    };
    let threads = threads.min(total as usize).max(1);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| launch.work(&queue));
        }
        launch.work(&queue);
    });
    let queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    let counters = launch.counters(&queue);
    match queue.fault {
        Some(fault) => Err(fault),
        None => Ok(counters),
    }
}

fn lock<'q, 'a>(queue: &'q Mutex<Queue<'a>>) -> MutexGuard<'q, Queue<'a>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Launch<'a> {
    fn new(spec: &'a LaunchSpec<'a>, code: &'a Code) -> Launch<'a> {
        let noise = if spec.settings.noise { Noise::seeded(spec.settings.seed) } else { Noise::OFF };
        Launch {
            spec,
            code,
            allocations: spec.memory.snapshot(),
            shared_bytes: match spec.dynamic_shared {
                0 => spec.kernel.static_shared,
                dynamic => code.dynamic_shared + dynamic,
            },
            noise,
            order: BlockOrder::default(),
            number: LAUNCHES.fetch_add(1, Relaxed),
            started: Instant::now(),
            executed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            wide: Mutex::default(),
        }
    }

    pub(crate) fn lock_wide(&self) -> MutexGuard<'_, ()> {
        self.wide.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts executed warp instructions against the limit, and notices that another block has ended the
    /// launch.
    pub(crate) fn spend(&self, instructions: u64) -> Step<()> {
        let Some(limit) = self.spec.settings.instruction_limit else { return Ok(()) };
        if self.executed.fetch_add(instructions, Relaxed) + instructions > limit {
            let message = format!("more than {limit} warp instructions executed");
            return Err(Finding::new(FaultKind::Timeout, message));
        }
        Ok(())
    }

    /// One host thread's share. A panic in it ends the launch as a finding does: the other threads must not
    /// wait for the block that it leaves behind.
    fn work(&'a self, queue: &Mutex<Queue<'a>>) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run_blocks(queue))) else { return };
        self.stop.store(true, Relaxed);
        let said = panic.downcast_ref::<&str>().map(|text| text.to_string());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        let fault =
            report::at_launch(self.spec, FaultKind::Internal, format!("the virtual GPU failed: {said}"));
        lock(queue).fault.get_or_insert(fault);
    }

    /// Runs blocks until there are no more.
    fn run_blocks(&'a self, queue: &Mutex<Queue<'a>>) {
        while !self.stop.load(Relaxed) {
            let Some(mut block) = self.take(queue) else {
                let state = lock(queue);
                if state.running == 0 && state.suspended.is_empty() && state.next >= state.total {
                    return;
                }
                drop(state);
                // Another thread runs the last blocks; one of them may yet be suspended.
                std::thread::yield_now();
                continue;
            };
            let outcome = self.turn(&mut block);
            let mut state = lock(queue);
            state.running -= 1;
            match outcome {
                Ok(Progress::Done) => state.idle.push(block),
                Ok(Progress::Yield) => state.suspended.push_back(block),
                Err(finding) => {
                    self.stop.store(true, Relaxed);
                    let fault = report::fault(self, &block.state, *finding);
                    state.fault.get_or_insert(fault);
                    state.idle.push(block);
                }
            }
        }
    }

    /// The next block to run: a new one while there is room, else the one suspended longest.
    fn take(&'a self, queue: &Mutex<Queue<'a>>) -> Option<Block<'a>> {
        let mut state = lock(queue);
        let room = self.spec.cooperative || state.suspended.len() < RESIDENT;
        if state.next < state.total && room {
            let linear = state.order.at(state.next) as u32;
            state.next += 1;
            state.running += 1;
            let block = state.idle.pop();
            drop(state);
            let mut block = block.unwrap_or_else(|| Block::new(self));
            block.start(linear);
            return Some(block);
        }
        let block = state.suspended.pop_front()?;
        state.running += 1;
        Some(block)
    }

    fn turn(&self, block: &mut Block<'a>) -> Step<Progress> {
        let turns = if self.spec.cooperative { 1 } else { TURNS };
        for _ in 0..turns {
            if self.stop.load(Relaxed) || block.run()? == Progress::Done {
                return Ok(Progress::Done);
            }
        }
        Ok(Progress::Yield)
    }

    fn counters(&self, queue: &Queue<'_>) -> Counters {
        let spec = self.spec;
        let mut counters = Counters {
            kernel: spec.kernel.name.clone(),
            grid: spec.grid,
            block: spec.block,
            registers: spec.kernel.registers,
            shared_bytes: self.shared_bytes,
            ..Counters::default()
        };
        for block in queue.idle.iter().chain(&queue.suspended) {
            block.state.counts.add_to(&mut counters, self.code);
        }
        // Memory that the kernel allocated itself counts too.
        for allocation in spec.memory.snapshot() {
            let Some(arena) = spec.memory.arena(allocation.base) else { continue };
            let [loads, stores] = arena.collect(allocation.base, allocation.size);
            counters.global_loads.unique_sectors += loads.0;
            counters.global_loads.unique_bytes += loads.1;
            counters.global_stores.unique_sectors += stores.0;
            counters.global_stores.unique_bytes += stores.1;
        }
        counters
    }
}

/// A permutation of `0..len` that needs no table; seed 0 is the identity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shuffled {
    len: u64,
    step: u64,
    start: u64,
}

impl Shuffled {
    pub(crate) fn new(len: u64, seed: u64) -> Shuffled {
        if seed == 0 || len < 2 {
            return Shuffled { len, step: 1, start: 0 };
        }
        // The finaliser of splitmix64.
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        let mut step = x % len;
        while gcd(step, len) != 1 {
            step = (step + 1) % len;
        }
        Shuffled { len, step, start: (x >> 32) % len }
    }

    pub(crate) fn at(&self, index: u64) -> u64 {
        ((u128::from(index) * u128::from(self.step) + u128::from(self.start)) % u128::from(self.len.max(1)))
            as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffles_are_permutations_and_depend_on_the_seed() {
        for len in [1, 2, 7, 32, 1000] {
            for seed in 0..20 {
                let shuffled = Shuffled::new(len, seed);
                let mut seen: Vec<u64> = (0..len).map(|i| shuffled.at(i)).collect();
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..len), "len {len} seed {seed}");
            }
        }
        assert_eq!(Shuffled::new(10, 0).at(3), 3);
        let orders: std::collections::HashSet<u64> =
            (1..20).map(|seed| Shuffled::new(1000, seed).at(0)).collect();
        assert!(orders.len() > 10);
    }
}
