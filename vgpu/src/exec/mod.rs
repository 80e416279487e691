//! Execution of a launch: blocks over host threads, warps in a block, instructions over the lanes of a warp.

mod access;
mod atomic;
mod barrier;
mod block;
mod call;
mod clocks;
mod collective;
mod copy;
mod finding;
mod global;
pub(crate) mod lanes;
mod launch;
mod order;
mod printf;
mod race;
mod report;
mod shared;
mod stack;
mod step;
mod tally;
mod tiles;
mod warp;
mod wide_atomic;
pub(crate) mod window;

use crate::counters::Counters;
use crate::fault::{Fault, FaultKind};
use crate::memory::GlobalMemory;
use crate::program::Kernel;
use crate::settings::Settings;
use std::sync::Arc;

/// Threads of a block, on every device.
const MAX_THREADS: u32 = 1024;
/// Shared memory of a block in bytes, on the largest device.
const MAX_SHARED: u64 = 228 << 10;

/// Properties of the device that programs can see.
#[derive(Clone, Debug)]
pub struct Device {
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors (`%nsmid`).
    pub sm_count: u32,
}

impl Default for Device {
    fn default() -> Device {
        Device { compute_capability: (8, 0), sm_count: 108 }
    }
}

/// One launch. The caller has validated it as a driver does (dimensions, shared memory, size of `params`).
pub struct LaunchSpec<'a> {
    /// What to run.
    pub kernel: &'a Arc<Kernel>,
    /// Memory that the kernel addresses.
    pub memory: &'a Arc<GlobalMemory>,
    /// Device properties.
    pub device: &'a Device,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// Parameter buffer, `kernel.param_bytes` long, laid out as `kernel.params` says.
    pub params: &'a [u8],
    /// Whether the blocks may wait for each other (`cuLaunchCooperativeKernel`).
    pub cooperative: bool,
    /// Checks, seed, threads.
    pub settings: &'a Settings,
}

/// Runs the whole grid and returns its counters, or what ended it. Launches on one memory exclude each other.
///
/// # Errors
/// The first finding: of a block, or that the kernel holds an instruction which is not supported.
#[allow(clippy::result_large_err)] // One report per launch: moving it costs nothing beside the launch.
pub fn launch(spec: &LaunchSpec<'_>) -> Result<Counters, Fault> {
    let threads = spec.block.iter().try_fold(1u32, |all, &n| all.checked_mul(n));
    let shared = u64::from(spec.kernel.static_shared) + u64::from(spec.dynamic_shared);
    if threads.is_none_or(|n| n > MAX_THREADS) || shared > MAX_SHARED {
        let message = format!("a block of {:?} threads with {shared} bytes of shared memory", spec.block);
        return Err(report::at_launch(spec, FaultKind::OutOfResources, message));
    }
    match &spec.kernel.code {
        Ok(code) => launch::run(spec, code),
        Err(why) => Err(report::unsupported(spec, why)),
    }
}
