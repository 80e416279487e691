//! Contexts: the current one of each thread, their streams, their sticky errors, and their end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::ThreadId;

use super::device::{Device, device};
use super::event::Event;
use super::graph::GraphExec;
use super::handle::{Handle, Registered, registered};
use super::module::{Function, Module};
use super::status::{Result, Status};
use super::stream::{Kind, Stream};

/// `CUcontext`.
pub struct Context {
    pub handle: usize,
    pub id: u64,
    pub device: Arc<Device>,
    pub primary: bool,
    pub flags: AtomicU32,
    pub limits: Limits,
    /// `CUfunc_cache`: kept to be given back, without effect.
    pub cache_config: AtomicU32,
    pub shared_config: AtomicU32,
    pub fault: FaultState,
    /// Taken to submit work: work of different streams is ordered against the legacy stream under it.
    pub streams: Mutex<Streams>,
}

registered!(Context, unknown: INVALID_CONTEXT);

/// The streams of a context.
pub struct Streams {
    pub legacy: Arc<Stream>,
    pub per_thread: HashMap<ThreadId, Arc<Stream>>,
    pub created: Vec<Weak<Stream>>,
}

impl Streams {
    /// Every stream that still has work or may get some.
    pub fn all(&self) -> Vec<Arc<Stream>> {
        let mut all = vec![self.legacy.clone()];
        all.extend(self.per_thread.values().cloned());
        all.extend(self.created.iter().filter_map(Weak::upgrade));
        all
    }
}

/// Values of `cuCtxSetLimit`, by `CUlimit`: kept to be given back.
pub struct Limits([AtomicU64; 7]);

impl Limits {
    fn new() -> Self {
        // Stack, printf buffer, heap, synchronisation depth, pending launches, L2 fetch granularity,
        // persisting L2.
        Self([1024, 1 << 20, 8 << 20, 2, 2048, 64, 0].map(AtomicU64::new))
    }

    pub fn get(&self, limit: u32) -> Result<u64> {
        let limit = self.0.get(limit as usize).ok_or(Status::UNSUPPORTED_LIMIT)?;
        Ok(limit.load(Ordering::Relaxed))
    }

    pub fn set(&self, limit: u32, value: u64) -> Result {
        self.0.get(limit as usize).ok_or(Status::UNSUPPORTED_LIMIT)?.store(value, Ordering::Relaxed);
        Ok(())
    }
}

/// What a kernel's fault leaves behind: pending until a call synchronises, then the answer to every call.
#[derive(Default)]
pub struct FaultState {
    pending: AtomicU32,
    sticky: AtomicU32,
}

impl FaultState {
    /// The first fault counts: what follows it is never executed.
    pub fn raise(&self, status: Status) {
        let _ = self.pending.compare_exchange(0, status.0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether the context executes nothing any more.
    pub fn raised(&self) -> bool {
        self.pending.load(Ordering::Acquire) != 0
    }

    /// For calls that have waited for work: from now on every call sees its fault.
    pub fn surface(&self) -> Result {
        let pending = self.pending.load(Ordering::Acquire);
        self.sticky.store(pending, Ordering::Release);
        self.check()
    }

    pub fn check(&self) -> Result {
        match self.sticky.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Status(code)),
        }
    }
}

impl Context {
    pub fn new(device: &Arc<Device>, flags: u32, primary: bool) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let (_, context) = Self::registry().insert_with(|handle| {
            Arc::new_cyclic(|context: &Weak<Self>| Self {
                handle,
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                device: device.clone(),
                primary,
                flags: AtomicU32::new(flags),
                limits: Limits::new(),
                cache_config: AtomicU32::new(0),
                shared_config: AtomicU32::new(0),
                fault: FaultState::default(),
                streams: Mutex::new(Streams {
                    legacy: Stream::new(context.clone(), Kind::Legacy, 0),
                    per_thread: HashMap::new(),
                    created: vec![],
                }),
            })
        });
        context
    }

    pub fn lock_streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all work of the context and reports its fault.
    pub fn synchronise(&self) -> Result {
        self.drain();
        self.fault.surface()
    }

    /// Waits for all work of the context.
    fn drain(&self) {
        let streams = self.lock_streams().all();
        for stream in streams {
            stream.last_ticket().wait();
        }
    }

    /// Ends the context: everything in it is freed and every handle of it is unknown from now on.
    pub fn destroy(self: &Arc<Self>) {
        self.drain();
        let elsewhere = |owner: &Weak<Self>| !std::ptr::eq(owner.as_ptr(), Arc::as_ptr(self));
        GraphExec::registry().retain(|exec| elsewhere(&exec.context));
        Function::registry().retain(|function| elsewhere(&function.context));
        Module::registry().retain(|module| elsewhere(&module.context));
        Event::registry().retain(|event| elsewhere(&event.context));
        Stream::registry().retain(|stream| elsewhere(&stream.context));
        self.device.allocations.release_all(self, &self.device.memory);
        Self::registry().remove(self.handle);
    }
}

thread_local! {
    /// Handles of the contexts of this thread, the current one last.
    static STACK: RefCell<Vec<usize>> = const { RefCell::new(vec![]) };
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is running a host function for a stream.
pub fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Marks this thread as running a host function while `call` runs.
pub fn as_callback(call: impl FnOnce()) {
    IN_CALLBACK.set(true);
    call();
    IN_CALLBACK.set(false);
}

/// Uses this thread's stack. A thread that is ending, in whose last moments objects are dropped, has none any
/// more.
fn with_stack<T>(use_it: impl FnOnce(&mut Vec<usize>) -> T) -> Result<T> {
    device()?;
    STACK.try_with(|stack| use_it(&mut stack.borrow_mut())).map_err(|_| Status::DEINITIALIZED)
}

/// Handle of the current context, 0 for none, without a look at it.
pub fn current_handle() -> Result<usize> {
    with_stack(|stack| stack.last().copied().unwrap_or(0))
}

/// The current context, faulted or not.
pub fn current_even_if_faulted() -> Result<Arc<Context>> {
    match current_handle()? {
        0 => Err(Status::INVALID_CONTEXT),
        handle => Context::registry().find(handle).ok_or(Status::CONTEXT_IS_DESTROYED),
    }
}

/// The current context, as nearly every call needs it: alive, and without a sticky error.
pub fn current() -> Result<Arc<Context>> {
    let context = current_even_if_faulted()?;
    context.fault.check()?;
    Ok(context)
}

/// Replaces the top of this thread's stack; 0 removes it.
pub fn set_current(handle: usize) -> Result {
    device()?;
    if handle != 0 {
        Handle::<Context>::new(handle).get()?;
    }
    with_stack(|stack| {
        stack.pop();
        if handle != 0 {
            stack.push(handle);
        }
    })
}

pub fn push_current(handle: usize) -> Result {
    device()?;
    Handle::<Context>::new(handle).get()?;
    with_stack(|stack| stack.push(handle))
}

pub fn pop_current() -> Result<usize> {
    with_stack(Vec::pop)?.ok_or(Status::INVALID_CONTEXT)
}

/// Takes a destroyed context off this thread's stack if it is on top of it.
pub fn forget_current(handle: usize) -> Result {
    with_stack(|stack| {
        stack.pop_if(|top| *top == handle);
    })
}
