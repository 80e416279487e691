//! Why a task failed, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

#[derive(Debug)]
pub enum Error {
    /// No Python interpreter under the name tried.
    NoPython { program: String },
    /// Python is there, pip is not.
    NoPip { program: String },
    /// pip could not download or did not accept the files of this pin.
    Download { pin: &'static str, status: ExitStatus },
    /// A downloaded wheel could not be unpacked.
    Unpack { wheel: PathBuf, status: ExitStatus },
    /// A wheel that was unpacked lacks the file it was fetched for.
    MissingFile { pin: &'static str, path: PathBuf },
    /// The name of an NVRTC release that is not pinned.
    UnknownRelease { asked: String, known: Vec<&'static str> },
    /// A program other than the one asked for ended with a failure.
    Failed { program: String, status: ExitStatus },
    /// A program could not be started.
    Start { program: String, source: io::Error },
    /// A file operation failed.
    File { doing: &'static str, path: PathBuf, source: io::Error },
    /// A target folder with a colon in its name cannot stand in a library path.
    TargetFolder(PathBuf),
    /// `cargo xtask run` without a command.
    NothingToRun,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPython { program } => write!(
                f,
                "`{program}` was not found: wheels come from PyPI through pip. Install Python 3 with pip, or name an \
                 interpreter in the environment variable PYTHON"
            ),
            Self::NoPip { program } => write!(
                f,
                "`{program} -m pip` does not run: install pip (Debian, Ubuntu: apt-get install python3-pip)"
            ),
            Self::Download { pin, status } => write!(
                f,
                "pip could not bring {pin} ({status}). Its message is above: without a network, unpack the wheels \
                 into the target folder by hand; a hash mismatch means that the file is not the one pinned"
            ),
            Self::Unpack { wheel, status } => {
                write!(f, "{} could not be unpacked ({status})", wheel.display())
            }
            Self::MissingFile { pin, path } => {
                write!(f, "the wheels of {pin} were unpacked, but {} is not there", path.display())
            }
            Self::UnknownRelease { asked, known } => {
                write!(f, "NVRTC {asked} is not pinned; pinned are {}", known.join(", "))
            }
            Self::Failed { program, status } => write!(f, "`{program}` failed ({status})"),
            Self::Start { program, source } => write!(f, "`{program}` could not be started: {source}"),
            Self::File { doing, path, source } => write!(f, "{doing} {}: {source}", path.display()),
            Self::TargetFolder(path) => {
                write!(
                    f,
                    "{} holds a ':' and cannot be part of LD_LIBRARY_PATH: choose another target folder",
                    path.display()
                )
            }
            Self::NothingToRun => write!(f, "name a command: cargo xtask run <command> [arguments]"),
        }
    }
}

impl std::error::Error for Error {}
