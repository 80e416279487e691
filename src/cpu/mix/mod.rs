//! Mixed features and targets, equations (7) and (8), and their gradients: the materialised path, for whatever is not a linear head.
//!
//! Work is cut into items (a position and a range of its columns) by the sizes alone, so that results have the same bits for any number of
//! threads. Forward: a tile of M̂ is drawn and multiplied with the position's features. Backward: the same tile is drawn again.

mod backward;
mod forward;

pub use backward::{
    MixBackwardOutputs, MixGradients, MixedGradients, mix_backward, mix_backward_into,
    mix_backward_workspace_bytes,
};
pub use forward::{MixOutputs, Mixed, mix_forward, mix_forward_into, mix_forward_workspace_bytes};

use super::attention_scale::ScaledAttention;
use super::pack::read_position;
use super::workers;
use super::{Targets, check_attention, check_weights};
use crate::element::Element;
use crate::error::Result;
use crate::problem::{Mixing, at_least_one};
use crate::view::{Layout, View};

const OP: &str = "mix";

/// Targets to be mixed, and how many classes they speak of.
#[derive(Clone, Copy, Debug)]
pub struct MixTargets<'a> {
    /// Labels or soft targets.
    pub targets: Targets<'a>,
    /// c: the length of a mixed target.
    pub classes: usize,
}

/// What mixing reads.
#[derive(Clone, Copy, Debug)]
pub struct MixInput<'a, T> {
    /// Z (b, r, d).
    pub features: View<'a, T, 3>,
    /// Targets to be mixed with the same weights, or none.
    pub targets: Option<MixTargets<'a>>,
    /// a (b, r), not negative; or none for M̂ = Λ. A map of zeros: [`crate::Mixing::empty_maps`].
    pub attention: Option<View<'a, f32, 2>>,
    /// Λ (r, b, n) or (1, b, n) for [`crate::Generator::Explicit`], not negative; columns are normalised. No
    /// gradient.
    pub weights: Option<View<'a, f32, 3>>,
}

fn validate<T: Element>(mixing: &Mixing, input: &MixInput<'_, T>) -> Result<()> {
    let [b, r, d] = input.features.shape();
    at_least_one(OP, "d", d)?;
    mixing.validate(OP, [b, r], input.weights.as_ref().map(|weights| weights.layout()))?;
    Layout::contiguous([mixing.n, r, d]).count(OP, "the mixed features (n, r, d)")?;
    let classes = input.targets.map_or(0, |targets| targets.classes);
    workers::check_countable(OP, b, r, d.saturating_add(classes))?;
    if let Some(targets) = &input.targets {
        at_least_one(OP, "c", targets.classes)?;
        Layout::contiguous([mixing.n, r, targets.classes]).count(OP, "the mixed targets (n, r, c)")?;
        targets.targets.validate(OP, b, targets.classes)?;
    }
    check_attention(OP, input.attention.as_ref(), b, r)?;
    check_weights(OP, input.weights.as_ref())
}

/// Floats of a tile that should stay in the second-level cache.
const TILE_FLOATS: usize = 96 * 1024;
/// Items are made until there are so many, to keep many threads busy at small r.
const ITEMS: usize = 64;
/// Fewer columns than this are not worth an item.
const ITEM_COLUMNS: usize = 256;

/// The sizes of a call and how it is cut.
#[derive(Clone, Copy)]
struct Cut {
    b: usize,
    r: usize,
    d: usize,
    /// Classes, or 0 without targets.
    c: usize,
    n: usize,
    soft: bool,
    has_attention: bool,
    splits: usize,
    tile: usize,
}

impl Cut {
    fn new<T: Element>(mixing: &Mixing, input: &MixInput<'_, T>) -> Self {
        let ([b, r, d], n) = (input.features.shape(), mixing.n);
        let c = input.targets.as_ref().map_or(0, |targets| targets.classes);
        let soft = matches!(input.targets, Some(MixTargets { targets: Targets::Soft(_), .. }));
        let splits = (ITEMS / r).clamp(1, n.div_ceil(ITEM_COLUMNS));
        let tile = (TILE_FLOATS / (2 * b + d + c)).clamp(32, 256).min(n.div_ceil(splits));
        Self { b, r, d, c, n, soft, has_attention: input.attention.is_some(), splits, tile }
    }

    fn items(&self) -> usize {
        self.r * self.splits
    }

    /// The columns of an item: runs of equal length, the last shorter.
    fn columns(&self, item: usize) -> std::ops::Range<usize> {
        let (length, split) = (self.n.div_ceil(self.splits), item % self.splits);
        (split * length).min(self.n)..((split + 1) * length).min(self.n)
    }

    fn attention_words(&self) -> usize {
        if self.has_attention { ScaledAttention::words(self.b, self.r) } else { 0 }
    }
}

/// Copies soft targets Y (b, c) as f32; labels leave `out` alone.
fn read_targets(targets: &Option<MixTargets<'_>>, out: &mut [f32]) {
    let Some(MixTargets { targets: Targets::Soft(rows), .. }) = targets else { return };
    let ([b, c], [row, column]) = (rows.shape(), rows.layout().strides);
    if let Ok(rows) = View::with_strides(rows.data(), [b, 1, c], [row, 0, column]) {
        read_position(&rows, 0, out);
    }
}

fn labels<'a>(targets: &Option<MixTargets<'a>>) -> Option<&'a [u32]> {
    match targets {
        Some(MixTargets { targets: Targets::Labels(labels), .. }) => Some(labels),
        _ => None,
    }
}
