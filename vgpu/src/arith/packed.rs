//! Packed integers: dot products of bytes, and `.u16x2` / `.s16x2` arithmetic.

use super::half::map2;

/// The four bytes of a register, widened by their signedness.
#[inline(always)]
pub(super) fn bytes(a: u32, signed: bool) -> [i32; 4] {
    a.to_le_bytes().map(|byte| if signed { i32::from(byte as i8) } else { i32::from(byte) })
}

/// The two halves of a register, widened by their signedness.
#[inline(always)]
pub(super) fn halves(a: u32, signed: bool) -> [i32; 2] {
    [a as u16, (a >> 16) as u16].map(|half| if signed { i32::from(half as i16) } else { i32::from(half) })
}

/// `dp4a`: `c` plus the dot product of four bytes.
#[inline(always)]
pub fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let (a, b) = (bytes(a, a_signed), bytes(b, b_signed));
    let dot = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
    c.wrapping_add(dot as u32)
}

/// `dp2a`: `c` plus the dot product of the halves of `a` and the lower (`high`: the upper) two bytes of `b`.
#[inline(always)]
pub fn dp2a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool, high: bool) -> u32 {
    let (a, b) = (halves(a, a_signed), bytes(if high { b >> 16 } else { b }, b_signed));
    c.wrapping_add((a[0] * b[0] + a[1] * b[1]) as u32)
}

/// `add.u16x2`, `add.s16x2`.
#[inline(always)]
pub fn add_16x2(a: u32, b: u32) -> u32 {
    map2(a, b, u16::wrapping_add)
}

/// `sub.u16x2`, `sub.s16x2`.
#[inline(always)]
pub fn sub_16x2(a: u32, b: u32) -> u32 {
    map2(a, b, u16::wrapping_sub)
}

/// `min.u16x2`.
#[inline(always)]
pub fn min_u16x2(a: u32, b: u32) -> u32 {
    map2(a, b, u16::min)
}

/// `max.u16x2`.
#[inline(always)]
pub fn max_u16x2(a: u32, b: u32) -> u32 {
    map2(a, b, u16::max)
}

/// `min.s16x2`; `relu`: negative results become 0.
#[inline(always)]
pub fn min_s16x2(a: u32, b: u32, relu: bool) -> u32 {
    map2(a, b, |x, y| (x as i16).min(y as i16).max(if relu { 0 } else { i16::MIN }) as u16)
}

/// `max.s16x2`; `relu`: negative results become 0.
#[inline(always)]
pub fn max_s16x2(a: u32, b: u32, relu: bool) -> u32 {
    map2(a, b, |x, y| (x as i16).max(y as i16).max(if relu { 0 } else { i16::MIN }) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_products_widen_by_signedness() {
        assert_eq!(dp4a(0x0102_0304, 0x0506_0708, 100, false, false), 100 + 5 + 12 + 21 + 32);
        assert_eq!(dp4a(0xffff_ffff, 0xffff_ffff, 0, true, true), 4);
        assert_eq!(dp4a(0xffff_ffff, 0xffff_ffff, 0, false, false), 4 * 255 * 255);
        assert_eq!(dp4a(0xffff_ffff, 0xffff_ffff, 0, false, true) as i32, -4 * 255);
        assert_eq!(dp4a(0x8080_8080, 0x8080_8080, u32::MAX, true, true), 4 * 128 * 128 - 1, "the sum wraps");
        assert_eq!(dp2a(0x0002_0003, 0x0706_0504, 1, false, false, false), 1 + 3 * 4 + 2 * 5);
        assert_eq!(dp2a(0x0002_0003, 0x0706_0504, 1, false, false, true), 1 + 3 * 6 + 2 * 7);
        assert_eq!(dp2a(0xffff_0001, 0x0000_0302, 0, true, true, false) as i32, 2 - 3);
        assert_eq!(dp2a(0xffff_0000, 0x0000_ff00, 0, false, false, false), 65535 * 255);
    }

    #[test]
    fn halves_do_not_disturb_each_other() {
        assert_eq!(add_16x2(0x0001_ffff, 0x0001_0001), 0x0002_0000);
        assert_eq!(sub_16x2(0x0001_0000, 0x0001_0001), 0x0000_ffff);
        assert_eq!((min_u16x2(0xffff_0001, 1), max_u16x2(0xffff_0001, 2)), (1, 0xffff_0002));
        assert_eq!(min_s16x2(0xffff_0005, 0x0001_0007, false), 0xffff_0005);
        assert_eq!(min_s16x2(0xffff_0005, 0x0001_0007, true), 0x0000_0005);
        assert_eq!(
            (max_s16x2(0xfffe_8000, 0xffff_7fff, false), max_s16x2(0xfffe_8000, 0xffff_8001, true)),
            (0xffff_7fff, 0)
        );
    }
}
