//! `ld` and `st`: addresses, spaces, and the data.

use super::block::BlockState;
use super::finding::{Finding, Step, lanes_of};
use super::global::{self, Part, check_alignment};
use super::lanes::{LANES, Rows};
use super::race::Kind;
use super::shared::Who;
use super::warp::{Warp, read_cell, read_row, write_cell};
use super::window;
use crate::fault::FaultKind;
use crate::program::code::{Access, Base, Cell, NO_ROW, Space};

/// Most elements of a vector.
const MAX_ELEMENTS: usize = 8;

/// Values of all elements of an access, by element and lane.
type Values = [[u64; LANES]; MAX_ELEMENTS];

/// Effective addresses of all lanes.
pub(crate) fn addresses(warp: &Warp, frame: u32, rows: Rows, base: Base, offset: i64) -> [u64; LANES] {
    let offset = offset as u64;
    match base {
        Base::Wide(row) => {
            // SAFETY: the decoder gives 64-bit rows for wide bases.
            let row: [u64; LANES] = unsafe { rows.load(row) };
            row.map(|address| address.wrapping_add(offset))
        }
        Base::Narrow(row) => {
            read_row(rows, row).map(|address| u64::from(address.wrapping_add(offset as u32)))
        }
        Base::Absolute => [offset; LANES],
        Base::Frame => [offset.wrapping_add(warp.frames[frame as usize].local.into()); LANES],
    }
}

/// The space of a generic address, and the address in it.
pub(crate) fn resolve(address: u64) -> (Space, u64) {
    match () {
        () if window::holds(window::SHARED, address) => (Space::Shared, address - window::SHARED),
        () if window::holds(window::LOCAL, address) => (Space::Local, address - window::LOCAL),
        () if window::holds(window::PARAM, address) => (Space::KernelParam, address - window::PARAM),
        () => (Space::Global, address),
    }
}

/// Splits generic addresses by space and calls `part` with addresses of that space.
pub(crate) fn by_space(
    space: Space,
    addresses: &[u64; LANES],
    active: u32,
    mut part: impl FnMut(Space, &[u64; LANES], u32) -> Step<()>,
) -> Step<()> {
    if space != Space::Generic {
        return part(space, addresses, active);
    }
    let mut rest = active;
    while rest != 0 {
        let (space, _) = resolve(addresses[rest.trailing_zeros() as usize]);
        let mut inside = 0;
        let mut local = *addresses;
        for lane in lanes_of(rest) {
            let (other, address) = resolve(addresses[lane]);
            if other == space {
                inside |= 1 << lane;
                local[lane] = address;
            }
        }
        part(space, &local, inside)?;
        rest &= !inside;
    }
    Ok(())
}

impl BlockState<'_> {
    pub(crate) fn load(
        &mut self,
        warp: &mut Warp,
        frame: u32,
        rows: Rows,
        access: &Access,
        active: u32,
    ) -> Step<()> {
        let addresses = addresses(warp, frame, rows, access.base, access.offset);
        let mut values = [[0; LANES]; MAX_ELEMENTS];
        by_space(access.space, &addresses, active, |space, addresses, lanes| match space {
            Space::Global | Space::Generic => {
                self.load_global(warp.index, access, addresses, lanes, &mut values)
            }
            Space::Shared => self.load_shared(warp.index, access, addresses, lanes, &mut values),
            Space::Local => self.load_local(warp, access, addresses, lanes, &mut values),
            Space::KernelParam => self.load_param(warp.index, access, addresses, lanes, &mut values),
        })?;
        for (cell, values) in access.values.iter().zip(&mut values) {
            if cell.row != NO_ROW {
                extend(values, access, *cell);
                write_cell(rows, *cell, active, values);
            }
        }
        Ok(())
    }

    pub(crate) fn store(
        &mut self,
        warp: &mut Warp,
        frame: u32,
        rows: Rows,
        access: &Access,
        active: u32,
    ) -> Step<()> {
        let addresses = addresses(warp, frame, rows, access.base, access.offset);
        let mut values = [[0; LANES]; MAX_ELEMENTS];
        for (cell, values) in access.values.iter().zip(&mut values) {
            if cell.row == NO_ROW {
                return Err(Finding::new(FaultKind::UnsupportedInstruction, "store of '_'"));
            }
            *values = read_cell(rows, *cell);
        }
        by_space(access.space, &addresses, active, |space, addresses, lanes| match space {
            Space::Global | Space::Generic => {
                self.store_global(warp.index, access, addresses, lanes, &values)
            }
            Space::Shared => self.store_shared(warp.index, access, addresses, lanes, &values),
            Space::Local => self.store_local(warp, access, addresses, lanes, &values),
            Space::KernelParam => {
                let finding = Finding::new(FaultKind::IllegalAddress, "store to kernel parameters");
                Err(finding.lanes(warp.index, lanes))
            }
        })
    }

    fn load_global(
        &mut self,
        warp: u32,
        access: &Access,
        addresses: &[u64; LANES],
        active: u32,
        values: &mut Values,
    ) -> Step<()> {
        let (bytes, width) = (access.bytes(), u32::from(access.width));
        check_alignment(warp, addresses, active, bytes)?;
        global::count(&mut self.counts.global_loads, addresses, active, bytes);
        if access.strong {
            self.acquired = self.launch.order.acquire();
        }
        let launch = self.launch;
        let _whole = access.is_wide_atomic().then(|| launch.lock_wide());
        self.global_parts(warp, addresses, active, bytes, |part| {
            self.check_global_load(warp, &part, addresses, bytes, access.strong)?;
            for (element, values) in values[..access.values.len()].iter_mut().enumerate() {
                for lane in lanes_of(part.lanes) {
                    let offset = part.arena.offset(addresses[lane]) + element * width as usize;
                    values[lane] = global::read(part.arena, offset, width);
                }
            }
            Ok(())
        })
    }

    fn store_global(
        &mut self,
        warp: u32,
        access: &Access,
        addresses: &[u64; LANES],
        active: u32,
        values: &Values,
    ) -> Step<()> {
        let (bytes, width) = (access.bytes(), u32::from(access.width));
        check_alignment(warp, addresses, active, bytes)?;
        global::count(&mut self.counts.global_stores, addresses, active, bytes);
        let count = access.values.len();
        let launch = self.launch;
        let _whole = access.is_wide_atomic().then(|| launch.lock_wide());
        self.global_parts(warp, addresses, active, bytes, |Part { arena, lanes }| {
            let accessor = self.accessor(warp, access.strong);
            for lane in lanes_of(lanes) {
                let offset = arena.offset(addresses[lane]);
                let element = |k: usize| (offset + k * width as usize, values[k][lane] & mask_of(width));
                let same = (0..count).all(|k| {
                    let (at, value) = element(k);
                    global::read(arena, at, width) == value
                });
                self.note_global_store(&accessor, arena, offset, bytes, lane as u32, Kind::Write { same })?;
                for k in 0..count {
                    let (at, value) = element(k);
                    global::write(arena, at, width, value);
                }
            }
            Ok(())
        })
    }

    /// Bounds, alignment and pending copies of a shared access.
    pub(crate) fn check_shared(
        &self,
        warp: u32,
        addresses: &[u64; LANES],
        active: u32,
        bytes: u32,
    ) -> Step<()> {
        check_alignment(warp, addresses, active, bytes)?;
        // Accesses are no longer than 32 bytes: nothing wraps.
        let last = i64::from(self.shared.len()) - i64::from(bytes);
        let mut beyond = 0u32;
        for (lane, &address) in addresses.iter().enumerate() {
            beyond |= u32::from(address > last.max(0) as u64) << lane;
        }
        if last < 0 {
            beyond = u32::MAX;
        }
        if beyond & active != 0 {
            return Err(self.beyond_shared(warp, addresses, beyond & active, bytes));
        }
        if self.shared.has_pending() && self.launch.spec.settings.checks.async_copies {
            for lane in lanes_of(active) {
                self.check_pending(warp, lane as u32, addresses[lane] as u32, bytes)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn beyond_shared(&self, warp: u32, addresses: &[u64; LANES], lanes: u32, bytes: u32) -> Box<Finding> {
        let (lane, end) = (lanes.trailing_zeros(), self.shared.len());
        let address = addresses[lane as usize];
        let message = format!(
            "access of {bytes} bytes at shared offset {address:#x}, beyond the {end} bytes of the block"
        );
        Finding::new(FaultKind::IllegalAddress, message).address(address).thread(warp * 32 + lane)
    }

    fn check_pending(&self, warp: u32, lane: u32, at: u32, bytes: u32) -> Step<()> {
        if !self.shared.is_pending(at, bytes) {
            return Ok(());
        }
        let message =
            format!("shared offset {at:#x} is the destination of a cp.async that nobody waited for");
        Err(Finding::new(FaultKind::AsyncCopy, message).address(at.into()).thread(warp * 32 + lane))
    }

    /// Checks and notes of a shared read by one lane, checked already by `check_shared`.
    #[inline(always)]
    pub(crate) fn note_shared_read(
        &mut self,
        warp: u32,
        lane: u32,
        at: u32,
        bytes: u32,
        strong: bool,
    ) -> Step<()> {
        let checks = self.launch.spec.settings.checks;
        if checks.uninitialised && !self.shared.is_written(at, bytes) {
            let message = format!("load of {bytes} bytes at shared offset {at:#x}, which nobody wrote");
            let finding = Finding::new(FaultKind::Uninitialised, message).address(at.into());
            return Err(finding.thread(warp * 32 + lane));
        }
        if checks.shared_races {
            let who = Who { warp, lane, clocks: &self.clocks, strong };
            self.shared.note_read(who, at, bytes)?;
        }
        Ok(())
    }

    /// Checks and notes of a shared write by one lane, checked already by `check_shared`.
    pub(crate) fn note_shared_write(
        &mut self,
        warp: u32,
        lane: u32,
        at: u32,
        bytes: u32,
        (strong, same): (bool, bool),
    ) -> Step<()> {
        if self.launch.spec.settings.checks.shared_races {
            let who = Who { warp, lane, clocks: &self.clocks, strong };
            self.shared.note_write(who, at, bytes, same)?;
        }
        self.shared.mark_written(at, bytes);
        Ok(())
    }

    fn load_shared(
        &mut self,
        warp: u32,
        access: &Access,
        addresses: &[u64; LANES],
        active: u32,
        values: &mut Values,
    ) -> Step<()> {
        let (bytes, width) = (access.bytes(), u32::from(access.width));
        self.check_shared(warp, addresses, active, bytes)?;
        self.counts.shared_loads.count(addresses, active, bytes);
        if self.load_broadcast(warp, access, addresses, active, values)? {
            return Ok(());
        }
        for lane in lanes_of(active) {
            let at = addresses[lane] as u32;
            self.note_shared_read(warp, lane as u32, at, bytes, access.strong)?;
            for (k, values) in values[..access.values.len()].iter_mut().enumerate() {
                values[lane] = self.shared.get(at + k as u32 * width, width);
            }
        }
        Ok(())
    }

    /// The frequent load of one address by all lanes, at the cost of one. Returns whether it was one.
    fn load_broadcast(
        &mut self,
        warp: u32,
        access: &Access,
        addresses: &[u64; LANES],
        active: u32,
        values: &mut Values,
    ) -> Step<bool> {
        let lane = active.trailing_zeros() & 31;
        let address = addresses[lane as usize];
        if active.count_ones() < 2 || access.strong || !uniform(addresses, active, address) {
            return Ok(false);
        }
        let (at, bytes, width) = (address as u32, access.bytes(), u32::from(access.width));
        let checks = self.launch.spec.settings.checks;
        if checks.uninitialised && !self.shared.is_written(at, bytes) {
            return Ok(false);
        }
        let who = Who { warp, lane, clocks: &self.clocks, strong: false };
        if checks.shared_races && !self.shared.note_broadcast(who, at, bytes) {
            return Ok(false);
        }
        for (k, values) in values[..access.values.len()].iter_mut().enumerate() {
            *values = [self.shared.get(at + k as u32 * width, width); LANES];
        }
        Ok(true)
    }

    fn store_shared(
        &mut self,
        warp: u32,
        access: &Access,
        addresses: &[u64; LANES],
        active: u32,
        values: &Values,
    ) -> Step<()> {
        let (bytes, width) = (access.bytes(), u32::from(access.width));
        self.check_shared(warp, addresses, active, bytes)?;
        self.counts.shared_stores.count(addresses, active, bytes);
        let (count, races) = (access.values.len(), self.launch.spec.settings.checks.shared_races);
        for lane in lanes_of(active) {
            let at = addresses[lane] as u32;
            let element = |k: usize| (at + k as u32 * width, values[k][lane] & mask_of(width));
            if races {
                let same = (0..count).all(|k| {
                    let (at, value) = element(k);
                    self.shared.get(at, width) == value
                }) && self.shared.is_written(at, bytes);
                let who = Who { warp, lane: lane as u32, clocks: &self.clocks, strong: access.strong };
                self.shared.note_write(who, at, bytes, same)?;
            }
            self.shared.mark_written(at, bytes);
            for k in 0..count {
                let (at, value) = element(k);
                self.shared.set(at, width, value);
            }
        }
        Ok(())
    }

    pub(crate) fn check_local(
        &self,
        warp: &Warp,
        addresses: &[u64; LANES],
        active: u32,
        bytes: u32,
    ) -> Step<()> {
        check_alignment(warp.index, addresses, active, bytes)?;
        let end = (warp.local.len() / LANES * 4) as u64;
        for lane in lanes_of(active) {
            let address = addresses[lane];
            if address > end || u64::from(bytes) > end - address {
                let message = format!(
                    "access of {bytes} bytes at local offset {address:#x}, beyond the {end} bytes of the thread"
                );
                let finding = Finding::new(FaultKind::IllegalAddress, message).address(address);
                return Err(finding.thread(warp.index * 32 + lane as u32));
            }
        }
        Ok(())
    }

    fn load_local(
        &mut self,
        warp: &Warp,
        access: &Access,
        addresses: &[u64; LANES],
        active: u32,
        values: &mut Values,
    ) -> Step<()> {
        let (bytes, width) = (access.bytes(), u32::from(access.width));
        self.check_local(warp, addresses, active, bytes)?;
        self.counts.count_local(addresses, active, bytes, false);
        for (k, values) in values[..access.values.len()].iter_mut().enumerate() {
            for lane in lanes_of(active) {
                values[lane] =
                    local_get(&warp.local, lane, addresses[lane] as usize + k * width as usize, width);
            }
        }
        Ok(())
    }

    fn store_local(
        &mut self,
        warp: &mut Warp,
        access: &Access,
        addresses: &[u64; LANES],
        active: u32,
        values: &Values,
    ) -> Step<()> {
        let (bytes, width) = (access.bytes(), u32::from(access.width));
        self.check_local(warp, addresses, active, bytes)?;
        self.counts.count_local(addresses, active, bytes, true);
        for (k, values) in values[..access.values.len()].iter().enumerate() {
            for lane in lanes_of(active) {
                local_set(
                    &mut warp.local,
                    lane,
                    addresses[lane] as usize + k * width as usize,
                    width,
                    values[lane],
                );
            }
        }
        Ok(())
    }

    fn load_param(
        &mut self,
        warp: u32,
        access: &Access,
        addresses: &[u64; LANES],
        active: u32,
        values: &mut Values,
    ) -> Step<()> {
        let (bytes, width) = (access.bytes() as usize, access.width as usize);
        let params = self.launch.spec.params;
        if matches!(access.base, Base::Absolute) {
            let at = access.offset as usize;
            if at.checked_add(bytes).is_some_and(|end| end <= params.len()) {
                for (k, values) in values[..access.values.len()].iter_mut().enumerate() {
                    *values = [param(params, at + k * width, width); LANES];
                }
                return Ok(());
            }
        }
        for lane in lanes_of(active) {
            let at = usize::try_from(addresses[lane]).unwrap_or(usize::MAX);
            let Some(data) = at.checked_add(bytes).and_then(|end| params.get(at..end)) else {
                let message = format!(
                    "access of {bytes} bytes at parameter offset {at:#x}, beyond {} bytes",
                    params.len()
                );
                return Err(Finding::new(FaultKind::IllegalAddress, message).thread(warp * 32 + lane as u32));
            };
            for (k, values) in values[..access.values.len()].iter_mut().enumerate() {
                values[lane] = param(data, k * width, width);
            }
        }
        Ok(())
    }
}

fn param(data: &[u8], at: usize, width: usize) -> u64 {
    let mut word = [0; 8];
    word[..width].copy_from_slice(&data[at..at + width]);
    u64::from_le_bytes(word)
}

/// Whether all active lanes have that address.
#[inline(always)]
fn uniform(addresses: &[u64; LANES], active: u32, address: u64) -> bool {
    let mut other = 0u32;
    for (lane, &a) in addresses.iter().enumerate() {
        other |= u32::from(a != address) << lane;
    }
    other & active == 0
}

#[inline(always)]
fn mask_of(width: u32) -> u64 {
    u64::MAX >> (64 - width * 8)
}

/// Extends narrow loads to the register.
fn extend(values: &mut [u64; LANES], access: &Access, cell: Cell) {
    if access.signed && cell.bits > access.width * 8 {
        let shift = 64 - u32::from(access.width) * 8;
        for value in values {
            *value = ((*value << shift) as i64 >> shift) as u64;
        }
    }
}

/// Reads a lane's local memory, aligned and in bounds.
pub(crate) fn local_get(local: &[u32], lane: usize, at: usize, width: u32) -> u64 {
    let word = |at: usize| u64::from(local[at / 4 * LANES + lane]);
    match width {
        8 => word(at) | word(at + 4) << 32,
        _ => word(at) >> (at % 4 * 8) & mask_of(width),
    }
}

/// Writes a lane's local memory, aligned and in bounds.
pub(crate) fn local_set(local: &mut [u32], lane: usize, at: usize, width: u32, value: u64) {
    let index = at / 4 * LANES + lane;
    if width == 8 {
        local[index + LANES] = (value >> 32) as u32;
    }
    if width >= 4 {
        local[index] = value as u32;
        return;
    }
    let (shift, mask) = (at % 4 * 8, mask_of(width) as u32);
    local[index] = local[index] & !(mask << shift) | (value as u32 & mask) << shift;
}
