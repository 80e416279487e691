//! Integer arithmetic of every width and signedness.

/// Operations of one PTX integer type, by the Rust type of the same name: `i32::mul_hi(a, b)` is
/// `mul.hi.s32`.
///
/// `add`, `sub`, `mul.lo`, `and`, `or`, `xor` and `not` are the plain wrapping operations and do not appear
/// here.
pub trait Int: Copy + Ord {
    /// `.sat`: the sum clamped to the type's range.
    fn add_sat(self, b: Self) -> Self;
    /// `.sat`: the difference clamped to the type's range.
    fn sub_sat(self, b: Self) -> Self;
    /// `mul.hi`: the upper half of the double-width product.
    fn mul_hi(self, b: Self) -> Self;
    /// `div`: truncated; a zero divisor gives all ones, as hardware does (the ISA leaves it open).
    fn quotient(self, b: Self) -> Self;
    /// `rem`: of the truncated division; a zero divisor gives `a`.
    fn remainder(self, b: Self) -> Self;
    /// `abs`; the smallest number stays as it is.
    fn magnitude(self) -> Self;
    /// `neg`, wrapping.
    fn negated(self) -> Self;
    /// `sad`: `c + |a - b|`, wrapping.
    fn sad(self, b: Self, c: Self) -> Self;
    /// `shl`; amounts beyond the width give 0.
    fn shift_left(self, amount: u32) -> Self;
    /// `shr`, filled with the sign of a signed type; amounts beyond the width act as the width.
    fn shift_right(self, amount: u32) -> Self;
}

macro_rules! int {
    ($($t:ident $wide:ident $abs:expr;)*) => {$(
        impl Int for $t {
            #[inline(always)]
            fn add_sat(self, b: Self) -> Self {
                self.saturating_add(b)
            }
            #[inline(always)]
            fn sub_sat(self, b: Self) -> Self {
                self.saturating_sub(b)
            }
            #[inline(always)]
            fn mul_hi(self, b: Self) -> Self {
                (($wide::from(self) * $wide::from(b)) >> $t::BITS) as $t
            }
            #[inline(always)]
            fn quotient(self, b: Self) -> Self {
                if b == 0 { !0 } else { self.wrapping_div(b) }
            }
            #[inline(always)]
            fn remainder(self, b: Self) -> Self {
                if b == 0 { self } else { self.wrapping_rem(b) }
            }
            #[inline(always)]
            fn magnitude(self) -> Self {
                let abs: fn($t) -> $t = $abs;
                abs(self)
            }
            #[inline(always)]
            fn negated(self) -> Self {
                self.wrapping_neg()
            }
            #[inline(always)]
            fn sad(self, b: Self, c: Self) -> Self {
                c.wrapping_add(if self < b { b.wrapping_sub(self) } else { self.wrapping_sub(b) })
            }
            #[inline(always)]
            fn shift_left(self, amount: u32) -> Self {
                if amount < $t::BITS { self << amount } else { 0 }
            }
            #[inline(always)]
            fn shift_right(self, amount: u32) -> Self {
                // Two steps, so that a full shift leaves nothing but the sign.
                let amount = amount.min($t::BITS);
                self >> (amount / 2) >> (amount - amount / 2)
            }
        }
    )*};
}

int! {
    u16 u32 |x| x;
    u32 u64 |x| x;
    u64 u128 |x| x;
    i16 i32 |x| x.wrapping_abs();
    i32 i64 |x| x.wrapping_abs();
    i64 i128 |x| x.wrapping_abs();
}

/// `mul.wide.u32` / `mad.wide.u32`'s product.
#[inline(always)]
pub fn mul_wide_u32(a: u32, b: u32) -> u64 {
    u64::from(a) * u64::from(b)
}

/// `mul.wide.s32`.
#[inline(always)]
pub fn mul_wide_s32(a: u32, b: u32) -> u64 {
    (i64::from(a as i32) * i64::from(b as i32)) as u64
}

/// `mul.wide.u16`.
#[inline(always)]
pub fn mul_wide_u16(a: u16, b: u16) -> u32 {
    u32::from(a) * u32::from(b)
}

/// `mul.wide.s16`.
#[inline(always)]
pub fn mul_wide_s16(a: u16, b: u16) -> u32 {
    (i32::from(a as i16) * i32::from(b as i16)) as u32
}

/// The 48-bit product of the low 24 bits of each operand, sign-extended for `.s32`.
#[inline(always)]
fn mul24(a: u32, b: u32, signed: bool) -> u64 {
    if signed {
        let extend = |x: u32| i64::from((x << 8) as i32 >> 8);
        (extend(a) * extend(b)) as u64
    } else {
        u64::from(a & 0x00ff_ffff) * u64::from(b & 0x00ff_ffff)
    }
}

/// `mul24.lo`: the low 32 bits of the 48-bit product.
#[inline(always)]
pub fn mul24_lo(a: u32, b: u32, signed: bool) -> u32 {
    mul24(a, b, signed) as u32
}

/// `mul24.hi`: bits 16 to 47 of the 48-bit product.
#[inline(always)]
pub fn mul24_hi(a: u32, b: u32, signed: bool) -> u32 {
    (mul24(a, b, signed) >> 16) as u32
}

/// `add.cc` and `addc`: the sum and the carry out.
#[inline(always)]
pub fn add_carry_u32(a: u32, b: u32, carry: bool) -> (u32, bool) {
    let sum = u64::from(a) + u64::from(b) + u64::from(carry);
    (sum as u32, sum >> 32 != 0)
}

/// `add.cc.u64` and `addc.u64`: the sum and the carry out.
#[inline(always)]
pub fn add_carry_u64(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    (sum as u64, sum >> 64 != 0)
}

/// `sub.cc` and `subc`: the difference and the borrow out.
#[inline(always)]
pub fn sub_borrow_u32(a: u32, b: u32, borrow: bool) -> (u32, bool) {
    let (difference, wrapped) = a.overflowing_sub(b);
    let (difference, again) = difference.overflowing_sub(u32::from(borrow));
    (difference, wrapped | again)
}

/// `sub.cc.u64` and `subc.u64`: the difference and the borrow out.
#[inline(always)]
pub fn sub_borrow_u64(a: u64, b: u64, borrow: bool) -> (u64, bool) {
    let (difference, wrapped) = a.overflowing_sub(b);
    let (difference, again) = difference.overflowing_sub(u64::from(borrow));
    (difference, wrapped | again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges_of_division() {
        assert_eq!(i32::MIN.quotient(-1), i32::MIN);
        assert_eq!(i32::MIN.remainder(-1), 0);
        assert_eq!((7u32.quotient(0), 7u32.remainder(0), (-7i64).quotient(0)), (u32::MAX, 7, -1));
        assert_eq!(((-7i32).quotient(2), (-7i32).remainder(2), 7i16.remainder(-2)), (-3, -1, 1));
    }

    #[test]
    fn shifts_clamp() {
        assert_eq!((1u32.shift_left(31), 1u32.shift_left(32), 1u32.shift_left(u32::MAX)), (1 << 31, 0, 0));
        assert_eq!(
            ((-8i32).shift_right(1), (-8i32).shift_right(32), (-8i32).shift_right(u32::MAX)),
            (-4, -1, -1)
        );
        assert_eq!(
            (u16::MAX.shift_right(16), i16::MIN.shift_right(15), i16::MIN.shift_right(99)),
            (0, -1, -1)
        );
        assert_eq!((u64::MAX.shift_right(63), u64::MAX.shift_right(64), 1u64.shift_left(64)), (1, 0, 0));
        assert_eq!(0x1234u16.shift_left(4), 0x2340);
    }

    #[test]
    fn saturation_and_magnitude() {
        assert_eq!(i32::MAX.add_sat(1), i32::MAX);
        assert_eq!(i32::MIN.sub_sat(1), i32::MIN);
        assert_eq!((i32::MIN.magnitude(), (-5i64).magnitude(), i16::MIN.negated()), (i32::MIN, 5, i16::MIN));
        assert_eq!((3u32.sad(5, 10), (-3i32).sad(5, 10), u16::MAX.sad(0, 1)), (12, 18, 0));
    }

    #[test]
    fn products_of_24_bits() {
        assert_eq!(mul24_lo(0xff00_0002, 3, false), 6, "the upper byte is ignored");
        assert_eq!(mul24_lo(0x00ff_ffff, 0x00ff_ffff, true), 1, "-1 · -1");
        assert_eq!(mul24_hi(0x00ff_ffff, 0x00ff_ffff, false), 0xffff_fe00);
        assert_eq!(mul24_hi(0x00ff_ffff, 1, true), 0xffff_ffff);
    }

    proptest! {
        #[test]
        fn mul_hi_is_the_upper_half(a: u64, b: u64) {
            let wide = u128::from(a) * u128::from(b);
            prop_assert_eq!(a.mul_hi(b), (wide >> 64) as u64);
            let wide = i128::from(a as i64) * i128::from(b as i64);
            prop_assert_eq!((a as i64).mul_hi(b as i64), (wide >> 64) as i64);
            let (a, b) = (a as u32, b as u32);
            prop_assert_eq!(u64::from(a.mul_hi(b)), (u64::from(a) * u64::from(b)) >> 32);
            prop_assert_eq!(mul_wide_s32(a, b) as i64, i64::from(a as i32) * i64::from(b as i32));
        }

        /// Carry chains of 32-bit words are 128-bit arithmetic.
        #[test]
        fn carry_chains(a: u128, b: u128, carry: bool) {
            let words = |x: u128| [0, 1, 2, 3].map(|i| (x >> (32 * i)) as u32);
            let (mut sum, mut difference) = (0u128, 0u128);
            let (mut c, mut w) = (carry, carry);
            for (i, (x, y)) in words(a).into_iter().zip(words(b)).enumerate() {
                let (s, d);
                (s, c) = add_carry_u32(x, y, c);
                (d, w) = sub_borrow_u32(x, y, w);
                sum |= u128::from(s) << (32 * i);
                difference |= u128::from(d) << (32 * i);
            }
            prop_assert_eq!(sum, a.wrapping_add(b).wrapping_add(u128::from(carry)));
            prop_assert_eq!(difference, a.wrapping_sub(b).wrapping_sub(u128::from(carry)));
            let (low, c) = add_carry_u64(a as u64, b as u64, carry);
            let (high, _) = add_carry_u64((a >> 64) as u64, (b >> 64) as u64, c);
            prop_assert_eq!(u128::from(high) << 64 | u128::from(low), sum);
            let (low, w) = sub_borrow_u64(a as u64, b as u64, carry);
            let (high, _) = sub_borrow_u64((a >> 64) as u64, (b >> 64) as u64, w);
            prop_assert_eq!(u128::from(high) << 64 | u128::from(low), difference);
        }
    }
}
