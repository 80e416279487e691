//! Logic, shift, bit-field and permutation instructions.

mod isa;
use isa::*;

const SHIFTS: [u64; 10] = [0, 1, 7, 15, 16, 31, 32, 33, 63, 64];

#[test]
fn logic() {
    let rows = pairs(&INTS32, &INTS32);
    check("b32 b32 -> b32", "and.b32 %d0, %a0, %a1;", &rows, |r| r[0] & r[1]);
    check("b32 b32 -> b32", "or.b32 %d0, %a0, %a1;", &rows, |r| r[0] | r[1]);
    check("b32 b32 -> b32", "xor.b32 %d0, %a0, %a1;", &rows, |r| r[0] ^ r[1]);
    check("b32 -> b32", "not.b32 %d0, %a0;", &singles(&INTS32), |r| !r[0] & 0xffff_ffff);
    check("b32 -> b32", "cnot.b32 %d0, %a0;", &singles(&INTS32), |r| u64::from(r[0] == 0));
    check("b64 b64 -> b64", "xor.b64 %d0, %a0, %a1;", &pairs(&INTS64, &INTS64), |r| r[0] ^ r[1]);
    check("b16 -> b16", "not.b16 %d0, %a0;", &singles(&INTS16), |r| !r[0] & 0xffff);
    let bits = pairs(&[0, 1], &[0, 1]);
    for (op, truth) in [("and", [0, 0, 0, 1]), ("or", [0, 1, 1, 1]), ("xor", [0, 1, 1, 0])] {
        let body = format!("{op}.pred %d0, %a0, %a1;");
        check("pred pred -> pred", &body, &bits, |r| truth[(2 * r[0] + r[1]) as usize]);
    }
    check("pred -> pred", "not.pred %d0, %a0;", &singles(&[0, 1]), |r| 1 - r[0]);
}

#[test]
fn shifts_clamp_their_amount() {
    let rows = pairs(&INTS32, &[SHIFTS.as_slice(), &[0xffff_ffff]].concat());
    let amount = |x: u64, most: u64| x.min(most) as u32;
    check("b32 b32 -> b32", "shl.b32 %d0, %a0, %a1;", &rows, |r| r[0] << amount(r[1], 32) & 0xffff_ffff);
    check("b32 b32 -> b32", "shr.u32 %d0, %a0, %a1;", &rows, |r| r[0] >> amount(r[1], 32));
    check("b32 b32 -> b32", "shr.b32 %d0, %a0, %a1;", &rows, |r| r[0] >> amount(r[1], 32));
    check("b32 b32 -> b32", "shr.s32 %d0, %a0, %a1;", &rows, |r| {
        (i64::from(r[0] as u32 as i32) >> amount(r[1], 32)) as u32 as u64
    });
    let rows = pairs(&INTS64, &[SHIFTS.as_slice(), &[65, 0xffff_ffff]].concat());
    check("b64 b32 -> b64", "shl.b64 %d0, %a0, %a1;", &rows, |r| r[0].checked_shl(r[1] as u32).unwrap_or(0));
    check("b64 b32 -> b64", "shr.u64 %d0, %a0, %a1;", &rows, |r| r[0].checked_shr(r[1] as u32).unwrap_or(0));
    check("b64 b32 -> b64", "shr.s64 %d0, %a0, %a1;", &rows, |r| (r[0] as i64 >> amount(r[1], 63)) as u64);
    let rows = pairs(&INTS16, &SHIFTS);
    check("b16 b32 -> b16", "shl.b16 %d0, %a0, %a1;", &rows, |r| r[0] << amount(r[1], 16) & 0xffff);
    check("b16 b32 -> b16", "shr.u16 %d0, %a0, %a1;", &rows, |r| r[0] >> amount(r[1], 16));
    check("b16 b32 -> b16", "shr.s16 %d0, %a0, %a1;", &rows, |r| {
        (r[0] as i16 >> amount(r[1], 15)) as u16 as u64
    });
}

#[test]
fn funnel_shifts() {
    let rows = triples(&INTS32[5..], &INTS32[5..], &SHIFTS);
    for (mode, wrap) in [("clamp", false), ("wrap", true)] {
        let amount = |c: u64| if wrap { c & 31 } else { c.min(32) };
        let both = |r: &[u64]| r[1] << 32 | r[0];
        check("b32 b32 b32 -> b32", &format!("shf.l.{mode}.b32 %d0, %a0, %a1, %a2;"), &rows, |r| {
            both(r) << amount(r[2]) >> 32
        });
        check("b32 b32 b32 -> b32", &format!("shf.r.{mode}.b32 %d0, %a0, %a1, %a2;"), &rows, |r| {
            both(r) >> amount(r[2]) & 0xffff_ffff
        });
    }
}

#[test]
fn counting_and_finding() {
    let rows = singles(&INTS32);
    check("b32 -> b32", "popc.b32 %d0, %a0;", &rows, |r| r[0].count_ones().into());
    check("b32 -> b32", "clz.b32 %d0, %a0;", &rows, |r| (r[0] as u32).leading_zeros().into());
    check("b32 -> b32", "brev.b32 %d0, %a0;", &rows, |r| (r[0] as u32).reverse_bits().into());
    let none = 0xffff_ffff;
    let find = |x: u64| if x == 0 { none } else { 63 - u64::from(x.leading_zeros()) };
    check("b32 -> b32", "bfind.u32 %d0, %a0;", &rows, |r| find(r[0]));
    check("b32 -> b32", "bfind.shiftamt.u32 %d0, %a0;", &rows, |r| {
        if r[0] == 0 { none } else { 31 - find(r[0]) }
    });
    let unsign = |x: u64| if x & 1 << 31 != 0 { !x & none } else { x };
    check("b32 -> b32", "bfind.s32 %d0, %a0;", &rows, |r| find(unsign(r[0])));
    let rows = singles(&INTS64);
    check("b64 -> b32", "popc.b64 %d0, %a0;", &rows, |r| r[0].count_ones().into());
    check("b64 -> b32", "clz.b64 %d0, %a0;", &rows, |r| r[0].leading_zeros().into());
    check("b64 -> b64", "brev.b64 %d0, %a0;", &rows, |r| r[0].reverse_bits());
    check("b64 -> b32", "bfind.u64 %d0, %a0;", &rows, |r| find(r[0]));
    check("b64 -> b32", "bfind.shiftamt.s64 %d0, %a0;", &rows, |r| {
        let x = if r[0] >> 63 == 1 { !r[0] } else { r[0] };
        if x == 0 { none } else { 63 - find(x) }
    });
}

#[test]
fn bit_fields() {
    let bounds = [0, 1, 8, 31, 32, 33, 63, 64, 255];
    let bit = |x: u64, i: u64| x >> i & 1;
    for (width, msb, values) in [("32", 31, &INTS32[8..]), ("64", 63, &INTS64[5..])] {
        let rows = triples(values, &bounds, &bounds);
        for signed in [false, true] {
            let body = format!("bfe.{}{width} %d0, %a0, %a1, %a2;", if signed { "s" } else { "u" });
            check(&format!("b{width} b32 b32 -> b{width}"), &body, &rows, |r| {
                let (a, pos, len) = (r[0], r[1], r[2]);
                let sign = if signed && len != 0 { bit(a, (pos + len - 1).min(msb)) } else { 0 };
                (0..=msb).map(|i| if i < len && pos + i <= msb { bit(a, pos + i) } else { sign } << i).sum()
            });
        }
        let rows: Vec<Vec<u64>> = triples(values, &bounds, &bounds)
            .into_iter()
            .map(|r| vec![r[0], !r[0].rotate_left(9), r[1], r[2]])
            .collect();
        let mask = if msb == 31 { 0xffff_ffff } else { u64::MAX };
        check(
            &format!("b{width} b{width} b32 b32 -> b{width}"),
            &format!("bfi.b{width} %d0, %a0, %a1, %a2, %a3;"),
            &rows,
            |r| {
                let (a, b, pos, len) = (r[0], r[1] & mask, r[2], r[3]);
                (0..=msb)
                    .map(|i| if i >= pos && i < pos + len { bit(a, i - pos) } else { bit(b, i) } << i)
                    .sum()
            },
        );
    }
}

#[test]
fn permutes() {
    let (a, b) = (0x8382_8180u64, 0x0706_0504);
    let byte = |i: u64| (b << 32 | a) >> (8 * (i & 7)) & 0xff;
    let rows: Vec<Vec<u64>> =
        [0, 1, 2, 3, 0x3210, 0x7654, 0x0123, 0xba98, 0x5140, 0xfedc].map(|c| vec![a, b, c]).to_vec();
    check("b32 b32 b32 -> b32", "prmt.b32 %d0, %a0, %a1, %a2;", &rows, |r| {
        (0..4)
            .map(|i| {
                let selector = r[2] >> (4 * i) & 0xf;
                let value = byte(selector);
                let sign = if value & 0x80 != 0 { 0xff } else { 0 };
                (if selector & 8 != 0 { sign } else { value }) << (8 * i)
            })
            .sum()
    });
    // The table of the ISA, d.b3 first.
    let table: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    let rows: Vec<Vec<u64>> = (0..4).map(|c| vec![a, b, c]).collect();
    for (mode, selected) in table {
        check("b32 b32 b32 -> b32", &format!("prmt.b32.{mode} %d0, %a0, %a1, %a2;"), &rows, |r| {
            selected[r[2] as usize].iter().fold(0, |word, &i| word << 8 | byte(i))
        });
    }
}

#[test]
fn lop3_of_every_kind() {
    let rows = triples(&INTS32[8..], &INTS32[8..], &INTS32[8..]);
    type Function = fn(u64, u64, u64) -> u64;
    let functions: [Function; 6] = [
        |a, b, c| a & b & c,
        |a, b, c| a | b | c,
        |a, b, c| a & b & !c,
        |a, b, c| (a & b | c) ^ a,
        |a, b, c| a ^ b ^ c,
        |a, b, c| a & b | !a & c,
    ];
    for function in functions {
        let table = function(0xf0, 0xcc, 0xaa) & 0xff;
        check("b32 b32 b32 -> b32", &format!("lop3.b32 %d0, %a0, %a1, %a2, {table};"), &rows, |r| {
            function(r[0], r[1], r[2]) & 0xffff_ffff
        });
    }
    let rows: Vec<Vec<u64>> =
        rows.into_iter().flat_map(|r| [0, 1].map(|q| [r.clone(), vec![q]].concat())).collect();
    for (op, or) in [("or", true), ("and", false)] {
        let body = format!("lop3.{op}.b32 %d0|%d1, %a0, %a1, %a2, 0x80, %a3;");
        for (row, seen) in rows.iter().zip(run("b32 b32 b32 pred -> b32 pred", &body, &rows)) {
            let d = row[0] & row[1] & row[2];
            let p = u64::from(d != 0);
            assert_eq!(seen, [d, if or { p | row[3] } else { p & row[3] }], "{body} {row:x?}");
        }
    }
}

#[test]
fn find_nth_set_extend_and_mask() {
    let offsets = [0, 1, 2, 5, 40, 0xffff_ffff, 0xffff_fffe];
    let rows = triples(&[0, 0xaaaa_aaaa, 0x8000_0001, 0xffff_ffff], &[0, 3, 16, 31], &offsets);
    check("b32 b32 b32 -> b32", "fns.b32 %d0, %a0, %a1, %a2;", &rows, |r| {
        let (mask, base, offset) = (r[0], r[1] as i64, r[2] as u32 as i32);
        let set = |i: &i64| mask >> i & 1 == 1;
        let found = match offset {
            0 => Some(base).filter(set),
            1.. => (base..32).filter(set).nth(offset as usize - 1),
            _ => (0..=base).rev().filter(set).nth(offset.unsigned_abs() as usize - 1),
        };
        found.map_or(0xffff_ffff, |i| i as u64)
    });
    let rows = pairs(&INTS32, &[0, 1, 8, 31, 32, 40]);
    for (mode, wrap) in [("clamp", false), ("wrap", true)] {
        for signed in [false, true] {
            let body = format!("szext.{mode}.{} %d0, %a0, %a1;", if signed { "s32" } else { "u32" });
            check("b32 b32 -> b32", &body, &rows, |r| {
                let n = if wrap { r[1] & 31 } else { r[1].min(32) };
                let value = r[0] & ((1 << n) - 1);
                let negative = signed && n != 0 && value >> (n - 1) & 1 == 1;
                if negative { (value | u64::MAX << n) & 0xffff_ffff } else { value }
            });
        }
    }
    let rows = pairs(&[0, 1, 8, 31, 32, 33], &[0, 1, 2, 31, 32, 40]);
    check("b32 b32 -> b32", "bmsk.wrap.b32 %d0, %a0, %a1;", &rows, |r| {
        ((1u64 << (r[1] & 31)) - 1) << (r[0] & 31) & 0xffff_ffff
    });
    check("b32 b32 -> b32", "bmsk.clamp.b32 %d0, %a0, %a1;", &rows, |r| {
        if r[0] >= 32 { 0 } else { ((1u64 << r[1].min(32)) - 1) << r[0] & 0xffff_ffff }
    });
}
