//! What is compiled: a source with its headers, its macros, the architecture; and the key that names the
//! result.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::{self, Write as _};

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// A header that sources include by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name in `#include "…"`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// One compilation: a source file, the headers it may include, and the macros that make the variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file's name, as messages show it.
    pub name: Cow<'static, str>,
    /// The file's text.
    pub text: Cow<'static, str>,
    /// Headers, all of them at hand whether included or not.
    pub headers: &'static [Header],
    /// Macros defined ahead of the text, name and value.
    pub macros: Vec<(&'static str, String)>,
}

impl Program {
    /// The options it is compiled with. No fast math, and no contraction but where the source says fma.
    pub fn options(&self, target: Target) -> Vec<String> {
        let mut options = vec![
            "--std=c++17".to_owned(),
            "--fmad=false".to_owned(),
            "--ptxas-options=-v".to_owned(),
            format!("--gpu-architecture={target}"),
        ];
        options.extend(self.macros.iter().map(|(name, value)| format!("--define-macro={name}={value}")));
        options
    }

    /// Names the compiled image: a hash over all that it depends on. Headers count where they are included.
    pub fn key(&self, target: Target, nvrtc: (u32, u32)) -> Key {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(env!("CARGO_PKG_VERSION").as_bytes());
        part(format!("NVRTC {}.{}", nvrtc.0, nvrtc.1).as_bytes());
        for option in self.options(target) {
            part(option.as_bytes());
        }
        part(self.name.as_bytes());
        part(self.text.as_bytes());
        for header in self.included() {
            part(header.name.as_bytes());
            part(header.text.as_bytes());
        }
        Key(hash.finalize().into())
    }

    /// The headers that the text includes, directly or through others, whatever the macros; in the order of
    /// `headers`.
    fn included(&self) -> impl Iterator<Item = &Header> {
        let (mut open, mut seen) = (vec![&*self.text], HashSet::new());
        while let Some(text) = open.pop() {
            for line in
                text.lines().filter(|line| line.trim_start().starts_with('#') && line.contains("include"))
            {
                let named =
                    self.headers.iter().filter(|header| line.contains(&format!("\"{}\"", header.name)));
                open.extend(named.filter(|header| seen.insert(header.name)).map(|header| header.text));
            }
        }
        self.headers.iter().filter(move |header| seen.contains(header.name))
    }
}

/// The name of a compiled image.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub(super) [u8; 32]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The architecture to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// `sm_XY`: a cubin for this architecture, and its PTX.
    Real(u32),
    /// `compute_XY`: PTX alone, which the driver of a newer device compiles further.
    Virtual(u32),
}

impl Target {
    /// The target for a device of compute capability `capability` (80 for 8.0): its own where the compiler
    /// knows it, else PTX of the nearest older one.
    ///
    /// # Errors
    /// [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc) when the compiler knows nothing that the device could
    /// run.
    pub fn for_device(capability: u32, archs: &[u32]) -> Result<Self> {
        if archs.contains(&capability) {
            return Ok(Target::Real(capability));
        }
        let older = archs.iter().copied().filter(|&arch| arch < capability).max();
        older.map(Target::Virtual).ok_or_else(|| {
            let mut known = String::new();
            for arch in archs {
                let _ = write!(known, " {arch}");
            }
            Error::new(
                "jit",
                ErrorKind::Nvrtc {
                    what: format!(
                        "this NVRTC cannot compile for compute capability {capability} (it knows{known})"
                    ),
                    advice: "set MULTIMIX_NVRTC to an older release that still supports the device".into(),
                },
            )
        })
    }
}

impl Target {
    /// The same architecture as PTX alone.
    pub fn as_virtual(self) -> Self {
        match self {
            Target::Real(arch) | Target::Virtual(arch) => Target::Virtual(arch),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Real(arch) => write!(f, "sm_{arch}"),
            Target::Virtual(arch) => write!(f, "compute_{arch}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: &[Header] = &[
        Header { name: "a.cuh", text: "#pragma once\n#include \"b.cuh\"\n" },
        Header { name: "b.cuh", text: "#include \"a.cuh\"\n#define B 1\n" },
        Header { name: "other_b.cuh", text: "#define OTHER 1\n" },
    ];

    fn program() -> Program {
        let macros = vec![("TILE", "64".to_owned())];
        Program { name: "k.cu".into(), text: "#include \"a.cuh\"\nint x;".into(), headers: HEADERS, macros }
    }

    #[test]
    fn the_key_depends_on_everything_that_the_image_depends_on() {
        const OTHER: &[Header] = &[HEADERS[0], Header { name: "b.cuh", text: "#define B 2\n" }];
        let key = program().key(Target::Real(80), (12, 9));
        assert_eq!(key, program().key(Target::Real(80), (12, 9)));
        let others = [
            program().key(Target::Real(86), (12, 9)),
            program().key(Target::Virtual(80), (12, 9)),
            program().key(Target::Real(80), (13, 0)),
            Program { text: "int y;".into(), ..program() }.key(Target::Real(80), (12, 9)),
            Program { name: "l.cu".into(), ..program() }.key(Target::Real(80), (12, 9)),
            Program { headers: OTHER, ..program() }.key(Target::Real(80), (12, 9)),
            Program { macros: vec![("TILE", "32".into())], ..program() }.key(Target::Real(80), (12, 9)),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(key, *other, "change {index}");
        }
    }

    #[test]
    fn the_key_does_not_depend_on_headers_that_are_not_included() {
        const OTHER: &[Header] =
            &[HEADERS[0], HEADERS[1], Header { name: "other_b.cuh", text: "#define OTHER 2\n" }];
        let with_other = Program { headers: OTHER, ..program() };
        assert_eq!(program().key(Target::Real(80), (12, 9)), with_other.key(Target::Real(80), (12, 9)));
        let names: Vec<&str> = with_other.included().map(|header| header.name).collect();
        assert_eq!(names, ["a.cuh", "b.cuh"]);
    }

    #[test]
    fn a_device_newer_than_the_compiler_gets_ptx() {
        let archs = [75, 80, 86, 90];
        assert_eq!(Target::for_device(86, &archs), Ok(Target::Real(86)));
        assert_eq!(Target::for_device(89, &archs), Ok(Target::Virtual(86)));
        assert_eq!(Target::for_device(120, &archs), Ok(Target::Virtual(90)));
        let error = Target::for_device(70, &archs).unwrap_err().to_string();
        assert!(error.contains("compute capability 70") && error.contains("MULTIMIX_NVRTC"), "{error}");
    }
}
