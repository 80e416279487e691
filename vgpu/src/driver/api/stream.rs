//! Streams and their capture.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::context::{GREATEST_PRIORITY, LEAST_PRIORITY};
use crate::driver::abi::{HostFunction, In, Out, StreamCallback};
use crate::driver::allocation::Kind as MemoryKind;
use crate::driver::capture::{self, Capture, Mode};
use crate::driver::context::{Context, current};
use crate::driver::event::Event;
use crate::driver::export;
use crate::driver::graph::{Graph, Node};
use crate::driver::handle::{Handle, Registered};
use crate::driver::status::{Result, Status};
use crate::driver::stream::{Kind, Stream, resolve};
use crate::driver::work::{Data, HostCall, Work};

export! {
    fn cuStreamCreate(handle: Out<usize>, flags: u32) {
        create(handle, flags, 0)
    }

    fn cuStreamCreateWithPriority(handle: Out<usize>, flags: u32, priority: c_int) {
        create(handle, flags, priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY))
    }

    fn cuStreamDestroy(handle: usize) {
        destroy(handle)
    }

    fn cuStreamDestroy_v2(handle: usize) {
        destroy(handle)
    }

    fn cuStreamSynchronize(handle: usize) {
        let context = current()?;
        resolve(&context, handle)?.synchronise(&context)
    }

    fn cuStreamQuery(handle: usize) {
        let context = current()?;
        let stream = resolve(&context, handle)?;
        capture::forbid_synchronisation(&stream, &context)?;
        if stream.is_idle() { context.fault.surface() } else { Err(Status::NOT_READY) }
    }

    fn cuStreamWaitEvent(handle: usize, event: Handle<Event>, flags: u32) {
        let context = current()?;
        let stream = resolve(&context, handle)?;
        match flags {
            0 => event.get()?.hold(&context, &stream),
            1 => Err(Status::NOT_SUPPORTED), // an event node that waits for work outside the graph
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn cuStreamGetFlags(handle: usize, flags: Out<u32>) {
        let stream = resolve(&current()?, handle)?;
        flags.set(u32::from(matches!(stream.kind, Kind::Created { non_blocking: true })))
    }

    fn cuStreamGetPriority(handle: usize, priority: Out<c_int>) {
        priority.set(resolve(&current()?, handle)?.priority)
    }

    fn cuStreamGetId(handle: usize, id: Out<u64>) {
        let stream = resolve(&current()?, handle)?;
        id.set(Arc::as_ptr(&stream) as u64)
    }

    fn cuStreamGetCtx(handle: usize, context: Out<usize>) {
        let current = current()?;
        resolve(&current, handle)?;
        context.set(current.handle)
    }

    fn cuStreamGetCtx_v2(handle: usize, context: Out<usize>, green: Out<usize>) {
        let current = current()?;
        resolve(&current, handle)?;
        green.set_if_wanted(0);
        context.set(current.handle)
    }

    fn cuStreamGetDevice(handle: usize, ordinal: Out<c_int>) {
        resolve(&current()?, handle)?;
        ordinal.set(0)
    }

    fn cuStreamAddCallback(handle: usize, function: Option<StreamCallback>, data: *mut c_void, flags: u32) {
        let context = current()?;
        let stream = resolve(&context, handle)?;
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let function = function.ok_or(Status::INVALID_VALUE)?;
        capture::forbid_synchronisation(&stream, &context)?;
        stream.submit(&context, Work::Callback(function, handle, Data(data)))
    }

    fn cuLaunchHostFunc(handle: usize, function: Option<HostFunction>, data: *mut c_void) {
        let context = current()?;
        let stream = resolve(&context, handle)?;
        let function = function.ok_or(Status::INVALID_VALUE)?;
        stream.submit(&context, Work::Host(HostCall { function, data: Data(data) }))
    }

    /// Managed memory can be used from every stream and from the host at any time, so there is nothing to
    /// attach.
    fn cuStreamAttachMemAsync(handle: usize, address: u64, bytes: usize, flags: u32) {
        const SINGLE: u32 = 4;
        let context = current()?;
        let stream = resolve(&context, handle)?;
        if !matches!(flags, 1 | 2 | SINGLE) || flags == SINGLE && stream.kind == Kind::Legacy {
            return Err(Status::INVALID_VALUE);
        }
        let record = context.device.allocations.at(address).ok_or(Status::INVALID_VALUE)?;
        let whole = bytes == 0 || bytes as u64 == record.bytes;
        if whole && matches!(record.kind, MemoryKind::Managed) { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }

    fn cuStreamBeginCapture(handle: usize) {
        capture::begin(&resolve(&current()?, handle)?, Mode::Global)
    }

    fn cuStreamBeginCapture_v2(handle: usize, mode: u32) {
        capture::begin(&resolve(&current()?, handle)?, Mode::from_code(mode)?)
    }

    fn cuStreamEndCapture(handle: usize, graph: Out<usize>) {
        graph.check()?;
        let ended = resolve(&current()?, handle).and_then(|stream| capture::end(&stream));
        match ended {
            Ok(captured) => graph.set(Graph::registry().insert(captured)),
            Err(status) => {
                graph.set(0)?;
                Err(status)
            }
        }
    }

    fn cuStreamIsCapturing(handle: usize, status: Out<u32>) {
        let context = current()?;
        let stream = resolve(&context, handle)?;
        status.set(capture_status(capture::status(&stream, &context)?.as_deref()))
    }

    fn cuStreamGetCaptureInfo(handle: usize, status: Out<u32>, id: Out<u64>) {
        capture_info(handle, status, id).map(|_| ())
    }

    fn cuStreamGetCaptureInfo_v2(
        handle: usize,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<usize>,
        dependencies: Out<*const usize>,
        count: Out<usize>,
    ) {
        let captured = capture_info(handle, status, id)?;
        capture_graph(captured, graph, dependencies, count)
    }

    fn cuStreamGetCaptureInfo_v3(
        handle: usize,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<usize>,
        dependencies: Out<*const usize>,
        edges: Out<*const c_void>,
        count: Out<usize>,
    ) {
        let captured = capture_info(handle, status, id)?;
        edges.set_if_wanted(std::ptr::null());
        capture_graph(captured, graph, dependencies, count)
    }

    fn cuStreamUpdateCaptureDependencies(handle: usize, nodes: In<usize>, count: usize, flags: u32) {
        let context = current()?;
        let stream = resolve(&context, handle)?;
        let nodes: Result<Vec<usize>> =
            nodes.list(count)?.into_iter().map(|node| Ok(Handle::<Node>::new(node).get()?.index)).collect();
        match flags {
            0 => capture::set_dependencies(&stream, &nodes?, true),
            1 => capture::set_dependencies(&stream, &nodes?, false),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        let new = Mode::from_code(mode.get()?)?;
        mode.set(capture::exchange_thread_mode(new).code())
    }
}

fn create(handle: Out<usize>, flags: u32, priority: c_int) -> Result {
    handle.check()?;
    let context = current()?;
    match flags {
        0 | 1 => handle.set(Stream::create(&context, flags == 1, priority)),
        _ => Err(Status::INVALID_VALUE),
    }
}

/// The stream is gone at once; its thread finishes what it has.
fn destroy(handle: usize) -> Result {
    let context = current()?;
    let stream = resolve(&context, handle)?;
    if !matches!(stream.kind, Kind::Created { .. }) {
        return Err(Status::INVALID_HANDLE);
    }
    capture::abandon(&stream);
    Handle::<Stream>::new(handle).remove().map(|_| ())
}

/// `CUstreamCaptureStatus`.
fn capture_status(capture: Option<&Capture>) -> u32 {
    match capture {
        None => 0,
        Some(capture) if capture.is_invalid() => 2,
        Some(_) => 1,
    }
}

type Captured = Option<(Arc<Capture>, Arc<Stream>, Arc<Context>)>;

fn capture_info(handle: usize, status: Out<u32>, id: Out<u64>) -> Result<Captured> {
    let context = current()?;
    let stream = resolve(&context, handle)?;
    let capture = capture::status(&stream, &context)?;
    status.set(capture_status(capture.as_deref()))?;
    let valid = capture.filter(|capture| !capture.is_invalid());
    if let Some(capture) = &valid {
        id.set_if_wanted(capture.id);
    }
    Ok(valid.map(|capture| (capture, stream, context)))
}

/// The graph so far cannot be handed out before the capture ends, nor can a list that would have to live on.
fn capture_graph(
    captured: Captured,
    graph: Out<usize>,
    dependencies: Out<*const usize>,
    count: Out<usize>,
) -> Result {
    if captured.is_some() && !(graph.is_null() && dependencies.is_null() && count.is_null()) {
        return Err(Status::NOT_SUPPORTED);
    }
    Ok(())
}
