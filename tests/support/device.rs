//! The device to test on: the machine's own GPU, else the virtual one, once for each generation it can be.

use std::ffi::{c_int, c_uint};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, sys};
use multimix::cuda::jit::Compiler;
use multimix::cuda::{self, DeviceInfo, Engine, cudarc};
use vgpu::VirtualGpu;

use super::harness::Harness;
use super::nvrtc;

/// Orders of blocks and warps on the virtual GPU under which results must be the same.
pub const SCHEDULES: [u64; 3] = [0, 1, 0x5eed];
/// Compute capabilities that the virtual GPU takes in turn, one a process.
const CAPABILITIES: [&str; 3] = ["7.5", "8.0", "9.0"];

/// A device with what tests do on it.
pub struct Device {
    pub engine: Engine,
    pub stream: Arc<CudaStream>,
    /// Where the device is the virtual one.
    pub virtual_gpu: Option<VirtualGpu>,
}

/// Runs the tests that `list` adds: on a real GPU once, on the virtual GPU once for each compute capability.
///
/// To be called from `main`, first of all.
pub fn run(list: fn(&mut Harness, Option<&str>)) -> ExitCode {
    let compiler = nvrtc::provide();
    let real = real_device();
    if compiler && !real && std::env::var_os("VGPU_CC").is_none() {
        return each_capability();
    }
    let missing = if !compiler { Some(nvrtc::MISSING.to_owned()) } else { device().err() };
    let mut harness = Harness::new();
    list(&mut harness, missing.as_deref());
    harness.run()
}

/// All capabilities at once: most of a test's time goes into compilation, by one thread each.
fn each_capability() -> ExitCode {
    let start = |capability| {
        let mut child = Command::new(std::env::current_exe().expect("a test has a file"));
        child.args(std::env::args_os().skip(1)).env("VGPU_CC", capability);
        child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a test can start itself")
    };
    let children = CAPABILITIES.map(|capability| (capability, start(capability)));
    let children = children.map(|(name, child)| (name, thread::spawn(|| child.wait_with_output())));
    let mut all = ExitCode::SUCCESS;
    for (capability, output) in children {
        let output = output.join().expect("waiting does not panic").expect("a child's output can be read");
        println!("\nvirtual GPU of compute capability {capability}");
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            all = ExitCode::FAILURE;
        }
    }
    all
}

/// A device of a capability, 80 for 8.0, whose blocks may have so many KiB of shared memory: for what is
/// planned without one.
pub fn described(capability: u32, kib: u32) -> DeviceInfo {
    DeviceInfo {
        name: format!("sm_{capability}"),
        capability,
        multiprocessors: 100,
        shared_per_block: kib << 10,
        shared_per_multiprocessor: kib << 10,
        driver_version: 13_000,
    }
}

/// Why a test of bf16 or tf32 arithmetic does not run, where it does not.
pub fn lacks_ampere(missing: Option<&str>) -> Option<&str> {
    match device() {
        Ok(device) if !device.has_bf16() => Some("needs compute capability 8.0"),
        _ => missing,
    }
}

/// The virtual GPU, for benches that ask it for what no device would do; where there is none, why.
pub fn virtual_device() -> Result<(&'static Device, &'static VirtualGpu), String> {
    if !nvrtc::provide() {
        return Err("no NVRTC here; `cargo xtask nvrtc` fetches it".into());
    }
    let device = device()?;
    let found = "only the virtual GPU can do this, and this machine's driver was found first";
    Ok((device, device.virtual_gpu.as_ref().ok_or(found)?))
}

/// The process's device. The error says why there is none.
pub fn device() -> Result<&'static Device, String> {
    static DEVICE: OnceLock<Result<Device, String>> = OnceLock::new();
    DEVICE.get_or_init(open).as_ref().map_err(Clone::clone)
}

fn open() -> Result<Device, String> {
    let virtual_gpu = match real_device() {
        true => None,
        false => Some(vgpu::load().map_err(|error| format!("no GPU here, and no virtual one: {error}"))?),
    };
    let open = || {
        let context = cuda::open(0)?;
        let engine = Engine::new(&context)?;
        Ok((engine, context.default_stream()))
    };
    let (engine, stream) = open().map_err(|error: multimix::Error| error.to_string())?;
    println!("on {}", engine.device().name);
    Ok(Device { engine, stream, virtual_gpu })
}

/// Whether a driver that the loader finds is a real one and has a device. It is closed again, so that the
/// virtual one can take its place.
fn real_device() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| ["libcuda.so.1", "libcuda.so"].iter().any(|name| counts_devices(name)))
}

fn counts_devices(library: &str) -> bool {
    // SAFETY: of the first name only the address is used; the two functions have these types in every release
    // of the driver, and no preconditions.
    unsafe {
        let Ok(driver) = libloading::Library::new(library) else { return false };
        if driver.get::<unsafe extern "C" fn()>(b"vgpu_version\0").is_ok() {
            return false;
        }
        let Ok(init) = driver.get::<unsafe extern "C" fn(c_uint) -> c_int>(b"cuInit\0") else { return false };
        let Ok(count) = driver.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuDeviceGetCount\0") else {
            return false;
        };
        let mut devices = 0;
        init(0) == 0 && count(&mut devices) == 0 && devices > 0
    }
}

impl Device {
    pub fn context(&self) -> &Arc<CudaContext> {
        self.engine.context()
    }

    /// An engine in which nothing is loaded yet.
    pub fn fresh_engine(&self) -> Engine {
        let compiler = Compiler::from_environment(None).expect("NVRTC was found before");
        Engine::with_compiler(self.context(), Arc::new(compiler)).expect("an engine was made before")
    }

    /// A context of the same device beside the primary one. By name, since bindings of different CUDA
    /// versions call it differently.
    pub fn second_context(&self) -> Arc<CudaContext> {
        type Create = unsafe extern "C" fn(*mut sys::CUcontext, u32, sys::CUdevice) -> sys::CUresult;
        let ordinal = self.context().cu_device();
        let mut raw = std::ptr::null_mut();
        // SAFETY: the function has this type in every driver; the new context belongs to the wrapper from
        // here on.
        unsafe {
            let driver = libloading::Library::new("libcuda.so")
                .or_else(|_| libloading::Library::new("libcuda.so.1"))
                .expect("the driver was loaded before");
            let create = driver.get::<Create>(b"cuCtxCreate_v2\0").expect("every driver has it");
            create(&mut raw, 0, ordinal).result().expect("a second context");
            CudaContext::from_raw_context(0, ordinal, raw).expect("a wrapper of it")
        }
    }

    /// Has the virtual GPU run blocks and warps in another order.
    pub fn schedule(&self, seed: u64) {
        if let Some(gpu) = &self.virtual_gpu {
            gpu.set("seed", &seed.to_string()).expect("a seed can always be set");
        }
    }

    /// Whether tensor cores take bf16 and tf32.
    pub fn has_bf16(&self) -> bool {
        self.engine.device().has_ampere_tensor_cores()
    }

    pub fn upload<T: DeviceRepr + Copy>(&self, values: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(values).expect("upload")
    }

    /// Memory that is written by nobody yet.
    pub fn uninitialised<T: DeviceRepr>(&self, count: usize) -> CudaSlice<T> {
        // SAFETY: tests read it only after a kernel has filled it; the virtual GPU checks that.
        unsafe { self.stream.alloc(count) }.expect("allocation")
    }

    pub fn download<T: DeviceRepr>(&self, values: &CudaSlice<T>) -> Vec<T> {
        let values =
            self.stream.clone_dtoh(values).unwrap_or_else(|error| panic!("{error}\n{}", self.fault()));
        self.stream.synchronize().unwrap_or_else(|error| panic!("{error}\n{}", self.fault()));
        values
    }

    /// What the virtual GPU found wrong, if anything.
    pub fn fault(&self) -> String {
        self.virtual_gpu.as_ref().and_then(VirtualGpu::fault).unwrap_or_default()
    }
}
