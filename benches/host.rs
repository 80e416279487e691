//! Host time of one call of the loss on a GPU: everything between the call and the driver, with kernels
//! compiled and launches that run nothing (`VGPU_EXECUTE=0` of the virtual GPU).
//!
//!     cargo xtask nvrtc && cargo bench --bench host          # a Markdown table on stdout
//!
//! What is timed holds the virtual driver's own work too. The last lines are that alone: as many launches of
//! an empty kernel as a call has, and the same with the context made current before each, as the engine does.
//! To be subtracted when releases are compared, and not to be taken for a real driver's. Times are medians
//! with both quartiles, from rounds in which all take turns. Allocations are those of this process's own
//! code, the virtual driver's left out.

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use common::{allocations, percentile, time};
use multimix::cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr, result, sys};
use multimix::cuda::{Bare, Queue};
use multimix::{
    Alpha, Layout, LossCall, LossInput, LossOptions, LossOutputs, Mixing, Targets, View, ViewMut,
};
use support::device::{Device, virtual_device};

/// Shape A at 7 x 7 positions.
const B: usize = 128;
const R: usize = 49;
const C: usize = 100;
const N: usize = 1000;

const ROUNDS: usize = 20;
const CALLS: usize = 50;

/// A kernel of one parameter, about as large as those of the loss.
const EMPTY: &str = "
.version 7.0
.target sm_75
.address_size 64
.visible .entry empty(.param .align 8 .b8 parameters[256]) { ret; }
";

fn main() -> Result<(), String> {
    let (device, gpu) = virtual_device()?;
    gpu.set("execute", "0").expect("launches can always be left out");

    let (mut step, empty, stream) = (Step::new(device, &device.stream), Empty::new(), &device.stream);
    let launches = step.launches();
    println!("b {B}, r {R}, c {C}, n {N}, f32 with gradients of logits: {launches} launches.\n");
    println!("| one call | µs | quartiles | allocations |\n|---|---|---|---|");
    let mut rows = [
        Row::new("`Queue::loss_into`"),
        Row::new("`BareQueue::run`"),
        Row::new("its launches, of an empty kernel"),
        Row::new("the same, the context made current before each"),
    ];
    for _ in 0..ROUNDS {
        rows[0].measure(|| step.typed());
        rows[1].measure(|| step.bare());
        rows[2].measure(|| (0..launches).for_each(|_| empty.launch(stream)));
        rows[3].measure(|| {
            for _ in 0..launches {
                device.context().bind_to_thread().expect("the context is alive");
                empty.launch(stream);
            }
        });
    }
    rows.iter_mut().for_each(Row::print);

    // From a second stream on, cudarc records an event for every use of memory, and the virtual driver has a
    // thread for each stream.
    let stream = device.context().new_stream().expect("a stream");
    let mut step = Step::new(device, &stream);
    let mut row = Row::new("`Queue::loss_into`, on a second stream with cudarc's events");
    (0..ROUNDS).for_each(|_| row.measure(|| step.typed()));
    row.print();
    Ok(())
}

/// One line of the table.
struct Row {
    name: &'static str,
    times: Vec<f64>,
    allocations: usize,
}

impl Row {
    fn new(name: &'static str) -> Self {
        Self { name, times: vec![], allocations: 0 }
    }

    fn measure(&mut self, mut run: impl FnMut()) {
        // Caches are another's at first.
        (0..CALLS / 5).for_each(|_| run());
        let before = allocations();
        run();
        self.allocations = allocations() - before;
        self.times.extend((0..CALLS).map(|_| time(&mut run)));
    }

    fn print(&mut self) {
        let [low, median, high] = [0.25, 0.5, 0.75].map(|p| 1e6 * percentile(&mut self.times, p));
        println!("| {} | {median:.2} | {low:.2} to {high:.2} | {} |", self.name, self.allocations);
    }
}

/// The memory of a step of training.
struct Step<'a> {
    device: &'a Device,
    stream: &'a Arc<CudaStream>,
    queue: Queue<'a>,
    mixing: Mixing,
    options: LossOptions,
    logits: CudaSlice<f32>,
    attention: CudaSlice<f32>,
    labels: CudaSlice<u32>,
    loss: CudaSlice<f32>,
    gradient: CudaSlice<f32>,
    workspace: CudaSlice<u8>,
}

impl<'a> Step<'a> {
    /// With all kernels compiled.
    fn new(device: &'a Device, stream: &'a Arc<CudaStream>) -> Self {
        let mut step = Self {
            device,
            stream,
            queue: device.engine.on(stream).expect("of one context"),
            mixing: Mixing::dirichlet(N, Alpha::PAPER).seed(1),
            options: LossOptions::default(),
            logits: zeros(stream, B * R * C),
            attention: zeros(stream, B * R),
            labels: zeros(stream, B),
            loss: zeros(stream, 1),
            gradient: zeros(stream, B * R * C),
            workspace: zeros(stream, 64 << 20),
        };
        step.typed();
        stream.synchronize().expect("nothing runs");
        step
    }

    fn typed(&mut self) {
        let mut call = LossCall {
            columns: self.mixing.into(),
            input: LossInput {
                logits: View::new(&self.logits, [B, R, C]).unwrap(),
                targets: Targets::labels(View::new(&self.labels, [B]).unwrap()),
                attention: Some(View::new(&self.attention, [B, R]).unwrap()),
            },
            options: self.options,
            upstream: 1.0.into(),
            outputs: LossOutputs {
                loss: Some(ViewMut::new(&mut self.loss, [1]).unwrap()),
                logits: Some(ViewMut::new(&mut self.gradient, [B, R, C]).unwrap()),
                ..LossOutputs::default()
            },
        };
        let bytes = self.workspace.len();
        self.queue.loss_into(&mut call, &mut ViewMut::new(&mut self.workspace, [bytes]).unwrap()).unwrap();
    }

    fn bare(&self) {
        // SAFETY: as below; the stream is alive.
        unsafe { self.bare_on(self.stream.cu_stream()) }
    }

    /// # Safety
    /// The stream is alive and belongs to the device's context.
    unsafe fn bare_on(&self, stream: sys::CUstream) {
        let pointer = |memory: &CudaSlice<f32>| memory.device_ptr(self.stream).0;
        let labels = View::<u32, 1, Bare>::at(self.labels.device_ptr(self.stream).0, Layout::contiguous([B]));
        let attention = View::at(pointer(&self.attention), Layout::contiguous([B, R]));
        let call = LossCall::<f32, Bare> {
            columns: self.mixing.into(),
            input: LossInput {
                logits: View::at(pointer(&self.logits), Layout::contiguous([B, R, C])),
                targets: Targets::labels(labels),
                attention: Some(attention),
            },
            options: self.options,
            upstream: 1.0.into(),
            outputs: LossOutputs {
                loss: Some(ViewMut::at(pointer(&self.loss), Layout::contiguous([1]))),
                logits: Some(ViewMut::at(pointer(&self.gradient), Layout::contiguous([B, R, C]))),
                ..LossOutputs::default()
            },
        };
        let workspace = self.workspace.device_ptr(self.stream).0;
        let workspace = ViewMut::at(workspace, Layout::contiguous([self.workspace.len()]));
        // SAFETY: all memory is this step's own and outlives it; launches run nothing.
        unsafe { self.device.engine.on_bare(stream).run(&call, workspace) }.unwrap();
    }

    /// Launches of a call: the nodes of a graph that it is captured into, on a stream that cudarc does not
    /// know of.
    fn launches(&self) -> usize {
        let (mut stream, mut graph, mut nodes) = (null_mut(), null_mut(), 0);
        // SAFETY: stream and graph are made, used and given back here; every pointer is valid.
        unsafe {
            ok(sys::cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32));
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            ok(sys::cuStreamBeginCapture_v2(stream, mode));
            self.bare_on(stream);
            ok(sys::cuStreamEndCapture(stream, &mut graph));
            ok(sys::cuGraphGetNodes(graph, null_mut(), &mut nodes));
            ok(sys::cuGraphDestroy(graph));
            ok(sys::cuStreamDestroy_v2(stream));
        }
        nodes
    }
}

fn zeros<T: DeviceRepr + Copy + Default>(stream: &Arc<CudaStream>, count: usize) -> CudaSlice<T> {
    stream.clone_htod(&vec![T::default(); count]).expect("device memory")
}

fn ok(result: sys::CUresult) {
    result.result().expect("the driver does it");
}

/// A kernel that does nothing.
struct Empty(sys::CUfunction);

impl Empty {
    /// In the current context, until that is gone.
    fn new() -> Self {
        let (text, name) = (CString::new(EMPTY).unwrap(), CString::new("empty").unwrap());
        // SAFETY: the text ends with a zero.
        let module = unsafe { result::module::load_data(text.as_ptr().cast()) }.expect("it is PTX");
        // SAFETY: the module is loaded.
        Self(unsafe { result::module::get_function(module, name) }.expect("it has the kernel"))
    }

    fn launch(&self, stream: &CudaStream) {
        let parameters = [0u64; 32];
        let mut arguments = [parameters.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the one parameter is as large as the kernel declares.
        let launched = unsafe {
            result::launch_kernel(self.0, (1, 1, 1), (32, 1, 1), 0, stream.cu_stream(), &mut arguments)
        };
        launched.expect("it is launched");
    }
}
