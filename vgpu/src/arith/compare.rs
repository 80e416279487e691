//! `setp`, `set`, `slct`: comparisons as masks over the possible outcomes.

use super::single::flush_if;

/// A comparison operator: the set of outcomes (less, equal, greater, unordered) for which it holds.
///
/// The same operator serves every type; the type's own comparison finds the outcome. `lo ls hi hs` are `lt le
/// gt ge` of unsigned types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cmp(u8);

const LESS: u8 = 1;
const EQUAL: u8 = 2;
const GREATER: u8 = 4;
const UNORDERED: u8 = 8;

impl Cmp {
    /// `eq`.
    pub const EQ: Cmp = Cmp(EQUAL);
    /// `ne`: false for NaN operands.
    pub const NE: Cmp = Cmp(LESS | GREATER);
    /// `lt`, `lo`.
    pub const LT: Cmp = Cmp(LESS);
    /// `le`, `ls`.
    pub const LE: Cmp = Cmp(LESS | EQUAL);
    /// `gt`, `hi`.
    pub const GT: Cmp = Cmp(GREATER);
    /// `ge`, `hs`.
    pub const GE: Cmp = Cmp(GREATER | EQUAL);
    /// `equ`: as `eq`, true for NaN operands.
    pub const EQU: Cmp = Cmp(EQUAL | UNORDERED);
    /// `neu`.
    pub const NEU: Cmp = Cmp(LESS | GREATER | UNORDERED);
    /// `ltu`.
    pub const LTU: Cmp = Cmp(LESS | UNORDERED);
    /// `leu`.
    pub const LEU: Cmp = Cmp(LESS | EQUAL | UNORDERED);
    /// `gtu`.
    pub const GTU: Cmp = Cmp(GREATER | UNORDERED);
    /// `geu`.
    pub const GEU: Cmp = Cmp(GREATER | EQUAL | UNORDERED);
    /// `num`: neither operand is NaN.
    pub const NUM: Cmp = Cmp(LESS | EQUAL | GREATER);
    /// `nan`: an operand is NaN.
    pub const NAN: Cmp = Cmp(UNORDERED);

    /// The operator of a PTX modifier (without the dot); `None` for any other word.
    pub fn parse(name: &str) -> Option<Cmp> {
        Some(match name {
            "eq" => Cmp::EQ,
            "ne" => Cmp::NE,
            "lt" | "lo" => Cmp::LT,
            "le" | "ls" => Cmp::LE,
            "gt" | "hi" => Cmp::GT,
            "ge" | "hs" => Cmp::GE,
            "equ" => Cmp::EQU,
            "neu" => Cmp::NEU,
            "ltu" => Cmp::LTU,
            "leu" => Cmp::LEU,
            "gtu" => Cmp::GTU,
            "geu" => Cmp::GEU,
            "num" => Cmp::NUM,
            "nan" => Cmp::NAN,
            _ => return None,
        })
    }

    /// Compares integers of any one type (`i16`, `u16`, ..., `u64`), or doubles and floats without flushing.
    #[inline(always)]
    pub fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        let outcome = if a < b {
            LESS
        } else if a == b {
            EQUAL
        } else if a > b {
            GREATER
        } else {
            UNORDERED
        };
        self.0 & outcome != 0
    }

    /// Compares `.f32` bit patterns.
    #[inline(always)]
    pub fn f32(self, a: u32, b: u32, ftz: bool) -> bool {
        self.holds(f32::from_bits(flush_if(a, ftz)), f32::from_bits(flush_if(b, ftz)))
    }

    /// Compares `.f64` bit patterns.
    #[inline(always)]
    pub fn f64(self, a: u64, b: u64) -> bool {
        self.holds(f64::from_bits(a), f64::from_bits(b))
    }

    /// Compares `.f16` or `.bf16` bit patterns.
    #[inline(always)]
    pub fn half(self, kind: super::Half, a: u16, b: u16, ftz: bool) -> bool {
        let value = |bits: u16| {
            let flushed = ftz && bits & 0x7fff < 0x0400 && kind == super::Half::F16;
            f32::from_bits(kind.to_f32(if flushed { bits & 0x8000 } else { bits }))
        };
        self.holds(value(a), value(b))
    }
}

/// `slct.type.s32`: `a` if `c >= 0`, else `b`.
#[inline(always)]
pub fn slct_s32<T>(a: T, b: T, c: u32) -> T {
    if c as i32 >= 0 { a } else { b }
}

/// `slct.type.f32`: `a` if `c >= 0` (-0 included), `b` if it is less or NaN.
#[inline(always)]
pub fn slct_f32<T>(a: T, b: T, c: u32, ftz: bool) -> T {
    if f32::from_bits(flush_if(c, ftz)) >= 0.0 { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arith::Half;

    #[test]
    fn operators_of_the_isa_table() {
        let nan = f32::NAN;
        let table: [(&str, [bool; 4]); 14] = [
            ("eq", [false, true, false, false]),
            ("ne", [true, false, true, false]),
            ("lt", [true, false, false, false]),
            ("le", [true, true, false, false]),
            ("gt", [false, false, true, false]),
            ("ge", [false, true, true, false]),
            ("equ", [false, true, false, true]),
            ("neu", [true, false, true, true]),
            ("ltu", [true, false, false, true]),
            ("leu", [true, true, false, true]),
            ("gtu", [false, false, true, true]),
            ("geu", [false, true, true, true]),
            ("num", [true, true, true, false]),
            ("nan", [false, false, false, true]),
        ];
        for (name, expected) in table {
            let cmp = Cmp::parse(name).unwrap();
            let seen = [(1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (nan, 2.0)]
                .map(|(a, b): (f32, f32)| cmp.f32(a.to_bits(), b.to_bits(), false));
            assert_eq!(seen, expected, "{name}");
            assert_eq!(cmp.f64(f64::NAN.to_bits(), f64::NAN.to_bits()), expected[3], "{name}");
        }
        assert_eq!(Cmp::parse("lz"), None);
    }

    #[test]
    fn signedness_and_zeros() {
        assert!(Cmp::LT.holds(-1i32, 1) && Cmp::GT.holds(-1i32 as u32, 1));
        assert!(Cmp::parse("hs").unwrap().holds(u64::MAX, 1));
        assert!(Cmp::EQ.f32(0x8000_0000, 0, false), "-0 equals +0");
        assert!(Cmp::GT.f32(1, 0, false) && Cmp::EQ.f32(1, 0, true));
        assert!(Cmp::GT.half(Half::F16, 1, 0x8000, false) && Cmp::EQ.half(Half::F16, 1, 0, true));
        assert!(
            Cmp::NAN.half(Half::Bf16, 0x7fc0, 0, false) && Cmp::LT.half(Half::Bf16, 0xbf80, 0x3f80, false)
        );
    }

    #[test]
    fn select_by_sign() {
        assert_eq!((slct_s32(1, 2, 0), slct_s32(1, 2, 0x8000_0000)), (1, 2));
        assert_eq!(slct_f32(1, 2, 0x8000_0000, false), 1, "-0 >= 0");
        assert_eq!((slct_f32(1, 2, 0x7fc0_0000, false), slct_f32(1, 2, 0x8000_0001, true)), (2, 1));
        assert_eq!(slct_f32(1, 2, 0x8000_0001, false), 2);
    }
}
