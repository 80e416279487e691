//! Pointers in a capture: cudarc hands a pointer out only by having a stream wait for the events of its
//! memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::stream;
use cudarc::driver::sys::{CUstream_st, CUstreamCaptureStatus};
use cudarc::driver::{CudaContext, CudaStream};

use super::advice::driver_error;
use super::modules::Handle;
use crate::error::Result;

/// Streams of a context on which nothing ever runs, and which last as long as it: a stream that is being
/// captured can't be given the wait, since an event of before the capture would end it.
#[derive(Debug)]
pub(super) struct Asides(Mutex<Vec<Handle<CUstream_st>>>);

/// One of them, for one call at a time.
pub(super) struct Aside<'a> {
    all: &'a Asides,
    pub stream: Arc<CudaStream>,
}

impl Asides {
    /// With one stream, so that captures seldom have to make any.
    pub fn new(context: &CudaContext) -> Result<Self> {
        Ok(Self(Mutex::new(vec![make(context)?])))
    }

    /// One that no capture has drawn in.
    pub fn take(&self, op: &'static str, context: &Arc<CudaContext>) -> Result<Aside<'_>> {
        let mut idle = self.lock();
        for place in 0..idle.len() {
            // SAFETY: the stream is of this context and lives as long.
            let stream = unsafe { context.wrap_borrowed_stream(idle[place].0) };
            if !is_captured(op, &stream)? {
                idle.swap_remove(place);
                return Ok(Aside { all: self, stream });
            }
        }
        // SAFETY: as above.
        let stream = unsafe { context.wrap_borrowed_stream(make(context)?.0) };
        Ok(Aside { all: self, stream })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Handle<CUstream_st>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.all.lock().push(Handle(self.stream.cu_stream()));
    }
}

/// Not by cudarc, which would begin to order streams by events for the sake of this one.
fn make(context: &CudaContext) -> Result<Handle<CUstream_st>> {
    let made = context.bind_to_thread().and_then(|()| stream::create(stream::StreamKind::NonBlocking));
    made.map(Handle).map_err(|error| driver_error("cuda", "making a stream", error))
}

/// Whether work of the stream goes into a graph.
pub(super) fn is_captured(op: &'static str, stream: &CudaStream) -> Result<bool> {
    let status = stream.capture_status();
    let status = status.map_err(|error| driver_error(op, "asking whether the stream is captured", error))?;
    Ok(status != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}
