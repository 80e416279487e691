//! The classification loss on mixed logits and targets with its gradients, equations (5) to (8): chunk after
//! chunk of columns through a workspace of bounded size. Kernels: loss_forward.cu, loss_reduce.cu,
//! loss_backward.cu, loss_backward_attention.cu.

use super::columns::Drawing;
use super::loss_backward::LogitsPass;
use super::loss_backward_attention::AttentionPass;
use super::loss_forward::Forward;
use super::matrix::Matrix;
use super::memory::Bare;
use super::plan::{Planned, Sink};
use super::split::{CHUNK, chunks};
use super::variant::Math;
use super::weights::{Chunk, Fill};
use crate::element::{Dtype, Element};
use crate::error::Result;
use crate::op::LossCall;
use crate::problem::Reduction;
use crate::view::{Layout, View};

/// Columns of a chunk where no mix matrix is kept.
const DRAWN_CHUNK: usize = 8192;

/// What the kernels of a call share.
pub(super) struct Shared {
    pub drawing: Drawing,
    pub math: Math,
    /// Columns of a chunk.
    pub chunk: usize,
    /// The mix matrix of a chunk, where it is kept.
    pub matrix: Option<Kept>,
    /// f32 (r, 6, chunk) for a gradient, or 0.
    pub statistics: u64,
    /// f64 (r, 3): sums of weighted CE, weighted entropy, weights.
    pub sums: u64,
    /// f32 (r): a power of two near 1 / the largest weight.
    pub ranges: u64,
    /// f64 (r): what a position's sums are multiplied by.
    pub shares: u64,
    /// Whether mixtures count by their mass.
    pub weighed: bool,
}

/// Some columns of the mix matrix or of Λ in the workspace, (columns, r, b) of numbers, on 16-byte
/// boundaries.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub memory: u64,
    pub dtype: Dtype,
    pub pitch: usize,
    pub chunk: usize,
}

impl Kept {
    pub fn new(
        sink: &mut Sink<'_>,
        name: &'static str,
        dtype: Dtype,
        drawing: &Drawing,
        chunk: usize,
    ) -> Result<Self> {
        let pitch = drawing.b.next_multiple_of(8);
        let memory = sink.part::<u8>(name, &[drawing.r, chunk, pitch, dtype.bytes()])?;
        Ok(Self { memory, dtype, pitch, chunk })
    }

    /// Draws columns into it, and their masses where `mass` is not 0.
    pub fn fill(
        &self,
        sink: &mut Sink<'_>,
        fill: Fill,
        drawing: &Drawing,
        (first, columns): (usize, usize),
        mass: Option<u64>,
    ) -> Result<()> {
        let (mass, matrix) = (mass.unwrap_or(0), mass.is_some());
        let strides = [(self.chunk * self.pitch) as i64, 1, self.pitch as i64];
        let chunk =
            Chunk { first, columns, out: self.memory, strides, mass, mass_stride: columns as i64, matrix };
        fill.step(sink, drawing, &chunk)
    }

    /// (columns, r, b).
    pub fn matrix(&self, drawing: &Drawing, columns: usize) -> Matrix {
        let shape = [columns, drawing.r, drawing.b];
        let layout = Layout { shape, strides: [self.pitch, self.chunk * self.pitch, 1] };
        match self.dtype.bytes() {
            2 => Matrix::new(&View::<u16, 3, Bare>::at(self.memory, layout)),
            _ => Matrix::new(&View::<f32, 3, Bare>::at(self.memory, layout)),
        }
    }
}

impl<T: Element> Planned for LossCall<'_, T, Bare> {
    fn plan(&self, sink: &mut Sink<'_>) -> Result<()> {
        let (input, outputs) = (&self.input, &self.outputs);
        let [b, r, c] = input.logits.shape();
        sink.fit(&[("c", c)])?;
        let drawing = Drawing::new(sink, &self.columns, &input.attention, [b, r])?;
        let wants_logits = outputs.logits.is_some() || outputs.logits_f32.is_some();
        let gradient = wants_logits || outputs.attention.is_some();
        let math = choose_math(sink, T::DTYPE, outputs.attention.is_some())?;
        let tile = Forward::drawing_tile(sink.device, b, math, input.targets.are_soft());
        let stored = tile.is_none();
        let chunk = drawing.n.min(if gradient || stored { CHUNK } else { DRAWN_CHUNK });
        let number = if math == Math::Half { T::DTYPE } else { Dtype::F32 };
        let keep =
            |sink: &mut Sink<'_>| Kept::new(sink, "the mix matrix of a chunk", number, &drawing, chunk);
        let matrix = (gradient || stored).then(|| keep(sink)).transpose()?;
        let fill = stored.then(|| Fill::new(sink, &drawing, number));
        let masses = if stored { sink.part::<f32>("masses", &[r, chunk])? } else { 0 };
        let statistics = if gradient { sink.part::<f32>("statistics", &[r, 6, chunk])? } else { 0 };
        let partial = sink.part::<f64>("partial sums", &[r, chunk.div_ceil(16), 4])?;
        let shared = Shared {
            math,
            chunk,
            matrix,
            statistics,
            sums: sink.part::<f64>("sums", &[r, 3])?,
            ranges: sink.part::<f32>("ranges", &[r])?,
            shares: sink.part::<f64>("shares", &[r])?,
            weighed: self.options.reduction == Reduction::AttentionWeighted && drawing.attends(),
            drawing,
        };
        let drawing = &shared.drawing;
        let forward = Forward::new(sink, self, &shared, tile, [partial, masses]);
        let logits = wants_logits.then(|| LogitsPass::new(sink, self, &shared)).transpose()?;
        let wants_attention = outputs.attention.as_ref();
        let attention =
            wants_attention.map(|out| AttentionPass::new(sink, self, &shared, out)).transpose()?;
        if !sink.begin()? {
            return Ok(());
        }
        drawing.prepare(sink)?;
        for range in chunks(drawing.n, chunk) {
            if let (Some(fill), Some(matrix)) = (fill, matrix) {
                matrix.fill(sink, fill, drawing, range, Some(masses))?;
            }
            forward.steps(sink, range)?;
            logits.as_ref().map_or(Ok(()), |pass| pass.add(sink, range))?;
            attention.as_ref().map_or(Ok(()), |pass| pass.add(sink, range))?;
        }
        forward.finish(sink)?;
        logits.map_or(Ok(()), |pass| pass.finish(sink))?;
        attention.map_or(Ok(()), |pass| pass.finish(sink))
    }
}

/// The gradient of attention is taken in f32, since leading digits cancel; so is bf16 where tensor cores do
/// not take it.
fn choose_math(sink: &Sink<'_>, dtype: Dtype, attention: bool) -> Result<Math> {
    let lacks_bf16 = dtype == Dtype::Bf16 && !sink.device.has_ampere_tensor_cores();
    if attention || lacks_bf16 { Ok(Math::Exact) } else { sink.math(dtype) }
}
