//! Race detection in global memory: a word per four bytes for the last writer, one for the last readers, and
//! words for each byte of those four that are not accessed as one.

use super::clocks::Clocks;
use super::finding::{Finding, Step};
use super::order::BlockOrder;
use crate::fault::FaultKind;
use crate::memory::Arena;
use std::sync::atomic::AtomicU64;
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

// A word, from bit 0: clock 24, strong, several lanes, thread 10, block 21, split, several warps, several
// blocks.
const CLOCK: u64 = (1 << 24) - 1;
const STRONG: u64 = 1 << 24;
const LANES: u64 = 1 << 25;
const THREAD: u32 = 26;
const BLOCK: u32 = 36;
const BLOCK_BITS: u64 = (1 << 21) - 1;
/// The four bytes have words of their own.
const SPLIT: u64 = 1 << 57;
const WARPS: u64 = 1 << 58;
const BLOCKS: u64 = 1 << 59;
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
    /// Everything but the clock and the flags.
    fn who(self) -> u64 {
        (self.0 >> THREAD) & ((1 << 31) - 1)
    }
}

impl Accessor<'_> {
    /// The word that this warp's lane 0 leaves.
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
        let mine = self.word() | u64::from(lane) << THREAD;
        if bytes < 4 {
            return self.note_bytes(arena, offset, bytes, mine, kind);
        }
        let writers = arena.writers.longs(offset / 4, bytes / 4);
        let readers = arena.readers.longs(offset / 4, bytes / 4);
        for (granule, (writer, reader)) in writers.iter().zip(readers).enumerate() {
            let at = offset + granule * 4;
            if (writer.load(Relaxed) | reader.load(Relaxed)) & SPLIT != 0 {
                self.note_bytes(arena, at, 4, mine, kind)?;
            } else {
                self.note_word(writer, reader, mine, kind).map_err(|finding| at_byte(finding, arena, at))?;
            }
        }
        Ok(())
    }

    /// Checks and notes an access of bytes of one granule, each for itself.
    fn note_bytes(&self, arena: &Arena, offset: usize, bytes: usize, mine: u64, kind: Kind) -> Step<()> {
        let granule = offset / 4;
        let (writer, reader) = (&arena.writers.longs(granule, 1)[0], &arena.readers.longs(granule, 1)[0]);
        let writers = split(writer, arena.byte_writers.longs(granule * 4, 4));
        let readers = split(reader, arena.byte_readers.longs(granule * 4, 4));
        for byte in offset % 4..offset % 4 + bytes {
            let noted = self.note_word(&writers[byte], &readers[byte], mine, kind);
            noted.map_err(|finding| at_byte(finding, arena, granule * 4 + byte))?;
        }
        if bytes == 4 && kind != Kind::Read {
            writer.store(writers[0].load(Relaxed), Relaxed);
        }
        Ok(())
    }

    /// Checks and notes an access of what a pair of words stands for.
    #[inline(always)]
    fn note_word(&self, writer: &AtomicU64, reader: &AtomicU64, mine: u64, kind: Kind) -> Step<()> {
        let (wrote, read) = (Word(writer.load(Relaxed)), Word(reader.load(Relaxed)));
        if wrote.0 != 0 && wrote.0 != mine {
            self.against_writer(wrote, mine, kind)?;
        }
        if kind == Kind::Read {
            if read.0 != mine && !self.strong {
                reader.store(self.merge_read(read, mine), Relaxed);
            }
            return Ok(());
        }
        if read.0 != 0 {
            self.against_reader(read, mine, kind)?;
        }
        let mine = if kind == Kind::Atomic { mine | STRONG } else { mine };
        if wrote.0 != mine {
            writer.store(mine, Relaxed);
        }
        Ok(())
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
        if self.is_strong(wrote, kind) || kind == (Kind::Write { same: true }) {
            return Ok(());
        }
        if Self::is_same_block(wrote, mine) {
            if wrote.who() == Word(mine).who() || self.is_past(wrote) {
                return Ok(());
            }
        } else if self.released(wrote) {
            return Ok(());
        }
        Err(self.race(mine, wrote, kind, "wrote"))
    }

    fn against_reader(&self, read: Word, mine: u64, kind: Kind) -> Step<()> {
        if self.is_strong(read, kind) || kind == (Kind::Write { same: true }) {
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
        if !Self::is_same_block(read, mine) {
            return mine | BLOCKS;
        }
        if read.has(BLOCKS) {
            return read.0;
        }
        if self.is_past(read) {
            return mine;
        }
        let me = Word(mine);
        let flag = match () {
            () if read.thread() == me.thread() => 0,
            () if read.thread() / 32 == me.thread() / 32 => LANES,
            () => WARPS,
        };
        mine | read.0 & SEVERAL | flag
    }
}

/// Gives the bytes of a granule words of their own, beginning with what is known of all of them.
fn split<'p>(word: &AtomicU64, bytes: &'p [AtomicU64]) -> &'p [AtomicU64] {
    let all = word.load(Relaxed);
    if all & SPLIT == 0 {
        bytes.iter().for_each(|byte| byte.store(all, Relaxed));
        word.store(SPLIT, Relaxed);
    }
    bytes
}

#[cold]
fn at_byte(finding: Box<Finding>, arena: &Arena, offset: usize) -> Box<Finding> {
    finding.address(arena.base + offset as u64)
}
