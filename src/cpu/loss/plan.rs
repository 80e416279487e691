//! How a call of the loss is cut into items and tiles, and how much memory that takes.

use crate::cpu::slab::{Slab, Source, row_stride};
use crate::cpu::workers::{self, WideSums, Word};
use crate::element::Element;
use crate::op::LossCall;
use crate::problem::Reduction;
use crate::sampler::panel::Panel;

/// Floats of a tile that should stay in the second-level cache.
const TILE_FLOATS: usize = 96 * 1024;
/// Items are made until there are so many, to keep many threads busy at small r.
const ITEMS: usize = 64;
/// Fewer columns than this are not worth an item.
const ITEM_COLUMNS: usize = 256;

/// How a call is cut, and what it needs.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub b: usize,
    pub r: usize,
    pub c: usize,
    pub n: usize,
    /// Items per position.
    pub splits: usize,
    /// Columns of a tile at most.
    pub tile: usize,
    pub stride: usize,
    pub workers: usize,
    pub gradient: bool,
    pub attention_gradient: bool,
    /// Words of what [`Source`] takes.
    source_words: usize,
    pub soft: bool,
    pub kl: bool,
    pub reduction: Reduction,
}

impl Plan {
    pub fn new<T: Element>(call: &LossCall<'_, T>) -> Self {
        let (outputs, input) = (&call.outputs, &call.input);
        let ([b, r, c], n) = (input.logits.shape(), call.columns.n());
        let splits = (ITEMS / r).clamp(1, n.div_ceil(ITEM_COLUMNS));
        let attention_gradient = outputs.attention.is_some();
        let gradient = outputs.logits.is_some() || outputs.logits_f32.is_some() || attention_gradient;
        let (soft, kl) = (input.targets.are_soft(), outputs.kl.is_some());
        let per_column = b * if attention_gradient { 3 } else { 1 } + c * if soft || kl { 2 } else { 1 };
        let tile = (TILE_FLOATS / per_column).clamp(64, 512).min(n.div_ceil(splits));
        Self {
            b,
            r,
            c,
            n,
            splits,
            tile,
            stride: row_stride(tile),
            workers: workers::workers(r * splits),
            gradient,
            attention_gradient,
            source_words: Source::words(&input.attention),
            soft,
            kl,
            reduction: call.options.reduction,
        }
    }

    pub fn items(&self) -> usize {
        self.r * self.splits
    }

    /// The columns of an item: runs of equal length, the last shorter.
    pub fn columns(&self, split: usize) -> std::ops::Range<usize> {
        let length = self.n.div_ceil(self.splits);
        (split * length).min(self.n)..((split + 1) * length).min(self.n)
    }

    pub fn has_mixed_targets(&self) -> bool {
        self.soft || self.kl
    }

    /// Words each worker needs for itself.
    pub fn scratch_words(&self) -> usize {
        let Self { b, c, stride, .. } = *self;
        let matrices =
            c * if self.has_mixed_targets() { 2 } else { 1 } + if self.attention_gradient { b } else { 0 };
        Panel::WORDS
            + Slab::words(b, stride, self.attention_gradient)
            + matrices * stride
            + COLUMN_VALUES * stride
            + b * c
            + if self.soft { b * c } else { 0 }
            + if self.writes_directly() { b * c } else { 0 }
    }

    /// Whether an item is a whole position, so that its dS needs no sum with others'.
    pub fn writes_directly(&self) -> bool {
        self.gradient && self.splits == 1
    }

    /// Words of the results of an item: its sums, the three sums over columns of attention's gradient, and dS
    /// where it is to be summed over items.
    pub fn item_words(&self) -> usize {
        let logits = if self.gradient && !self.writes_directly() { self.b * self.c } else { 0 };
        SUM_WORDS + logits + self.attention_sum_words()
    }

    /// Words of the three sums over columns that the gradient of attention needs for each example.
    pub fn attention_sum_words(&self) -> usize {
        if self.attention_gradient { WideSums::words(3 * self.b) } else { 0 }
    }

    /// What a position's sums are multiplied by: 1/(n·r), or 1/(r Σ s), or 0 without mass.
    pub fn position_share(&self, mass: f64) -> f64 {
        match self.reduction {
            Reduction::Mean => 1.0 / (self.n as f64 * self.r as f64),
            Reduction::AttentionWeighted if mass > 0.0 => 1.0 / (self.r as f64 * mass),
            Reduction::AttentionWeighted => 0.0,
        }
    }

    pub fn words(&self) -> usize {
        let labels = if self.soft { 0 } else { self.b };
        self.source_words + labels + self.items() * self.item_words() + self.workers * self.scratch_words()
    }
}

/// Per-column values of a tile: lse, sum, fit, t, entropy, CE, factor, dot.
pub(super) const COLUMN_VALUES: usize = 8;
/// Words of an item's sums: five f64.
pub(super) const SUM_WORDS: usize = 10;

/// Σ over an item's columns, weighted by s_k or 1: of CE, of H(Ỹ), and of the weights.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    pub loss: f64,
    pub entropy: f64,
    pub mass: f64,
    /// What CE was summed relative to for the gradient of attention; the same for all items of a position.
    pub around: f64,
    /// What the position's logits were divided by, a power of two: sums of attention's gradient and `around`
    /// are so many times too small.
    pub unit: f64,
}

impl Sums {
    pub fn store(self, words: &mut [Word]) {
        let values = [self.loss, self.entropy, self.mass, self.around, self.unit];
        bytemuck::cast_slice_mut::<Word, u8>(words).copy_from_slice(bytemuck::bytes_of(&values));
    }

    pub fn load(words: &[Word]) -> Self {
        let [loss, entropy, mass, around, unit] =
            bytemuck::pod_read_unaligned::<[f64; 5]>(bytemuck::cast_slice(&words[..SUM_WORDS]));
        Self { loss, entropy, mass, around, unit }
    }

    pub fn plus(self, other: Self) -> Self {
        let Self { loss, entropy, mass, around, unit } = other;
        let (entropy, mass) = (self.entropy + entropy, self.mass + mass);
        Self { loss: self.loss + loss, entropy, mass, around, unit }
    }
}
