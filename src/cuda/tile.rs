//! How blocks that draw are cut: a table and a chooser.

use super::device::DeviceInfo;

/// Panels of examples that kernels are compiled for: the smallest that holds the batch is taken, so that
/// nothing is drawn twice.
const PANELS: [u32; 8] = [64, 128, 256, 384, 512, 768, 1024, 1536];
/// Warps of a block, best first. More warps share staged features; fewer leave shared memory for larger
/// panels.
const WARPS: [u32; 3] = [4, 2, 1];
/// For batches that no panel holds: their examples pass panel by panel and are drawn anew each time.
const MULTI_PANEL: u32 = 256;

/// A block of `warps` warps, 16 columns each, with slabs of `panel` examples; `multi` when these are not all
/// examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub panel: u32,
    pub multi: bool,
    pub warps: u32,
}

impl Tile {
    /// Batches of every size that makes a difference to the choice.
    pub fn batches() -> impl Iterator<Item = usize> {
        PANELS.into_iter().chain([PANELS[PANELS.len() - 1] + 1]).map(|panel| panel as usize)
    }

    /// The first of the table that holds `b` examples and fits the device, by the kernel's own count of
    /// shared memory.
    pub fn choose(device: &DeviceInfo, b: usize, shared_bytes: impl Fn(&Tile) -> u32) -> Self {
        Self::first(b, device.shared_per_block, shared_bytes)
    }

    fn first(b: usize, shared: u32, shared_bytes: impl Fn(&Tile) -> u32) -> Self {
        let whole =
            PANELS.into_iter().filter(|&panel| panel as usize >= b).take(1).map(|panel| (panel, false));
        let candidates = whole.chain([(MULTI_PANEL, true), (64, true)]);
        let mut tiles = candidates.flat_map(|(panel, multi)| WARPS.map(|warps| Tile { panel, multi, warps }));
        // Should nothing fit, the smallest is refused with its size by the engine.
        tiles.find(|tile| shared_bytes(tile) <= shared).unwrap_or(Tile { panel: 64, multi: true, warps: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_batches_are_preferred_and_small_devices_get_fewer_warps() {
        let bytes = |tile: &Tile| tile.warps * 64 * (tile.panel + 8);
        assert_eq!(Tile::first(128, 1 << 17, bytes), Tile { panel: 128, multi: false, warps: 4 });
        assert_eq!(Tile::first(129, 1 << 17, bytes), Tile { panel: 256, multi: false, warps: 4 });
        assert_eq!(Tile::first(1000, 1 << 16, bytes), Tile { panel: 256, multi: true, warps: 2 });
        assert_eq!(Tile::first(1024, 70_000, bytes), Tile { panel: 1024, multi: false, warps: 1 });
        assert_eq!(Tile::first(5000, 1 << 17, bytes), Tile { panel: 256, multi: true, warps: 4 });
    }
}
