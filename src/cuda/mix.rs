//! Mixed features and targets, equations (5) to (8). Kernels: mix_forward.cu, prepare.cu.

use bytemuck::{Pod, Zeroable};

use super::columns::{Drawing, Packing, Sampler};
use super::matrix::{Labels, Matrix, target_params};
use super::memory::Bare;
use super::plan::{Params, Planned, Sink};
use super::tile::Tile;
use super::variant::{self, Math, Variant};
use crate::element::Element;
use crate::error::Result;
use crate::op::MixCall;

impl<T: Element> Planned for MixCall<'_, T, Bare> {
    fn plan(&self, sink: &mut Sink<'_>) -> Result<()> {
        let (input, outputs) = (&self.input, &self.outputs);
        let ([b, r, d], c) = (input.features.shape(), input.classes());
        sink.fit(&[("d", d), ("c", c)])?;
        let drawing = Drawing::new(sink, &self.columns, &input.attention, [b, r])?;
        let packing = Packing::new(sink, &input.features)?;
        let math = sink.math(T::DTYPE)?;
        let tile = Tile::choose(sink.device, b, |tile| shared_bytes(tile, math));
        let variant = Variant::new(variant::MIX_FORWARD)
            .element("ELEMENT", T::DTYPE)
            .math(math)
            .number("DRAW", drawing.draw as u32)
            .tile(&tile)
            .shared(shared_bytes(&tile, math));
        let kernel = sink.kernel(variant);
        if !sink.begin()? {
            return Ok(());
        }
        drawing.prepare(sink)?;
        let features = packing.as_ref().map(|packing| packing.step(sink)).transpose()?;
        let column_tiles = drawing.n.div_ceil(16 * tile.warps as usize);
        // Channels are split only where positions and columns alone leave multiprocessors idle: each split
        // draws again.
        let wanted = (sink.device.multiprocessors as usize).div_ceil(r.saturating_mul(column_tiles));
        let splits = wanted.clamp(1, d.div_ceil(64).min(8));
        // Targets that nobody wants mixed are not read.
        let targets = input.targets.as_ref().filter(|_| outputs.targets.is_some());
        let (labels, soft) = target_params(targets.map(|given| &given.targets), c);
        let params = MixForwardParams {
            sampler: drawing.sampler,
            features: features.unwrap_or(Matrix::new(&input.features)),
            mixed: Matrix::out(&outputs.features),
            labels,
            soft,
            mixed_targets: outputs.targets.as_ref().map_or(Matrix::NONE, Matrix::out),
            column_tiles: column_tiles as u32,
            splits: splits as u32,
        };
        sink.step(kernel, &[r, column_tiles, splits], 32 * tile.warps, &params)
    }
}

fn shared_bytes(tile: &Tile, math: Math) -> u32 {
    let slabs = tile.warps * 64 * (tile.panel + 8);
    let stages = 2 * math.stage_bytes();
    let stationary = match math {
        Math::Exact => false,
        Math::Tf32 => !tile.multi && tile.panel <= 128,
        Math::Half => !tile.multi && tile.panel <= 256,
    };
    let both = if stationary { slabs.max(stages) } else { slabs + stages };
    both + tile.warps * (if tile.multi { 3072 } else { 0 } + 4608)
}

/// `MixForwardParams` of mix_forward.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct MixForwardParams {
    sampler: Sampler,
    features: Matrix,
    mixed: Matrix,
    labels: Labels,
    soft: Matrix,
    mixed_targets: Matrix,
    column_tiles: u32,
    splits: u32,
}

impl Params for MixForwardParams {
    const KERNEL: &'static str = "mix_forward";
}
