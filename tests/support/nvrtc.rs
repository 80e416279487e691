//! The NVRTC libraries to test with.

use std::path::{Path, PathBuf};

use multimix::cuda::jit::{Cache, Nvrtc, SearchPath};

/// Why tests are skipped where there is none.
pub const MISSING: &str = "no NVRTC here; `cargo xtask nvrtc` fetches it";

/// Releases that `cargo xtask nvrtc` has fetched, by version, ascending.
pub fn fetched() -> Vec<PathBuf> {
    let executable = std::env::current_exe().expect("a test has a file");
    let target = executable.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    let mut found: Vec<PathBuf> = target
        .and_then(|target| std::fs::read_dir(target.join("nvrtc")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|release| library_in(&release.path().join("lib")))
        .collect();
    found.sort();
    found
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    ["libnvrtc.so.13", "libnvrtc.so.12"].iter().map(|name| folder.join(name)).find(|file| file.is_file())
}

/// A library to test with: the one that a user would get, else a fetched one.
pub fn any() -> Option<PathBuf> {
    let located = Nvrtc::find(&SearchPath::from_environment(), None, &Cache::disabled());
    located.ok().map(|nvrtc| nvrtc.path().to_path_buf()).or_else(|| fetched().into_iter().next())
}

/// Makes NVRTC known to the library, as a user does by `MULTIMIX_NVRTC`, where it would not be found
/// otherwise.
///
/// To be called first in `main`, while there is one thread.
pub fn provide() -> bool {
    let Some(library) = any() else { return false };
    if library.is_absolute() {
        // SAFETY: called before any other thread runs.
        unsafe { std::env::set_var("MULTIMIX_NVRTC", library) };
    }
    true
}
