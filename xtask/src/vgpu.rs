//! Builds the virtual GPU and installs it under the driver's name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::environment::{cargo, target_dir};
use crate::error::Error;

/// Builds `vgpu` in release mode and installs it as `target/vgpu/libcuda.so` (and `.so.1`). Gives that
/// folder.
pub fn install() -> Result<PathBuf, Error> {
    let target = target_dir();
    let status = cargo()
        .args(["build", "--quiet", "--release", "--package", "vgpu", "--lib"])
        .arg("--target-dir")
        .arg(&target)
        .status()
        .map_err(|source| Error::Start { program: "cargo".into(), source })?;
    if !status.success() {
        return Err(Error::Failed { program: "cargo build --release --package vgpu".into(), status });
    }
    let folder = target.join("vgpu");
    fs::create_dir_all(&folder).map_err(failed("creating", &folder))?;
    replace(&target.join("release/libvgpu.so"), &folder.join("libcuda.so"))?;
    let versioned = folder.join("libcuda.so.1");
    if versioned.symlink_metadata().is_err() {
        symlink("libcuda.so", &versioned).map_err(failed("linking", &versioned))?;
    }
    println!("installed {}", folder.join("libcuda.so").display());
    Ok(folder)
}

/// Copies beside the destination and renames, so that a process that has the old library open keeps it whole.
fn replace(from: &Path, to: &Path) -> Result<(), Error> {
    let fresh = to.with_file_name(format!(".installing-{}", std::process::id()));
    fs::copy(from, &fresh).map_err(failed("copying", from))?;
    fs::rename(&fresh, to).map_err(failed("installing", to))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { doing, path, source }
}
