//! Streams: queues that execute their work in order, each on a thread of its own.
//!
//! Every piece of work has a [`Ticket`] that is done when the work is. Work waits for the work before it in
//! its stream by standing in the same queue, and for work of other streams by their tickets: those of events
//! it was told to wait for, and those that the legacy stream's rules add (the legacy stream waits for all
//! blocking streams, and they for it).

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use super::capture::{self, Capture};
use super::config;
use super::context::{Context, Streams};
use super::handle::{Handle, Registered, registered};
use super::status::{Result, Status};
use super::work::Work;

/// Tells when a piece of work is done.
#[derive(Default)]
pub struct Ticket {
    done: Mutex<bool>,
    change: Condvar,
}

impl Ticket {
    /// A ticket of work that lies in the past.
    pub fn finished() -> Arc<Self> {
        Arc::new(Self { done: Mutex::new(true), change: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_done(&self) -> bool {
        *self.lock()
    }

    pub fn wait(&self) {
        let mut done = self.lock();
        while !*done {
            done = self.change.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self) {
        *self.lock() = true;
        self.change.notify_all();
    }
}

/// What a stream is in its context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The null stream.
    Legacy,
    /// The default stream of a thread.
    PerThread,
    /// From `cuStreamCreate`; a non-blocking one takes no notice of the legacy stream.
    Created { non_blocking: bool },
}

/// `CUstream`.
pub struct Stream {
    pub context: Weak<Context>,
    pub kind: Kind,
    pub priority: i32,
    /// The queue to its thread, which runs from the first work on.
    queue: Mutex<Option<Sender<Task>>>,
    last: Mutex<Arc<Ticket>>,
    /// Tickets that the next work waits for beside the stream's own order.
    awaited: Mutex<Vec<Arc<Ticket>>>,
    pub capture: Mutex<Option<Arc<Capture>>>,
}

registered!(Stream);

/// Work in a queue. However it ends, its ticket is done then, and `work` is let go before.
struct Task {
    after: Vec<Arc<Ticket>>,
    work: Work,
    _ticket: Completion,
}

/// Finishes its ticket when it is dropped.
struct Completion(Arc<Ticket>);

impl Drop for Completion {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD`.
const LEGACY: usize = 1;
const PER_THREAD: usize = 2;

/// The stream that a handle means in `context`: null and 0x1 the legacy one, 0x2 that of the calling thread.
pub fn resolve(context: &Arc<Context>, handle: usize) -> Result<Arc<Stream>> {
    let stream = match handle {
        0 | LEGACY => context.lock_streams().legacy.clone(),
        PER_THREAD => {
            let thread = std::thread::current().id();
            let make = || Stream::new(Arc::downgrade(context), Kind::PerThread, 0);
            context.lock_streams().per_thread.entry(thread).or_insert_with(make).clone()
        }
        created => Handle::<Stream>::new(created).get()?,
    };
    // A stream of another context is no stream of this one.
    if std::ptr::eq(stream.context.as_ptr(), Arc::as_ptr(context)) {
        Ok(stream)
    } else {
        Err(Status::INVALID_HANDLE)
    }
}

impl Stream {
    pub fn new(context: Weak<Context>, kind: Kind, priority: i32) -> Arc<Self> {
        Arc::new(Self {
            context,
            kind,
            priority,
            queue: Mutex::new(None),
            last: Mutex::new(Ticket::finished()),
            awaited: Mutex::default(),
            capture: Mutex::default(),
        })
    }

    /// `cuStreamCreate`: registers a new stream with its context.
    pub fn create(context: &Arc<Context>, non_blocking: bool, priority: i32) -> usize {
        let stream = Self::new(Arc::downgrade(context), Kind::Created { non_blocking }, priority);
        let mut streams = context.lock_streams();
        streams.created.retain(|stream| stream.strong_count() > 0);
        streams.created.push(Arc::downgrade(&stream));
        Self::registry().insert(stream)
    }

    /// Whether it and the legacy stream wait for each other.
    pub fn is_blocking(&self) -> bool {
        matches!(self.kind, Kind::PerThread | Kind::Created { non_blocking: false })
    }

    pub fn last_ticket(&self) -> Arc<Ticket> {
        lock(&self.last).clone()
    }

    /// The next work waits for `ticket` too.
    pub fn await_ticket(&self, ticket: Arc<Ticket>) {
        if !ticket.is_done() {
            lock(&self.awaited).push(ticket);
        }
    }

    /// Puts work into the stream, or into the graph that is being captured from it.
    pub fn submit(self: &Arc<Self>, context: &Arc<Context>, work: Work) -> Result {
        if capture::take(self, context, &work)? {
            return Ok(());
        }
        // Not even put in the queue: waking the stream's thread costs more than a launch on the host does.
        if matches!(&work, Work::Launch(launch) if !launch.settings.execute) {
            return Ok(());
        }
        self.enqueue(context, work).map(|_| ())
    }

    /// Puts work into the stream and waits until it is done.
    pub fn submit_and_wait(self: &Arc<Self>, context: &Arc<Context>, work: Work) -> Result {
        capture::forbid_synchronisation(self, context)?;
        self.enqueue(context, work)?.wait();
        context.fault.surface()
    }

    /// Waits for all work of the stream and reports its fault.
    pub fn synchronise(self: &Arc<Self>, context: &Arc<Context>) -> Result {
        capture::forbid_synchronisation(self, context)?;
        let (last, awaited) = {
            let streams = context.lock_streams();
            let mut awaited = lock(&self.awaited).clone();
            awaited.extend(self.legacy_tickets(&streams));
            (self.last_ticket(), awaited)
        };
        last.wait();
        awaited.iter().for_each(|ticket| ticket.wait());
        context.fault.surface()
    }

    /// Whether all work of the stream is done.
    pub fn is_idle(&self) -> bool {
        self.last_ticket().is_done() && lock(&self.awaited).iter().all(|ticket| ticket.is_done())
    }

    /// Enqueues work behind everything that it must wait for; gives its ticket.
    pub fn enqueue(self: &Arc<Self>, context: &Arc<Context>, work: Work) -> Result<Arc<Ticket>> {
        let streams = context.lock_streams();
        let mut after = std::mem::take(&mut *lock(&self.awaited));
        after.extend(self.legacy_tickets(&streams));
        let ticket = Arc::new(Ticket::default());
        let mut queue = lock(&self.queue);
        let sender = match &*queue {
            Some(sender) => sender,
            None => queue.insert(start_worker(context)?),
        };
        let task = Task { after, work, _ticket: Completion(ticket.clone()) };
        // The worker ends only when this sender is dropped.
        sender.send(task).map_err(|_| Status::UNKNOWN)?;
        *lock(&self.last) = ticket.clone();
        Ok(ticket)
    }

    /// What the rules of the legacy stream make this stream wait for.
    fn legacy_tickets(&self, streams: &Streams) -> Vec<Arc<Ticket>> {
        let mut tickets = match self.kind {
            Kind::Legacy => streams
                .all()
                .iter()
                .filter(|stream| stream.is_blocking())
                .flat_map(|stream| {
                    lock(&stream.awaited).iter().cloned().chain([stream.last_ticket()]).collect::<Vec<_>>()
                })
                .collect(),
            _ if self.is_blocking() => vec![streams.legacy.last_ticket()],
            _ => vec![],
        };
        tickets.retain(|ticket| !ticket.is_done());
        tickets
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread that executes a stream's work until the stream is gone and its queue empty.
fn start_worker(context: &Arc<Context>) -> Result<Sender<Task>> {
    let (sender, queue) = channel::<Task>();
    // The context must live as long as work in it; a weak reference held between two tasks lets it go when
    // idle.
    let context = Arc::downgrade(context);
    let work = move || {
        // What the work holds (a module, a graph's memory) is let go by the time that it counts as done.
        for task in queue {
            task.after.iter().for_each(|ticket| ticket.wait());
            std::thread::sleep(config::delay());
            if let Some(context) = context.upgrade() {
                task.work.perform(&context);
            }
        }
    };
    let started = std::thread::Builder::new().name("vgpu-stream".into()).spawn(work);
    started.map(|_| sender).map_err(|_| Status::OPERATING_SYSTEM)
}
