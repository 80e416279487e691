//! Video instructions: SIMD ones, as the `__vadd2`-style intrinsics give them, and scalar ones of inline
//! assembly.

use super::*;
use crate::arith::Cmp;
use crate::arith::video::{Mad, Op as VideoOp, Part, Scalar, Secondary, Simd};
use crate::exec::lanes::map3;
use crate::ptx::ast::Operand;

impl<'m> Decoder<'_, 'm> {
    pub(super) fn video(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        match i.name.as_bytes().last() {
            Some(b'2') => self.video_simd(i, 2),
            Some(b'4') => self.video_simd(i, 4),
            _ if i.name == "vmad" => self.video_mad(i),
            _ => self.video_scalar(i),
        }
    }

    fn video_simd(&mut self, i: &'m Instruction<'m>, lanes: u8) -> Decode<()> {
        let mut simd = simd(i, lanes).ok_or_else(|| unsupported(i))?;
        let (d, mask) = part(self.operand(i, 0)?);
        let (a, a_part) = part(self.operand(i, 1)?);
        let (b, b_part) = part(self.operand(i, 2)?);
        if let Some(digits) = mask {
            simd.mask = digits.bytes().skip(1).fold(0, |mask, digit| mask | 1 << (digit & 7));
        }
        for (select, digits) in [(&mut simd.a_select, a_part), (&mut simd.b_select, b_part)] {
            let Some(digits) = digits else { continue };
            if digits.len() != 1 + usize::from(lanes) {
                return Err(format!("the selector '.{digits}' is not one of {lanes} lanes"));
            }
            // The last digit is the lowest lane.
            select.iter_mut().zip(digits.bytes().rev()).for_each(|(lane, digit)| *lane = digit & 7);
        }
        let d = self.dest(d, 32)?;
        let rows = [self.source(a, 32)?, self.source(b, 32)?, self.src(i, 3, 32)?];
        self.lanes(map3(move |a, b, c| simd.apply(a, b, c)), d, &rows, Class::Integer);
        Ok(())
    }

    fn video_scalar(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let mut scalar = scalar(i).ok_or_else(|| unsupported(i))?;
        let (d, d_part) = part(self.operand(i, 0)?);
        let (a, a_part) = part(self.operand(i, 1)?);
        let (b, b_part) = part(self.operand(i, 2)?);
        (scalar.d_part, scalar.a_part, scalar.b_part) =
            (selected(d_part)?, selected(a_part)?, selected(b_part)?);
        let merges = scalar.d_part != Part::Word || scalar.secondary != Secondary::None;
        let d = self.dest(d, 32)?;
        let (a, b) = (self.source(a, 32)?, self.source(b, 32)?);
        let c = if merges { self.src(i, 3, 32)? } else { a };
        self.lanes(map3(move |a, b, c| scalar.apply(a, b, c)), d, &[a, b, c], Class::Integer);
        Ok(())
    }

    fn video_mad(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &["po", "sat", "shr7", "shr15"])?;
        let [_, a_type, b_type] = types(i)[..] else { return Err(unsupported(i)) };
        let (a, a_negated) = sign(self.operand(i, 1)?);
        let (b, b_negated) = sign(self.operand(i, 2)?);
        let (c, negate_c) = sign(self.operand(i, 3)?);
        let ((a, a_part), (b, b_part)) = (part(a), part(b));
        let mad = Mad {
            a_signed: a_type.is_signed(),
            b_signed: b_type.is_signed(),
            a_part: selected(a_part)?,
            b_part: selected(b_part)?,
            negate_product: a_negated != b_negated,
            negate_c,
            plus_one: i.has("po"),
            sat: i.has("sat"),
            scale: if i.has("shr7") { 7 } else { 15 * u32::from(i.has("shr15")) },
        };
        let d = self.dst(i, 32)?;
        let rows = [self.source(a, 32)?, self.source(b, 32)?, self.source(c, 32)?];
        self.lanes(map3(move |a, b, c| mad.apply(a, b, c)), d, &rows, Class::Integer);
        Ok(())
    }
}

fn operation(i: &Instruction<'_>, name: &str) -> Option<VideoOp> {
    let wrap = i.has("wrap");
    Some(match name {
        "vadd" => VideoOp::Add,
        "vsub" => VideoOp::Sub,
        "vavrg" => VideoOp::Average,
        "vabsdiff" => VideoOp::AbsDiff,
        "vmin" => VideoOp::Min,
        "vmax" => VideoOp::Max,
        "vset" => VideoOp::Set(i.mods.iter().find_map(|m| Cmp::parse(m))?),
        "vshl" => VideoOp::ShiftLeft { wrap },
        "vshr" => VideoOp::ShiftRight { wrap },
        _ => return None,
    })
}

/// Signedness of the result and of the two operands; `vset` names none for its result, which is unsigned.
fn signedness(i: &Instruction<'_>, op: VideoOp) -> Option<[bool; 3]> {
    let signed: Vec<bool> = types(i).iter().map(|t| t.is_signed()).collect();
    match (op, &signed[..]) {
        (VideoOp::Set(_), &[a, b]) => Some([false, a, b]),
        (VideoOp::Set(_), _) => None,
        (_, &[d, a, b]) => Some([d, a, b]),
        _ => None,
    }
}

/// Whether every modifier is a type, the comparison of a `vset`, or in the list.
fn knows_all(i: &Instruction<'_>, op: VideoOp, known: &[&str]) -> bool {
    let compares = matches!(op, VideoOp::Set(_));
    i.mods
        .iter()
        .all(|m| Type::parse(m).is_some() || known.contains(m) || compares && Cmp::parse(m).is_some())
}

fn simd(i: &Instruction<'_>, lanes: u8) -> Option<Simd> {
    let op = operation(i, &i.name[..i.name.len() - 1])
        .filter(|op| !matches!(op, VideoOp::ShiftLeft { .. } | VideoOp::ShiftRight { .. }))?;
    let [d, a, b] = signedness(i, op)?;
    let mut simd = Simd::new(op, lanes, d, a, b);
    simd.sat = i.has("sat");
    simd.accumulate = i.has("add");
    knows_all(i, op, &["sat", "add"]).then_some(simd)
}

fn scalar(i: &Instruction<'_>) -> Option<Scalar> {
    let op = operation(i, i.name).filter(|op| *op != VideoOp::Average)?;
    let [d_signed, a_signed, b_signed] = signedness(i, op)?;
    let secondary = match i.mods.last() {
        Some(&"add") => Secondary::Add,
        Some(&"min") => Secondary::Min,
        Some(&"max") => Secondary::Max,
        _ => Secondary::None,
    };
    let sat = i.has("sat");
    let (a_part, b_part, d_part) = (Part::Word, Part::Word, Part::Word);
    let scalar = Scalar { op, d_signed, a_signed, b_signed, sat, a_part, b_part, d_part, secondary };
    knows_all(i, op, &["sat", "add", "min", "max", "clamp", "wrap"]).then_some(scalar)
}

/// The register of an operand, and its selector.
fn part<'o>(operand: &'o Operand<'o>) -> (&'o Operand<'o>, Option<&'o str>) {
    match operand {
        Operand::Part(register, digits) => (register, Some(digits)),
        other => (other, None),
    }
}

fn sign<'o>(operand: &'o Operand<'o>) -> (&'o Operand<'o>, bool) {
    match operand {
        Operand::Minus(inner) => (inner, true),
        other => (other, false),
    }
}

/// The part that a scalar operand's selector means.
fn selected(digits: Option<&str>) -> Decode<Part> {
    match digits {
        None => Ok(Part::Word),
        Some("b0") => Ok(Part::Byte(0)),
        Some("b1") => Ok(Part::Byte(1)),
        Some("b2") => Ok(Part::Byte(2)),
        Some("b3") => Ok(Part::Byte(3)),
        Some("h0") => Ok(Part::Half(0)),
        Some("h1") => Ok(Part::Half(1)),
        Some(other) => Err(format!("'.{other}' is not a byte or half of a register")),
    }
}
