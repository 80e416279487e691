//! Driver errors in words: what was asked, the driver's answer, and what to do about it.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use crate::error::{Error, ErrorKind};

/// Wraps a driver error. `call` says what the driver was asked to do.
pub(crate) fn driver_error(op: &'static str, call: impl Into<String>, error: DriverError) -> Error {
    let code = format!("{:?} ({})", error.0, error.0 as u32);
    Error::new(op, ErrorKind::Cuda { call: call.into(), code, advice: advice(error.0).into() })
}

fn advice(code: CUresult) -> &'static str {
    use CUresult as C;
    match code {
        C::CUDA_ERROR_OUT_OF_MEMORY => "free device memory, or make the batch or n smaller",
        C::CUDA_ERROR_NO_DEVICE => "no CUDA device is visible: see `nvidia-smi` and CUDA_VISIBLE_DEVICES",
        C::CUDA_ERROR_INVALID_DEVICE => "no such device: see `nvidia-smi -L` and CUDA_VISIBLE_DEVICES",
        C::CUDA_ERROR_NO_BINARY_FOR_GPU
        | C::CUDA_ERROR_INVALID_IMAGE
        | C::CUDA_ERROR_INVALID_PTX
        | C::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "NVRTC is newer than the driver: update the driver, or set MULTIMIX_NVRTC to a release of the driver's CUDA version"
        }
        C::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | C::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "the driver's library and its kernel module differ: reboot, or reinstall the driver"
        }
        C::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        | C::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        | C::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
        | C::CUDA_ERROR_STREAM_CAPTURE_ISOLATION => {
            "while a stream is captured nothing may be allocated, compiled or waited for: run the call once before, and capture its `_into` form"
        }
        C::CUDA_ERROR_ILLEGAL_ADDRESS
        | C::CUDA_ERROR_MISALIGNED_ADDRESS
        | C::CUDA_ERROR_LAUNCH_FAILED
        | C::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | C::CUDA_ERROR_ASSERT => {
            "a kernel launched earlier, perhaps not by this library, failed and the context is lost: find it with compute-sanitizer"
        }
        C::CUDA_ERROR_INVALID_CONTEXT | C::CUDA_ERROR_CONTEXT_IS_DESTROYED => {
            "stream, buffers and engine must belong to one context that is alive"
        }
        C::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES => {
            "the device has too few registers or too little shared memory; please report it"
        }
        _ => "see the CUDA driver API's description of the code",
    }
}
