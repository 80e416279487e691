//! The sampler on its own: Λ, or the mix matrix M̂ with its masses; equations (1) to (6). Kernel: weights.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::columns::{Drawing, Sampler};
use super::memory::Bare;
use super::plan::{Kernel, Params, Planned, Sink};
use super::tile::Tile;
use super::variant::{self, Variant};
use crate::element::{Dtype, Element};
use crate::error::{Error, Result};
use crate::op::{WEIGHTS, WeightsCall};
use crate::view::View;

impl<T: Element> Planned for WeightsCall<'_, T, Bare> {
    fn check_strides(&self) -> Result<()> {
        match &self.outputs.mass {
            Some(mass) if mass.as_read().stride(1) > 1 => {
                Err(Error::arguments(WEIGHTS, "masses of one position must lie side by side"))
            }
            _ => Ok(()),
        }
    }

    fn plan(&self, sink: &mut Sink<'_>) -> Result<()> {
        let (input, outputs) = (&self.input, &self.outputs);
        let drawing = Drawing::new(sink, &self.columns, &input.attention, [input.b, input.r])?;
        let fill = Fill::new(sink, &drawing, T::DTYPE);
        if !sink.begin()? {
            return Ok(());
        }
        drawing.prepare(sink)?;
        let none = View::at(0, crate::view::Layout::contiguous([1; 3]));
        let out = outputs.matrix.as_ref().map_or(none, |matrix| matrix.as_read());
        let mass = outputs.mass.as_ref().map(|mass| mass.as_read());
        fill.step(
            sink,
            &drawing,
            &Chunk {
                first: 0,
                columns: drawing.n,
                out: out.data,
                strides: [0, 1, 2].map(|axis| out.stride(axis)),
                mass: mass.as_ref().map_or(0, |mass| mass.data),
                mass_stride: mass.map_or(0, |mass| mass.stride(0)),
                matrix: true,
            },
        )
    }
}

/// The kernel that draws columns into memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    kernel: Kernel<WeightsParams>,
    warps: u32,
    dtype: Dtype,
}

/// Some columns for a kernel that reads them, with these strides of (r, b, columns); and their masses (r,
/// columns).
pub(super) struct Chunk {
    pub first: usize,
    pub columns: usize,
    pub out: CUdeviceptr,
    pub strides: [i64; 3],
    /// Or 0.
    pub mass: CUdeviceptr,
    pub mass_stride: i64,
    /// The mix matrix, else Λ.
    pub matrix: bool,
}

impl Fill {
    pub fn new(sink: &mut Sink<'_>, drawing: &Drawing, dtype: Dtype) -> Self {
        let tile = Tile::choose(sink.device, drawing.b, shared_bytes);
        let variant = Variant::new(variant::WEIGHTS)
            .element("ELEMENT", dtype)
            .number("DRAW", drawing.draw as u32)
            .tile(&tile)
            .shared(shared_bytes(&tile));
        Self { kernel: sink.kernel(variant), warps: tile.warps, dtype }
    }

    pub fn step(&self, sink: &mut Sink<'_>, drawing: &Drawing, chunk: &Chunk) -> Result<()> {
        let [out_r, out_b, out_n] = chunk.strides;
        // Whether rows of columns can be written sixteen bytes at a time.
        let boundary = 16 / self.dtype.bytes() as i64;
        let rows = out_r % boundary == 0 && out_b % boundary == 0;
        let aligned = rows && out_n == 1 && chunk.out.is_multiple_of(16);
        let params = WeightsParams {
            sampler: drawing.sampler,
            out: chunk.out,
            mass: chunk.mass,
            out_r,
            out_b,
            out_n,
            mass_r: chunk.mass_stride,
            first: chunk.first as u32,
            columns: chunk.columns as u32,
            matrix: u32::from(chunk.matrix),
            aligned: u32::from(aligned),
        };
        let tiles = chunk.columns.div_ceil(16 * self.warps as usize);
        sink.step(self.kernel, &[drawing.r, tiles], 32 * self.warps, &params)
    }
}

fn shared_bytes(tile: &Tile) -> u32 {
    tile.warps * (64 * (tile.panel + 8) + 3072)
}

/// `WeightsParams` of weights.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct WeightsParams {
    sampler: Sampler,
    out: CUdeviceptr,
    mass: CUdeviceptr,
    out_r: i64,
    out_b: i64,
    out_n: i64,
    mass_r: i64,
    first: u32,
    columns: u32,
    matrix: u32,
    aligned: u32,
}

impl Params for WeightsParams {
    const KERNEL: &'static str = "weights";
}
