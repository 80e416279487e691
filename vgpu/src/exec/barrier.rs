//! Barriers of a block.

use super::block::BlockState;
use super::finding::{Finding, Step, lanes_of};
use super::lanes::Rows;
use super::warp::{Group, GroupState, Warp, read_row, write_row};
use crate::fault::FaultKind;
use crate::program::code::{Barrier, Op, PredSource, Reduction};

const COUNT: usize = 16;

/// One of the block's barriers.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Threads that have arrived.
    arrived: u32,
    /// Threads to wait for, where the instruction names a number.
    expected: Option<u32>,
    /// Warps that have arrived, and those of them that wait.
    warps: u32,
    waiting: u32,
    /// Reductions over the arrived threads.
    count: u32,
    all: bool,
    any: bool,
}

const IDLE: Slot = Slot { arrived: 0, expected: None, warps: 0, waiting: 0, count: 0, all: true, any: false };

/// The barriers of a block.
#[derive(Debug)]
pub(crate) struct Barriers {
    slots: [Slot; COUNT],
    /// Completed and not yet released.
    changed: bool,
}

impl Default for Barriers {
    fn default() -> Barriers {
        Barriers { slots: [IDLE; COUNT], changed: false }
    }
}

impl Barriers {
    pub(crate) fn reset(&mut self) {
        *self = Barriers::default();
    }

    /// A thread exited: barriers may be complete without it.
    pub(crate) fn recheck(&mut self) {
        self.changed = true;
    }

    pub(crate) fn describe(&self, live: u32, threads: u32) -> String {
        let waiting = self.slots.iter().enumerate().filter(|(_, slot)| slot.arrived != 0);
        let parts: Vec<String> = waiting
            .map(|(id, slot)| {
                let expected = slot.expected.unwrap_or(live);
                format!("barrier {id} has {} of {expected} threads", slot.arrived)
            })
            .collect();
        let exited = threads - live;
        format!(
            "barrier that never completes: {}; {exited} threads of the block have exited",
            parts.join(", ")
        )
    }
}

impl BlockState<'_> {
    /// A group reaches a barrier. Returns whether it goes on (arrives, or stands aside for its warp's other
    /// lanes).
    pub(crate) fn reach_barrier(
        &mut self,
        warp: &mut Warp,
        group: usize,
        rows: Rows,
        barrier: &Barrier,
        active: u32,
    ) -> Step<bool> {
        let checks = self.launch.spec.settings.checks;
        if barrier.aligned && active != warp.live {
            let others = warp.groups.len() > 1;
            if others && checks.barriers {
                warp.groups[group].state = GroupState::PartialBarrier;
                return Ok(false);
            }
            if checks.barriers {
                let message = "barrier whose predicate differs between the threads of a warp";
                return Err(Finding::new(FaultKind::Barrier, message).lanes(warp.index, active));
            }
        }
        let id = self.uniform(warp, rows, barrier.id, active, "barrier number")?;
        if id as usize >= COUNT {
            return Err(Finding::new(FaultKind::Barrier, format!("barrier {id} does not exist"))
                .lanes(warp.index, active));
        }
        let expected = match barrier.count {
            Some(row) => Some(self.uniform(warp, rows, row, active, "thread count of a barrier")?),
            None => None,
        };
        self.arrive(warp, id as usize, expected, barrier, rows, active)?;
        Ok(barrier.arrive)
    }

    fn uniform(&self, warp: &Warp, rows: Rows, row: u32, active: u32, what: &str) -> Step<u32> {
        let values = read_row(rows, row);
        let first = values[active.trailing_zeros() as usize & 31];
        if lanes_of(active).any(|lane| values[lane] != first) {
            let message = format!("{what} differs between the threads of a warp");
            return Err(Finding::new(FaultKind::Barrier, message).lanes(warp.index, active));
        }
        Ok(first)
    }

    fn arrive(
        &mut self,
        warp: &Warp,
        id: usize,
        expected: Option<u32>,
        barrier: &Barrier,
        rows: Rows,
        active: u32,
    ) -> Step<()> {
        let fail = |message: String| Err(Finding::new(FaultKind::Barrier, message).lanes(warp.index, active));
        if let Some(count) = expected {
            if count == 0 || count % 32 != 0 {
                return fail(format!(
                    "thread count {count} of barrier {id} is not a positive multiple of 32"
                ));
            }
        } else if barrier.arrive {
            return fail(format!("bar.arrive on barrier {id} without a thread count"));
        }
        let slot = &mut self.barriers.slots[id];
        if slot.arrived != 0 && slot.expected != expected {
            return fail(format!("barrier {id} is used with different thread counts at once"));
        }
        slot.expected = expected;
        slot.arrived += active.count_ones();
        // A warp that is not full counts as full where threads are counted by number.
        let here = |group: &&Group| group.state == GroupState::Barrier(id as u8);
        let arrived = warp.groups.iter().filter(here).fold(active, |lanes, group| lanes | group.mask);
        if expected.is_some() && arrived == warp.live {
            slot.arrived += 32 - warp.live.count_ones();
        }
        slot.warps |= 1 << warp.index;
        if !barrier.arrive {
            slot.waiting |= 1 << warp.index;
        }
        if let Reduction::Popc(_, source) | Reduction::And(_, source) | Reduction::Or(_, source) =
            barrier.reduction
        {
            let bits = pred_bits(rows, source);
            slot.count += (bits & active).count_ones();
            slot.all &= bits & active == active;
            slot.any |= bits & active != 0;
        }
        self.barriers.changed = true;
        Ok(())
    }

    /// A barrier that has all its threads.
    pub(crate) fn complete_barrier(&mut self, warps: &[Warp]) -> Step<Option<usize>> {
        if !self.barriers.changed {
            return Ok(None);
        }
        for (id, slot) in self.barriers.slots.iter().enumerate() {
            let expected = slot.expected.unwrap_or(self.live);
            if slot.arrived == 0 || slot.arrived < expected {
                continue;
            }
            if slot.arrived > expected {
                let message = format!("barrier {id} for {expected} threads is reached by {}", slot.arrived);
                return Err(Finding::new(FaultKind::Barrier, message));
            }
            let exited = self.threads - self.live;
            if slot.expected.is_none() && exited != 0 && self.launch.spec.settings.checks.barriers {
                let message =
                    format!("barrier completed only because {exited} threads of the block had exited");
                let finding = Finding::new(FaultKind::Barrier, message);
                let waiting =
                    warps.iter().flat_map(|warp| warp.groups.iter().map(move |group| (warp, group)));
                let found =
                    waiting.into_iter().find(|(_, group)| group.state == GroupState::Barrier(id as u8));
                return Err(match found {
                    Some((warp, group)) => finding.lanes(warp.index, group.mask).at(group.pc - 1),
                    None => finding,
                });
            }
            return Ok(Some(id));
        }
        self.barriers.changed = false;
        Ok(None)
    }

    /// Lets the waiting threads of a complete barrier go on.
    pub(crate) fn open_barrier(&mut self, id: usize, warps: &mut [Warp]) {
        let slot = std::mem::replace(&mut self.barriers.slots[id], IDLE);
        self.clocks.meet(slot.warps, slot.waiting);
        let noise = self.launch.noise;
        for warp in warps.iter_mut().filter(|warp| slot.waiting >> warp.index & 1 != 0) {
            for at in 0..warp.groups.len() {
                let group = warp.groups[at];
                if group.state != GroupState::Barrier(id as u8) {
                    continue;
                }
                warp.groups[at].state = GroupState::Ready;
                let Op::Barrier(barrier) = &self.launch.code.instructions[group.pc as usize - 1].op else {
                    continue;
                };
                let rows = warp.rows(group.frame, noise);
                let bits = |value: bool| if value { u32::MAX } else { 0 };
                match barrier.reduction {
                    Reduction::None => {}
                    Reduction::Popc(row, _) => write_row(rows, row, group.mask, &[slot.count; 32]),
                    // SAFETY: predicates come from the decoder.
                    Reduction::And(p, _) => unsafe { rows.set_pred(p, bits(slot.all), group.mask) },
                    // SAFETY: as above.
                    Reduction::Or(p, _) => unsafe { rows.set_pred(p, bits(slot.any), group.mask) },
                }
            }
        }
    }
}

/// The value of a predicate operand in all lanes.
pub(crate) fn pred_bits(rows: Rows, source: PredSource) -> u32 {
    // SAFETY: predicates come from the decoder.
    let bits = unsafe { rows.pred(source.pred) };
    if source.negated { !bits } else { bits }
}
