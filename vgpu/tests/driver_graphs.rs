//! Stream capture and graphs.

mod driver;

use driver::*;

const NULL: CUstream = std::ptr::null_mut();
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

fn finish(stream: CUstream) -> CUgraph {
    let (code, graph) = end(stream);
    ok(code);
    graph
}

fn instantiate(graph: CUgraph) -> CUgraphExec {
    let mut exec = std::ptr::null_mut();
    // SAFETY: the pointer is valid.
    ok(unsafe { cuGraphInstantiateWithFlags(&mut exec, graph, 0) });
    exec
}

fn nodes(graph: CUgraph) -> Vec<CUgraphNode> {
    let mut count = 0;
    // SAFETY: the vector has as much room as is said.
    unsafe {
        ok(cuGraphGetNodes(graph, std::ptr::null_mut(), &mut count));
        let mut nodes = vec![std::ptr::null_mut(); count];
        ok(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
        nodes
    }
}

fn status(stream: CUstream) -> CUstreamCaptureStatus {
    let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the pointer is valid.
    ok(unsafe { cuStreamIsCapturing(stream, &mut status) });
    status
}

#[test]
fn a_captured_graph_is_replayed() {
    let _session = Session::new();
    let (step, stream, data) = (function(load(KERNELS), c"step"), stream(NON_BLOCKING), upload(&[0; 32]));
    // SAFETY: every handle is live.
    unsafe {
        assert_eq!(status(stream), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
        begin(stream, THREAD_LOCAL);
        assert_eq!(status(stream), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        ok(cuMemsetD32Async(data, 1, 32, stream));
        for _ in 0..3 {
            ok(launch(step, 1, 32, stream, &[arg(&data)]));
        }
        let graph = finish(stream);
        assert_eq!(status(stream), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
        assert_eq!(nodes(graph).len(), 4);
        assert_eq!(download(data, 32), [0; 32], "captured work is not executed");
        let exec = instantiate(graph);
        ok(cuGraphDestroy(graph));
        for _ in 0..5 {
            ok(cuGraphLaunch(exec, stream));
        }
        ok(launch(step, 1, 32, stream, &[arg(&data)]));
        ok(cuStreamSynchronize(stream));
        let after_graph = (4 * 3 + 1) * 3 + 1; // three steps from 1: 4, 13, 40
        assert_eq!(download(data, 32), [after_graph * 3 + 1; 32]);
        ok(cuGraphExecDestroy(exec));
        assert_eq!(cuGraphLaunch(exec, stream), INVALID_HANDLE);
    }
}

#[test]
fn a_replay_reads_pinned_memory_anew() {
    let _session = Session::new();
    let (stream, data) = (stream(NON_BLOCKING), alloc(4));
    // SAFETY: the pinned word lives until the session's end.
    unsafe {
        let mut pinned = std::ptr::null_mut();
        ok(cuMemAllocHost_v2(&mut pinned, 4));
        begin(stream, RELAXED);
        ok(cuMemcpyHtoDAsync_v2(data, pinned, 4, stream));
        let exec = instantiate(finish(stream));
        for value in [3_u32, 4] {
            pinned.cast::<u32>().write(value);
            ok(cuGraphLaunch(exec, stream));
            ok(cuStreamSynchronize(stream));
            assert_eq!(download(data, 1), [value]);
        }
    }
}

#[test]
fn forked_streams_are_captured_and_must_be_joined() {
    let _session = Session::new();
    let (one, two, data) = (stream(NON_BLOCKING), stream(NON_BLOCKING), upload(&[0; 2]));
    let (forked, joined) = (event(), event());
    // SAFETY: every handle is live.
    unsafe {
        begin(one, THREAD_LOCAL);
        ok(cuMemsetD32Async(data, 5, 1, one));
        ok(cuEventRecord(forked, one));
        ok(cuStreamWaitEvent(two, forked, 0));
        assert_eq!(status(two), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        ok(cuMemcpyDtoDAsync_v2(data + 4, data, 4, two));
        ok(cuEventRecord(joined, two));
        ok(cuStreamWaitEvent(one, joined, 0));
        let graph = finish(one);
        assert_eq!(status(two), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE);
        let exec = instantiate(graph);
        ok(cuGraphLaunch(exec, one));
        ok(cuStreamSynchronize(one));
        assert_eq!(download(data, 2), [5, 5]);

        begin(one, THREAD_LOCAL);
        ok(cuEventRecord(forked, one));
        ok(cuStreamWaitEvent(two, forked, 0));
        ok(cuMemsetD32Async(data, 5, 1, two));
        assert_eq!(end(two).0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
        assert_eq!(end(one).0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        begin(one, THREAD_LOCAL);
        ok(cuEventRecord(forked, one));
        ok(cuStreamWaitEvent(two, forked, 0));
        ok(cuMemsetD32Async(data, 5, 1, two));
        let (code, graph) = end(one);
        assert_eq!(code, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        assert!(graph.is_null());
        ok(cuStreamSynchronize(two));
    }
}

/// An illegal call during a capture gives its code, and the capture is invalid afterwards.
#[track_caller]
fn invalidates(call: impl Fn(CUstream) -> CUresult, code: CUresult) {
    let _session = Session::new();
    let stream = stream(BLOCKING);
    begin(stream, THREAD_LOCAL);
    assert_eq!(call(stream), code);
    assert_eq!(status(stream), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    let data = 0x100;
    // SAFETY: refused before the address is looked at, or because of it.
    assert_ne!(unsafe { cuMemsetD32Async(data, 1, 1, stream) }, OK);
    assert_eq!(end(stream), (CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, std::ptr::null_mut()));
    // SAFETY: the handle is live.
    ok(unsafe { cuStreamSynchronize(stream) });
}

#[test]
fn illegal_calls_invalidate_a_capture() {
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let implicit = CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    let mut word = 0_u32;
    let host = &raw mut word;
    // SAFETY: every pointer is valid for its function.
    unsafe {
        invalidates(|stream| cuStreamSynchronize(stream), unsupported);
        invalidates(|stream| cuStreamQuery(stream), unsupported);
        invalidates(|_| cuCtxSynchronize(), unsupported);
        invalidates(|_| cuMemAlloc_v2(&mut 0, 16), unsupported);
        invalidates(|_| cuMemFree_v2(0x100), unsupported);
        invalidates(|_| cuMemcpyDtoH_v2(host.cast(), 0x100, 4), unsupported);
        invalidates(|_| cuMemsetD8_v2(0x100, 0, 4), unsupported);
        invalidates(|_| cuModuleLoadData(&mut std::ptr::null_mut(), c"x".as_ptr().cast()), unsupported);
        invalidates(|_| cuStreamQuery(NULL), implicit);
        invalidates(|_| cuStreamSynchronize(NULL), implicit);
        invalidates(
            |stream| {
                let mark = event();
                ok(cuEventRecord(mark, stream));
                cuEventQuery(mark)
            },
            CUresult::CUDA_ERROR_CAPTURED_EVENT,
        );
        invalidates(
            |stream| {
                let mark = event();
                ok(cuEventRecord(mark, stream));
                cuEventSynchronize(mark)
            },
            CUresult::CUDA_ERROR_CAPTURED_EVENT,
        );
    }
}

#[test]
fn a_capture_cannot_depend_on_what_is_outside_or_merge_with_another() {
    let _session = Session::new();
    let (one, two, outside) = (stream(NON_BLOCKING), stream(NON_BLOCKING), stream(NON_BLOCKING));
    let mark = event();
    // SAFETY: every handle is live.
    unsafe {
        ok(cuEventRecord(mark, outside));
        begin(one, THREAD_LOCAL);
        assert_eq!(cuStreamWaitEvent(one, mark, 0), CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        assert_eq!(end(one).0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        begin(one, THREAD_LOCAL);
        begin(two, THREAD_LOCAL);
        ok(cuEventRecord(mark, one));
        assert_eq!(cuStreamWaitEvent(two, mark, 0), CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
        assert_eq!(end(one).0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        assert_eq!(end(two).0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        assert_eq!(
            cuStreamWaitEvent(two, mark, 0),
            CUresult::CUDA_ERROR_CAPTURED_EVENT,
            "of a capture that is over"
        );
    }
}

#[test]
fn the_null_stream_beside_a_capture() {
    let _session = Session::new();
    let (blocking, other, data) = (stream(BLOCKING), stream(NON_BLOCKING), upload(&[0; 4]));
    let implicit = CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    // SAFETY: every handle is live.
    unsafe {
        assert_eq!(cuStreamBeginCapture_v2(NULL, RELAXED), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        begin(blocking, RELAXED);
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        assert_eq!(
            cuStreamIsCapturing(NULL, &mut status),
            implicit,
            "asked, not used: nothing is invalidated"
        );
        ok(end(blocking).0);

        begin(blocking, RELAXED);
        assert_eq!(cuMemsetD32Async(data, 1, 4, NULL), implicit);
        assert_eq!(end(blocking).0, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        begin(other, RELAXED);
        ok(cuMemsetD32Async(data, 2, 4, NULL));
        ok(cuStreamSynchronize(NULL));
        ok(end(other).0);
        assert_eq!(download(data, 4), [2; 4], "a non-blocking capture leaves the null stream alone");
    }
}

#[test]
fn captures_begin_and_end_once() {
    let _session = Session::new();
    let stream = stream(NON_BLOCKING);
    let illegal = CUresult::CUDA_ERROR_ILLEGAL_STATE;
    assert_eq!(end(stream), (illegal, std::ptr::null_mut()));
    begin(stream, RELAXED);
    // SAFETY: the handle is live.
    assert_eq!(unsafe { cuStreamBeginCapture_v2(stream, RELAXED) }, illegal);
    let graph = finish(stream);
    assert!(nodes(graph).is_empty());
    let exec = instantiate(graph);
    // SAFETY: every handle is live.
    unsafe {
        ok(cuGraphLaunch(exec, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(cuGraphInstantiateWithFlags(&mut std::ptr::null_mut(), graph, 1 << 20), INVALID_VALUE);
        assert_eq!(cuGraphDestroy(std::ptr::null_mut()), INVALID_HANDLE);
    }
}

#[test]
fn memory_allocated_in_a_capture_belongs_to_the_graph() {
    let _session = Session::new();
    let (stream, out) = (stream(NON_BLOCKING), alloc(4));
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let mut scratch = 0;
        begin(stream, THREAD_LOCAL);
        ok(cuMemAllocAsync(&mut scratch, 4, stream));
        ok(cuMemsetD32Async(scratch, 6, 1, stream));
        ok(cuMemcpyDtoDAsync_v2(out, scratch, 4, stream));
        ok(cuMemFreeAsync(scratch, stream));
        let graph = finish(stream);
        let exec = instantiate(graph);
        for _ in 0..2 {
            ok(cuMemsetD32_v2(out, 0, 1));
            ok(cuGraphLaunch(exec, stream));
            ok(cuStreamSynchronize(stream));
            assert_eq!(download(out, 1), [6]);
        }
        ok(cuGraphDestroy(graph));
        ok(cuGraphExecDestroy(exec));
        assert_eq!(cuMemsetD32_v2(scratch, 0, 1), INVALID_VALUE, "gone with its graph");
    }
}

#[test]
fn an_instantiated_graph_takes_over_new_parameters() {
    let _session = Session::new();
    let (fill, stream, data) = (function(load(KERNELS), c"fill"), stream(NON_BLOCKING), alloc(16));
    let capture = |value: u32, twice: bool| {
        begin(stream, THREAD_LOCAL);
        for _ in 0..1 + u32::from(twice) {
            ok(launch(fill, 1, 4, stream, &[arg(&data), arg(&value), arg(&4_u32)]));
        }
        finish(stream)
    };
    let exec = instantiate(capture(1, false));
    // SAFETY: every handle is live, the structure is plain data.
    unsafe {
        let mut info = std::mem::zeroed::<CUgraphExecUpdateResultInfo>();
        ok(cuGraphExecUpdate_v2(exec, capture(2, false), &mut info));
        assert_eq!(info.result, CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_SUCCESS);
        ok(cuGraphLaunch(exec, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(data, 4), [2; 4]);

        let other = cuGraphExecUpdate_v2(exec, capture(3, true), &mut info);
        assert_eq!(other, CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
        assert_eq!(info.result, CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
        begin(stream, THREAD_LOCAL);
        ok(cuMemsetD32Async(data, 4, 4, stream));
        let memset = finish(stream);
        assert_eq!(
            cuGraphExecUpdate_v2(exec, memset, &mut info),
            CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE
        );
        assert_eq!(info.result, CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED);
        ok(cuGraphLaunch(exec, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(data, 4), [2; 4], "a refused update changes nothing");
    }
}

#[test]
fn graphs_are_built_by_hand() {
    let _session = Session::new();
    let (step, stream, data) = (function(load(KERNELS), c"step"), stream(NON_BLOCKING), alloc(16));
    // SAFETY: every pointer is valid for its function, the structures are plain data.
    unsafe {
        let mut graph = std::ptr::null_mut();
        ok(cuGraphCreate(&mut graph, 0));
        let mut arguments = [arg(&data)];
        let mut kernel: CUDA_KERNEL_NODE_PARAMS = std::mem::zeroed();
        kernel.func = step;
        (kernel.gridDimX, kernel.gridDimY, kernel.gridDimZ) = (1, 1, 1);
        (kernel.blockDimX, kernel.blockDimY, kernel.blockDimZ) = (4, 1, 1);
        kernel.kernelParams = arguments.as_mut_ptr();
        let mut memset: CUDA_MEMSET_NODE_PARAMS = std::mem::zeroed();
        (memset.dst, memset.value, memset.elementSize, memset.width, memset.height) = (data, 2, 4, 4, 1);

        // Added in the wrong order, put right by dependencies.
        let (mut multiply, mut set, mut between) =
            (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        ok(cuGraphAddKernelNode_v2(&mut multiply, graph, std::ptr::null(), 0, &kernel));
        ok(cuGraphAddMemsetNode(&mut set, graph, std::ptr::null(), 0, &memset, std::ptr::null_mut()));
        ok(cuGraphAddEmptyNode(&mut between, graph, &set, 1));
        type AddDependencies =
            unsafe extern "C" fn(CUgraph, *const CUgraphNode, *const CUgraphNode, usize) -> u32;
        let add = gpu().driver_function::<AddDependencies>(c"cuGraphAddDependencies").unwrap();
        assert_eq!(add(graph, &between, &multiply, 1), 0);
        let mut kind = CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
        ok(cuGraphNodeGetType(set, &mut kind));
        assert_eq!(kind, CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMSET);
        let exec = instantiate(graph);
        ok(cuGraphLaunch(exec, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(data, 4), [7; 4]);

        assert_eq!(add(graph, &multiply, &set, 1), 0);
        let circle = cuGraphInstantiateWithFlags(&mut std::ptr::null_mut(), graph, 0);
        assert_eq!(circle, INVALID_VALUE, "set, between, multiply, set");
    }
}

#[test]
fn a_fault_in_a_graph_shows_like_any_other() {
    let _session = Session::new();
    let (stop, stream, data) = (function(load(KERNELS), c"stop"), stream(NON_BLOCKING), upload(&[0; 4]));
    begin(stream, THREAD_LOCAL);
    ok(launch(stop, 1, 1, stream, &[]));
    // SAFETY: every handle is live.
    unsafe {
        ok(cuMemsetD32Async(data, 1, 4, stream));
        let exec = instantiate(finish(stream));
        ok(cuGraphLaunch(exec, stream));
        assert_eq!(cuStreamSynchronize(stream), CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert_eq!(cuGraphLaunch(exec, stream), CUresult::CUDA_ERROR_LAUNCH_FAILED);
    }
}

#[test]
fn a_replay_of_an_unloaded_module_is_found() {
    let _session = Session::new();
    let (module, stream, data) = (load(KERNELS), stream(NON_BLOCKING), upload(&[0; 32]));
    let step = function(module, c"step");
    begin(stream, THREAD_LOCAL);
    ok(launch(step, 1, 32, stream, &[arg(&data)]));
    let exec = instantiate(finish(stream));
    // SAFETY: every handle is live.
    unsafe {
        ok(cuGraphLaunch(exec, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(data, 1), [1], "while it is loaded");
        ok(cuModuleUnload(module));
        ok(cuGraphLaunch(exec, stream));
        assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
    }
    let report = gpu().fault().unwrap();
    assert!(report.contains("kernel step") && report.contains("after cuModuleUnload"), "{report}");
}
