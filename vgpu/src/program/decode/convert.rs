//! `mov`, `cvt`, `cvta`.

use super::float::round;
use super::*;
use crate::arith::cvt::{self, Cvt};
use crate::arith::half::{self as halves, Half};
use crate::arith::narrow::{self, Narrow};
use crate::arith::{Format, Round};
use crate::exec::lanes::{each1, each2, map1, map2};
use crate::exec::window;
use crate::ptx::ast::Operand;

impl<'m> Decoder<'_, 'm> {
    pub(super) fn mov(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &[])?;
        let ty = last_type(i)?;
        if ty == Type::Pred {
            return self.mov_pred(i);
        }
        let (d, a) = (self.operand(i, 0)?, self.operand(i, 1)?);
        match (d, a) {
            (Operand::Vector(parts), _) => return self.unpack(i, parts, a, ty),
            (_, Operand::Vector(parts)) => return self.pack(i, parts, ty),
            _ => {}
        }
        if ty.bits() == 128 {
            return self.mov_wide(d, a);
        }
        let d = self.dest(d, ty.bits())?;
        if let Operand::Special(name, component) = a {
            let bits = if ty.bits() == 64 { 64 } else { 32 };
            return self.special(name, component, Cell { row: d, bits });
        }
        let a = self.source(a, ty.bits())?;
        let run = if ty.bits() == 64 { map1(|a: u64| a) } else { map1(|a: u32| a) };
        self.lanes(run, d, &[a], Class::Move);
        Ok(())
    }

    pub(super) fn wide_row(&self, operand: &Operand<'_>) -> Decode<Row> {
        match operand {
            Operand::Reg(register) => match self.places[*register as usize] {
                Place::Row(row, 128) => Ok(row),
                _ => Err("a 128-bit register is expected".into()),
            },
            _ => Err("a 128-bit register is expected".into()),
        }
    }

    fn mov_wide(&mut self, d: &Operand<'_>, a: &Operand<'_>) -> Decode<()> {
        let (d, a) = (self.wide_row(d)?, self.wide_row(a)?);
        for half in [0, 2] {
            self.lanes(map1(|a: u64| a), d + half, &[a + half], Class::Move);
        }
        Ok(())
    }

    /// `mov.b64 d, {a, b}` and its relatives: the first element is the lowest.
    fn pack(&mut self, i: &'m Instruction<'m>, parts: &'m [Operand<'m>], ty: Type) -> Decode<()> {
        let bits = ty.bits() / parts.len().max(1) as u32;
        let rows = parts.iter().map(|part| self.source(part, bits)).collect::<Decode<Vec<Row>>>()?;
        if (ty.bits(), rows.len()) == (128, 2) {
            let d = self.operand(i, 0)?;
            let d = self.wide_row(d)?;
            self.lanes(map1(|a: u64| a), d, &rows[..1], Class::Move);
            self.lanes(map1(|a: u64| a), d + 2, &rows[1..], Class::Move);
            return Ok(());
        }
        let d = self.dst(i, ty.bits())?;
        let run = match (ty.bits(), rows.len()) {
            (64, 2) => map2(|a: u32, b: u32| u64::from(b) << 32 | u64::from(a)),
            (32, 2) => map2(|a: u16, b: u16| u32::from(b) << 16 | u32::from(a)),
            (64, 4) => crate::exec::lanes::map4(|a: u16, b: u16, c: u16, d: u16| {
                [a, b, c, d].into_iter().rev().fold(0, |word, part| word << 16 | u64::from(part))
            }),
            (32, 4) => crate::exec::lanes::map4(|a: u16, b: u16, c: u16, d: u16| {
                [a, b, c, d].into_iter().rev().fold(0, |word, part| word << 8 | u32::from(part & 0xff))
            }),
            (16, 2) => map2(|a: u16, b: u16| (b & 0xff) << 8 | a & 0xff),
            _ => return Err(unsupported(i)),
        };
        self.lanes(run, d, &rows, Class::Move);
        Ok(())
    }

    fn unpack(
        &mut self,
        i: &'m Instruction<'m>,
        parts: &'m [Operand<'m>],
        a: &'m Operand<'m>,
        ty: Type,
    ) -> Decode<()> {
        let bits = ty.bits() / parts.len().max(1) as u32;
        if ty.bits() == 128 {
            let a = self.wide_row(a)?;
            let [low, high] = parts else { return Err(unsupported(i)) };
            let (low, high) = (self.dest(low, 64)?, self.dest(high, 64)?);
            self.lanes(map1(|a: u64| a), low, &[a], Class::Move);
            self.lanes(map1(|a: u64| a), high, &[a + 2], Class::Move);
            return Ok(());
        }
        if bits == 0 || !bits.is_power_of_two() {
            return Err(unsupported(i));
        }
        // A part may overwrite the source: all are read before the first is written.
        let mut a = self.any_source(a, ty.bits())?;
        if parts.len() > 1 {
            let row = self.new_rows(if a.bits == 64 { 2 } else { 1 });
            let copy = Cell { row, ..a };
            self.cell_map(copy, a, Class::Move, |x| x);
            a = copy;
        }
        for (k, part) in parts.iter().enumerate() {
            let Operand::Reg(register) = part else { continue };
            let (d, shift) = (self.cell(*register)?, k as u32 * bits);
            let keep = u64::MAX >> (64 - bits);
            self.cell_map(d, a, Class::Move, move |x| x >> shift & keep);
        }
        Ok(())
    }

    /// `cvta` between generic addresses and those of a space.
    pub(super) fn cvta(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &["to", "global", "shared", "shared::cta", "local", "const", "param"])?;
        let base = match () {
            () if i.has("shared") || i.has("shared::cta") => window::SHARED,
            () if i.has("local") => window::LOCAL,
            () if i.has("param") => window::PARAM,
            () => 0,
        };
        let to = i.has("to");
        let d = self.dst(i, 64)?;
        let a = self.src(i, 1, 64)?;
        let run = match (base, to) {
            (0, _) => map1(|a: u64| a),
            (_, true) => map1(move |a: u64| a.wrapping_sub(base)),
            (_, false) => map1(move |a: u64| a.wrapping_add(base)),
        };
        self.lanes(run, d, &[a], Class::Move);
        Ok(())
    }

    pub(super) fn cvt(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        if i.has("pack") {
            return self.cvt_pack(i);
        }
        let narrow = ["f16x2", "bf16x2", "tf32"];
        let bytes = |m: &str| m.ends_with("x2") || m.ends_with("x4");
        if i.mods.iter().any(|m| narrow.contains(m) || bytes(m)) {
            return self.cvt_narrow(i);
        }
        let mut found = i.mods.iter().filter_map(|m| cvt::Type::parse(m));
        let (Some(to), Some(from)) = (found.next(), found.next()) else { return Err(unsupported(i)) };
        let known = ["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "ftz", "sat", "relu", "satfinite"];
        if let Some(m) = i.mods.iter().find(|m| cvt::Type::parse(m).is_none() && !known.contains(m)) {
            return Err(format!("unsupported modifier '.{m}' of '{}'", i.opcode()));
        }
        let (d, a) = (self.operand(i, 0)?, self.operand(i, 1)?);
        let a = self.any_source(a, from.bits())?;
        let d = match d {
            Operand::Reg(register) => self.cell(*register)?,
            _ => return Err("the destination is not a register".into()),
        };
        let conversion = conversion(i, to, from);
        if let Some(run) = hot(conversion, d, a) {
            self.lanes(run, d.row, &[a.row], Class::Convert);
        } else {
            self.cell_map(d, a, Class::Convert, move |x| conversion.apply(x));
        }
        Ok(())
    }

    fn cvt_narrow(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let known = ["rn", "rz", "rna", "relu", "satfinite"];
        let formats: Vec<&str> = i.mods.iter().copied().filter(|m| !known.contains(m)).collect();
        let mode = Narrow { round: round(i), relu: i.has("relu"), satfinite: i.has("satfinite") };
        let [to, from] = formats[..] else { return Err(unsupported(i)) };
        let relu = mode.relu;
        // (function, width of the result, widths of the sources)
        let (run, d_bits, sources): (LaneOp, u32, &[u32]) = match (to, from) {
            ("tf32", "f32") => (each1(move |a, _| narrow::to_tf32(a, mode)), 32, &[32]),
            ("f16x2", "f32") => (map2(move |a, b| narrow::pack_half(Half::F16, a, b, mode)), 32, &[32, 32]),
            ("bf16x2", "f32") => (map2(move |a, b| narrow::pack_half(Half::Bf16, a, b, mode)), 32, &[32, 32]),
            ("e2m1x2", "f32") => {
                (each2(move |a, b, _| u16::from(narrow::pack_e2m1(a, b, mode))), 16, &[32, 32])
            }
            (_, "f32") => {
                let format = byte_format(to).ok_or_else(|| unsupported(i))?;
                (each2(move |a, b, _| narrow::pack_bytes(format, a, b, mode)), 16, &[32, 32])
            }
            (_, "f16x2") => {
                let format = byte_format(to).ok_or_else(|| unsupported(i))?;
                (each1(move |a, _| narrow::pack_bytes_from_f16x2(format, a, mode)), 16, &[32])
            }
            ("f16x2", "e2m1x2") => {
                (each1(move |a: u16, _| narrow::f16x2_from_e2m1(a as u8, relu)), 32, &[16])
            }
            ("f16x2", _) => {
                let format = byte_format(from).ok_or_else(|| unsupported(i))?;
                (each1(move |a, _| narrow::f16x2_from_bytes(format, a, relu)), 32, &[16])
            }
            _ => return Err(unsupported(i)),
        };
        let d = self.dst(i, d_bits)?;
        let rows =
            (0..sources.len()).map(|k| self.src(i, k + 1, sources[k])).collect::<Decode<Vec<Row>>>()?;
        self.lanes(run, d, &rows, Class::Convert);
        Ok(())
    }

    /// `cvt.pack.sat.{u16,s16}.s32 d, a, b` and `.{u8,s8,...}.s32.b32 d, a, b, c`.
    fn cvt_pack(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let to = i.mods.iter().find_map(|m| cvt::Type::parse(m)).ok_or_else(|| unsupported(i))?;
        let keep = Cvt { sat: true, ..Cvt::new(to, cvt::Type::S32) };
        let bits = to.bits();
        let part = move |x: u32| (keep.apply(u64::from(x)) & (u64::MAX >> (64 - bits))) as u32;
        let d = self.dst(i, 32)?;
        let mut rows = vec![self.src(i, 1, 32)?, self.src(i, 2, 32)?];
        let run = if i.operands.len() == 4 {
            rows.push(self.src(i, 3, 32)?);
            crate::exec::lanes::map3(move |a: u32, b: u32, c: u32| {
                c << (2 * bits) | part(a) << bits | part(b)
            })
        } else {
            map2(move |a: u32, b: u32| part(a) << bits | part(b))
        };
        self.lanes(run, d, &rows, Class::Convert);
        Ok(())
    }
}

fn byte_format(name: &str) -> Option<Format> {
    Some(match name {
        "e4m3x2" => Format::E4M3,
        "e5m2x2" => Format::E5M2,
        "e2m3x2" => Format::E2M3,
        "e3m2x2" => Format::E3M2,
        _ => return None,
    })
}

fn conversion(i: &Instruction<'_>, to: cvt::Type, from: cvt::Type) -> Cvt {
    let integral = [("rni", Round::Nearest), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)];
    Cvt {
        to,
        from,
        round: round(i),
        integral: integral.into_iter().find(|(name, _)| i.has(name)).map(|(_, mode)| mode),
        ftz: i.has("ftz"),
        sat: i.has("sat"),
        relu: i.has("relu"),
        satfinite: i.has("satfinite"),
    }
}

/// Conversions that compiled kernels are full of, as loops that vectorise.
fn hot(c: Cvt, d: Cell, a: Cell) -> Option<LaneOp> {
    use cvt::Type::{Bf16, F16, F32, S32, S64, U16, U32, U64};
    let plain = Cvt { integral: c.integral, ..Cvt::new(c.to, c.from) } == c;
    let exact = d.bits == c.to.bits() as u8 && a.bits == c.from.bits() as u8;
    if !plain || !exact {
        return None;
    }
    Some(match (c.from, c.to, c.integral) {
        (U32, U64, None) => map1(|a: u32| u64::from(a)),
        (S32, S64 | U64, None) => map1(|a: i32| i64::from(a)),
        (U64 | S64, U32 | S32, None) => map1(|a: u64| a as u32),
        (U32 | S32, U16, None) => map1(|a: u32| a as u16),
        (U16, U32 | S32, None) => map1(|a: u16| u32::from(a)),
        (F32, F16, None) => map1(halves::f16_from_f32),
        (F32, Bf16, None) => map1(halves::bf16_from_f32),
        (F16, F32, None) => map1(halves::f32_from_f16),
        (Bf16, F32, None) => map1(halves::f32_from_bf16),
        (S32, F32, None) => map1(cvt::s32_to_f32),
        (U32, F32, None) => map1(cvt::u32_to_f32),
        (F32, S32, Some(Round::Zero)) => map1(cvt::f32_to_s32_rzi),
        (F32, U32, Some(Round::Zero)) => map1(cvt::f32_to_u32_rzi),
        _ => return None,
    })
}
