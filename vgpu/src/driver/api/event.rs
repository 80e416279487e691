//! Events.

use std::sync::Arc;

use crate::driver::abi::Out;
use crate::driver::context::{Context, current};
use crate::driver::event::Event;
use crate::driver::export;
use crate::driver::handle::{Handle, Registered};
use crate::driver::status::{Result, Status};
use crate::driver::stream::resolve;

export! {
    fn cuEventCreate(handle: Out<usize>, flags: u32) {
        handle.check()?;
        let context = current()?;
        handle.set(Event::registry().insert(Event::new(&context, flags)?))
    }

    fn cuEventDestroy(handle: Handle<Event>) {
        destroy(handle)
    }

    fn cuEventDestroy_v2(handle: Handle<Event>) {
        destroy(handle)
    }

    fn cuEventRecord(event: Handle<Event>, stream: usize) {
        record(event, stream, 0)
    }

    fn cuEventRecordWithFlags(event: Handle<Event>, stream: usize, flags: u32) {
        record(event, stream, flags)
    }

    fn cuEventQuery(event: Handle<Event>) {
        let (event, context) = with_context(event)?;
        event.query(&context)
    }

    fn cuEventSynchronize(event: Handle<Event>) {
        let (event, context) = with_context(event)?;
        event.synchronise(&context)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle<Event>, end: Handle<Event>) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle<Event>, end: Handle<Event>) {
        elapsed(milliseconds, start, end)
    }
}

/// Events may be asked about and waited for from a thread whose current context is another.
fn with_context(event: Handle<Event>) -> Result<(Arc<Event>, Arc<Context>)> {
    current()?;
    let event = event.get()?;
    let context = event.context.upgrade().ok_or(Status::CONTEXT_IS_DESTROYED)?;
    context.fault.check()?;
    Ok((event, context))
}

fn destroy(handle: Handle<Event>) -> Result {
    current()?;
    handle.remove().map(|_| ())
}

fn record(event: Handle<Event>, stream: usize, flags: u32) -> Result {
    let context = current()?;
    let event = event.get()?;
    let stream = resolve(&context, stream)?;
    match flags {
        0 => event.record(&context, &stream),
        1 => Err(Status::NOT_SUPPORTED), // an event node that work outside the graph can wait for
        _ => Err(Status::INVALID_VALUE),
    }
}

fn elapsed(milliseconds: Out<f32>, start: Handle<Event>, end: Handle<Event>) -> Result {
    milliseconds.check()?;
    current()?;
    milliseconds.set(start.get()?.elapsed(&*end.get()?)?)
}
