//! Integer, bit and video instructions.

use super::*;
use crate::arith::bits::{self, Permute, Range};
use crate::arith::int::{self, Int};
use crate::arith::packed;
use crate::exec::lanes::{carry, map1, map2, map3, map4, test1};
use crate::ptx::ast::Operand;

/// Expands to the expression for the Rust type of a PTX integer type.
macro_rules! by_int {
    ($ty:expr, $i:expr, $T:ident => $e:expr) => {
        match $ty {
            Type::U(16) | Type::B(16) => {
                type $T = u16;
                $e
            }
            Type::S(16) => {
                type $T = i16;
                $e
            }
            Type::U(32) | Type::B(32) => {
                type $T = u32;
                $e
            }
            Type::S(32) => {
                type $T = i32;
                $e
            }
            Type::U(64) | Type::B(64) => {
                type $T = u64;
                $e
            }
            Type::S(64) => {
                type $T = i64;
                $e
            }
            _ => return Err(unsupported($i)),
        }
    };
}

/// The same where signedness does not matter.
macro_rules! by_bits {
    ($ty:expr, $i:expr, $T:ident => $e:expr) => {
        match $ty.bits() {
            16 => {
                type $T = u16;
                $e
            }
            32 => {
                type $T = u32;
                $e
            }
            64 => {
                type $T = u64;
                $e
            }
            _ => return Err(unsupported($i)),
        }
    };
}

impl<'m> Decoder<'_, 'm> {
    pub(super) fn integer(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        if let Some(kind) = i.mods.iter().find(|m| matches!(**m, "u16x2" | "s16x2")) {
            return self.packed(i, kind);
        }
        if i.has("cc") {
            return self.integer_carry(i);
        }
        let ty = last_type(i)?;
        only(i, &["sat", "lo", "hi", "wide", "relu"])?;
        let bits = ty.bits();
        let sat = i.has("sat");
        let run = match i.name {
            "add" if sat => by_int!(ty, i, T => map2(|a: T, b: T| a.add_sat(b))),
            "add" => by_bits!(ty, i, T => map2(|a: T, b: T| a.wrapping_add(b))),
            "sub" if sat => by_int!(ty, i, T => map2(|a: T, b: T| a.sub_sat(b))),
            "sub" => by_bits!(ty, i, T => map2(|a: T, b: T| a.wrapping_sub(b))),
            "mul" | "mad" if i.has("wide") => return self.wide(i, ty),
            "mul" if i.has("hi") => by_int!(ty, i, T => map2(|a: T, b: T| a.mul_hi(b))),
            "mul" => by_bits!(ty, i, T => map2(|a: T, b: T| a.wrapping_mul(b))),
            "mad" if i.has("hi") && sat => {
                by_int!(ty, i, T => map3(|a: T, b: T, c: T| a.mul_hi(b).add_sat(c)))
            }
            "mad" if i.has("hi") => by_int!(ty, i, T => map3(|a: T, b: T, c: T| a.mul_hi(b).wrapping_add(c))),
            "mad" => by_bits!(ty, i, T => map3(|a: T, b: T, c: T| a.wrapping_mul(b).wrapping_add(c))),
            "div" => by_int!(ty, i, T => map2(|a: T, b: T| a.quotient(b))),
            "rem" => by_int!(ty, i, T => map2(|a: T, b: T| a.remainder(b))),
            "min" if i.has("relu") && ty == Type::S(32) => map2(|a: i32, b: i32| a.min(b).max(0)),
            "max" if i.has("relu") && ty == Type::S(32) => map2(|a: i32, b: i32| a.max(b).max(0)),
            "min" | "max" if i.has("relu") => return Err(unsupported(i)),
            "min" => by_int!(ty, i, T => map2(|a: T, b: T| a.min(b))),
            "max" => by_int!(ty, i, T => map2(|a: T, b: T| a.max(b))),
            "abs" => by_int!(ty, i, T => map1(|a: T| a.magnitude())),
            "neg" => by_int!(ty, i, T => map1(|a: T| a.negated())),
            _ => return Err(unsupported(i)),
        };
        let sources = i.operands.len().saturating_sub(1);
        self.uniform(i, run, bits, sources)
    }

    /// An instruction whose operands all have the same width.
    fn uniform(&mut self, i: &'m Instruction<'m>, run: LaneOp, bits: u32, sources: usize) -> Decode<()> {
        let wanted = match i.name {
            "abs" | "neg" | "not" | "cnot" | "brev" => 1,
            "mad" | "sad" => 3,
            _ => 2,
        };
        if sources != wanted {
            return Err(format!("'{}' takes {wanted} sources", i.opcode()));
        }
        let d = self.dst(i, bits)?;
        let rows = (1..=sources).map(|k| self.src(i, k, bits)).collect::<Decode<Vec<Row>>>()?;
        self.lanes(run, d, &rows, Class::Integer);
        Ok(())
    }

    /// `mul.wide`, `mad.wide`.
    fn wide(&mut self, i: &'m Instruction<'m>, ty: Type) -> Decode<()> {
        let (bits, mad) = (ty.bits(), i.name == "mad");
        let d = self.dst(i, bits * 2)?;
        let mut rows = vec![self.src(i, 1, bits)?, self.src(i, 2, bits)?];
        if mad {
            rows.push(self.src(i, 3, bits * 2)?);
        }
        let run = match (ty, mad) {
            (Type::U(32), false) => map2(int::mul_wide_u32),
            (Type::S(32), false) => map2(int::mul_wide_s32),
            (Type::U(16), false) => map2(int::mul_wide_u16),
            (Type::S(16), false) => map2(int::mul_wide_s16),
            (Type::U(32), true) => map3(|a: u32, b: u32, c: u64| int::mul_wide_u32(a, b).wrapping_add(c)),
            (Type::S(32), true) => map3(|a: u32, b: u32, c: u64| int::mul_wide_s32(a, b).wrapping_add(c)),
            (Type::U(16), true) => map3(|a: u16, b: u16, c: u32| int::mul_wide_u16(a, b).wrapping_add(c)),
            (Type::S(16), true) => map3(|a: u16, b: u16, c: u32| int::mul_wide_s16(a, b).wrapping_add(c)),
            _ => return Err(unsupported(i)),
        };
        self.lanes(run, d, &rows, Class::Integer);
        Ok(())
    }

    fn packed(&mut self, i: &'m Instruction<'m>, kind: &str) -> Decode<()> {
        only(i, &["u16x2", "s16x2", "relu"])?;
        let relu = i.has("relu");
        let run = match (i.name, kind) {
            ("add", _) => map2(packed::add_16x2),
            ("sub", _) => map2(packed::sub_16x2),
            ("min", "u16x2") => map2(packed::min_u16x2),
            ("max", "u16x2") => map2(packed::max_u16x2),
            ("min", _) => map2(move |a, b| packed::min_s16x2(a, b, relu)),
            ("max", _) => map2(move |a, b| packed::max_s16x2(a, b, relu)),
            _ => return Err(unsupported(i)),
        };
        self.uniform(i, run, 32, 2)
    }

    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`.
    pub(super) fn integer_carry(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &["cc", "lo", "hi"])?;
        let ty = last_type(i)?;
        let (reads, writes) = (i.name.ends_with('c'), i.has("cc"));
        let flag = match self.carry {
            Some(flag) => flag,
            None => self.new_pred(),
        };
        self.carry = Some(flag);
        let run = match (i.name.trim_end_matches('c'), ty.bits()) {
            ("add", 32) => carry(flag, reads, writes, |a, b, _: u32, c| int::add_carry_u32(a, b, c)),
            ("add", 64) => carry(flag, reads, writes, |a, b, _: u64, c| int::add_carry_u64(a, b, c)),
            ("sub", 32) => carry(flag, reads, writes, |a, b, _: u32, c| int::sub_borrow_u32(a, b, c)),
            ("sub", 64) => carry(flag, reads, writes, |a, b, _: u64, c| int::sub_borrow_u64(a, b, c)),
            ("mad", _) => self.mad_carry(i, ty, flag, reads, writes)?,
            _ => return Err(unsupported(i)),
        };
        let bits = ty.bits();
        let d = self.dst(i, bits)?;
        let count = if i.name.starts_with("mad") { 3 } else { 2 };
        let rows = (1..=count).map(|k| self.src(i, k, bits)).collect::<Decode<Vec<Row>>>()?;
        self.lanes(run, d, &rows, Class::Integer);
        Ok(())
    }

    fn mad_carry(
        &self,
        i: &Instruction<'_>,
        ty: Type,
        flag: Pred,
        reads: bool,
        writes: bool,
    ) -> Decode<LaneOp> {
        Ok(match (i.has("hi"), ty.bits(), ty.is_signed()) {
            (false, 32, _) => {
                carry(flag, reads, writes, |a: u32, b, c, k| int::add_carry_u32(a.wrapping_mul(b), c, k))
            }
            (false, 64, _) => {
                carry(flag, reads, writes, |a: u64, b, c, k| int::add_carry_u64(a.wrapping_mul(b), c, k))
            }
            (true, 32, false) => {
                carry(flag, reads, writes, |a: u32, b, c, k| int::add_carry_u32(a.mul_hi(b), c, k))
            }
            (true, 64, false) => {
                carry(flag, reads, writes, |a: u64, b, c, k| int::add_carry_u64(a.mul_hi(b), c, k))
            }
            (true, 32, true) => carry(flag, reads, writes, |a: u32, b: u32, c, k| {
                int::add_carry_u32((a as i32).mul_hi(b as i32) as u32, c, k)
            }),
            (true, 64, true) => carry(flag, reads, writes, |a: u64, b: u64, c, k| {
                int::add_carry_u64((a as i64).mul_hi(b as i64) as u64, c, k)
            }),
            _ => return Err(unsupported(i)),
        })
    }

    pub(super) fn logic(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &[])?;
        let ty = last_type(i)?;
        if ty == Type::Pred {
            return self.predicate_logic(i);
        }
        let run = match i.name {
            "and" => by_bits!(ty, i, T => map2(|a: T, b: T| a & b)),
            "or" => by_bits!(ty, i, T => map2(|a: T, b: T| a | b)),
            "xor" => by_bits!(ty, i, T => map2(|a: T, b: T| a ^ b)),
            "not" => by_bits!(ty, i, T => map1(|a: T| !a)),
            _ => by_bits!(ty, i, T => map1(|a: T| T::from(a == 0))),
        };
        self.uniform(i, run, ty.bits(), i.operands.len().saturating_sub(1))
    }

    fn predicate_logic(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let op = match i.name {
            "and" => Logic::And,
            "or" => Logic::Or,
            "xor" => Logic::Xor,
            "not" => Logic::Not,
            _ => return Err(unsupported(i)),
        };
        let d = self.operand(i, 0)?;
        let Some(d) = self.pred_dest(d)? else { return Ok(()) };
        let a = self.operand(i, 1)?;
        let a = self.pred_source(a)?;
        let b = match op {
            Logic::Not => a,
            _ => {
                let b = self.operand(i, 2)?;
                self.pred_source(b)?
            }
        };
        self.emit(Op::Predicate { op, d, a, b }, Class::Compare);
        Ok(())
    }

    pub(super) fn integer_other(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        match i.name {
            "shl" | "shr" => self.shift(i),
            "bfe" | "bfi" => self.bit_field(i),
            "bfind" | "popc" | "clz" => self.count(i),
            "dp4a" | "dp2a" => self.dot(i),
            "lop3" => self.lop3(i),
            "prmt" => self.prmt(i),
            "brev" => {
                only(i, &[])?;
                let ty = last_type(i)?;
                let run = by_bits!(ty, i, T => map1(|a: T| a.reverse_bits()));
                self.uniform(i, run, ty.bits(), 1)
            }
            "sad" => {
                only(i, &[])?;
                let ty = last_type(i)?;
                let run = by_int!(ty, i, T => map3(|a: T, b: T, c: T| a.sad(b, c)));
                self.uniform(i, run, ty.bits(), 3)
            }
            _ => self.words(i),
        }
    }

    /// Instructions over 32-bit operands only.
    fn words(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &["lo", "hi", "clamp", "wrap", "l", "r", "sat"])?;
        let signed = last_type(i)?.is_signed();
        let range = if i.has("wrap") { Range::Wrap } else { Range::Clamp };
        let run = match i.name {
            "shf" if i.has("l") => map3(move |a, b, c| bits::shf_l(a, b, c, range)),
            "shf" => map3(move |a, b, c| bits::shf_r(a, b, c, range)),
            "mul24" if i.has("hi") => map2(move |a, b| int::mul24_hi(a, b, signed)),
            "mul24" => map2(move |a, b| int::mul24_lo(a, b, signed)),
            "mad24" if i.has("sat") => map3(|a, b, c: i32| (int::mul24_hi(a, b, true) as i32).add_sat(c)),
            "mad24" if i.has("hi") => map3(move |a, b, c: u32| int::mul24_hi(a, b, signed).wrapping_add(c)),
            "mad24" => map3(move |a, b, c: u32| int::mul24_lo(a, b, signed).wrapping_add(c)),
            "fns" => map3(bits::fns),
            "szext" => map2(move |a, b| bits::szext(a, b, signed, range)),
            "bmsk" => map2(move |a, b| bits::bmsk(a, b, range)),
            _ => return Err(unsupported(i)),
        };
        let count = if matches!(i.name, "shf" | "mad24" | "fns") { 3 } else { 2 };
        let d = self.dst(i, 32)?;
        let rows = (1..=count).map(|k| self.src(i, k, 32)).collect::<Decode<Vec<Row>>>()?;
        self.lanes(run, d, &rows, Class::Integer);
        Ok(())
    }

    fn shift(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &[])?;
        let ty = last_type(i)?;
        let run = if i.name == "shl" {
            by_bits!(ty, i, T => map2(|a: T, b: u32| a.shift_left(b)))
        } else {
            by_int!(ty, i, T => map2(|a: T, b: u32| a.shift_right(b)))
        };
        let d = self.dst(i, ty.bits())?;
        let rows = [self.src(i, 1, ty.bits())?, self.src(i, 2, 32)?];
        self.lanes(run, d, &rows, Class::Integer);
        Ok(())
    }

    fn bit_field(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &[])?;
        let ty = last_type(i)?;
        let d = self.dst(i, ty.bits())?;
        let mut rows = vec![self.src(i, 1, ty.bits())?];
        let run = match (i.name, ty) {
            ("bfe", Type::U(32)) => map3(bits::bfe_u32),
            ("bfe", Type::S(32)) => map3(bits::bfe_s32),
            ("bfe", Type::U(64)) => map3(bits::bfe_u64),
            ("bfe", Type::S(64)) => map3(bits::bfe_s64),
            ("bfi", Type::B(32)) => map4(bits::bfi_b32),
            ("bfi", Type::B(64)) => map4(bits::bfi_b64),
            _ => return Err(unsupported(i)),
        };
        if i.name == "bfi" {
            rows.push(self.src(i, 2, ty.bits())?);
        }
        let next = rows.len() + 1;
        rows.extend([self.src(i, next, 32)?, self.src(i, next + 1, 32)?]);
        self.lanes(run, d, &rows, Class::Integer);
        Ok(())
    }

    fn count(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &["shiftamt"])?;
        let ty = last_type(i)?;
        let amount = i.has("shiftamt");
        let run = match (i.name, ty) {
            ("popc", _) => by_bits!(ty, i, T => map1(|a: T| a.count_ones())),
            ("clz", _) => by_bits!(ty, i, T => map1(|a: T| a.leading_zeros())),
            (_, Type::U(32)) => map1(move |a| bits::bfind_u32(a, amount)),
            (_, Type::S(32)) => map1(move |a| bits::bfind_s32(a, amount)),
            (_, Type::U(64)) => map1(move |a| bits::bfind_u64(a, amount)),
            (_, Type::S(64)) => map1(move |a| bits::bfind_s64(a, amount)),
            _ => return Err(unsupported(i)),
        };
        let d = self.dst(i, 32)?;
        let a = self.src(i, 1, ty.bits())?;
        self.lanes(run, d, &[a], Class::Integer);
        Ok(())
    }

    fn dot(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &["lo", "hi"])?;
        let [a, b] = types(i)[..] else { return Err(unsupported(i)) };
        let (a, b, high) = (a.is_signed(), b.is_signed(), i.has("hi"));
        let run = match i.name {
            "dp4a" => map3(move |x, y, z| packed::dp4a(x, y, z, a, b)),
            _ => map3(move |x, y, z| packed::dp2a(x, y, z, a, b, high)),
        };
        let d = self.dst(i, 32)?;
        let rows = [self.src(i, 1, 32)?, self.src(i, 2, 32)?, self.src(i, 3, 32)?];
        self.lanes(run, d, &rows, Class::Integer);
        Ok(())
    }

    /// `lop3.b32 d, a, b, c, table` and `lop3.{or,and}.b32 d|p, a, b, c, table, q` with `p = (d != 0) op q`.
    fn lop3(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &["or", "and"])?;
        let Operand::Int(table) = self.operand(i, 4)? else { return Err(unsupported(i)) };
        let table = *table as u8;
        let (d, p) = Self::pair(self.operand(i, 0)?);
        // The predicate is read from the result, which may overwrite a source: a row of its own holds it
        // until then.
        let result = if p.is_some() { self.new_rows(1) } else { self.dest(d, 32)? };
        let rows = [self.src(i, 1, 32)?, self.src(i, 2, 32)?, self.src(i, 3, 32)?];
        self.lanes(map3(move |a, b, c| bits::lop3(a, b, c, table)), result, &rows, Class::Integer);
        let Some(p) = p else { return Ok(()) };
        let q = self.operand(i, 5)?;
        let q = self.pred_source(q)?;
        let p = self.pred_dest(p)?;
        let logic = if i.has("or") { Logic::Or } else { Logic::And };
        self.test(test1(|d: u32| d != 0), &[result], p, None, Some((logic, q)));
        let d = self.dest(d, 32)?;
        self.lanes(map1(|a: u32| a), d, &[result], Class::Move);
        Ok(())
    }

    fn prmt(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let words: Vec<&str> = i.mods.iter().copied().filter(|m| Type::parse(m).is_none()).collect();
        let mode = match words[..] {
            [] => Permute::parse("").unwrap_or(Permute::Generic),
            [mode] => Permute::parse(mode).ok_or_else(|| unsupported(i))?,
            _ => return Err(unsupported(i)),
        };
        let d = self.dst(i, 32)?;
        let rows = [self.src(i, 1, 32)?, self.src(i, 2, 32)?, self.src(i, 3, 32)?];
        self.lanes(map3(move |a, b, c| bits::prmt(a, b, c, mode)), d, &rows, Class::Integer);
        Ok(())
    }
}
