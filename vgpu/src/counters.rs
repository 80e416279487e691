//! What a launch did, counted: exact, and the same whatever the number of host threads.

use serde::{Deserialize, Serialize};

/// Instruction classes of the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Class {
    /// Integer and logic arithmetic.
    Integer,
    /// f32 arithmetic.
    F32,
    /// f64 arithmetic.
    F64,
    /// f16, bf16 and their packed forms.
    Half,
    /// Approximate units: ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh.
    Special,
    /// `cvt`.
    Convert,
    /// `mov`, `selp`, `prmt`-free data movement, `cvta`.
    Move,
    /// `setp`, `set` and predicate logic.
    Compare,
    /// `bra`, `brx`, `call`, `ret`, `exit`.
    Control,
    /// `ld` and `st` of global memory, `cp.async`.
    Global,
    /// `ld`, `st`, `ldmatrix`, `stmatrix` of shared memory.
    Shared,
    /// `ld` and `st` of local memory.
    Local,
    /// `ld` of constants and parameters.
    Constant,
    /// `atom` and `red`.
    Atomic,
    /// `shfl`, `vote`, `match`, `redux`, `activemask`, `elect`.
    Warp,
    /// `mma`, `wmma.mma`, `movmatrix`.
    Tensor,
    /// `bar`, `barrier`, `bar.warp.sync`, fences.
    Barrier,
    /// Everything else.
    Other,
}

impl Class {
    /// Number of classes.
    pub const COUNT: usize = Class::Other as usize + 1;

    /// Every class, in the order of the counters' arrays.
    pub const ALL: [Class; Class::COUNT] = [
        Class::Integer,
        Class::F32,
        Class::F64,
        Class::Half,
        Class::Special,
        Class::Convert,
        Class::Move,
        Class::Compare,
        Class::Control,
        Class::Global,
        Class::Shared,
        Class::Local,
        Class::Constant,
        Class::Atomic,
        Class::Warp,
        Class::Tensor,
        Class::Barrier,
        Class::Other,
    ];

    /// Name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Integer => "integer",
            Class::F32 => "f32",
            Class::F64 => "f64",
            Class::Half => "half",
            Class::Special => "special",
            Class::Convert => "convert",
            Class::Move => "move",
            Class::Compare => "compare",
            Class::Control => "control",
            Class::Global => "global",
            Class::Shared => "shared",
            Class::Local => "local",
            Class::Constant => "constant",
            Class::Atomic => "atomic",
            Class::Warp => "warp",
            Class::Tensor => "tensor",
            Class::Barrier => "barrier",
            Class::Other => "other",
        }
    }
}

/// Traffic of one direction in one space that goes through 32-byte sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Warp instructions with at least one active thread.
    pub requests: u64,
    /// 32-byte sectors, distinct within each request.
    pub sectors: u64,
    /// Bytes that threads asked for (active threads x access size).
    pub bytes: u64,
    /// Sectors touched by the launch, each counted once (0 for local memory).
    pub unique_sectors: u64,
    /// Bytes touched by the launch, each counted once (0 for local memory).
    pub unique_bytes: u64,
}

/// Traffic of one direction in shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SharedTraffic {
    /// Warp instructions with at least one active thread.
    pub requests: u64,
    /// Passes over the 32 banks of 4 bytes.
    pub wavefronts: u64,
    /// Passes that the distinct words would need without bank conflicts.
    pub ideal_wavefronts: u64,
    /// Bytes that threads asked for.
    pub bytes: u64,
}

/// Counters of one launch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Entry name.
    pub kernel: String,
    /// Grid dimensions.
    pub grid: [u32; 3],
    /// Block dimensions.
    pub block: [u32; 3],
    /// Warp instructions by [`Class`].
    #[serde(with = "by_class")]
    pub warp_instructions: [u64; Class::COUNT],
    /// Thread instructions (active, predicate true) by [`Class`].
    #[serde(with = "by_class")]
    pub thread_instructions: [u64; Class::COUNT],
    /// Conditional branches executed by a warp.
    pub branches: u64,
    /// Of these, those after which threads of the warp went both ways.
    pub divergent_branches: u64,
    /// Loads of global memory.
    pub global_loads: Traffic,
    /// Stores to global memory.
    pub global_stores: Traffic,
    /// Loads of local memory.
    pub local_loads: Traffic,
    /// Stores to local memory.
    pub local_stores: Traffic,
    /// Loads of shared memory.
    pub shared_loads: SharedTraffic,
    /// Stores to shared memory.
    pub shared_stores: SharedTraffic,
    /// Atomic operations on global memory, per thread.
    pub global_atomics: u64,
    /// Atomic operations on shared memory, per thread.
    pub shared_atomics: u64,
    /// Floating-point operations of f32 and half arithmetic outside the tensor cores (an FMA counts two).
    pub flops: u64,
    /// Floating-point operations of f64 arithmetic.
    pub f64_flops: u64,
    /// Operations of matrix instructions (`2 m n k` each).
    pub tensor_flops: u64,
    /// The same in operations on 16 bits, by the rate of tensor cores: those on tf32 count twice, on 8 bits
    /// half; f64 is left out.
    pub tensor_work: u64,
    /// Block barriers, per warp.
    pub barriers: u64,
    /// Registers per thread as the PTX declares them, in 32-bit units.
    pub registers: u32,
    /// Shared memory per block, static and dynamic, in bytes.
    pub shared_bytes: u32,
}

/// Arrays over the classes, written as maps from class name to count.
mod by_class {
    use super::Class;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub fn serialize<S: Serializer>(counts: &[u64; Class::COUNT], to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(Class::ALL.iter().map(|&class| (class.name(), counts[class as usize])))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u64; Class::COUNT], D::Error> {
        let counts = BTreeMap::<String, u64>::deserialize(from)?;
        Ok(Class::ALL.map(|class| counts.get(class.name()).copied().unwrap_or(0)))
    }
}

impl Counters {
    /// Warp instructions of all classes.
    pub fn total_warp_instructions(&self) -> u64 {
        self.warp_instructions.iter().sum()
    }

    /// Thread instructions of all classes.
    pub fn total_thread_instructions(&self) -> u64 {
        self.thread_instructions.iter().sum()
    }

    /// Share of conditional branches after which the warp stayed together; 1 where there were none.
    pub fn branch_efficiency(&self) -> f64 {
        if self.branches == 0 { 1.0 } else { 1.0 - self.divergent_branches as f64 / self.branches as f64 }
    }
}
