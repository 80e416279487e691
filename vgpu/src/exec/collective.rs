//! Warp collectives under a membermask.

use super::barrier::pred_bits;
use super::block::BlockState;
use super::finding::{Finding, Step, lanes_of};
use super::lanes::{LANES, Rows};
use super::warp::{Group, GroupState, Warp, read_row, write_row};
use crate::arith::single::{self, MinMaxMode};
use crate::fault::FaultKind;
use crate::program::code::{Collective, Op, Redux, Shfl, Shuffle, Vote};

impl BlockState<'_> {
    /// Executes a collective; `false` if it must wait for lanes of a membermask.
    pub(crate) fn collective(
        &mut self,
        warp: &Warp,
        rows: Rows,
        collective: &Collective,
        active: u32,
    ) -> Step<bool> {
        let checks = self.launch.spec.settings.checks.collectives;
        let members = read_row(rows, collective.members());
        let named = lanes_of(active).fold(0, |all, lane| all | members[lane]) & warp.live;
        if named & !active != 0 {
            return Ok(false);
        }
        if checks {
            self.check_members(warp, &members, active)?;
        }
        match collective {
            Collective::Shfl(shfl) => self.shuffle(warp, rows, shfl, &members, active, checks)?,
            Collective::Sync { .. } => self.clocks.advance(warp.index),
            other => {
                let mut rest = active;
                while rest != 0 {
                    let leader = rest.trailing_zeros() as usize;
                    // Lanes that name the same members act together.
                    let team = lanes_of(rest).filter(|&lane| members[lane] == members[leader]);
                    let team = team.fold(0, |mask, lane| mask | 1 << lane);
                    combine(rows, other, team);
                    rest &= !team;
                }
            }
        }
        Ok(true)
    }

    /// Lets lanes go on that wait for each other at different `bar.warp.sync`s, as the ISA has it: "until all
    /// threads corresponding to membermask have executed a bar.warp.sync with the same membermask". Whether
    /// there were any.
    pub(crate) fn meet_apart(&mut self, warp: &mut Warp) -> bool {
        let waiting: Vec<(usize, u32)> = (0..warp.groups.len())
            .filter_map(|index| Some((index, self.waits_at_sync(warp, index)?)))
            .collect();
        let are_all_here = |named: u32| {
            let here = waiting.iter().filter(|&&(_, other)| other == named);
            named & warp.live == here.fold(0, |lanes, &(index, _)| lanes | warp.groups[index].mask)
        };
        let Some(named) = waiting.iter().map(|&(_, named)| named).find(|&named| are_all_here(named)) else {
            return false;
        };
        self.clocks.advance(warp.index);
        for (index, _) in waiting.into_iter().filter(|&(_, other)| other == named) {
            let group = &mut warp.groups[index];
            let counts = &mut self.counts.executed[group.pc as usize];
            counts.0 += 1;
            counts.1 += u64::from(group.mask.count_ones());
            group.pc += 1;
            group.state = GroupState::Ready;
        }
        true
    }

    /// The membermask of the `bar.warp.sync` that a group waits at, where all its threads name the same.
    fn waits_at_sync(&self, warp: &mut Warp, index: usize) -> Option<u32> {
        let Group { pc, mask, frame, state, .. } = warp.groups[index];
        let inst = &self.launch.code.instructions[pc as usize];
        let Op::Collective(collective) = &inst.op else { return None };
        let Collective::Sync { members } = **collective else { return None };
        if state != GroupState::Collective || inst.guard.is_some() {
            return None;
        }
        let members = read_row(warp.rows(frame, self.launch.noise), members);
        let named = members[mask.trailing_zeros() as usize & 31];
        lanes_of(mask).all(|lane| members[lane] == named).then_some(named)
    }

    fn check_members(&self, warp: &Warp, members: &[u32; LANES], active: u32) -> Step<()> {
        for lane in lanes_of(active) {
            let mask = members[lane];
            let message = if mask >> lane & 1 == 0 {
                format!("lane {lane} executes a collective whose membermask {mask:#010x} does not name it")
            } else if let Some(other) = lanes_of(mask & active).find(|&other| members[other] != mask) {
                format!(
                    "lanes {lane} and {other} execute a collective with membermasks {mask:#010x} and {:#010x}",
                    members[other]
                )
            } else {
                continue;
            };
            return Err(Finding::new(FaultKind::Collective, message).thread(warp.index * 32 + lane as u32));
        }
        Ok(())
    }

    fn shuffle(
        &self,
        warp: &Warp,
        rows: Rows,
        shfl: &Shfl,
        members: &[u32; LANES],
        active: u32,
        checks: bool,
    ) -> Step<()> {
        let (a, b, c) = (read_row(rows, shfl.a), read_row(rows, shfl.b), read_row(rows, shfl.c));
        let mut out = a;
        let mut inside = 0u32;
        for lane in lanes_of(active) {
            let (source, valid) = source_lane(shfl.mode, lane as u32, b[lane], c[lane]);
            inside |= u32::from(valid) << lane;
            let from = if valid { source as usize } else { lane };
            if checks && (active & members[lane]) >> from & 1 == 0 {
                let why = if warp.live >> from & 1 == 0 {
                    "does not exist or has exited"
                } else {
                    "is not in the membermask"
                };
                let message = format!("lane {lane} shuffles from lane {from}, which {why}");
                return Err(
                    Finding::new(FaultKind::Collective, message).thread(warp.index * 32 + lane as u32)
                );
            }
            out[lane] = a[from];
        }
        write_row(rows, shfl.d, active, &out);
        if let Some(p) = shfl.p {
            // SAFETY: predicates come from the decoder.
            unsafe { rows.set_pred(p, inside, active) };
        }
        Ok(())
    }
}

/// The lane a shuffle reads from, and whether it is in range (`shfl` of the ISA, word for word).
fn source_lane(mode: Shuffle, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (value, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let max = lane & segment | clamp & !segment;
    let min = lane & segment;
    match mode {
        Shuffle::Up => {
            let source = lane.wrapping_sub(value);
            (source & 31, source as i32 >= max as i32)
        }
        Shuffle::Down => (lane + value, lane + value <= max),
        Shuffle::Butterfly => (lane ^ value, lane ^ value <= max),
        Shuffle::Index => {
            let source = min | value & !segment;
            (source, source <= max)
        }
    }
}

/// A collective over lanes that all take part.
fn combine(rows: Rows, collective: &Collective, team: u32) {
    match *collective {
        Collective::Vote { mode, source, p, d, .. } => {
            let bits = pred_bits(rows, source) & team;
            let truth = match mode {
                Vote::All => bits == team,
                Vote::Any => bits != 0,
                Vote::Uniform => bits == team || bits == 0,
                Vote::Ballot => return write_row(rows, d, team, &[bits; LANES]),
            };
            set(rows, p, if truth { u32::MAX } else { 0 }, team);
        }
        Collective::Match { all, wide, a, d, p, .. } => {
            let values: [u64; LANES] = match wide {
                // SAFETY: the decoder says which width the row has.
                true => unsafe { rows.load(a) },
                false => read_row(rows, a).map(u64::from),
            };
            let equal = |lane: usize| {
                lanes_of(team).filter(|&l| values[l] == values[lane]).fold(0, |m, l| m | 1 << l)
            };
            if all {
                let same = equal(team.trailing_zeros() as usize) == team;
                write_row(rows, d, team, &[if same { team } else { 0 }; LANES]);
                set(rows, p, if same { u32::MAX } else { 0 }, team);
            } else {
                let mut out = [0; LANES];
                lanes_of(team).for_each(|lane| out[lane] = equal(lane));
                write_row(rows, d, team, &out);
            }
        }
        Collective::Redux { op, a, d, .. } => {
            let values = read_row(rows, a);
            let result = lanes_of(team).map(|lane| values[lane]).reduce(|x, y| reduce(op, x, y)).unwrap_or(0);
            write_row(rows, d, team, &[finish(op, result); LANES]);
        }
        Collective::Elect { d, p, .. } => {
            let leader = team.trailing_zeros();
            write_row(rows, d, team, &[leader; LANES]);
            set(rows, Some(p), 1 << leader, team);
        }
        Collective::Shfl(_) | Collective::Sync { .. } => {}
    }
}

fn set(rows: Rows, p: Option<u32>, bits: u32, mask: u32) {
    if let Some(p) = p {
        // SAFETY: predicates come from the decoder.
        unsafe { rows.set_pred(p, bits, mask) };
    }
}

fn reduce(op: Redux, a: u32, b: u32) -> u32 {
    let mode = |abs, nan| MinMaxMode { nan, abs, ..MinMaxMode::default() };
    match op {
        Redux::Add => a.wrapping_add(b),
        Redux::MinU => a.min(b),
        Redux::MaxU => a.max(b),
        Redux::MinS => (a as i32).min(b as i32) as u32,
        Redux::MaxS => (a as i32).max(b as i32) as u32,
        Redux::And => a & b,
        Redux::Or => a | b,
        Redux::Xor => a ^ b,
        Redux::FloatMin(abs, nan) => single::min(a, b, mode(abs, nan)),
        Redux::FloatMax(abs, nan) => single::max(a, b, mode(abs, nan)),
    }
}

/// A single lane's value has met no operation yet.
fn finish(op: Redux, value: u32) -> u32 {
    match op {
        Redux::FloatMin(true, _) | Redux::FloatMax(true, _) => single::abs(value, false),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffles_follow_the_isa() {
        let c = |clamp: u32, width: u32| (32 - width) << 8 | clamp;
        assert_eq!(source_lane(Shuffle::Down, 30, 1, c(31, 32)), (31, true));
        assert_eq!(source_lane(Shuffle::Down, 31, 1, c(31, 32)), (32, false));
        assert!(!source_lane(Shuffle::Up, 0, 1, c(0, 32)).1);
        assert!(!source_lane(Shuffle::Up, 8, 1, c(0, 8)).1, "segments of 8 lanes");
        assert_eq!(source_lane(Shuffle::Up, 9, 1, c(0, 8)), (8, true));
        assert_eq!(source_lane(Shuffle::Butterfly, 5, 16, c(31, 32)), (21, true));
        assert_eq!(source_lane(Shuffle::Index, 20, 3, c(31, 16)), (19, true));
    }
}
