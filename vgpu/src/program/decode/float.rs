//! f32 and f64 arithmetic and the approximate units.

use super::*;
use crate::arith::half::Half;
use crate::arith::single::MinMaxMode;
use crate::arith::{F32Mode, Round, approx, double, single};
use crate::exec::lanes::{each1, each2, map1, map2, map3};

/// Expands the expression with a constant mode for the common ones, so that the loop folds to the bare
/// operation.
macro_rules! by_mode {
    ($mode:expr, $M:ident => $e:expr) => {
        match $mode {
            F32Mode { round: Round::Nearest, ftz: false, sat: false } => {
                const $M: F32Mode = F32Mode { round: Round::Nearest, ftz: false, sat: false };
                $e
            }
            F32Mode { round: Round::Nearest, ftz: true, sat: false } => {
                const $M: F32Mode = F32Mode { round: Round::Nearest, ftz: true, sat: false };
                $e
            }
            #[allow(non_snake_case)]
            $M => $e,
        }
    };
}

pub(super) fn round(i: &Instruction<'_>) -> Round {
    let modes = [("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up), ("rna", Round::NearestAway)];
    modes.into_iter().find(|(name, _)| i.has(name)).map_or(Round::Nearest, |(_, mode)| mode)
}

pub(super) fn min_max(i: &Instruction<'_>) -> MinMaxMode {
    let xorsign = i.has("xorsign");
    MinMaxMode { ftz: i.has("ftz"), nan: i.has("NaN"), abs: i.has("abs") || xorsign, xorsign }
}

const KNOWN: &[&str] = &["rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "NaN", "xorsign", "abs"];

impl<'m> Decoder<'_, 'm> {
    pub(super) fn float(&mut self, i: &'m Instruction<'m>, ty: Type) -> Decode<()> {
        only(i, KNOWN)?;
        let (run, count, flops) = if ty == Type::F(32) { self.single_op(i)? } else { self.double_op(i)? };
        let bits = ty.bits();
        let d = self.dst(i, bits)?;
        let rows = (1..=count).map(|k| self.src(i, k, bits)).collect::<Decode<Vec<Row>>>()?;
        let class = if bits == 32 { Class::F32 } else { Class::F64 };
        self.lanes_flops(run, d, &rows, class, flops);
        Ok(())
    }

    /// The lifted function, its number of sources, its flops.
    fn single_op(&self, i: &Instruction<'_>) -> Decode<(LaneOp, usize, u8)> {
        let ftz = i.has("ftz");
        let mode = F32Mode { round: round(i), ftz, sat: i.has("sat") };
        let limits = min_max(i);
        Ok(match i.name {
            "add" => (by_mode!(mode, M => map2(move |a, b| single::add(a, b, M))), 2, 1),
            "sub" => (by_mode!(mode, M => map2(move |a, b| single::sub(a, b, M))), 2, 1),
            "mul" => (by_mode!(mode, M => map2(move |a, b| single::mul(a, b, M))), 2, 1),
            // `mad.f32` is fused on every target since sm_20.
            "fma" | "mad" => (by_mode!(mode, M => map3(move |a, b, c| single::fma(a, b, c, M))), 3, 2),
            "div" if i.has("approx") => (each2(move |a, b, noise| approx::div(a, b, ftz, noise)), 2, 1),
            "div" if i.has("full") => (each2(move |a, b, noise| approx::div_full(a, b, ftz, noise)), 2, 1),
            "div" => (map2(move |a, b| single::div(a, b, mode)), 2, 1),
            "abs" => (map1(move |a| single::abs(a, ftz)), 1, 0),
            "neg" => (map1(move |a| single::neg(a, ftz)), 1, 0),
            "copysign" => (map2(single::copysign), 2, 0),
            "min" if i.operands.len() == 4 => {
                (map3(move |a, b, c| single::min(single::min(a, b, limits), c, limits)), 3, 2)
            }
            "max" if i.operands.len() == 4 => {
                (map3(move |a, b, c| single::max(single::max(a, b, limits), c, limits)), 3, 2)
            }
            "min" => (map2(move |a, b| single::min(a, b, limits)), 2, 1),
            "max" => (map2(move |a, b| single::max(a, b, limits)), 2, 1),
            _ => return Err(unsupported(i)),
        })
    }

    fn double_op(&self, i: &Instruction<'_>) -> Decode<(LaneOp, usize, u8)> {
        let r = round(i);
        let nearest = r == Round::Nearest;
        Ok(match i.name {
            "add" if nearest => (map2(|a, b| double::add(a, b, Round::Nearest)), 2, 1),
            "add" => (map2(move |a, b| double::add(a, b, r)), 2, 1),
            "sub" if nearest => (map2(|a, b| double::sub(a, b, Round::Nearest)), 2, 1),
            "sub" => (map2(move |a, b| double::sub(a, b, r)), 2, 1),
            "mul" if nearest => (map2(|a, b| double::mul(a, b, Round::Nearest)), 2, 1),
            "mul" => (map2(move |a, b| double::mul(a, b, r)), 2, 1),
            "fma" | "mad" if nearest => (map3(|a, b, c| double::fma(a, b, c, Round::Nearest)), 3, 2),
            "fma" | "mad" => (map3(move |a, b, c| double::fma(a, b, c, r)), 3, 2),
            "div" => (map2(move |a, b| double::div(a, b, r)), 2, 1),
            "abs" => (map1(double::abs), 1, 0),
            "neg" => (map1(double::neg), 1, 0),
            "copysign" => (map2(double::copysign), 2, 0),
            "min" => (map2(double::min), 2, 1),
            "max" => (map2(double::max), 2, 1),
            _ => return Err(unsupported(i)),
        })
    }

    /// `rcp sqrt rsqrt sin cos lg2 ex2 tanh`.
    pub(super) fn unary_float(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, KNOWN)?;
        let ty = last_type(i)?;
        let exact = !i.has("approx") && matches!(i.name, "rcp" | "sqrt");
        let run = match ty {
            Type::F(32) if exact => self.exact_unary(i)?,
            Type::F(32) => approximate(i)?,
            Type::F(64) => double_unary(i, exact)?,
            Type::F(16) | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => half_unary(i, ty)?,
            _ => return Err(unsupported(i)),
        };
        let class = match (ty, exact) {
            (Type::F(64), _) => Class::F64,
            (_, true) => Class::F32,
            _ => Class::Special,
        };
        let d = self.dst(i, ty.bits())?;
        let a = self.src(i, 1, ty.bits())?;
        self.lanes_flops(run, d, &[a], class, 1);
        Ok(())
    }

    fn exact_unary(&self, i: &Instruction<'_>) -> Decode<LaneOp> {
        let mode = F32Mode { round: round(i), ftz: i.has("ftz"), sat: false };
        Ok(match i.name {
            "rcp" => map1(move |a| single::rcp(a, mode)),
            _ => map1(move |a| single::sqrt(a, mode)),
        })
    }
}

fn approximate(i: &Instruction<'_>) -> Decode<LaneOp> {
    let ftz = i.has("ftz");
    Ok(match i.name {
        "rcp" => each1(move |a, noise| approx::rcp(a, ftz, noise)),
        "sqrt" => each1(move |a, noise| approx::sqrt(a, ftz, noise)),
        "rsqrt" => each1(move |a, noise| approx::rsqrt(a, ftz, noise)),
        "sin" => each1(move |a, noise| approx::sin(a, ftz, noise)),
        "cos" => each1(move |a, noise| approx::cos(a, ftz, noise)),
        "lg2" => each1(move |a, noise| approx::lg2(a, ftz, noise)),
        "ex2" => each1(move |a, noise| approx::ex2(a, ftz, noise)),
        "tanh" => each1(approx::tanh),
        _ => return Err(unsupported(i)),
    })
}

fn double_unary(i: &Instruction<'_>, exact: bool) -> Decode<LaneOp> {
    let r = round(i);
    Ok(match (i.name, i.has("ftz")) {
        ("rcp", false) if exact => map1(move |a| double::rcp(a, r)),
        ("sqrt", false) if exact => map1(move |a| double::sqrt(a, r)),
        ("rcp", true) => each1(|a, _| approx::rcp_ftz_f64(a)),
        ("rsqrt", true) => each1(|a, _| approx::rsqrt_ftz_f64(a)),
        ("rsqrt", false) => each1(|a, _| approx::rsqrt_f64(a)),
        _ => return Err(unsupported(i)),
    })
}

fn half_unary(i: &Instruction<'_>, ty: Type) -> Decode<LaneOp> {
    use crate::arith::half::map1 as both;
    let ftz = i.has("ftz");
    let kind = if matches!(ty, Type::F(16) | Type::F16x2) { Half::F16 } else { Half::Bf16 };
    Ok(match (i.name, ty.bits()) {
        ("ex2", 16) => each1(move |a, noise| approx::ex2_half(kind, a, ftz, noise)),
        ("ex2", _) => each1(move |a, noise| both(a, |x| approx::ex2_half(kind, x, ftz, noise))),
        ("tanh", 16) => each1(move |a, noise| approx::tanh_half(kind, a, noise)),
        ("tanh", _) => each1(move |a, noise| both(a, |x| approx::tanh_half(kind, x, noise))),
        _ => return Err(unsupported(i)),
    })
}
