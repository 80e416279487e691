//! Which kernel: a source file with the macros that make the variant of it.

use std::fmt;
use std::hash::{Hash, Hasher};

use super::device::DeviceInfo;
use super::jit::{Header, Program};
use super::queue::Precision;
use super::tile::Tile;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::problem::{Alpha, Generator};

/// How kernels multiply: MATH of types.cuh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Math {
    /// f32, fused multiply-adds.
    Exact = 0,
    /// f32 on tensor cores.
    Tf32 = 1,
    /// 16 bits on tensor cores.
    Half = 2,
}

impl Math {
    /// How elements of this type are multiplied.
    pub fn choose(op: &'static str, device: &DeviceInfo, dtype: Dtype, precision: Precision) -> Result<Self> {
        match (dtype, precision) {
            (Dtype::Bf16, _) if !device.has_ampere_tensor_cores() => {
                let what =
                    format!("{} has no bf16 arithmetic: that needs compute capability 8.0", device.name);
                Err(Error::device(op, what, "use f16 or f32 arrays"))
            }
            (Dtype::F32, Precision::Exact) => Ok(Self::Exact),
            (Dtype::F32, Precision::Tf32) => Ok(Self::Tf32),
            (Dtype::F16 | Dtype::Bf16, _) => Ok(Self::Half),
        }
    }

    /// Bytes of a staged block of the other factor: STAGE_BYTES of tile.cuh.
    pub fn stage_bytes(self) -> u32 {
        if self == Self::Half { 9216 } else { 8704 }
    }
}

/// How columns are drawn: DRAW of draw.cuh and loss_forward.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Draw {
    Exponential = 0,
    Plain = 1,
    Boosted = 2,
    Mixed = 3,
    Pair = 4,
    Explicit = 5,
    /// Not at all: `weights` has stored them.
    Stored = 6,
}

impl Draw {
    /// The kernel's way of a generator.
    pub fn of(generator: Generator) -> Self {
        match generator {
            Generator::Dirichlet { alpha: Alpha::Fixed(1.0) } => Self::Exponential,
            Generator::Dirichlet { alpha } => match alpha.range() {
                (low, _) if low >= 1.0 => Self::Plain,
                (_, high) if high >= 1.0 => Self::Mixed,
                _ => Self::Boosted,
            },
            Generator::Pair { .. } => Self::Pair,
        }
    }
}

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
    "labels.cuh",
    "loss_residual.cuh",
    "loss_rows.cuh",
    "loss_tile.cuh",
    "math.cuh",
    "mma.cuh",
    "pairs.cuh",
    "philox.cuh",
    "reduce.cuh",
    "split.cuh",
    "stage.cuh",
    "tile.cuh",
    "types.cuh",
];

macro_rules! sources {
    ($($constant:ident: $file:literal => $($kernel:ident),*;)*) => {
        $(pub(super) const $constant: Source = Source {
            file: $file,
            text: include_str!(concat!("../../kernels/", $file)),
            kernels: &[$(stringify!($kernel)),*],
        };)*
        #[cfg(test)]
        const SOURCES: &[Source] = &[$($constant),*];
    };
}
sources! {
    ATTENTION: "attention.cu" => attention_forward, attention_backward, attention_rows;
    LOSS_BACKWARD: "loss_backward.cu" => loss_backward;
    LOSS_BACKWARD_ATTENTION: "loss_backward_attention.cu" => loss_backward_attention, loss_backward_attention_sum;
    LOSS_FORWARD: "loss_forward.cu" => loss_forward;
    LOSS_REDUCE: "loss_reduce.cu" => loss_sums, loss_finish;
    MIX_BACKWARD: "mix_backward.cu" => mix_backward;
    MIX_BACKWARD_ATTENTION: "mix_backward_attention.cu" => mix_backward_attention, mix_backward_attention_sum;
    MIX_FORWARD: "mix_forward.cu" => mix_forward;
    PREPARE: "prepare.cu" => prepare_maps, prepare_attention, prepare_features;
    SCALE: "scale.cu" => scale;
    SPLIT_SUM: "split_sum.cu" => split_sum;
    WEIGHTS: "weights.cu" => weights;
}

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// The file's name.
    pub file: &'static str,
    text: &'static str,
    /// The kernels in it.
    pub kernels: &'static [&'static str],
}

// A variant is looked up at every call: by the file's name, not by its text.
impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file
    }
}
impl Eq for Source {}
impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.file.hash(state);
    }
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

    /// With a macro that names an element type.
    pub fn element(self, name: &'static str, dtype: Dtype) -> Self {
        let element = match dtype {
            Dtype::F32 => "float",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        };
        self.with(name, Value::Name(element))
    }

    /// With the macro that says how elements are multiplied.
    pub fn math(self, math: Math) -> Self {
        self.number("MATH", math as u32)
    }

    /// The macros that tell it from others of its source.
    pub fn macros(&self) -> Vec<(&'static str, String)> {
        self.macros.iter().flatten().map(|(name, value)| (*name, value.to_string())).collect()
    }

    /// What the compiler gets: the kernels assert that they use as much shared memory as they are launched
    /// with.
    pub fn program(&self) -> Program {
        let mut macros = self.macros();
        if self.shared_bytes > 0 {
            macros.push(("SHARED_BYTES", self.shared_bytes.to_string()));
        }
        Program { name: self.source.file.into(), text: self.source.text.into(), headers: HEADERS, macros }
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
            let embedded = HEADERS.iter().any(|header| header.name == file)
                || SOURCES.iter().any(|source| source.file == file);
            assert!(embedded || !(file.ends_with(".cu") || file.ends_with(".cuh")), "{file} is not embedded");
        }
    }
}
