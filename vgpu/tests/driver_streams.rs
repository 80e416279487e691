//! Asynchrony: order within and between streams, the null stream, events, host functions, errors that show
//! late.

mod driver;

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use driver::*;

const NULL: CUstream = std::ptr::null_mut();

fn per_thread() -> CUstream {
    0x2_usize as CUstream
}

#[test]
fn a_launch_returns_before_the_kernel_runs() {
    let _session = Session::new();
    let (fill, stream, data) = (function(load(KERNELS), c"fill"), stream(NON_BLOCKING), upload(&[0; 64]));
    let gate = Gate::close(stream);
    ok(launch(fill, 1, 64, stream, &[arg(&data), arg(&5_u32), arg(&64_u32)]));
    // SAFETY: no pointers.
    unsafe {
        assert_eq!(cuStreamQuery(stream), NOT_READY);
        assert_eq!(download(data, 64), [0; 64], "the null stream does not wait for a non-blocking stream");
        gate.open();
        ok(cuStreamSynchronize(stream));
        ok(cuStreamQuery(stream));
    }
    assert_eq!(download(data, 64), [5; 64]);
}

#[test]
fn work_in_a_stream_keeps_its_order() {
    let _session = Session::new();
    let (step, stream, data) = (function(load(KERNELS), c"step"), stream(NON_BLOCKING), upload(&[1; 32]));
    let mut expected = 1_u32;
    for _ in 0..50 {
        ok(launch(step, 1, 32, stream, &[arg(&data)]));
        expected = expected.wrapping_mul(3).wrapping_add(1);
    }
    // SAFETY: no pointers.
    ok(unsafe { cuStreamSynchronize(stream) });
    assert_eq!(download(data, 32), [expected; 32]);
}

#[test]
fn streams_are_ordered_by_events_and_by_nothing_else() {
    let _session = Session::new();
    let (first, second, third) = (stream(NON_BLOCKING), stream(NON_BLOCKING), stream(NON_BLOCKING));
    let (data, written) = (upload(&[0; 4]), event());
    // SAFETY: every handle is live.
    unsafe {
        let gate = Gate::close(first);
        ok(cuMemsetD32Async(data, 7, 1, first));
        ok(cuEventRecord(written, first));
        ok(cuStreamWaitEvent(second, written, 0));
        ok(cuMemcpyDtoDAsync_v2(data + 4, data, 4, second));
        ok(cuMemcpyDtoDAsync_v2(data + 8, data, 4, third));
        ok(cuStreamSynchronize(third));
        assert_eq!(cuStreamQuery(second), NOT_READY);
        assert_eq!(cuEventQuery(written), NOT_READY);
        assert_eq!(download(data, 4), [0, 0, 0, 0], "the third stream did not wait, and saw the old value");
        gate.open();
        ok(cuStreamSynchronize(second));
        ok(cuEventQuery(written));
    }
    assert_eq!(download(data, 4), [7, 7, 0, 0]);
}

#[test]
fn a_wait_is_for_the_record_before_it() {
    let _session = Session::new();
    let (first, second, mark) = (stream(NON_BLOCKING), stream(NON_BLOCKING), event());
    // SAFETY: every handle is live.
    unsafe {
        ok(cuStreamWaitEvent(second, mark, 0));
        ok(cuEventQuery(mark));
        ok(cuEventRecord(mark, first));
        ok(cuStreamWaitEvent(second, mark, 0));
        let gate = Gate::close(first);
        ok(cuEventRecord(mark, first));
        ok(cuStreamSynchronize(second));
        assert_eq!(cuEventQuery(mark), NOT_READY, "recorded anew");
        gate.open();
        ok(cuEventSynchronize(mark));
    }
}

#[test]
fn the_null_stream_waits_for_blocking_streams_and_they_for_it() {
    let _session = Session::new();
    let (blocking, data) = (stream(BLOCKING), upload(&[1, 2]));
    for stream in [blocking, per_thread()] {
        // SAFETY: every handle is live.
        unsafe {
            let gate = Gate::close(stream);
            ok(cuMemsetD32Async(data, 9, 1, stream));
            ok(cuMemcpyDtoDAsync_v2(data + 4, data, 4, NULL));
            assert_eq!(cuStreamQuery(NULL), NOT_READY);
            gate.open();
            ok(cuStreamSynchronize(NULL));
            assert_eq!(download(data, 2), [9, 9]);

            let gate = Gate::close(NULL);
            ok(cuMemsetD32Async(data, 1, 1, NULL));
            ok(cuMemcpyDtoDAsync_v2(data + 4, data, 4, stream));
            assert_eq!(cuStreamQuery(stream), NOT_READY);
            gate.open();
            ok(cuStreamSynchronize(stream));
            assert_eq!(download(data, 2), [1, 1]);
        }
    }
}

#[test]
fn the_named_default_streams_are_the_null_stream_and_one_for_each_thread() {
    let session = Session::new();
    let legacy = 0x1_usize as CUstream;
    // SAFETY: every handle is live.
    unsafe {
        let gate = Gate::close(legacy);
        assert_eq!(cuStreamQuery(NULL), NOT_READY);
        gate.open();
        ok(cuStreamSynchronize(NULL));

        let gate = Gate::close(per_thread());
        assert_eq!(cuStreamQuery(per_thread()), NOT_READY);
        let context = session.context as usize;
        let of_other = std::thread::spawn(move || {
            ok(cuCtxSetCurrent(context as CUcontext));
            cuStreamQuery(per_thread())
        });
        ok(of_other.join().unwrap());
        gate.open();
        ok(cuStreamSynchronize(per_thread()));
        assert_eq!(cuStreamSynchronize(0x3_usize as CUstream), INVALID_HANDLE);
        assert_eq!(cuStreamDestroy_v2(legacy), INVALID_HANDLE);
    }
}

#[test]
fn events_measure_time() {
    let _session = Session::new();
    let (start, end, stream) = (event(), event(), stream(NON_BLOCKING));
    // SAFETY: every pointer and handle is valid.
    unsafe {
        let mut milliseconds = -1.0;
        assert_eq!(cuEventElapsedTime_v2(&mut milliseconds, start, end), INVALID_HANDLE, "never recorded");
        ok(cuEventRecord(start, stream));
        let gate = Gate::close(stream);
        ok(cuEventRecord(end, stream));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(cuEventElapsedTime_v2(&mut milliseconds, start, end), NOT_READY);
        gate.open();
        ok(cuEventSynchronize(end));
        ok(cuEventElapsedTime_v2(&mut milliseconds, start, end));
        assert!((15.0..20_000.0).contains(&milliseconds), "{milliseconds}");

        let mut untimed = std::ptr::null_mut();
        ok(cuEventCreate(&mut untimed, 2));
        ok(cuEventRecord(untimed, stream));
        ok(cuEventSynchronize(untimed));
        assert_eq!(cuEventElapsedTime_v2(&mut milliseconds, start, untimed), INVALID_HANDLE);
        assert_eq!(cuEventCreate(&mut untimed, 64), INVALID_VALUE);
    }
}

#[test]
fn host_functions_run_in_order_and_may_not_call_the_driver() {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn look(data: *mut c_void) {
        // SAFETY: the pointer is the one below; the call is what is tested.
        unsafe {
            assert_eq!(cuCtxSynchronize(), CUresult::CUDA_ERROR_NOT_PERMITTED);
            SEEN.store(*data.cast::<u32>(), Ordering::SeqCst);
        }
    }
    let _session = Session::new();
    let stream = stream(NON_BLOCKING);
    // SAFETY: the pinned word lives until the session's end.
    unsafe {
        let mut pinned = std::ptr::null_mut();
        ok(cuMemAllocHost_v2(&mut pinned, 4));
        let data = upload(&[123]);
        let gate = Gate::close(stream);
        ok(cuMemcpyDtoHAsync_v2(pinned, data, 4, stream));
        ok(cuLaunchHostFunc(stream, Some(look), pinned));
        assert_eq!(SEEN.load(Ordering::SeqCst), 0);
        gate.open();
        ok(cuStreamSynchronize(stream));
        assert_eq!(SEEN.load(Ordering::SeqCst), 123);
        assert_eq!(cuLaunchHostFunc(stream, None, pinned), INVALID_VALUE);
    }
}

#[test]
fn a_fault_shows_at_the_next_synchronisation_and_stays() {
    let session = Session::new();
    let module = load(KERNELS);
    let (poke, fill, data) = (function(module, c"poke"), function(module, c"fill"), upload(&[0; 4]));
    let outside = data + 16;
    ok(launch(poke, 1, 1, NULL, &[arg(&outside)]));
    // Not a synchronising call: whether or not the kernel has run, it succeeds.
    ok(launch(fill, 1, 4, NULL, &[arg(&data), arg(&5_u32), arg(&4_u32)]));
    // SAFETY: every pointer is valid for its function.
    unsafe {
        assert_eq!(cuStreamSynchronize(NULL), ILLEGAL_ADDRESS);
        let mut address = 0;
        assert_eq!(cuMemAlloc_v2(&mut address, 16), ILLEGAL_ADDRESS);
        assert_eq!(cuCtxSynchronize(), ILLEGAL_ADDRESS);
        assert_eq!(launch(fill, 1, 4, NULL, &[arg(&data), arg(&5_u32), arg(&4_u32)]), ILLEGAL_ADDRESS);
        let mut host = [0_u32; 4];
        assert_eq!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), data, 16), ILLEGAL_ADDRESS);
        let mut current = std::ptr::null_mut();
        ok(cuCtxGetCurrent(&mut current));
        assert_eq!(current, session.context);
    }
    let report = gpu().fault().expect("the fault was reported");
    assert!(report.contains("poke") || report.contains("stop"), "{report}");

    // Another context of the same device is not concerned.
    let _other = Session::new();
    let module = load(KERNELS);
    let data = alloc(16);
    ok(launch(function(module, c"fill"), 1, 4, NULL, &[arg(&data), arg(&6_u32), arg(&4_u32)]));
    assert_eq!(download(data, 4), [6; 4]);
}

#[test]
fn a_trap_fails_every_way_of_waiting() {
    let launched = || {
        let session = Session::new();
        let (mark, stream) = (event(), stream(NON_BLOCKING));
        ok(launch(function(load(KERNELS), c"stop"), 1, 32, stream, &[]));
        // SAFETY: every handle is live.
        ok(unsafe { cuEventRecord(mark, stream) });
        (session, mark, stream)
    };
    let failed = CUresult::CUDA_ERROR_LAUNCH_FAILED;
    // SAFETY: every handle is live.
    unsafe {
        let (_session, mark, _) = launched();
        assert_eq!(cuEventSynchronize(mark), failed);
        let (_session, _, stream) = launched();
        assert_eq!(cuStreamSynchronize(stream), failed);
        let (_session, ..) = launched();
        assert_eq!(cuCtxSynchronize(), failed);
        let (_session, ..) = launched();
        assert_eq!(cuMemFree_v2(0x100), failed, "frees wait for all work");
        let (_session, mark, _) = launched();
        let mut answer = NOT_READY;
        while answer == NOT_READY {
            answer = cuEventQuery(mark);
        }
        assert_eq!(answer, failed);
    }
}

#[test]
fn memory_freed_under_a_kernel_is_a_fault() {
    let _session = Session::new();
    let (fill, stream) = (function(load(KERNELS), c"fill"), stream(NON_BLOCKING));
    // SAFETY: every pointer is valid for its function; the use after free is what is tested.
    unsafe {
        let mut address = 0;
        ok(cuMemAllocAsync(&mut address, 256, stream));
        ok(cuMemFreeAsync(address, stream));
        ok(launch(fill, 2, 32, stream, &[arg(&address), arg(&1_u32), arg(&64_u32)]));
        assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
    }
}

#[test]
fn a_destroyed_stream_finishes_its_work() {
    let _session = Session::new();
    let (stream, data) = (stream(NON_BLOCKING), upload(&[0; 4]));
    // SAFETY: every handle is live but the one that is tested.
    unsafe {
        let gate = Gate::close(stream);
        ok(cuMemsetD32Async(data, 8, 4, stream));
        ok(cuStreamDestroy_v2(stream));
        assert_eq!(cuStreamSynchronize(stream), INVALID_HANDLE);
        gate.open();
    }
    // Nothing is left to wait with but the data.
    let written = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        download(data, 4) == [8; 4]
    });
    assert!(written);
}
