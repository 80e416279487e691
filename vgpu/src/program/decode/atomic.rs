//! `atom` and `red`.

use super::float::round;
use super::*;
use crate::arith::F32Mode;
use crate::arith::half::Half;
use crate::ptx::ast::Operand;

impl<'m> Decoder<'_, 'm> {
    pub(super) fn atomic(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let op = i.mods.iter().find_map(|m| match *m {
            "add" => Some(AtomOp::Add),
            "min" => Some(AtomOp::Min),
            "max" => Some(AtomOp::Max),
            "inc" => Some(AtomOp::Inc),
            "dec" => Some(AtomOp::Dec),
            "and" => Some(AtomOp::And),
            "or" => Some(AtomOp::Or),
            "xor" => Some(AtomOp::Xor),
            "exch" => Some(AtomOp::Exch),
            "cas" => Some(AtomOp::Cas),
            _ => None,
        });
        let op = op.ok_or_else(|| unsupported(i))?;
        let names = [
            "add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas", "v2", "v4", "v8", "rn",
            "ftz",
        ];
        self.check_mods(i, &names)?;
        let ty = last_type(i)?;
        if ty == Type::B(128) {
            return self.wide_atomic(i, op);
        }
        let (kind, bits) = (atom_type(ty, i)?, ty.bits());
        let returns = usize::from(i.name == "atom");
        let address = self.operand(i, returns)?;
        let (space, base, offset) = self.place(i, address)?;
        let src = self.operand(i, returns + 1)?;
        let src = self.atom_cells(src, bits)?;
        let dst = match returns {
            0 => Vec::new(),
            _ => {
                let d = self.operand(i, 0)?;
                self.atom_cells(d, bits)?
            }
        };
        if returns == 1 && dst.len() != src.len() {
            return Err("results and sources differ in number".into());
        }
        let swap = match op {
            AtomOp::Cas => {
                let b = self.operand(i, returns + 2)?;
                Some(self.any_source(b, bits)?)
            }
            _ => None,
        };
        let fence = has_fence(i);
        let atomic = Atomic { op, ty: kind, space, base, offset, dst, src, swap, fence };
        self.emit(Op::Atomic(Box::new(atomic)), Class::Atomic);
        Ok(())
    }

    fn atom_cells(&mut self, operand: &'m Operand<'m>, bits: u32) -> Decode<Vec<Cell>> {
        let elements = match operand {
            Operand::Vector(elements) => elements.as_slice(),
            single => std::slice::from_ref(single),
        };
        let cell = |this: &mut Self, element| match element {
            &Operand::Sink => Ok(Cell { row: NO_ROW, bits: bits as u8 }),
            other => this.any_source(other, bits),
        };
        if !matches!(elements.len(), 1 | 2 | 4 | 8) || elements.len() as u32 * bits > 256 {
            return Err("a vector of an unexpected length".into());
        }
        elements.iter().map(|element| cell(self, element)).collect()
    }

    /// `atom.exch.b128` and `atom.cas.b128`.
    fn wide_atomic(&mut self, i: &'m Instruction<'m>, op: AtomOp) -> Decode<()> {
        if i.name != "atom" || !matches!(op, AtomOp::Exch | AtomOp::Cas) {
            return Err(unsupported(i));
        }
        let (d, address, b) = (self.operand(i, 0)?, self.operand(i, 1)?, self.operand(i, 2)?);
        let (space, base, offset) = self.place(i, address)?;
        let dst = if matches!(d, Operand::Sink) { NO_ROW } else { self.wide_row(d)? };
        let b = self.wide_row(b)?;
        let (src, swap) = match op {
            AtomOp::Cas => {
                let c = self.operand(i, 3)?;
                (b, Some(self.wide_row(c)?))
            }
            _ => (b, None),
        };
        let atomic = WideAtomic { space, base, offset, dst, src, swap, fence: has_fence(i) };
        self.emit(Op::WideAtomic(Box::new(atomic)), Class::Atomic);
        Ok(())
    }
}

fn has_fence(i: &Instruction<'_>) -> bool {
    i.has("release") || i.has("acq_rel") || i.has("acquire")
}

fn atom_type(ty: Type, i: &Instruction<'_>) -> Decode<AtomType> {
    let mode = F32Mode { round: round(i), ftz: i.has("ftz"), sat: false };
    Ok(match ty {
        Type::U(bits @ (32 | 64)) | Type::B(bits @ (16 | 32 | 64)) => AtomType::U(bits),
        Type::S(bits @ (32 | 64)) => AtomType::S(bits),
        Type::F(32) => AtomType::F32(mode),
        Type::F(64) => AtomType::F64,
        Type::F(16) => AtomType::Half(Half::F16),
        Type::Bf16 => AtomType::Half(Half::Bf16),
        Type::F16x2 => AtomType::Half2(Half::F16),
        Type::Bf16x2 => AtomType::Half2(Half::Bf16),
        _ => return Err(unsupported(i)),
    })
}
