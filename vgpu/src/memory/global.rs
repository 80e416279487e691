//! Global memory of one device: allocations with guards, and the host's view of them.

use super::arena::Arena;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Device addresses begin here: no host pointer of a process looks like this, so mixing them up shows.
const DEVICE_BASE: u64 = 0x0001_0000_0000_0000;
const ALIGN: u64 = 256;
/// Unallocated bytes that follow every allocation, at least.
const GUARD: u64 = 256;
/// Fresh allocations up to this size are filled with [`POISON`]; beyond, with zeros, which cost no memory.
const POISON_LIMIT: u64 = 64 << 20;
/// Fresh memory holds a NaN in every floating-point format.
const POISON: u8 = 0xff;
/// Address space per byte of capacity, so that freed addresses stay unused for long.
const SPREAD: u64 = 4;
const HOST_ARENA: u64 = 64 << 30;
const MAX_FREED: usize = 4096;

/// An allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocation {
    /// First address.
    pub base: u64,
    /// Size in bytes, as asked for.
    pub size: u64,
    /// Whether it was freed (reports of use after free).
    pub freed: bool,
}

impl Allocation {
    fn end(&self) -> u64 {
        self.base + self.size
    }
}

/// Why the host could not use an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MemoryError {
    /// No live allocation holds the address.
    #[error("address {0:#x} is in no allocation")]
    NotAllocated(u64),
    /// The range leaves its allocation.
    #[error("{bytes} bytes at {address:#x} leave the allocation {:#x} of {} bytes", allocation.base, allocation.size)]
    OutOfBounds {
        /// First address of the range.
        address: u64,
        /// Its length.
        bytes: u64,
        /// The allocation that holds the first address.
        allocation: Allocation,
    },
    /// `free` of an address that no allocation begins at.
    #[error("address {0:#x} is not the base of an allocation")]
    NotABase(u64),
}

#[derive(Debug, Default)]
struct Book {
    live: BTreeMap<u64, Allocation>,
    freed: BTreeMap<u64, Allocation>,
    used: u64,
    /// Where the next search for room begins, per arena.
    cursor: [u64; 2],
}

/// Global memory of one device, shared between host calls and launches.
#[derive(Debug)]
pub struct GlobalMemory {
    device: Arena,
    host: Arena,
    capacity: u64,
    book: RwLock<Book>,
    launch: Mutex<()>,
}

impl GlobalMemory {
    /// Memory of `capacity` bytes. Only what is touched costs host memory.
    ///
    /// # Errors
    /// The system refuses the address space.
    pub fn new(capacity: u64) -> std::io::Result<GlobalMemory> {
        let reserved = capacity.saturating_mul(SPREAD).max(1 << 30).next_multiple_of(1 << 20);
        let device = Arena::device(DEVICE_BASE, reserved)?;
        let host = Arena::host(HOST_ARENA)?;
        let book = Book { cursor: [device.base, host.base], ..Book::default() };
        Ok(GlobalMemory { device, host, capacity, book: RwLock::new(book), launch: Mutex::new(()) })
    }

    fn read_book(&self) -> RwLockReadGuard<'_, Book> {
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_book(&self) -> RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Device memory: its address, 256-byte aligned; `None` when there is no room, or for 0 bytes. Nobody has
    /// written it yet: a kernel that reads it is reported.
    pub fn alloc(&self, bytes: u64) -> Option<u64> {
        let mut book = self.write_book();
        if bytes == 0 || bytes > self.capacity - book.used {
            return None;
        }
        let base = book.place(0, &self.device, bytes)?;
        book.used += bytes;
        drop(book);
        if bytes <= POISON_LIMIT {
            self.device.data.fill(self.device.offset(base), bytes as usize, POISON);
        }
        Some(base)
    }

    /// Pinned host memory, zeroed: an address that is both a host pointer and usable in kernels (unified
    /// addressing). It does not count against the capacity, and counts as written.
    pub fn alloc_host(&self, bytes: u64) -> Option<u64> {
        if bytes == 0 || bytes > HOST_ARENA {
            return None;
        }
        self.write_book().place(1, &self.host, bytes)
    }

    /// Frees memory from [`GlobalMemory::alloc`] or [`GlobalMemory::alloc_host`], by its base.
    ///
    /// # Errors
    /// `address` is not the base of a live allocation.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut book = self.write_book();
        let mut gone = book.live.remove(&address).ok_or(MemoryError::NotABase(address))?;
        let arena = self.arena(address).ok_or(MemoryError::NotAllocated(address))?;
        if !arena.is_host {
            book.used -= gone.size;
        }
        arena.release(address, gone.size);
        gone.freed = true;
        book.freed.insert(address, gone);
        if book.freed.len() > MAX_FREED {
            book.freed.pop_first();
        }
        Ok(())
    }

    /// Copies host bytes to device memory.
    ///
    /// # Errors
    /// The range is not inside one allocation.
    pub fn write(&self, dst: u64, src: &[u8]) -> Result<(), MemoryError> {
        let Some(arena) = self.range(dst, src.len() as u64)? else { return Ok(()) };
        arena.data.write(arena.offset(dst), src);
        arena.set_written(dst, src.len() as u64);
        Ok(())
    }

    /// Copies device memory to host bytes.
    ///
    /// # Errors
    /// The range is not inside one allocation.
    pub fn read(&self, src: u64, dst: &mut [u8]) -> Result<(), MemoryError> {
        let Some(arena) = self.range(src, dst.len() as u64)? else { return Ok(()) };
        arena.data.read(arena.offset(src), dst);
        Ok(())
    }

    /// Copies within device memory; what nobody wrote stays unwritten in the copy.
    ///
    /// # Errors
    /// Either range is not inside one allocation.
    pub fn copy(&self, dst: u64, src: u64, bytes: u64) -> Result<(), MemoryError> {
        let (Some(to), Some(from)) = (self.range(dst, bytes)?, self.range(src, bytes)?) else {
            return Ok(());
        };
        to.data.copy(to.offset(dst), &from.data, from.offset(src), bytes as usize);
        to.copy_written(dst, from, src, bytes);
        Ok(())
    }

    /// Writes `pattern` `count` times from `dst` on (memset of 1, 2 or 4 bytes).
    ///
    /// # Errors
    /// The range is not inside one allocation.
    pub fn fill(&self, dst: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = (pattern.len() as u64).saturating_mul(count);
        let Some(arena) = self.range(dst, bytes)? else { return Ok(()) };
        let start = arena.offset(dst);
        if pattern.iter().all(|&b| b == pattern[0]) {
            arena.data.fill(start, bytes as usize, pattern[0]);
        } else {
            for i in 0..count as usize {
                arena.data.write(start + i * pattern.len(), pattern);
            }
        }
        arena.set_written(dst, bytes);
        Ok(())
    }

    /// The live allocation that holds `address`.
    pub fn allocation(&self, address: u64) -> Option<Allocation> {
        self.read_book().containing(address)
    }

    /// The allocation that an address outside all live ones most likely meant: a freed one that held it, else
    /// the nearest live one that ends at or below it, no more than 64 MiB away.
    pub fn nearest(&self, address: u64) -> Option<Allocation> {
        const NEAR: u64 = 64 << 20;
        let book = self.read_book();
        let below = |map: &BTreeMap<u64, Allocation>| map.range(..=address).next_back().map(|(_, &a)| a);
        book.containing(address)
            .or_else(|| below(&book.freed).filter(|a| address < a.end()))
            .or_else(|| below(&book.live).filter(|a| address - a.end().min(address) < NEAR))
    }

    /// Bytes allocated on the device.
    pub fn used(&self) -> u64 {
        self.read_book().used
    }

    /// Bytes that the device has.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Live allocations in order of address, as a launch sees them.
    pub(crate) fn snapshot(&self) -> Vec<Allocation> {
        self.read_book().live.values().copied().collect()
    }

    /// Launches exclude each other: they share the race shadow and the touch bits.
    pub(crate) fn lock_launches(&self) -> MutexGuard<'_, ()> {
        self.launch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn arena(&self, address: u64) -> Option<&Arena> {
        [&self.device, &self.host].into_iter().find(|arena| arena.holds(address))
    }

    fn range(&self, address: u64, bytes: u64) -> Result<Option<&Arena>, MemoryError> {
        if bytes == 0 {
            return Ok(None);
        }
        let allocation = self.allocation(address).ok_or(MemoryError::NotAllocated(address))?;
        if bytes > allocation.end() - address {
            return Err(MemoryError::OutOfBounds { address, bytes, allocation });
        }
        Ok(self.arena(address))
    }
}

impl Book {
    fn containing(&self, address: u64) -> Option<Allocation> {
        let (_, &allocation) = self.live.range(..=address).next_back()?;
        (address < allocation.end()).then_some(allocation)
    }

    /// Finds room behind the last placement, wrapping once; freed addresses are thus reused as late as
    /// possible.
    fn place(&mut self, index: usize, arena: &Arena, bytes: u64) -> Option<u64> {
        let cursor = self.cursor[index];
        let base = self.gap(cursor, arena.end(), bytes).or_else(|| self.gap(arena.base, cursor, bytes))?;
        let span = bytes.checked_add(GUARD)?.next_multiple_of(ALIGN);
        self.cursor[index] = base + span;
        self.live.insert(base, Allocation { base, size: bytes, freed: false });
        let stale: Vec<u64> = self
            .freed
            .range(..base + span)
            .rev()
            .map_while(|(&b, a)| (a.end() > base).then_some(b))
            .collect();
        for base in stale {
            self.freed.remove(&base);
        }
        Some(base)
    }

    fn gap(&self, from: u64, to: u64, bytes: u64) -> Option<u64> {
        let need = bytes.checked_add(GUARD)?.next_multiple_of(ALIGN);
        let mut at = from;
        if let Some(before) = self.live.range(..=from).next_back().map(|(_, a)| a.end() + GUARD) {
            at = at.max(before.next_multiple_of(ALIGN));
        }
        for allocation in self.live.range(from..).map(|(_, a)| a) {
            if allocation.base >= to || at.checked_add(need)? <= allocation.base {
                break;
            }
            at = at.max((allocation.end() + GUARD).next_multiple_of(ALIGN));
        }
        (at.checked_add(need)? <= to).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GlobalMemory {
        GlobalMemory::new(1 << 24).unwrap()
    }

    #[test]
    fn host_copies_go_round() {
        let memory = memory();
        let a = memory.alloc(1000).unwrap();
        let b = memory.alloc(1000).unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        memory.write(a, &bytes).unwrap();
        memory.copy(b, a, 1000).unwrap();
        let mut back = vec![0; 1000];
        memory.read(b, &mut back).unwrap();
        assert_eq!(back, bytes);
        memory.fill(b + 4, &[1, 2, 3, 4], 3).unwrap();
        memory.read(b, &mut back).unwrap();
        assert_eq!(&back[..20], &[0, 1, 2, 3, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 16, 17, 18, 19]);
    }

    #[test]
    fn ranges_are_held_to_their_allocation() {
        let memory = memory();
        let a = memory.alloc(100).unwrap();
        assert!(memory.write(a + 99, &[0]).is_ok());
        assert!(matches!(memory.write(a + 99, &[0, 0]), Err(MemoryError::OutOfBounds { bytes: 2, .. })));
        assert_eq!(memory.write(a + 100, &[0]), Err(MemoryError::NotAllocated(a + 100)));
        assert_eq!(memory.free(a + 1), Err(MemoryError::NotABase(a + 1)));
        memory.free(a).unwrap();
        assert_eq!(memory.free(a), Err(MemoryError::NotABase(a)));
        assert!(memory.nearest(a + 5).unwrap().freed);
        assert!(memory.write(a, &[]).is_ok(), "nothing is copied to nowhere");
    }

    #[test]
    fn addresses_are_aligned_apart_and_not_reused_soon() {
        let memory = memory();
        let a = memory.alloc(256).unwrap();
        let b = memory.alloc(1).unwrap();
        assert_eq!((a % 256, b % 256), (0, 0));
        assert!(b >= a + 512);
        memory.free(a).unwrap();
        for _ in 0..100 {
            let c = memory.alloc(256).unwrap();
            assert_ne!(c, a);
            memory.free(c).unwrap();
        }
    }

    #[test]
    fn capacity_is_kept_and_addresses_wrap() {
        let memory = memory();
        assert_eq!(memory.alloc(0), None);
        assert_eq!(memory.alloc((1 << 24) + 1), None);
        for _ in 0..70 {
            let a = memory.alloc(1 << 24).unwrap();
            assert_eq!((memory.used(), memory.alloc(1)), (1 << 24, None));
            memory.free(a).unwrap();
        }
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn pinned_memory_is_a_host_pointer() {
        let memory = memory();
        let a = memory.alloc_host(64).unwrap();
        memory.write(a, &7u32.to_ne_bytes()).unwrap();
        // SAFETY: the address of pinned memory is a host pointer to 64 live bytes.
        assert_eq!(unsafe { *(a as *const u32) }, 7);
        memory.free(a).unwrap();
    }
}
