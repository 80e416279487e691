//! SIMD video instructions, as the `__vadd2`-style intrinsics give them.

use super::*;
use crate::arith::Cmp;
use crate::arith::video::{Op as VideoOp, Simd};
use crate::exec::lanes::map3;

impl<'m> Decoder<'_, 'm> {
    pub(super) fn video(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let simd = simd(i).ok_or_else(|| unsupported(i))?;
        let d = self.dst(i, 32)?;
        let rows = [self.src(i, 1, 32)?, self.src(i, 2, 32)?, self.src(i, 3, 32)?];
        self.lanes(map3(move |a, b, c| simd.apply(a, b, c)), d, &rows, Class::Integer);
        Ok(())
    }
}

fn simd(i: &Instruction<'_>) -> Option<Simd> {
    let lanes = match i.name.as_bytes().last()? {
        b'2' => 2,
        b'4' => 4,
        _ => return None,
    };
    let op = match &i.name[..i.name.len() - 1] {
        "vadd" => VideoOp::Add,
        "vsub" => VideoOp::Sub,
        "vavrg" => VideoOp::Average,
        "vabsdiff" => VideoOp::AbsDiff,
        "vmin" => VideoOp::Min,
        "vmax" => VideoOp::Max,
        "vset" => VideoOp::Set(i.mods.iter().find_map(|m| Cmp::parse(m))?),
        _ => return None,
    };
    let types = types(i);
    let signed = |k: usize| types.get(k).is_some_and(|t| t.is_signed());
    // `vset` has no type of its own result.
    let mut simd = match (op, types.len()) {
        (VideoOp::Set(_), 2) => Simd::new(op, lanes, false, signed(0), signed(1)),
        (_, 3) => Simd::new(op, lanes, signed(0), signed(1), signed(2)),
        _ => return None,
    };
    simd.sat = i.has("sat");
    simd.accumulate = i.has("add");
    let known =
        |m: &str| m == "sat" || m == "add" || matches!(op, VideoOp::Set(_)) && Cmp::parse(m).is_some();
    i.mods.iter().all(|m| Type::parse(m).is_some() || known(m)).then_some(simd)
}
