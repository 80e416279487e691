//! Race detection in global memory: a word per four bytes for the last writer, one for the last readers.

use super::clocks::Clocks;
use super::finding::{Finding, Step};
use super::order::BlockOrder;
use crate::fault::FaultKind;
use crate::memory::Arena;
use std::sync::atomic::Ordering::Relaxed;

/// What a thread does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    /// The flag: the bytes already hold the value, so that the order of writers does not show.
    Write {
        same: bool,
    },
    Atomic,
}

/// Who accesses global memory.
#[derive(Clone, Copy)]
pub(crate) struct Accessor<'a> {
    pub(crate) block: u32,
    pub(crate) warp: u32,
    pub(crate) clocks: &'a Clocks,
    pub(crate) order: &'a BlockOrder,
    /// Time of the block's last acquiring access.
    pub(crate) acquired: u64,
    pub(crate) strong: bool,
}

// A word, from bit 0: clock 24, strong, several lanes, thread 10, block 21, apart, several warps, several blocks, bytes 4.
const CLOCK: u64 = (1 << 24) - 1;
const STRONG: u64 = 1 << 24;
const LANES: u64 = 1 << 25;
const THREAD: u32 = 26;
const BLOCK: u32 = 36;
const BLOCK_BITS: u64 = (1 << 21) - 1;
/// Different threads read different bytes of the word: who read which is not known.
const APART: u64 = 1 << 57;
const WARPS: u64 = 1 << 58;
const BLOCKS: u64 = 1 << 59;
const BYTES: u32 = 60;
const SEVERAL: u64 = LANES | WARPS | BLOCKS;

#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    fn clock(self) -> u32 {
        (self.0 & CLOCK) as u32
    }
    fn thread(self) -> u32 {
        (self.0 >> THREAD & 1023) as u32
    }
    fn block(self) -> u64 {
        self.0 >> BLOCK & BLOCK_BITS
    }
    fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }
    /// Everything but the bytes, the clock and the flags.
    fn who(self) -> u64 {
        (self.0 >> THREAD) & ((1 << 31) - 1)
    }
}

impl Accessor<'_> {
    /// The word that this warp's lane 0 leaves, without bytes.
    #[inline(always)]
    fn word(&self) -> u64 {
        let clock = u64::from(self.clocks.relative(self.clocks.now(self.warp))) & CLOCK;
        let block = (u64::from(self.block) + 1) & BLOCK_BITS;
        let strong = if self.strong { STRONG } else { 0 };
        block << BLOCK | u64::from(self.warp * 32) << THREAD | strong | clock
    }

    /// Checks and notes an access of `bytes` (a power of two up to 32, aligned) at `offset` of the arena.
    #[inline(always)]
    pub(crate) fn note(&self, arena: &Arena, offset: usize, bytes: usize, lane: u32, kind: Kind) -> Step<()> {
        let count = bytes.div_ceil(4);
        let mask = if bytes >= 4 { 15u64 } else { ((1 << bytes) - 1) << (offset % 4) };
        let mine = self.word() | u64::from(lane) << THREAD | mask << BYTES;
        let writers = arena.writers.longs(offset / 4, count);
        let readers = arena.readers.longs(offset / 4, count);
        for (granule, (writer, reader)) in writers.iter().zip(readers).enumerate() {
            let (wrote, read) = (Word(writer.load(Relaxed)), Word(reader.load(Relaxed)));
            if wrote.0 != 0 && wrote.0 != mine {
                self.against_writer(wrote, mine, kind).map_err(|f| self.at(f, arena, offset, granule))?;
            }
            if kind == Kind::Read {
                if read.0 != mine && !self.strong {
                    reader.store(self.merge_read(read, mine), Relaxed);
                }
                continue;
            }
            if read.0 != 0 {
                self.against_reader(read, mine, kind).map_err(|f| self.at(f, arena, offset, granule))?;
            }
            if wrote.0 != mine {
                writer.store(self.merge_write(wrote, mine, kind), Relaxed);
            }
        }
        Ok(())
    }

    #[cold]
    fn at(&self, finding: Box<Finding>, arena: &Arena, offset: usize, granule: usize) -> Box<Finding> {
        finding.address(arena.base + (offset as u64 & !3) + granule as u64 * 4)
    }

    fn overlaps(a: Word, b: u64) -> bool {
        a.0 >> BYTES & b >> BYTES != 0
    }

    fn is_same_block(a: Word, mine: u64) -> bool {
        a.block() == Word(mine).block()
    }

    /// Whether an access of this block is past for the warp.
    fn is_past(&self, word: Word) -> bool {
        let clock = self.clocks.absolute(word.clock());
        if word.has(WARPS) {
            return clock < self.clocks.now(self.warp);
        }
        self.clocks.knows(self.warp, word.thread() / 32, clock)
    }

    fn is_strong(&self, word: Word, kind: Kind) -> bool {
        word.has(STRONG) && (self.strong || kind == Kind::Atomic)
    }

    fn against_writer(&self, wrote: Word, mine: u64, kind: Kind) -> Step<()> {
        if !Self::overlaps(wrote, mine) || self.is_strong(wrote, kind) || kind == (Kind::Write { same: true })
        {
            return Ok(());
        }
        if Self::is_same_block(wrote, mine) {
            // Of bytes that several threads wrote side by side the owner is not known.
            if wrote.who() == Word(mine).who() || wrote.has(SEVERAL) || self.is_past(wrote) {
                return Ok(());
            }
        } else if self.released(wrote) {
            return Ok(());
        }
        Err(self.race(mine, wrote, kind, "wrote"))
    }

    fn against_reader(&self, read: Word, mine: u64, kind: Kind) -> Step<()> {
        if !Self::overlaps(read, mine) || self.is_strong(read, kind) || kind == (Kind::Write { same: true }) {
            return Ok(());
        }
        // Whoever writes part of a word of which threads read their own parts may be the only reader of it.
        if read.has(APART) && mine >> BYTES != 15 {
            return Ok(());
        }
        if read.has(BLOCKS) {
            // Which blocks is not known: one that acquired anything is given the benefit of the doubt.
            if self.acquired > 0 {
                return Ok(());
            }
        } else if Self::is_same_block(read, mine) {
            let alone = !read.has(SEVERAL) && read.who() == Word(mine).who();
            if alone || self.is_past(read) {
                return Ok(());
            }
        } else if self.released(read) {
            return Ok(());
        }
        Err(self.race(mine, read, kind, "read"))
    }

    #[cold]
    fn released(&self, word: Word) -> bool {
        let block = (word.block() as u32).wrapping_sub(1);
        self.order.is_released(block, word.thread() / 32, word.clock(), self.acquired)
    }

    #[cold]
    fn race(&self, mine: u64, other: Word, kind: Kind, did: &str) -> Box<Finding> {
        let verb = if kind == Kind::Read { "reads" } else { "writes" };
        let me = Word(mine).thread();
        let whom = if other.has(BLOCKS) {
            "several blocks".to_string()
        } else if other.has(LANES | WARPS) {
            format!("several threads of block {}", other.block().wrapping_sub(1))
        } else {
            format!("thread {} of block {}", other.thread(), other.block().wrapping_sub(1))
        };
        let order = if Self::is_same_block(other, mine) { "a barrier" } else { "a fence and an atomic" };
        let message = format!(
            "global race: thread {me} of block {} {verb} what {whom} {did} without {order} between (blocks and threads counted linearly)",
            self.block
        );
        let finding = Finding::new(FaultKind::Race, message).thread(me);
        if Self::is_same_block(other, mine) && !other.has(SEVERAL) {
            finding.thread(other.thread())
        } else {
            finding
        }
    }

    fn merge_read(&self, read: Word, mine: u64) -> u64 {
        if read.0 == 0 {
            return mine;
        }
        let bytes = read.0 & 15 << BYTES;
        let elsewhere = read.0 & APART | if Self::overlaps(read, mine) { 0 } else { APART };
        if !Self::is_same_block(read, mine) {
            return mine | bytes | BLOCKS | elsewhere;
        }
        if read.has(BLOCKS) {
            return read.0 | mine & 15 << BYTES | elsewhere;
        }
        if self.is_past(read) {
            return mine;
        }
        let me = Word(mine);
        let flag = match () {
            () if read.thread() == me.thread() => read.0 & APART,
            () if read.thread() / 32 == me.thread() / 32 => LANES | elsewhere,
            () => WARPS | elsewhere,
        };
        mine | bytes | read.0 & SEVERAL | flag
    }

    fn merge_write(&self, wrote: Word, mine: u64, kind: Kind) -> u64 {
        let mine = if kind == Kind::Atomic { mine | STRONG } else { mine };
        // Neighbours of one word, written by two threads of the block: who wrote which byte is forgotten.
        let apart = wrote.0 != 0 && !Self::overlaps(wrote, mine);
        if apart && Self::is_same_block(wrote, mine) {
            let flag = if wrote.who() == Word(mine).who() { 0 } else { LANES };
            return mine | wrote.0 & (15 << BYTES | SEVERAL) | flag;
        }
        mine
    }
}
