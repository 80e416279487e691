//! Bit-field, permutation, funnel-shift and lookup instructions.

/// How an out-of-range shift amount or width counts (`.clamp`, `.wrap`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range {
    /// Values beyond 32 act as 32.
    Clamp,
    /// Only the low five bits count.
    Wrap,
}

/// `popc` of 32 bits; the 64-bit form is [`u64::count_ones`] alike.
#[inline(always)]
pub fn popc(a: u32) -> u32 {
    a.count_ones()
}

/// `bfind.u32`: position of the most significant one, or all ones; `shiftamt`: its distance from bit 31.
#[inline(always)]
pub fn bfind_u32(a: u32, shiftamt: bool) -> u32 {
    if a == 0 {
        return u32::MAX;
    }
    if shiftamt { a.leading_zeros() } else { 31 - a.leading_zeros() }
}

/// `bfind.s32`: as for unsigned values, of the most significant bit that differs from the sign.
#[inline(always)]
pub fn bfind_s32(a: u32, shiftamt: bool) -> u32 {
    bfind_u32(a ^ ((a as i32) >> 31) as u32, shiftamt)
}

/// `bfind.u64`.
#[inline(always)]
pub fn bfind_u64(a: u64, shiftamt: bool) -> u32 {
    if a == 0 {
        return u32::MAX;
    }
    if shiftamt { a.leading_zeros() } else { 63 - a.leading_zeros() }
}

/// `bfind.s64`.
#[inline(always)]
pub fn bfind_s64(a: u64, shiftamt: bool) -> u32 {
    bfind_u64(a ^ ((a as i64) >> 63) as u64, shiftamt)
}

/// `bfe.u64`: `len` bits from `pos` on, zero-extended. Only the low bytes of `pos` and `len` count.
#[inline(always)]
pub fn bfe_u64(a: u64, pos: u32, len: u32) -> u64 {
    field(a, pos & 0xff, len & 0xff, 64)
}

/// `bfe.u32`.
#[inline(always)]
pub fn bfe_u32(a: u32, pos: u32, len: u32) -> u32 {
    field(a.into(), pos & 0xff, len & 0xff, 32) as u32
}

#[inline(always)]
fn field(a: u64, pos: u32, len: u32, width: u32) -> u64 {
    if pos >= width || len == 0 {
        return 0;
    }
    (a >> pos) & (u64::MAX >> (64 - len.min(width - pos)))
}

/// `bfe.s64`: as [`bfe_u64`], filled with the field's top bit, or with bit 63 where the field passes it.
#[inline(always)]
pub fn bfe_s64(a: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    // Shift the field's last bit up to bit 63, then down with its sign.
    let end = (pos + len).min(64);
    let shifted = (a << (64 - end)) as i64;
    (shifted >> (64 - end + pos).min(63)) as u64
}

/// `bfe.s32`.
#[inline(always)]
pub fn bfe_s32(a: u32, pos: u32, len: u32) -> u32 {
    // Sign-extended, the bits above 31 are copies of the sign: the 64-bit rule reads the same field.
    let (pos, len) = (pos & 0xff, len & 0xff);
    bfe_s64(a as i32 as u64, pos, len) as u32
}

/// `bfi.b64`: `b` with `len` low bits of `a` inserted at `pos`.
#[inline(always)]
pub fn bfi_b64(a: u64, b: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= 64 || len == 0 {
        return b;
    }
    let mask = (u64::MAX >> (64 - len.min(64))) << pos;
    b & !mask | (a << pos) & mask
}

/// `bfi.b32`.
#[inline(always)]
pub fn bfi_b32(a: u32, b: u32, pos: u32, len: u32) -> u32 {
    bfi_b64(a.into(), b.into(), pos, len) as u32
}

/// `fns`: position of the `offset`-th set bit counted from `base` on (upwards if positive, downwards if
/// negative, `base` itself included), or all ones.
pub fn fns(mask: u32, base: u32, offset: u32) -> u32 {
    let bit = |position: i32| (0..32).contains(&position) && mask >> position & 1 == 1;
    let (base, offset) = (base.min(32) as i32, offset as i32);
    if offset == 0 {
        return if bit(base) { base as u32 } else { u32::MAX };
    }
    let step = offset.signum();
    let mut missing = offset.unsigned_abs();
    let mut position = base;
    while (0..32).contains(&position) {
        missing -= u32::from(bit(position));
        if missing == 0 {
            return position as u32;
        }
        position += step;
    }
    u32::MAX
}

/// `szext`: the low `n` bits of `a`, zero- or sign-extended.
#[inline(always)]
pub fn szext(a: u32, n: u32, signed: bool, range: Range) -> u32 {
    if n >= 32 && range == Range::Clamp {
        return a;
    }
    let unused = 32 - (n & 31);
    if unused == 32 {
        return 0;
    }
    if signed { ((a << unused) as i32 >> unused) as u32 } else { a << unused >> unused }
}

/// `bmsk`: `width` ones from bit `position` on.
#[inline(always)]
pub fn bmsk(position: u32, width: u32, range: Range) -> u32 {
    if range == Range::Clamp && position >= 32 {
        return 0;
    }
    let width = if range == Range::Clamp { width.min(32) } else { width & 31 };
    let ones = ((1u64 << width) - 1) as u32;
    ones << (position & 31)
}

/// `shf.l`: the upper half of `b:a` shifted left by `c`.
#[inline(always)]
pub fn shf_l(a: u32, b: u32, c: u32, range: Range) -> u32 {
    let amount = if range == Range::Clamp { c.min(32) } else { c & 31 };
    ((u64::from(b) << 32 | u64::from(a)) << amount >> 32) as u32
}

/// `shf.r`: the lower half of `b:a` shifted right by `c`.
#[inline(always)]
pub fn shf_r(a: u32, b: u32, c: u32, range: Range) -> u32 {
    let amount = if range == Range::Clamp { c.min(32) } else { c & 31 };
    ((u64::from(b) << 32 | u64::from(a)) >> amount) as u32
}

/// Mode of `prmt`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permute {
    /// Four selectors of four bits: a byte number, and whether to replicate its sign.
    Generic,
    /// `.f4e`: four bytes upwards from the selected one.
    ForwardExtract,
    /// `.b4e`: four bytes downwards from the selected one.
    BackwardExtract,
    /// `.rc8`: the selected byte four times.
    Replicate8,
    /// `.ecl`: bytes below the selected one are replaced by it.
    EdgeClampLeft,
    /// `.ecr`: bytes above the selected one are replaced by it.
    EdgeClampRight,
    /// `.rc16`: the selected half twice.
    Replicate16,
}

impl Permute {
    /// The mode of a PTX modifier (without the dot).
    pub fn parse(name: &str) -> Option<Permute> {
        Some(match name {
            "f4e" => Permute::ForwardExtract,
            "b4e" => Permute::BackwardExtract,
            "rc8" => Permute::Replicate8,
            "ecl" => Permute::EdgeClampLeft,
            "ecr" => Permute::EdgeClampRight,
            "rc16" => Permute::Replicate16,
            _ => return None,
        })
    }
}

/// `prmt`: four bytes chosen out of the eight of `b:a`.
#[inline(always)]
pub fn prmt(a: u32, b: u32, c: u32, mode: Permute) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let byte = |i: u32| (bytes >> (8 * (i & 7))) as u8;
    let selected = c & 3;
    let pick = |i: u32| match mode {
        Permute::Generic => {
            let selector = c >> (4 * i);
            let value = byte(selector);
            if selector & 8 == 0 { value } else { (value as i8 >> 7) as u8 }
        }
        Permute::ForwardExtract => byte(selected + i),
        Permute::BackwardExtract => byte(selected.wrapping_sub(i)),
        Permute::Replicate8 => byte(selected),
        Permute::EdgeClampLeft => byte(i.max(selected)),
        Permute::EdgeClampRight => byte(i.min(selected)),
        Permute::Replicate16 => byte(2 * (selected & 1) + (i & 1)),
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

/// `lop3`: the three-input bitwise function whose truth table is `table`, with `a` as 0xF0, `b` as 0xCC, `c`
/// as 0xAA.
#[inline(always)]
pub fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let ones = |bit: u32| 0u32.wrapping_sub(u32::from(table) >> bit & 1);
    let by_c = |bit: u32| (!c & ones(bit)) | (c & ones(bit + 1));
    let by_b = |bit: u32| (!b & by_c(bit)) | (b & by_c(bit + 2));
    (!a & by_b(0)) | (a & by_b(4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples_of_the_isa() {
        assert_eq!(fns(0xaaaa_aaaa, 3, 1), 3);
        assert_eq!(fns(0xaaaa_aaaa, 3, -1i32 as u32), 3);
        assert_eq!(fns(0xaaaa_aaaa, 2, 1), 3);
        assert_eq!(fns(0xaaaa_aaaa, 2, -1i32 as u32), 1);
        assert_eq!(szext(u32::MAX, 0, false, Range::Wrap), 0);
        assert_eq!(bmsk(1, 2, Range::Wrap), 6);
        assert_eq!(lop3(0x1234, 0x5678, 0x9abc, 0x80), 0x1234 & 0x5678 & 0x9abc);
        assert_eq!(lop3(0x1234, 0x5678, 0x9abc, 0x1a), (0x1234 & 0x5678 | 0x9abc) ^ 0x1234);
    }

    #[test]
    fn find_edges() {
        assert_eq!((bfind_u32(0, false), bfind_u32(1, false), bfind_u32(1, true)), (u32::MAX, 0, 31));
        assert_eq!((bfind_s32(u32::MAX, false), bfind_s32(u32::MAX - 1, false)), (u32::MAX, 0));
        assert_eq!(
            (bfind_s64(1 << 62, false), bfind_u64(1 << 63, true), bfind_s64(0, true)),
            (62, 0, u32::MAX)
        );
        assert_eq!(
            (fns(0, 0, 0), fns(1, 0, 0), fns(0x8000_0000, 31, 2), fns(5, 0, 2)),
            (u32::MAX, 0, u32::MAX, 2)
        );
        assert_eq!(fns(5, 0, i32::MIN as u32), u32::MAX);
    }

    /// The permute table of the ISA, as positions in `b:a`.
    #[test]
    fn permute_modes() {
        let (a, b) = (0x0302_0100, 0x0706_0504);
        let table: [(&str, [u32; 4]); 6] = [
            ("f4e", [0x0302_0100, 0x0403_0201, 0x0504_0302, 0x0605_0403]),
            ("b4e", [0x0506_0700, 0x0607_0001, 0x0700_0102, 0x0001_0203]),
            ("rc8", [0x0000_0000, 0x0101_0101, 0x0202_0202, 0x0303_0303]),
            ("ecl", [0x0302_0100, 0x0302_0101, 0x0302_0202, 0x0303_0303]),
            ("ecr", [0x0000_0000, 0x0101_0100, 0x0202_0100, 0x0302_0100]),
            ("rc16", [0x0100_0100, 0x0302_0302, 0x0100_0100, 0x0302_0302]),
        ];
        for (name, rows) in table {
            let mode = Permute::parse(name).unwrap();
            for (c, expected) in rows.into_iter().enumerate() {
                assert_eq!(prmt(a, b, c as u32 | 0xfff0, mode), expected, "{name} {c}");
            }
        }
        assert_eq!(prmt(0x0000_80ff, 0x7f00_0000, 0x9f87, Permute::Generic), 0xff00_ff7f);
    }

    proptest! {
        /// The loops of the ISA, bit by bit.
        #[test]
        fn bit_fields_match_the_definition(a: u64, b: u64, pos in 0u32..300, len in 0u32..300) {
            for msb in [31u32, 63] {
                let (p, l) = (pos & 0xff, len & 0xff);
                let (x, y) = if msb == 31 { (a & 0xffff_ffff, b & 0xffff_ffff) } else { (a, b) };
                let bit = |v: u64, i: u32| v >> i & 1;
                let (mut unsigned, mut signed, mut inserted) = (0u64, 0u64, y);
                let sign = if l == 0 { 0 } else { bit(x, (p + l - 1).min(msb)) };
                for i in 0..=msb {
                    let inside = i < l && p + i <= msb;
                    unsigned |= if inside { bit(x, p + i) << i } else { 0 };
                    signed |= if inside { bit(x, p + i) } else { sign } << i;
                    if inside {
                        inserted = inserted & !(1 << (p + i)) | bit(x, i) << (p + i);
                    }
                }
                if msb == 31 {
                    prop_assert_eq!(u64::from(bfe_u32(x as u32, pos, len)), unsigned);
                    prop_assert_eq!(u64::from(bfe_s32(x as u32, pos, len)), signed);
                    prop_assert_eq!(u64::from(bfi_b32(x as u32, y as u32, pos, len)), inserted);
                } else {
                    prop_assert_eq!(bfe_u64(x, pos, len), unsigned);
                    prop_assert_eq!(bfe_s64(x, pos, len), signed);
                    prop_assert_eq!(bfi_b64(x, y, pos, len), inserted);
                }
            }
        }

        #[test]
        fn masks_and_extensions_match_the_definition(a: u32, x in 0u32..70, n in 0u32..70) {
            for range in [Range::Clamp, Range::Wrap] {
                let clamp = range == Range::Clamp;
                // The formulas of the ISA.
                let (a1, b1) = (x & 31, n & 31);
                let sum = a1 + b1;
                let mut mask0 = u32::MAX << a1;
                let mut mask1 = if sum >= 32 { 0 } else { u32::MAX << sum };
                let position_overflow = clamp && x >= 32;
                if position_overflow {
                    mask0 = 0;
                }
                if sum >= 32 || position_overflow || clamp && n >= 32 {
                    mask1 = 0;
                } else if b1 == 0 {
                    mask1 = u32::MAX;
                }
                prop_assert_eq!(bmsk(x, n, range), mask0 & !mask1 , "bmsk {} {} {:?}", x, n, range);

                let too_large = n >= 32 && clamp;
                let mask = if too_large { 0 } else { u32::MAX << b1 };
                for signed in [false, true] {
                    let negative = b1 != 0 && !too_large && signed && a >> ((b1.wrapping_sub(1)) & 31) & 1 == 1;
                    let expected = a & !mask | if negative { mask } else { 0 };
                    prop_assert_eq!(szext(a, n, signed, range), expected, "szext {} {}", n, signed);
                }
            }
        }

        #[test]
        fn funnel_shifts(a: u32, b: u32, c in 0u32..80) {
            for (range, n) in [(Range::Clamp, c.min(32)), (Range::Wrap, c & 31)] {
                let part = |x: u32, left: bool, by: u32| match (by, left) {
                    (32.., _) => 0,
                    (_, true) => x << by,
                    (_, false) => x >> by,
                };
                prop_assert_eq!(shf_l(a, b, c, range), part(b, true, n) | part(a, false, 32 - n));
                prop_assert_eq!(shf_r(a, b, c, range), part(b, true, 32 - n) | part(a, false, n));
            }
        }

        #[test]
        fn lop3_reads_its_table(a: u32, b: u32, c: u32, table: u8) {
            let mut expected = 0;
            for i in 0..32 {
                let index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
                expected |= (u32::from(table) >> index & 1) << i;
            }
            prop_assert_eq!(lop3(a, b, c, table), expected);
        }
    }
}
