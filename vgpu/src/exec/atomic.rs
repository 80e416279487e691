//! `atom` and `red`.

use super::access::{addresses, by_space, local_get, local_set};
use super::block::BlockState;
use super::finding::{Finding, Step, lanes_of};
use super::global::check_alignment;
use super::lanes::{LANES, Rows};
use super::race::Kind;
use super::warp::{Warp, read_cell, write_cell};
use crate::arith::half::{HalfMode, map2};
use crate::arith::single::MinMaxMode;
use crate::arith::{F32Mode, Round, double, single};
use crate::fault::FaultKind;
use crate::memory::Arena;
use crate::program::code::{AtomOp, AtomType, Atomic, NO_ROW, Space};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

impl BlockState<'_> {
    pub(crate) fn atomic(
        &mut self,
        warp: &mut Warp,
        frame: u32,
        rows: Rows,
        atomic: &Atomic,
        active: u32,
    ) -> Step<()> {
        let base = addresses(warp, frame, rows, atomic.base, atomic.offset);
        let bytes = atomic.ty.bytes();
        let swap = atomic.swap.map_or([0; LANES], |cell| read_cell(rows, cell));
        check_alignment(warp.index, &base, active, bytes * atomic.src.len() as u32)?;
        if atomic.fence {
            self.fence(warp.index, true);
        }
        for (element, &src) in atomic.src.iter().enumerate() {
            let at = base.map(|address| address.wrapping_add(u64::from(bytes) * element as u64));
            let operands = read_cell(rows, src);
            let mut old = [0; LANES];
            by_space(atomic.space, &at, active, |space, at, lanes| {
                let ty = type_in(space, atomic.ty);
                let update =
                    |lane: usize, value: u64| apply(atomic.op, ty, value, operands[lane], swap[lane]);
                match space {
                    Space::Shared => self.atomic_shared(warp.index, at, lanes, bytes, update, &mut old),
                    Space::Local => self.atomic_local(warp, at, lanes, bytes, update, &mut old),
                    Space::Global | Space::Generic => {
                        self.atomic_global(warp.index, at, lanes, bytes, update, &mut old)
                    }
                    Space::KernelParam => {
                        let finding = Finding::new(FaultKind::IllegalAddress, "atomic on kernel parameters");
                        Err(finding.lanes(warp.index, lanes))
                    }
                }
            })?;
            if let Some(&cell) = atomic.dst.get(element)
                && cell.row != NO_ROW
            {
                write_cell(rows, cell, active, &old);
            }
        }
        Ok(())
    }

    fn atomic_shared(
        &mut self,
        warp: u32,
        addresses: &[u64; LANES],
        active: u32,
        bytes: u32,
        update: impl Fn(usize, u64) -> u64,
        old: &mut [u64; LANES],
    ) -> Step<()> {
        self.check_shared(warp, addresses, active, bytes)?;
        self.counts.shared_atomics += u64::from(active.count_ones());
        for lane in lanes_of(active) {
            let at = addresses[lane] as u32;
            self.note_shared_read(warp, lane as u32, at, bytes, true)?;
            self.note_shared_write(warp, lane as u32, at, bytes, (true, false))?;
            old[lane] = self.shared.get(at, bytes);
            self.shared.set(at, bytes, update(lane, old[lane]));
        }
        Ok(())
    }

    /// Generic atomics may meet local memory, where nobody else is.
    fn atomic_local(
        &mut self,
        warp: &mut Warp,
        addresses: &[u64; LANES],
        active: u32,
        bytes: u32,
        update: impl Fn(usize, u64) -> u64,
        old: &mut [u64; LANES],
    ) -> Step<()> {
        self.check_local(warp, addresses, active, bytes)?;
        for lane in lanes_of(active) {
            let at = addresses[lane];
            old[lane] = local_get(&warp.local, lane, at as usize, bytes);
            local_set(&mut warp.local, lane, at as usize, bytes, update(lane, old[lane]));
        }
        Ok(())
    }

    fn atomic_global(
        &mut self,
        warp: u32,
        addresses: &[u64; LANES],
        active: u32,
        bytes: u32,
        update: impl Fn(usize, u64) -> u64,
        old: &mut [u64; LANES],
    ) -> Step<()> {
        self.counts.global_atomics += u64::from(active.count_ones());
        // The value that an atomic returns may tell of what others did.
        self.acquired = self.launch.order.acquire();
        self.global_parts(warp, addresses, active, bytes, |part| {
            let accessor = self.accessor(warp, true);
            for lane in lanes_of(part.lanes) {
                let offset = part.arena.offset(addresses[lane]);
                self.check_atomic_written(warp, lane as u32, part.arena, addresses[lane], bytes)?;
                self.note_global_store(&accessor, part.arena, offset, bytes, lane as u32, Kind::Atomic)?;
                old[lane] = exchange(part.arena, offset, bytes, |value| update(lane, value));
            }
            Ok(())
        })?;
        self.acquired = self.launch.order.acquire();
        Ok(())
    }

    pub(crate) fn check_atomic_written(
        &self,
        warp: u32,
        lane: u32,
        arena: &Arena,
        address: u64,
        bytes: u32,
    ) -> Step<()> {
        let checks = self.launch.spec.settings.checks;
        if !checks.uninitialised || arena.is_written(arena.offset(address), bytes as usize) {
            return Ok(());
        }
        let message = format!("atomic of {bytes} bytes at {address:#x}, which nobody wrote");
        Err(Finding::new(FaultKind::Uninitialised, message).address(address).thread(warp * 32 + lane))
    }
}

/// `add.f32` flushes subnormals in global memory, and nowhere else.
fn type_in(space: Space, ty: AtomType) -> AtomType {
    match (ty, space) {
        (AtomType::F32(mode), Space::Global | Space::Generic) => AtomType::F32(F32Mode { ftz: true, ..mode }),
        _ => ty,
    }
}

/// Replaces a value by a function of it, atomically, and returns the old one.
fn exchange(arena: &Arena, offset: usize, bytes: u32, update: impl Fn(u64) -> u64) -> u64 {
    let pointer = arena.data.pointer(offset, bytes as usize);
    macro_rules! cell {
        ($atomic:ty, $int:ty) => {{
            // SAFETY: `pointer` checked that the bytes lie in the plane, the caller that they are aligned.
            let cell = unsafe { <$atomic>::from_ptr(pointer.cast()) };
            let changed = cell.fetch_update(SeqCst, SeqCst, |value| Some(update(u64::from(value)) as $int));
            u64::from(changed.unwrap_or_default())
        }};
    }
    match bytes {
        2 => cell!(AtomicU16, u16),
        4 => cell!(AtomicU32, u32),
        _ => cell!(AtomicU64, u64),
    }
}

fn apply(op: AtomOp, ty: AtomType, old: u64, operand: u64, swap: u64) -> u64 {
    match (op, ty) {
        (AtomOp::Exch, _) => operand,
        (AtomOp::Cas, _) => {
            let width = 64 - ty.bytes() * 8;
            if old == operand << width >> width { swap } else { old }
        }
        (_, AtomType::U(64)) => integer(op, old, operand),
        (_, AtomType::U(_)) => u64::from(integer32(op, old as u32, operand as u32)),
        (AtomOp::Min, AtomType::S(64)) => (old as i64).min(operand as i64) as u64,
        (AtomOp::Max, AtomType::S(64)) => (old as i64).max(operand as i64) as u64,
        (AtomOp::Min, AtomType::S(_)) => u64::from((old as i32).min(operand as i32) as u32),
        (AtomOp::Max, AtomType::S(_)) => u64::from((old as i32).max(operand as i32) as u32),
        (_, AtomType::S(64)) => integer(op, old, operand),
        (_, AtomType::S(_)) => u64::from(integer32(op, old as u32, operand as u32)),
        (AtomOp::Min, AtomType::F32(_)) => {
            single::min(old as u32, operand as u32, MinMaxMode::default()).into()
        }
        (AtomOp::Max, AtomType::F32(_)) => {
            single::max(old as u32, operand as u32, MinMaxMode::default()).into()
        }
        (_, AtomType::F32(mode)) => single::add(old as u32, operand as u32, mode).into(),
        (_, AtomType::F64) => double::add(old, operand, Round::Nearest),
        (_, AtomType::Half(kind)) => half_op(op, kind, old as u16, operand as u16).into(),
        (_, AtomType::Half2(kind)) => map2(old as u32, operand as u32, |a, b| half_op(op, kind, a, b)).into(),
    }
}

fn half_op(op: AtomOp, kind: crate::arith::Half, a: u16, b: u16) -> u16 {
    match op {
        AtomOp::Min => kind.min(a, b, MinMaxMode::default()),
        AtomOp::Max => kind.max(a, b, MinMaxMode::default()),
        _ => kind.add(a, b, HalfMode::default()),
    }
}

fn integer(op: AtomOp, a: u64, b: u64) -> u64 {
    match op {
        AtomOp::Add => a.wrapping_add(b),
        AtomOp::Min => a.min(b),
        AtomOp::Max => a.max(b),
        AtomOp::And => a & b,
        AtomOp::Or => a | b,
        AtomOp::Xor => a ^ b,
        AtomOp::Inc => {
            if a >= b {
                0
            } else {
                a + 1
            }
        }
        AtomOp::Dec => {
            if a == 0 || a > b {
                b
            } else {
                a - 1
            }
        }
        AtomOp::Exch | AtomOp::Cas => b,
    }
}

fn integer32(op: AtomOp, a: u32, b: u32) -> u32 {
    match op {
        AtomOp::Add => a.wrapping_add(b),
        other => integer(other, a.into(), b.into()) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_wrap_as_the_isa_says() {
        let inc = |a, b| apply(AtomOp::Inc, AtomType::U(32), a, b, 0);
        let dec = |a, b| apply(AtomOp::Dec, AtomType::U(32), a, b, 0);
        assert_eq!((inc(0, 3), inc(2, 3), inc(3, 3), inc(9, 3)), (1, 3, 0, 0));
        assert_eq!((dec(0, 3), dec(2, 3), dec(4, 3)), (3, 1, 3));
        assert_eq!(apply(AtomOp::Cas, AtomType::U(16), 5, 0xffff_0005, 7), 7, "only the type's bits compare");
        assert_eq!(apply(AtomOp::Min, AtomType::S(32), 5, 0xffff_ffff, 0), 0xffff_ffff);
        assert_eq!(apply(AtomOp::Add, AtomType::U(32), 0xffff_ffff, 2, 0), 1);
    }
}
