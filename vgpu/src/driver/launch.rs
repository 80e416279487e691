//! Kernel launches: validated as the driver does, with their parameters copied out of the caller's memory.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::abi::{In, LaunchAttribute};
use super::config;
use super::device::{BLOCK_LIMITS, Device, GRID_LIMITS};
use super::module::Function;
use super::occupancy;
use super::status::{Result, Status};
use crate::Settings;
use crate::counters::Counters;
use crate::exec::{self, LaunchSpec};
use crate::fault::Fault;

/// A launch that has passed every check that can be made before it runs.
#[derive(Clone)]
pub struct Launch {
    pub function: Arc<Function>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub parameters: Vec<u8>,
    pub cooperative: bool,
    pub settings: Settings,
}

/// The dimensions of a launch and its way of launching.
#[derive(Clone, Copy)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub cooperative: bool,
}

/// The two ways in which a caller passes parameters.
pub struct Arguments {
    /// `kernelParams`: a pointer to each parameter.
    pub pointers: In<*const c_void>,
    /// `extra`: a list of keys and values that names one buffer.
    pub extra: In<*const c_void>,
}

impl Launch {
    pub fn new(
        device: &Device,
        function: Arc<Function>,
        shape: Shape,
        arguments: &Arguments,
    ) -> Result<Self> {
        validate(device, &function, shape)?;
        let parameters = arguments.copy(&function)?;
        let Shape { grid, block, dynamic_shared, cooperative } = shape;
        Ok(Self {
            function,
            grid,
            block,
            dynamic_shared,
            parameters,
            cooperative,
            settings: config::execution(),
        })
    }

    pub fn run(&self, device: &Device) -> std::result::Result<Counters, Box<Fault>> {
        let spec = LaunchSpec {
            kernel: &self.function.kernel,
            memory: &device.memory,
            device: &device.exec,
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            params: &self.parameters,
            cooperative: self.cooperative,
            settings: &self.settings,
        };
        exec::launch(&spec).map_err(Box::new)
    }
}

/// Checks the dimensions against the device and the function.
fn validate(device: &Device, function: &Function, shape: Shape) -> Result {
    let within = |sizes: [u32; 3], limits: [u32; 3]| {
        sizes.iter().zip(limits).all(|(&size, limit)| (1..=limit).contains(&size))
    };
    let threads: u64 = shape.block.iter().map(|&size| u64::from(size)).product();
    let kernel = &function.kernel;
    let allowed = within(shape.grid, GRID_LIMITS)
        && within(shape.block, BLOCK_LIMITS)
        && threads <= u64::from(function.max_threads())
        && kernel.required_block.is_none_or(|required| required == shape.block)
        && shape.dynamic_shared <= function.max_dynamic_shared.load(Ordering::Relaxed);
    if !allowed {
        return Err(Status::INVALID_VALUE);
    }
    if shape.cooperative {
        let per_sm = occupancy::of_function(device, function, threads as u32, shape.dynamic_shared);
        let resident = u64::from(per_sm) * u64::from(device.config.sm_count);
        let blocks = shape.grid.iter().map(|&size| u128::from(size)).product::<u128>();
        if blocks > u128::from(resident) {
            return Err(Status::COOPERATIVE_LAUNCH_TOO_LARGE);
        }
    }
    Ok(())
}

/// Keys of the `extra` list.
const END: usize = 0;
const BUFFER_POINTER: usize = 1;
const BUFFER_SIZE: usize = 2;
/// Longer lists than the keys that exist have no end.
const LONGEST_EXTRA: usize = 16;

impl Arguments {
    /// The function's parameter buffer. Both ways at once, and neither for a kernel with parameters, are
    /// refused.
    fn copy(&self, function: &Function) -> Result<Vec<u8>> {
        let kernel = &function.kernel;
        match (self.pointers.is_null(), self.extra.is_null()) {
            (false, true) => self.copy_each(function),
            (true, false) => self.copy_buffer(kernel.param_bytes as usize),
            (true, true) if kernel.params.is_empty() => Ok(vec![]),
            // An empty list of pointers beside the buffer is what some wrappers pass for a kernel without
            // parameters.
            (false, false) if kernel.params.is_empty() => Ok(vec![]),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn copy_each(&self, function: &Function) -> Result<Vec<u8>> {
        let kernel = &function.kernel;
        let mut buffer = vec![0; kernel.param_bytes as usize];
        for (parameter, pointer) in kernel.params.iter().zip(self.pointers.list(kernel.params.len())?) {
            if pointer.is_null() {
                return Err(Status::INVALID_VALUE);
            }
            let (offset, size) = (parameter.offset as usize, parameter.size as usize);
            // SAFETY: the caller passes one pointer for each parameter, to as many bytes as the parameter
            // has.
            let bytes = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), size) };
            buffer[offset..offset + size].copy_from_slice(bytes);
        }
        Ok(buffer)
    }

    fn copy_buffer(&self, needed: usize) -> Result<Vec<u8>> {
        let (mut pointer, mut size) = (std::ptr::null::<u8>(), None);
        for pair in 0..LONGEST_EXTRA {
            // Read pair by pair: nothing lies behind the end.
            let key = self.extra_entry(2 * pair) as usize;
            if key == END {
                break;
            }
            let value = self.extra_entry(2 * pair + 1);
            match key {
                BUFFER_POINTER => pointer = value.cast(),
                BUFFER_SIZE => size = Some(In::<usize>::from_raw(value.cast()).get()?),
                _ => return Err(Status::INVALID_VALUE),
            }
        }
        if needed == 0 {
            return Ok(vec![]);
        }
        if pointer.is_null() || size.is_none_or(|size| size < needed) {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller says that `size` bytes lie there, and `needed` is no more.
        Ok(unsafe { std::slice::from_raw_parts(pointer, needed) }.to_vec())
    }

    fn extra_entry(&self, index: usize) -> *const c_void {
        // SAFETY: `extra` is not null and lists pairs up to an end key, behind which nothing is read.
        unsafe { self.extra.as_ptr().add(index).read() }
    }
}

const IGNORE: u32 = 0;
const COOPERATIVE: u32 = 2;
const CLUSTER_DIMENSION: u32 = 4;

/// What the attributes of `cuLaunchKernelEx` ask for: whether the launch is cooperative. Hints that change
/// neither results nor validity are passed over.
pub fn read_attributes(attributes: &[LaunchAttribute]) -> Result<bool> {
    let mut cooperative = false;
    for attribute in attributes {
        match attribute.id {
            COOPERATIVE => cooperative = attribute.value[0] != 0,
            CLUSTER_DIMENSION if attribute.value[..3] == [1, 1, 1] => {}
            CLUSTER_DIMENSION => return Err(Status::NOT_SUPPORTED),
            // Access window, synchronisation, cluster scheduling, priority, memory domains, carve-out.
            IGNORE | 1 | 3 | 5 | 8 | 9 | 10 | 14 => {}
            // Programmatic launches and events, device-side updates: they change what is ordered after what.
            6 | 7 | 11..=13 => return Err(Status::NOT_SUPPORTED),
            _ => return Err(Status::INVALID_VALUE),
        }
    }
    Ok(cooperative)
}
