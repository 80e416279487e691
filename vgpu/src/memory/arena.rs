//! A range of device addresses with its data and what is known about every byte.

use super::plane::Plane;
use std::sync::atomic::Ordering::Relaxed;

/// Data bytes per flag of [`Arena::touched`].
const CHUNK: u64 = 4096;

/// Addresses `base .. base + size` and, beside the data: which bytes were ever written, and for the running
/// launch which bytes it loaded and stored and who accessed each 4-byte granule last.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) base: u64,
    size: u64,
    /// Pinned host memory: counts as written, and the host may touch it unseen.
    pub(crate) is_host: bool,
    pub(crate) data: Plane,
    /// A bit per byte: written since allocation.
    written: Plane,
    /// A bit per byte: loaded by this launch; a 32-bit word is a sector.
    loaded: Plane,
    /// A bit per byte: stored by this launch.
    stored: Plane,
    /// A 64-bit word per granule of 4 bytes: its last writer in this launch.
    pub(crate) writers: Plane,
    /// A 64-bit word per granule: its last reader, or that there were several.
    pub(crate) readers: Plane,
    /// The same for every byte, where the word of the granule says that its bytes differ.
    pub(crate) byte_writers: Plane,
    pub(crate) byte_readers: Plane,
    /// A byte per chunk that the launch touched.
    touched: Plane,
}

impl Arena {
    pub(crate) fn device(base: u64, size: u64) -> std::io::Result<Arena> {
        Arena::new(base, size, false, Plane::new(size as usize)?)
    }

    pub(crate) fn host(size: u64) -> std::io::Result<Arena> {
        let data = Plane::new(size as usize)?;
        Arena::new(data.address(), size, true, data)
    }

    fn new(base: u64, size: u64, is_host: bool, data: Plane) -> std::io::Result<Arena> {
        let bytes = size as usize;
        Ok(Arena {
            base,
            size,
            is_host,
            data,
            written: Plane::new(bytes / 8)?,
            loaded: Plane::new(bytes / 8)?,
            stored: Plane::new(bytes / 8)?,
            writers: Plane::new(bytes * 2)?,
            readers: Plane::new(bytes * 2)?,
            byte_writers: Plane::new(bytes * 8)?,
            byte_readers: Plane::new(bytes * 8)?,
            touched: Plane::new(bytes / CHUNK as usize + 1)?,
        })
    }

    pub(crate) fn end(&self) -> u64 {
        self.base + self.size
    }

    pub(crate) fn holds(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.size
    }

    #[inline]
    pub(crate) fn offset(&self, address: u64) -> usize {
        (address - self.base) as usize
    }

    /// Forgets everything about a freed range and gives its pages back.
    pub(crate) fn release(&self, address: u64, bytes: u64) {
        // Allocations start at multiples of 256, so rounding the shadow up to its words meets no neighbour.
        let (at, bytes) = (self.offset(address), bytes.next_multiple_of(32) as usize);
        self.data.discard(at, bytes);
        self.written.discard(at / 8, bytes / 8);
        for plane in [&self.writers, &self.readers] {
            plane.discard(at * 2, bytes * 2);
        }
        for plane in [&self.byte_writers, &self.byte_readers] {
            plane.discard(at * 8, bytes * 8);
        }
    }

    pub(crate) fn set_written(&self, address: u64, bytes: u64) {
        if !self.is_host {
            set_bits(&self.written, self.offset(address), bytes as usize);
        }
    }

    /// Whether all of up to 32 bytes within one sector's word were written.
    #[inline]
    pub(crate) fn is_written(&self, offset: usize, bytes: usize) -> bool {
        self.is_host || has_bits(&self.written, offset, bytes)
    }

    #[inline]
    pub(crate) fn mark_written(&self, offset: usize, bytes: usize) {
        if !self.is_host {
            mark_bits(&self.written, offset, bytes);
        }
    }

    pub(crate) fn copy_written(&self, dst: u64, from: &Arena, src: u64, bytes: u64) {
        if self.is_host {
            return;
        }
        let (dst, src) = (self.offset(dst), from.offset(src));
        if from.is_host {
            return set_bits(&self.written, dst, bytes as usize);
        }
        if dst % 8 == src % 8 && bytes >= 16 {
            let head = (8 - dst % 8) % 8;
            let whole = (bytes as usize - head) / 8;
            self.copy_bits(dst, from, src, head);
            self.written.copy((dst + head) / 8, &from.written, (src + head) / 8, whole);
            let done = head + whole * 8;
            return self.copy_bits(dst + done, from, src + done, bytes as usize - done);
        }
        self.copy_bits(dst, from, src, bytes as usize);
    }

    fn copy_bits(&self, dst: usize, from: &Arena, src: usize, bytes: usize) {
        let known: Vec<bool> = (src..src + bytes).map(|i| has_bits(&from.written, i, 1)).collect();
        for (i, known) in known.into_iter().enumerate() {
            let (byte, bit) = (self.written.byte((dst + i) / 8), 1 << ((dst + i) % 8));
            if known {
                byte.fetch_or(bit, Relaxed);
            } else {
                byte.fetch_and(!bit, Relaxed);
            }
        }
    }

    #[inline]
    pub(crate) fn mark_loaded(&self, offset: usize, bytes: usize) {
        self.touch(offset);
        mark_bits(&self.loaded, offset, bytes);
    }

    #[inline]
    pub(crate) fn mark_stored(&self, offset: usize, bytes: usize) {
        self.touch(offset);
        mark_bits(&self.stored, offset, bytes);
    }

    /// Notes that the launch touched the chunk, whose shadow must be cleared after it.
    #[inline]
    fn touch(&self, offset: usize) {
        let flag = self.touched.byte(offset / CHUNK as usize);
        if flag.load(Relaxed) == 0 {
            flag.store(1, Relaxed);
        }
    }

    /// Sums up and clears what the launch left in the shadow of `bytes` at `address`: unique sectors and
    /// bytes of loads and of stores.
    pub(crate) fn collect(&self, address: u64, bytes: u64) -> [(u64, u64); 2] {
        let mut unique = [(0, 0); 2];
        let first = self.offset(address) / CHUNK as usize;
        let last = (self.offset(address) + bytes as usize - 1) / CHUNK as usize;
        for chunk in first..=last {
            let flag = self.touched.byte(chunk);
            if flag.load(Relaxed) == 0 {
                continue;
            }
            flag.store(0, Relaxed);
            let size = CHUNK as usize;
            for (plane, (sectors, touched)) in [&self.loaded, &self.stored].into_iter().zip(&mut unique) {
                for word in chunk * size / 32..(chunk + 1) * size / 32 {
                    let bits = plane.word(word).load(Relaxed);
                    *sectors += u64::from(bits != 0);
                    *touched += u64::from(bits.count_ones());
                }
                plane.fill(chunk * size / 8, size / 8, 0);
            }
            self.writers.fill(chunk * size * 2, size * 2, 0);
            self.readers.fill(chunk * size * 2, size * 2, 0);
        }
        unique
    }
}

/// Bits `offset .. offset + bytes` within one 32-bit word, as (word, mask).
#[inline]
fn within(offset: usize, bytes: usize) -> (usize, u32) {
    debug_assert!(bytes > 0 && offset % 32 + bytes <= 32);
    (offset / 32, (u32::MAX >> (32 - bytes)) << (offset % 32))
}

#[inline]
fn has_bits(plane: &Plane, offset: usize, bytes: usize) -> bool {
    let (word, mask) = within(offset, bytes);
    plane.word(word).load(Relaxed) & mask == mask
}

/// Sets bits, most often set already: looks first, for a locked instruction costs much more than a load.
#[inline]
fn mark_bits(plane: &Plane, offset: usize, bytes: usize) {
    let (index, mask) = within(offset, bytes);
    let word = plane.word(index);
    if word.load(Relaxed) & mask != mask {
        word.fetch_or(mask, Relaxed);
    }
}

fn set_bits(plane: &Plane, offset: usize, bytes: usize) {
    let (mut at, end) = (offset, offset + bytes);
    while at < end && at % 32 != 0 {
        mark_bits(plane, at, 1);
        at += 1;
    }
    let whole = (end - at) / 32 * 32;
    plane.fill(at / 8, whole / 8, 0xff);
    for at in at + whole..end {
        mark_bits(plane, at, 1);
    }
}
