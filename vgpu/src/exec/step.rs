//! Runs a warp: chooses a group of threads, executes it, splits and merges groups.

use super::barrier::pred_bits;
use super::block::BlockState;
use super::finding::{Finding, Step, lanes_of};
use super::lanes::{LANES, Rows};
use super::warp::{Group, GroupState, Warp, read_cell, read_row, write_cell, write_row};
use super::{access, window};
use crate::fault::FaultKind;
use crate::program::code::{Collective, Inst, Op, Pc, Space, Special};

/// Instructions that one of several groups runs before the others have their turn, whatever their order.
const QUANTUM: u64 = 1 << 13;

/// What follows an instruction.
enum Next {
    /// The next instruction, by the same threads.
    Step,
    /// Another instruction, by the same threads.
    Jump(Pc),
    /// Groups, frames or states have changed: choose again. The group's own state is up to date.
    Choose,
}

impl BlockState<'_> {
    /// Runs a warp until no group is ready or the slice is over.
    pub(crate) fn run_warp(&mut self, warp: &mut Warp) -> Step<()> {
        while self.budget > 0 {
            merge(warp);
            match self.choose(warp) {
                Some(chosen) => self.run_group(warp, chosen)?,
                None if self.meet_apart(warp) => {}
                None => return Ok(()),
            }
        }
        // Groups that met with the last instruction of the slice no longer wait for each other.
        merge(warp);
        Ok(())
    }

    /// Deepest call first, then lowest position; after a quantum without a change, whoever waited longest.
    fn choose(&self, warp: &mut Warp) -> Option<usize> {
        let ready = warp.groups.iter().enumerate().filter(|(_, group)| group.state == GroupState::Ready);
        if std::mem::take(&mut warp.starved) {
            return ready.min_by_key(|(_, group)| group.ran).map(|(index, _)| index);
        }
        let code = &self.launch.code.instructions;
        let key = |group: &Group| {
            (std::cmp::Reverse(warp.frames[group.frame as usize].depth), code[group.pc as usize].order)
        };
        ready.min_by_key(|(_, group)| key(group)).map(|(index, _)| index)
    }

    /// Where the chosen group must stop because another group of its frame stands there or comes first.
    fn threshold(&self, warp: &Warp, chosen: usize) -> u32 {
        let me = warp.groups[chosen];
        let code = &self.launch.code.instructions;
        let others = warp.groups.iter().enumerate().filter(|&(index, group)| {
            index != chosen && group.frame == me.frame && !matches!(group.state, GroupState::Barrier(_))
        });
        let mine = code[me.pc as usize].order;
        let orders = others.map(|(_, group)| code[group.pc as usize].order).filter(|&order| order > mine);
        orders.min().unwrap_or(u32::MAX)
    }

    fn run_group(&mut self, warp: &mut Warp, chosen: usize) -> Step<()> {
        let Group { mut pc, mask, frame, .. } = warp.groups[chosen];
        let code = &self.launch.code.instructions;
        let rows = warp.rows(frame, self.launch.noise);
        let threshold = self.threshold(warp, chosen);
        let alone = warp.groups.len() == 1;
        let slice = if alone { self.budget } else { self.budget.min(QUANTUM) };
        let mut left = slice;
        let first = code[pc as usize].order;
        let mut result = Ok(());
        while left > 0 {
            let inst = &code[pc as usize];
            if inst.order >= threshold && inst.order != first {
                break;
            }
            left -= 1;
            let active = match inst.guard {
                None => mask,
                Some(guard) => mask & pred_bits(rows, guard),
            };
            let counts = &mut self.counts.executed[pc as usize];
            counts.0 += 1;
            counts.1 += u64::from(active.count_ones());
            if let Op::Lanes { run, args } = &inst.op {
                if active != 0 {
                    run(rows, args, active);
                }
                pc += 1;
                continue;
            }
            warp.groups[chosen].pc = pc;
            warp.now = warp.steps + (slice - left);
            match self.execute(warp, chosen, rows, inst, mask, active) {
                Ok(Next::Step) => pc += 1,
                Ok(Next::Jump(target)) => pc = target,
                Ok(Next::Choose) => {
                    self.spend(warp, slice - left);
                    return Ok(());
                }
                Err(finding) => {
                    result = Err(finding.at(pc));
                    break;
                }
            }
        }
        if left == 0 && !alone {
            warp.starved = true;
            warp.groups[chosen].ran = warp.steps + 1;
        }
        warp.groups[chosen].pc = pc;
        self.spend(warp, slice - left);
        result
    }

    fn spend(&mut self, warp: &mut Warp, steps: u64) {
        warp.steps += steps;
        self.budget -= steps;
    }

    fn execute(
        &mut self,
        warp: &mut Warp,
        chosen: usize,
        rows: Rows,
        inst: &Inst,
        mask: u32,
        active: u32,
    ) -> Step<Next> {
        match &inst.op {
            Op::Branch { target } => return Ok(self.branch(warp, chosen, *target, inst, mask, active)),
            Op::Exit => return Ok(self.exit(warp, chosen, mask, active)),
            Op::Return => return Ok(self.give_back(warp, chosen, mask, active)),
            _ if active == 0 => return Ok(Next::Step),
            Op::Test { run, args, p, q, combine } => {
                let mut bits = run(rows, args);
                let mut inverse = !bits;
                if let Some((logic, source)) = combine {
                    let with = pred_bits(rows, *source);
                    bits = logic.apply(bits, with);
                    inverse = logic.apply(inverse, with);
                }
                // SAFETY: predicates come from the decoder.
                unsafe {
                    if let Some(p) = p {
                        rows.set_pred(*p, bits, active);
                    }
                    if let Some(q) = q {
                        rows.set_pred(*q, inverse, active);
                    }
                }
            }
            Op::Predicate { op, d, a, b } => {
                let bits = op.apply(pred_bits(rows, *a), pred_bits(rows, *b));
                // SAFETY: predicates come from the decoder.
                unsafe { rows.set_pred(*d, bits, active) };
            }
            Op::Load(load) => {
                let frame = warp.groups[chosen].frame;
                self.load(warp, frame, rows, load, active)?;
            }
            Op::Store(store) => {
                let frame = warp.groups[chosen].frame;
                self.store(warp, frame, rows, store, active)?;
            }
            _ => return self.execute_rare(warp, chosen, rows, inst, mask, active),
        }
        Ok(Next::Step)
    }

    /// Matrix instructions need the whole warp: whether other threads of it may yet come.
    fn waits_for_warp(&self, warp: &Warp, op: &Op, active: u32) -> bool {
        active != u32::MAX
            && warp.groups.len() > 1
            && matches!(op, Op::Matrix(_) | Op::Transpose { .. } | Op::Tiles(_) | Op::Fragment(_))
    }

    fn execute_rare(
        &mut self,
        warp: &mut Warp,
        chosen: usize,
        rows: Rows,
        inst: &Inst,
        mask: u32,
        active: u32,
    ) -> Step<Next> {
        let frame = warp.groups[chosen].frame;
        if self.waits_for_warp(warp, &inst.op, active) {
            return Ok(self.wait_for_lanes(warp, chosen, active));
        }
        match &inst.op {
            Op::Special { which, d } => {
                let values = self.special(warp, *which);
                write_cell(rows, *d, active, &values);
            }
            Op::FrameAddress { offset, d } => {
                let address = u64::from(warp.frames[frame as usize].local.wrapping_add(*offset));
                write_cell(rows, *d, active, &[address; LANES]);
            }
            Op::Atomic(atomic) => self.atomic(warp, frame, rows, atomic, active)?,
            Op::WideAtomic(atomic) => self.wide_atomic(warp, frame, rows, atomic, active)?,
            Op::Alloca { size, align, d } => {
                let sizes = read_cell(rows, *size);
                let at = self.take_stack(warp, frame, &sizes, *align, active)?;
                write_cell(rows, *d, active, &[at; LANES]);
            }
            Op::StackSave { d } => write_cell(rows, *d, active, &[warp.stack_bytes() as u64; LANES]),
            Op::StackRestore { a } => self.restore_stack(warp, frame, &read_cell(rows, *a), active),
            Op::BranchTable { index, targets } => {
                return self.branch_table(warp, chosen, &read_row(rows, *index), targets, mask, active);
            }
            Op::Call { .. } | Op::CallIndirect { .. } | Op::CallBuiltin { .. } => {
                return self.call(warp, chosen, rows, &inst.op, mask, active).map(|jumps| match jumps {
                    true => Next::Choose,
                    false => Next::Step,
                });
            }
            Op::Trap { message } => {
                return Err(Finding::new(FaultKind::Trap, *message).lanes(warp.index, active));
            }
            Op::Barrier(barrier) => return self.barrier(warp, chosen, rows, barrier, mask, active),
            Op::Collective(collective) => return self.meet(warp, chosen, rows, collective, active),
            Op::ActiveMask { d } => write_row(rows, *d, active, &[active; LANES]),
            Op::Fence { wide } => self.fence(warp.index, *wide),
            Op::CopyAsync(copy) => self.copy_async(warp, frame, rows, copy, active)?,
            Op::CopyCommit => lanes_of(active).for_each(|lane| warp.copy_group[lane] += 1),
            Op::CopyWait(pending) => self.copy_wait(warp, *pending, active)?,
            Op::Matrix(matrix) => self.matrix(warp, rows, matrix, active)?,
            Op::Transpose { d, a } => {
                self.whole_warp(warp, active)?;
                let transposed = crate::arith::matrix::transpose(&read_row(rows, *a));
                write_row(rows, *d, active, &transposed);
            }
            Op::Tiles(tiles) => self.tiles(warp, frame, rows, tiles, active)?,
            Op::Fragment(fragment) => self.fragment(warp, frame, rows, fragment, active)?,
            Op::IsSpace { space, a, p } => {
                // SAFETY: a 64-bit row and a predicate from the decoder.
                unsafe {
                    let addresses: [u64; LANES] = rows.load(*a);
                    let inside = |address: u64| {
                        access::resolve(address).0 == *space && (*space != Space::Global || address != 0)
                    };
                    let bits =
                        (0..LANES).fold(0, |bits, lane| bits | u32::from(inside(addresses[lane])) << lane);
                    rows.set_pred(*p, bits, active);
                }
            }
            _ => {}
        }
        Ok(Next::Step)
    }

    fn branch(
        &mut self,
        warp: &mut Warp,
        chosen: usize,
        target: Pc,
        inst: &Inst,
        mask: u32,
        active: u32,
    ) -> Next {
        self.counts.branches += u64::from(inst.guard.is_some());
        if active == mask {
            return Next::Jump(target);
        }
        if active == 0 {
            return Next::Step;
        }
        self.counts.divergent += 1;
        let group = &mut warp.groups[chosen];
        group.mask = mask & !active;
        group.pc += 1;
        let taken = Group { pc: target, mask: active, ..*group };
        warp.groups.push(taken);
        Next::Choose
    }

    /// A collective, or waiting for the lanes that it names.
    fn meet(
        &mut self,
        warp: &mut Warp,
        chosen: usize,
        rows: Rows,
        collective: &Collective,
        active: u32,
    ) -> Step<Next> {
        if self.collective(warp, rows, collective, active)? {
            return Ok(Next::Step);
        }
        Ok(self.wait_for_lanes(warp, chosen, active))
    }

    /// The group waits before its instruction, which counts once, when the lanes act together.
    fn wait_for_lanes(&mut self, warp: &mut Warp, chosen: usize, active: u32) -> Next {
        let group = &mut warp.groups[chosen];
        let counts = &mut self.counts.executed[group.pc as usize];
        counts.0 -= 1;
        counts.1 -= u64::from(active.count_ones());
        group.state = GroupState::Collective;
        Next::Choose
    }

    fn branch_table(
        &mut self,
        warp: &mut Warp,
        chosen: usize,
        indices: &[u32; LANES],
        targets: &[Pc],
        mask: u32,
        active: u32,
    ) -> Step<Next> {
        if let Some(lane) = lanes_of(active).find(|&lane| indices[lane] as usize >= targets.len()) {
            let message = format!("brx.idx with index {} into a table of {}", indices[lane], targets.len());
            return Err(Finding::new(FaultKind::InvalidPc, message).thread(warp.index * 32 + lane as u32));
        }
        self.counts.branches += 1;
        let group = warp.groups[chosen];
        let mut rest = active;
        let mut parts = Vec::new();
        while rest != 0 {
            let target = targets[indices[rest.trailing_zeros() as usize] as usize];
            let same = lanes_of(rest).filter(|&lane| targets[indices[lane] as usize] == target);
            let same = same.fold(0, |mask, lane| mask | 1 << lane);
            parts.push(Group { pc: target, mask: same, ..group });
            rest &= !same;
        }
        if active != mask {
            parts.push(Group { pc: group.pc + 1, mask: mask & !active, ..group });
        }
        self.counts.divergent += u64::from(parts.len() > 1);
        warp.groups.swap_remove(chosen);
        warp.groups.append(&mut parts);
        Ok(Next::Choose)
    }

    /// Threads end; the others of the warp may no longer have to wait for them.
    fn exit(&mut self, warp: &mut Warp, chosen: usize, mask: u32, active: u32) -> Next {
        if active == 0 {
            return Next::Step;
        }
        self.land_all(warp, active);
        warp.live &= !active;
        self.live -= active.count_ones();
        self.barriers.recheck();
        warp.frames.iter_mut().for_each(|frame| frame.lanes &= !active);
        if active == mask {
            warp.groups.swap_remove(chosen);
        } else {
            warp.groups[chosen].mask &= !active;
            warp.groups[chosen].pc += 1;
        }
        warp.pop_frames();
        for group in &mut warp.groups {
            if matches!(group.state, GroupState::Collective | GroupState::PartialBarrier) {
                group.state = GroupState::Ready;
            }
        }
        Next::Choose
    }

    fn give_back(&mut self, warp: &mut Warp, chosen: usize, mask: u32, active: u32) -> Next {
        if warp.groups[chosen].frame == 0 {
            return self.exit(warp, chosen, mask, active);
        }
        if active == 0 {
            return Next::Step;
        }
        self.return_from(warp, chosen, mask, active);
        Next::Choose
    }

    fn barrier(
        &mut self,
        warp: &mut Warp,
        chosen: usize,
        rows: Rows,
        barrier: &crate::program::code::Barrier,
        mask: u32,
        active: u32,
    ) -> Step<Next> {
        if self.reach_barrier(warp, chosen, rows, barrier, active)? {
            return Ok(Next::Step);
        }
        if warp.groups[chosen].state == GroupState::PartialBarrier {
            return Ok(Next::Choose);
        }
        let id = read_row(rows, barrier.id)[active.trailing_zeros() as usize & 31] as u8;
        let group = &mut warp.groups[chosen];
        group.pc += 1;
        if active != mask {
            let others = Group { mask: mask & !active, ..*group };
            group.mask = active;
            group.state = GroupState::Barrier(id);
            warp.groups.push(others);
        } else {
            group.state = GroupState::Barrier(id);
        }
        Ok(Next::Choose)
    }

    pub(crate) fn fence(&mut self, warp: u32, wide: bool) {
        if wide {
            self.clocks_released(warp);
        }
    }

    /// A device-wide fence: what the warp knows of is released, and its own clock moves on.
    fn clocks_released(&mut self, warp: u32) {
        self.clocks.advance(warp);
        self.launch.order.release(self.linear, self.clocks.snapshot(warp));
        self.acquired = self.launch.order.acquire();
    }

    fn special(&self, warp: &Warp, which: Special) -> [u64; LANES] {
        let spec = self.launch.spec;
        let [bx, by, _] = spec.block;
        let lanes: [u64; LANES] = std::array::from_fn(|lane| lane as u64);
        let thread = |lane: u64| warp.index * 32 + lane as u32;
        let tid = |lane: u64, axis: u8| match axis {
            0 => thread(lane) % bx,
            1 => thread(lane) / bx % by,
            _ => thread(lane) / bx / by,
        };
        let all = |value: u64| [value; LANES];
        match which {
            Special::Tid(axis) => lanes.map(|lane| u64::from(tid(lane, axis))),
            Special::Ntid(axis) => all(spec.block[axis as usize].into()),
            Special::Ctaid(axis) => all(self.index[axis as usize].into()),
            Special::Nctaid(axis) => all(spec.grid[axis as usize].into()),
            Special::LaneId => lanes,
            Special::WarpId => all(warp.index.into()),
            Special::NWarpId => all(u64::from(self.threads.div_ceil(32))),
            Special::SmId => all(u64::from(self.linear % spec.device.sm_count.max(1))),
            Special::NSmId => all(spec.device.sm_count.into()),
            Special::GridId => all(self.launch.number),
            Special::LaneMaskEq => lanes.map(|lane| 1 << lane),
            Special::LaneMaskLe => lanes.map(|lane| ((2u64 << lane) - 1) & 0xffff_ffff),
            Special::LaneMaskLt => lanes.map(|lane| (1 << lane) - 1),
            Special::LaneMaskGe => lanes.map(|lane| 0xffff_ffff << lane & 0xffff_ffff),
            Special::LaneMaskGt => lanes.map(|lane| 0xffff_fffe << lane & 0xffff_ffff),
            // Time as the warp sees it: its own instructions.
            Special::Clock => all(warp.now),
            Special::ClockHi => all(warp.now >> 32),
            Special::GlobalTimer => all(self.launch.started.elapsed().as_nanos() as u64),
            Special::GlobalTimerHi => all(self.launch.started.elapsed().as_nanos() as u64 >> 32),
            Special::DynamicShared => all(spec.dynamic_shared.into()),
            Special::TotalShared => all(self.launch.shared_bytes.into()),
            Special::Constant(value) => all(value.into()),
        }
    }
}

/// Joins groups that stand at the same place.
fn merge(warp: &mut Warp) {
    let mut at = 0;
    while at < warp.groups.len() {
        let mut other = at + 1;
        while other < warp.groups.len() {
            let (a, b) = (warp.groups[at], warp.groups[other]);
            let standing = |group: Group| !matches!(group.state, GroupState::Barrier(_));
            if a.pc == b.pc && a.frame == b.frame && standing(a) && standing(b) {
                warp.groups[at].mask |= b.mask;
                warp.groups[at].state = GroupState::Ready;
                warp.groups.swap_remove(other);
            } else {
                other += 1;
            }
        }
        at += 1;
    }
}

/// Function that a handle names, by position in the kernel's code.
pub(crate) fn function_at(by_module_index: &[Option<u32>], handle: u64) -> Option<u32> {
    by_module_index.get(window::function_index(handle)?).copied().flatten()
}
