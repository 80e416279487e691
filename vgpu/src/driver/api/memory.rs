//! Allocation, memory information, pointers.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use crate::driver::abi::{In, Out};
use crate::driver::allocation::{Kind, Record};
use crate::driver::capture;
use crate::driver::context::{Context, current};
use crate::driver::export;
use crate::driver::status::{Result, Status};
use crate::memory::GlobalMemory;

export! {
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let memory = &current()?.device.memory;
        free.set_if_wanted((memory.capacity() - memory.used()) as usize);
        total.set_if_wanted(memory.capacity() as usize);
        Ok(())
    }

    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        address.check()?;
        let context = current()?;
        capture::forbid_unsafe_call()?;
        address.set(allocate(&context, bytes, Kind::Device)?)
    }

    fn cuMemAllocPitch_v2(address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        address.check()?;
        pitch.check()?;
        let context = current()?;
        capture::forbid_unsafe_call()?;
        if !matches!(element, 4 | 8 | 16) || width == 0 || height == 0 {
            return Err(Status::INVALID_VALUE);
        }
        const PITCH_UNIT: usize = 512;
        let row = width.checked_next_multiple_of(PITCH_UNIT).ok_or(Status::OUT_OF_MEMORY)?;
        let bytes = row.checked_mul(height).ok_or(Status::OUT_OF_MEMORY)?;
        address.set(allocate(&context, bytes, Kind::Device)?)?;
        pitch.set(row)
    }

    fn cuMemAllocManaged(address: Out<u64>, bytes: usize, flags: u32) {
        const GLOBAL: u32 = 1;
        const HOST: u32 = 2;
        address.check()?;
        let context = current()?;
        capture::forbid_unsafe_call()?;
        if !matches!(flags, GLOBAL | HOST) {
            return Err(Status::INVALID_VALUE);
        }
        address.set(allocate(&context, bytes, Kind::Managed)?)
    }

    /// Waits for all work of the context first, as the real driver does.
    fn cuMemFree_v2(address: u64) {
        let context = current()?;
        capture::forbid_unsafe_call()?;
        if address == 0 {
            return Ok(());
        }
        context.synchronise()?;
        let freeable = |kind: &Kind| matches!(kind, Kind::Device | Kind::Managed | Kind::Pool(_));
        release(&context, address, freeable)
    }

    fn cuMemAllocHost_v2(pointer: Out<*mut c_void>, bytes: usize) {
        allocate_host(pointer, bytes, 0)
    }

    fn cuMemHostAlloc(pointer: Out<*mut c_void>, bytes: usize, flags: u32) {
        allocate_host(pointer, bytes, flags)
    }

    fn cuMemFreeHost(pointer: *mut c_void) {
        let context = current()?;
        capture::forbid_unsafe_call()?;
        context.synchronise()?;
        release(&context, pointer as u64, |kind| matches!(kind, Kind::Host { .. }))
    }

    fn cuMemHostGetDevicePointer_v2(address: Out<u64>, pointer: *mut c_void, flags: u32) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let record = current()?.device.allocations.containing(pointer as u64);
        if record.is_some_and(|record| record.on_host()) {
            address.set(pointer as u64)
        } else {
            Err(Status::INVALID_VALUE)
        }
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: *mut c_void) {
        match current()?.device.allocations.containing(pointer as u64).map(|record| record.kind) {
            Some(Kind::Host { flags: own }) => flags.set(own),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        let record = find(&*current()?, address).map_err(|_| Status::NOT_FOUND)?;
        base.set_if_wanted(record.base);
        bytes.set_if_wanted(record.bytes as usize);
        Ok(())
    }

    fn cuPointerGetAttribute(data: Out<u8>, attribute: u32, address: u64) {
        data.check()?;
        let context = current()?;
        let record = find(&context, address)?;
        write_attribute(data, attribute, address, &record)
    }

    /// An address that is nobody's gives zeroes, not an error.
    fn cuPointerGetAttributes(count: u32, attributes: In<u32>, data: In<*mut u8>, address: u64) {
        let context = current()?;
        let attributes = attributes.list(count as usize)?;
        let places = data.list(count as usize)?;
        let record = find(&context, address).ok();
        for (attribute, place) in attributes.into_iter().zip(places) {
            let place = Out::from_raw(place);
            place.check()?;
            match &record {
                Some(record) => write_attribute(place, attribute, address, record)?,
                None => place.set_bytes(&[0; 8][..attribute_bytes(attribute)?])?,
            }
        }
        Ok(())
    }

    /// The advice is of no consequence here; it is checked and taken.
    fn cuMemAdvise(address: u64, bytes: usize, advice: u32, ordinal: c_int) {
        advise(address, bytes, advice)?;
        if ordinal <= 0 { Ok(()) } else { Err(Status::INVALID_DEVICE) }
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: u32, location: crate::driver::abi::MemLocation) {
        advise(address, bytes, advice)?;
        check_location(location)
    }
}

/// Allocates `bytes` bytes; nothing is an invalid value, as with the real driver.
pub fn allocate(context: &Arc<Context>, bytes: usize, kind: Kind) -> Result<u64> {
    if bytes == 0 {
        return Err(Status::INVALID_VALUE);
    }
    let device = &context.device;
    let on_host = matches!(kind, Kind::Host { .. } | Kind::Managed);
    let attempt = |memory: &GlobalMemory| {
        if on_host { memory.alloc_host(bytes as u64) } else { memory.alloc(bytes as u64) }
    };
    let address = attempt(&device.memory).ok_or(Status::OUT_OF_MEMORY)?;
    device.allocations.insert(address, bytes as u64, kind, context);
    Ok(address)
}

fn allocate_host(pointer: Out<*mut c_void>, bytes: usize, flags: u32) -> Result {
    const KNOWN: u32 = 7; // portable, mapped, write-combined
    pointer.check()?;
    let context = current()?;
    capture::forbid_unsafe_call()?;
    if flags & !KNOWN != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let address = allocate(&context, bytes, Kind::Host { flags })?;
    pointer.set(address as *mut c_void)
}

/// Frees the allocation that begins at `address`, if it is of a kind that this call frees.
fn release(context: &Context, address: u64, freeable: impl Fn(&Kind) -> bool) -> Result {
    let device = &context.device;
    let record = device.allocations.at(address).filter(|record| freeable(&record.kind));
    let record = record.ok_or(Status::INVALID_VALUE)?;
    device.allocations.remove(address);
    if let Kind::Pool(pool) = &record.kind {
        pool.give_back(record.bytes);
    }
    device.memory.free(address).map_err(|_| Status::INVALID_VALUE)
}

fn find(context: &Context, address: u64) -> Result<Record> {
    context.device.allocations.containing(address).ok_or(Status::INVALID_VALUE)
}

/// `CUpointer_attribute`: bytes of the value that the caller has room for.
fn attribute_bytes(attribute: u32) -> Result<usize> {
    match attribute {
        1 | 3 | 4 | 7 | 11 | 12 | 14 | 17..=20 => Ok(8),
        2 | 9 | 16 => Ok(4),
        6 | 8 | 10 | 13 | 15 | 21 => Ok(1),
        _ => Err(Status::INVALID_VALUE),
    }
}

fn write_attribute(data: Out<u8>, attribute: u32, address: u64, record: &Record) -> Result {
    const HOST: u64 = 1;
    const DEVICE: u64 = 2;
    const READ_AND_WRITE: u64 = 3;
    let managed = matches!(record.kind, Kind::Managed);
    let pinned = matches!(record.kind, Kind::Host { .. });
    let value = match attribute {
        1 => record.context.upgrade().map_or(0, |context| context.handle as u64),
        2 => {
            if pinned {
                HOST
            } else {
                DEVICE
            }
        }
        3 => address,
        4 if record.on_host() => address,
        4 => return Err(Status::INVALID_VALUE),
        7 | 20 => record.id,
        8 => u64::from(managed),
        11 | 19 => record.base,
        12 | 18 => record.bytes,
        13 => 1,
        16 => READ_AND_WRITE,
        17 => match &record.kind {
            Kind::Pool(pool) => pool.handle as u64,
            _ => 0,
        },
        // Ordinal 0, no interprocess or peer features, no synchronous memory operations.
        _ => 0,
    };
    data.set_bytes(&value.to_le_bytes()[..attribute_bytes(attribute)?])
}

fn advise(address: u64, bytes: usize, advice: u32) -> Result {
    let context = current()?;
    let managed = matches!(find(&context, address)?.kind, Kind::Managed);
    if !managed || bytes == 0 || !(1..=6).contains(&advice) {
        return Err(Status::INVALID_VALUE);
    }
    context.device.allocations.check_range(address, bytes as u64)
}

/// Device 0, or the host (with or without a NUMA node).
pub fn check_location(location: crate::driver::abi::MemLocation) -> Result {
    match (location.kind, location.id) {
        (1, 0) | (2..=4, _) => Ok(()),
        (1, _) => Err(Status::INVALID_DEVICE),
        _ => Err(Status::INVALID_VALUE),
    }
}
