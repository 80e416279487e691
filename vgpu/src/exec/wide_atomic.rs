//! `atom` of 128 bits. The host has no such atomics: a lock of the launch stands for them.

use super::access::{addresses, by_space, local_get, local_set};
use super::block::BlockState;
use super::finding::{Finding, Step, lanes_of};
use super::global::{self, check_alignment};
use super::lanes::{LANES, Row, Rows};
use super::race::Kind;
use super::warp::{Warp, write_cell};
use crate::fault::FaultKind;
use crate::program::code::{Cell, NO_ROW, Space, WideAtomic};

const BYTES: u32 = 16;

/// The values of a 128-bit register.
fn load(rows: Rows, row: Row) -> [u128; LANES] {
    // SAFETY: 128-bit registers have four rows, two 64-bit ones.
    let (low, high): ([u64; LANES], [u64; LANES]) = unsafe { (rows.load(row), rows.load(row + 2)) };
    std::array::from_fn(|lane| u128::from(high[lane]) << 64 | u128::from(low[lane]))
}

impl BlockState<'_> {
    pub(crate) fn wide_atomic(
        &mut self,
        warp: &mut Warp,
        frame: u32,
        rows: Rows,
        atomic: &WideAtomic,
        active: u32,
    ) -> Step<()> {
        let at = addresses(warp, frame, rows, atomic.base, atomic.offset);
        check_alignment(warp.index, &at, active, BYTES)?;
        if atomic.fence {
            self.fence(warp.index, true);
        }
        let (operands, swap) = (load(rows, atomic.src), atomic.swap.map(|row| load(rows, row)));
        let update = |lane: usize, old: u128| match &swap {
            None => operands[lane],
            Some(swap) if old == operands[lane] => swap[lane],
            Some(_) => old,
        };
        let mut old = [0; LANES];
        by_space(atomic.space, &at, active, |space, at, lanes| match space {
            Space::Shared => self.wide_shared(warp.index, at, lanes, update, &mut old),
            Space::Local => self.wide_local(warp, at, lanes, update, &mut old),
            Space::Global | Space::Generic => self.wide_global(warp.index, at, lanes, update, &mut old),
            Space::KernelParam => {
                let finding = Finding::new(FaultKind::IllegalAddress, "atomic on kernel parameters");
                Err(finding.lanes(warp.index, lanes))
            }
        })?;
        if atomic.dst != NO_ROW {
            write_cell(rows, Cell { row: atomic.dst, bits: 64 }, active, &old.map(|value| value as u64));
            write_cell(
                rows,
                Cell { row: atomic.dst + 2, bits: 64 },
                active,
                &old.map(|value| (value >> 64) as u64),
            );
        }
        Ok(())
    }

    fn wide_shared(
        &mut self,
        warp: u32,
        addresses: &[u64; LANES],
        active: u32,
        update: impl Fn(usize, u128) -> u128,
        old: &mut [u128; LANES],
    ) -> Step<()> {
        self.check_shared(warp, addresses, active, BYTES)?;
        self.counts.shared_atomics += u64::from(active.count_ones());
        for lane in lanes_of(active) {
            let at = addresses[lane] as u32;
            self.note_shared_read(warp, lane as u32, at, BYTES, true)?;
            self.note_shared_write(warp, lane as u32, at, BYTES, (true, false))?;
            old[lane] = u128::from(self.shared.get(at + 8, 8)) << 64 | u128::from(self.shared.get(at, 8));
            let new = update(lane, old[lane]);
            self.shared.set(at, 8, new as u64);
            self.shared.set(at + 8, 8, (new >> 64) as u64);
        }
        Ok(())
    }

    fn wide_local(
        &mut self,
        warp: &mut Warp,
        addresses: &[u64; LANES],
        active: u32,
        update: impl Fn(usize, u128) -> u128,
        old: &mut [u128; LANES],
    ) -> Step<()> {
        self.check_local(warp, addresses, active, BYTES)?;
        for lane in lanes_of(active) {
            let at = addresses[lane] as usize;
            let half = |at| u128::from(local_get(&warp.local, lane, at, 8));
            old[lane] = half(at + 8) << 64 | half(at);
            let new = update(lane, old[lane]);
            local_set(&mut warp.local, lane, at, 8, new as u64);
            local_set(&mut warp.local, lane, at + 8, 8, (new >> 64) as u64);
        }
        Ok(())
    }

    fn wide_global(
        &mut self,
        warp: u32,
        addresses: &[u64; LANES],
        active: u32,
        update: impl Fn(usize, u128) -> u128,
        old: &mut [u128; LANES],
    ) -> Step<()> {
        self.counts.global_atomics += u64::from(active.count_ones());
        self.acquired = self.launch.order.acquire();
        let _whole = self.launch.lock_wide();
        self.global_parts(warp, addresses, active, BYTES, |part| {
            let accessor = self.accessor(warp, true);
            for lane in lanes_of(part.lanes) {
                let offset = part.arena.offset(addresses[lane]);
                self.check_atomic_written(warp, lane as u32, part.arena, addresses[lane], BYTES)?;
                self.note_global_store(&accessor, part.arena, offset, BYTES, lane as u32, Kind::Atomic)?;
                let half = |offset| u128::from(global::read(part.arena, offset, 8));
                old[lane] = half(offset + 8) << 64 | half(offset);
                let new = update(lane, old[lane]);
                global::write(part.arena, offset, 8, new as u64);
                global::write(part.arena, offset + 8, 8, (new >> 64) as u64);
            }
            Ok(())
        })?;
        self.acquired = self.launch.order.acquire();
        Ok(())
    }
}
