//! Stack memory that a function takes as it runs: `alloca`, `stacksave`, `stackrestore`.

use super::block::BlockState;
use super::call::STACK_LIMIT;
use super::finding::{Finding, Step, lanes_of};
use super::lanes::LANES;
use super::warp::Warp;
use crate::fault::FaultKind;

impl BlockState<'_> {
    /// Takes as many bytes for all threads as the one that wants most; gives their local address.
    pub(crate) fn take_stack(
        &self,
        warp: &mut Warp,
        frame: u32,
        sizes: &[u64; LANES],
        align: u32,
        active: u32,
    ) -> Step<u64> {
        let most = lanes_of(active).map(|lane| sizes[lane]).max().unwrap_or(0);
        let start = (warp.stack_bytes() as u64).next_multiple_of(u64::from(align.max(16)));
        let end = start.saturating_add(most).checked_next_multiple_of(16);
        let Some(end) = end.filter(|&end| end <= STACK_LIMIT as u64 && !warp.is_deep()) else {
            let message =
                format!("alloca of {most} bytes, with {start} of {STACK_LIMIT} bytes of stack in use");
            return Err(Finding::new(FaultKind::StackOverflow, message).lanes(warp.index, active));
        };
        warp.take_stack(frame, end as usize, active);
        Ok(start)
    }

    /// Gives back what a function took after the stack was as high as `heights` says.
    pub(crate) fn restore_stack(&self, warp: &mut Warp, frame: u32, heights: &[u64; LANES], active: u32) {
        for taken in warp.frames.iter_mut().filter(|other| other.taken && other.parent == frame) {
            for lane in lanes_of(active).filter(|&lane| u64::from(taken.local) >= heights[lane]) {
                taken.lanes &= !(1 << lane);
            }
        }
        warp.pop_frames();
    }
}
