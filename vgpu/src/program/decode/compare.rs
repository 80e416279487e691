//! `setp`, `set`, `selp`, `slct`, `testp`.

use super::*;
use crate::arith::Cmp;
use crate::arith::compare::{slct_f32, slct_s32};
use crate::arith::half::{Half, NAN, map2 as both2};
use crate::arith::single::TestProperty;
use crate::exec::lanes::{map2, map3, select, test1, test2};
use crate::ptx::ast::Operand;

fn half_kind(ty: Type) -> Half {
    if matches!(ty, Type::F(16) | Type::F16x2) { Half::F16 } else { Half::Bf16 }
}

/// Splits modifiers of `setp` and `set` into comparison, boolean operator and the rest.
fn comparison(i: &Instruction<'_>) -> Decode<(Cmp, Option<Logic>)> {
    let (mut cmp, mut logic) = (None, None);
    for m in &i.mods {
        match *m {
            "and" => logic = Some(Logic::And),
            "or" => logic = Some(Logic::Or),
            "xor" => logic = Some(Logic::Xor),
            "ftz" => {}
            _ if Type::parse(m).is_some() => {}
            _ => cmp = Some(Cmp::parse(m).ok_or_else(|| unsupported(i))?),
        }
    }
    Ok((cmp.ok_or_else(|| unsupported(i))?, logic))
}

/// Integer comparisons with the operator as a constant, so that they vectorise.
fn int_test<T: crate::exec::lanes::Lane + Ord + 'static>(cmp: Cmp) -> TestOp {
    match cmp {
        Cmp::EQ => test2(|a: T, b: T| a == b),
        Cmp::NE => test2(|a: T, b: T| a != b),
        Cmp::LT => test2(|a: T, b: T| a < b),
        Cmp::LE => test2(|a: T, b: T| a <= b),
        Cmp::GT => test2(|a: T, b: T| a > b),
        Cmp::GE => test2(|a: T, b: T| a >= b),
        _ => test2(move |a: T, b: T| cmp.holds(a.cmp(&b), std::cmp::Ordering::Equal)),
    }
}

fn test_of(i: &Instruction<'_>, ty: Type, cmp: Cmp) -> Decode<TestOp> {
    let ftz = i.has("ftz");
    Ok(match ty {
        Type::U(16) | Type::B(16) => int_test::<u16>(cmp),
        Type::U(32) | Type::B(32) => int_test::<u32>(cmp),
        Type::U(64) | Type::B(64) => int_test::<u64>(cmp),
        Type::S(16) => int_test::<i16>(cmp),
        Type::S(32) => int_test::<i32>(cmp),
        Type::S(64) => int_test::<i64>(cmp),
        Type::F(32) if !ftz => test2(move |a, b| cmp.f32(a, b, false)),
        Type::F(32) => test2(move |a, b| cmp.f32(a, b, true)),
        Type::F(64) => test2(move |a, b| cmp.f64(a, b)),
        Type::F(16) | Type::Bf16 => {
            let kind = half_kind(ty);
            test2(move |a, b| cmp.half(kind, a, b, ftz))
        }
        _ => return Err(unsupported(i)),
    })
}

impl<'m> Decoder<'_, 'm> {
    pub(super) fn setp(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let (cmp, logic) = comparison(i)?;
        let ty = last_type(i)?;
        let (p, q) = Self::pair(self.operand(i, 0)?);
        let p = self.pred_dest(p)?;
        let q = match q {
            Some(q) => self.pred_dest(q)?,
            None => None,
        };
        let combine = match logic {
            Some(logic) => {
                let c = self.operand(i, 3)?;
                Some((logic, self.pred_source(c)?))
            }
            None => None,
        };
        let rows = [self.src(i, 1, ty.bits())?, self.src(i, 2, ty.bits())?];
        if matches!(ty, Type::F16x2 | Type::Bf16x2) {
            // The lower halves decide p, the upper ones q.
            let (kind, ftz) = (half_kind(ty), i.has("ftz"));
            let low = test2(move |a: u32, b: u32| cmp.half(kind, a as u16, b as u16, ftz));
            let high = test2(move |a: u32, b: u32| cmp.half(kind, (a >> 16) as u16, (b >> 16) as u16, ftz));
            // A combining predicate may be p itself: q is computed first.
            self.test(high, &rows, q, None, combine);
            self.test(low, &rows, p, None, combine);
            return Ok(());
        }
        self.test(test_of(i, ty, cmp)?, &rows, p, q, combine);
        Ok(())
    }

    pub(super) fn set(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let (cmp, logic) = comparison(i)?;
        let [to, from] = types(i)[..] else { return Err(unsupported(i)) };
        let rows = [self.src(i, 1, from.bits())?, self.src(i, 2, from.bits())?];
        let d = self.dst(i, to.bits())?;
        if matches!(from, Type::F16x2 | Type::Bf16x2) {
            let (kind, ftz) = (half_kind(from), i.has("ftz"));
            let yes = half_true(to).ok_or_else(|| unsupported(i))?;
            if logic.is_some() {
                return Err(unsupported(i));
            }
            let run = map2(move |a, b| both2(a, b, |x, y| if cmp.half(kind, x, y, ftz) { yes } else { 0 }));
            self.lanes(run, d, &rows, Class::Half);
            return Ok(());
        }
        let combine = match logic {
            Some(logic) => {
                let c = self.operand(i, 3)?;
                Some((logic, self.pred_source(c)?))
            }
            None => None,
        };
        let p = self.new_pred();
        self.test(test_of(i, from, cmp)?, &rows, Some(p), None, combine);
        let yes = match to {
            Type::F(32) => u64::from(1f32.to_bits()),
            Type::F(16) | Type::Bf16 => u64::from(half_true(to).unwrap_or(NAN)),
            Type::U(16) | Type::S(16) => 0xffff,
            Type::U(32) | Type::S(32) => 0xffff_ffff,
            _ => return Err(unsupported(i)),
        };
        let sources = [self.constant(false, yes), self.constant(false, 0)];
        self.lanes(select::<u32>(p, false), d, &sources, Class::Compare);
        Ok(())
    }

    pub(super) fn selp(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &[])?;
        let bits = last_type(i)?.bits();
        let d = self.dst(i, bits)?;
        let rows = [self.src(i, 1, bits)?, self.src(i, 2, bits)?];
        let p = self.operand(i, 3)?;
        let p = self.pred_source(p)?;
        let run =
            if bits == 64 { select::<u64>(p.pred, p.negated) } else { select::<u32>(p.pred, p.negated) };
        self.lanes(run, d, &rows, Class::Move);
        Ok(())
    }

    pub(super) fn slct(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &["ftz"])?;
        let [ty, by] = types(i)[..] else { return Err(unsupported(i)) };
        let ftz = i.has("ftz");
        let run = match (ty.bits(), by) {
            (64, Type::S(32)) => map3(slct_s32::<u64>),
            (_, Type::S(32)) => map3(slct_s32::<u32>),
            (64, Type::F(32)) => map3(move |a, b, c| slct_f32::<u64>(a, b, c, ftz)),
            (_, Type::F(32)) => map3(move |a, b, c| slct_f32::<u32>(a, b, c, ftz)),
            _ => return Err(unsupported(i)),
        };
        let d = self.dst(i, ty.bits())?;
        let rows = [self.src(i, 1, ty.bits())?, self.src(i, 2, ty.bits())?, self.src(i, 3, 32)?];
        self.lanes(run, d, &rows, Class::Move);
        Ok(())
    }

    pub(super) fn testp(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let property = match i.mods.first().copied() {
            Some("finite") => TestProperty::Finite,
            Some("infinite") => TestProperty::Infinite,
            Some("number") => TestProperty::Number,
            Some("notanumber") => TestProperty::NotANumber,
            Some("normal") => TestProperty::Normal,
            Some("subnormal") => TestProperty::Subnormal,
            _ => return Err(unsupported(i)),
        };
        let ty = last_type(i)?;
        let run = match ty {
            Type::F(32) => test1(move |a| property.f32(a)),
            Type::F(64) => test1(move |a| property.f64(a)),
            _ => return Err(unsupported(i)),
        };
        let p = self.operand(i, 0)?;
        let p = self.pred_dest(p)?;
        let rows = [self.src(i, 1, ty.bits())?];
        self.test(run, &rows, p, None, None);
        Ok(())
    }

    /// `mov.pred`.
    pub(super) fn mov_pred(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let d = self.operand(i, 0)?;
        let Some(d) = self.pred_dest(d)? else { return Ok(()) };
        let source: &'m Operand<'m> = self.operand(i, 1)?;
        let a = self.pred_source(source)?;
        self.emit(Op::Predicate { op: Logic::Copy, d, a, b: a }, Class::Compare);
        Ok(())
    }
}

/// What a comparison that holds leaves in a 16-bit half.
fn half_true(ty: Type) -> Option<u16> {
    Some(match ty {
        Type::F16x2 | Type::F(16) => 0x3c00,
        Type::Bf16x2 | Type::Bf16 => 0x3f80,
        Type::U(32) | Type::S(32) => 0xffff,
        _ => return None,
    })
}
