//! One NVRTC library: found, identified, and used to compile.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::api::{Api, Unit};
use super::locate::{ADVICE, SearchPath};
use super::{Cache, Image, Program, Target};
use crate::error::{Error, ErrorKind, Result};

/// The oldest release whose C++17 and PTX serve.
const OLDEST: (u32, u32) = (12, 0);

/// An NVRTC library. Its version and architectures are known; the library itself is loaded when first needed.
///
/// Loading takes some 30 ms, so a process that finds all kernels in the disk cache never does it: what a
/// library file is was noted there under its path, size and time of change.
pub struct Nvrtc {
    path: PathBuf,
    version: (u32, u32),
    archs: Vec<u32>,
    api: OnceLock<Api>,
    loading: Mutex<()>,
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.version;
        write!(f, "Nvrtc {major}.{minor} at {}", self.path.display())
    }
}

impl Nvrtc {
    /// The first library that [`SearchPath::from_environment`] leads to.
    ///
    /// `driver_major` is the CUDA version of the driver where it is known: older drivers load nothing that a
    /// newer major release compiled, so a library of that release or an older one is preferred.
    ///
    /// # Errors
    /// [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc) when there is none, or none new enough.
    pub fn locate(driver_major: Option<u32>, cache: &Cache) -> Result<Self> {
        Self::find(&SearchPath::from_environment(), driver_major, cache)
    }

    /// The first library on the given path.
    ///
    /// # Errors
    /// As [`Nvrtc::locate`].
    pub fn find(search: &SearchPath, driver_major: Option<u32>, cache: &Cache) -> Result<Self> {
        let mut second_choice = None;
        let mut refused = vec![];
        let files = search.files().into_iter();
        let names = search.loader_names().iter().map(PathBuf::from);
        for path in files.chain(names) {
            match Self::identify(&path, cache) {
                Ok(found) if driver_major.is_none_or(|driver| found.version.0 <= driver) => return Ok(found),
                Ok(found) => second_choice = second_choice.or(Some(found)),
                // A name that the loader does not know is no news.
                Err(why) if path.is_absolute() => refused.push(format!("{}: {why}", path.display())),
                Err(_) => {}
            }
        }
        second_choice.ok_or_else(|| {
            let mut what = search.describe();
            for reason in refused {
                what.push_str("\n  ");
                what.push_str(&reason);
            }
            Error::new("jit", ErrorKind::Nvrtc { what, advice: ADVICE.into() })
        })
    }

    /// The library at `path`, or the one that the system's loader knows by that name.
    ///
    /// # Errors
    /// [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc) when it does not load or is older than 12.0.
    pub fn open(path: &Path) -> Result<Self> {
        Self::identify(path, &Cache::disabled()).map_err(|why| {
            let what = format!("{} is no usable NVRTC library: {why}", path.display());
            Error::new("jit", ErrorKind::Nvrtc { what, advice: ADVICE.into() })
        })
    }

    fn identify(path: &Path, cache: &Cache) -> std::result::Result<Self, String> {
        let noted = cache.identity(path);
        let api = OnceLock::new();
        let (version, archs) = match noted {
            Some(noted) => noted,
            None => {
                let loaded = Api::load(path)?;
                let identity = (loaded.version()?, loaded.archs()?);
                let _ = api.set(loaded);
                cache.note_identity(path, &identity);
                identity
            }
        };
        if version < OLDEST {
            return Err(format!("it is NVRTC {}.{}, but 12.0 or newer is needed", version.0, version.1));
        }
        Ok(Self { path: path.to_path_buf(), version, archs, api, loading: Mutex::new(()) })
    }

    /// The library file, or the name that the system's loader resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Architectures it compiles for, ascending: 80 stands for sm_80.
    pub fn archs(&self) -> &[u32] {
        &self.archs
    }

    /// Whether the library has been loaded into the process.
    pub fn is_loaded(&self) -> bool {
        self.api.get().is_some()
    }

    fn api(&self) -> Result<&Api> {
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(api) = self.api.get() {
            return Ok(api);
        }
        let loaded = Api::load(&self.path).map_err(|why| {
            let what = format!("{} cannot be loaded any more: {why}", self.path.display());
            Error::new("jit", ErrorKind::Nvrtc { what, advice: ADVICE.into() })
        })?;
        Ok(self.api.get_or_init(|| loaded))
    }

    /// Compiles a program.
    ///
    /// # Errors
    /// [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc) with the compiler's log when the source does not
    /// compile.
    pub fn compile(&self, program: &Program, target: Target) -> Result<Image> {
        let (major, minor) = self.version;
        let failed = |why: String, advice: &str| {
            let what =
                format!("NVRTC {major}.{minor} could not compile {} for {target}: {why}", program.name);
            Error::new("jit", ErrorKind::Nvrtc { what, advice: advice.into() })
        };
        let unit = unit(program).map_err(|why| failed(why, ""))?;
        let options: Vec<CString> =
            program.options(target).into_iter().filter_map(|option| CString::new(option).ok()).collect();
        let compiled = self.api()?.compile(&unit, &options).map_err(|why| failed(why, REINSTALL))?;
        match compiled.failure {
            None => Ok(Image { cubin: compiled.cubin, ptx: compiled.ptx, log: without_times(&compiled.log) }),
            Some(name) => {
                let advice = if name.contains("BUILTIN") { REINSTALL } else { "" };
                Err(failed(format!("{name}\n{}", compiled.log), advice))
            }
        }
    }
}

/// ptxas notes how long it took: the one line that differs between compilations of the same.
fn without_times(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("Compile time = ")).collect();
    lines.join("\n")
}

const REINSTALL: &str =
    "libnvrtc-builtins must lie beside libnvrtc; reinstall NVRTC, or set MULTIMIX_NVRTC to one that is whole";

/// NVRTC takes C strings: a NUL inside is the one thing that cannot be said.
fn unit(program: &Program) -> std::result::Result<Unit, String> {
    let string = |text: &str| CString::new(text).map_err(|_| "the source holds a NUL character".to_owned());
    let mut headers = vec![];
    for header in program.headers {
        headers.push((string(header.name)?, string(header.text)?));
    }
    Ok(Unit { name: string(&program.name)?, text: string(&program.text)?, headers })
}
