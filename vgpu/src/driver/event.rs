//! Events: marks in a stream that can be waited for and timed.

use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use super::capture::{self, Capture};
use super::context::Context;
use super::handle::registered;
use super::status::{Result, Status};
use super::stream::{Stream, Ticket, lock};
use super::work::Work;

pub const BLOCKING_SYNC: u32 = 1;
pub const DISABLE_TIMING: u32 = 2;
pub const INTERPROCESS: u32 = 4;

/// `CUevent`.
pub struct Event {
    pub context: Weak<Context>,
    pub timing: bool,
    state: Mutex<State>,
}

registered!(Event);

/// What the event was last recorded as.
#[derive(Clone)]
enum State {
    Never,
    Recorded {
        mark: Arc<Mark>,
        ticket: Arc<Ticket>,
    },
    /// In a stream that was being captured: the nodes that the stream had reached.
    Captured {
        capture: Weak<Capture>,
        nodes: Vec<usize>,
    },
}

/// The moment at which a stream passed an event.
#[derive(Default)]
pub struct Mark(OnceLock<Instant>);

impl Mark {
    pub fn pass(&self) {
        let _ = self.0.set(Instant::now());
    }
}

impl Event {
    pub fn new(context: &Arc<Context>, flags: u32) -> Result<Arc<Self>> {
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING | INTERPROCESS) != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if flags & INTERPROCESS != 0 {
            // Only possible without timing; and there is no other process to share the device with.
            let asked_wrongly = flags & DISABLE_TIMING == 0;
            return Err(if asked_wrongly { Status::INVALID_VALUE } else { Status::NOT_SUPPORTED });
        }
        let timing = flags & DISABLE_TIMING == 0;
        Ok(Arc::new(Self { context: Arc::downgrade(context), timing, state: Mutex::new(State::Never) }))
    }

    fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// `cuEventRecord`.
    pub fn record(&self, context: &Arc<Context>, stream: &Arc<Stream>) -> Result {
        if !std::ptr::eq(self.context.as_ptr(), Arc::as_ptr(context)) {
            return Err(Status::INVALID_HANDLE);
        }
        if let Some((capture, nodes)) = capture::position(stream)? {
            *lock(&self.state) = State::Captured { capture, nodes };
            return Ok(());
        }
        capture::forbid_legacy(stream, context)?;
        let mark = Arc::new(Mark::default());
        let ticket = stream.enqueue(context, Work::Record(mark.clone()))?;
        *lock(&self.state) = State::Recorded { mark, ticket };
        Ok(())
    }

    /// `cuStreamWaitEvent`: what `stream` gets from now on waits for the event.
    pub fn hold(&self, context: &Arc<Context>, stream: &Arc<Stream>) -> Result {
        match self.state() {
            State::Never => Ok(()),
            State::Recorded { ticket, .. } => {
                capture::forbid_outside_dependency(stream)?;
                capture::forbid_legacy(stream, context)?;
                stream.await_ticket(ticket);
                Ok(())
            }
            State::Captured { capture, nodes } => {
                let capture = capture.upgrade().ok_or(Status::CAPTURED_EVENT)?;
                capture::join(&capture, stream, &nodes)
            }
        }
    }

    /// The ticket of the last record, `None` if there was none; an event of a capture has none and
    /// invalidates it.
    fn ticket(&self) -> Result<Option<Arc<Ticket>>> {
        match self.state() {
            State::Never => Ok(None),
            State::Recorded { ticket, .. } => Ok(Some(ticket)),
            State::Captured { capture, .. } => {
                if let Some(capture) = capture.upgrade() {
                    capture.invalidate();
                }
                Err(Status::CAPTURED_EVENT)
            }
        }
    }

    /// `cuEventSynchronize`.
    pub fn synchronise(&self, context: &Context) -> Result {
        if let Some(ticket) = self.ticket()? {
            ticket.wait();
            context.fault.surface()?;
        }
        Ok(())
    }

    /// `cuEventQuery`.
    pub fn query(&self, context: &Context) -> Result {
        match self.ticket()? {
            Some(ticket) if !ticket.is_done() => Err(Status::NOT_READY),
            Some(_) => context.fault.surface(),
            None => Ok(()),
        }
    }

    /// `cuEventElapsedTime`: milliseconds from `self` to `end`.
    pub fn elapsed(&self, end: &Self) -> Result<f32> {
        let (start, end) = (self.moment()?, end.moment()?);
        let seconds = if end >= start { (end - start).as_secs_f64() } else { -(start - end).as_secs_f64() };
        Ok((seconds * 1e3) as f32)
    }

    fn moment(&self) -> Result<Instant> {
        if !self.timing {
            return Err(Status::INVALID_HANDLE);
        }
        match self.state() {
            State::Never => Err(Status::INVALID_HANDLE),
            State::Captured { .. } => Err(Status::CAPTURED_EVENT),
            State::Recorded { mark, ticket } => {
                if !ticket.is_done() {
                    return Err(Status::NOT_READY);
                }
                // Done but not passed: the context faulted before.
                mark.0.get().copied().ok_or(Status::LAUNCH_FAILED)
            }
        }
    }
}
