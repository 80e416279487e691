//! The gradients of mixing, for features, soft targets and attention, chunk after chunk of columns through a
//! workspace of bounded size. Kernels: mix_backward.cu, split_sum.cu; mix_backward_attention.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::columns::Drawing;
use super::matrix::{Matrix, flat};
use super::memory::Bare;
use super::mix_backward_attention::AttentionPass;
use super::plan::{Kernel, Params, Planned, Sink};
use super::split::{CHUNK, Factors, Slices, chunk_splits, chunks};
use super::variant::{self, Math, Variant};
use super::weights::{Chunk, Fill};
use crate::element::{Dtype, Element};
use crate::error::Result;
use crate::op::MixBackwardCall;
use crate::view::{Layout, View};

const WARPS: u32 = 4;

/// What a pass sums: the gradient of features, or of targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Features = 0,
    Targets = 1,
}

impl<T: Element> Planned for MixBackwardCall<'_, T, Bare> {
    fn plan(&self, sink: &mut Sink<'_>) -> Result<()> {
        let (input, outputs) = (&self.input, &self.outputs);
        let [b, r, d] = input.features.shape();
        sink.fit(&[("d", d), ("c", input.classes())])?;
        let drawing = Drawing::new(sink, &self.columns, &input.attention, [b, r])?;
        let math = sink.math(T::DTYPE)?;
        let d_features = outputs.features.as_ref().map(|out| out.as_read());
        let d_targets = outputs.targets.as_ref().map(|out| flat(&out.as_read()));
        let wanted = d_features.is_some() || d_targets.is_some();
        let mut matrix = || MixMatrix::<T>::new(sink, &drawing);
        let matrix = wanted.then(&mut matrix).transpose()?;
        let features = match d_features {
            Some(out) => Some(Pass::new(
                sink,
                &drawing,
                (T::DTYPE, math),
                Side::Features,
                &self.gradients.features,
                out,
            )?),
            None => None,
        };
        let targets = match (&self.gradients.targets, d_targets) {
            (Some(mixed), Some(out)) => {
                Some(Pass::new(sink, &drawing, (T::DTYPE, math), Side::Targets, mixed, out)?)
            }
            _ => None,
        };
        let attention = outputs.attention.as_ref().map(|out| out.as_read());
        let attention =
            attention.map(|out| AttentionPass::new(sink, self, &drawing, math, out)).transpose()?;
        if !sink.begin()? {
            return Ok(());
        }
        drawing.prepare(sink)?;
        if let Some(matrix) = &matrix {
            for (first, columns) in chunks(drawing.n, CHUNK) {
                let weights = matrix.fill(sink, &drawing, first, columns)?;
                features.as_ref().map_or(Ok(()), |pass| pass.add(sink, &weights, first))?;
                targets.as_ref().map_or(Ok(()), |pass| pass.add(sink, &weights, first))?;
            }
        }
        features.map_or(Ok(()), |pass| pass.sum(sink))?;
        targets.map_or(Ok(()), |pass| pass.sum(sink))?;
        attention.map_or(Ok(()), |pass| pass.steps(sink))
    }
}

/// The mix matrix of a chunk of columns, in elements of `T`.
struct MixMatrix<T: Element> {
    fill: Fill,
    memory: View<'static, T, 3, Bare>,
}

impl<T: Element> MixMatrix<T> {
    fn new(sink: &mut Sink<'_>, drawing: &Drawing) -> Result<Self> {
        let (b, r, chunk) = (drawing.b, drawing.r, drawing.n.min(CHUNK));
        let pitch = chunk.next_multiple_of(64);
        let fill = Fill::new(sink, drawing, T::DTYPE);
        let memory = sink.part::<T>("the mix matrix of a chunk", &[r, b, pitch])?;
        let layout = Layout { shape: [b, r, chunk], strides: [pitch, b * pitch, 1] };
        Ok(Self { fill, memory: View::at(memory, layout) })
    }

    /// Draws columns; returns them as (b, r, columns).
    fn fill(&self, sink: &mut Sink<'_>, drawing: &Drawing, first: usize, columns: usize) -> Result<Matrix> {
        let Layout { shape: [b, r, _], strides } = self.memory.layout;
        let [out_b, out_r, out_n] = strides.map(|stride| stride as i64);
        let out = self.memory.data;
        let strides = [out_r, out_b, out_n];
        let chunk = Chunk { first, columns, out, strides, mass: 0, mass_stride: 0, matrix: true };
        self.fill.step(sink, drawing, &chunk)?;
        let layout = Layout { shape: [b, r, columns], ..self.memory.layout };
        Ok(Matrix::new(&View::<T, 3, Bare>::at(out, layout)))
    }
}

/// The gradient of features or of targets, of elements of `G`.
struct Pass<G: Element> {
    side: Side,
    kernel: Kernel<MixBackwardParams>,
    mixed: View<'static, G, 3, Bare>,
    out: View<'static, G, 3, Bare>,
    b: usize,
    r: usize,
    splits: usize,
    /// None where the gradient is written directly.
    slices: Option<Slices>,
}

impl<G: Element> Pass<G> {
    fn new(
        sink: &mut Sink<'_>,
        drawing: &Drawing,
        (dtype, math): (Dtype, Math),
        side: Side,
        mixed: &View<'_, G, 3, Bare>,
        out: View<'static, G, 3, Bare>,
    ) -> Result<Self> {
        let (b, r, n, channels) = (drawing.b, drawing.r, drawing.n, out.shape()[2]);
        let variant = Variant::new(variant::MIX_BACKWARD)
            .element("ELEMENT", dtype)
            .math(math)
            .number("SIDE", side as u32)
            .number("WARPS", WARPS)
            .shared(shared_bytes(math));
        let kernel = sink.kernel(variant);
        let splits = chunk_splits(n.min(CHUNK), r, [b, channels], 16 * WARPS as usize);
        let directly = splits == 1 && n <= CHUNK && (side == Side::Features || r == 1);
        let slices = match directly {
            true => None,
            false => Some(Slices::new(sink, G::DTYPE, splits, [r, b, channels])?),
        };
        Ok(Self { side, kernel, mixed: mixed.detach(), out, b, r, splits, slices })
    }

    /// Adds the chunk's columns, from `first` on.
    fn add(&self, sink: &mut Sink<'_>, weights: &Matrix, first: usize) -> Result<()> {
        let Self { b, r, splits, mixed, .. } = self;
        let (b, r, splits) = (*b, *r, *splits);
        let channels = self.out.shape()[2];
        let skipped = (first * mixed.layout.strides[0] * size_of::<G>()) as u64;
        let layout = Layout { shape: [weights.channels as usize, r, channels], ..mixed.layout };
        let params = MixBackwardParams {
            weights: *weights,
            mixed: Matrix::new(&View::<G, 3, Bare>::at(mixed.data + skipped, layout)),
            out: Matrix::new(&self.out),
            partial: self.slices.as_ref().map_or(0, |slices| slices.partial),
            b: b as u32,
            r: r as u32,
            splits: splits as u32,
            accumulate: u32::from(first > 0),
        };
        let blocks = [r, b.div_ceil(16 * WARPS as usize), channels.div_ceil(64), splits];
        sink.step(self.kernel, &blocks, 32 * WARPS, &params)
    }

    /// The sum of the slices, over positions too for targets.
    fn sum(&self, sink: &mut Sink<'_>) -> Result<()> {
        let Some(slices) = &self.slices else { return Ok(()) };
        let (positions, count) = match self.side {
            Side::Features => (self.r, self.splits),
            Side::Targets => (1, self.splits * self.r),
        };
        slices.sum(sink, count, [self.b, positions], Matrix::new(&self.out), Factors::default())
    }
}

fn shared_bytes(math: Math) -> u32 {
    let pitch = if math == Math::Half { 144 } else { 160 };
    (2 * (WARPS * 16 * pitch + math.stage_bytes())).max(WARPS * 4608)
}

/// `MixBackwardParams` of mix_backward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct MixBackwardParams {
    weights: Matrix,
    mixed: Matrix,
    out: Matrix,
    partial: CUdeviceptr,
    b: u32,
    r: u32,
    splits: u32,
    accumulate: u32,
}

impl Params for MixBackwardParams {
    const KERNEL: &'static str = "mix_backward";
}
