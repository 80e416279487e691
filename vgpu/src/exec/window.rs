//! Generic addresses: which space an address lies in.
//!
//! Shared and local memory and kernel parameters have 32-bit addresses of their own; generically they lie in
//! windows far above what host or device pointers reach. Constants live in device memory.

/// Window of the block's shared memory.
pub(crate) const SHARED: u64 = 0x0100_0000_0000_0000;
/// Window of the thread's local memory.
pub(crate) const LOCAL: u64 = 0x0200_0000_0000_0000;
/// Window of the kernel's parameters.
pub(crate) const PARAM: u64 = 0x0300_0000_0000_0000;
/// "Addresses" of functions.
const FUNCTION: u64 = 0x0500_0000_0000_0000;
const FUNCTION_STRIDE: u64 = 16;

/// The handle of a function by its index in the module.
pub(crate) fn function(index: usize) -> u64 {
    FUNCTION + (index as u64 + 1) * FUNCTION_STRIDE
}

/// Index of the function with that handle, if it is one.
pub(crate) fn function_index(handle: u64) -> Option<usize> {
    let offset = handle.checked_sub(FUNCTION)?;
    (offset != 0 && offset % FUNCTION_STRIDE == 0).then(|| (offset / FUNCTION_STRIDE - 1) as usize)
}

/// Whether a generic address lies in the window that begins at `base`.
pub(crate) fn holds(base: u64, address: u64) -> bool {
    address.wrapping_sub(base) < 1 << 32
}
