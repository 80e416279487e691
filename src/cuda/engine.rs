//! The engine: kernels compiled and loaded for one context.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

use cudarc::driver::{CudaContext, result, sys};

use super::advice::driver_error;
use super::aside::Aside;
use super::device::DeviceInfo;
use super::jit::{Compiler, Resources};
use super::modules::{Loaded, Modules};
use super::variant::Variant;
use crate::error::{Error, Result};

/// Compiled kernels of one CUDA context. Cheap to clone; all clones, and all engines of one context and
/// compiler, share what is compiled. It stays loaded for as long as the context is there, since graphs may
/// name it.
///
/// Made once from the caller's context, used from any thread. Kernels are compiled when first needed, or
/// ahead of time by the `…_compile` functions.
///
/// ```no_run
/// use multimix::cuda::{self, Engine};
/// let context = cuda::open(0)?; // or the context that a framework gives
/// let engine = Engine::new(&context)?;
/// println!("{}", engine.device().name);
/// # Ok::<(), multimix::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Engine {
    context: Arc<CudaContext>,
    modules: Arc<Modules>,
}

/// What a compiled kernel uses, and of which variant it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelReport {
    /// Source and macros.
    pub variant: String,
    /// Dynamic shared memory of a block, in bytes.
    pub dynamic_shared_bytes: u32,
    /// What ptxas says of each kernel of the variant; nothing where the driver takes PTX only.
    pub kernels: Vec<Resources>,
}

impl Engine {
    /// An engine for the caller's context, with the compiler and the disk cache that the environment names.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) for a device below compute capability 7.5 or a driver
    /// before CUDA 12.0, [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc) without NVRTC.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let device = DeviceInfo::of(context)?;
        let compiler = shared_compiler(device.driver_major())?;
        Self::assemble(context, device, compiler)
    }

    /// An engine with a compiler of the caller's choice.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) as [`Engine::new`];
    /// [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc) when the compiler knows no architecture that the device
    /// runs.
    pub fn with_compiler(context: &Arc<CudaContext>, compiler: Arc<Compiler>) -> Result<Self> {
        Self::assemble(context, DeviceInfo::of(context)?, compiler)
    }

    fn assemble(context: &Arc<CudaContext>, device: DeviceInfo, compiler: Arc<Compiler>) -> Result<Self> {
        Ok(Self { context: Arc::clone(context), modules: Modules::of(context, device, compiler)? })
    }

    /// The context it was made for.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        &self.modules.device
    }

    /// The compiler, with its counter of compilations.
    pub fn compiler(&self) -> &Compiler {
        &self.modules.compiler
    }

    /// What is compiled and loaded so far, by this engine or another of the same context and compiler, in
    /// order of name.
    pub fn report(&self) -> Vec<KernelReport> {
        let describe = |loaded: Arc<Loaded>| KernelReport {
            variant: loaded.variant.to_string(),
            dynamic_shared_bytes: loaded.variant.shared_bytes,
            kernels: loaded.image.resources(),
        };
        let mut report: Vec<_> = self.modules.loaded().into_iter().map(describe).collect();
        report.sort_by(|a, b| a.variant.cmp(&b.variant));
        report
    }

    /// For a call that is being captured.
    pub(super) fn aside(&self, op: &'static str) -> Result<Aside<'_>> {
        self.modules.asides.take(op, &self.context)
    }

    /// cudarc orders streams for each of its context objects: two of one device do not know of each other's.
    pub(super) fn check_context(
        &self,
        op: &'static str,
        name: &'static str,
        other: &Arc<CudaContext>,
    ) -> Result<()> {
        if Arc::ptr_eq(other, &self.context) {
            return Ok(());
        }
        let kind = if other == &self.context {
            "another CudaContext, of the same device,"
        } else {
            "another CUDA context"
        };
        Err(Error::device(
            op,
            format!("{name} belongs to {kind} than the engine"),
            "make the engine, the stream and all buffers from one Arc<CudaContext>",
        ))
    }

    /// Makes the context current: every call into the driver that is not cudarc's own comes after this.
    fn bind(&self, op: &'static str) -> Result<()> {
        let bound = self.context.bind_to_thread();
        bound.map_err(|error| {
            driver_error(op, "making the context current (or what cudarc noted before)", error)
        })
    }

    /// Makes the context current, compiles and loads what is missing, each variant in a thread of its own,
    /// and returns the kernels. `stream`: where they are about to be launched.
    pub(super) fn prepare(
        &self,
        op: &'static str,
        kernels: &[(Variant, &'static str)],
        stream: Option<sys::CUstream>,
    ) -> Result<Vec<sys::CUfunction>> {
        self.bind(op)?;
        let loaded = |&(variant, kernel): &(Variant, &str)| self.modules.get(&variant)?.function(kernel);
        if let Some(functions) = kernels.iter().map(loaded).collect() {
            return Ok(functions);
        }
        let mut missing: Vec<Variant> = vec![];
        for (variant, _) in kernels {
            if self.modules.get(variant).is_none() && !missing.contains(variant) {
                missing.push(*variant);
            }
        }
        if let (Some(first), Some(stream)) = (missing.first(), stream) {
            refuse_capture(op, first, stream)?;
        }
        // One target for all: whichever comes first to know what the driver takes, the same images are asked
        // for.
        let target = self.modules.target();
        let load = |variant| self.modules.get_or_load(op, &self.context, variant, target);
        side_by_side(&missing, |variant| load(variant).map(|_| ()))?;
        let function = |&(variant, kernel): &(Variant, &'static str)| {
            Ok(load(variant)?.function(kernel).expect("sources list their kernels"))
        };
        kernels.iter().map(function).collect()
    }

    /// Launches a kernel: so many blocks, threads of each, and bytes of dynamic shared memory.
    ///
    /// # Safety
    /// The context is current. `params` points to what the kernel takes, and all device memory named there is
    /// valid for what the kernel does with it, in this engine's context, until the launch has run.
    pub(super) unsafe fn launch(
        &self,
        op: &'static str,
        stream: sys::CUstream,
        function: sys::CUfunction,
        kernel: &str,
        [blocks, threads, shared_bytes]: [u32; 3],
        params: *mut c_void,
    ) -> Result<()> {
        let (grid, block) = ((blocks, 1, 1), (threads, 1, 1));
        // SAFETY: the function is loaded and never unloaded; the rest is the caller's promise.
        unsafe { result::launch_kernel(function, grid, block, shared_bytes, stream, &mut [params]) }
            .map_err(|error| driver_error(op, format!("launching {kernel}"), error))
    }
}

/// Does `work` for every item, side by side: in a thread for each but the first, or here where the system
/// refuses one.
fn side_by_side<T: Copy + Send>(items: &[T], work: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    let Some((&first, others)) = items.split_first() else { return Ok(()) };
    let work = &work;
    thread::scope(|scope| {
        let start = |&item: &T| (item, thread::Builder::new().spawn_scoped(scope, move || work(item)));
        let started: Vec<_> = others.iter().map(start).collect();
        let own = work(first);
        // What a thread did not get done is done here; if that panics, it panics here, with its own words.
        let rest = started.into_iter().map(|(item, thread)| match thread.map(ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            _ => work(item),
        });
        let results: Vec<Result<()>> = rest.collect();
        results.into_iter().chain([own]).collect()
    })
}

/// Nothing can be compiled or loaded while the stream is being captured: the driver would end the capture.
fn refuse_capture(op: &'static str, variant: &Variant, stream: sys::CUstream) -> Result<()> {
    let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the stream is the caller's and alive; the pointer is valid.
    let asked = unsafe { sys::cuStreamIsCapturing(stream, &mut status) }.result();
    asked.map_err(|error| driver_error(op, "asking whether the stream is captured", error))?;
    if status == sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
        return Ok(());
    }
    Err(Error::device(
        op,
        format!("{variant} is not compiled yet, and the stream is being captured"),
        "call the op once, or its compile function, before the capture begins",
    ))
}

/// One compiler for all engines of the process that the environment configures, so that each kernel is
/// compiled once.
fn shared_compiler(driver_major: u32) -> Result<Arc<Compiler>> {
    static SHARED: Mutex<Option<Arc<Compiler>>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(compiler) = &*shared {
        return Ok(Arc::clone(compiler));
    }
    let compiler = Arc::new(Compiler::from_environment(Some(driver_major))?);
    *shared = Some(Arc::clone(&compiler));
    Ok(compiler)
}
