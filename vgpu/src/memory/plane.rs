//! Reserved address space that costs memory only where it is touched.

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

const PAGE: usize = 4096;

/// A zero-initialised range of host memory, committed page by page on first touch. All access is through
/// atomics or through copies whose bounds the caller has checked: kernels under test may race, the host must
/// not be undefined.
#[derive(Debug)]
pub(crate) struct Plane {
    map: MmapRaw,
}

impl Plane {
    pub(crate) fn new(bytes: usize) -> std::io::Result<Plane> {
        let map = MmapOptions::new().len(bytes.max(PAGE)).no_reserve_swap().map_anon()?;
        Ok(Plane { map: MmapRaw::from(map) })
    }

    pub(crate) fn address(&self) -> u64 {
        self.map.as_ptr() as u64
    }

    #[inline(always)]
    fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset <= self.map.len() && bytes <= self.map.len() - offset, "plane access out of range");
        // SAFETY: the assertion keeps the result inside the mapping.
        unsafe { self.map.as_mut_ptr().add(offset) }
    }

    /// A pointer to bytes inside the plane.
    #[inline(always)]
    pub(crate) fn pointer(&self, offset: usize, bytes: usize) -> *mut u8 {
        self.at(offset, bytes)
    }

    pub(crate) fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: `at` checked the bounds; the mapping lives as long as `self`; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1)) }
    }

    /// The 32-bit word with index `index`.
    #[inline]
    pub(crate) fn word(&self, index: usize) -> &AtomicU32 {
        // SAFETY: bounds checked by `at`; the mapping is page-aligned, so words are aligned.
        unsafe { AtomicU32::from_ptr(self.at(index * 4, 4).cast()) }
    }

    /// The 64-bit words `first .. first + count`.
    #[inline]
    pub(crate) fn longs(&self, first: usize, count: usize) -> &[AtomicU64] {
        // SAFETY: bounds checked by `at`; page-aligned; AtomicU64 has the layout of u64 and any bits are
        // valid.
        unsafe { std::slice::from_raw_parts(self.at(first * 8, count * 8).cast(), count) }
    }

    pub(crate) fn write(&self, offset: usize, src: &[u8]) {
        // SAFETY: bounds checked by `at`; `src` cannot overlap a mapping that is only reachable through raw
        // pointers.
        unsafe { std::ptr::copy(src.as_ptr(), self.at(offset, src.len()), src.len()) }
    }

    pub(crate) fn read(&self, offset: usize, dst: &mut [u8]) {
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy(self.at(offset, dst.len()), dst.as_mut_ptr(), dst.len()) }
    }

    pub(crate) fn copy(&self, dst: usize, from: &Plane, src: usize, bytes: usize) {
        // SAFETY: both ranges are checked by `at`; `copy` allows overlap.
        unsafe { std::ptr::copy(from.at(src, bytes), self.at(dst, bytes), bytes) }
    }

    pub(crate) fn fill(&self, offset: usize, bytes: usize, value: u8) {
        // SAFETY: bounds checked by `at`.
        unsafe { std::ptr::write_bytes(self.at(offset, bytes), value, bytes) }
    }

    /// Zeroes a range and gives whole pages inside it back to the system.
    pub(crate) fn discard(&self, offset: usize, bytes: usize) {
        let (first, last) = (offset.next_multiple_of(PAGE), (offset + bytes) / PAGE * PAGE);
        if last <= first {
            return self.fill(offset, bytes, 0);
        }
        self.fill(offset, first - offset, 0);
        self.fill(last, offset + bytes - last, 0);
        // SAFETY: the pages are private and anonymous: dropping them makes them read as zero; nothing holds
        // references into them but atomics, for which zero is a valid value.
        let dropped =
            unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, first, last - first) };
        if dropped.is_err() {
            self.fill(first, last - first, 0);
        }
    }
}
