//! What streams and graphs execute.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::abi::{HostAddress, HostFunction, StreamCallback};
use super::context::{Context, as_callback};
use super::counters;
use super::event::Mark;
use super::graph::Plan;
use super::launch::Launch;
use super::status::Status;
use crate::memory::{GlobalMemory, MemoryError};

/// One piece of work.
#[derive(Clone)]
pub enum Work {
    Launch(Arc<Launch>),
    Transfer(Transfer),
    Fill(Fill),
    Host(HostCall),
    /// `cuStreamAddCallback`, with the stream's handle.
    Callback(StreamCallback, usize, Data),
    Record(Arc<Mark>),
    /// The end of stream-ordered memory.
    Free(u64),
    Graph(Arc<Plan>),
    /// Only an order between other work.
    Empty,
}

/// A pointer of the caller's that its own function gets back.
#[derive(Clone, Copy, PartialEq)]
pub struct Data(pub *mut c_void);

// SAFETY: the pointer is never dereferenced here, and the caller hands it over to be used on a driver's
// thread.
unsafe impl Send for Data {}
// SAFETY: as above.
unsafe impl Sync for Data {}

/// `cuLaunchHostFunc`.
#[derive(Clone, Copy)]
pub struct HostCall {
    pub function: HostFunction,
    pub data: Data,
}

/// One end of a transfer.
#[derive(Clone)]
pub enum Place {
    Device(u64),
    /// The caller's memory, pinned memory included.
    Host(HostAddress),
    /// A copy of the caller's memory, taken when the transfer was submitted.
    Staged(Arc<[u8]>),
}

/// A copy of `rows` rows of `width` bytes.
#[derive(Clone)]
pub struct Transfer {
    pub destination: Place,
    pub destination_pitch: usize,
    pub source: Place,
    pub source_pitch: usize,
    pub width: usize,
    pub rows: usize,
}

/// A memset of `rows` rows of `count` elements.
#[derive(Clone, Copy, PartialEq)]
pub struct Fill {
    pub destination: u64,
    pub pitch: usize,
    pub value: u32,
    pub element_bytes: usize,
    pub count: usize,
    pub rows: usize,
}

impl Work {
    /// Executes it. After a fault in its context nothing is executed any more, but memory is still given
    /// back.
    pub fn perform(&self, context: &Context) {
        if context.fault.raised() && !matches!(self, Self::Free(_)) {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| self.run(context))).is_err() {
            eprintln!("vgpu: internal error in {} (the panic above)", self.describe());
            context.fault.raise(Status::UNKNOWN);
        }
    }

    fn run(&self, context: &Context) {
        let memory = &context.device.memory;
        match self {
            Self::Launch(launch) => run_kernel(launch, context),
            Self::Transfer(transfer) => self.report(transfer.run(memory), context),
            Self::Fill(fill) => self.report(fill.run(memory), context),
            // SAFETY: the caller passed the function to be called with this pointer.
            Self::Host(call) => as_callback(|| unsafe { (call.function)(call.data.0) }),
            Self::Callback(function, stream, data) => {
                // SAFETY: the caller passed the function to be called with this stream and pointer.
                as_callback(|| unsafe { function(*stream, 0, data.0) });
            }
            Self::Record(mark) => mark.pass(),
            Self::Free(address) => self.report(memory.free(*address), context),
            Self::Graph(plan) => plan.steps.iter().for_each(|work| work.perform(context)),
            Self::Empty => {}
        }
    }

    fn describe(&self) -> &'static str {
        match self {
            Self::Launch(_) => "a kernel",
            Self::Transfer(_) => "a copy",
            Self::Fill(_) => "a memset",
            Self::Host(_) | Self::Callback(..) => "a host function",
            Self::Record(_) => "an event",
            Self::Free(_) => "a stream-ordered free",
            Self::Graph(_) => "a graph",
            Self::Empty => "an empty node",
        }
    }

    /// Memory was there when the work was submitted and is gone now: freed too early.
    fn report(&self, outcome: Result<(), MemoryError>, context: &Context) {
        if let Err(error) = outcome {
            gone_too_early(&format!("{}: {error}", self.describe()), context);
        }
    }
}

/// What the work needs is gone: hardware would go where it was.
fn gone_too_early(finding: &str, context: &Context) {
    eprintln!("vgpu: {finding} (CUresult {})", Status::ILLEGAL_ADDRESS.0);
    counters::set_last_fault(finding.to_owned());
    context.fault.raise(Status::ILLEGAL_ADDRESS);
}

fn run_kernel(launch: &Launch, context: &Context) {
    if launch.function.is_unloaded() {
        let name = launch.function.name.to_string_lossy();
        let finding = format!(
            "a launch of kernel {name}, queued or in a graph, begins after cuModuleUnload of its module"
        );
        return gone_too_early(&finding, context);
    }
    // Of a graph that was captured so.
    if !launch.settings.execute {
        return;
    }
    match launch.run(&context.device) {
        Ok(counted) => counters::record(counted),
        Err(fault) => {
            let report = fault.to_string();
            eprint!("{report}");
            counters::set_last_fault(report);
            context.fault.raise(Status(fault.code()));
        }
    }
}

impl Transfer {
    fn run(&self, memory: &GlobalMemory) -> Result<(), MemoryError> {
        (0..self.rows).try_for_each(|row| {
            let source = self.source.plus(row * self.source_pitch);
            let destination = self.destination.plus(row * self.destination_pitch);
            copy_row(memory, &destination, &source, self.width)
        })
    }
}

fn copy_row(memory: &GlobalMemory, destination: &At, source: &At, width: usize) -> Result<(), MemoryError> {
    match (destination, source) {
        (At::Device(to), At::Device(from)) => memory.copy(*to, *from, width as u64),
        // SAFETY: the caller keeps its memory readable until the copy is done.
        (At::Device(to), At::Host(from)) => memory.write(*to, &unsafe { from.read(width) }),
        (At::Device(to), At::Bytes(from)) => memory.write(*to, &from[..width]),
        (At::Host(to), At::Device(from)) => {
            let mut row = vec![0; width];
            memory.read(*from, &mut row)?;
            // SAFETY: the caller keeps its memory writable until the copy is done.
            unsafe { to.write(&row) };
            Ok(())
        }
        (At::Host(to), At::Host(from)) => {
            // SAFETY: the caller keeps both readable and writable until the copy is done.
            unsafe { to.write(&from.read(width)) };
            Ok(())
        }
        (At::Host(to), At::Bytes(from)) => {
            // SAFETY: the caller keeps its memory writable until the copy is done.
            unsafe { to.write(&from[..width]) };
            Ok(())
        }
        (At::Bytes(_), _) => unreachable!("a staged copy is a source"),
    }
}

/// A place within a [`Place`].
enum At<'a> {
    Device(u64),
    Host(HostAddress),
    Bytes(&'a [u8]),
}

impl Place {
    fn plus(&self, bytes: usize) -> At<'_> {
        match self {
            Self::Device(address) => At::Device(address + bytes as u64),
            Self::Host(address) => At::Host(address.plus(bytes)),
            Self::Staged(copy) => At::Bytes(&copy[bytes..]),
        }
    }
}

impl Fill {
    fn run(&self, memory: &GlobalMemory) -> Result<(), MemoryError> {
        let pattern = &self.value.to_le_bytes()[..self.element_bytes];
        (0..self.rows as u64).try_for_each(|row| {
            memory.fill(self.destination + row * self.pitch as u64, pattern, self.count as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::device::{device, initialise};
    use super::super::launch::{Arguments, Shape};
    use super::super::module::{Function, Module};
    use super::super::stream::Stream;
    use super::*;
    use crate::driver::abi::In;
    use crate::driver::handle::{Handle, Registered};
    use crate::program::code::Op;
    use crate::program::{self, Kernel};

    const NOTHING: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() {\n.reg .b32 %r<2>;\nmov.u32 %r1, 1;\nret;\n}";

    /// The kernel, with an instruction that panics in the place of its first.
    fn sabotaged(memory: &Arc<GlobalMemory>) -> Arc<Kernel> {
        let mut kernel = program::Module::load(NOTHING, memory).unwrap().kernel("k").unwrap();
        let code = Arc::get_mut(&mut kernel).expect("its module is gone").code.as_mut().unwrap();
        let Op::Lanes { run, .. } = &mut code.instructions[0].op else {
            panic!("not an instruction of lanes")
        };
        *run = Box::new(|_, _, _| panic!("sabotage"));
        kernel
    }

    #[test]
    fn a_panic_of_the_engine_is_a_sticky_error() {
        initialise().unwrap();
        let context = Context::new(device().unwrap(), 0, false);
        let module = Module::load(&context, NOTHING).map_err(|refusal| refusal.log).unwrap();
        let handle = Handle::<Module>::new(module).get().unwrap().function("k").unwrap();
        let mut function = Function::registry().remove(handle).unwrap();
        Arc::get_mut(&mut function).expect("it has no handle any more").kernel =
            sabotaged(&context.device.memory);
        let arguments =
            Arguments { pointers: In::from_raw(std::ptr::null()), extra: In::from_raw(std::ptr::null()) };
        let shape = Shape { grid: [500, 1, 1], block: [32, 1, 1], dynamic_shared: 0, cooperative: false };
        let mut launch = Launch::new(&context.device, function, shape, &arguments).unwrap();
        launch.settings.threads = 4;

        let stream = Stream::create(&context, true, 0);
        let stream = Handle::<Stream>::new(stream).get().unwrap();
        let outcome = stream.submit_and_wait(&context, Work::Launch(Arc::new(launch)));
        assert_eq!(outcome, Err(Status::UNKNOWN));
        assert_eq!(context.synchronise(), Err(Status::UNKNOWN), "the error stays");
        let report = counters::last_fault().unwrap();
        assert!(report.contains("sabotage") && report.contains("kernel k"), "{report}");
        context.destroy();
    }
}
