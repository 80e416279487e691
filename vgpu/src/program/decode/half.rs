//! f16 and bf16 arithmetic, scalar and packed.

use super::float::min_max;
use super::*;
use crate::arith::half::{Half, HalfMode, map1 as both1, map2 as both2, map3 as both3};
use crate::exec::lanes::{map1, map2, map3};

/// Lifts an operation over the formats with the format as a constant.
macro_rules! by_kind {
    ($kind:expr, $K:ident => $e:expr) => {
        match $kind {
            Half::F16 => {
                const $K: Half = Half::F16;
                $e
            }
            Half::Bf16 => {
                const $K: Half = Half::Bf16;
                $e
            }
        }
    };
}

impl<'m> Decoder<'_, 'm> {
    pub(super) fn half(&mut self, i: &'m Instruction<'m>, ty: Type) -> Decode<()> {
        // Products and sums of `fma.rn.oob` and mixed precision come with later targets.
        only(i, &["rn", "ftz", "sat", "relu", "NaN", "xorsign", "abs"])?;
        let kind = if matches!(ty, Type::F(16) | Type::F16x2) { Half::F16 } else { Half::Bf16 };
        let mode = HalfMode { ftz: i.has("ftz"), sat: i.has("sat"), relu: i.has("relu") };
        let limits = min_max(i);
        let packed = ty.bits() == 32;
        macro_rules! one {
            ($f:expr) => {
                if packed { map1(move |a: u32| both1(a, $f)) } else { map1($f) }
            };
        }
        macro_rules! two {
            ($f:expr) => {
                if packed { map2(move |a: u32, b: u32| both2(a, b, $f)) } else { map2($f) }
            };
        }
        macro_rules! three {
            ($f:expr) => {
                if packed { map3(move |a: u32, b: u32, c: u32| both3(a, b, c, $f)) } else { map3($f) }
            };
        }
        let (run, count, flops) = match i.name {
            "add" => (by_kind!(kind, K => two!(move |a: u16, b: u16| K.add(a, b, mode))), 2, 1),
            "sub" => (by_kind!(kind, K => two!(move |a: u16, b: u16| K.sub(a, b, mode))), 2, 1),
            "mul" => (by_kind!(kind, K => two!(move |a: u16, b: u16| K.mul(a, b, mode))), 2, 1),
            "fma" => (by_kind!(kind, K => three!(move |a: u16, b: u16, c: u16| K.fma(a, b, c, mode))), 3, 2),
            "abs" => (one!(move |a: u16| kind.abs(a, mode.ftz)), 1, 0),
            "neg" => (one!(move |a: u16| kind.neg(a, mode.ftz)), 1, 0),
            "min" => (two!(move |a: u16, b: u16| kind.min(a, b, limits)), 2, 1),
            "max" => (two!(move |a: u16, b: u16| kind.max(a, b, limits)), 2, 1),
            _ => return Err(unsupported(i)),
        };
        let bits = ty.bits();
        let d = self.dst(i, bits)?;
        let rows = (1..=count).map(|k| self.src(i, k, bits)).collect::<Decode<Vec<Row>>>()?;
        self.lanes_flops(run, d, &rows, Class::Half, if packed { flops * 2 } else { flops });
        Ok(())
    }
}
