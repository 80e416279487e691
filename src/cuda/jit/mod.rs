//! Run-time compilation: from the kernels' sources, which are part of this crate, to images that a driver
//! loads.
//!
//! [`Nvrtc`] is the compiler, found wherever the toolkit, pip or conda put it. [`Compiler`] asks the
//! [`Cache`] on disk first, then the compiler, once per program and process however many threads ask. One
//! compilation gives the cubin, the PTX that serves where a driver refuses the cubin, and ptxas' report on
//! each kernel ([`Resources`]).
//!
//! | variable | meaning |
//! |---|---|
//! | `MULTIMIX_NVRTC` | the NVRTC library to use, or its folder; nothing else is searched |
//! | `MULTIMIX_CACHE_DIR` | folder of the disk cache, in place of the user's cache folder; on unix it counts only if it and its files belong to the user or root, and nobody else may write them |
//! | `MULTIMIX_CACHE` | `0` or `off`: nothing on disk |
//! | `MULTIMIX_TRACE` | `1`: every kernel that is loaded, and where from, and every launch with its grid, on stderr; and why a cache is not used |

mod api;
mod cache;
mod flight;
mod locate;
mod nvrtc;
mod program;
mod report;
mod trust;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

pub use cache::Cache;
pub(crate) use flight::Flights;
pub use locate::SearchPath;
pub use nvrtc::Nvrtc;
pub use program::{Header, Key, Program, Target};
pub use report::Resources;

use crate::error::Result;

/// A compiled program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Machine code of one architecture; empty for a virtual target.
    pub cubin: Vec<u8>,
    /// The same as PTX text.
    pub ptx: Vec<u8>,
    /// What the compiler and ptxas said.
    pub log: String,
}

impl Image {
    /// ptxas' report, one entry per kernel; empty for a virtual target, which ptxas does not see.
    pub fn resources(&self) -> Vec<Resources> {
        report::parse(&self.log)
    }
}

/// Where an image came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This process had it.
    Memory,
    /// The cache on disk had it.
    Disk,
    /// NVRTC made it now.
    Compiled,
}

/// A compiler with its caches in memory and on disk.
#[derive(Debug)]
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Cache,
    /// Each with where this process has it from.
    images: Flights<Key, (Arc<Image>, Origin)>,
    compilations: AtomicU64,
}

impl Compiler {
    /// A compiler that keeps its images in `cache`.
    pub fn new(nvrtc: Nvrtc, cache: Cache) -> Self {
        Self { nvrtc, cache, images: Flights::default(), compilations: AtomicU64::new(0) }
    }

    /// NVRTC and the cache that the environment leads to. `driver_major` as in [`Nvrtc::locate`].
    ///
    /// # Errors
    /// [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc) when there is no NVRTC.
    pub fn from_environment(driver_major: Option<u32>) -> Result<Self> {
        let cache = Cache::from_environment();
        Ok(Self::new(Nvrtc::locate(driver_major, &cache)?, cache))
    }

    /// The compiled program: from memory, from disk, or compiled now. Of threads that ask for the same at
    /// once, one compiles.
    ///
    /// # Errors
    /// [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc) with the compiler's log when the program does not
    /// compile.
    pub fn image(&self, program: &Program, target: Target) -> Result<Arc<Image>> {
        self.obtain(program, target).map(|(image, _)| image)
    }

    /// As [`Compiler::image`], with where this call found it.
    pub(crate) fn obtain(&self, program: &Program, target: Target) -> Result<(Arc<Image>, Origin)> {
        let key = program.key(target, self.nvrtc.version());
        let mut found = Origin::Memory;
        let (image, _) = self.images.get_or_make(key, || {
            if let Some(image) = self.cache.load(&key) {
                found = Origin::Disk;
                return Ok((Arc::new(image), found));
            }
            found = Origin::Compiled;
            self.compile(&key, program, target)
        })?;
        Ok((image, found))
    }

    /// Another image for one that a driver refuses: compiled now, in the place of what came from disk, or by
    /// who came first. None where `refused` was compiled in this process, or nothing can be.
    pub(crate) fn renew(
        &self,
        program: &Program,
        target: Target,
        refused: &Arc<Image>,
    ) -> Option<Arc<Image>> {
        let key = program.key(target, self.nvrtc.version());
        let renewed = self.images.replace(&key, |(image, origin)| match origin {
            _ if !Arc::ptr_eq(image, refused) => None,
            Origin::Disk => self.compile(&key, program, target).ok(),
            _ => None,
        })?;
        Some(renewed.0).filter(|image| !Arc::ptr_eq(image, refused))
    }

    fn compile(&self, key: &Key, program: &Program, target: Target) -> Result<(Arc<Image>, Origin)> {
        self.compilations.fetch_add(1, Ordering::Relaxed);
        let image = self.nvrtc.compile(program, target)?;
        self.cache.store(key, &image);
        Ok((Arc::new(image), Origin::Compiled))
    }

    /// The NVRTC in use.
    pub fn nvrtc(&self) -> &Nvrtc {
        &self.nvrtc
    }

    /// The cache in use.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Compilations that this process has run: zero when everything came from the caches.
    pub fn compilations(&self) -> u64 {
        self.compilations.load(Ordering::Relaxed)
    }
}

/// Writes a line to stderr where `MULTIMIX_TRACE` asks for it.
pub(crate) fn trace(line: impl FnOnce() -> String) {
    static WANTED: OnceLock<bool> = OnceLock::new();
    if *WANTED.get_or_init(|| std::env::var_os("MULTIMIX_TRACE").is_some_and(|value| value == "1")) {
        eprintln!("multimix: {}", line());
    }
}
