//! What the driver's tests share: NVIDIA's own C interface, on the virtual GPU, in a context of each test's
//! own.
//!
//! The functions are called through cudarc's bindings, which are generated from NVIDIA's headers: a wrong
//! signature in the driver would show here.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::ffi::{CStr, CString, c_void};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

pub use cudarc::driver::sys::*;
use vgpu::VirtualGpu;

pub const OK: CUresult = CUresult::CUDA_SUCCESS;
pub const INVALID_VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
pub const INVALID_HANDLE: CUresult = CUresult::CUDA_ERROR_INVALID_HANDLE;
pub const INVALID_CONTEXT: CUresult = CUresult::CUDA_ERROR_INVALID_CONTEXT;
pub const NOT_READY: CUresult = CUresult::CUDA_ERROR_NOT_READY;
pub const NOT_SUPPORTED: CUresult = CUresult::CUDA_ERROR_NOT_SUPPORTED;
pub const ILLEGAL_ADDRESS: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;

/// The driver, loaded before anything else can open one.
pub fn gpu() -> &'static VirtualGpu {
    static GPU: OnceLock<VirtualGpu> = OnceLock::new();
    GPU.get_or_init(|| vgpu::load().expect("the virtual GPU loads"))
}

/// A call that must succeed.
#[track_caller]
pub fn ok(result: CUresult) {
    assert_eq!(result, OK);
}

/// A context of its own, current in the thread that made it: a fault in one test leaves the others alone.
pub struct Session {
    pub context: CUcontext,
}

impl Session {
    pub fn new() -> Self {
        gpu();
        let mut context = std::ptr::null_mut();
        // SAFETY: both pointers are valid.
        unsafe {
            ok(cuInit(0));
            ok(cuCtxCreate_v4(&mut context, std::ptr::null_mut(), 0, 0));
        }
        Self { context }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the context is this session's own.
        unsafe { cuCtxDestroy_v2(self.context) };
    }
}

/// Device memory, not freed before its context.
pub fn alloc(bytes: usize) -> CUdeviceptr {
    let mut address = 0;
    // SAFETY: the pointer is valid.
    ok(unsafe { cuMemAlloc_v2(&mut address, bytes) });
    address
}

pub fn upload(values: &[u32]) -> CUdeviceptr {
    let address = alloc(size_of_val(values));
    // SAFETY: the host slice is as long as the copy.
    ok(unsafe { cuMemcpyHtoD_v2(address, values.as_ptr().cast(), size_of_val(values)) });
    address
}

pub fn download(address: CUdeviceptr, count: usize) -> Vec<u32> {
    let mut values = vec![0; count];
    // SAFETY: the host vector is as long as the copy.
    ok(unsafe { cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, 4 * count) });
    values
}

pub fn stream(flags: u32) -> CUstream {
    let mut stream = std::ptr::null_mut();
    // SAFETY: the pointer is valid.
    ok(unsafe { cuStreamCreate(&mut stream, flags) });
    stream
}

pub const BLOCKING: u32 = 0;
pub const NON_BLOCKING: u32 = 1;

pub fn event() -> CUevent {
    let mut event = std::ptr::null_mut();
    // SAFETY: the pointer is valid.
    ok(unsafe { cuEventCreate(&mut event, 0) });
    event
}

pub fn load(ptx: &str) -> CUmodule {
    let text = CString::new(ptx).unwrap();
    let mut module = std::ptr::null_mut();
    // SAFETY: a zero-terminated text.
    ok(unsafe { cuModuleLoadData(&mut module, text.as_ptr().cast()) });
    module
}

pub fn function(module: CUmodule, name: &CStr) -> CUfunction {
    let mut function = std::ptr::null_mut();
    // SAFETY: a zero-terminated name.
    ok(unsafe { cuModuleGetFunction(&mut function, module, name.as_ptr()) });
    function
}

/// A launch in one dimension.
pub fn launch(
    function: CUfunction,
    blocks: u32,
    threads: u32,
    stream: CUstream,
    arguments: &[*mut c_void],
) -> CUresult {
    launch_shape(function, [blocks, 1, 1], [threads, 1, 1], 0, stream, arguments)
}

pub fn launch_shape(
    function: CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: CUstream,
    arguments: &[*mut c_void],
) -> CUresult {
    let mut arguments = arguments.to_vec();
    let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
    let none = std::ptr::null_mut();
    // SAFETY: as many valid pointers as the kernel has parameters, as each test passes them.
    unsafe { cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, arguments.as_mut_ptr(), none) }
}

/// A pointer to an argument.
pub fn arg<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// Keeps a stream busy from its making until it is opened (or dropped).
pub struct Gate(Option<Sender<()>>);

impl Gate {
    pub fn close(stream: CUstream) -> Self {
        unsafe extern "C" fn wait(receiver: *mut c_void) {
            // SAFETY: the pointer is the box that `close` made, given to this call alone.
            let receiver = unsafe { Box::from_raw(receiver.cast::<Receiver<()>>()) };
            let _ = receiver.recv();
        }
        let (sender, receiver) = channel();
        let data = Box::into_raw(Box::new(receiver)).cast();
        // SAFETY: the function takes the pointer it is given.
        ok(unsafe { cuLaunchHostFunc(stream, Some(wait), data) });
        Self(Some(sender))
    }

    pub fn open(mut self) {
        self.0.take();
    }
}

/// Kernels that the tests launch, for sm_75 and later.
pub const KERNELS: &str = include_str!("kernels.ptx");
