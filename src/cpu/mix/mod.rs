//! Mixed features and targets, equations (7) and (8), and their gradients: the materialised path, for
//! whatever is not a linear head.
//!
//! Work is cut into items (a position and a range of its columns) by the sizes alone, so that results have
//! the same bits for any number of threads. Forward: a tile of M̂ is drawn and multiplied with the position's
//! features. Backward: the same tile is drawn again.

mod backward;
mod forward;

pub use backward::{mix_backward, mix_backward_into, mix_backward_workspace};
pub use forward::{mix, mix_into, mix_workspace};

use super::pack::{read_labels, read_soft};
use super::slab::Source;
use super::workers::{self, Carve};
use crate::element::Element;
use crate::error::Result;
use crate::op::{Columns, MIX as OP, MixInput, MixTargets};

/// The checks after those of shapes.
fn check<T: Element>(columns: &Columns<'_>, input: &MixInput<'_, T>) -> Result<()> {
    let [b, r, d] = input.features.shape();
    input.check_values(columns)?;
    workers::check_countable(OP, b, r, d.saturating_add(input.classes()))
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
    /// Words of what [`Source`] and labels take.
    source_words: usize,
    label_words: usize,
    splits: usize,
    tile: usize,
}

impl Cut {
    fn new<T: Element>(columns: &Columns<'_>, input: &MixInput<'_, T>) -> Self {
        let ([b, r, d], n, c) = (input.features.shape(), columns.n(), input.classes());
        let soft = input.targets.is_some_and(|given| given.targets.are_soft());
        let splits = (ITEMS / r).clamp(1, n.div_ceil(ITEM_COLUMNS));
        let tile = (TILE_FLOATS / (2 * b + d + c)).clamp(32, 256).min(n.div_ceil(splits));
        let source_words = Source::words(&input.attention);
        let label_words = if c > 0 && !soft { b } else { 0 };
        Self { b, r, d, c, n, soft, source_words, label_words, splits, tile }
    }

    fn items(&self) -> usize {
        self.r * self.splits
    }

    /// The columns of an item: runs of equal length, the last shorter.
    fn columns(&self, item: usize) -> std::ops::Range<usize> {
        let (length, split) = (self.n.div_ceil(self.splits), item % self.splits);
        (split * length).min(self.n)..((split + 1) * length).min(self.n)
    }
}

fn labels<'w>(targets: &Option<MixTargets<'_>>, carve: &mut Carve<'w>, b: usize) -> Option<&'w [u32]> {
    read_labels(&targets.as_ref()?.targets, carve, b)
}

fn read_targets(targets: &Option<MixTargets<'_>>, out: &mut [f32]) {
    if let Some(given) = targets {
        read_soft(&given.targets, out);
    }
}
