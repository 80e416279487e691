//! Stream-ordered allocation and memory pools.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::memory::{allocate, check_location};
use crate::driver::abi::{In, MemLocation, Out, PoolProperties};
use crate::driver::allocation::Kind;
use crate::driver::context::{Context, current};
use crate::driver::device::{Device, device, device_at};
use crate::driver::export;
use crate::driver::handle::Handle;
use crate::driver::pool::{FLAG_ATTRIBUTES, Pool};
use crate::driver::status::{Result, Status};
use crate::driver::stream::{Stream, lock, resolve};
use crate::driver::work::Work;

export! {
    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: usize) {
        let context = current()?;
        let pool = lock(&context.device.current_pool).clone();
        allocate_in_stream(&context, address, bytes, pool, stream)
    }

    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle<Pool>, stream: usize) {
        let context = current()?;
        allocate_in_stream(&context, address, bytes, pool.get()?, stream)
    }

    fn cuMemFreeAsync(address: u64, stream: usize) {
        let context = current()?;
        check_pools(&context.device)?;
        let stream = resolve(&context, stream)?;
        free_in_stream(&context, address, &stream)
    }

    fn cuDeviceGetDefaultMemPool(handle: Out<usize>, ordinal: c_int) {
        let device = device_at(ordinal)?;
        check_pools(device)?;
        handle.set(device.default_pool.handle)
    }

    fn cuDeviceGetMemPool(handle: Out<usize>, ordinal: c_int) {
        let device = device_at(ordinal)?;
        check_pools(device)?;
        handle.set(lock(&device.current_pool).handle)
    }

    fn cuDeviceSetMemPool(ordinal: c_int, pool: Handle<Pool>) {
        let device = device_at(ordinal)?;
        check_pools(device)?;
        *lock(&device.current_pool) = pool.get()?;
        Ok(())
    }

    fn cuMemPoolCreate(handle: Out<usize>, properties: In<PoolProperties>) {
        handle.check()?;
        check_pools(device()?)?;
        const PINNED: u32 = 1;
        const OF_DEVICE: u32 = 1;
        let properties = properties.get()?;
        if properties.allocation_type != PINNED || properties.reserved.iter().any(|&byte| byte != 0) {
            return Err(Status::INVALID_VALUE);
        }
        if properties.handle_types != 0 || properties.location.kind != OF_DEVICE {
            return Err(Status::NOT_SUPPORTED); // other processes, memory of the host
        }
        device_at(properties.location.id)?;
        handle.set(Pool::create(properties.max_size as u64, false).handle)
    }

    fn cuMemPoolDestroy(pool: Handle<Pool>) {
        let device = device()?;
        if pool.get()?.of_device {
            return Err(Status::INVALID_VALUE);
        }
        let destroyed = pool.remove()?;
        let mut current = lock(&device.current_pool);
        if Arc::ptr_eq(&current, &destroyed) {
            *current = device.default_pool.clone();
        }
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: Handle<Pool>, _bytes_to_keep: usize) {
        device()?;
        pool.get().map(|_| ())
    }

    fn cuMemPoolGetAttribute(pool: Handle<Pool>, attribute: u32, value: Out<u8>) {
        device()?;
        let own = pool.get()?.attribute(attribute)?.to_le_bytes();
        value.set_bytes(if FLAG_ATTRIBUTES.contains(&attribute) { &own[..4] } else { &own })
    }

    fn cuMemPoolSetAttribute(pool: Handle<Pool>, attribute: u32, value: In<c_void>) {
        device()?;
        let pool = pool.get()?;
        let value = if FLAG_ATTRIBUTES.contains(&attribute) {
            u64::from(In::<u32>::from_raw(value.as_ptr().cast()).get()?)
        } else {
            In::<u64>::from_raw(value.as_ptr().cast()).get()?
        };
        pool.set_attribute(attribute, value)
    }

    /// Memory is where it is needed already.
    fn cuMemPrefetchAsync(address: u64, bytes: usize, ordinal: c_int, stream: usize) {
        const HOST: c_int = -1;
        if !matches!(ordinal, HOST | 0) {
            return Err(Status::INVALID_DEVICE);
        }
        prefetch(address, bytes, stream)
    }

    fn cuMemPrefetchAsync_v2(address: u64, bytes: usize, location: MemLocation, flags: u32, stream: usize) {
        check_location(location)?;
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        prefetch(address, bytes, stream)
    }
}

/// What `VGPU_POOLS=0` denies it also refuses.
fn check_pools(device: &Device) -> Result {
    if device.config.pools { Ok(()) } else { Err(Status::NOT_SUPPORTED) }
}

fn allocate_in_stream(
    context: &Arc<Context>,
    address: Out<u64>,
    bytes: usize,
    pool: Arc<Pool>,
    stream: usize,
) -> Result {
    address.check()?;
    check_pools(&context.device)?;
    let stream = resolve(context, stream)?;
    // Memory of a node belongs to its graph, which may be launched again and again.
    let capture = lock(&stream.capture).clone();
    if let Some(capture) = capture {
        let base = allocate(context, bytes, Kind::Graph)?;
        capture.graph.adopt(&context.device, base);
        stream.submit(context, Work::Empty)?;
        return address.set(base);
    }
    pool.take(bytes as u64)?;
    let attempt = || allocate(context, bytes, Kind::Pool(pool.clone()));
    let outcome = attempt().or_else(|status| {
        if status != Status::OUT_OF_MEMORY {
            return Err(status);
        }
        // What earlier work of the stream frees can be had after it.
        stream.synchronise(context)?;
        attempt()
    });
    let base = outcome.inspect_err(|_| pool.give_back(bytes as u64))?;
    address.set(base)
}

fn free_in_stream(context: &Arc<Context>, address: u64, stream: &Arc<Stream>) -> Result {
    let allocations = &context.device.allocations;
    let record = allocations.at(address).ok_or(Status::INVALID_VALUE)?;
    let capture = lock(&stream.capture).clone();
    match &record.kind {
        // Freed in its own graph or after it: kept, for the graph's next launch.
        Kind::Graph => stream.submit(context, Work::Empty),
        Kind::Device | Kind::Pool(_) if capture.is_some() => stream.submit(context, Work::Free(address)),
        Kind::Device | Kind::Pool(_) => {
            stream.submit(context, Work::Free(address))?;
            allocations.remove(address);
            if let Kind::Pool(pool) = &record.kind {
                pool.give_back(record.bytes);
            }
            Ok(())
        }
        _ => Err(Status::INVALID_VALUE),
    }
}

fn prefetch(address: u64, bytes: usize, stream: usize) -> Result {
    let context = current()?;
    resolve(&context, stream)?;
    let record = context.device.allocations.containing(address).ok_or(Status::INVALID_VALUE)?;
    if bytes == 0 || !matches!(record.kind, Kind::Managed) {
        return Err(Status::INVALID_VALUE);
    }
    context.device.allocations.check_range(address, bytes as u64)
}
