//! `setp`, `set`, `selp`, `slct`, `testp`.

mod isa;
use isa::*;

/// Whether an operator holds for an outcome: less, equal, greater, unordered. The table of the ISA.
fn holds(operator: &str, outcome: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let Some(order) = outcome else {
        return operator.ends_with('u') && operator != "num" || operator == "nan";
    };
    match operator.trim_end_matches('u') {
        "eq" => order == Equal,
        "ne" => order != Equal,
        "lt" | "lo" => order == Less,
        "le" | "ls" => order != Greater,
        "gt" | "hi" => order == Greater,
        "ge" | "hs" => order != Less,
        "num" => true,
        "nan" => false,
        other => panic!("{other}"),
    }
}

const FLOAT_OPERATORS: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

#[test]
fn float_comparisons() {
    let flush = |x: u64| if x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x };
    for op in FLOAT_OPERATORS {
        let rows = pairs(&FLOATS, &FLOATS);
        check("b32 b32 -> pred", &format!("setp.{op}.f32 %d0, %a0, %a1;"), &rows, |r| {
            holds(op, f32_of(r[0]).partial_cmp(&f32_of(r[1]))).into()
        });
        check("b32 b32 -> pred", &format!("setp.{op}.ftz.f32 %d0, %a0, %a1;"), &rows, |r| {
            holds(op, f32_of(flush(r[0])).partial_cmp(&f32_of(flush(r[1])))).into()
        });
        check("b64 b64 -> pred", &format!("setp.{op}.f64 %d0, %a0, %a1;"), &pairs(&DOUBLES, &DOUBLES), |r| {
            holds(op, f64_of(r[0]).partial_cmp(&f64_of(r[1]))).into()
        });
        let halves = [0, 0x8000, 1, 0x03ff, 0x3c00, 0xbc00, 0x7bff, 0x7c00, 0xfc00, 0x7e00];
        let rows = pairs(&halves, &halves);
        let f16 = |x: u64| half::f16::from_bits(x as u16).to_f32();
        check("b16 b16 -> pred", &format!("setp.{op}.f16 %d0, %a0, %a1;"), &rows, |r| {
            holds(op, f16(r[0]).partial_cmp(&f16(r[1]))).into()
        });
        let bf16 = |x: u64| f32::from_bits((x as u32) << 16);
        check("b16 b16 -> pred", &format!("setp.{op}.bf16 %d0, %a0, %a1;"), &rows, |r| {
            holds(op, bf16(r[0]).partial_cmp(&bf16(r[1]))).into()
        });
        let packed: Vec<Vec<u64>> =
            rows.iter().map(|r| vec![r[0] | r[1] << 16, r[1] | 0x3c00 << 16]).collect();
        let body = format!("setp.{op}.f16x2 %d0|%d1, %a0, %a1;");
        for (row, seen) in packed.iter().zip(run("b32 b32 -> pred pred", &body, &packed)) {
            let expected = [0, 16].map(|shift| {
                let part = |x: u64| f16(x >> shift & 0xffff);
                u64::from(holds(op, part(row[0]).partial_cmp(&part(row[1]))))
            });
            assert_eq!(seen, expected, "{body} {row:x?}");
        }
    }
}

#[test]
fn integer_comparisons() {
    for op in ["eq", "ne", "lt", "le", "gt", "ge"] {
        let rows = pairs(&INTS32, &INTS32);
        check("b32 b32 -> pred", &format!("setp.{op}.s32 %d0, %a0, %a1;"), &rows, |r| {
            holds(op, Some((r[0] as i32).cmp(&(r[1] as i32)))).into()
        });
        check("b32 b32 -> pred", &format!("setp.{op}.u32 %d0, %a0, %a1;"), &rows, |r| {
            holds(op, Some(r[0].cmp(&r[1]))).into()
        });
        let rows = pairs(&INTS64, &INTS64);
        check("b64 b64 -> pred", &format!("setp.{op}.s64 %d0, %a0, %a1;"), &rows, |r| {
            holds(op, Some((r[0] as i64).cmp(&(r[1] as i64)))).into()
        });
        check("b64 b64 -> pred", &format!("setp.{op}.u64 %d0, %a0, %a1;"), &rows, |r| {
            holds(op, Some(r[0].cmp(&r[1]))).into()
        });
        let rows = pairs(&INTS16, &INTS16);
        check("b16 b16 -> pred", &format!("setp.{op}.s16 %d0, %a0, %a1;"), &rows, |r| {
            holds(op, Some((r[0] as i16).cmp(&(r[1] as i16)))).into()
        });
    }
    for op in ["lo", "ls", "hi", "hs"] {
        let rows = pairs(&INTS32, &INTS32);
        check("b32 b32 -> pred", &format!("setp.{op}.u32 %d0, %a0, %a1;"), &rows, |r| {
            holds(op, Some(r[0].cmp(&r[1]))).into()
        });
    }
    check("b16 b16 -> pred", "setp.eq.b16 %d0, %a0, %a1;", &pairs(&INTS16, &INTS16), |r| {
        (r[0] == r[1]).into()
    });
}

#[test]
fn boolean_combination_and_both_results() {
    let rows: Vec<Vec<u64>> = pairs(&INTS32[..4], &INTS32[..4])
        .into_iter()
        .flat_map(|r| [0, 1].map(|c| vec![r[0], r[1], c]))
        .collect();
    for op in ["and", "or", "xor"] {
        for negated in ["", "!"] {
            let body = format!("setp.lt.{op}.s32 %d0|%d1, %a0, %a1, {negated}%a2;");
            for (row, seen) in rows.iter().zip(run("b32 b32 pred -> pred pred", &body, &rows)) {
                let t = row[0] < row[1];
                let c = (row[2] == 1) ^ !negated.is_empty();
                let combine = |t: bool| match op {
                    "and" => t & c,
                    "or" => t | c,
                    _ => t ^ c,
                };
                // The second predicate takes the negated comparison.
                assert_eq!(seen, [u64::from(combine(t)), u64::from(combine(!t))], "{body} {row:?}");
            }
        }
    }
}

#[test]
fn set_writes_masks_or_one() {
    let rows = pairs(&FLOATS, &FLOATS);
    check("b32 b32 -> b32", "set.lt.u32.f32 %d0, %a0, %a1;", &rows, |r| {
        if f32_of(r[0]) < f32_of(r[1]) { 0xffff_ffff } else { 0 }
    });
    check("b32 b32 -> b32", "set.geu.f32.f32 %d0, %a0, %a1;", &rows, |r| {
        if f32_of(r[0]) < f32_of(r[1]) { 0 } else { 0x3f80_0000 }
    });
    check("b32 b32 -> b32", "set.gt.s32.s32 %d0, %a0, %a1;", &pairs(&INTS32, &INTS32), |r| {
        if r[0] as i32 > r[1] as i32 { 0xffff_ffff } else { 0 }
    });
    check("b64 b64 -> b32", "set.eq.u32.u64 %d0, %a0, %a1;", &pairs(&INTS64, &INTS64), |r| {
        if r[0] == r[1] { 0xffff_ffff } else { 0 }
    });
    let rows: Vec<Vec<u64>> = pairs(&INTS32[..3], &INTS32[..3])
        .into_iter()
        .flat_map(|r| [0, 1].map(|c| vec![r[0], r[1], c]))
        .collect();
    check("b32 b32 pred -> b32", "set.eq.or.u32.u32 %d0, %a0, %a1, !%a2;", &rows, |r| {
        if r[0] == r[1] || r[2] == 0 { 0xffff_ffff } else { 0 }
    });
    let halves = pairs(&[0x3c00, 0x4000, 0x7e00], &[0x3c00, 0x4000, 0x7e00]);
    let f16 = |x: u64| half::f16::from_bits(x as u16);
    check("b16 b16 -> b16", "set.le.f16.f16 %d0, %a0, %a1;", &halves, |r| {
        if f16(r[0]) <= f16(r[1]) { 0x3c00 } else { 0 }
    });
    let packed: Vec<Vec<u64>> = halves.iter().map(|r| vec![r[0] | r[1] << 16, r[1] | r[1] << 16]).collect();
    check("b32 b32 -> b32", "set.lt.f16x2.f16x2 %d0, %a0, %a1;", &packed, |r| {
        let part = |shift: u64| f16(r[0] >> shift & 0xffff) < f16(r[1] >> shift & 0xffff);
        (u64::from(part(0)) * 0x3c00) | ((u64::from(part(16)) * 0x3c00) << 16)
    });
}

#[test]
fn selection() {
    let rows: Vec<Vec<u64>> = [0, 1].map(|p| vec![0x1234, 0xfedc_ba98, p]).to_vec();
    check(
        "b32 b32 pred -> b32",
        "selp.b32 %d0, %a0, %a1, %a2;",
        &rows,
        |r| if r[2] == 1 { r[0] } else { r[1] },
    );
    check(
        "b64 b64 pred -> b64",
        "selp.f64 %d0, %a0, %a1, %a2;",
        &rows,
        |r| if r[2] == 1 { r[0] } else { r[1] },
    );
    check("b16 b16 pred -> b16", "selp.b16 %d0, %a0, %a1, %a2;", &rows, |r| {
        (if r[2] == 1 { r[0] } else { r[1] }) & 0xffff
    });
    let rows: Vec<Vec<u64>> = INTS32.iter().map(|&c| vec![5, 6, c]).collect();
    check("b32 b32 b32 -> b32", "slct.u32.s32 %d0, %a0, %a1, %a2;", &rows, |r| {
        if r[2] as i32 >= 0 { 5 } else { 6 }
    });
    let rows: Vec<Vec<u64>> = FLOATS.iter().map(|&c| vec![5, 6, c]).collect();
    check("b64 b64 b32 -> b64", "slct.u64.f32 %d0, %a0, %a1, %a2;", &rows, |r| {
        if f32_of(r[2]) >= 0.0 { 5 } else { 6 }
    });
    check("b32 b32 b32 -> b32", "slct.ftz.u32.f32 %d0, %a0, %a1, %a2;", &rows, |r| {
        // A negative subnormal is flushed to -0, which is not less than 0.
        if f32_of(r[2]) >= 0.0 || f32_of(r[2]).is_subnormal() { 5 } else { 6 }
    });
}

#[test]
fn properties() {
    use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal, Zero};
    for (op, classes) in [
        ("finite", &[Normal, Subnormal, Zero][..]),
        ("infinite", &[Infinite]),
        ("number", &[Normal, Subnormal, Zero, Infinite]),
        ("notanumber", &[Nan]),
        ("normal", &[Normal, Zero]),
        ("subnormal", &[Subnormal]),
    ] {
        check("b32 -> pred", &format!("testp.{op}.f32 %d0, %a0;"), &singles(&FLOATS), |r| {
            classes.contains(&f32_of(r[0]).classify()).into()
        });
        check("b64 -> pred", &format!("testp.{op}.f64 %d0, %a0;"), &singles(&DOUBLES), |r| {
            classes.contains(&f64_of(r[0]).classify()).into()
        });
    }
}
