//! Dot products of bytes, packed 16-bit integers, and the video instructions.

mod isa;
use isa::*;

fn byte(x: u64, i: u32, signed: bool) -> i64 {
    let b = (x >> (8 * i)) as u8;
    if signed { (b as i8).into() } else { b.into() }
}

fn half(x: u64, i: u32, signed: bool) -> i64 {
    let h = (x >> (16 * i)) as u16;
    if signed { (h as i16).into() } else { h.into() }
}

fn low32(x: i64) -> u64 {
    u64::from(x as u32)
}

const WORDS: [u64; 7] = [0, 0x0102_0304, 0x7f80_ff01, 0x8080_8080, 0xffff_ffff, 0x7fff_8000, 0xdead_beef];

const SIGNS: [(&str, bool); 2] = [("u32", false), ("s32", true)];

#[test]
fn dot_products() {
    let rows = triples(&WORDS, &WORDS, &[0, 100, 0xffff_fff0]);
    for (a, a_signed) in SIGNS {
        for (b, b_signed) in SIGNS {
            check("b32 b32 b32 -> b32", &format!("dp4a.{a}.{b} %d0, %a0, %a1, %a2;"), &rows, |r| {
                low32(
                    (0..4).map(|i| byte(r[0], i, a_signed) * byte(r[1], i, b_signed)).sum::<i64>()
                        + r[2] as i64,
                )
            });
            for (mode, first) in [("lo", 0), ("hi", 2)] {
                check(
                    "b32 b32 b32 -> b32",
                    &format!("dp2a.{mode}.{a}.{b} %d0, %a0, %a1, %a2;"),
                    &rows,
                    |r| {
                        let products =
                            (0..2).map(|i| half(r[0], i, a_signed) * byte(r[1], first + i, b_signed));
                        low32(products.sum::<i64>() + r[2] as i64)
                    },
                );
            }
        }
    }
}

#[test]
fn packed_sixteen_bit_integers() {
    let rows = pairs(&WORDS, &WORDS);
    let lanes = |r: &[u64], signed: bool, f: fn(i64, i64) -> i64| {
        let lane = |i: u32| f(half(r[0], i, signed), half(r[1], i, signed)) as u64 & 0xffff;
        lane(0) | lane(1) << 16
    };
    check("b32 b32 -> b32", "add.u16x2 %d0, %a0, %a1;", &rows, |r| lanes(r, false, |a, b| a + b));
    check("b32 b32 -> b32", "add.s16x2 %d0, %a0, %a1;", &rows, |r| lanes(r, true, |a, b| a + b));
    check("b32 b32 -> b32", "min.u16x2 %d0, %a0, %a1;", &rows, |r| lanes(r, false, i64::min));
    check("b32 b32 -> b32", "max.u16x2 %d0, %a0, %a1;", &rows, |r| lanes(r, false, i64::max));
    check("b32 b32 -> b32", "min.s16x2 %d0, %a0, %a1;", &rows, |r| lanes(r, true, i64::min));
    check("b32 b32 -> b32", "max.s16x2 %d0, %a0, %a1;", &rows, |r| lanes(r, true, i64::max));
    check("b32 b32 -> b32", "max.relu.s16x2 %d0, %a0, %a1;", &rows, |r| {
        lanes(r, true, |a, b| a.max(b).max(0))
    });
    check("b32 b32 -> b32", "min.relu.s16x2 %d0, %a0, %a1;", &rows, |r| {
        lanes(r, true, |a, b| a.min(b).max(0))
    });
}

type Function = fn(i64, i64) -> i64;

/// The functions of the video families.
const OPERATIONS: [(&str, Function); 5] = [
    ("vadd", |a, b| a + b),
    ("vsub", |a, b| a - b),
    ("vabsdiff", |a, b| (a - b).abs()),
    ("vmin", i64::min),
    ("vmax", i64::max),
];

#[test]
fn simd_video() {
    let rows = triples(&WORDS, &WORDS, &[0x1122_3344]);
    let average: (&str, Function) =
        ("vavrg", |a, b| if a + b >= 0 { (a + b + 1) >> 1 } else { (a + b) >> 1 });
    for lanes in [2u32, 4] {
        let bits = 32 / lanes;
        let lane =
            |x: u64, i: u32, signed: bool| if lanes == 2 { half(x, i, signed) } else { byte(x, i, signed) };
        let mask = (1u64 << bits) - 1;
        for (op, f) in OPERATIONS.into_iter().chain([average]) {
            for (ty, signed) in SIGNS {
                let name = format!("{op}{lanes}.{ty}.{ty}.{ty}");
                let value = |r: &[u64], i: u32| f(lane(r[0], i, signed), lane(r[1], i, signed));
                check("b32 b32 b32 -> b32", &format!("{name} %d0, %a0, %a1, %a2;"), &rows, |r| {
                    (0..lanes).map(|i| (value(r, i) as u64 & mask) << (bits * i)).sum()
                });
                let (low, high) = if signed {
                    (-(1i64 << (bits - 1)), (1 << (bits - 1)) - 1)
                } else {
                    (0, (1 << bits) - 1)
                };
                check("b32 b32 b32 -> b32", &format!("{name}.sat %d0, %a0, %a1, %a2;"), &rows, |r| {
                    (0..lanes).map(|i| (value(r, i).clamp(low, high) as u64 & mask) << (bits * i)).sum()
                });
                check("b32 b32 b32 -> b32", &format!("{name}.add %d0, %a0, %a1, %a2;"), &rows, |r| {
                    low32((0..lanes).map(|i| value(r, i)).sum::<i64>() + r[2] as i64)
                });
            }
        }
        for (ty, signed) in SIGNS {
            let body = format!("vset{lanes}.{ty}.{ty}.lt %d0, %a0, %a1, %a2;");
            check("b32 b32 b32 -> b32", &body, &rows, |r| {
                (0..lanes)
                    .map(|i| u64::from(lane(r[0], i, signed) < lane(r[1], i, signed)) << (bits * i))
                    .sum()
            });
        }
    }
    // Selectors and masks: lanes are counted over b:a, what is not masked comes from c.
    let r = [vec![0x0302_0100, 0x0706_0504, 0xaabb_ccdd]];
    check("b32 b32 b32 -> b32", "vadd4.u32.u32.u32 %d0.b20, %a0.b7654, %a1.b0000, %a2;", &r, |_| 0xaa06_cc04);
    check("b32 b32 b32 -> b32", "vsub2.s32.s32.s32 %d0.h1, %a0.h32, %a1.h10, %a2;", &r, |_| 0x0404_ccdd);
}

#[test]
fn scalar_video() {
    let rows = triples(&WORDS, &WORDS, &[5, 0x8000_0000]);
    for (op, f) in OPERATIONS {
        check(
            "b32 b32 b32 -> b32",
            &format!("{op}.s32.s32.u32.sat %d0, %a0.b1, %a1.h1, %a2;").replace(", %a2", ""),
            &rows,
            |r| low32(f(byte(r[0], 1, true), half(r[1], 1, false))),
        );
        check("b32 b32 b32 -> b32", &format!("{op}.u32.u32.u32.sat %d0, %a0, %a1;"), &rows, |r| {
            f(r[0] as i64, r[1] as i64).clamp(0, 0xffff_ffff) as u64
        });
        check("b32 b32 b32 -> b32", &format!("{op}.u32.u32.u32.add %d0, %a0.h0, %a1.h0, %a2;"), &rows, |r| {
            low32(f(half(r[0], 0, false), half(r[1], 0, false)) + r[2] as i64)
        });
        check(
            "b32 b32 b32 -> b32",
            &format!("{op}.s32.s32.s32.sat %d0.b2, %a0.b0, %a1.b3, %a2;"),
            &rows,
            |r| {
                let value = f(byte(r[0], 0, true), byte(r[1], 3, true)).clamp(-128, 127) as u64 & 0xff;
                r[2] & 0xff00_ffff | value << 16
            },
        );
    }
    check("b32 b32 b32 -> b32", "vset.s32.u32.lt %d0, %a0, %a1;", &rows, |r| {
        u64::from(i64::from(r[0] as i32) < r[1] as i64)
    });
    check("b32 b32 b32 -> b32", "vshl.u32.u32.u32.clamp %d0, %a0, %a2;", &rows, |r| {
        r[0] << r[2].min(32) & 0xffff_ffff
    });
    check("b32 b32 b32 -> b32", "vshr.s32.s32.u32.wrap %d0, %a0, %a2;", &rows, |r| {
        low32(i64::from(r[0] as i32) >> (r[2] & 31))
    });
    check("b32 b32 b32 -> b32", "vmad.s32.s32.s32 %d0, %a0.h0, %a1.h0, %a2;", &rows, |r| {
        low32(half(r[0], 0, true) * half(r[1], 0, true) + i64::from(r[2] as i32))
    });
    check("b32 b32 b32 -> b32", "vmad.u32.u32.u32.po.shr7 %d0, %a0.b0, %a1.b0, %a2;", &rows, |r| {
        (byte(r[0], 0, false) * byte(r[1], 0, false) + r[2] as i64 + 1) as u64 >> 7
    });
    check("b32 b32 b32 -> b32", "vmad.s32.s32.s32.sat %d0, %a0.h0, %a1.h0, -%a2;", &rows, |r| {
        low32(
            (half(r[0], 0, true) * half(r[1], 0, true) - i64::from(r[2] as i32))
                .clamp(i32::MIN.into(), i32::MAX.into()),
        )
    });
}
