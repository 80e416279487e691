//! Brings pinned wheels from PyPI through pip, which checks their hashes, and unpacks them below the target
//! folder.
//!
//! A folder appears under its final name only when everything in it is complete, so what is there is never
//! fetched again and nothing of this needs a network the second time.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::environment::target_dir;
use crate::error::Error;
use crate::pins::{NVRTC, Pin, TOOLKIT};

/// Fetches every pinned NVRTC.
pub fn nvrtc() -> Result<(), Error> {
    NVRTC.iter().try_for_each(|(_, pin)| fetch(pin).map(|folder| report(pin, &folder)))
}

/// Fetches one NVRTC and gives the folder of its libraries.
pub fn nvrtc_library_dir(version: &str) -> Result<PathBuf, Error> {
    let known = NVRTC.iter().find(|(name, _)| *name == version);
    let (_, pin) = known.ok_or_else(|| Error::UnknownRelease {
        asked: version.into(),
        known: NVRTC.iter().map(|(name, _)| *name).collect(),
    })?;
    Ok(fetch(pin)?.join("lib"))
}

/// Fetches the CUDA headers and binary tools.
pub fn toolkit() -> Result<(), Error> {
    fetch(&TOOLKIT).map(|folder| report(&TOOLKIT, &folder))
}

fn report(pin: &Pin, folder: &Path) {
    println!("{}: {}", pin.name, folder.display());
}

/// Gives the pin's folder, filling it first where it is not there yet.
fn fetch(pin: &Pin) -> Result<PathBuf, Error> {
    let folder = target_dir().join(pin.folder);
    if check(pin, &folder).is_ok() {
        return Ok(folder);
    }
    let python = python()?;
    let staging = Staging::beside(&folder)?;
    println!("fetching {} from PyPI", pin.name);
    let wheels = download(pin, &python, &staging.0)?;
    let fresh = staging.0.join("unpacked");
    for wheel in wheels {
        unpack(&python, &wheel, &staging.0.join("wheel"), &fresh)?;
    }
    check(pin, &fresh)?;
    make_executable(&fresh.join("bin"))?;
    // A folder that fails the check is the rest of an older pin or of somebody's editing.
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed("removing the incomplete", &folder))?;
    }
    match fs::rename(&fresh, &folder) {
        Err(_) if check(pin, &folder).is_ok() => Ok(folder), // another process was quicker
        done => done.map_err(failed("installing", &folder)).map(|()| folder),
    }
}

fn check(pin: &Pin, folder: &Path) -> Result<(), Error> {
    match pin.expected.iter().map(|file| folder.join(file)).find(|path| !path.is_file()) {
        Some(path) => Err(Error::MissingFile { pin: pin.name, path }),
        None => Ok(()),
    }
}

/// The interpreter to use, found to have pip.
fn python() -> Result<String, Error> {
    let program = env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let tried = Command::new(&program)
        .args(["-m", "pip", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match tried {
        Ok(status) if status.success() => Ok(program),
        Ok(_) => Err(Error::NoPip { program }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoPython { program }),
        Err(source) => Err(Error::Start { program, source }),
    }
}

/// Has pip bring the pin's wheels, refusing any that is not exactly the one pinned. Gives their paths.
fn download(pin: &Pin, python: &str, staging: &Path) -> Result<Vec<PathBuf>, Error> {
    let requirements = staging.join("requirements.txt");
    fs::write(&requirements, pin.requirements).map_err(failed("writing", &requirements))?;
    let wheels = staging.join("wheels");
    let status = Command::new(python)
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"])
        .args(["--require-hashes", "--no-deps", "--only-binary=:all:", "--requirement"])
        .arg(&requirements)
        .arg("--dest")
        .arg(&wheels)
        .status()
        .map_err(|source| Error::Start { program: python.into(), source })?;
    if !status.success() {
        return Err(Error::Download { pin: pin.name, status });
    }
    entries(&wheels)
}

/// Unpacks one wheel and merges what lies below its `nvidia/<package>/` folders into `into`.
fn unpack(python: &str, wheel: &Path, scratch: &Path, into: &Path) -> Result<(), Error> {
    let status = Command::new(python)
        .args(["-m", "zipfile", "-e"])
        .arg(wheel)
        .arg(scratch)
        .status()
        .map_err(|source| Error::Start { program: python.into(), source })?;
    if !status.success() {
        return Err(Error::Unpack { wheel: wheel.into(), status });
    }
    for package in entries(&scratch.join("nvidia"))?.iter().filter(|path| path.is_dir()) {
        merge(package, into)?;
    }
    fs::remove_dir_all(scratch).map_err(failed("removing", scratch))
}

/// Moves the tree `from` into `into`, joining folders that both have.
fn merge(from: &Path, into: &Path) -> Result<(), Error> {
    fs::create_dir_all(into).map_err(failed("creating", into))?;
    for entry in entries(from)? {
        let Some(name) = entry.file_name() else { continue };
        let to = into.join(name);
        if entry.is_dir() {
            merge(&entry, &to)?;
        } else {
            fs::rename(&entry, &to).map_err(failed("moving", &entry))?;
        }
    }
    Ok(())
}

/// Python's zipfile does not restore the executable bit.
fn make_executable(bin: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    if !bin.is_dir() {
        return Ok(());
    }
    for path in entries(bin)?.iter().filter(|path| path.is_file()) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed("permitting", path))?;
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = || fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>();
    read().map_err(failed("reading", folder))
}

/// A folder for unfinished work on the target's own file system, removed again however the work ends.
struct Staging(PathBuf);

impl Staging {
    fn beside(folder: &Path) -> Result<Self, Error> {
        let path = folder.with_file_name(format!(".fetching-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(failed("creating", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Leftovers are no harm: the name is this process's own and is never taken for a finished folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { doing, path, source }
}
