//! Devices and their primary contexts.

use std::ffi::{c_char, c_int};
use std::sync::Arc;

use crate::driver::abi::{Name, Out, Uuid};
use crate::driver::context::Context;
use crate::driver::device::{Device, device, device_at};
use crate::driver::export;
use crate::driver::status::{Result, Status};
use crate::driver::stream::lock;

/// Flags of `cuDevicePrimaryCtxSetFlags` and `cuCtxCreate`: one way of waiting, and switches.
pub fn check_context_flags(flags: u32) -> Result {
    let scheduling = flags & 7;
    if flags & !0xff == 0 && matches!(scheduling, 0 | 1 | 2 | 4) {
        Ok(())
    } else {
        Err(Status::INVALID_VALUE)
    }
}

export! {
    fn cuDeviceGet(handle: Out<c_int>, ordinal: c_int) {
        device_at(ordinal)?;
        handle.set(ordinal)
    }

    fn cuDeviceGetCount(count: Out<c_int>) {
        device()?;
        count.set(1)
    }

    fn cuDeviceGetName(name: Out<c_char>, room: c_int, handle: c_int) {
        let room = usize::try_from(room).map_err(|_| Status::INVALID_VALUE)?;
        name.set_text(&device_at(handle)?.name(), room)
    }

    fn cuDeviceGetUuid(uuid: Out<Uuid>, handle: c_int) {
        uuid.set(Uuid(device_at(handle)?.uuid()))
    }

    fn cuDeviceGetUuid_v2(uuid: Out<Uuid>, handle: c_int) {
        uuid.set(Uuid(device_at(handle)?.uuid()))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, handle: c_int) {
        bytes.set(device_at(handle)?.memory.capacity() as usize)
    }

    fn cuDeviceGetAttribute(value: Out<c_int>, attribute: u32, handle: c_int) {
        value.set(device_at(handle)?.attribute(attribute)?)
    }

    fn cuDeviceComputeCapability(major: Out<c_int>, minor: Out<c_int>, handle: c_int) {
        let (own_major, own_minor) = device_at(handle)?.config.architecture.capability;
        major.set(own_major as c_int)?;
        minor.set(own_minor as c_int)
    }

    fn cuDeviceGetPCIBusId(text: Out<c_char>, room: c_int, handle: c_int) {
        device_at(handle)?;
        text.set_text(BUS_ID, usize::try_from(room).map_err(|_| Status::INVALID_VALUE)?)
    }

    fn cuDeviceGetByPCIBusId(handle: Out<c_int>, text: Name) {
        device()?;
        let text = text.get()?;
        let same = text.eq_ignore_ascii_case(BUS_ID) || text.eq_ignore_ascii_case(&BUS_ID[5..]);
        if same { handle.set(0) } else { Err(Status::INVALID_DEVICE) }
    }

    fn cuDeviceCanAccessPeer(can: Out<c_int>, one: c_int, other: c_int) {
        device_at(one)?;
        device_at(other)?;
        can.set(0)
    }

    fn cuDevicePrimaryCtxRetain(handle: Out<usize>, ordinal: c_int) {
        handle.check()?;
        let device = device_at(ordinal)?;
        let mut primary = lock(&device.primary);
        let flags = primary.flags;
        let context = primary.context.get_or_insert_with(|| Context::new(device, flags, true)).clone();
        primary.retained += 1;
        handle.set(context.handle)
    }

    fn cuDevicePrimaryCtxRelease(ordinal: c_int) {
        release(device_at(ordinal)?)
    }

    fn cuDevicePrimaryCtxRelease_v2(ordinal: c_int) {
        release(device_at(ordinal)?)
    }

    fn cuDevicePrimaryCtxReset(ordinal: c_int) {
        reset(device_at(ordinal)?)
    }

    fn cuDevicePrimaryCtxReset_v2(ordinal: c_int) {
        reset(device_at(ordinal)?)
    }

    fn cuDevicePrimaryCtxSetFlags(ordinal: c_int, flags: u32) {
        set_flags(device_at(ordinal)?, flags)
    }

    fn cuDevicePrimaryCtxSetFlags_v2(ordinal: c_int, flags: u32) {
        set_flags(device_at(ordinal)?, flags)
    }

    fn cuDevicePrimaryCtxGetState(ordinal: c_int, flags: Out<u32>, active: Out<c_int>) {
        let primary = lock(&device_at(ordinal)?.primary);
        flags.set(primary.flags)?;
        active.set(c_int::from(primary.context.is_some()))
    }
}

const BUS_ID: &str = "0000:00:01.0";

/// The last release ends the context.
fn release(device: &Arc<Device>) -> Result {
    let mut primary = lock(&device.primary);
    primary.retained = primary.retained.checked_sub(1).ok_or(Status::INVALID_CONTEXT)?;
    let ended = if primary.retained == 0 { primary.context.take() } else { None };
    drop(primary);
    if let Some(context) = ended {
        context.destroy();
    }
    Ok(())
}

/// Ends the context whoever retains it. The next to retain it gets a new one, with a handle of its own.
fn reset(device: &Arc<Device>) -> Result {
    let ended = lock(&device.primary).context.take();
    if let Some(context) = ended {
        context.destroy();
    }
    Ok(())
}

fn set_flags(device: &Device, flags: u32) -> Result {
    check_context_flags(flags)?;
    let mut primary = lock(&device.primary);
    primary.flags = flags;
    if let Some(context) = &primary.context {
        context.flags.store(flags, std::sync::atomic::Ordering::Relaxed);
    }
    Ok(())
}
