//! What a capture forbids to other threads. A global capture concerns the whole process, so this is the only
//! test here.

mod driver;

use driver::*;

const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const THREAD_LOCAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

fn begin(stream: CUstream, mode: CUstreamCaptureMode) {
    // SAFETY: the handle is live.
    ok(unsafe { cuStreamBeginCapture_v2(stream, mode) });
}

fn end(stream: CUstream) -> (CUresult, CUgraph) {
    let mut graph = 0x5_usize as CUgraph;
    // SAFETY: the pointer is valid.
    let code = unsafe { cuStreamEndCapture(stream, &mut graph) };
    (code, graph)
}

#[test]
fn modes_say_whose_calls_are_dangerous() {
    let session = Session::new();
    let stream = stream(NON_BLOCKING);
    let context = session.context as usize;
    let allocate_elsewhere = move || {
        let allocate = move || {
            // SAFETY: the pointer is valid.
            unsafe {
                ok(cuCtxSetCurrent(context as CUcontext));
                cuMemAlloc_v2(&mut 0, 16)
            }
        };
        std::thread::spawn(allocate).join().unwrap()
    };
    begin(stream, RELAXED);
    alloc(16);
    ok(allocate_elsewhere());
    ok(end(stream).0);

    begin(stream, THREAD_LOCAL);
    ok(allocate_elsewhere());
    ok(end(stream).0);

    begin(stream, GLOBAL);
    assert_eq!(allocate_elsewhere(), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(end(stream).0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    begin(stream, GLOBAL);
    let mut mode = RELAXED;
    // SAFETY: the pointer is valid.
    unsafe {
        ok(cuThreadExchangeStreamCaptureMode(&mut mode));
        assert_eq!(mode, GLOBAL);
        alloc(16);
        ok(cuThreadExchangeStreamCaptureMode(&mut mode));
        assert_eq!(mode, RELAXED);
    }
    ok(end(stream).0);

    begin(stream, THREAD_LOCAL);
    let handle = stream as usize;
    let end_elsewhere = move || {
        // SAFETY: the handle is live.
        ok(unsafe { cuCtxSetCurrent(context as CUcontext) });
        end(handle as CUstream).0
    };
    let elsewhere = std::thread::spawn(end_elsewhere).join().unwrap();
    assert_eq!(elsewhere, CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
    ok(end(stream).0);
}
