//! Matrix instructions.

use super::*;
use crate::arith::fragment::{Accumulator, Element, Shape};
use crate::arith::mma::{BitOp, Mma};
use crate::arith::wmma::{self, Fragment, Operand as Role};
use crate::ptx::ast::Operand;

impl<'m> Decoder<'_, 'm> {
    pub(super) fn matrix(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        match (i.name, i.mods.first().copied()) {
            ("movmatrix", _) => {
                let d = self.dst(i, 32)?;
                let a = self.src(i, 1, 32)?;
                self.emit(Op::Transpose { d, a }, Class::Tensor);
                Ok(())
            }
            ("wmma", Some("load")) => self.fragment(i, false),
            ("wmma", Some("store")) => self.fragment(i, true),
            _ => self.product(i),
        }
    }

    fn product(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let mut mma = product(i).ok_or_else(|| unsupported(i))?;
        mma.satfinite = i.has("satfinite");
        mma.bit_op = if i.has("and") { BitOp::And } else { BitOp::Xor };
        let layouts: Vec<&str> = i.mods.iter().copied().filter(|m| matches!(*m, "row" | "col")).collect();
        if i.name == "mma" && mma.shape == (Shape { m: 8, n: 8, k: 4 }) && mma.a == Element::F16 {
            mma.a_column = layouts.first() == Some(&"col");
            mma.b_row = layouts.get(1) == Some(&"row");
        } else if i.name == "mma" && layouts != ["row", "col"] && mma.a != Element::B1 {
            return Err(unsupported(i));
        }
        let wide = mma.a == Element::F64;
        let counts = [mma.d_registers(), mma.a_registers(), mma.b_registers(), mma.c_registers()];
        let mut operands = Vec::with_capacity(4);
        for (index, count) in counts.into_iter().enumerate() {
            operands.push(self.registers(i, index, count, wide)?);
        }
        let [d, a, b, c] = operands.try_into().map_err(|_| unsupported(i))?;
        self.emit(Op::Matrix(Box::new(Matrix { mma, a, b, c, d })), Class::Tensor);
        Ok(())
    }

    /// Registers of a vector operand; `wmma` gives more than count.
    fn registers(
        &mut self,
        i: &'m Instruction<'m>,
        index: usize,
        count: usize,
        wide: bool,
    ) -> Decode<Vec<Row>> {
        let operand = self.operand(i, index)?;
        let items = match operand {
            Operand::Vector(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        let bits = if wide { 64 } else { 32 };
        let rows = items.iter().map(|item| self.source(item, bits)).collect::<Decode<Vec<Row>>>()?;
        if rows.len() < count || i.name == "mma" && rows.len() != count {
            return Err(format!(
                "operand {} of '{}' has {} registers, not {count}",
                index + 1,
                i.opcode(),
                rows.len()
            ));
        }
        Ok(rows)
    }

    /// `wmma.load.{a,b,c}.sync.aligned.layout.shape{.space}.type r, [p] {, stride}` and `wmma.store.d...`.
    fn fragment(&mut self, i: &'m Instruction<'m>, store: bool) -> Decode<()> {
        let shape = i.mods.iter().find_map(|m| Shape::parse(m)).ok_or_else(|| unsupported(i))?;
        let ty = i.mods.last().copied().unwrap_or("");
        let role = match i.mods.get(1).copied() {
            Some("a") => Element::parse(ty).map(Role::A),
            Some("b") => Element::parse(ty).map(Role::B),
            Some("c" | "d") => Accumulator::parse(ty).map(Role::C),
            _ => None,
        };
        let fragment = role.and_then(|role| Fragment::new(shape, role)).ok_or_else(|| unsupported(i))?;
        let (address, values) = if store { (0, 1) } else { (1, 0) };
        let address = self.operand(i, address)?;
        let (base, offset, symbol) = self.address(address)?;
        let space = match () {
            () if i.has("shared") || i.has("shared::cta") => Space::Shared,
            () if matches!(symbol, Some(crate::program::context::Symbol::Shared(_))) => Space::Shared,
            () if i.has("global") => Space::Global,
            () => Space::Generic,
        };
        let values = self.registers(i, values, fragment.registers(), fragment.element_bits() == 64)?;
        let stride = match i.operands.get(2) {
            Some(stride) => Some(self.source(stride, 32)?),
            None => None,
        };
        let column_major = i.has("col");
        let access = FragmentAccess { base, offset, space, store, fragment, column_major, stride, values };
        let class = if space == Space::Shared { Class::Shared } else { Class::Global };
        self.emit(Op::Fragment(Box::new(access)), class);
        Ok(())
    }
}

/// The product that the modifiers name: types in the order D, A, B, C, or shorter forms of it.
fn product(i: &Instruction<'_>) -> Option<Mma> {
    let shape = i.mods.iter().find_map(|m| Shape::parse(m))?;
    let types: Vec<&str> = i
        .mods
        .iter()
        .copied()
        .filter(|m| Element::parse(m).is_some() || Accumulator::parse(m).is_some())
        .collect();
    let accumulator = |name: &str| Accumulator::parse(name);
    let element = |name: &str| Element::parse(name);
    if i.name == "mma" {
        let [d, a, b, c] = types[..] else { return None };
        return Mma::new(shape, element(a)?, element(b)?, accumulator(c)?, accumulator(d)?);
    }
    match types[..] {
        // `wmma.mma` of f16 names D and C only.
        [d, c] => wmma::product(shape, Element::F16, Element::F16, accumulator(c)?, accumulator(d)?),
        [d, a, b, c] => wmma::product(shape, element(a)?, element(b)?, accumulator(c)?, accumulator(d)?),
        _ => None,
    }
}
