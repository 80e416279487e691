//! A block: its warps, its shared memory, its barriers, and who runs next.

use super::barrier::Barriers;
use super::clocks::Clocks;
use super::finding::{Finding, Step};
use super::launch::{Launch, Shuffled};
use super::shared::Shared;
use super::tally::Tally;
use super::warp::{GroupState, Warp};
use crate::fault::FaultKind;
use crate::program::code::Op;

/// Warp instructions that a warp runs before the next one has its turn.
const SLICE: u64 = 1 << 16;

/// What the warps of a block share.
pub(crate) struct BlockState<'a> {
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) linear: u32,
    pub(crate) index: [u32; 3],
    pub(crate) threads: u32,
    /// Threads that have not exited.
    pub(crate) live: u32,
    pub(crate) shared: Shared,
    pub(crate) barriers: Barriers,
    pub(crate) clocks: Clocks,
    /// Time of the last acquiring access.
    pub(crate) acquired: u64,
    pub(crate) counts: Tally,
    /// Warp instructions left in the running slice.
    pub(crate) budget: u64,
}

/// A block that runs, or has run: it is used again for the next one.
pub(crate) struct Block<'a> {
    pub(crate) state: BlockState<'a>,
    warps: Vec<Warp>,
    order: Shuffled,
}

/// How a slice ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Done,
    /// Some warp used up its slice: it may be waiting for another block.
    Yield,
}

impl<'a> Block<'a> {
    pub(crate) fn new(launch: &'a Launch<'a>) -> Block<'a> {
        let state = BlockState {
            launch,
            linear: 0,
            index: [0; 3],
            threads: 0,
            live: 0,
            shared: Shared::default(),
            barriers: Barriers::default(),
            clocks: Clocks::default(),
            acquired: 0,
            counts: Tally::new(launch.code),
            budget: 0,
        };
        Block { state, warps: Vec::new(), order: Shuffled::new(1, 0) }
    }

    /// Puts all threads at the start of the kernel.
    pub(crate) fn start(&mut self, linear: u32) {
        let state = &mut self.state;
        let spec = state.launch.spec;
        let [gx, gy, _] = spec.grid;
        state.linear = linear;
        state.index = [linear % gx, linear / gx % gy, linear / gx / gy];
        state.threads = spec.block.iter().product();
        state.live = state.threads;
        state.shared.reset(state.launch.shared_bytes);
        state.barriers.reset();
        state.acquired = 0;
        let warps = state.threads.div_ceil(32) as usize;
        state.clocks.reset(warps);
        self.warps.resize_with(warps, Warp::default);
        for (index, warp) in self.warps.iter_mut().enumerate() {
            let present = (state.threads - index as u32 * 32).min(32);
            warp.start(index as u32, u32::MAX >> (32 - present), state.launch.code);
        }
        let seed = spec.settings.seed;
        let mixed = if seed == 0 { 0 } else { seed ^ (u64::from(linear) + 1) << 20 };
        self.order = Shuffled::new(warps as u64, mixed);
    }

    /// Runs every warp for a slice, until all are done or some may be waiting for another block.
    pub(crate) fn run(&mut self) -> Step<Progress> {
        loop {
            let (mut ran, mut waits) = (false, false);
            for turn in 0..self.warps.len() {
                let warp = &mut self.warps[self.order.at(turn as u64) as usize];
                if !warp.groups.iter().any(|group| group.state == GroupState::Ready) {
                    continue;
                }
                ran = true;
                self.state.budget = SLICE;
                self.state.run_warp(warp)?;
                waits |= self.state.budget == 0;
                self.state.launch.spend(SLICE - self.state.budget)?;
                self.release_barriers()?;
            }
            if self.warps.iter().all(Warp::is_done) {
                return Ok(Progress::Done);
            }
            if !ran {
                return Err(self.deadlock());
            }
            if waits {
                return Ok(Progress::Yield);
            }
        }
    }

    fn release_barriers(&mut self) -> Step<()> {
        while let Some(id) = self.state.complete_barrier(&self.warps)? {
            self.state.open_barrier(id, &mut self.warps);
        }
        Ok(())
    }

    /// Nobody can run: says who waits where.
    #[cold]
    fn deadlock(&self) -> Box<Finding> {
        let groups = || self.warps.iter().flat_map(|warp| warp.groups.iter().map(move |group| (warp, group)));
        let partial = groups().find(|(_, group)| group.state == GroupState::PartialBarrier);
        let collective = groups().find(|(_, group)| group.state == GroupState::Collective);
        let (kind, (warp, group), message) = match (collective, partial) {
            (Some(found), _) => {
                let message = match self.state.launch.code.instructions[found.1.pc as usize].op {
                    Op::Collective(_) => {
                        "warp collective that waits for lanes of its membermask which never come".to_string()
                    }
                    _ => format!("matrix instruction executed by {} of 32 lanes", found.1.mask.count_ones()),
                };
                (FaultKind::Collective, found, message)
            }
            (_, Some(found)) => {
                let (reached, live) = (found.1.mask.count_ones(), found.0.live.count_ones());
                let message = format!("barrier reached by {reached} of the {live} threads of a warp");
                (FaultKind::Barrier, found, message)
            }
            (None, None) => {
                let Some(found) = groups().next() else {
                    return Finding::new(FaultKind::Barrier, "nobody can run");
                };
                (FaultKind::Barrier, found, self.state.barriers.describe(self.state.live, self.state.threads))
            }
        };
        let at = if matches!(group.state, GroupState::Barrier(_)) { group.pc - 1 } else { group.pc };
        Finding::new(kind, message).lanes(warp.index, group.mask).at(at)
    }
}
