//! Occupancy.

use std::ffi::c_int;
use std::sync::Arc;

use crate::driver::abi::{DynamicSharedOfBlock, In, LaunchConfig, Out};
use crate::driver::context::{Context, current};
use crate::driver::export;
use crate::driver::handle::Handle;
use crate::driver::library::function_of;
use crate::driver::module::Function;
use crate::driver::occupancy;
use crate::driver::status::{Result, Status};

export! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<c_int>,
        function: Handle<Function>,
        threads: c_int,
        dynamic_shared: usize,
    ) {
        active_blocks(blocks, function, threads, dynamic_shared, 0)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<c_int>,
        function: Handle<Function>,
        threads: c_int,
        dynamic_shared: usize,
        flags: u32,
    ) {
        active_blocks(blocks, function, threads, dynamic_shared, flags)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<c_int>,
        block: Out<c_int>,
        function: Handle<Function>,
        shared_of: Option<DynamicSharedOfBlock>,
        dynamic_shared: usize,
        limit: c_int,
    ) {
        potential_block(grid, block, function, SharedMemory(shared_of, dynamic_shared), limit, 0)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<c_int>,
        block: Out<c_int>,
        function: Handle<Function>,
        shared_of: Option<DynamicSharedOfBlock>,
        dynamic_shared: usize,
        limit: c_int,
        flags: u32,
    ) {
        potential_block(grid, block, function, SharedMemory(shared_of, dynamic_shared), limit, flags)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>,
        function: Handle<Function>,
        blocks: c_int,
        threads: c_int,
    ) {
        let (context, function) = with_context(function)?;
        let blocks = u32::try_from(blocks).map_err(|_| Status::INVALID_VALUE)?;
        let threads = positive(threads)?;
        let available = occupancy::available_dynamic_shared(&context.device, &function, blocks, threads);
        bytes.set(available.ok_or(Status::INVALID_VALUE)? as usize)
    }

    /// There are no clusters of more than one block.
    fn cuOccupancyMaxActiveClusters(count: Out<c_int>, function: Handle<Function>, config: In<LaunchConfig>) {
        with_context(function)?;
        config.get()?;
        count.check()?;
        Err(Status::NOT_SUPPORTED)
    }

    fn cuOccupancyMaxPotentialClusterSize(
        size: Out<c_int>,
        function: Handle<Function>,
        config: In<LaunchConfig>,
    ) {
        with_context(function)?;
        config.get()?;
        size.check()?;
        Err(Status::NOT_SUPPORTED)
    }
}

fn with_context(function: Handle<Function>) -> Result<(Arc<Context>, Arc<Function>)> {
    let context = current()?;
    let function = function_of(&context, function)?;
    Ok((context, function))
}

fn positive(value: c_int) -> Result<u32> {
    u32::try_from(value).ok().filter(|&value| value > 0).ok_or(Status::INVALID_VALUE)
}

fn active_blocks(
    blocks: Out<c_int>,
    function: Handle<Function>,
    threads: c_int,
    dynamic_shared: usize,
    flags: u32,
) -> Result {
    let (context, function) = with_context(function)?;
    let threads = positive(threads)?;
    if flags > 1 {
        return Err(Status::INVALID_VALUE);
    }
    let dynamic_shared = u32::try_from(dynamic_shared).unwrap_or(u32::MAX);
    blocks.set(occupancy::of_function(&context.device, &function, threads, dynamic_shared) as c_int)
}

/// Dynamic shared memory by block size: a function of it, or the same for all.
struct SharedMemory(Option<DynamicSharedOfBlock>, usize);

impl SharedMemory {
    fn of(&self, threads: u32) -> u32 {
        let bytes = match self.0 {
            // SAFETY: the caller passed the function to be called with block sizes.
            Some(function) => unsafe { function(threads as c_int) },
            None => self.1,
        };
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

fn potential_block(
    grid: Out<c_int>,
    block: Out<c_int>,
    function: Handle<Function>,
    shared: SharedMemory,
    limit: c_int,
    flags: u32,
) -> Result {
    grid.check()?;
    block.check()?;
    let (context, function) = with_context(function)?;
    let limit = u32::try_from(limit).map_err(|_| Status::INVALID_VALUE)?;
    if flags > 1 {
        return Err(Status::INVALID_VALUE);
    }
    let (blocks, threads) = occupancy::best_block(&context.device, &function, limit, |size| shared.of(size));
    grid.set(blocks as c_int)?;
    block.set(threads as c_int)
}
