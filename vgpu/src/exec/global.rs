//! Accesses to global memory: bounds, alignment, initialisation, races, sectors.

use super::block::BlockState;
use super::finding::{Finding, Step, lanes_of};
use super::lanes::LANES;
use super::race::{Accessor, Kind};
use crate::counters::Traffic;
use crate::fault::FaultKind;
use crate::memory::{Allocation, Arena};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// Lanes whose addresses lie in the same arena.
pub(crate) struct Part<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) lanes: u32,
}

/// Distinct 32-byte sectors among the active lanes' addresses, each access within one sector.
pub(crate) fn sectors(addresses: &[u64; LANES], active: u32) -> u64 {
    let mut seen = [0u64; LANES];
    let mut count = 0;
    let mut highest = 0;
    for lane in lanes_of(active) {
        let sector = addresses[lane] / 32 + 1;
        if sector > highest {
            highest = sector;
        } else if seen[..count].contains(&sector) {
            continue;
        }
        seen[count] = sector;
        count += 1;
    }
    count as u64
}

pub(crate) fn count(traffic: &mut Traffic, addresses: &[u64; LANES], active: u32, bytes: u32) {
    traffic.requests += 1;
    traffic.bytes += u64::from(active.count_ones() * bytes);
    traffic.sectors += sectors(addresses, active);
}

/// Fails if an active address is not a multiple of `align`.
pub(crate) fn check_alignment(warp: u32, addresses: &[u64; LANES], active: u32, align: u32) -> Step<()> {
    let low = u64::from(align - 1);
    let mut wrong = 0u32;
    for (lane, address) in addresses.iter().enumerate() {
        wrong |= u32::from(address & low != 0) << lane;
    }
    match lanes_of(wrong & active).next() {
        None => Ok(()),
        Some(lane) => {
            let message =
                format!("address {:#x} is not a multiple of the access size {align}", addresses[lane]);
            let finding = Finding::new(FaultKind::MisalignedAddress, message).address(addresses[lane]);
            Err(finding.lanes(warp, wrong & active & (1 << lane)))
        }
    }
}

impl<'a> BlockState<'a> {
    /// The allocation at or below an address: of those the launch began with, else of those it made itself.
    fn allocation_at(&self, address: u64) -> Option<Allocation> {
        let all = &self.launch.allocations;
        let below = all.partition_point(|a| a.base <= address).checked_sub(1).map(|index| all[index]);
        below.filter(|a| address - a.base < a.size).or_else(|| self.launch.spec.memory.allocation(address))
    }

    /// Splits the active lanes by arena, having checked that every access lies in an allocation.
    pub(crate) fn global_parts(
        &self,
        warp: u32,
        addresses: &[u64; LANES],
        active: u32,
        bytes: u32,
        mut part: impl FnMut(Part<'a>) -> Step<()>,
    ) -> Step<()> {
        let mut rest = active;
        while rest != 0 {
            let first = addresses[rest.trailing_zeros() as usize];
            let inside = match self.allocation_at(first) {
                Some(a) if a.size >= u64::from(bytes) => {
                    let last = a.size - u64::from(bytes);
                    let mut inside = 0u32;
                    for (lane, address) in addresses.iter().enumerate() {
                        inside |= u32::from(address.wrapping_sub(a.base) <= last) << lane;
                    }
                    inside & rest
                }
                _ => 0,
            };
            let arena = self.launch.spec.memory.arena(first);
            let (Some(arena), true) = (arena, inside >> rest.trailing_zeros() & 1 != 0) else {
                return Err(self.illegal(warp, rest.trailing_zeros(), first, bytes));
            };
            part(Part { arena, lanes: inside })?;
            rest &= !inside;
        }
        Ok(())
    }

    #[cold]
    fn illegal(&self, warp: u32, lane: u32, address: u64, bytes: u32) -> Box<Finding> {
        let what = match self.launch.spec.memory.nearest(address) {
            _ if address < 4096 => "through a null pointer".to_string(),
            Some(a) if a.freed => format!("into memory that was freed ({:#x}, {} bytes)", a.base, a.size),
            Some(a) if address >= a.base + a.size => {
                format!(
                    "{} bytes past the end of an allocation of {} bytes",
                    address - a.base - a.size,
                    a.size
                )
            }
            Some(a) => format!("across the end of an allocation of {} bytes", a.size),
            None => "outside every allocation".to_string(),
        };
        let message = format!("access of {bytes} bytes at {address:#x}, {what}");
        Finding::new(FaultKind::IllegalAddress, message).thread(warp * 32 + lane).address(address)
    }

    pub(crate) fn accessor(&self, warp: u32, strong: bool) -> Accessor<'_> {
        Accessor {
            block: self.linear,
            warp,
            clocks: &self.clocks,
            order: &self.launch.order,
            acquired: self.acquired,
            strong,
        }
    }

    /// Checks of a load, without the load.
    pub(crate) fn check_global_load(
        &self,
        warp: u32,
        part: &Part<'_>,
        addresses: &[u64; LANES],
        bytes: u32,
        strong: bool,
    ) -> Step<()> {
        let checks = self.launch.spec.settings.checks;
        let accessor = self.accessor(warp, strong);
        for lane in lanes_of(part.lanes) {
            let offset = part.arena.offset(addresses[lane]);
            if checks.uninitialised && !part.arena.is_written(offset, bytes as usize) {
                let message = format!("load of {bytes} bytes at {:#x}, which nobody wrote", addresses[lane]);
                let finding = Finding::new(FaultKind::Uninitialised, message).address(addresses[lane]);
                return Err(finding.thread(warp * 32 + lane as u32));
            }
            part.arena.mark_loaded(offset, bytes as usize);
            if checks.global_races {
                accessor.note(part.arena, offset, bytes as usize, lane as u32, Kind::Read)?;
            }
        }
        Ok(())
    }

    /// Checks and notes of a store by one lane, before the data changes.
    pub(crate) fn note_global_store(
        &self,
        accessor: &Accessor<'_>,
        arena: &Arena,
        offset: usize,
        bytes: u32,
        lane: u32,
        kind: Kind,
    ) -> Step<()> {
        arena.mark_stored(offset, bytes as usize);
        if self.launch.spec.settings.checks.global_races {
            accessor.note(arena, offset, bytes as usize, lane, kind)?;
        }
        arena.mark_written(offset, bytes as usize);
        Ok(())
    }
}

/// Reads 1, 2, 4 or 8 aligned bytes.
#[inline(always)]
pub(crate) fn read(arena: &Arena, offset: usize, width: u32) -> u64 {
    let pointer = arena.data.pointer(offset, width as usize);
    // SAFETY: `pointer` checked that the bytes lie in the plane; the caller checked alignment; all accesses
    // of kernels are atomic, so racing programs are no undefined behaviour here.
    unsafe {
        match width {
            1 => u64::from(AtomicU8::from_ptr(pointer).load(Relaxed)),
            2 => u64::from(AtomicU16::from_ptr(pointer.cast()).load(Relaxed)),
            4 => u64::from(AtomicU32::from_ptr(pointer.cast()).load(Relaxed)),
            _ => AtomicU64::from_ptr(pointer.cast()).load(Relaxed),
        }
    }
}

/// Writes 1, 2, 4 or 8 aligned bytes.
#[inline(always)]
pub(crate) fn write(arena: &Arena, offset: usize, width: u32, value: u64) {
    let pointer = arena.data.pointer(offset, width as usize);
    // SAFETY: as in `read`.
    unsafe {
        match width {
            1 => AtomicU8::from_ptr(pointer).store(value as u8, Relaxed),
            2 => AtomicU16::from_ptr(pointer.cast()).store(value as u16, Relaxed),
            4 => AtomicU32::from_ptr(pointer.cast()).store(value as u32, Relaxed),
            _ => AtomicU64::from_ptr(pointer.cast()).store(value, Relaxed),
        }
    }
}
