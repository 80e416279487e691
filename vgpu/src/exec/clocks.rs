//! Which accesses of a block's warps happened before which: vector clocks, advanced by barriers.
//!
//! An access remembers its warp's clock. It happened before what warp `w` does now if `w` has since met that
//! warp at a barrier, that is if the remembered clock is below what `w` knows of that warp. Within a warp the
//! same holds between lanes, with `bar.warp.sync` as the barrier.

/// Vector clocks of the warps of a block.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    /// What each warp knows of each other.
    known: Vec<[u32; 32]>,
    /// The least of what each warp knows: accesses with a clock below it happened before.
    floor: Vec<u32>,
    base: u32,
}

impl Clocks {
    /// Starts a block; clocks go on from the last one, so that what it left in the shadow counts as past.
    pub(crate) fn reset(&mut self, warps: usize) {
        let last = self.known.iter().flatten().max().copied().unwrap_or(0);
        self.base = last;
        self.known.clear();
        self.known.resize(warps, [last + 1; 32]);
        self.floor.clear();
        self.floor.resize(warps, last + 1);
    }

    #[inline(always)]
    pub(crate) fn now(&self, warp: u32) -> u32 {
        self.known[warp as usize][warp as usize]
    }

    #[inline(always)]
    pub(crate) fn floor(&self, warp: u32) -> u32 {
        self.floor[warp as usize]
    }

    /// Whether `warp` has seen what `of` did at `clock`.
    #[inline(always)]
    pub(crate) fn knows(&self, warp: u32, of: u32, clock: u32) -> bool {
        clock < self.known[warp as usize][of as usize & 31]
    }

    /// Clocks of this block only, as other blocks remember them.
    #[inline(always)]
    pub(crate) fn relative(&self, clock: u32) -> u32 {
        clock - self.base
    }

    #[inline(always)]
    pub(crate) fn absolute(&self, clock: u32) -> u32 {
        clock + self.base
    }

    /// What a warp knows, relative to the block's start.
    pub(crate) fn snapshot(&self, warp: u32) -> [u32; 32] {
        self.known[warp as usize].map(|clock| clock - self.base)
    }

    /// `bar.warp.sync` orders the lanes of a warp. So, for other blocks, does a fence; that lanes of the warp
    /// are then taken as ordered too forgives more than it should, and accuses nobody.
    pub(crate) fn advance(&mut self, warp: u32) {
        self.known[warp as usize][warp as usize] += 1;
        self.refresh(warp);
    }

    /// A barrier: the warps in `waiting` learn all that those in `arrived` (which include them) know.
    pub(crate) fn meet(&mut self, arrived: u32, waiting: u32) {
        let mut joined = [0u32; 32];
        let mut latest = 0;
        for w in super::finding::lanes_of(arrived) {
            for (joined, &known) in joined.iter_mut().zip(&self.known[w]) {
                *joined = (*joined).max(known);
            }
            latest = latest.max(self.known[w][w]);
        }
        for w in super::finding::lanes_of(arrived) {
            joined[w] = latest + 1;
        }
        for w in super::finding::lanes_of(arrived) {
            if waiting >> w & 1 != 0 {
                self.known[w] = joined;
            } else {
                self.known[w][w] = latest + 1;
            }
            self.refresh(w as u32);
        }
    }

    fn refresh(&mut self, warp: u32) {
        let warps = self.known.len();
        let known = &self.known[warp as usize][..warps];
        self.floor[warp as usize] = known.iter().copied().min().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barriers_order_and_arrivals_only_release() {
        let mut clocks = Clocks::default();
        clocks.reset(3);
        let written = clocks.now(0);
        assert!(!clocks.knows(1, 0, written));
        clocks.meet(0b011, 0b011);
        assert!(clocks.knows(1, 0, written) && !clocks.knows(2, 0, written));
        let later = clocks.now(1);
        // Warp 1 arrives, warp 2 waits: 2 learns of 1 and through it of 0, and 1 learns nothing.
        let unseen = clocks.now(2);
        clocks.meet(0b110, 0b100);
        assert!(clocks.knows(2, 1, later) && clocks.knows(2, 0, written));
        assert!(!clocks.knows(1, 2, unseen));
        clocks.reset(3);
        assert!(clocks.knows(0, 1, later), "an earlier block is past");
    }
}
