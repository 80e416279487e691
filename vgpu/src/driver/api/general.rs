//! Initialisation, version, error descriptions, entry points by name.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::driver::abi::{Name, Out};
use crate::driver::context::in_callback;
use crate::driver::device::{device, initialise};
use crate::driver::export;
use crate::driver::status::{self, Result, Status};

/// CUDA 13.5: the newest toolkit whose PTX is accepted.
const DRIVER_VERSION: c_int = 13050;

export! {
    fn cuInit(flags: u32) {
        if in_callback() {
            return Err(Status::NOT_PERMITTED);
        }
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        initialise()
    }

    fn cuDriverGetVersion(version: Out<c_int>) {
        version.set(DRIVER_VERSION)
    }

    fn cuGetErrorName(error: u32, text: Out<*const c_char>) {
        describe(error, text, |(name, _)| name)
    }

    fn cuGetErrorString(error: u32, text: Out<*const c_char>) {
        describe(error, text, |(_, description)| description)
    }

    fn cuGetProcAddress(name: Name, address: Out<*const c_void>, version: c_int, flags: u64) {
        find_entry(&name.get()?, address, version, flags).map(|_| ())
    }

    fn cuGetProcAddress_v2(
        name: Name,
        address: Out<*const c_void>,
        version: c_int,
        flags: u64,
        found: Out<u32>,
    ) {
        let outcome = find_entry(&name.get()?, address, version, flags);
        found.set_if_wanted(match outcome {
            Ok(()) => FOUND,
            Err(Status::NOT_SUPPORTED) => VERSION_NOT_SUFFICIENT,
            Err(_) => SYMBOL_NOT_FOUND,
        });
        outcome
    }

    fn cuProfilerStart() {
        device().map(|_| ())
    }

    fn cuProfilerStop() {
        device().map(|_| ())
    }
}

type Description = (&'static CStr, &'static CStr);

fn describe(error: u32, text: Out<*const c_char>, part: impl Fn(Description) -> &'static CStr) -> Result {
    text.check()?;
    match status::describe(error) {
        Some(description) => text.set(part(description).as_ptr()),
        None => {
            text.set(std::ptr::null())?;
            Err(Status::INVALID_VALUE)
        }
    }
}

/// `CUdriverProcAddressQueryResult`.
const FOUND: u32 = 0;
const SYMBOL_NOT_FOUND: u32 = 1;
const VERSION_NOT_SUFFICIENT: u32 = 2;

/// Functions of which a later version has another interface: the CUDA version from which each suffix is
/// meant. Functions without an entry had their last change before CUDA 11, so that the highest suffix is
/// always meant.
const VERSIONED: &[(&str, c_int, &str)] = &[
    ("cuCtxCreate", 13000, "_v4"),
    ("cuCtxCreate", 3020, "_v2"),
    ("cuGetProcAddress", 12000, "_v2"),
    ("cuStreamGetCaptureInfo", 13000, "_v3"),
    ("cuStreamGetCaptureInfo", 11030, "_v2"),
    ("cuGraphAddKernelNode", 12000, "_v2"),
    ("cuGraphKernelNodeGetParams", 12000, "_v2"),
    ("cuGraphKernelNodeSetParams", 12000, "_v2"),
    ("cuGraphExecKernelNodeSetParams", 12000, "_v2"),
    ("cuGraphExecUpdate", 12000, "_v2"),
    ("cuGraphInstantiate", 12000, "WithFlags"),
    ("cuGraphInstantiate", 11000, "_v2"),
    ("cuDeviceGetUuid", 13000, "_v2"),
    ("cuMemPrefetchAsync", 13000, "_v2"),
    ("cuMemAdvise", 13000, "_v2"),
    ("cuEventElapsedTime", 13000, "_v2"),
    ("cuStreamUpdateCaptureDependencies", 13000, "_v2"),
    ("cuGraphAddDependencies", 13000, "_v2"),
];

/// Finds the function that a program built with CUDA `version` means by `name`.
fn find_entry(name: &str, address: Out<*const c_void>, version: c_int, flags: u64) -> Result {
    address.check()?;
    // Bit 1 asks for the variants that take the thread's default stream for the null stream: there are none.
    if flags & !3 != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let exported =
        |name: &str| super::symbols().find(|symbol| symbol.name == name && !name.starts_with("vgpu_"));
    let mut changes = VERSIONED.iter().filter(|(changed, ..)| *changed == name).peekable();
    let found = if changes.peek().is_some() {
        let meant = changes.find(|(_, since, _)| version >= *since).map_or("", |(.., suffix)| suffix);
        exported(&format!("{name}{meant}"))
    } else {
        ["_v3", "_v2", ""].iter().find_map(|suffix| exported(&format!("{name}{suffix}")))
    };
    match found {
        Some(symbol) if flags & 2 == 0 => address.set(symbol.address.cast()),
        other => {
            address.set(std::ptr::null())?;
            Err(if other.is_some() { Status::NOT_SUPPORTED } else { Status::NOT_FOUND })
        }
    }
}
