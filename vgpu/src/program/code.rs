//! Decoded instructions: what the engine dispatches on.

use crate::arith::mma::Mma;
use crate::arith::wmma::Fragment;
use crate::arith::{F32Mode, Half};
use crate::counters::Class;
use crate::exec::lanes::{Args, LaneOp, Row, TestOp};

/// Index of a predicate in its frame.
pub(crate) type Pred = u32;

/// Index of an instruction in [`Code::instructions`].
pub(crate) type Pc = u32;

/// No row: a `_` operand.
pub(crate) const NO_ROW: Row = Row::MAX;

/// A predicate operand, possibly negated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PredSource {
    pub(crate) pred: Pred,
    pub(crate) negated: bool,
}

/// Logic between predicates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
    /// The first operand.
    Copy,
    /// The first operand, negated.
    Not,
}

impl Logic {
    #[inline(always)]
    pub(crate) fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
            Logic::Copy => a,
            Logic::Not => !a,
        }
    }
}

/// One instruction.
pub(crate) struct Inst {
    pub(crate) op: Op,
    pub(crate) guard: Option<PredSource>,
    /// Position in the schedule of diverged threads: the lowest runs first.
    pub(crate) order: u32,
    pub(crate) line: u32,
    pub(crate) loc: u32,
    pub(crate) class: Class,
    /// Floating-point operations per thread.
    pub(crate) flops: u8,
}

/// Special registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    Clock,
    ClockHi,
    GlobalTimer,
    GlobalTimerHi,
    DynamicShared,
    TotalShared,
    Constant(u32),
}

/// Where an address comes from; the offset is added to it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    /// 64-bit register.
    Wide(Row),
    /// 32-bit register, zero-extended.
    Narrow(Row),
    /// Nothing: the offset is the address.
    Absolute,
    /// Local memory of the current frame.
    Frame,
}

/// State space of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    /// Parameters of the kernel.
    KernelParam,
}

/// A register that memory instructions read or write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) row: Row,
    /// Width of the register: 16, 32 or 64.
    pub(crate) bits: u8,
}

/// `ld` and `st`.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) space: Space,
    pub(crate) base: Base,
    pub(crate) offset: i64,
    /// Bytes per element.
    pub(crate) width: u8,
    /// Whether narrow loads extend the sign.
    pub(crate) signed: bool,
    /// Volatile, relaxed, acquire, release: takes part in no race.
    pub(crate) strong: bool,
    /// Element registers, in order.
    pub(crate) values: Vec<Cell>,
}

impl Access {
    /// Bytes that each thread accesses.
    pub(crate) fn bytes(&self) -> u32 {
        u32::from(self.width) * self.values.len() as u32
    }

    /// Whether 16 bytes are accessed as one.
    pub(crate) fn is_wide_atomic(&self) -> bool {
        self.strong && self.width == 8 && self.values.len() == 2
    }
}

/// Operation of `atom` and `red`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exch,
    Cas,
}

/// Type of `atom` and `red`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtomType {
    /// Unsigned or bits.
    U(u8),
    S(u8),
    F32(F32Mode),
    F64,
    Half(Half),
    Half2(Half),
}

impl AtomType {
    pub(crate) fn bytes(self) -> u32 {
        match self {
            AtomType::U(bits) | AtomType::S(bits) => u32::from(bits) / 8,
            AtomType::F32(_) | AtomType::Half2(_) => 4,
            AtomType::F64 => 8,
            AtomType::Half(_) => 2,
        }
    }
}

/// `atom` and `red`, vector forms included.
#[derive(Debug)]
pub(crate) struct Atomic {
    pub(crate) op: AtomOp,
    pub(crate) ty: AtomType,
    pub(crate) space: Space,
    pub(crate) base: Base,
    pub(crate) offset: i64,
    /// Old values, one per element; none for `red`.
    pub(crate) dst: Vec<Cell>,
    pub(crate) src: Vec<Cell>,
    /// New value of `cas`.
    pub(crate) swap: Option<Cell>,
    /// `.acquire`, `.release` or `.acq_rel`.
    pub(crate) fence: bool,
}

/// `atom.exch` and `atom.cas` of 128 bits.
#[derive(Debug)]
pub(crate) struct WideAtomic {
    pub(crate) space: Space,
    pub(crate) base: Base,
    pub(crate) offset: i64,
    /// Four rows each; `NO_ROW` where nobody wants the old value.
    pub(crate) dst: Row,
    pub(crate) src: Row,
    /// New value of `cas`.
    pub(crate) swap: Option<Row>,
    pub(crate) fence: bool,
}

/// Mode of `shfl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `shfl.sync`.
#[derive(Debug)]
pub(crate) struct Shfl {
    pub(crate) mode: Shuffle,
    pub(crate) d: Row,
    pub(crate) p: Option<Pred>,
    pub(crate) a: Row,
    pub(crate) b: Row,
    pub(crate) c: Row,
    pub(crate) members: Row,
}

/// Mode of `vote.sync`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// Operation of `redux.sync`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Redux {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
    /// f32 `min`/`max` with (`abs`, `nan`).
    FloatMin(bool, bool),
    FloatMax(bool, bool),
}

/// Instructions over the lanes of a warp under a membermask.
#[derive(Debug)]
pub(crate) enum Collective {
    Shfl(Shfl),
    Vote {
        mode: Vote,
        source: PredSource,
        p: Option<Pred>,
        d: Row,
        members: Row,
    },
    Match {
        all: bool,
        wide: bool,
        a: Row,
        d: Row,
        p: Option<Pred>,
        members: Row,
    },
    Redux {
        op: Redux,
        a: Row,
        d: Row,
        members: Row,
    },
    Elect {
        d: Row,
        p: Pred,
        members: Row,
    },
    /// `bar.warp.sync`.
    Sync {
        members: Row,
    },
}

impl Collective {
    pub(crate) fn members(&self) -> Row {
        match self {
            Collective::Shfl(shfl) => shfl.members,
            Collective::Vote { members, .. }
            | Collective::Match { members, .. }
            | Collective::Redux { members, .. }
            | Collective::Elect { members, .. }
            | Collective::Sync { members } => *members,
        }
    }
}

/// What a barrier does besides waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reduction {
    None,
    Popc(Row, PredSource),
    And(Pred, PredSource),
    Or(Pred, PredSource),
}

/// `bar` and `barrier`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Barrier {
    pub(crate) id: Row,
    pub(crate) count: Option<Row>,
    /// `bar.arrive`: does not wait.
    pub(crate) arrive: bool,
    /// All threads of the warp must execute it together.
    pub(crate) aligned: bool,
    pub(crate) reduction: Reduction,
}

/// `cp.async`.
#[derive(Debug)]
pub(crate) struct CopyAsync {
    pub(crate) dst: (Base, i64),
    pub(crate) src: (Base, i64),
    pub(crate) bytes: u8,
    /// Bytes to copy, the rest is zero.
    pub(crate) size: Option<Row>,
    /// All bytes are zero where the predicate holds.
    pub(crate) ignore: Option<PredSource>,
}

/// Functions of the device runtime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Builtin {
    Vprintf,
    AssertFail,
    Malloc,
    Free,
}

/// Arguments and results of a call: offsets and sizes in the caller's local memory.
#[derive(Debug, Default)]
pub(crate) struct CallSite {
    pub(crate) args: Vec<(u32, u32)>,
    pub(crate) returns: Vec<(u32, u32)>,
}

/// `mma.sync` and `wmma.mma`: registers of each operand (64-bit ones for f64).
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) mma: Mma,
    pub(crate) a: Vec<Row>,
    pub(crate) b: Vec<Row>,
    pub(crate) c: Vec<Row>,
    pub(crate) d: Vec<Row>,
}

/// `ldmatrix` and `stmatrix` of 8x8 tiles.
#[derive(Debug)]
pub(crate) struct TileAccess {
    pub(crate) base: Base,
    pub(crate) offset: i64,
    pub(crate) space: Space,
    pub(crate) rows: Vec<Row>,
    pub(crate) transposed: bool,
    pub(crate) store: bool,
}

/// `wmma.load` and `wmma.store`.
#[derive(Debug)]
pub(crate) struct FragmentAccess {
    pub(crate) base: Base,
    pub(crate) offset: i64,
    pub(crate) space: Space,
    pub(crate) store: bool,
    pub(crate) fragment: Fragment,
    pub(crate) column_major: bool,
    /// Leading dimension in elements, where the instruction gives one.
    pub(crate) stride: Option<Row>,
    pub(crate) values: Vec<Row>,
}

/// What an instruction does.
pub(crate) enum Op {
    Lanes {
        run: LaneOp,
        args: Args,
    },
    Test {
        run: TestOp,
        args: Args,
        p: Option<Pred>,
        q: Option<Pred>,
        combine: Option<(Logic, PredSource)>,
    },
    Predicate {
        op: Logic,
        d: Pred,
        a: PredSource,
        b: PredSource,
    },
    Special {
        which: Special,
        d: Cell,
    },
    /// Address of local memory of the frame.
    FrameAddress {
        offset: u32,
        d: Cell,
    },
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    WideAtomic(Box<WideAtomic>),
    /// Memory of the thread's stack, until its function returns.
    Alloca {
        size: Cell,
        align: u32,
        d: Cell,
    },
    StackSave {
        d: Cell,
    },
    StackRestore {
        a: Cell,
    },
    Branch {
        target: Pc,
    },
    /// `brx.idx`.
    BranchTable {
        index: Row,
        targets: Vec<Pc>,
    },
    Call {
        function: u32,
        site: Box<CallSite>,
    },
    CallIndirect {
        target: Row,
        site: Box<CallSite>,
    },
    CallBuiltin {
        which: Builtin,
        site: Box<CallSite>,
    },
    Return,
    Exit,
    Trap {
        message: &'static str,
    },
    Barrier(Barrier),
    Collective(Box<Collective>),
    ActiveMask {
        d: Row,
    },
    /// `membar`, `fence`: the flag says whether it orders beyond the block.
    Fence {
        wide: bool,
    },
    CopyAsync(Box<CopyAsync>),
    CopyCommit,
    /// Waits until at most so many groups are pending; `None`: `wait_all`.
    CopyWait(Option<u32>),
    Matrix(Box<Matrix>),
    /// `movmatrix`.
    Transpose {
        d: Row,
        a: Row,
    },
    Tiles(Box<TileAccess>),
    Fragment(Box<FragmentAccess>),
    /// `isspacep`: whether generic addresses lie in a space.
    IsSpace {
        space: Space,
        a: Row,
        p: Pred,
    },
    /// `prefetch`, `discard`, `nanosleep` and other hints.
    Nothing,
}

/// A constant row of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constant {
    pub(crate) row: Row,
    pub(crate) wide: bool,
    pub(crate) bits: u64,
}

/// One function of a kernel's code.
#[derive(Debug, Default)]
pub(crate) struct FunctionCode {
    pub(crate) entry: Pc,
    pub(crate) rows: u32,
    pub(crate) preds: u32,
    pub(crate) constants: Vec<Constant>,
    pub(crate) local_bytes: u32,
    /// Offsets and sizes of parameters and results in the frame's local memory.
    pub(crate) params: Vec<(u32, u32)>,
    pub(crate) returns: Vec<(u32, u32)>,
}

/// Everything a kernel executes. Function 0 is the entry.
#[derive(Default)]
pub(crate) struct Code {
    pub(crate) instructions: Vec<Inst>,
    pub(crate) functions: Vec<FunctionCode>,
    /// Function of each index in the module, for indirect calls.
    pub(crate) by_module_index: Vec<Option<u32>>,
    /// Offset of the dynamic shared memory.
    pub(crate) dynamic_shared: u32,
    /// (file, line) by `loc`.
    pub(crate) locations: Vec<(u32, u32)>,
    pub(crate) files: std::collections::HashMap<u32, String>,
    /// Text of each line that holds an instruction, for reports.
    pub(crate) text: std::sync::Arc<str>,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Code({} instructions, {} functions)", self.instructions.len(), self.functions.len())
    }
}
