//! Explicit loading of the virtual driver into a process, for tests and benches.
//!
//! A program opens the driver by name (`dlopen("libcuda.so")`). [`load`] opens this crate's shared library
//! first, by path. Its SONAME is `libcuda.so`, so from then on that name means it, and no environment
//! variable is needed. Only this call does so: where it is not made, a real driver is what is found.
//!
//! ```no_run
//! let gpu = vgpu::load()?;
//! // ... cudarc, or whatever opens the driver, runs on the virtual GPU ...
//! for launch in gpu.launches() {
//!     println!("{}: {} warp instructions", launch.kernel, launch.total_warp_instructions());
//! }
//! # Ok::<(), vgpu::LoadError>(())
//! ```
//!
//! The functions called are those of the shared library. This crate as a Rust library holds the same driver a
//! second time, which nobody opens.

use std::env;
use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::counters::Counters;

/// Why the virtual driver was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The shared library is at none of the places where it is looked for.
    #[error("libvgpu.so was not found; looked at: {}. Build it with `cargo build -p vgpu`", list(.0))]
    NotFound(Vec<PathBuf>),
    /// The library is there and cannot be opened.
    #[error("{} cannot be opened: {source}", path.display())]
    Open {
        /// The library.
        path: PathBuf,
        /// What the loader says.
        source: libloading::Error,
    },
    /// Another driver has been opened in this process before.
    #[error("another libcuda.so is loaded already: load the virtual GPU before the first use of CUDA")]
    OtherDriver,
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The virtual driver, loaded.
#[derive(Debug)]
pub struct VirtualGpu {
    library: Library,
}

/// Name of the file that cargo builds.
const FILE: &str = "libvgpu.so";

/// Where the shared library is: the file that `VGPU_LIBRARY` names, else `libvgpu.so` beside the running
/// executable or in the folder above it (where cargo puts it for tests and for examples), else
/// `vgpu/libcuda.so` in cargo's target folder (where `cargo xtask vgpu` installs it).
///
/// # Errors
/// [`LoadError::NotFound`] with all places that were tried.
pub fn library_path() -> Result<PathBuf, LoadError> {
    if let Some(named) = env::var_os("VGPU_LIBRARY").map(PathBuf::from) {
        return if named.is_file() { Ok(named) } else { Err(LoadError::NotFound(vec![named])) };
    }
    let executable = env::current_exe().unwrap_or_default();
    let mut places = vec![];
    for folder in executable.ancestors().skip(1).take(2) {
        places.push(folder.join(FILE));
        places.push(folder.join("deps").join(FILE));
    }
    if let Some(target) = executable.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()) {
        places.push(target.join("vgpu").join("libcuda.so"));
    }
    match places.iter().find(|place| place.is_file()) {
        Some(found) => Ok(found.clone()),
        None => Err(LoadError::NotFound(places)),
    }
}

/// Opens the virtual driver, for the rest of the process, under the name `libcuda.so`.
///
/// # Errors
/// [`LoadError`]: it is not there, does not open, or another driver was opened before.
pub fn load() -> Result<VirtualGpu, LoadError> {
    load_from(&library_path()?)
}

/// [`load`] of a particular file.
///
/// # Errors
/// [`LoadError::Open`], [`LoadError::OtherDriver`].
pub fn load_from(path: &Path) -> Result<VirtualGpu, LoadError> {
    let failed = |source| LoadError::Open { path: path.into(), source };
    // SAFETY: the library's initialisers are those of Rust's standard library.
    let _by_path = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(failed)?;
    // What has this name now is what the program will find, be it this library or one that was opened before.
    // SAFETY: as above; the name is that of a library that is open, which is not initialised again.
    let library = unsafe { Library::open(Some("libcuda.so"), RTLD_NOW | RTLD_LOCAL) }.map_err(failed)?;
    // SAFETY: only the address is used.
    let own = unsafe { library.get::<unsafe extern "C" fn()>(b"vgpu_version\0") };
    if own.is_err() {
        return Err(LoadError::OtherDriver);
    }
    Ok(VirtualGpu { library })
}

/// `vgpu_counters_json`.
#[derive(serde::Deserialize)]
struct Record {
    dropped: u64,
    launches: Vec<Counters>,
}

type Text = unsafe extern "C" fn(*mut c_char, usize) -> usize;

impl VirtualGpu {
    /// Forgets the launches and the fault recorded so far.
    pub fn reset(&self) {
        self.function::<extern "C" fn()>(c"vgpu_counters_reset")();
    }

    /// Counters of the launches that ended since the last [`reset`](Self::reset), oldest first. Synchronise
    /// before: a launch that still runs is not among them.
    ///
    /// # Panics
    /// There were so many launches (65536) that the oldest were dropped: reset in between.
    pub fn launches(&self) -> Vec<Counters> {
        let json = self.text(c"vgpu_counters_json");
        let record: Record = serde_json::from_str(&json).expect("the library writes what this crate reads");
        assert_eq!(record.dropped, 0, "the oldest launches were dropped; reset more often");
        record.launches
    }

    /// The report of the last fault since the last [`reset`](Self::reset).
    pub fn fault(&self) -> Option<String> {
        Some(self.text(c"vgpu_fault")).filter(|report| !report.is_empty())
    }

    /// Sets what the environment variable `VGPU_<NAME>` sets. Properties of the device can be set before
    /// `cuInit` only.
    ///
    /// # Errors
    /// The `CUresult`: 1 for a name or value that is none, 401 for a property of the device after `cuInit`.
    pub fn set(&self, name: &str, value: &str) -> Result<(), u32> {
        const INVALID_VALUE: u32 = 1;
        let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else {
            return Err(INVALID_VALUE);
        };
        type Set = unsafe extern "C" fn(*const c_char, *const c_char) -> u32;
        // SAFETY: the library exports the function with this type; both texts are zero-terminated.
        match unsafe { self.function::<Set>(c"vgpu_set")(name.as_ptr(), value.as_ptr()) } {
            0 => Ok(()),
            code => Err(code),
        }
    }

    /// Any function of the driver, by its C name.
    ///
    /// # Errors
    /// The library does not export it.
    ///
    /// # Safety
    /// `F` must be the type of that function, an `extern "C" fn`.
    pub unsafe fn driver_function<F: Copy>(&self, name: &CStr) -> Result<F, libloading::Error> {
        // SAFETY: the type is the caller's promise; the library stays loaded for the rest of the process.
        unsafe { self.library.get::<F>(name.to_bytes_with_nul()) }.map(|function| *function)
    }

    fn function<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: called with the types of this module's documentation only.
        unsafe { self.driver_function(name) }.expect("the library was found to be the virtual GPU's")
    }

    /// Asks for the length, then for the text, until both are of the same moment.
    fn text(&self, name: &CStr) -> String {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let write = self.function::<Text>(name);
        let mut buffer: Vec<u8> = vec![];
        loop {
            // SAFETY: the buffer has the room that is given with it.
            let bytes = unsafe { write(buffer.as_mut_ptr().cast(), buffer.len()) };
            if bytes < buffer.len() {
                buffer.truncate(bytes);
                return String::from_utf8_lossy(&buffer).into_owned();
            }
            buffer.resize(bytes + 1, 0);
        }
    }
}
