//! Occupancy: how many blocks of a kernel fit on a multiprocessor at once.
//!
//! The calculation is that of NVIDIA's occupancy calculator: the least of what block slots, warp slots,
//! registers and shared memory allow. Registers are those that the PTX declares, which the real assembler
//! would mostly reduce.

use super::device::{Device, REGISTERS_PER_SM, THREADS_PER_BLOCK, WARP};
use super::module::Function;
use crate::architecture::Architecture;

/// Registers are given out by the warp, in units of this many.
const REGISTER_UNIT: u32 = 256;
/// The register file is split over this many schedulers, each with a share of the warps.
const SCHEDULERS: u32 = 4;
/// Shared memory is given out in units of this many bytes.
fn shared_unit(architecture: &Architecture) -> u32 {
    if architecture.capability >= (8, 0) { 128 } else { 256 }
}

/// What a block needs.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    pub threads: u32,
    pub registers_per_thread: u32,
    pub shared_bytes: u32,
}

/// Blocks that fit on one multiprocessor; 0 if even one does not.
pub fn blocks_per_sm(architecture: &Architecture, block: Block) -> u32 {
    if block.threads == 0 || block.threads > THREADS_PER_BLOCK {
        return 0;
    }
    let warps = block.threads.div_ceil(WARP);
    let by_warps = architecture.warps_per_sm / warps;
    let registers_per_warp = (block.registers_per_thread * WARP).next_multiple_of(REGISTER_UNIT);
    let warps_per_scheduler = REGISTERS_PER_SM / SCHEDULERS / registers_per_warp.max(REGISTER_UNIT);
    let by_registers = warps_per_scheduler * SCHEDULERS / warps;
    let shared =
        (block.shared_bytes + architecture.shared_reserved).next_multiple_of(shared_unit(architecture));
    let by_shared = architecture.shared_per_sm.checked_div(shared).unwrap_or(u32::MAX);
    architecture.blocks_per_sm.min(by_warps).min(by_registers).min(by_shared)
}

/// Blocks of `function` with `threads` threads and `dynamic_shared` bytes that fit on one multiprocessor.
pub fn of_function(device: &Device, function: &Function, threads: u32, dynamic_shared: u32) -> u32 {
    if threads > function.max_threads() {
        return 0;
    }
    let shared_bytes = function.kernel.static_shared.saturating_add(dynamic_shared);
    if shared_bytes > device.config.architecture.shared_per_block_optin {
        return 0;
    }
    let registers_per_thread = fitting_registers(function);
    blocks_per_sm(device.config.architecture, Block { threads, registers_per_thread, shared_bytes })
}

/// The assembler keeps registers low enough for the largest block that the kernel declares, or for 1024
/// threads.
fn fitting_registers(function: &Function) -> u32 {
    let warps = function.max_threads().div_ceil(WARP).next_multiple_of(SCHEDULERS);
    let most = REGISTERS_PER_SM / (warps * WARP) / 8 * 8;
    function.registers().min(most)
}

/// The block size with most threads resident, and the grid that fills the device with it: `(blocks,
/// threads)`.
pub fn best_block(
    device: &Device,
    function: &Function,
    limit: u32,
    dynamic_shared: impl Fn(u32) -> u32,
) -> (u32, u32) {
    let most = if limit == 0 { function.max_threads() } else { limit.min(function.max_threads()) };
    // Whole warps from the largest block down, as the runtime's own search does; then the odd size asked for.
    let sizes = std::iter::successors(Some(most), |&size| size.checked_sub(1).map(|less| less / WARP * WARP));
    let mut best = (0, 0, 0);
    for threads in sizes.take_while(|&size| size > 0) {
        let blocks = of_function(device, function, threads, dynamic_shared(threads));
        if blocks * threads > best.0 {
            best = (blocks * threads, blocks, threads);
        }
    }
    let (_, blocks, threads) = best;
    (blocks * device.config.sm_count, threads)
}

/// The dynamic shared memory that a block may have so that `blocks` of them fit on a multiprocessor.
pub fn available_dynamic_shared(
    device: &Device,
    function: &Function,
    blocks: u32,
    threads: u32,
) -> Option<u32> {
    let architecture = device.config.architecture;
    if blocks == 0 || of_function(device, function, threads, 0) < blocks {
        return None;
    }
    let share = architecture.shared_per_sm / blocks / shared_unit(architecture) * shared_unit(architecture);
    let of_block =
        share.saturating_sub(architecture.shared_reserved).min(architecture.shared_per_block_optin);
    of_block.checked_sub(function.kernel.static_shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(capability: (u32, u32), threads: u32, registers_per_thread: u32, shared_bytes: u32) -> u32 {
        let architecture = Architecture::find(capability).unwrap();
        blocks_per_sm(architecture, Block { threads, registers_per_thread, shared_bytes })
    }

    #[test]
    fn the_scarcest_resource_decides() {
        assert_eq!(fit((8, 0), 32, 16, 0), 32, "block slots");
        assert_eq!(fit((8, 0), 1024, 16, 0), 2, "warp slots");
        assert_eq!(fit((8, 6), 1024, 16, 0), 1, "48 warps hold one block of 32");
        assert_eq!(fit((8, 0), 256, 64, 0), 4, "registers: 64 x 256 x 4 = 65536");
        assert_eq!(fit((8, 0), 256, 65, 0), 3, "registers, rounded up to 72");
        assert_eq!(fit((8, 0), 128, 32, 48 << 10), 3, "shared memory: 49 KiB with the reserved one");
        assert_eq!(fit((7, 5), 128, 32, 32 << 10), 2, "shared memory, none reserved");
        assert_eq!(fit((9, 0), 128, 32, 227 << 10), 1, "all of it");
    }

    #[test]
    fn what_does_not_fit_gives_no_blocks() {
        assert_eq!(fit((8, 0), 0, 16, 0), 0);
        assert_eq!(fit((8, 0), 1025, 16, 0), 0);
        assert_eq!(fit((8, 0), 1024, 255, 0), 0);
        assert_eq!(fit((8, 0), 32, 16, 164 << 10), 0);
    }
}
