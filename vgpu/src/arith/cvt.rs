//! `cvt` between scalar types: every pair of integer and float widths.
//!
//! [`Cvt::apply`] does any of them; the pairs that compiled kernels are full of have functions of their own
//! ([`f32_to_s32_rzi`], and [`super::half`] for 16-bit floats), which `apply` uses too.

use super::format::{Exact, Format, Round};
use super::half::{self, Half};
use super::single::{self, flush_if};

/// A scalar type of `cvt`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// `.u8`
    U8,
    /// `.u16`
    U16,
    /// `.u32`
    U32,
    /// `.u64`
    U64,
    /// `.s8`
    S8,
    /// `.s16`
    S16,
    /// `.s32`
    S32,
    /// `.s64`
    S64,
    /// `.f16`
    F16,
    /// `.bf16`
    Bf16,
    /// `.f32`
    F32,
    /// `.f64`
    F64,
}

impl Type {
    /// The type of a PTX modifier (without the dot).
    pub fn parse(name: &str) -> Option<Type> {
        use Type::{Bf16, F16, F32, F64, S8, S16, S32, S64, U8, U16, U32, U64};
        Some(match name {
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "bf16" => Bf16,
            "f32" => F32,
            "f64" => F64,
            _ => return None,
        })
    }

    /// Width in bits.
    pub const fn bits(self) -> u32 {
        match self {
            Type::U8 | Type::S8 => 8,
            Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 16,
            Type::U32 | Type::S32 | Type::F32 => 32,
            Type::U64 | Type::S64 | Type::F64 => 64,
        }
    }

    /// Whether it is a float type.
    pub const fn is_float(self) -> bool {
        matches!(self, Type::F16 | Type::Bf16 | Type::F32 | Type::F64)
    }

    const fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    const fn format(self) -> Format {
        match self {
            Type::F16 => Format::F16,
            Type::Bf16 => Format::BF16,
            Type::F32 => Format::F32,
            _ => Format::F64,
        }
    }
}

/// A scalar `cvt` instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cvt {
    /// `.dtype`
    pub to: Type,
    /// `.atype`
    pub from: Type,
    /// `.rn .rz .rm .rp`: rounding of a float result; `Nearest` where the instruction has none.
    pub round: Round,
    /// `.rni .rzi .rmi .rpi`: rounding to an integer, for integer results and float results of the same type.
    pub integral: Option<Round>,
    /// `.ftz`: subnormal `.f32` inputs and results become zero.
    pub ftz: bool,
    /// `.sat`: clamp to the range of an integer type, or to [0, 1] for float results.
    pub sat: bool,
    /// `.relu`: clamp negative results to 0.
    pub relu: bool,
    /// `.satfinite`: clamp to the largest finite number.
    pub satfinite: bool,
}

impl Cvt {
    /// A conversion without modifiers: to nearest for float results, toward zero for float to integer.
    pub const fn new(to: Type, from: Type) -> Cvt {
        Cvt {
            to,
            from,
            round: Round::Nearest,
            integral: None,
            ftz: false,
            sat: false,
            relu: false,
            satfinite: false,
        }
    }

    /// Converts. Only the low bits of `a`, as wide as the source type, count. An integer result comes
    /// extended to 64 bits by the signedness of its type, for destination registers wider than the type.
    #[inline]
    pub fn apply(self, a: u64) -> u64 {
        match (self.from.is_float(), self.to.is_float()) {
            (false, false) => self.int_to_int(a),
            (false, true) => self.int_to_float(a),
            (true, false) => self.float_to_int(a),
            (true, true) => self.float_to_float(a),
        }
    }

    #[inline(always)]
    fn source_int(self, a: u64) -> i128 {
        let unused = 64 - self.from.bits();
        if self.from.is_signed() {
            i128::from((a << unused) as i64 >> unused)
        } else {
            i128::from(a << unused >> unused)
        }
    }

    #[inline(always)]
    fn int_to_int(self, a: u64) -> u64 {
        let value = self.source_int(a);
        if self.sat {
            let (low, high) = range(self.to);
            return value.clamp(low, high) as u64;
        }
        extend(value as u64, self.to)
    }

    fn int_to_float(self, a: u64) -> u64 {
        let value = self.source_int(a);
        let bits = match (self.to, self.round) {
            (Type::F32, Round::Nearest) if self.from.bits() <= 32 => {
                u64::from((value as i64 as f32).to_bits())
            }
            (Type::F64, _) if self.from.bits() <= 32 => (value as i64 as f64).to_bits(),
            (to, round) => to.format().encode(Exact::from_int(value), round),
        };
        self.clamp_float(bits)
    }

    fn source_float(self, a: u64) -> f64 {
        match self.from {
            Type::F16 => f64::from(f32::from_bits(half::f32_from_f16(a as u16))),
            Type::Bf16 => f64::from(f32::from_bits(half::f32_from_bf16(a as u16))),
            Type::F32 => f64::from(f32::from_bits(flush_if(a as u32, self.ftz))),
            _ => f64::from_bits(a),
        }
    }

    #[inline(always)]
    fn float_to_int(self, a: u64) -> u64 {
        let x = self.source_float(a);
        let bits = self.to.bits();
        if x.is_nan() {
            let wide = self.from == Type::F64 || bits == 64;
            return if wide { extend(1 << (bits - 1), self.to) } else { 0 };
        }
        let rounded = to_integral(x, self.integral.unwrap_or(Round::Zero));
        // Rust's float-to-integer casts saturate, which makes 64 bits right; narrower types clamp further.
        if self.to.is_signed() {
            let (low, high) = (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits));
            (rounded as i64).clamp(low, high) as u64
        } else {
            (rounded as u64).min(u64::MAX >> (64 - bits))
        }
    }

    #[inline(always)]
    fn float_to_float(self, a: u64) -> u64 {
        match (self.from, self.to, self.round) {
            _ if self.integral.is_some() || self.satfinite => {}
            (Type::F16, Type::F32, _) => return self.clamp_float(half::f32_from_f16(a as u16).into()),
            (Type::Bf16, Type::F32, _) => return self.clamp_float(half::f32_from_bf16(a as u16).into()),
            (Type::F32, Type::F16, Round::Nearest) => {
                return self.clamp_float(half::f16_from_f32(flush_if(a as u32, self.ftz)).into());
            }
            (Type::F32, Type::Bf16, Round::Nearest) => {
                return self.clamp_float(half::bf16_from_f32(flush_if(a as u32, self.ftz)).into());
            }
            (Type::F64, Type::F64, _) => return self.clamp_float(a),
            _ => {}
        }
        self.float_to_float_slow(a)
    }

    fn float_to_float_slow(self, a: u64) -> u64 {
        let x = self.source_float(a);
        let x = self.integral.map_or(x, |round| to_integral(x, round));
        let bits = match self.to {
            Type::F64 => x.to_bits(),
            Type::F32 if x.is_nan() => single::NAN.into(),
            Type::F32 => single::round_from_f64(x, self.round).to_bits().into(),
            to if self.satfinite => to.format().from_f64_satfinite(x, self.round),
            to => to.format().from_f64(x, self.round),
        };
        self.clamp_float(bits)
    }

    /// `.ftz`, `.sat` and `.relu` of a float result.
    #[inline(always)]
    fn clamp_float(self, bits: u64) -> u64 {
        match self.to {
            Type::F32 => {
                let bits = flush_if(bits as u32, self.ftz);
                u64::from(if self.sat { single::saturate(bits) } else { bits })
            }
            Type::F16 | Type::Bf16 => {
                let kind = if self.to == Type::F16 { Half::F16 } else { Half::Bf16 };
                let bits = if self.sat { kind.saturate(bits as u16) } else { bits as u16 };
                u64::from(if self.relu { kind.relu(bits) } else { bits })
            }
            _ if self.sat => {
                let x = f64::from_bits(bits);
                if x > 0.0 { x.min(1.0).to_bits() } else { 0 }
            }
            _ => bits,
        }
    }
}

/// Rounds to an integer in the given direction; the sign of zero stays.
#[inline(always)]
fn to_integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::NearestAway => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// Extends the low bits of an integer type to 64 by its signedness.
#[inline(always)]
fn extend(a: u64, to: Type) -> u64 {
    let unused = 64 - to.bits();
    if to.is_signed() { ((a << unused) as i64 >> unused) as u64 } else { a << unused >> unused }
}

fn range(to: Type) -> (i128, i128) {
    let bits = to.bits();
    if to.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// `cvt.rzi.s32.f32`.
#[inline(always)]
pub fn f32_to_s32_rzi(a: u32) -> u32 {
    f32::from_bits(a) as i32 as u32
}

/// `cvt.rzi.u32.f32`.
#[inline(always)]
pub fn f32_to_u32_rzi(a: u32) -> u32 {
    f32::from_bits(a) as u32
}

/// `cvt.rn.f32.s32`.
#[inline(always)]
pub fn s32_to_f32(a: u32) -> u32 {
    (a as i32 as f32).to_bits()
}

/// `cvt.rn.f32.u32`.
#[inline(always)]
pub fn u32_to_f32(a: u32) -> u32 {
    (a as f32).to_bits()
}

#[cfg(test)]
#[path = "cvt_tests.rs"]
mod tests;
