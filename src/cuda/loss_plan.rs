//! How a call of the loss runs: chunk after chunk of columns through a workspace of bounded size.

use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::device::DeviceInfo;
use super::engine::Engine;
use super::loss::{OP, RawLoss};
use super::matrix::{Matrix, RawTargets, math};
use super::queue::Precision;
use super::sampler::{Prepared, element_bytes};
use super::tile::{Tile, splits};
use super::view::RawView;
use super::weights::{Chunk, fill_chunk};
use super::workspace::Carve;
use super::{loss_backward, loss_backward_attention, loss_forward};
use crate::element::Dtype;
use crate::error::Result;
use crate::problem::Reduction;
use crate::view::Layout;

/// Columns of a chunk where their mix matrix is kept: 128 x 49 of them in 16 bits are 13 MB, which stays in the L2 cache.
const STORED_CHUNK: usize = 1024;
/// Columns of a chunk where it is not.
const DRAWN_CHUNK: usize = 8192;
/// Slices over which a gradient's columns are split at most.
const MOST_SPLITS: usize = 8;

/// Everything about a call that its sizes and the device decide.
pub(super) struct Plan<'a> {
    pub engine: &'a Engine,
    pub call: &'a RawLoss<'a>,
    /// MATH of the kernels.
    pub math: u32,
    /// Whether any gradient is wanted.
    pub gradient: bool,
    /// How a block draws; none where the batch does not fit one and columns are stored first.
    pub tile: Option<Tile>,
    pub chunk: usize,
    /// Slices of dS, and of da.
    pub splits: usize,
    pub attention_splits: usize,
    pub memory: Memory,
    bytes: usize,
}

/// The workspace, divided.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub prepared: Prepared,
    /// M̂ of a chunk, (r, columns, pitch) of numbers as they are multiplied.
    pub matrix: CUdeviceptr,
    /// Λ of a chunk, (r, columns, pitch) in f32.
    pub lambda: CUdeviceptr,
    /// s (r, columns), where columns are stored first.
    pub masses: CUdeviceptr,
    pub statistics: CUdeviceptr,
    pub partial: CUdeviceptr,
    pub sums: CUdeviceptr,
    pub ranges: CUdeviceptr,
    pub shares: CUdeviceptr,
    pub d_logits: CUdeviceptr,
    pub d_attention: CUdeviceptr,
}

/// A range of columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub first: usize,
    pub columns: usize,
}

impl<'a> Plan<'a> {
    pub fn new(engine: &'a Engine, call: &'a RawLoss<'a>) -> Result<Self> {
        let [b, r, c] = call.logits.layout.shape;
        let n = call.columns.mixing.n;
        let attention = call.outputs.attention.is_some();
        let gradient = attention || call.outputs.logits.is_some();
        let math = choose_math(engine.device(), call.dtype, call.precision, attention)?;
        let soft = matches!(call.targets, RawTargets::Soft(_));
        let tile = loss_forward::choose_tile(engine, b, math, soft);
        let stored = gradient || tile.is_none();
        let chunk = n.min(if stored { STORED_CHUNK } else { DRAWN_CHUNK });
        let spread = |blocks: usize| splits(blocks, chunk.div_ceil(64).min(MOST_SPLITS));
        let rows = |panel: usize| r.saturating_mul(b.div_ceil(panel)).saturating_mul(c.div_ceil(64));
        let mut plan = Self {
            engine,
            call,
            math,
            gradient,
            tile,
            chunk,
            splits: spread(rows(loss_backward::panel(b, math) as usize)),
            attention_splits: spread(rows(64)),
            memory: Memory::default(),
            bytes: 0,
        };
        plan.carve()?;
        Ok(plan)
    }

    fn carve(&mut self) -> Result<()> {
        let [b, r, c] = self.call.logits.layout.shape;
        let mut carve = Carve::from(OP, self.call.workspace.pointer);
        let mut memory = Memory { prepared: self.call.columns.carve(&mut carve)?, ..Memory::default() };
        if self.keeps_matrix() {
            let sizes = [r, self.chunk, self.pitch(), self.number_bytes()];
            memory.matrix = carve.take::<u8>("the mix matrix of a chunk", &sizes)?;
        }
        if self.tile.is_none() {
            memory.masses = carve.take::<f32>("masses", &[r, self.chunk])?;
        }
        if self.gradient {
            memory.statistics = carve.take::<f32>("statistics", &[r, 6, self.chunk])?;
        }
        memory.partial = carve.take::<f64>("partial sums", &[r, self.chunk.div_ceil(16), 4])?;
        memory.sums = carve.take::<f64>("sums", &[r, 3])?;
        memory.ranges = carve.take::<f32>("ranges", &[r])?;
        memory.shares = carve.take::<f64>("shares", &[r])?;
        if self.call.outputs.logits.is_some() && !self.writes_logits_directly() {
            memory.d_logits = carve.take::<f32>("slices of the gradient", &[self.splits, r, b, c])?;
        }
        if self.call.outputs.attention.is_some() {
            memory.lambda = carve.take::<f32>("the weights of a chunk", &[r, self.chunk, self.pitch()])?;
            let sizes = [self.attention_splits, c.div_ceil(64) + 2, r, b];
            memory.d_attention = carve.take::<f32>("slices of the gradient of attention", &sizes)?;
        }
        (self.memory, self.bytes) = (memory, carve.bytes());
        Ok(())
    }

    pub fn workspace_bytes(&self) -> Result<usize> {
        Ok(self.bytes)
    }

    /// Whether one chunk and one split hold all columns: dS then needs no slices.
    pub fn writes_logits_directly(&self) -> bool {
        self.splits == 1 && self.chunk == self.call.columns.mixing.n
    }

    pub fn keeps_matrix(&self) -> bool {
        self.gradient || self.tile.is_none()
    }

    /// Type of the numbers that are multiplied.
    pub fn number(&self) -> Dtype {
        if self.math == 2 { self.call.dtype } else { Dtype::F32 }
    }

    fn number_bytes(&self) -> usize {
        element_bytes(self.number())
    }

    /// Examples that a column of a chunk's matrix has room for: columns begin on 16-byte boundaries.
    pub fn pitch(&self) -> usize {
        self.call.columns.b.next_multiple_of(8)
    }

    /// The chunk's matrix as (columns, r, b).
    pub fn matrix(&self, range: Range, pointer: CUdeviceptr, size: usize) -> Matrix {
        let (b, r, pitch) = (self.call.columns.b, self.call.columns.r, self.pitch());
        let layout = Layout { shape: [range.columns, r, b], strides: [pitch, self.chunk * pitch, 1] };
        Matrix::new(&RawView { pointer, layout }, size)
    }

    pub fn weighed(&self) -> bool {
        self.call.options.reduction == Reduction::AttentionWeighted && self.call.columns.attention.is_some()
    }

    /// # Safety
    /// All memory of the call is valid in the engine's context.
    pub unsafe fn run(&self, stream: CUstream) -> Result<()> {
        let columns = &self.call.columns;
        // SAFETY: the caller's promise, here and in all that is called; each launch reads what those before wrote.
        unsafe {
            columns.prepare(OP, self.engine, stream, &self.memory.prepared)?;
            let mut first = 0;
            while first < columns.mixing.n {
                let range = Range { first, columns: self.chunk.min(columns.mixing.n - first) };
                self.run_chunk(stream, range)?;
                first += range.columns;
            }
            loss_forward::finish(self, stream)?;
            if self.call.outputs.logits.is_some() {
                loss_backward::finish(self, stream, Range { first: 0, columns: self.chunk })?;
            }
            if self.call.outputs.attention.is_some() {
                loss_backward_attention::finish(self, stream)?;
            }
        }
        Ok(())
    }

    unsafe fn run_chunk(&self, stream: CUstream, range: Range) -> Result<()> {
        let accumulate = range.first > 0;
        let chunk = |out, mass, dtype, matrix| Chunk {
            first: range.first,
            columns: range.columns,
            strides: [self.chunk * self.pitch(), 1, self.pitch()],
            out,
            mass,
            dtype,
            matrix,
        };
        // SAFETY: as in `run`.
        unsafe {
            if self.tile.is_none() {
                let stored = chunk(self.memory.matrix, self.memory.masses, self.number(), true);
                fill_chunk(OP, self.engine, stream, &self.call.columns, &self.memory.prepared, &stored)?;
            }
            loss_forward::run(self, stream, range)?;
            loss_forward::add_up(self, stream, range, accumulate)?;
            if self.call.outputs.logits.is_some() && !self.writes_logits_directly() {
                loss_backward::run(self, stream, range, accumulate)?;
            }
            if self.call.outputs.attention.is_some() {
                let lambda = chunk(self.memory.lambda, 0, Dtype::F32, false);
                fill_chunk(OP, self.engine, stream, &self.call.columns, &self.memory.prepared, &lambda)?;
                loss_backward_attention::run(self, stream, range, accumulate)?;
            }
        }
        Ok(())
    }
}

/// The gradient of attention is taken in f32, since leading digits cancel; so is bf16 where tensor cores do not take it.
pub(super) fn choose_math(
    device: &DeviceInfo,
    dtype: Dtype,
    precision: Precision,
    attention: bool,
) -> Result<u32> {
    let lacks_bf16 = dtype == Dtype::Bf16 && !device.has_ampere_tensor_cores();
    if attention || lacks_bf16 {
        return Ok(0);
    }
    let precision = if dtype == Dtype::F32 { precision } else { Precision::Exact };
    math(OP, device, dtype, precision)
}
