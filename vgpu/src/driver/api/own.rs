//! The virtual GPU's own functions, which a program finds by `dlsym`: counters, fault reports, settings,
//! version.
//!
//! | function | |
//! |---|---|
//! | `const char *vgpu_version(void)` | version of this library |
//! | `CUresult vgpu_set(const char *name, const char *value)` | sets what the variable `VGPU_<NAME>` sets; `CUDA_ERROR_INVALID_VALUE` for a name or value that is none, `CUDA_ERROR_ILLEGAL_STATE` for a property of the device after `cuInit` |
//! | `void vgpu_counters_reset(void)` | forgets the launches recorded so far, and the last fault |
//! | `size_t vgpu_counters_json(char *buffer, size_t bytes)` | the launches that ended since the last reset |
//! | `size_t vgpu_fault(char *buffer, size_t bytes)` | report of the last fault, empty if there was none |
//!
//! The last two write a zero-terminated text, cut to the buffer, and return the length of the whole text.

use std::ffi::c_char;

use crate::driver::abi::{Name, Out};
use crate::driver::config::{self, SetError};
use crate::driver::status::Status;
use crate::driver::{counters, guard};

/// Version of the crate.
#[unsafe(no_mangle)]
pub extern "C" fn vgpu_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Sets what an environment variable sets.
///
/// # Safety
/// Both arguments are zero-terminated strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vgpu_set(name: Name, value: Name) -> u32 {
    guard("vgpu_set", || {
        config::set(&name.get()?, &value.get()?).map_err(|error| match error {
            SetError::TooLate => Status::ILLEGAL_STATE,
            SetError::Invalid(problem) => {
                eprintln!("vgpu: {problem}");
                Status::INVALID_VALUE
            }
        })
    })
}

/// Forgets the launches recorded so far, and the last fault.
#[unsafe(no_mangle)]
pub extern "C" fn vgpu_counters_reset() {
    counters::reset();
}

/// Writes the launches since the last reset as JSON; gives the length of the whole.
///
/// # Safety
/// `buffer` is null or has room for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vgpu_counters_json(buffer: Out<c_char>, bytes: usize) -> usize {
    give_text(buffer, bytes, &counters::json())
}

/// Writes the report of the last fault; gives the length of the whole.
///
/// # Safety
/// `buffer` is null or has room for `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vgpu_fault(buffer: Out<c_char>, bytes: usize) -> usize {
    give_text(buffer, bytes, &counters::last_fault().unwrap_or_default())
}

/// As `snprintf` does: cut to the buffer, with the length that it would have taken.
fn give_text(buffer: Out<c_char>, bytes: usize, text: &str) -> usize {
    if !buffer.is_null() && bytes > 0 {
        let _ = buffer.set_text(text, bytes);
    }
    text.len()
}
