//! Stream capture: work that becomes nodes of a graph, and the calls that are illegal meanwhile.
//!
//! The rules are those of the CUDA Programming Guide ("Prohibited and Unhandled Operations") and of the
//! driver's documentation of `cuStreamBeginCapture`, `cuStreamEndCapture` and
//! `cuThreadExchangeStreamCaptureMode`: an illegal call returns its code and invalidates the captures
//! concerned; what is captured afterwards returns `CUDA_ERROR_STREAM_CAPTURE_INVALIDATED` until the capture
//! is ended.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::ThreadId;

use super::context::Context;
use super::graph::Graph;
use super::status::{Result, Status};
use super::stream::{Kind, Stream, lock};
use super::work::Work;

/// `CUstreamCaptureMode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    pub fn from_code(code: u32) -> Result<Self> {
        match code {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    pub fn code(self) -> u32 {
        self as u32
    }
}

/// A capture in progress, shared by the streams that take part.
pub struct Capture {
    pub id: u64,
    pub graph: Arc<Graph>,
    mode: Mode,
    thread: ThreadId,
    origin: Weak<Stream>,
    invalid: AtomicBool,
    reached: Mutex<Reached>,
}

/// The streams that take part, by address, and for each the nodes that its next node follows.
type Reached = HashMap<usize, (Weak<Stream>, Vec<usize>)>;

/// Captures in progress, for calls that concern other threads' captures.
static ACTIVE: Mutex<Vec<Weak<Capture>>> = Mutex::new(vec![]);

thread_local! {
    /// `cuThreadExchangeStreamCaptureMode`.
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

pub fn exchange_thread_mode(mode: Mode) -> Mode {
    THREAD_MODE.replace(mode)
}

fn key(stream: &Arc<Stream>) -> usize {
    Arc::as_ptr(stream) as usize
}

fn of(stream: &Stream) -> Option<Arc<Capture>> {
    lock(&stream.capture).clone()
}

impl Capture {
    pub fn invalidate(&self) {
        self.invalid.store(true, Ordering::Release);
    }

    pub fn is_invalid(&self) -> bool {
        self.invalid.load(Ordering::Acquire)
    }

    /// The nodes that the next node of `stream` follows.
    pub fn reached_by(&self, stream: &Arc<Stream>) -> Vec<usize> {
        lock(&self.reached).get(&key(stream)).map(|(_, nodes)| nodes.clone()).unwrap_or_default()
    }

    fn add(&self, stream: &Arc<Stream>, context: &Arc<Context>, work: &Work) -> Result {
        if self.is_invalid() {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        let mut reached = lock(&self.reached);
        let (_, nodes) = reached.entry(key(stream)).or_insert_with(|| (Arc::downgrade(stream), vec![]));
        let node = self.graph.add(context, work.clone(), nodes)?;
        *nodes = vec![node];
        Ok(())
    }

    /// Sets every stream that takes part free.
    fn dissolve(&self) {
        for (stream, _) in lock(&self.reached).values() {
            if let Some(stream) = stream.upgrade() {
                *lock(&stream.capture) = None;
            }
        }
        lock(&ACTIVE).retain(|capture| !std::ptr::eq(capture.as_ptr(), self));
    }
}

/// `cuStreamBeginCapture`.
pub fn begin(stream: &Arc<Stream>, mode: Mode) -> Result {
    if stream.kind == Kind::Legacy {
        return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
    }
    let mut slot = lock(&stream.capture);
    if slot.is_some() {
        return Err(Status::ILLEGAL_STATE);
    }
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    let capture = Arc::new(Capture {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        graph: Graph::new(),
        mode,
        thread: std::thread::current().id(),
        origin: Arc::downgrade(stream),
        invalid: AtomicBool::new(false),
        reached: Mutex::new(HashMap::from([(key(stream), (Arc::downgrade(stream), vec![]))])),
    });
    lock(&ACTIVE).push(Arc::downgrade(&capture));
    *slot = Some(capture);
    Ok(())
}

/// `cuStreamEndCapture`: the graph, if nothing made the capture invalid.
pub fn end(stream: &Arc<Stream>) -> Result<Arc<Graph>> {
    let capture = of(stream).ok_or(Status::ILLEGAL_STATE)?;
    if !std::ptr::eq(capture.origin.as_ptr(), Arc::as_ptr(stream)) {
        capture.invalidate();
        return Err(Status::STREAM_CAPTURE_UNMATCHED);
    }
    if capture.mode != Mode::Relaxed && capture.thread != std::thread::current().id() {
        return Err(Status::STREAM_CAPTURE_WRONG_THREAD);
    }
    capture.dissolve();
    if capture.is_invalid() {
        return Err(Status::STREAM_CAPTURE_INVALIDATED);
    }
    let joined = capture.graph.ancestors(&capture.reached_by(stream));
    let reached = lock(&capture.reached);
    let all_joined = reached.values().flat_map(|(_, nodes)| nodes).all(|node| joined.contains(node));
    if all_joined { Ok(capture.graph.clone()) } else { Err(Status::STREAM_CAPTURE_UNJOINED) }
}

/// `cuStreamIsCapturing`, `cuStreamGetCaptureInfo`: `None` if not. To ask about the legacy stream beside a
/// capture is an error too, but leaves the capture valid.
pub fn status(stream: &Arc<Stream>, context: &Arc<Context>) -> Result<Option<Arc<Capture>>> {
    if captures_beside_legacy(stream, context).is_empty() {
        Ok(of(stream))
    } else {
        Err(Status::STREAM_CAPTURE_IMPLICIT)
    }
}

/// `cuStreamUpdateCaptureDependencies`: what the stream's next node follows.
pub fn set_dependencies(stream: &Arc<Stream>, nodes: &[usize], keep: bool) -> Result {
    let capture = of(stream).ok_or(Status::ILLEGAL_STATE)?;
    let mut reached = lock(&capture.reached);
    let (_, current) = reached.entry(key(stream)).or_insert_with(|| (Arc::downgrade(stream), vec![]));
    if !keep {
        current.clear();
    }
    merge(current, nodes);
    Ok(())
}

fn merge(into: &mut Vec<usize>, nodes: &[usize]) {
    let known: HashSet<usize> = into.iter().copied().collect();
    into.extend(nodes.iter().filter(|node| !known.contains(node)));
}

/// Takes `work` as a node if the stream is being captured. A stream that is not may still be one that must
/// not get work now: the legacy stream beside a capture that it would have to wait for.
pub fn take(stream: &Arc<Stream>, context: &Arc<Context>, work: &Work) -> Result<bool> {
    match of(stream) {
        Some(capture) => capture.add(stream, context, work).map(|()| true),
        None => forbid_legacy(stream, context).map(|()| false),
    }
}

/// The capture of a stream and the nodes it has reached, for an event recorded in it.
pub fn position(stream: &Arc<Stream>) -> Result<Option<(Weak<Capture>, Vec<usize>)>> {
    let Some(capture) = of(stream) else { return Ok(None) };
    if capture.is_invalid() {
        return Err(Status::STREAM_CAPTURE_INVALIDATED);
    }
    Ok(Some((Arc::downgrade(&capture), capture.reached_by(stream))))
}

/// A stream waits for an event of a capture, and so takes part in it.
pub fn join(capture: &Arc<Capture>, stream: &Arc<Stream>, nodes: &[usize]) -> Result {
    if capture.is_invalid() {
        return Err(Status::STREAM_CAPTURE_INVALIDATED);
    }
    if stream.kind == Kind::Legacy {
        capture.invalidate();
        return Err(Status::STREAM_CAPTURE_IMPLICIT);
    }
    // An event outlives its capture, whose streams are free again.
    if !lock(&ACTIVE).iter().any(|active| std::ptr::eq(active.as_ptr(), Arc::as_ptr(capture))) {
        return Err(Status::CAPTURED_EVENT);
    }
    // Held for this block only: `dissolve` takes the two locks in the other order.
    {
        let mut slot = lock(&stream.capture);
        let other = slot.get_or_insert_with(|| capture.clone());
        if !Arc::ptr_eq(other, capture) {
            other.invalidate();
            capture.invalidate();
            return Err(Status::STREAM_CAPTURE_MERGE);
        }
    }
    let mut reached = lock(&capture.reached);
    let (_, current) = reached.entry(key(stream)).or_insert_with(|| (Arc::downgrade(stream), vec![]));
    merge(current, nodes);
    Ok(())
}

/// A captured stream cannot wait for work outside its capture.
pub fn forbid_outside_dependency(stream: &Stream) -> Result {
    match of(stream) {
        None => Ok(()),
        Some(capture) => {
            capture.invalidate();
            Err(Status::STREAM_CAPTURE_ISOLATION)
        }
    }
}

/// The legacy stream would have to wait for blocking streams, which cannot be while one of them is captured.
pub fn forbid_legacy(stream: &Stream, context: &Arc<Context>) -> Result {
    invalidate_all(&captures_beside_legacy(stream, context), Status::STREAM_CAPTURE_IMPLICIT)
}

/// If `stream` is the legacy stream, the captures from blocking streams of its context.
fn captures_beside_legacy(stream: &Stream, context: &Arc<Context>) -> Vec<Arc<Capture>> {
    if stream.kind != Kind::Legacy {
        return vec![];
    }
    let streams = context.lock_streams().all();
    streams.iter().filter(|stream| stream.is_blocking()).filter_map(|stream| of(stream)).collect()
}

/// Neither a captured stream nor, beside it, the legacy stream can be waited for or asked.
pub fn forbid_synchronisation(stream: &Stream, context: &Arc<Context>) -> Result {
    let own: Vec<_> = of(stream).into_iter().collect();
    invalidate_all(&own, Status::STREAM_CAPTURE_UNSUPPORTED)?;
    forbid_legacy(stream, context)
}

/// A context cannot be waited for while one of its streams is captured.
pub fn forbid_context_synchronisation(context: &Arc<Context>) -> Result {
    let streams = context.lock_streams().all();
    let captures: Vec<_> = streams.iter().filter_map(|stream| of(stream)).collect();
    invalidate_all(&captures, Status::STREAM_CAPTURE_UNSUPPORTED)
}

/// Calls that may synchronise or touch global state: allocation, synchronous copies, loading of modules.
pub fn forbid_unsafe_call() -> Result {
    let here = std::thread::current().id();
    let thread_mode = THREAD_MODE.get();
    let concerned: Vec<Arc<Capture>> = lock(&ACTIVE)
        .iter()
        .filter_map(Weak::upgrade)
        .filter(|capture| match (thread_mode, capture.mode) {
            (Mode::Relaxed, _) | (_, Mode::Relaxed) => false,
            (Mode::ThreadLocal, _) | (_, Mode::ThreadLocal) => capture.thread == here,
            (Mode::Global, Mode::Global) => true,
        })
        .collect();
    invalidate_all(&concerned, Status::STREAM_CAPTURE_UNSUPPORTED)
}

/// A stream that takes part in a capture is destroyed.
pub fn abandon(stream: &Arc<Stream>) {
    if let Some(capture) = of(stream) {
        capture.invalidate();
        if std::ptr::eq(capture.origin.as_ptr(), Arc::as_ptr(stream)) {
            capture.dissolve();
        }
    }
}

fn invalidate_all(captures: &[Arc<Capture>], status: Status) -> Result {
    captures.iter().for_each(|capture| capture.invalidate());
    if captures.is_empty() { Ok(()) } else { Err(status) }
}
