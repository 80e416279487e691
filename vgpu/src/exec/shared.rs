//! Shared memory of a block: data, what was written, and who accessed it last.

use super::clocks::Clocks;
use super::finding::{Finding, Step, lanes_of};
use crate::fault::FaultKind;

const NONE: u16 = u16::MAX;
const NO_LANE: u8 = u8::MAX;
const SEVERAL: u8 = u8::MAX - 1;
/// Warps read different bytes of the word: which warp read which byte is not known.
const APART: u8 = u8::MAX - 2;

/// Last accesses to four bytes.
#[derive(Clone, Copy, Debug)]
struct Shadow {
    write_clock: u32,
    read_clock: u32,
    /// Warps that read at `read_clock`.
    read_warps: u32,
    /// Last writer of each byte at `write_clock`.
    writers: [u16; 4],
    /// Lane that read each byte, where one lane of one warp did.
    read_lanes: [u8; 4],
}

const UNTOUCHED: Shadow =
    Shadow { write_clock: 0, read_clock: 0, read_warps: 0, writers: [NONE; 4], read_lanes: [NO_LANE; 4] };

/// Who accesses.
#[derive(Clone, Copy)]
pub(crate) struct Who<'a> {
    pub(crate) warp: u32,
    pub(crate) lane: u32,
    pub(crate) clocks: &'a Clocks,
    /// Volatile accesses and atomics race with plain ones only.
    pub(crate) strong: bool,
}

impl Who<'_> {
    fn thread(&self) -> u16 {
        (self.warp * 32 + self.lane) as u16
    }
}

/// Shared memory of one block.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// In 8-byte words, so that vectors are aligned.
    data: Vec<u64>,
    bytes: u32,
    /// A bit per byte.
    written: Vec<u32>,
    /// A bit per byte: a `cp.async` is on its way.
    pending: Vec<u32>,
    any_pending: u32,
    shadow: Vec<Shadow>,
    /// A bit per 4 bytes: last written by an atomic or volatile access.
    strong: Vec<u32>,
}

impl Shared {
    /// Clears for a new block; the shadow stays, its clocks are past.
    pub(crate) fn reset(&mut self, bytes: u32) {
        let size = bytes as usize;
        self.bytes = bytes;
        self.data.clear();
        // Fresh shared memory holds NaNs.
        self.data.resize(size.div_ceil(8), u64::MAX);
        self.written.clear();
        self.written.resize(size.div_ceil(32), 0);
        self.pending.clear();
        self.pending.resize(size.div_ceil(32), 0);
        self.any_pending = 0;
        self.shadow.resize(size.div_ceil(4), UNTOUCHED);
        self.strong.clear();
        self.strong.resize(size.div_ceil(128), 0);
    }

    pub(crate) fn len(&self) -> u32 {
        self.bytes
    }

    /// Reads up to 8 bytes, aligned and in bounds.
    #[inline(always)]
    pub(crate) fn get(&self, at: u32, bytes: u32) -> u64 {
        let word = self.data[at as usize / 8] >> (at % 8 * 8);
        if bytes == 8 { word } else { word & ((1 << (bytes * 8)) - 1) }
    }

    /// Writes up to 8 bytes, aligned and in bounds.
    #[inline(always)]
    pub(crate) fn set(&mut self, at: u32, bytes: u32, value: u64) {
        let word = &mut self.data[at as usize / 8];
        let shift = at % 8 * 8;
        let mask = if bytes == 8 { u64::MAX } else { ((1 << (bytes * 8)) - 1) << shift };
        *word = *word & !mask | value << shift & mask;
    }

    /// Bits of `bytes` (up to 32, within an aligned 32-byte group) at `at`.
    #[inline(always)]
    fn bits(at: u32, bytes: u32) -> (usize, u32) {
        ((at / 32) as usize, (u32::MAX >> (32 - bytes)) << (at % 32))
    }

    #[inline(always)]
    pub(crate) fn is_written(&self, at: u32, bytes: u32) -> bool {
        let (word, mask) = Shared::bits(at, bytes);
        self.written[word] & mask == mask
    }

    #[inline(always)]
    pub(crate) fn mark_written(&mut self, at: u32, bytes: u32) {
        let (word, mask) = Shared::bits(at, bytes);
        self.written[word] |= mask;
    }

    #[inline(always)]
    pub(crate) fn has_pending(&self) -> bool {
        self.any_pending != 0
    }

    #[inline(always)]
    pub(crate) fn is_pending(&self, at: u32, bytes: u32) -> bool {
        if self.any_pending == 0 {
            return false;
        }
        let (word, mask) = Shared::bits(at, bytes);
        self.pending[word] & mask != 0
    }

    pub(crate) fn set_pending(&mut self, at: u32, bytes: u32, pending: bool) {
        let (word, mask) = Shared::bits(at, bytes);
        if pending {
            self.any_pending += 1;
            self.pending[word] |= mask;
        } else {
            self.any_pending -= 1;
            self.pending[word] &= !mask;
        }
    }

    /// Notes a read of up to 16 bytes by a thread; a finding if a write to them was not ordered before it.
    #[inline(always)]
    pub(crate) fn note_read(&mut self, who: Who<'_>, at: u32, bytes: u32) -> Step<()> {
        let floor = who.clocks.floor(who.warp);
        let mut byte = at;
        while byte < at + bytes {
            let cell = &mut self.shadow[byte as usize / 4];
            let (first, count) = (byte % 4, bytes.min(4));
            if cell.write_clock >= floor {
                let strong = who.strong && self.strong[byte as usize / 128] >> (byte / 4 % 32) & 1 != 0;
                if !strong {
                    check_writers(cell, who, byte, first, count, "read")?;
                }
            }
            // A strong read races with plain writes only, and those find it no more: it is what flags are
            // polled with.
            if !who.strong {
                mark_read(cell, who, first, count, floor);
            }
            byte += 4;
        }
        Ok(())
    }

    /// Notes a read of the same bytes by several lanes, if no recent write makes it matter which ones they
    /// are.
    #[inline(always)]
    pub(crate) fn note_broadcast(&mut self, who: Who<'_>, at: u32, bytes: u32) -> bool {
        let floor = who.clocks.floor(who.warp);
        let cells = at as usize / 4..(at + bytes).div_ceil(4) as usize;
        if self.shadow[cells.clone()].iter().any(|cell| cell.write_clock >= floor) {
            return false;
        }
        let (first, count) = (at % 4, bytes.min(4));
        for cell in &mut self.shadow[cells] {
            mark_read(cell, who, first, count, floor);
            for lane in &mut cell.read_lanes[first as usize..(first + count) as usize] {
                *lane = if *lane == APART { APART } else { SEVERAL };
            }
        }
        true
    }

    /// Notes a write of up to 16 bytes; a finding if a read or write of them was not ordered before it.
    /// `same` says whether the bytes already hold what is written, which makes two writes harmless.
    #[inline(always)]
    pub(crate) fn note_write(&mut self, who: Who<'_>, at: u32, bytes: u32, same: bool) -> Step<()> {
        let now = who.clocks.now(who.warp);
        let mut byte = at;
        while byte < at + bytes {
            let (first, count) = (byte % 4, bytes.min(4));
            self.check_write(who, byte, count, same)?;
            let cell = &mut self.shadow[byte as usize / 4];
            if cell.write_clock != now {
                cell.write_clock = now;
                cell.writers = [NONE; 4];
            }
            let thread = who.thread();
            for writer in &mut cell.writers[first as usize..(first + count) as usize] {
                *writer = thread;
            }
            let strong = &mut self.strong[byte as usize / 128];
            let bit = 1 << (byte / 4 % 32);
            *strong = if who.strong { *strong | bit } else { *strong & !bit };
            byte += 4;
        }
        Ok(())
    }

    /// The check of a write alone, within four bytes.
    #[inline(always)]
    fn check_write(&self, who: Who<'_>, byte: u32, count: u32, same: bool) -> Step<()> {
        let floor = who.clocks.floor(who.warp);
        let cell = &self.shadow[byte as usize / 4];
        let first = byte % 4;
        if cell.write_clock >= floor && !same {
            let strong = who.strong && self.strong[byte as usize / 128] >> (byte / 4 % 32) & 1 != 0;
            if !strong {
                check_writers(cell, who, byte, first, count, "write")?;
            }
        }
        if cell.read_clock >= floor && !same {
            check_readers(cell, who, byte, first, count)?;
        }
        Ok(())
    }

    /// The check that the start of an asynchronous write makes, without noting it.
    pub(crate) fn check_future_write(&self, who: Who<'_>, at: u32, bytes: u32) -> Step<()> {
        (at..at + bytes).step_by(4).try_for_each(|byte| self.check_write(who, byte, 4, false))
    }
}

#[cold]
fn race(who: Who<'_>, byte: u32, what: &str, other: &str, thread: Option<u32>) -> Box<Finding> {
    let by = thread.map_or_else(|| "several threads".to_string(), |t| format!("thread {t} of the block"));
    let message = format!(
        "shared-memory race: thread {} {what}s shared offset {byte:#x}, which {by} {other} without a barrier between",
        who.thread()
    );
    let finding = Finding::new(FaultKind::Race, message).thread(who.thread().into()).address(byte.into());
    match thread {
        Some(thread) => finding.thread(thread),
        None => finding,
    }
}

#[inline(always)]
fn check_writers(cell: &Shadow, who: Who<'_>, byte: u32, first: u32, count: u32, what: &str) -> Step<()> {
    for &writer in &cell.writers[first as usize..(first + count) as usize] {
        let past = writer == NONE || who.clocks.knows(who.warp, u32::from(writer) / 32, cell.write_clock);
        if writer != who.thread() && !past {
            return Err(race(who, byte, what, "wrote", Some(writer.into())));
        }
    }
    Ok(())
}

fn check_readers(cell: &Shadow, who: Who<'_>, byte: u32, first: u32, count: u32) -> Step<()> {
    let lanes = &cell.read_lanes[first as usize..(first + count) as usize];
    // Whoever writes bytes of a word that warps read in parts may be the only reader of them.
    if lanes.iter().all(|&lane| lane == NO_LANE) || count < 4 && lanes.contains(&APART) {
        return Ok(());
    }
    for warp in lanes_of(cell.read_warps) {
        if who.clocks.knows(who.warp, warp as u32, cell.read_clock) {
            continue;
        }
        if warp as u32 != who.warp {
            return Err(race(who, byte, "write", "read", Some(warp as u32 * 32)));
        }
        if let Some(&lane) = lanes.iter().find(|&&lane| lane != NO_LANE && u32::from(lane) != who.lane) {
            let thread = (lane < APART).then(|| who.warp * 32 + u32::from(lane));
            return Err(race(who, byte, "write", "read", thread));
        }
    }
    Ok(())
}

#[inline(always)]
fn mark_read(cell: &mut Shadow, who: Who<'_>, first: u32, count: u32, floor: u32) {
    let (now, bit) = (who.clocks.now(who.warp), 1 << who.warp);
    if cell.read_clock < floor {
        cell.read_clock = now;
        cell.read_warps = bit;
        cell.read_lanes = [NO_LANE; 4];
    } else if cell.read_clock == now && cell.read_warps & !bit != 0 {
        // Other warps read it in the same interval: whose lane it was no longer matters.
        cell.read_warps |= bit;
        mark_several(cell, first, count);
        return;
    } else if cell.read_clock != now || cell.read_warps != bit {
        merge_read(cell, who, now);
        if cell.read_warps & !bit != 0 {
            mark_several(cell, first, count);
            return;
        }
    }
    for lane in &mut cell.read_lanes[first as usize..(first + count) as usize] {
        *lane = match *lane {
            NO_LANE => who.lane as u8,
            known if u32::from(known) == who.lane || known == APART => known,
            _ => SEVERAL,
        };
    }
}

/// Several warps have read the word, this time these bytes of it.
#[inline(always)]
fn mark_several(cell: &mut Shadow, first: u32, count: u32) {
    if count == 4 && cell.read_lanes == [SEVERAL; 4] {
        return;
    }
    let whole = count == 4 && !cell.read_lanes.iter().any(|&lane| matches!(lane, NO_LANE | APART));
    cell.read_lanes[first as usize..(first + count) as usize].fill(SEVERAL);
    let mark = if whole { SEVERAL } else { APART };
    cell.read_lanes = cell.read_lanes.map(|lane| if lane == NO_LANE { NO_LANE } else { mark });
}

fn merge_read(cell: &mut Shadow, who: Who<'_>, now: u32) {
    // Readers that this one is ordered behind need not be remembered: who is ordered behind this one is
    // behind them.
    for warp in lanes_of(cell.read_warps) {
        if who.clocks.knows(who.warp, warp as u32, cell.read_clock) {
            cell.read_warps &= !(1 << warp);
        }
    }
    if cell.read_warps == 0 {
        cell.read_clock = now;
        cell.read_lanes = [NO_LANE; 4];
    } else {
        // The older clock forgets rather than accuses.
        cell.read_clock = cell.read_clock.min(now);
    }
    cell.read_warps |= 1 << who.warp;
}
