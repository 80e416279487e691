//! Where NVRTC is, for the tests that compile CUDA C++.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::env;
use std::path::{Path, PathBuf};

/// Cargo's target folder, found from the running test.
pub fn target_folder() -> PathBuf {
    let executable = env::current_exe().unwrap();
    let found = executable.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    found.expect("cargo marks its target folder").to_owned()
}

/// The folder of libnvrtc.so.12 that `cargo xtask nvrtc` filled, or of one on the library path.
pub fn folder() -> Option<PathBuf> {
    let fetched = target_folder().join("nvrtc/12.9.86/lib");
    let path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    std::iter::once(fetched).chain(env::split_paths(&path)).find(|folder| holds_nvrtc(folder))
}

fn holds_nvrtc(folder: &Path) -> bool {
    folder.join("libnvrtc.so.12").is_file()
}

/// Opens NVRTC by its path, so that cudarc finds it by its name. Gives whether there is one.
pub fn preload() -> bool {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    let Some(folder) = folder() else { return false };
    // SAFETY: NVRTC's initialisers are its own; it is never closed.
    let library = unsafe { Library::open(Some(folder.join("libnvrtc.so.12")), RTLD_NOW | RTLD_LOCAL) };
    library.map(std::mem::forget).is_ok()
}
