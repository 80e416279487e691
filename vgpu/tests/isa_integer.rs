//! Integer arithmetic instructions: PTX ISA, "Integer Arithmetic Instructions" and "Extended-Precision".

mod isa;
use isa::*;

fn s32(x: u64) -> i64 {
    i64::from(x as u32 as i32)
}

fn low32(x: i64) -> u64 {
    u64::from(x as u32)
}

#[test]
fn add_sub_mul_lo_wrap() {
    for (width, mask, values) in
        [("16", 0xffff, &INTS16[..]), ("32", 0xffff_ffff, &INTS32), ("64", u64::MAX, &INTS64)]
    {
        let rows = pairs(values, values);
        for sign in ["s", "u"] {
            let signature = format!("b{width} b{width} -> b{width}");
            let body = |op: &str| format!("{op}.{sign}{width} %d0, %a0, %a1;");
            check(&signature, &body("add"), &rows, |r| r[0].wrapping_add(r[1]) & mask);
            check(&signature, &body("sub"), &rows, |r| r[0].wrapping_sub(r[1]) & mask);
            check(&signature, &body("mul.lo"), &rows, |r| r[0].wrapping_mul(r[1]) & mask);
        }
    }
}

#[test]
fn saturating_s32() {
    let rows = pairs(&INTS32, &INTS32);
    let clamp = |x: i64| low32(x.clamp(i32::MIN.into(), i32::MAX.into()));
    check("b32 b32 -> b32", "add.sat.s32 %d0, %a0, %a1;", &rows, |r| clamp(s32(r[0]) + s32(r[1])));
    check("b32 b32 -> b32", "sub.sat.s32 %d0, %a0, %a1;", &rows, |r| clamp(s32(r[0]) - s32(r[1])));
    let rows = triples(&INTS32, &INTS32, &INTS32[..4]);
    check("b32 b32 b32 -> b32", "mad.hi.sat.s32 %d0, %a0, %a1, %a2;", &rows, |r| {
        clamp(((s32(r[0]) * s32(r[1])) >> 32) + s32(r[2]))
    });
}

#[test]
fn high_and_wide_products() {
    let rows = pairs(&INTS32, &INTS32);
    check("b32 b32 -> b32", "mul.hi.u32 %d0, %a0, %a1;", &rows, |r| (r[0] * r[1]) >> 32);
    check("b32 b32 -> b32", "mul.hi.s32 %d0, %a0, %a1;", &rows, |r| low32((s32(r[0]) * s32(r[1])) >> 32));
    check("b32 b32 -> b64", "mul.wide.u32 %d0, %a0, %a1;", &rows, |r| r[0] * r[1]);
    check("b32 b32 -> b64", "mul.wide.s32 %d0, %a0, %a1;", &rows, |r| (s32(r[0]) * s32(r[1])) as u64);
    let rows = pairs(&INTS64, &INTS64);
    check("b64 b64 -> b64", "mul.hi.u64 %d0, %a0, %a1;", &rows, |r| {
        ((u128::from(r[0]) * u128::from(r[1])) >> 64) as u64
    });
    check("b64 b64 -> b64", "mul.hi.s64 %d0, %a0, %a1;", &rows, |r| {
        ((i128::from(r[0] as i64) * i128::from(r[1] as i64)) >> 64) as u64
    });
    let rows = pairs(&INTS16, &INTS16);
    check("b16 b16 -> b32", "mul.wide.u16 %d0, %a0, %a1;", &rows, |r| r[0] * r[1]);
    let s16 = |x: u64| i64::from(x as u16 as i16);
    check("b16 b16 -> b32", "mul.wide.s16 %d0, %a0, %a1;", &rows, |r| low32(s16(r[0]) * s16(r[1])));
    check("b16 b16 -> b16", "mul.hi.s16 %d0, %a0, %a1;", &rows, |r| {
        ((s16(r[0]) * s16(r[1])) >> 16) as u64 & 0xffff
    });
    check("b16 b16 -> b16", "mul.hi.u16 %d0, %a0, %a1;", &rows, |r| (r[0] * r[1]) >> 16);
}

#[test]
fn multiply_add() {
    let rows = triples(&INTS32[4..], &INTS32[4..], &[0, 1, 0xffff_ffff]);
    check("b32 b32 b32 -> b32", "mad.lo.s32 %d0, %a0, %a1, %a2;", &rows, |r| {
        (r[0] * r[1] + r[2]) & 0xffff_ffff
    });
    check("b32 b32 b32 -> b32", "mad.hi.u32 %d0, %a0, %a1, %a2;", &rows, |r| {
        (((r[0] * r[1]) >> 32) + r[2]) & 0xffff_ffff
    });
    let rows = triples(&INTS32[4..], &INTS32[4..], &INTS64[8..]);
    check("b32 b32 b64 -> b64", "mad.wide.u32 %d0, %a0, %a1, %a2;", &rows, |r| {
        (r[0] * r[1]).wrapping_add(r[2])
    });
    check("b32 b32 b64 -> b64", "mad.wide.s32 %d0, %a0, %a1, %a2;", &rows, |r| {
        ((s32(r[0]) * s32(r[1])) as u64).wrapping_add(r[2])
    });
    let rows = triples(&INTS64, &INTS64[5..], &[0, u64::MAX]);
    check("b64 b64 b64 -> b64", "mad.lo.u64 %d0, %a0, %a1, %a2;", &rows, |r| {
        r[0].wrapping_mul(r[1]).wrapping_add(r[2])
    });
    let rows = triples(&INTS16, &INTS16, &INTS16);
    check("b16 b16 b16 -> b16", "mad.lo.u16 %d0, %a0, %a1, %a2;", &rows, |r| (r[0] * r[1] + r[2]) & 0xffff);
    check("b16 b16 b32 -> b32", "mad.wide.u16 %d0, %a0, %a1, %a2;", &rows, |r| r[0] * r[1] + r[2]);
}

#[test]
fn multiply_24_bits() {
    let rows = pairs(&INTS32, &INTS32);
    let low24 = |x: u64| x & 0x00ff_ffff;
    let sign24 = |x: u64| ((x << 40) as i64) >> 40;
    check("b32 b32 -> b32", "mul24.lo.u32 %d0, %a0, %a1;", &rows, |r| {
        (low24(r[0]) * low24(r[1])) & 0xffff_ffff
    });
    check("b32 b32 -> b32", "mul24.hi.u32 %d0, %a0, %a1;", &rows, |r| {
        (low24(r[0]) * low24(r[1])) >> 16 & 0xffff_ffff
    });
    check("b32 b32 -> b32", "mul24.lo.s32 %d0, %a0, %a1;", &rows, |r| low32(sign24(r[0]) * sign24(r[1])));
    check("b32 b32 -> b32", "mul24.hi.s32 %d0, %a0, %a1;", &rows, |r| {
        low32((sign24(r[0]) * sign24(r[1])) >> 16)
    });
    let rows = triples(&INTS32[6..], &INTS32[6..], &[5]);
    check("b32 b32 b32 -> b32", "mad24.lo.s32 %d0, %a0, %a1, %a2;", &rows, |r| {
        low32(sign24(r[0]) * sign24(r[1]) + 5)
    });
}

#[test]
fn division_truncates() {
    let rows: Vec<_> = pairs(&INTS32, &INTS32).into_iter().filter(|r| r[1] != 0).collect();
    check("b32 b32 -> b32", "div.u32 %d0, %a0, %a1;", &rows, |r| r[0] / r[1]);
    check("b32 b32 -> b32", "rem.u32 %d0, %a0, %a1;", &rows, |r| r[0] % r[1]);
    check("b32 b32 -> b32", "div.s32 %d0, %a0, %a1;", &rows, |r| low32(s32(r[0]) / s32(r[1])));
    check("b32 b32 -> b32", "rem.s32 %d0, %a0, %a1;", &rows, |r| low32(s32(r[0]) % s32(r[1])));
    let rows: Vec<_> = pairs(&INTS64, &INTS64).into_iter().filter(|r| r[1] != 0).collect();
    check("b64 b64 -> b64", "div.u64 %d0, %a0, %a1;", &rows, |r| r[0] / r[1]);
    check("b64 b64 -> b64", "rem.s64 %d0, %a0, %a1;", &rows, |r| {
        (r[0] as i64).wrapping_rem(r[1] as i64) as u64
    });
    check("b64 b64 -> b64", "div.s64 %d0, %a0, %a1;", &rows, |r| {
        (r[0] as i64).wrapping_div(r[1] as i64) as u64
    });
    let rows: Vec<_> = pairs(&INTS16, &INTS16).into_iter().filter(|r| r[1] != 0).collect();
    check("b16 b16 -> b16", "div.u16 %d0, %a0, %a1;", &rows, |r| r[0] / r[1]);
    check("b16 b16 -> b16", "rem.s16 %d0, %a0, %a1;", &rows, |r| {
        (r[0] as i16).wrapping_rem(r[1] as i16) as u16 as u64
    });
}

#[test]
fn min_max_abs_neg_sad() {
    let rows = pairs(&INTS32, &INTS32);
    check("b32 b32 -> b32", "min.u32 %d0, %a0, %a1;", &rows, |r| r[0].min(r[1]));
    check("b32 b32 -> b32", "max.u32 %d0, %a0, %a1;", &rows, |r| r[0].max(r[1]));
    check("b32 b32 -> b32", "min.s32 %d0, %a0, %a1;", &rows, |r| low32(s32(r[0]).min(s32(r[1]))));
    check("b32 b32 -> b32", "max.s32 %d0, %a0, %a1;", &rows, |r| low32(s32(r[0]).max(s32(r[1]))));
    check("b32 b32 -> b32", "max.relu.s32 %d0, %a0, %a1;", &rows, |r| low32(s32(r[0]).max(s32(r[1])).max(0)));
    check("b32 b32 -> b32", "min.relu.s32 %d0, %a0, %a1;", &rows, |r| low32(s32(r[0]).min(s32(r[1])).max(0)));
    let rows = pairs(&INTS64, &INTS64);
    check("b64 b64 -> b64", "min.s64 %d0, %a0, %a1;", &rows, |r| (r[0] as i64).min(r[1] as i64) as u64);
    check("b64 b64 -> b64", "max.u64 %d0, %a0, %a1;", &rows, |r| r[0].max(r[1]));
    let rows = pairs(&INTS16, &INTS16);
    check("b16 b16 -> b16", "min.s16 %d0, %a0, %a1;", &rows, |r| {
        (r[0] as i16).min(r[1] as i16) as u16 as u64
    });
    check("b16 b16 -> b16", "max.u16 %d0, %a0, %a1;", &rows, |r| r[0].max(r[1]));
    let rows = singles(&INTS32);
    check("b32 -> b32", "abs.s32 %d0, %a0;", &rows, |r| low32(s32(r[0]).abs()));
    check("b32 -> b32", "neg.s32 %d0, %a0;", &rows, |r| low32(-s32(r[0])));
    check("b64 -> b64", "abs.s64 %d0, %a0;", &singles(&INTS64), |r| (r[0] as i64).wrapping_abs() as u64);
    check("b64 -> b64", "neg.s64 %d0, %a0;", &singles(&INTS64), |r| r[0].wrapping_neg());
    check("b16 -> b16", "neg.s16 %d0, %a0;", &singles(&INTS16), |r| r[0].wrapping_neg() & 0xffff);
    check("b16 -> b16", "abs.s16 %d0, %a0;", &singles(&INTS16), |r| {
        (r[0] as i16).wrapping_abs() as u16 as u64
    });
    let rows = triples(&INTS32, &INTS32, &[0, 0xffff_fff0]);
    check("b32 b32 b32 -> b32", "sad.u32 %d0, %a0, %a1, %a2;", &rows, |r| {
        (r[0].abs_diff(r[1]) + r[2]) & 0xffff_ffff
    });
    check("b32 b32 b32 -> b32", "sad.s32 %d0, %a0, %a1, %a2;", &rows, |r| {
        low32((s32(r[0]) - s32(r[1])).abs() + r[2] as i64)
    });
    let rows = triples(&INTS64, &INTS64, &[1]);
    check("b64 b64 b64 -> b64", "sad.u64 %d0, %a0, %a1, %a2;", &rows, |r| {
        r[0].abs_diff(r[1]).wrapping_add(1)
    });
}

/// `add.cc` / `addc.cc` / `addc` over four words is 128-bit addition, and so on.
#[test]
fn carry_chains() {
    let rows: Vec<Vec<u64>> = pairs(&INTS64, &INTS64)
        .into_iter()
        .enumerate()
        .map(|(i, r)| vec![r[0], r[1].rotate_left(i as u32), r[1], r[0].rotate_left(7 * i as u32)])
        .collect();
    let wide = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
    let chains = [
        (
            "add.cc.u32 {d0}, {a0}, {b0}; addc.cc.u32 {d1}, {a1}, {b1}; addc.cc.u32 {d2}, {a2}, {b2}; addc.u32 {d3}, {a3}, {b3};",
            true,
        ),
        (
            "sub.cc.u32 {d0}, {a0}, {b0}; subc.cc.u32 {d1}, {a1}, {b1}; subc.cc.u32 {d2}, {a2}, {b2}; subc.u32 {d3}, {a3}, {b3};",
            false,
        ),
    ];
    for (chain, adds) in chains {
        let chain = chain.replace("{a", "%x").replace("{b", "%y").replace("{d", "%z").replace('}', "");
        let body = format!(
            ".reg .b32 %x<4>, %y<4>, %z<4>;\n mov.b64 {{%x0, %x1}}, %a0; mov.b64 {{%x2, %x3}}, %a1;\n\
             mov.b64 {{%y0, %y1}}, %a2; mov.b64 {{%y2, %y3}}, %a3;\n {chain}\n\
             mov.b64 %d0, {{%z0, %z1}}; mov.b64 %d1, {{%z2, %z3}};"
        );
        for (row, seen) in rows.iter().zip(run("b64 b64 b64 b64 -> b64 b64", &body, &rows)) {
            let (a, b) = (wide(row[0], row[1]), wide(row[2], row[3]));
            let expected = if adds { a.wrapping_add(b) } else { a.wrapping_sub(b) };
            assert_eq!(wide(seen[0], seen[1]), expected, "{body}\n{row:x?}");
        }
    }
    // 64 x 64 -> 128 bits by mad.cc / madc, as compilers and libraries write it.
    let body = ".reg .b32 %x<2>, %y<2>, %z<4>;\n mov.b64 {%x0, %x1}, %a0; mov.b64 {%y0, %y1}, %a1;\n\
        mul.lo.u32 %z0, %x0, %y0; mul.hi.u32 %z1, %x0, %y0;\n\
        mad.lo.cc.u32 %z1, %x0, %y1, %z1; madc.hi.u32 %z2, %x0, %y1, 0;\n\
        mad.lo.cc.u32 %z1, %x1, %y0, %z1; madc.hi.cc.u32 %z2, %x1, %y0, %z2; addc.u32 %z3, 0, 0;\n\
        mad.lo.cc.u32 %z2, %x1, %y1, %z2; madc.hi.u32 %z3, %x1, %y1, %z3;\n\
        mov.b64 %d0, {%z0, %z1}; mov.b64 %d1, {%z2, %z3};";
    let rows = pairs(&INTS64, &INTS64);
    for (row, seen) in rows.iter().zip(run("b64 b64 -> b64 b64", body, &rows)) {
        assert_eq!(wide(seen[0], seen[1]), u128::from(row[0]) * u128::from(row[1]), "{row:x?}");
    }
    check("b64 b64 -> b64", "add.cc.u64 %d0, %a0, %a1; addc.u64 %d0, 0, 0;", &rows, |r| {
        u64::from(r[0].checked_add(r[1]).is_none())
    });
    check("b64 b64 -> b64", "sub.cc.u64 %d0, %a0, %a1; subc.u64 %d0, 0, 0;", &rows, |r| {
        if r[0] < r[1] { u64::MAX } else { 0 }
    });
}
