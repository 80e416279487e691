//! A warp: registers, call frames, and the groups of threads that stand at different places.

use super::lanes::{LANES, Row, Rows};
use crate::arith::Noise;
use crate::program::code::{Cell, Code, FunctionCode, Pc};

/// One row of registers.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct RowCells([u32; LANES]);

/// Why a group does not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GroupState {
    Ready,
    /// Waits at a collective for lanes of its membermask.
    Collective,
    /// Stands before an aligned barrier without all lanes of the warp.
    PartialBarrier,
    /// Waits at this barrier of the block.
    Barrier(u8),
}

/// Threads of a warp that stand at the same place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) pc: Pc,
    pub(crate) mask: u32,
    pub(crate) frame: u32,
    pub(crate) state: GroupState,
    /// When it last used up a quantum, for fairness.
    pub(crate) ran: u64,
}

/// Registers and local memory of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) function: u32,
    pub(crate) parent: u32,
    pub(crate) depth: u32,
    /// The call; threads return behind it.
    pub(crate) call: Pc,
    row: usize,
    pred: usize,
    pub(crate) local: u32,
    /// Threads that have not returned.
    pub(crate) lanes: u32,
    /// Holds only memory that the function of `parent` took from the stack.
    pub(crate) taken: bool,
}

/// A `cp.async` of one thread that has not landed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingCopy {
    pub(crate) lane: u8,
    pub(crate) bytes: u8,
    /// Bytes that come from memory, the rest being zero.
    pub(crate) size: u8,
    pub(crate) dst: u32,
    pub(crate) src: u64,
    pub(crate) group: u32,
}

/// A warp of a block.
#[derive(Default)]
pub(crate) struct Warp {
    pub(crate) index: u32,
    /// Threads that have not exited.
    pub(crate) live: u32,
    pub(crate) groups: Vec<Group>,
    pub(crate) frames: Vec<Frame>,
    rows: Vec<RowCells>,
    preds: Vec<u32>,
    /// Local memory: word `i` of lane `l` at `[i * 32 + l]`.
    pub(crate) local: Vec<u32>,
    pub(crate) copies: Vec<PendingCopy>,
    /// Number of the open group of copies, per lane.
    pub(crate) copy_group: [u32; LANES],
    pub(crate) steps: u64,
    /// Steps up to the running instruction: the warp's clock.
    pub(crate) now: u64,
    /// Whether the next choice of a group goes by fairness.
    pub(crate) starved: bool,
}

impl Warp {
    /// Puts the warp at the start of the kernel.
    pub(crate) fn start(&mut self, index: u32, present: u32, code: &Code) {
        self.index = index;
        self.live = present;
        self.groups.clear();
        self.frames.clear();
        self.rows.clear();
        self.preds.clear();
        self.local.clear();
        self.copies.clear();
        self.copy_group = [0; LANES];
        self.steps = 0;
        self.now = 0;
        self.starved = false;
        self.push_frame(&code.functions[0], 0, 0, 0, present);
        let pc = code.functions[0].entry;
        self.groups.push(Group { pc, mask: present, frame: 0, state: GroupState::Ready, ran: 0 });
    }

    /// Opens a frame and returns its number.
    pub(crate) fn push_frame(
        &mut self,
        function: &FunctionCode,
        number: u32,
        parent: u32,
        call: Pc,
        lanes: u32,
    ) -> u32 {
        let (row, pred, local) = (self.rows.len(), self.preds.len(), self.local.len() / LANES * 4);
        self.rows.resize(row + function.rows as usize, RowCells([0; LANES]));
        self.preds.resize(pred + function.preds as usize, 0);
        self.local.resize(self.local.len() + function.local_bytes as usize / 4 * LANES, 0);
        for constant in &function.constants {
            let at = row + constant.row as usize;
            if constant.wide {
                let halves = [constant.bits as u32, (constant.bits >> 32) as u32];
                for cell in 0..2 * LANES {
                    self.rows[at + cell / LANES].0[cell % LANES] = halves[cell % 2];
                }
            } else {
                self.rows[at].0 = [constant.bits as u32; LANES];
            }
        }
        let depth = self.frames.get(parent as usize).map_or(0, |frame| frame.depth + 1);
        let local = local as u32;
        self.frames.push(Frame {
            function: number,
            parent,
            depth,
            call,
            row,
            pred,
            local,
            lanes,
            taken: false,
        });
        self.frames.len() as u32 - 1
    }

    /// Extends the stack up to `end` for a frame's function, until it returns.
    pub(crate) fn take_stack(&mut self, frame: u32, end: usize, lanes: u32) {
        let (row, pred, local) = (self.rows.len(), self.preds.len(), self.stack_bytes() as u32);
        self.frames.push(Frame {
            parent: frame,
            row,
            pred,
            local,
            lanes,
            taken: true,
            ..self.frames[frame as usize]
        });
        self.local.resize(end.div_ceil(4) * LANES, 0);
    }

    /// Threads return from a frame.
    pub(crate) fn leave_frame(&mut self, frame: u32, lanes: u32) {
        self.frames[frame as usize].lanes &= !lanes;
        for taken in self.frames.iter_mut().filter(|other| other.taken && other.parent == frame) {
            taken.lanes &= !lanes;
        }
        self.pop_frames();
    }

    /// Closes frames at the end of the stack that no thread is in.
    pub(crate) fn pop_frames(&mut self) {
        while self.frames.len() > 1 && self.frames.last().is_some_and(|frame| frame.lanes == 0) {
            if let Some(frame) = self.frames.pop() {
                self.rows.truncate(frame.row);
                self.preds.truncate(frame.pred);
                self.local.truncate(frame.local as usize / 4 * LANES);
            }
        }
    }

    /// The registers of a frame; valid until a frame is opened or closed.
    pub(crate) fn rows(&mut self, frame: u32, noise: Noise) -> Rows {
        let frame = self.frames[frame as usize];
        // SAFETY: the frame's rows and predicates were allocated by `push_frame` as its function declares,
        // and the decoder uses no others. `add` stays inside or at the end of the vectors.
        unsafe {
            let words = self.rows.as_mut_ptr().add(frame.row).cast();
            Rows::new(words, self.preds.as_mut_ptr().add(frame.pred), noise)
        }
    }

    /// Local memory of a thread, of all its frames.
    pub(crate) fn stack_bytes(&self) -> usize {
        self.local.len() / LANES * 4
    }

    /// Whether calls have nested so deep that the host would run out of room for their registers.
    pub(crate) fn is_deep(&self) -> bool {
        const FRAMES: usize = 1 << 14;
        const ROWS: usize = 1 << 18;
        self.frames.len() >= FRAMES || self.rows.len() >= ROWS
    }

    pub(crate) fn is_done(&self) -> bool {
        self.groups.is_empty()
    }
}

/// Values of a source cell, zero-extended.
pub(crate) fn read_cell(rows: Rows, cell: Cell) -> [u64; LANES] {
    // SAFETY: cells come from the decoder with the width of their register.
    unsafe {
        match cell.bits {
            64 => rows.load::<u64>(cell.row),
            _ => rows.load::<u32>(cell.row).map(u64::from),
        }
    }
}

/// Values of a 32-bit row.
#[inline(always)]
pub(crate) fn read_row(rows: Rows, row: Row) -> [u32; LANES] {
    // SAFETY: the decoder gives 32-bit rows where it declares `Row` operands of 32 bits.
    unsafe { rows.load(row) }
}

/// Writes the lanes under `mask`, cut to the register's width.
pub(crate) fn write_cell(rows: Rows, cell: Cell, mask: u32, values: &[u64; LANES]) {
    // SAFETY: as in `read_cell`.
    unsafe {
        if cell.bits == 64 {
            let mut out = rows.load::<u64>(cell.row);
            for lane in 0..LANES {
                out[lane] = if mask >> lane & 1 != 0 { values[lane] } else { out[lane] };
            }
            rows.store(cell.row, out);
        } else {
            let keep = if cell.bits == 16 { 0xffff } else { u32::MAX };
            let mut out = rows.load::<u32>(cell.row);
            for lane in 0..LANES {
                out[lane] = if mask >> lane & 1 != 0 { values[lane] as u32 & keep } else { out[lane] };
            }
            rows.store(cell.row, out);
        }
    }
}

/// Writes the lanes under `mask` of a 32-bit row.
pub(crate) fn write_row(rows: Rows, row: Row, mask: u32, values: &[u32; LANES]) {
    // SAFETY: as in `read_row`.
    unsafe {
        let mut out = rows.load::<u32>(row);
        for lane in 0..LANES {
            out[lane] = if mask >> lane & 1 != 0 { values[lane] } else { out[lane] };
        }
        rows.store(row, out);
    }
}
