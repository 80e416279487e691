//! Memory pools: book-keeping only. Memory goes back to the device at once, so nothing is ever held in
//! reserve.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::handle::{Registered, registered};
use super::status::{Result, Status};
use super::stream::lock;

/// `CUmemoryPool`.
pub struct Pool {
    pub handle: usize,
    /// The device's own pool cannot be destroyed.
    pub of_device: bool,
    /// 0 for as much as the device has.
    pub max_bytes: u64,
    used: AtomicU64,
    used_high: AtomicU64,
    /// Attributes that a program may set, by number; without effect.
    settings: Mutex<HashMap<u32, u64>>,
}

registered!(Pool);

/// Attributes that hold a 32-bit flag; the others hold 64 bits.
pub const FLAG_ATTRIBUTES: std::ops::RangeInclusive<u32> = 1..=3;
const RELEASE_THRESHOLD: u32 = 4;
const RESERVED_CURRENT: u32 = 5;
const RESERVED_HIGH: u32 = 6;
const USED_CURRENT: u32 = 7;
const USED_HIGH: u32 = 8;

impl Pool {
    pub fn create(max_bytes: u64, of_device: bool) -> Arc<Self> {
        let settings = Mutex::new(FLAG_ATTRIBUTES.map(|flag| (flag, 1)).collect());
        let (_, pool) = Self::registry().insert_with(|handle| {
            let (used, used_high) = (AtomicU64::new(0), AtomicU64::new(0));
            Arc::new(Self { handle, of_device, max_bytes, used, used_high, settings })
        });
        pool
    }

    pub fn of_device() -> Arc<Self> {
        Self::create(0, true)
    }

    /// Counts an allocation, unless it would pass the pool's size.
    pub fn take(&self, bytes: u64) -> Result {
        let fits = |used: u64| {
            let new = used.checked_add(bytes)?;
            (self.max_bytes == 0 || new <= self.max_bytes).then_some(new)
        };
        let before = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        let before = before.map_err(|_| Status::OUT_OF_MEMORY)?;
        self.used_high.fetch_max(before + bytes, Ordering::AcqRel);
        Ok(())
    }

    pub fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub fn attribute(&self, attribute: u32) -> Result<u64> {
        match attribute {
            1..=RELEASE_THRESHOLD => Ok(lock(&self.settings).get(&attribute).copied().unwrap_or(0)),
            RESERVED_CURRENT | USED_CURRENT => Ok(self.used.load(Ordering::Acquire)),
            RESERVED_HIGH | USED_HIGH => Ok(self.used_high.load(Ordering::Acquire)),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    pub fn set_attribute(&self, attribute: u32, value: u64) -> Result {
        match attribute {
            1..=RELEASE_THRESHOLD => {
                lock(&self.settings).insert(attribute, value);
            }
            // A high-water mark can only be set back to the present.
            RESERVED_HIGH | USED_HIGH if value == 0 => {
                self.used_high.store(self.used.load(Ordering::Acquire), Ordering::Release);
            }
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }
}
