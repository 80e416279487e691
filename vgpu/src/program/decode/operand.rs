//! Operands: registers, literals, symbols and special registers as rows.

use super::*;
use crate::exec::lanes::map1;
use crate::program::context::Symbol;
use crate::ptx::ast::{Base as AstBase, Operand, RegId};

impl<'m> Decoder<'_, 'm> {
    pub(super) fn operand(&self, i: &'m Instruction<'m>, index: usize) -> Decode<&'m Operand<'m>> {
        i.operands.get(index).ok_or_else(|| format!("'{}' lacks operand {}", i.opcode(), index + 1))
    }

    /// The row of a constant.
    pub(super) fn constant(&mut self, wide: bool, bits: u64) -> Row {
        if let Some(&row) = self.constants.get(&(wide, bits)) {
            return row;
        }
        let row = self.new_rows(1 + u32::from(wide));
        self.constants.insert((wide, bits), row);
        row
    }

    pub(super) fn cell(&self, register: RegId) -> Decode<Cell> {
        match self.places[register as usize] {
            Place::Row(_, 128) => Err("128-bit registers are not supported here".into()),
            Place::Row(row, bits) => Ok(Cell { row, bits }),
            Place::Pred(_) => Err("a predicate stands where a register is expected".into()),
        }
    }

    /// Row of a source operand of `bits` bits.
    pub(super) fn source(&mut self, operand: &'m Operand<'m>, bits: u32) -> Decode<Row> {
        let wide = bits == 64;
        match operand {
            Operand::Reg(register) => {
                let cell = self.cell(*register)?;
                if (cell.bits == 64) != wide {
                    return Err(format!("a {}-bit register stands for a {bits}-bit operand", cell.bits));
                }
                Ok(cell.row)
            }
            Operand::Int(value) => Ok(self.constant(wide, truncate(*value as u64, bits))),
            Operand::F32(value) if wide => {
                Ok(self.constant(true, f64::from(f32::from_bits(*value)).to_bits()))
            }
            Operand::F32(value) => Ok(self.constant(false, u64::from(*value))),
            Operand::F64(value) if wide => Ok(self.constant(true, value.to_bits())),
            Operand::F64(value) => Ok(self.constant(false, u64::from((*value as f32).to_bits()))),
            Operand::Symbol(name, offset) => self.symbol(name, *offset, wide),
            Operand::Special(name, component) => {
                let d = Cell { row: self.new_rows(1 + u32::from(wide)), bits: if wide { 64 } else { 32 } };
                self.special(name, component, d)?;
                Ok(d.row)
            }
            _ => Err("an operand of an unexpected kind".into()),
        }
    }

    /// Source operand `index` of `bits` bits.
    pub(super) fn src(&mut self, i: &'m Instruction<'m>, index: usize, bits: u32) -> Decode<Row> {
        let operand = self.operand(i, index)?;
        self.source(operand, bits)
    }

    /// Source operand of any width, as a cell (for instructions that relax operand widths).
    pub(super) fn any_source(&mut self, operand: &'m Operand<'m>, literal_bits: u32) -> Decode<Cell> {
        match operand {
            Operand::Reg(register) => self.cell(*register),
            _ => {
                let bits = if literal_bits == 64 { 64 } else { 32 };
                Ok(Cell { row: self.source(operand, literal_bits)?, bits })
            }
        }
    }

    /// Destination operand of `bits` bits; `_` gets a row of its own.
    pub(super) fn dest(&mut self, operand: &'m Operand<'m>, bits: u32) -> Decode<Row> {
        match operand {
            Operand::Reg(register) => {
                let cell = self.cell(*register)?;
                if (cell.bits == 64) != (bits == 64) {
                    return Err(format!("a {}-bit register stands for a {bits}-bit result", cell.bits));
                }
                Ok(cell.row)
            }
            Operand::Sink => Ok(self.new_rows(1 + u32::from(bits == 64))),
            _ => Err("the destination is not a register".into()),
        }
    }

    pub(super) fn dst(&mut self, i: &'m Instruction<'m>, bits: u32) -> Decode<Row> {
        let operand = self.operand(i, 0)?;
        self.dest(operand, bits)
    }

    pub(super) fn pred_source(&mut self, operand: &'m Operand<'m>) -> Decode<PredSource> {
        let (register, negated) = match operand {
            Operand::Reg(register) => (*register, false),
            Operand::Not(register) => (*register, true),
            Operand::Int(value) => return Ok(self.pred_constant(*value != 0)),
            _ => return Err("a predicate is expected".into()),
        };
        match self.places[register as usize] {
            Place::Pred(pred) => Ok(PredSource { pred, negated }),
            Place::Row(..) => Err("a register stands where a predicate is expected".into()),
        }
    }

    /// A predicate that is always the same: predicates of a frame start false and nothing writes this one.
    fn pred_constant(&mut self, value: bool) -> PredSource {
        PredSource { pred: self.new_pred(), negated: value }
    }

    pub(super) fn pred_dest(&mut self, operand: &'m Operand<'m>) -> Decode<Option<Pred>> {
        match operand {
            Operand::Sink => Ok(None),
            Operand::Reg(register) => match self.places[*register as usize] {
                Place::Pred(pred) => Ok(Some(pred)),
                Place::Row(..) => Err("a register stands where a predicate is expected".into()),
            },
            _ => Err("a predicate is expected".into()),
        }
    }

    /// Splits `a|b`.
    pub(super) fn pair(operand: &'m Operand<'m>) -> (&'m Operand<'m>, Option<&'m Operand<'m>>) {
        match operand {
            Operand::Pair(a, b) => (a, Some(b)),
            other => (other, None),
        }
    }

    fn symbol(&mut self, name: &'m str, offset: i64, wide: bool) -> Decode<Row> {
        if let Some(&at) = self.frame.get(name) {
            let row = self.new_rows(1 + u32::from(wide));
            let d = Cell { row, bits: if wide { 64 } else { 32 } };
            self.emit(Op::FrameAddress { offset: at.wrapping_add(offset as u32), d }, Class::Move);
            return Ok(row);
        }
        let value = match self.context.symbol(self.function, name)? {
            Symbol::Global(address) => address.wrapping_add(offset as u64),
            Symbol::Shared(at) | Symbol::KernelParam(at) => u64::from(at).wrapping_add(offset as u64),
            Symbol::Function(handle) => handle,
        };
        Ok(self.constant(wide, truncate(value, if wide { 64 } else { 32 })))
    }

    /// Base, offset and (for symbols) the space of an address operand.
    pub(super) fn address(&mut self, operand: &'m Operand<'m>) -> Decode<(Base, i64, Option<Symbol>)> {
        let Operand::Address(base, offset) = operand else { return Err("an address is expected".into()) };
        match base {
            AstBase::Absolute => Ok((Base::Absolute, *offset, None)),
            AstBase::Reg(register) => {
                let cell = self.cell(*register)?;
                let base = if cell.bits == 64 { Base::Wide(cell.row) } else { Base::Narrow(cell.row) };
                Ok((base, *offset, None))
            }
            AstBase::Symbol(name) => {
                if let Some(&at) = self.frame.get(name) {
                    return Ok((Base::Frame, i64::from(at).wrapping_add(*offset), None));
                }
                let symbol = self.context.symbol(self.function, name)?;
                let at = match symbol {
                    Symbol::Global(address) => address as i64,
                    Symbol::Shared(at) | Symbol::KernelParam(at) => i64::from(at),
                    Symbol::Function(_) => return Err(format!("'{name}' is a function, not a variable")),
                };
                Ok((Base::Absolute, at.wrapping_add(*offset), Some(symbol)))
            }
        }
    }

    /// Reads a special register into a cell.
    pub(super) fn special(&mut self, name: &str, component: &str, d: Cell) -> Decode<()> {
        let axis = "xyz".find(component).unwrap_or(3) as u8;
        let component_of = |make: fn(u8) -> Special| if axis < 3 { make(axis) } else { Special::Constant(0) };
        let which = match name {
            "%tid" => component_of(Special::Tid),
            "%ntid" => component_of(Special::Ntid),
            "%ctaid" => component_of(Special::Ctaid),
            "%nctaid" => component_of(Special::Nctaid),
            "%laneid" => Special::LaneId,
            "%warpid" => Special::WarpId,
            "%nwarpid" => Special::NWarpId,
            "%smid" => Special::SmId,
            "%nsmid" => Special::NSmId,
            "%gridid" => Special::GridId,
            "%lanemask_eq" => Special::LaneMaskEq,
            "%lanemask_le" => Special::LaneMaskLe,
            "%lanemask_lt" => Special::LaneMaskLt,
            "%lanemask_ge" => Special::LaneMaskGe,
            "%lanemask_gt" => Special::LaneMaskGt,
            "%clock" | "%clock64" => Special::Clock,
            "%clock_hi" => Special::ClockHi,
            "%globaltimer" | "%globaltimer_lo" => Special::GlobalTimer,
            "%globaltimer_hi" => Special::GlobalTimerHi,
            "%dynamic_smem_size" => Special::DynamicShared,
            "%total_smem_size" | "%aggr_smem_size" => Special::TotalShared,
            // Without clusters every block is a cluster of its own.
            "%clusterid" => component_of(Special::Ctaid),
            "%nclusterid" => component_of(Special::Nctaid),
            "%cluster_ctaid" | "%cluster_ctarank" => Special::Constant(0),
            "%cluster_nctaid" | "%cluster_nctarank" => Special::Constant(1),
            _ if name.starts_with("%envreg")
                || name.starts_with("%pm")
                || name.starts_with("%reserved_smem") =>
            {
                Special::Constant(0)
            }
            _ => return Err(format!("unknown register '{name}'")),
        };
        self.emit(Op::Special { which, d }, Class::Move);
        Ok(())
    }

    /// Lifts a function between cells of whatever width the registers have.
    pub(super) fn cell_map(
        &mut self,
        d: Cell,
        a: Cell,
        class: Class,
        f: impl Fn(u64) -> u64 + Copy + Send + Sync + 'static,
    ) {
        let keep = if d.bits == 16 { 0xffff } else { u32::MAX };
        let run = match (d.bits == 64, a.bits == 64) {
            (true, true) => map1(f),
            (true, false) => map1(move |a: u32| f(u64::from(a))),
            (false, true) => map1(move |a: u64| f(a) as u32 & keep),
            (false, false) => map1(move |a: u32| f(u64::from(a)) as u32 & keep),
        };
        self.lanes(run, d.row, &[a.row], class);
    }
}

/// Cuts a literal to the width of its operand.
fn truncate(value: u64, bits: u32) -> u64 {
    if bits >= 64 { value } else { value & ((1 << bits.max(1)) - 1) }
}
