//! `cp.async`: copies that land when they are waited for, no sooner.

use super::access::{addresses, resolve};
use super::barrier::pred_bits;
use super::block::BlockState;
use super::finding::{Finding, Step, lanes_of};
use super::global::{self, check_alignment};
use super::lanes::{LANES, Rows};
use super::shared::Who;
use super::warp::{PendingCopy, Warp, read_row};
use crate::fault::FaultKind;
use crate::program::code::{CopyAsync, Space};

impl BlockState<'_> {
    pub(crate) fn copy_async(
        &mut self,
        warp: &mut Warp,
        frame: u32,
        rows: Rows,
        copy: &CopyAsync,
        active: u32,
    ) -> Step<()> {
        let bytes = u32::from(copy.bytes);
        let dst =
            addresses(warp, frame, rows, copy.dst.0, copy.dst.1).map(|address| match resolve(address) {
                (Space::Shared, at) => at,
                (_, at) => at,
            });
        let src = addresses(warp, frame, rows, copy.src.0, copy.src.1);
        self.check_shared(warp.index, &dst, active, bytes)?;
        check_alignment(warp.index, &src, active, bytes)?;
        let sizes = match copy.size {
            Some(row) => read_row(rows, row),
            None => [bytes; LANES],
        };
        let ignored = copy.ignore.map_or(0, |p| pred_bits(rows, p));
        let size_of = |lane: usize| if ignored >> lane & 1 != 0 { 0 } else { sizes[lane] };
        let wrong = lanes_of(active).find(|&lane| size_of(lane) > bytes);
        if let Some(lane) = wrong {
            let message = format!("cp.async of {bytes} bytes with a source size of {}", size_of(lane));
            return Err(Finding::new(FaultKind::AsyncCopy, message).thread(warp.index * 32 + lane as u32));
        }
        // A copy of no bytes reads nothing: its source may be anywhere.
        let reading =
            lanes_of(active).filter(|&lane| size_of(lane) > 0).fold(0, |mask, lane| mask | 1 << lane);
        if reading != 0 {
            global::count(&mut self.counts.global_loads, &src, reading, bytes);
            self.check_copy_sources(warp.index, &src, reading, bytes, size_of)?;
        }
        self.counts.shared_stores.count(&dst, active, bytes);
        for lane in lanes_of(active) {
            let at = dst[lane] as u32;
            if self.launch.spec.settings.checks.shared_races {
                let who = Who { warp: warp.index, lane: lane as u32, clocks: &self.clocks, strong: false };
                self.shared.check_future_write(who, at, bytes)?;
            }
            if self.launch.spec.settings.checks.async_copies && self.shared.is_pending(at, bytes) {
                let message = format!("cp.async into shared offset {at:#x}, where another is pending");
                let finding = Finding::new(FaultKind::AsyncCopy, message).address(at.into());
                return Err(finding.thread(warp.index * 32 + lane as u32));
            }
            self.shared.set_pending(at, bytes, true);
            warp.copies.push(PendingCopy {
                lane: lane as u8,
                bytes: copy.bytes,
                size: size_of(lane) as u8,
                dst: at,
                src: src[lane],
                group: warp.copy_group[lane],
            });
        }
        Ok(())
    }

    fn check_copy_sources(
        &self,
        warp: u32,
        src: &[u64; LANES],
        active: u32,
        bytes: u32,
        size_of: impl Fn(usize) -> u32,
    ) -> Step<()> {
        let full =
            lanes_of(active).filter(|&lane| size_of(lane) == bytes).fold(0, |mask, lane| mask | 1 << lane);
        if full != 0 {
            self.global_parts(warp, src, full, bytes, |part| {
                self.check_global_load(warp, &part, src, bytes, false)
            })?;
        }
        // Bytes beyond the source size are not read.
        for lane in lanes_of(active & !full) {
            let mut at = *src;
            for _ in 0..size_of(lane) {
                self.global_parts(warp, &at, 1 << lane, 1, |part| {
                    self.check_global_load(warp, &part, &at, 1, false)
                })?;
                at[lane] += 1;
            }
        }
        Ok(())
    }

    /// Lands what the active threads wait for: all but their `pending` latest groups, or everything.
    pub(crate) fn copy_wait(&mut self, warp: &mut Warp, pending: Option<u32>, active: u32) -> Step<()> {
        let mut copies = std::mem::take(&mut warp.copies);
        let mut result = Ok(());
        copies.retain(|copy| {
            let open = warp.copy_group[copy.lane as usize];
            let due = match pending {
                None => true,
                Some(pending) => copy.group < open.saturating_sub(pending),
            };
            let lands = due && active >> copy.lane & 1 != 0;
            if lands && result.is_ok() {
                result = self.land(warp.index, copy);
            }
            !lands
        });
        warp.copies = copies;
        result
    }

    /// Threads exit: what they never waited for is no longer on its way.
    pub(crate) fn land_all(&mut self, warp: &mut Warp, active: u32) {
        let shared = &mut self.shared;
        warp.copies.retain(|copy| {
            let gone = active >> copy.lane & 1 != 0;
            if gone {
                shared.set_pending(copy.dst, copy.bytes.into(), false);
            }
            !gone
        });
    }

    fn land(&mut self, warp: u32, copy: &PendingCopy) -> Step<()> {
        let (bytes, size) = (u32::from(copy.bytes), u32::from(copy.size));
        let mut data = [0u8; 16];
        let mut src = [0; LANES];
        // Whole copies in words, partial ones byte by byte, as far as they go.
        let unit = if size == bytes { 4 } else { 1 };
        for k in (0..size).step_by(unit as usize) {
            src[copy.lane as usize] = copy.src + u64::from(k);
            self.global_parts(warp, &src, 1 << copy.lane, unit, |part| {
                let value = global::read(part.arena, part.arena.offset(copy.src) + k as usize, unit);
                data[k as usize..(k + unit) as usize].copy_from_slice(&value.to_le_bytes()[..unit as usize]);
                Ok(())
            })?;
        }
        self.shared.set_pending(copy.dst, bytes, false);
        if self.launch.spec.settings.checks.shared_races {
            let who = Who { warp, lane: copy.lane.into(), clocks: &self.clocks, strong: false };
            self.shared.note_write(who, copy.dst, bytes, false)?;
        }
        self.shared.mark_written(copy.dst, bytes);
        for (k, word) in data[..bytes as usize].chunks_exact(4).enumerate() {
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            self.shared.set(copy.dst + 4 * k as u32, 4, value.into());
        }
        Ok(())
    }
}
