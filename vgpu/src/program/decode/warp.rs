//! Warp collectives.

use super::*;
use crate::ptx::ast::Operand;

impl<'m> Decoder<'_, 'm> {
    pub(super) fn collective(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        if i.name == "activemask" {
            let d = self.dst(i, 32)?;
            self.emit(Op::ActiveMask { d }, Class::Warp);
            return Ok(());
        }
        let collective = match i.name {
            "shfl" => self.shuffle(i)?,
            "vote" => self.vote(i)?,
            "match" => self.matches(i)?,
            "redux" => self.redux(i)?,
            _ => self.elect(i)?,
        };
        self.emit(Op::Collective(Box::new(collective)), Class::Warp);
        Ok(())
    }

    /// The membermask, or all lanes for the forms without `.sync`.
    fn members(&mut self, i: &'m Instruction<'m>, index: usize) -> Decode<Row> {
        if i.has("sync") { self.src(i, index, 32) } else { Err(format!("'{}' needs .sync", i.opcode())) }
    }

    fn shuffle(&mut self, i: &'m Instruction<'m>) -> Decode<Collective> {
        only(i, &["sync", "up", "down", "bfly", "idx"])?;
        let mode = match () {
            () if i.has("up") => Shuffle::Up,
            () if i.has("down") => Shuffle::Down,
            () if i.has("bfly") => Shuffle::Butterfly,
            () if i.has("idx") => Shuffle::Index,
            () => return Err(unsupported(i)),
        };
        let (d, p) = Self::pair(self.operand(i, 0)?);
        let d = self.dest(d, 32)?;
        let p = match p {
            Some(p) => self.pred_dest(p)?,
            None => None,
        };
        let (a, b, c) = (self.src(i, 1, 32)?, self.src(i, 2, 32)?, self.src(i, 3, 32)?);
        Ok(Collective::Shfl(Shfl { mode, d, p, a, b, c, members: self.members(i, 4)? }))
    }

    fn vote(&mut self, i: &'m Instruction<'m>) -> Decode<Collective> {
        only(i, &["sync", "all", "any", "uni", "ballot"])?;
        let mode = match () {
            () if i.has("all") => Vote::All,
            () if i.has("any") => Vote::Any,
            () if i.has("uni") => Vote::Uniform,
            () if i.has("ballot") => Vote::Ballot,
            () => return Err(unsupported(i)),
        };
        let source = self.operand(i, 1)?;
        let source = self.pred_source(source)?;
        let members = self.members(i, 2)?;
        let d = self.operand(i, 0)?;
        if mode == Vote::Ballot {
            let d = self.dest(d, 32)?;
            return Ok(Collective::Vote { mode, source, p: None, d, members });
        }
        let p = self.pred_dest(d)?;
        Ok(Collective::Vote { mode, source, p, d: NO_ROW, members })
    }

    fn matches(&mut self, i: &'m Instruction<'m>) -> Decode<Collective> {
        only(i, &["sync", "any", "all"])?;
        let bits = last_type(i)?.bits();
        let (d, p) = Self::pair(self.operand(i, 0)?);
        let d = self.dest(d, 32)?;
        let p = match p {
            Some(p) => self.pred_dest(p)?,
            None => None,
        };
        let a = self.src(i, 1, bits)?;
        Ok(Collective::Match { all: i.has("all"), wide: bits == 64, a, d, p, members: self.members(i, 2)? })
    }

    fn redux(&mut self, i: &'m Instruction<'m>) -> Decode<Collective> {
        only(i, &["sync", "add", "min", "max", "and", "or", "xor", "abs", "NaN"])?;
        let ty = last_type(i)?;
        let name = i.mods.iter().find(|m| matches!(**m, "add" | "min" | "max" | "and" | "or" | "xor"));
        let (abs, nan) = (i.has("abs"), i.has("NaN"));
        let op = match (name.copied(), ty) {
            (Some("add"), Type::U(32) | Type::S(32)) => Redux::Add,
            (Some("min"), Type::U(32)) => Redux::MinU,
            (Some("max"), Type::U(32)) => Redux::MaxU,
            (Some("min"), Type::S(32)) => Redux::MinS,
            (Some("max"), Type::S(32)) => Redux::MaxS,
            (Some("and"), Type::B(32)) => Redux::And,
            (Some("or"), Type::B(32)) => Redux::Or,
            (Some("xor"), Type::B(32)) => Redux::Xor,
            (Some("min"), Type::F(32)) => Redux::FloatMin(abs, nan),
            (Some("max"), Type::F(32)) => Redux::FloatMax(abs, nan),
            _ => return Err(unsupported(i)),
        };
        let d = self.dst(i, 32)?;
        let a = self.src(i, 1, 32)?;
        Ok(Collective::Redux { op, a, d, members: self.members(i, 2)? })
    }

    fn elect(&mut self, i: &'m Instruction<'m>) -> Decode<Collective> {
        let (d, p) = Self::pair(self.operand(i, 0)?);
        let d = self.dest(d, 32)?;
        let p = match p {
            Some(p @ Operand::Reg(_)) => self.pred_dest(p)?,
            _ => None,
        };
        let p = p.ok_or("elect has no predicate")?;
        Ok(Collective::Elect { d, p, members: self.members(i, 1)? })
    }
}
