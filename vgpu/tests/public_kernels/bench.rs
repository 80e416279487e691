//! Sources, compiler and device: finds the crates, compiles their files (once each), launches their kernels.

use crate::nvrtc;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DeviceRepr, LaunchConfig, ValidAsZeroBits,
};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_uint};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Compute capability of the virtual GPU: the first with all that the files use (bf16 arithmetic, FP8).
const CAPABILITY: (i32, i32) = (9, 0);

/// What all cases share: where sources and headers lie.
pub struct Sources {
    /// Where the device is the virtual one.
    gpu: Option<vgpu::VirtualGpu>,
    /// Compute capability that the files are compiled for.
    architecture: String,
    crates: HashMap<String, PathBuf>,
    headers: PathBuf,
    scratch: PathBuf,
}

/// What one case works with. Each has a context of its own, so that a fault of one does not fail the next.
pub struct Bench {
    /// Where the work of the case is queued.
    pub stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    sources: Arc<Sources>,
    /// Kernels whose launches may still be queued: their modules must not be unloaded before.
    launched: RefCell<Vec<CudaFunction>>,
}

/// Standard headers that the sources name and NVRTC does not have. What they declare, NVRTC or the CUDA
/// headers do.
const SHIMS: [(&str, &str); 5] = [
    ("stdint.h", "#include <cuda/std/cstdint>\nusing namespace ::cuda::std;\n"),
    ("cstdint", "#include <stdint.h>\n"),
    ("cmath", "#include <math.h>\n"),
    ("assert.h", ""),
    (
        "math.h",
        "#pragma once\n#define M_2_SQRTPI 1.12837916709551257390\n#define M_SQRT2 1.41421356237309504880\n\
         #define M_SQRT1_2 0.70710678118654752440\n",
    ),
];

impl Sources {
    /// Finds or fetches everything; the error says what is missing and how to get it.
    pub fn prepare() -> Result<Sources, String> {
        if !nvrtc::preload() {
            return Err("NVRTC is not there: run `cargo xtask nvrtc`".into());
        }
        let headers = nvrtc::target_folder().join("cuda/include");
        if !headers.join("cuda_fp16.h").is_file() {
            return Err("the CUDA headers are not there: run `cargo xtask toolkit`".into());
        }
        let crates = crates()?;
        let (gpu, (major, minor)) = device()?;
        let architecture = format!("compute_{major}{minor}");
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("public_kernels");
        let shims = scratch.join("include");
        let write = |(name, text): (&str, &str)| fs::write(shims.join(name), text);
        fs::create_dir_all(&shims)
            .and_then(|()| SHIMS.into_iter().try_for_each(write))
            .map_err(|error| format!("{}: {error}", shims.display()))?;
        Ok(Sources { gpu, architecture, crates, headers, scratch })
    }

    /// PTX of a file; kept in the scratch folder, since the headers take NVRTC seconds.
    fn compile(&self, package: &str, file: &str) -> Result<Ptx, String> {
        let root = self.crates.get(package).ok_or(format!("{package} was not fetched"))?;
        let release = root.file_name().unwrap_or_default().to_string_lossy();
        let kept =
            self.scratch.join(format!("{release}-{}-{}.ptx", file.replace('/', "-"), self.architecture));
        if let Ok(text) = fs::read_to_string(&kept) {
            return Ok(Ptx::from_src(text));
        }
        let path = root.join("src").join(file);
        let folder = path.parent().unwrap_or(&path);
        let source = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let utilities = folder.with_file_name("utilities");
        let include_paths = [folder, &utilities, &self.headers, &self.scratch.join("include")];
        let options = CompileOptions {
            include_paths: include_paths.iter().map(|path| path.display().to_string()).collect(),
            options: vec![
                format!("--gpu-architecture={}", self.architecture),
                "--std=c++17".into(),
                "--define-macro=INFINITY=__int_as_float(0x7f800000)".into(),
            ],
            ..CompileOptions::default()
        };
        let ptx =
            compile_ptx_with_opts(source, options).map_err(|error| format!("{}: {error}", path.display()))?;
        // Written beside and renamed: another process must not read half a file.
        let partial = kept.with_extension(format!("{}", std::process::id()));
        let keep = || fs::write(&partial, ptx.to_src()).and_then(|()| fs::rename(&partial, &kept));
        keep().map_err(|error| format!("{}: {error}", kept.display()))?;
        Ok(ptx)
    }
}

impl Bench {
    /// Runs a case in a fresh context; a fault's report is added to its error.
    pub fn run(sources: &Arc<Sources>, case: impl Fn(&Bench) -> Result<(), String>) -> Result<(), String> {
        if let Some(gpu) = &sources.gpu {
            gpu.reset();
        }
        let context = CudaContext::new(0).map_err(|error| error.to_string())?;
        let stream = context.default_stream();
        let bench = Bench { stream, context, sources: Arc::clone(sources), launched: RefCell::default() };
        let with_report = |error| match sources.gpu.as_ref().and_then(|gpu| gpu.fault()) {
            Some(report) => format!("{error}\n{report}"),
            None => error,
        };
        case(&bench).map_err(with_report)
    }

    /// A kernel of `file` (below the crate's `src`).
    pub fn kernel(&self, package: &str, file: &str, name: &str) -> Result<CudaFunction, String> {
        let ptx = self.sources.compile(package, file)?;
        let module =
            self.context.load_module(ptx).map_err(|error| format!("{file} does not load: {error}"))?;
        let kernel =
            module.load_function(name).map_err(|error| format!("{file} has no kernel {name}: {error}"))?;
        self.launched.borrow_mut().push(kernel.clone());
        Ok(kernel)
    }

    /// Copies to the device.
    pub fn upload<T: DeviceRepr>(&self, host: &[T]) -> Result<CudaSlice<T>, String> {
        self.stream.clone_htod(host).map_err(|error| error.to_string())
    }

    /// Fresh memory of zeros.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> Result<CudaSlice<T>, String> {
        self.stream.alloc_zeros(count).map_err(|error| error.to_string())
    }

    /// Copies back, after everything queued before.
    pub fn download<T: DeviceRepr + Default + Clone>(&self, device: &CudaSlice<T>) -> Result<Vec<T>, String> {
        self.stream.clone_dtoh(device).map_err(|error| error.to_string())
    }
}

/// The machine's own GPU with its compute capability (as far as the compiler knows it), else the virtual one.
fn device() -> Result<(Option<vgpu::VirtualGpu>, (i32, i32)), String> {
    if ["libcuda.so.1", "libcuda.so"].iter().any(|name| has_real_device(name)) {
        let own = CudaContext::new(0).and_then(|context| context.compute_capability());
        let own = own.map_err(|error| error.to_string())?;
        println!("on the GPU of this machine, of compute capability {}.{}", own.0, own.1);
        return Ok((None, own.min(CAPABILITY)));
    }
    let gpu = vgpu::load().map_err(|error| error.to_string())?;
    let (major, minor) = CAPABILITY;
    gpu.set("CC", &format!("{major}.{minor}"))
        .map_err(|code| format!("the compute capability cannot be set: CUresult {code}"))?;
    Ok((Some(gpu), CAPABILITY))
}

/// Whether a library is a driver with a device, and not the virtual one. It is closed again.
fn has_real_device(library: &str) -> bool {
    // SAFETY: of the first name only the address is used; the two functions have these types in every release
    // of the driver, and no preconditions.
    unsafe {
        let Ok(driver) = libloading::Library::new(library) else { return false };
        if driver.get::<unsafe extern "C" fn()>(b"vgpu_version").is_ok() {
            return false;
        }
        let Ok(init) = driver.get::<unsafe extern "C" fn(c_uint) -> c_int>(b"cuInit") else { return false };
        let Ok(count) = driver.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuDeviceGetCount") else {
            return false;
        };
        let mut devices = 0;
        init(0) == 0 && count(&mut devices) == 0 && devices > 0
    }
}

/// Enough blocks of 128 threads for `count` of them.
pub fn threads(count: usize) -> LaunchConfig {
    blocks(count.div_ceil(128), 128)
}

/// A one-dimensional launch.
pub fn blocks(count: usize, threads: usize) -> LaunchConfig {
    LaunchConfig { grid_dim: (count as u32, 1, 1), block_dim: (threads as u32, 1, 1), shared_mem_bytes: 0 }
}

/// Has cargo download the crates and tells where each one lies.
fn crates() -> Result<HashMap<String, PathBuf>, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/public_kernels/sources/Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(&manifest)
        .output()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo could not fetch the sources: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let place = |package: &serde_json::Value| {
        let folder = Path::new(package["manifest_path"].as_str()?).parent()?.to_owned();
        Some((package["name"].as_str()?.to_owned(), folder))
    };
    Ok(packages.iter().filter_map(place).collect())
}

/// Queues a launch of `$kernel` under `$config` with the arguments that follow, in order.
#[macro_export]
macro_rules! launch {
    ($bench:expr, $kernel:expr, $config:expr, $($argument:expr),+ $(,)?) => {{
        use cudarc::driver::PushKernelArg;
        let (kernel, config) = ($kernel, $config);
        let mut builder = $bench.stream.launch_builder(&kernel);
        $(builder.arg($argument);)+
        // SAFETY: the arguments are those of the kernel's declaration; the virtual GPU checks every access.
        unsafe { builder.launch(config) }.map_err(|error| error.to_string())?;
    }};
}
