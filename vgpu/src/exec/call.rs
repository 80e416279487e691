//! Calls and returns, and the functions of the device runtime.

use super::access::{local_get, local_set, resolve};
use super::block::BlockState;
use super::finding::{Finding, Step, lanes_of};
use super::lanes::{LANES, Rows};
use super::step::function_at;
use super::warp::{Group, GroupState, Warp};
use super::{global, printf};
use crate::fault::FaultKind;
use crate::program::code::{Builtin, CallSite, Op, Space};

/// Local memory of a thread, frames included, beyond which the stack has overflowed.
pub(crate) const STACK_LIMIT: usize = 512 << 10;

impl BlockState<'_> {
    /// Executes a call. Returns whether threads have gone elsewhere.
    pub(crate) fn call(
        &mut self,
        warp: &mut Warp,
        chosen: usize,
        rows: Rows,
        op: &Op,
        mask: u32,
        active: u32,
    ) -> Step<bool> {
        match op {
            Op::Call { function, site } => {
                self.split(warp, chosen, mask, active);
                self.enter(warp, chosen, *function, site, active)?;
                Ok(true)
            }
            Op::CallIndirect { target, site } => {
                // SAFETY: the decoder made sure that the target is a 64-bit row.
                let handles: [u64; LANES] = unsafe { rows.load(*target) };
                self.call_indirect(warp, chosen, &handles, site, mask, active)?;
                Ok(true)
            }
            Op::CallBuiltin { which, site } => {
                let base = warp.frames[warp.groups[chosen].frame as usize].local as usize;
                for lane in lanes_of(active) {
                    self.builtin(warp, lane, *which, site, base)?;
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Leaves the threads that do not take part in a group of their own, behind the instruction.
    fn split(&self, warp: &mut Warp, chosen: usize, mask: u32, active: u32) {
        if mask != active {
            let group = &mut warp.groups[chosen];
            group.mask = active;
            let others = Group { pc: group.pc + 1, mask: mask & !active, ..*group };
            warp.groups.push(others);
        }
    }

    fn call_indirect(
        &mut self,
        warp: &mut Warp,
        chosen: usize,
        handles: &[u64; LANES],
        site: &CallSite,
        mask: u32,
        active: u32,
    ) -> Step<()> {
        self.split(warp, chosen, mask, active);
        let caller = warp.groups[chosen];
        let mut rest = active;
        let mut first = true;
        while rest != 0 {
            let lane = rest.trailing_zeros();
            let handle = handles[lane as usize];
            let Some(function) = function_at(&self.launch.code.by_module_index, handle) else {
                let message = format!("indirect call of {handle:#x}, which is no function");
                return Err(Finding::new(FaultKind::InvalidPc, message).thread(warp.index * 32 + lane));
            };
            let same = lanes_of(rest).filter(|&l| handles[l] == handle).fold(0, |mask, l| mask | 1 << l);
            let group = if first {
                warp.groups[chosen].mask = same;
                chosen
            } else {
                warp.groups.push(Group { mask: same, ..caller });
                warp.groups.len() - 1
            };
            self.enter(warp, group, function, site, same)?;
            first = false;
            rest &= !same;
        }
        Ok(())
    }

    fn enter(
        &mut self,
        warp: &mut Warp,
        group: usize,
        function: u32,
        site: &CallSite,
        active: u32,
    ) -> Step<()> {
        let callee = &self.launch.code.functions[function as usize];
        let caller = warp.groups[group];
        if warp.stack_bytes() + callee.local_bytes as usize > STACK_LIMIT || warp.is_deep() {
            let message = format!("calls are nested {} deep", warp.frames[caller.frame as usize].depth);
            return Err(Finding::new(FaultKind::StackOverflow, message).lanes(warp.index, active));
        }
        let frame = warp.push_frame(callee, function, caller.frame, caller.pc, active);
        let from = warp.frames[caller.frame as usize].local as usize;
        let to = warp.frames[frame as usize].local as usize;
        for (&(src, size), &(dst, room)) in site.args.iter().zip(&callee.params) {
            copy_local(&mut warp.local, active, from + src as usize, to + dst as usize, size.min(room));
        }
        warp.groups[group] =
            Group { pc: callee.entry, mask: active, frame, state: GroupState::Ready, ran: 0 };
        Ok(())
    }

    /// Active threads of a callee go back behind the call.
    pub(crate) fn return_from(&mut self, warp: &mut Warp, chosen: usize, mask: u32, active: u32) {
        let group = warp.groups[chosen];
        let frame = warp.frames[group.frame as usize];
        let callee = &self.launch.code.functions[frame.function as usize];
        let to = warp.frames[frame.parent as usize].local as usize;
        if let Op::Call { site, .. } | Op::CallIndirect { site, .. } =
            &self.launch.code.instructions[frame.call as usize].op
        {
            for (&(dst, size), &(src, room)) in site.returns.iter().zip(&callee.returns) {
                copy_local(
                    &mut warp.local,
                    active,
                    frame.local as usize + src as usize,
                    to + dst as usize,
                    size.min(room),
                );
            }
        }
        if active != mask {
            warp.groups.push(Group { pc: group.pc + 1, mask: mask & !active, ..group });
        }
        warp.groups[chosen] = Group { pc: frame.call + 1, mask: active, frame: frame.parent, ..group };
        warp.leave_frame(group.frame, active);
    }

    fn builtin(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        which: Builtin,
        site: &CallSite,
        base: usize,
    ) -> Step<()> {
        let argument = |warp: &Warp, index: usize| {
            let &(at, size) = site.args.get(index).unwrap_or(&(0, 0));
            match size {
                8 => local_get(&warp.local, lane, base + at as usize, 8),
                4 => local_get(&warp.local, lane, base + at as usize, 4),
                _ => 0,
            }
        };
        let [a, b, c, d] = [0, 1, 2, 3].map(|index| argument(warp, index));
        let result = match which {
            Builtin::Vprintf => {
                let format = self.text(warp, lane, a)?;
                let text = printf::format(
                    &format,
                    |offset, bytes| self.byte_value(warp, lane, b.wrapping_add(offset), bytes),
                    |at| self.text(warp, lane, at),
                )?;
                printf::write(&text);
                text.len() as u64
            }
            Builtin::AssertFail => {
                let (message, file, function) =
                    (self.text(warp, lane, a)?, self.text(warp, lane, b)?, self.text(warp, lane, d)?);
                let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let message = format!(
                    "{}:{}: {}: assertion `{}` failed",
                    lossy(&file),
                    c,
                    lossy(&function),
                    lossy(&message)
                );
                return Err(Finding::new(FaultKind::Assert, message).thread(warp.index * 32 + lane as u32));
            }
            // The device heap is the device's memory. Null, when there is no more, is what the program must
            // check.
            Builtin::Malloc => self.launch.spec.memory.alloc(a).unwrap_or(0),
            Builtin::Free => self.release(warp.index, lane, a)?,
        };
        if let Some(&(at, size)) = site.returns.first() {
            local_set(&mut warp.local, lane, base + at as usize, if size == 8 { 8 } else { 4 }, result);
        }
        Ok(())
    }

    fn release(&self, warp: u32, lane: usize, address: u64) -> Step<u64> {
        if address != 0 && self.launch.spec.memory.free(address).is_err() {
            let message = format!("free of {address:#x}, which malloc did not return");
            let finding = Finding::new(FaultKind::IllegalAddress, message).address(address);
            return Err(finding.thread(warp * 32 + lane as u32));
        }
        Ok(0)
    }

    /// Reads a value through a generic address, byte by byte where it is not aligned.
    fn byte_value(&self, warp: &Warp, lane: usize, address: u64, bytes: u32) -> Step<u64> {
        let mut value = 0;
        for k in 0..u64::from(bytes) {
            value |= u64::from(self.byte_at(warp, lane, address.wrapping_add(k))?) << (8 * k);
        }
        Ok(value)
    }

    fn byte_at(&self, warp: &Warp, lane: usize, address: u64) -> Step<u8> {
        let (space, at) = resolve(address);
        let mut byte = None;
        match space {
            Space::Shared if at < self.shared.len().into() => byte = Some(self.shared.get(at as u32, 1)),
            Space::Local if (at as usize) < warp.local.len() / LANES * 4 => {
                byte = Some(local_get(&warp.local, lane, at as usize, 1));
            }
            Space::Global | Space::Generic => {
                let mut addresses = [0; LANES];
                addresses[lane] = address;
                self.global_parts(warp.index, &addresses, 1 << lane, 1, |part| {
                    byte = Some(global::read(part.arena, part.arena.offset(address), 1));
                    Ok(())
                })?;
            }
            _ => {}
        }
        let outside = || {
            let message = format!("a runtime function reads {address:#x}, outside its space");
            Finding::new(FaultKind::IllegalAddress, message)
                .thread(warp.index * 32 + lane as u32)
                .address(address)
        };
        byte.map(|byte| byte as u8).ok_or_else(outside)
    }

    /// A NUL-terminated string.
    fn text(&self, warp: &Warp, lane: usize, address: u64) -> Step<Vec<u8>> {
        const LONGEST: u64 = 1 << 16;
        let mut text = Vec::new();
        for k in 0..LONGEST {
            match self.byte_at(warp, lane, address.wrapping_add(k))? {
                0 => break,
                byte => text.push(byte),
            }
        }
        Ok(text)
    }
}

/// Copies bytes between two places of each thread's local memory.
fn copy_local(local: &mut [u32], active: u32, from: usize, to: usize, bytes: u32) {
    let bytes = bytes as usize;
    for lane in lanes_of(active) {
        let whole = bytes / 4 * 4;
        for at in (0..whole).step_by(4) {
            let value = local_get(local, lane, from + at, 4);
            local_set(local, lane, to + at, 4, value);
        }
        for at in whole..bytes {
            let value = local_get(local, lane, from + at, 1);
            local_set(local, lane, to + at, 1, value);
        }
    }
}
