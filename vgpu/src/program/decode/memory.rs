//! Loads, stores, asynchronous copies, tiles.

use super::*;
use crate::program::context::Symbol;
use crate::ptx::ast::Operand;

/// Modifiers that change caching, ordering or scope, none of which changes a result here.
const HINTS: &[&str] = &[
    "weak", "relaxed", "acquire", "release", "acq_rel", "seq_cst", "volatile", "mmio", "sc", "cta",
    "cluster", "gpu", "sys", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "unified", "noftz", "sync",
    "aligned", "async",
];

fn is_hint(m: &str) -> bool {
    HINTS.contains(&m) || m.starts_with("L1::") || m.starts_with("L2::") || m == "level::eviction_priority"
}

fn space_of(m: &str) -> Option<Space> {
    Some(match m {
        "global" | "const" => Space::Global,
        "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
        "local" => Space::Local,
        "param" | "param::entry" | "param::func" => Space::KernelParam,
        _ => return None,
    })
}

fn is_strong(i: &Instruction<'_>) -> bool {
    ["volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"].iter().any(|m| i.has(m))
}

impl<'m> Decoder<'_, 'm> {
    /// Space, base and offset of an access; `.param` of a device function is its frame.
    pub(super) fn place(
        &mut self,
        i: &'m Instruction<'m>,
        operand: &'m Operand<'m>,
    ) -> Decode<(Space, Base, i64)> {
        let named = i.mods.iter().find_map(|m| space_of(m));
        let (base, offset, symbol) = self.address(operand)?;
        let space = match (named, base, symbol) {
            (_, Base::Frame, _) => Space::Local,
            (Some(space), _, _) => space,
            (None, _, Some(Symbol::Shared(_))) => Space::Shared,
            (None, _, _) => Space::Generic,
        };
        if space == Space::KernelParam && !self.function.entry {
            return Ok((Space::Local, base, offset));
        }
        Ok((space, base, offset))
    }

    pub(super) fn check_mods(&self, i: &Instruction<'_>, more: &[&str]) -> Decode<()> {
        for m in &i.mods {
            if Type::parse(m).is_none() && space_of(m).is_none() && !is_hint(m) && !more.contains(m) {
                return Err(format!("unsupported modifier '.{m}' of '{}'", i.opcode()));
            }
        }
        Ok(())
    }

    fn access(&mut self, i: &'m Instruction<'m>, address: usize, value: usize) -> Decode<Access> {
        self.check_mods(i, &["v2", "v4", "v8"])?;
        let ty = last_type(i)?;
        let address = self.operand(i, address)?;
        let (space, base, offset) = self.place(i, address)?;
        let value = self.operand(i, value)?;
        let mut values = Vec::new();
        if ty.bits() == 128 {
            let Operand::Reg(register) = value else { return Err(unsupported(i)) };
            let Place::Row(row, 128) = self.places[*register as usize] else { return Err(unsupported(i)) };
            values.extend([Cell { row, bits: 64 }, Cell { row: row + 2, bits: 64 }]);
        } else {
            let elements = match value {
                Operand::Vector(elements) => elements.as_slice(),
                single => std::slice::from_ref(single),
            };
            for element in elements {
                values.push(match element {
                    Operand::Sink => Cell { row: NO_ROW, bits: 32 },
                    other => self.any_source(other, ty.bits())?,
                });
            }
        }
        let count = i.mods.iter().find_map(|m| match *m {
            "v2" => Some(2),
            "v4" => Some(4),
            "v8" => Some(8),
            _ => None,
        });
        if ty.bits() != 128 && values.len() != count.unwrap_or(1) {
            return Err(format!("'{}' takes {} values", i.opcode(), count.unwrap_or(1)));
        }
        let width = ty.bytes().min(8) as u8;
        if usize::from(width) * values.len() > 32 || ty.bits() == 128 && count.is_some() {
            return Err(unsupported(i));
        }
        Ok(Access { space, base, offset, width, signed: ty.is_signed(), strong: is_strong(i), values })
    }

    pub(super) fn load(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let value = self.operand(i, 0)?;
        if !matches!(value, Operand::Reg(_) | Operand::Vector(_)) {
            return Err("the destination is not a register".into());
        }
        let access = self.access(i, 1, 0)?;
        let class = match access.space {
            Space::KernelParam => Class::Constant,
            Space::Global if i.has("const") => Class::Constant,
            space => class_of(space),
        };
        self.emit(Op::Load(Box::new(access)), class);
        if i.has("acquire") {
            self.emit(Op::Fence { wide: !i.has("cta") }, Class::Barrier);
        }
        Ok(())
    }

    pub(super) fn store(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        if i.has("release") {
            self.emit(Op::Fence { wide: !i.has("cta") }, Class::Barrier);
        }
        let access = self.access(i, 0, 1)?;
        let class = class_of(access.space);
        self.emit(Op::Store(Box::new(access)), class);
        Ok(())
    }

    /// `cp.async`, its groups and waits.
    pub(super) fn copy_async(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        if i.mods.first() != Some(&"async") {
            return Err(unsupported(i));
        }
        match i.mods.get(1).copied() {
            Some("commit_group") => self.emit(Op::CopyCommit, Class::Global),
            Some("wait_all") => self.emit(Op::CopyWait(None), Class::Barrier),
            Some("wait_group") => {
                let Operand::Int(pending) = self.operand(i, 0)? else { return Err(unsupported(i)) };
                self.emit(Op::CopyWait(Some(*pending as u32)), Class::Barrier);
            }
            Some("ca" | "cg") => return self.copy_async_bytes(i),
            _ => return Err(unsupported(i)),
        }
        Ok(())
    }

    fn copy_async_bytes(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        self.check_mods(i, &[])?;
        let (dst, src) = (self.operand(i, 0)?, self.operand(i, 1)?);
        let (dst, src) = (self.address(dst)?, self.address(src)?);
        let Operand::Int(bytes @ (4 | 8 | 16)) = self.operand(i, 2)? else {
            return Err("cp.async copies 4, 8 or 16 bytes".into());
        };
        let (mut size, mut ignore) = (None, None);
        // A 64-bit cache policy may follow; it changes nothing here.
        match i.operands.get(3) {
            Some(Operand::Reg(r)) if matches!(self.places[*r as usize], Place::Pred(_)) => {
                let p = self.operand(i, 3)?;
                ignore = Some(self.pred_source(p)?);
            }
            Some(operand @ Operand::Not(_)) => ignore = Some(self.pred_source(operand)?),
            Some(Operand::Reg(r)) if matches!(self.places[*r as usize], Place::Row(_, 64)) => {}
            Some(operand) => size = Some(self.source(operand, 32)?),
            None => {}
        }
        let copy = CopyAsync { dst: (dst.0, dst.1), src: (src.0, src.1), bytes: *bytes as u8, size, ignore };
        self.emit(Op::CopyAsync(Box::new(copy)), Class::Global);
        Ok(())
    }

    /// `ldmatrix` and `stmatrix`.
    pub(super) fn tiles(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        self.check_mods(i, &["m8n8", "x1", "x2", "x4", "trans"])?;
        if !i.has("m8n8") {
            return Err(unsupported(i));
        }
        let store = i.name == "stmatrix";
        let (address, values) = if store { (0, 1) } else { (1, 0) };
        let address = self.operand(i, address)?;
        let (space, base, offset) = self.place(i, address)?;
        let values = self.operand(i, values)?;
        let values = match values {
            Operand::Vector(values) => values.as_slice(),
            single => std::slice::from_ref(single),
        };
        let count = if i.has("x4") {
            4
        } else if i.has("x2") {
            2
        } else {
            1
        };
        if values.len() != count {
            return Err(format!("'{}' takes {count} registers", i.opcode()));
        }
        let rows = values.iter().map(|v| self.source(v, 32)).collect::<Decode<Vec<Row>>>()?;
        let tiles = TileAccess { base, offset, space, rows, transposed: i.has("trans"), store };
        self.emit(Op::Tiles(Box::new(tiles)), Class::Shared);
        Ok(())
    }

    pub(super) fn is_space(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let space = i.mods.first().and_then(|m| space_of(m)).ok_or_else(|| unsupported(i))?;
        let p = self.operand(i, 0)?;
        let Some(p) = self.pred_dest(p)? else { return Ok(()) };
        let a = self.src(i, 1, 64)?;
        self.emit(Op::IsSpace { space, a, p }, Class::Compare);
        Ok(())
    }

    /// Instructions that change no result. `createpolicy` has one, which only hints use.
    pub(super) fn hint(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        if i.name == "createpolicy" {
            let d = self.dst(i, 64)?;
            let zero = self.constant(true, 0);
            self.lanes(crate::exec::lanes::map1(|a: u64| a), d, &[zero], Class::Other);
            return Ok(());
        }
        self.emit(Op::Nothing, Class::Other);
        Ok(())
    }
}

fn class_of(space: Space) -> Class {
    match space {
        Space::Generic | Space::Global => Class::Global,
        Space::Shared => Class::Shared,
        Space::Local => Class::Local,
        Space::KernelParam => Class::Constant,
    }
}
