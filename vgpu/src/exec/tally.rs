//! Counts that a block keeps while it runs.

use super::finding::lanes_of;
use super::global;
use super::lanes::LANES;
use crate::arith::fragment::Element;
use crate::counters::{Class, Counters, SharedTraffic, Traffic};
use crate::program::code::{Code, Op};

/// Words of the largest access, `v8.b32`.
const MAX_WORDS: usize = 8;

/// Counts of the blocks that one block state has run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Warp and thread executions of each instruction.
    pub(crate) executed: Vec<(u64, u64)>,
    pub(crate) branches: u64,
    pub(crate) divergent: u64,
    pub(crate) global_loads: Traffic,
    pub(crate) global_stores: Traffic,
    pub(crate) local_loads: Traffic,
    pub(crate) local_stores: Traffic,
    pub(crate) shared_loads: SharedTraffic,
    pub(crate) shared_stores: SharedTraffic,
    pub(crate) global_atomics: u64,
    pub(crate) shared_atomics: u64,
}

impl SharedTraffic {
    /// Counts a request. Lanes that access the same word share it; a bank serves one word per pass. Accesses
    /// of 8 and 16 bytes go in two and four parts of the warp, as on hardware, unless one pass serves them
    /// all.
    pub(crate) fn count(&mut self, addresses: &[u64; LANES], active: u32, bytes: u32) {
        self.requests += 1;
        self.bytes += u64::from(active.count_ones() * bytes);
        let parts = bytes.div_ceil(4).clamp(1, 4) as usize;
        if active == u32::MAX && is_contiguous(addresses, bytes) && bytes >= 4 {
            self.wavefronts += parts as u64;
            self.ideal_wavefronts += parts as u64;
            return;
        }
        let (whole, ideal) = passes(addresses, active, bytes);
        self.ideal_wavefronts += ideal;
        if parts == 1 || whole == 1 {
            self.wavefronts += whole;
            return;
        }
        let lanes = LANES / parts;
        for part in 0..parts {
            let mask = (u32::MAX >> (32 - lanes)) << (part * lanes);
            if active & mask != 0 {
                self.wavefronts += passes(addresses, active & mask, bytes).0;
            }
        }
    }

    /// Counts one 8x8 tile of a tile access: a pass over the 128 bytes of its eight rows, if they do not
    /// conflict.
    pub(crate) fn count_tile(&mut self, addresses: &[u64; LANES], tile: usize, first: bool) {
        self.requests += u64::from(first);
        self.bytes += 128;
        let (passes, ideal) = passes(addresses, 0xff << (8 * tile), 16);
        self.wavefronts += passes;
        self.ideal_wavefronts += ideal;
    }

    fn add(&mut self, other: &SharedTraffic) {
        self.requests += other.requests;
        self.wavefronts += other.wavefronts;
        self.ideal_wavefronts += other.ideal_wavefronts;
        self.bytes += other.bytes;
    }
}

/// Whether lane after lane follows the one before, from a multiple of the whole request on or not.
fn is_contiguous(addresses: &[u64; LANES], bytes: u32) -> bool {
    let mut apart = 0;
    for (lane, &address) in addresses.iter().enumerate() {
        apart |= address ^ (addresses[0] + lane as u64 * u64::from(bytes));
    }
    apart == 0
}

/// Passes over the banks, and what as many distinct words would need without conflicts.
fn passes(addresses: &[u64; LANES], active: u32, bytes: u32) -> (u64, u64) {
    let mut words = [u32::MAX; 32 * MAX_WORDS];
    let mut count = 0;
    let mut load = [0u8; 32];
    let mut highest = 0;
    for lane in lanes_of(active) {
        let first = addresses[lane] as u32 / 4;
        // Lanes of a broadcast repeat the word before.
        if bytes <= 4 && highest == first + 1 {
            continue;
        }
        for word in first..first + bytes.div_ceil(4) {
            // Ascending words, the usual case, need no search.
            if word + 1 > highest {
                highest = word + 1;
            } else if words[..count].contains(&word) {
                continue;
            }
            words[count] = word;
            count += 1;
            load[word as usize % 32] += 1;
        }
    }
    let most = load.iter().copied().max().unwrap_or(0);
    (u64::from(most), count.div_ceil(32) as u64)
}

impl Traffic {
    fn add(&mut self, other: &Traffic) {
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.bytes += other.bytes;
        self.unique_sectors += other.unique_sectors;
        self.unique_bytes += other.unique_bytes;
    }
}

impl Tally {
    pub(crate) fn new(code: &Code) -> Tally {
        Tally { executed: vec![(0, 0); code.instructions.len()], ..Tally::default() }
    }

    /// Counts a request to local memory, which lies interleaved: word by word over the lanes.
    pub(crate) fn count_local(&mut self, addresses: &[u64; LANES], active: u32, bytes: u32, store: bool) {
        let traffic = if store { &mut self.local_stores } else { &mut self.local_loads };
        traffic.requests += 1;
        traffic.bytes += u64::from(active.count_ones() * bytes);
        for word in 0..bytes.div_ceil(4) {
            let mut places = *addresses;
            for (lane, place) in places.iter_mut().enumerate() {
                // Threads that take no part may hold anything.
                *place = (*place / 4 + u64::from(word)).wrapping_mul(128) + lane as u64 * 4;
            }
            traffic.sectors += global::sectors(&places, active);
        }
    }

    /// Adds what was counted to the counters of the launch.
    pub(crate) fn add_to(&self, counters: &mut Counters, code: &Code) {
        for (inst, &(warps, threads)) in code.instructions.iter().zip(&self.executed) {
            let class = inst.class as usize;
            counters.warp_instructions[class] += warps;
            counters.thread_instructions[class] += threads;
            let flops = threads * u64::from(inst.flops);
            match (inst.class, &inst.op) {
                (Class::F64, _) => counters.f64_flops += flops,
                (_, Op::Matrix(matrix)) => {
                    let flops = warps * 2 * matrix.mma.products() as u64;
                    counters.tensor_flops += flops;
                    if matrix.mma.a != Element::F64 {
                        counters.tensor_work += flops * matrix.mma.a.bits() as u64 / 16;
                    }
                }
                _ => counters.flops += flops,
            }
            if matches!(inst.op, Op::Barrier(_)) {
                counters.barriers += warps;
            }
        }
        counters.branches += self.branches;
        counters.divergent_branches += self.divergent;
        counters.global_loads.add(&self.global_loads);
        counters.global_stores.add(&self.global_stores);
        counters.local_loads.add(&self.local_loads);
        counters.local_stores.add(&self.local_stores);
        counters.shared_loads.add(&self.shared_loads);
        counters.shared_stores.add(&self.shared_stores);
        counters.global_atomics += self.global_atomics;
        counters.shared_atomics += self.shared_atomics;
    }
}
