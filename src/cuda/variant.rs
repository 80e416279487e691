//! Which kernel: a source file with the macros that make the variant of it.

use std::fmt;

use super::jit::{Header, Program};
use super::tile::Tile;

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        &[$(Header { name: $name, text: include_str!(concat!("../../kernels/", $name)) }),*]
    };
}

/// Everything that a kernel source may include.
const HEADERS: &[Header] = embed![
    "columns.cuh",
    "draw.cuh",
    "gamma.cuh",
    "loss_residual.cuh",
    "loss_rows.cuh",
    "loss_tile.cuh",
    "math.cuh",
    "mma.cuh",
    "pairs.cuh",
    "philox.cuh",
    "reduce.cuh",
    "stage.cuh",
    "tile.cuh",
    "types.cuh",
];

const SOURCES: &[Header] = embed![
    "attention.cu",
    "loss_backward.cu",
    "loss_backward_attention.cu",
    "loss_forward.cu",
    "mix_backward.cu",
    "mix_backward_attention.cu",
    "mix_forward.cu",
    "prepare.cu",
    "weights.cu",
];

/// A file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    /// The file's name.
    pub file: &'static str,
    /// The kernels in it.
    pub kernels: &'static [&'static str],
}

/// A macro's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Number(u32),
    Name(&'static str),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => number.fmt(f),
            Value::Name(name) => name.fmt(f),
        }
    }
}

/// The most macros that a source takes.
const MACROS: usize = 10;

/// One compilation of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub source: Source,
    macros: [Option<(&'static str, Value)>; MACROS],
    /// Dynamic shared memory of a block, a function of the macros.
    pub shared_bytes: u32,
}

impl Variant {
    pub fn new(source: Source) -> Self {
        Self { source, macros: [None; MACROS], shared_bytes: 0 }
    }

    /// With one more macro.
    pub fn number(self, name: &'static str, value: u32) -> Self {
        self.with(name, Value::Number(value))
    }

    /// With one more macro.
    pub fn name(self, name: &'static str, value: &'static str) -> Self {
        self.with(name, Value::Name(value))
    }

    /// With the macros of a tile.
    pub(super) fn tile(self, tile: &Tile) -> Self {
        let multi = u32::from(tile.multi);
        self.number("PANEL", tile.panel).number("MULTI", multi).number("WARPS", tile.warps)
    }

    /// With dynamic shared memory.
    pub fn shared(self, bytes: u32) -> Self {
        Self { shared_bytes: bytes, ..self }
    }

    fn with(mut self, name: &'static str, value: Value) -> Self {
        let free = self.macros.iter_mut().find(|slot| slot.is_none()).expect("no source takes more macros");
        *free = Some((name, value));
        self
    }

    /// What the compiler gets.
    pub fn program(&self) -> Program {
        let text = SOURCES.iter().find(|source| source.name == self.source.file).map(|source| source.text);
        Program {
            name: self.source.file.into(),
            text: text.expect("sources are named by constants of this crate").into(),
            headers: HEADERS,
            macros: self.macros.iter().flatten().map(|(name, value)| (*name, value.to_string())).collect(),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source.file.trim_end_matches(".cu"))?;
        self.macros.iter().flatten().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_kernels_is_embedded() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            let embedded = HEADERS.iter().chain(SOURCES).any(|header| header.name == file);
            assert!(embedded || !(file.ends_with(".cu") || file.ends_with(".cuh")), "{file} is not embedded");
        }
    }
}
