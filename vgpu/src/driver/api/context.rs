//! Contexts: creation, the current one of the thread, limits and flags.

use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;

use super::device::check_context_flags;
use crate::driver::abi::{In, Out};
use crate::driver::capture;
use crate::driver::context::{self, Context, current, current_even_if_faulted};
use crate::driver::device::{device, device_at};
use crate::driver::export;
use crate::driver::handle::Handle;
use crate::driver::status::{Result, Status};

export! {
    fn cuCtxCreate_v2(handle: Out<usize>, flags: u32, ordinal: c_int) {
        create(handle, flags, ordinal)
    }

    fn cuCtxCreate_v3(handle: Out<usize>, affinities: In<u64>, count: c_int, flags: u32, ordinal: c_int) {
        if count != 0 || !affinities.is_null() {
            return Err(Status::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(handle, flags, ordinal)
    }

    fn cuCtxCreate_v4(handle: Out<usize>, parameters: In<ContextParameters>, flags: u32, ordinal: c_int) {
        if !parameters.is_null() {
            let parameters = parameters.get()?;
            if parameters.affinity_count != 0 {
                return Err(Status::UNSUPPORTED_EXEC_AFFINITY);
            }
            if !parameters.graphics.is_null() {
                return Err(Status::NOT_SUPPORTED);
            }
        }
        create(handle, flags, ordinal)
    }

    fn cuCtxDestroy(handle: Handle<Context>) {
        destroy(handle)
    }

    fn cuCtxDestroy_v2(handle: Handle<Context>) {
        destroy(handle)
    }

    fn cuCtxGetCurrent(handle: Out<usize>) {
        handle.set(context::current_handle()?)
    }

    fn cuCtxSetCurrent(handle: Handle<Context>) {
        context::set_current(handle.value())
    }

    fn cuCtxPushCurrent(handle: Handle<Context>) {
        context::push_current(handle.value())
    }

    fn cuCtxPushCurrent_v2(handle: Handle<Context>) {
        context::push_current(handle.value())
    }

    fn cuCtxPopCurrent(handle: Out<usize>) {
        handle.set_if_wanted(context::pop_current()?);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(handle: Out<usize>) {
        handle.set_if_wanted(context::pop_current()?);
        Ok(())
    }

    fn cuCtxGetDevice(ordinal: Out<c_int>) {
        current_even_if_faulted()?;
        ordinal.set(0)
    }

    fn cuCtxGetDevice_v2(ordinal: Out<c_int>, handle: Handle<Context>) {
        or_current(handle)?;
        ordinal.set(0)
    }

    fn cuCtxGetId(handle: Handle<Context>, id: Out<u64>) {
        id.set(or_current(handle)?.id)
    }

    fn cuCtxGetApiVersion(handle: Handle<Context>, version: Out<u32>) {
        or_current(handle)?;
        version.set(3020)
    }

    fn cuCtxSynchronize() {
        let context = current()?;
        capture::forbid_context_synchronisation(&context)?;
        context.synchronise()
    }

    fn cuCtxSynchronize_v2(handle: Handle<Context>) {
        let context = or_current(handle)?;
        context.fault.check()?;
        capture::forbid_context_synchronisation(&context)?;
        context.synchronise()
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        flags.set(current()?.flags.load(Ordering::Relaxed))
    }

    fn cuCtxSetFlags(flags: u32) {
        check_context_flags(flags)?;
        current()?.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        value.set(current()?.limits.get(limit)? as usize)
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        current()?.limits.set(limit, value as u64)
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        config.set(current()?.cache_config.load(Ordering::Relaxed))
    }

    fn cuCtxSetCacheConfig(config: u32) {
        if config > 3 {
            return Err(Status::INVALID_VALUE);
        }
        current()?.cache_config.store(config, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        config.set(current()?.shared_config.load(Ordering::Relaxed))
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        if config > 2 {
            return Err(Status::INVALID_VALUE);
        }
        current()?.shared_config.store(config, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        current().map(|_| ())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) {
        current()?;
        least.set_if_wanted(LEAST_PRIORITY);
        greatest.set_if_wanted(GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxEnablePeerAccess(peer: Handle<Context>, flags: u32) {
        current()?;
        peer.get()?;
        Err(if flags == 0 { Status::PEER_ACCESS_UNSUPPORTED } else { Status::INVALID_VALUE })
    }

    fn cuCtxDisablePeerAccess(peer: Handle<Context>) {
        current()?;
        peer.get()?;
        Err(Status::PEER_ACCESS_NOT_ENABLED)
    }
}

/// Priorities of streams, kept to be given back.
pub const LEAST_PRIORITY: c_int = 0;
pub const GREATEST_PRIORITY: c_int = -5;

/// `CUctxCreateParams`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ContextParameters {
    affinities: *const c_void,
    affinity_count: c_int,
    graphics: *const c_void,
}

fn create(handle: Out<usize>, flags: u32, ordinal: c_int) -> Result {
    handle.check()?;
    check_context_flags(flags)?;
    let context = Context::new(device_at(ordinal)?, flags, false);
    context::push_current(context.handle)?;
    handle.set(context.handle)
}

fn destroy(handle: Handle<Context>) -> Result {
    device()?;
    let context = handle.get()?;
    if context.primary {
        return Err(Status::INVALID_CONTEXT);
    }
    context.destroy();
    context::forget_current(handle.value())
}

fn or_current(handle: Handle<Context>) -> Result<std::sync::Arc<Context>> {
    if handle.is_null() {
        return current_even_if_faulted();
    }
    device()?;
    handle.get()
}
