//! Types of the C interface: arguments that point into the caller's memory, and the structures of `cuda.h`.
//!
//! A pointer argument is wrapped in [`Out`], [`In`] or [`Name`]. The caller of the C function promises, as
//! for the real driver, that such a pointer is null or valid for its type; the wrappers check null and
//! alignment and hold the only dereferences.

use std::ffi::{CStr, c_char, c_void};

use super::status::{Result, Status};

/// A pointer through which a function returns a value.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Stores `value`; null is `CUDA_ERROR_INVALID_VALUE`.
    pub fn set(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, and the C caller passed it as a pointer to write a `T` through.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Stores `value` unless the caller passed null to say that it does not want it.
    pub fn set_if_wanted(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null, and the C caller passed it as a pointer to write a `T` through.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Refuses null before any work is done whose result could not be returned.
    pub fn check(&self) -> Result {
        if self.0.is_null() { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }

    /// The value that an in-and-out argument came with.
    pub fn get(&self) -> Result<T>
    where
        T: Copy,
    {
        self.check()?;
        // SAFETY: not null, and the C caller passed it as a pointer to a `T`.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// Stores as many of `values` as `room` allows.
    pub fn set_slice(self, values: &[T], room: usize) -> Result
    where
        T: Copy,
    {
        self.check()?;
        for (index, value) in values.iter().take(room).enumerate() {
            // SAFETY: not null, and the C caller says that it has room for `room` values.
            unsafe { self.0.add(index).write_unaligned(*value) };
        }
        Ok(())
    }
}

impl<T: Copy> Out<T> {
    pub const fn from_raw(pointer: *mut T) -> Self {
        Self(pointer)
    }

    /// The first `count` values of an in-and-out array.
    pub fn list(&self, count: usize) -> Result<Vec<T>> {
        In(self.0.cast_const()).list(count)
    }

    /// Stores one value of an array that [`Out::list`] was found to hold.
    pub fn set_at(&self, index: usize, value: T) -> Result {
        self.check()?;
        // SAFETY: not null, and the C caller says that the array is longer than `index`.
        unsafe { self.0.add(index).write_unaligned(value) };
        Ok(())
    }
}

impl Out<u8> {
    /// Stores the bytes of a value whose type depends on what was asked for.
    pub fn set_bytes(self, bytes: &[u8]) -> Result {
        self.set_slice(bytes, bytes.len())
    }
}

impl Out<c_char> {
    /// Stores a string with its final zero, cut to `room` bytes in all.
    pub fn set_text(self, text: &str, room: usize) -> Result {
        if room == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let kept = text.len().min(room - 1);
        let bytes: Vec<c_char> = text.as_bytes()[..kept].iter().map(|&b| b as c_char).chain([0]).collect();
        self.set_slice(&bytes, room)
    }
}

/// A pointer to what a function reads.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> In<T> {
    pub const fn from_raw(pointer: *const T) -> Self {
        Self(pointer)
    }

    pub fn as_ptr(&self) -> *const T {
        self.0
    }
}

impl<T: Copy> In<T> {
    /// The value; null is `CUDA_ERROR_INVALID_VALUE`.
    pub fn get(&self) -> Result<T> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, and the C caller passed it as a pointer to a `T`.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The first `count` values; null stands for an empty array.
    pub fn list(&self, count: usize) -> Result<Vec<T>> {
        if count == 0 {
            return Ok(vec![]);
        }
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, and the C caller says that `count` values lie there.
        Ok((0..count).map(|index| unsafe { self.0.add(index).read_unaligned() }).collect())
    }

    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

/// A zero-terminated string.
#[repr(transparent)]
pub struct Name(*const c_char);

impl Name {
    /// The text; null and text that is not UTF-8 are `CUDA_ERROR_INVALID_VALUE`.
    pub fn get(&self) -> Result<String> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, and the C caller passed a zero-terminated string.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| Status::INVALID_VALUE)
    }
}

/// Host memory of the caller's, as an address: it may be used later, from a stream's thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct HostAddress(pub usize);

impl HostAddress {
    /// Copies `bytes` bytes out.
    ///
    /// # Safety
    /// The range must be readable, as the caller of the copy function promised for the time until the copy is
    /// done.
    pub unsafe fn read(self, bytes: usize) -> Vec<u8> {
        let mut copy = vec![0; bytes];
        // SAFETY: readable by the contract above; `copy` is fresh memory of that length.
        unsafe { std::ptr::copy_nonoverlapping(self.0 as *const u8, copy.as_mut_ptr(), bytes) };
        copy
    }

    /// Copies `bytes` in.
    ///
    /// # Safety
    /// The range must be writable, as the caller of the copy function promised for the time until the copy is
    /// done.
    pub unsafe fn write(self, bytes: &[u8]) {
        // SAFETY: writable by the contract above, and device memory images never overlap the caller's memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0 as *mut u8, bytes.len()) };
    }

    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

/// `CUhostFn`.
pub type HostFunction = unsafe extern "C" fn(data: *mut c_void);
/// `CUstreamCallback`.
pub type StreamCallback = unsafe extern "C" fn(stream: usize, status: u32, data: *mut c_void);
/// `CUoccupancyB2DSize`.
pub type DynamicSharedOfBlock = unsafe extern "C" fn(block_size: i32) -> usize;

/// `CUuuid`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Uuid(pub [u8; 16]);

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub stream: usize,
    pub attributes: *const LaunchAttribute,
    pub attribute_count: u32,
}

/// `CUlaunchAttribute`: an id, and a union of 64 bytes of which the first words are all that is read here.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct LaunchAttribute {
    pub id: u32,
    pub padding: u32,
    pub value: [u32; 16],
}

/// `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Copy2D {
    pub source: Copy2DEnd,
    pub destination: Copy2DEnd,
    pub width: usize,
    pub height: usize,
}

/// One end of a [`Copy2D`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Copy2DEnd {
    pub x: usize,
    pub y: usize,
    pub memory_type: u32,
    pub host: HostAddress,
    pub device: u64,
    pub array: usize,
    pub pitch: usize,
}

/// `CUmemLocation`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemLocation {
    pub kind: u32,
    pub id: i32,
}

/// `CUmemPoolProps`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PoolProperties {
    pub allocation_type: u32,
    pub handle_types: u32,
    pub location: MemLocation,
    pub security_attributes: usize,
    pub max_size: usize,
    pub usage: u16,
    pub reserved: [u8; 54],
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`; version 1 ends before `kernel`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelNodeParameters {
    pub function: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub parameters: *const *const c_void,
    pub extra: *const *const c_void,
    pub kernel: usize,
    pub context: usize,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemsetNodeParameters {
    pub destination: u64,
    pub pitch: usize,
    pub value: u32,
    pub element_size: u32,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HostNodeParameters {
    pub function: Option<HostFunction>,
    pub data: *mut c_void,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct InstantiateParameters {
    pub flags: u64,
    pub upload_stream: usize,
    pub failed_node: usize,
    pub result: u32,
}

/// `CUgraphExecUpdateResultInfo`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UpdateResult {
    pub result: u32,
    pub node: usize,
    pub from_node: usize,
}
