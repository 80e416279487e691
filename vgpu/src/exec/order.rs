//! Order between blocks: fences that release, and reads that acquire.
//!
//! A block's write happened before another block's access if the writing block executed a device-wide fence
//! after it and the other one an atomic or volatile access after that fence, in real time. Whether the two
//! met at the same address is not asked: the rule accuses nobody who synchronises, and everybody who does
//! not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// Fences remembered per block.
const KEPT: usize = 64;

/// What a fence released: the time, and what its warp knew of the block's clocks.
type Release = (u64, [u32; 32]);

/// Fences of a launch.
#[derive(Debug, Default)]
pub(crate) struct BlockOrder {
    time: AtomicU64,
    releases: Mutex<HashMap<u32, Vec<Release>>>,
}

impl BlockOrder {
    /// A device-wide fence by a warp of `block`.
    pub(crate) fn release(&self, block: u32, known: [u32; 32]) {
        let mut releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        let time = self.time.fetch_add(1, SeqCst) + 1;
        let list = releases.entry(block).or_default();
        if list.len() == KEPT {
            list.remove(0);
        }
        list.push((time, known));
    }

    /// The time that an acquiring access sees.
    pub(crate) fn acquire(&self) -> u64 {
        self.time.load(SeqCst)
    }

    /// Whether what warp `warp` of `block` did at `clock` was released by `acquired`.
    pub(crate) fn is_released(&self, block: u32, warp: u32, clock: u32, acquired: u64) -> bool {
        let releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(list) = releases.get(&block) else { return false };
        list.iter().any(|&(time, known)| time <= acquired && clock < known[warp as usize & 31])
    }
}
