//! What ends a launch: the kind of finding, its CUDA error code, and the report for stderr.

use crate::memory::Allocation;
use std::fmt;

/// What went wrong in a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// Access outside every allocation, past the end of one, after free, or through null.
    IllegalAddress,
    /// Address not a multiple of the access size.
    MisalignedAddress,
    /// `trap`, or another instruction that ends the program.
    Trap,
    /// `assert` failed in device code.
    Assert,
    /// An instruction reached its kernel that the virtual GPU does not execute.
    UnsupportedInstruction,
    /// An indirect call or branch went nowhere.
    InvalidPc,
    /// Read of memory that nobody wrote.
    Uninitialised,
    /// Unordered conflicting accesses of two threads.
    Race,
    /// A barrier reached by part of a warp, or never completed.
    Barrier,
    /// A warp collective with missing lanes or a wrong mask.
    Collective,
    /// A `cp.async` destination touched before its wait.
    AsyncCopy,
    /// The instruction limit of [`crate::Settings`] was reached.
    Timeout,
    /// More threads or shared memory than a block can have.
    OutOfResources,
    /// The stack (local memory of calls) overflowed.
    StackOverflow,
    /// The virtual GPU itself failed.
    Internal,
}

impl FaultKind {
    /// The `CUresult` that the next synchronisation returns.
    pub const fn code(self) -> u32 {
        match self {
            FaultKind::IllegalAddress => 700,
            FaultKind::MisalignedAddress => 716,
            FaultKind::Assert => 710,
            FaultKind::UnsupportedInstruction => 218,
            FaultKind::InvalidPc => 718,
            FaultKind::OutOfResources => 701,
            FaultKind::Timeout => 702,
            FaultKind::Internal => 999,
            FaultKind::Trap
            | FaultKind::Uninitialised
            | FaultKind::Race
            | FaultKind::Barrier
            | FaultKind::Collective
            | FaultKind::AsyncCopy
            | FaultKind::StackOverflow => 719,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            FaultKind::IllegalAddress => "illegal address",
            FaultKind::MisalignedAddress => "misaligned address",
            FaultKind::Trap => "trap",
            FaultKind::Assert => "assertion failed",
            FaultKind::UnsupportedInstruction => "unsupported instruction",
            FaultKind::InvalidPc => "invalid program counter",
            FaultKind::Uninitialised => "read of uninitialised memory",
            FaultKind::Race => "race",
            FaultKind::Barrier => "barrier misuse",
            FaultKind::Collective => "warp collective misuse",
            FaultKind::AsyncCopy => "asynchronous copy misuse",
            FaultKind::OutOfResources => "too many resources requested",
            FaultKind::Timeout => "instruction limit reached",
            FaultKind::StackOverflow => "stack overflow",
            FaultKind::Internal => "internal error",
        }
    }
}

/// Where a source line is, from `.loc`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceLocation {
    /// File as `.file` names it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
}

/// A finding that ended a launch.
#[derive(Clone, PartialEq, Debug)]
pub struct Fault {
    /// What it is.
    pub kind: FaultKind,
    /// Entry name.
    pub kernel: String,
    /// Grid dimensions of the launch.
    pub grid: [u32; 3],
    /// Block dimensions of the launch.
    pub block: [u32; 3],
    /// Index of the block in which it happened.
    pub block_idx: [u32; 3],
    /// Thread indices concerned, the one that met the finding first.
    pub threads: Vec<[u32; 3]>,
    /// Line in the module's PTX text, from 1; 0 where no instruction is concerned.
    pub ptx_line: u32,
    /// Text of that line.
    pub ptx_text: String,
    /// Source line, where the module has line information.
    pub loc: Option<SourceLocation>,
    /// Address concerned: device address, or offset in the block's shared memory.
    pub address: Option<u64>,
    /// Allocation at, or nearest below, the address.
    pub allocation: Option<Allocation>,
    /// What happened, in words.
    pub message: String,
}

impl Fault {
    /// The `CUresult` that the next synchronisation returns.
    pub fn code(&self) -> u32 {
        self.kind.code()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let triple = |v: [u32; 3]| format!("({}, {}, {})", v[0], v[1], v[2]);
        writeln!(f, "vgpu: {} (CUresult {}) in kernel {}", self.kind.title(), self.code(), self.kernel)?;
        writeln!(f, "  {}", self.message)?;
        writeln!(f, "  grid {}, block {}", triple(self.grid), triple(self.block))?;
        let threads: Vec<String> = self.threads.iter().take(4).map(|&t| triple(t)).collect();
        let more = if self.threads.len() > 4 {
            format!(" and {} more", self.threads.len() - 4)
        } else {
            String::new()
        };
        writeln!(f, "  at block {}, thread {}{more}", triple(self.block_idx), threads.join(", "))?;
        if self.ptx_line != 0 {
            writeln!(f, "  PTX line {}: {}", self.ptx_line, self.ptx_text.trim())?;
        }
        if let Some(loc) = &self.loc {
            writeln!(f, "  source {}:{}", loc.file, loc.line)?;
        }
        if let Some(address) = self.address {
            write!(f, "  address {address:#x}")?;
            if let Some(a) = self.allocation {
                write!(f, ", allocation {:#x} of {} bytes", a.base, a.size)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
