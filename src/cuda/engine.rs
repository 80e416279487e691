//! The engine: kernels compiled and loaded for one context.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use bytemuck::Pod;
use cudarc::driver::sys::{self, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError, result};
use cudarc::nvrtc::Ptx;

use super::advice::driver_error;
use super::catalogue;
use super::device::DeviceInfo;
use super::jit::{Compiler, Flights, Image, Resources, Target};
use super::variant::Variant;
use crate::error::{Error, Result};

/// Compiled kernels of one CUDA context. Cheap to clone; all clones share what is compiled.
///
/// Made once from the caller's context, used from any thread. Kernels are compiled when first needed, or ahead of time by the
/// `compile_…` functions.
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    context: Arc<CudaContext>,
    device: DeviceInfo,
    compiler: Arc<Compiler>,
    target: Target,
    modules: Flights<Variant, Arc<Loaded>>,
    /// Set once the driver has refused a cubin: it takes PTX only.
    wants_ptx: AtomicBool,
}

/// A variant in the context.
#[derive(Debug)]
struct Loaded {
    variant: Variant,
    image: Arc<Image>,
    functions: Vec<(&'static str, CudaFunction)>,
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
    /// [`Error::Device`] for a device below compute capability 7.5 or a driver before CUDA 12.0, [`Error::Nvrtc`] without NVRTC.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let device = DeviceInfo::of(context)?;
        let compiler = shared_compiler(device.driver_major())?;
        Self::assemble(context, device, compiler)
    }

    /// An engine with a compiler of the caller's choice.
    ///
    /// # Errors
    /// [`Error::Device`] as [`Engine::new`]; [`Error::Nvrtc`] when the compiler knows no architecture that the device runs.
    pub fn with_compiler(context: &Arc<CudaContext>, compiler: Arc<Compiler>) -> Result<Self> {
        Self::assemble(context, DeviceInfo::of(context)?, compiler)
    }

    fn assemble(context: &Arc<CudaContext>, device: DeviceInfo, compiler: Arc<Compiler>) -> Result<Self> {
        let target = Target::for_device(device.capability, compiler.nvrtc().archs())?;
        let (modules, wants_ptx) = (Flights::default(), AtomicBool::new(false));
        let context = Arc::clone(context);
        Ok(Self { shared: Arc::new(Shared { context, device, compiler, target, modules, wants_ptx }) })
    }

    /// The context it was made for.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.shared.context
    }

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        &self.shared.device
    }

    /// The compiler, with its counter of compilations.
    pub fn compiler(&self) -> &Compiler {
        &self.shared.compiler
    }

    /// What is compiled and loaded so far, in order of name.
    pub fn report(&self) -> Vec<KernelReport> {
        let describe = |loaded: &Arc<Loaded>| KernelReport {
            variant: loaded.variant.to_string(),
            dynamic_shared_bytes: loaded.variant.shared_bytes,
            kernels: loaded.image.resources(),
        };
        let mut report: Vec<_> = self.shared.modules.values().iter().map(describe).collect();
        report.sort_by(|a, b| a.variant.cmp(&b.variant));
        report
    }

    pub(super) fn check_context(
        &self,
        op: &'static str,
        name: &'static str,
        other: &CudaContext,
    ) -> Result<()> {
        if other == self.shared.context.as_ref() {
            return Ok(());
        }
        Err(Error::Device {
            op,
            what: format!("{name} belongs to another CUDA context than the engine"),
            advice: "make the engine, the stream and all buffers from one Arc<CudaContext>".into(),
        })
    }

    /// Compiles and loads what is missing of these variants, each in a thread of its own. `stream`: where they are about to be launched.
    pub(super) fn prepare(
        &self,
        op: &'static str,
        variants: &[Variant],
        stream: Option<sys::CUstream>,
    ) -> Result<()> {
        let missing: Vec<Variant> =
            variants.iter().copied().filter(|variant| !self.shared.modules.contains(variant)).collect();
        let Some((first, others)) = missing.split_first() else { return Ok(()) };
        if let Some(stream) = stream {
            refuse_capture(op, first, stream)?;
        }
        std::thread::scope(|scope| {
            // One target for all: whichever comes first to know what the driver takes, the same images are asked for.
            let target = self.shared.target();
            let load = |variant: Variant| move || self.load(op, variant, None, target).map(|_| ());
            let threads: Vec<_> = others.iter().map(|&variant| scope.spawn(load(variant))).collect();
            let own = load(*first)();
            let joined = threads.into_iter().map(|thread| thread.join().expect("loading does not panic"));
            joined.chain([own]).collect()
        })
    }

    /// Launches one kernel of a variant.
    ///
    /// # Safety
    /// `params` must be what the kernel takes, and all device memory it names valid for what the kernel does with it, in this
    /// engine's context, until the launch has run.
    pub(super) unsafe fn launch<P: Pod>(
        &self,
        op: &'static str,
        stream: sys::CUstream,
        launch: &Launch,
        params: &P,
    ) -> Result<()> {
        let loaded = self.load(op, launch.variant, Some(stream), self.shared.target())?;
        let (_, function) = loaded
            .functions
            .iter()
            .find(|(name, _)| *name == launch.kernel)
            .expect("sources list their kernels");
        let failed = |error| driver_error(op, format!("launching {}", launch.kernel), error);
        trace(|| {
            let Launch { variant, kernel, blocks, threads, shared_bytes } = launch;
            format!(
                "{op}: {kernel} of {variant}: grid {blocks}, block {threads}, {shared_bytes} bytes of dynamic shared memory"
            )
        });
        self.shared.context.bind_to_thread().map_err(failed)?;
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        // SAFETY: the function is loaded and outlives the call; its one parameter is `params`, as the caller promises.
        unsafe {
            let (grid, block) = ((launch.blocks, 1, 1), (launch.threads, 1, 1));
            result::launch_kernel(
                function.cu_function(),
                grid,
                block,
                launch.shared_bytes,
                stream,
                &mut arguments,
            )
        }
        .map_err(failed)
    }

    fn load(
        &self,
        op: &'static str,
        variant: Variant,
        stream: Option<sys::CUstream>,
        target: Target,
    ) -> Result<Arc<Loaded>> {
        self.shared.modules.get_or_make(variant, || {
            if let Some(stream) = stream {
                refuse_capture(op, &variant, stream)?;
            }
            self.shared.load(op, variant, target).map(Arc::new)
        })
    }
}

/// One launch: which kernel and how wide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    pub variant: Variant,
    pub kernel: &'static str,
    pub blocks: u32,
    pub threads: u32,
    shared_bytes: u32,
}

impl Launch {
    /// A launch of `blocks` blocks, all in x.
    pub fn new(
        op: &'static str,
        variant: Variant,
        kernel: &'static str,
        blocks: &[usize],
        threads: u32,
    ) -> Result<Self> {
        let product = blocks.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor));
        // The widest grid is 2^31 - 1.
        let blocks = product.and_then(|count| i32::try_from(count).ok()).ok_or_else(|| Error::TooLarge {
            op,
            name: "the grid",
            sizes: blocks.to_vec(),
        })?;
        Ok(Self { variant, kernel, blocks: blocks as u32, threads, shared_bytes: variant.shared_bytes })
    }

    /// For the small kernels of a source, which use none of the variant's dynamic shared memory.
    pub fn without_shared(self) -> Self {
        Self { shared_bytes: 0, ..self }
    }
}

impl Shared {
    fn load(&self, op: &'static str, variant: Variant, target: Target) -> Result<Loaded> {
        debug_assert!(catalogue::contains(&self.device, &variant), "{variant} is in no list");
        check_shared_memory(op, &self.device, &variant)?;
        let begin = Instant::now();
        let (image, origin) = self.compiler.obtain(&variant.program(), target)?;
        let failed = |error| driver_error(op, format!("loading {variant}"), error);
        let module = self.load_image(&image).map_err(failed)?;
        trace(|| format!("{op}: {variant}: {origin:?}, loaded after {:.1?}", begin.elapsed()));
        let mut functions = Vec::with_capacity(variant.source.kernels.len());
        for &kernel in variant.source.kernels {
            let function = module.load_function(kernel).map_err(failed)?;
            if variant.shared_bytes > 48 << 10 {
                let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                // cudarc does not bind the context here.
                self.context.bind_to_thread().map_err(failed)?;
                function.set_attribute(attribute, variant.shared_bytes as i32).map_err(failed)?;
            }
            functions.push((kernel, function));
        }
        Ok(Loaded { variant, image, functions })
    }

    /// What to compile for: PTX alone, in half the time, for a driver that takes nothing else.
    fn target(&self) -> Target {
        if self.wants_ptx.load(Ordering::Relaxed) { self.target.as_virtual() } else { self.target }
    }

    /// The cubin; the PTX where there is none, or where this driver takes none.
    fn load_image(&self, image: &Image) -> std::result::Result<Arc<CudaModule>, DriverError> {
        if !image.cubin.is_empty() && !self.wants_ptx.load(Ordering::Relaxed) {
            match self.context.load_module(Ptx::from_binary(image.cubin.clone())) {
                Err(DriverError(
                    CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_INVALID_IMAGE,
                )) => {
                    self.wants_ptx.store(true, Ordering::Relaxed);
                }
                loaded => return loaded,
            }
        }
        let text = String::from_utf8_lossy(&image.ptx).into_owned();
        self.context.load_module(Ptx::from_src(text))
    }
}

/// Whether a block of the variant has room on the device.
fn check_shared_memory(op: &'static str, device: &DeviceInfo, variant: &Variant) -> Result<()> {
    let (given, wanted) = (device.shared_per_block, variant.shared_bytes);
    if wanted <= given {
        return Ok(());
    }
    Err(Error::Device {
        op,
        what: format!(
            "{variant} needs {wanted} bytes of shared memory a block, but {} has {given}",
            device.name
        ),
        advice: "use a device with more shared memory, or the CPU engine".into(),
    })
}

/// Writes a line to stderr where the environment asks for it.
fn trace(line: impl FnOnce() -> String) {
    static WANTED: OnceLock<bool> = OnceLock::new();
    if *WANTED.get_or_init(|| std::env::var_os("MULTIMIX_TRACE").is_some_and(|value| value == "1")) {
        eprintln!("multimix: {}", line());
    }
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
    Err(Error::Device {
        op,
        what: format!("{variant} is not compiled yet, and the stream is being captured"),
        advice: "call the op once, or its compile function, before the capture begins".into(),
    })
}

/// One compiler for all engines of the process that the environment configures, so that each kernel is compiled once.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// No device of compute capability 7.5 or later has less than 64 KiB, for which all kernels are made.
    #[test]
    fn a_device_with_little_shared_memory_is_refused_by_name() {
        let device = |kib: u32| DeviceInfo {
            name: "Small".into(),
            capability: 75,
            multiprocessors: 1,
            shared_per_block: kib << 10,
            shared_per_multiprocessor: kib << 10,
            driver_version: 12_000,
        };
        let all = |device: &DeviceInfo| -> Vec<Result<()>> {
            catalogue::all(device).iter().map(|variant| check_shared_memory("mix", device, variant)).collect()
        };
        assert!(all(&device(64)).iter().all(Result::is_ok));
        let refused: Vec<_> = all(&device(8)).into_iter().filter_map(Result::err).collect();
        let text = refused.first().expect("8 KiB do not suffice").to_string();
        assert!(text.contains("shared memory") && text.contains("Small has 8192"), "{text}");
        assert!(text.contains("use a device with more shared memory, or the CPU engine"), "{text}");
    }
}
