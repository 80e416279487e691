//! Where things lie, and the environment that tests and examples run in.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::error::Error;

/// Which CUDA driver a command finds.
pub enum Device {
    /// The machine's own, if it has one. Tests load the virtual GPU by themselves where it has none.
    Own,
    /// The virtual GPU installed in this folder.
    Virtual(PathBuf),
}

/// The libraries a command finds.
pub struct Environment {
    /// Folder of libnvrtc.
    pub nvrtc: PathBuf,
    pub device: Device,
}

impl Environment {
    /// Runs `command` in this environment and passes its exit code on.
    pub fn run(&self, mut command: Command) -> Result<ExitCode, Error> {
        command.env("LD_LIBRARY_PATH", self.library_path()?);
        let program = command.get_program().to_string_lossy().into_owned();
        let status = command.status().map_err(|source| Error::Start { program, source })?;
        Ok(match status.code() {
            Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            None => {
                eprintln!("error: ended by a signal: {status}");
                ExitCode::FAILURE
            }
        })
    }

    /// The virtual driver first, so that it is found before one that is installed.
    fn library_path(&self) -> Result<OsString, Error> {
        let mut folders = vec![];
        if let Device::Virtual(folder) = &self.device {
            folders.push(folder.clone());
        }
        folders.push(self.nvrtc.clone());
        let inherited = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        folders.extend(env::split_paths(&inherited).filter(|path| !path.as_os_str().is_empty()));
        env::join_paths(folders).map_err(|_| Error::TargetFolder(target_dir()))
    }
}

/// The cargo that runs this task, in the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// Cargo's target folder: `CARGO_TARGET_DIR`, else the one this program was built into.
pub fn target_dir() -> PathBuf {
    if let Some(folder) = env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty()) {
        return env::current_dir().map_or_else(|_| folder.clone().into(), |here| here.join(&folder));
    }
    let built_into = env::current_exe().ok().and_then(|exe| {
        exe.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).map(Path::to_path_buf)
    });
    built_into.unwrap_or_else(|| workspace().join("target"))
}
