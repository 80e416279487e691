//! `cvt` in all its forms.

mod isa;
use half::{bf16, f16};
use isa::host::{self, DIRECTIONS};
use isa::*;

/// Integer types with their width and signedness.
const INTS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

/// Registers are at least 16 bits wide.
fn register(bits: u32) -> &'static str {
    ["b16", "b32", "b64"][match bits {
        ..=16 => 0,
        32 => 1,
        _ => 2,
    }]
}

/// The value of an integer type in the low bits.
fn value(bits: u64, width: u32, signed: bool) -> i128 {
    let unused = 64 - width;
    if signed { ((bits << unused) as i64 >> unused).into() } else { (bits << unused >> unused).into() }
}

/// What a destination register of `width` (at least 16) bits holds for a value of an integer type.
fn stored(x: i128, width: u32) -> u64 {
    x as u64 & if width == 64 { u64::MAX } else { (1 << width.max(16)) - 1 }
}

fn limits(width: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { (0, (1 << width) - 1) }
}

#[test]
fn integers_to_integers() {
    for (from, from_width, from_signed) in INTS {
        for (to, to_width, to_signed) in INTS {
            let signature = format!("{} -> {}", register(from_width), register(to_width));
            let rows = singles(&INTS64);
            check(&signature, &format!("cvt.{to}.{from} %d0, %a0;"), &rows, |r| {
                let x = value(r[0], from_width, from_signed);
                stored(value(x as u64, to_width, to_signed), to_width)
            });
            // `.sat` is only legal where it can make a difference.
            let (lowest, highest) = limits(from_width, from_signed);
            let (low, high) = limits(to_width, to_signed);
            if lowest >= low && highest <= high {
                continue;
            }
            check(&signature, &format!("cvt.sat.{to}.{from} %d0, %a0;"), &rows, |r| {
                stored(value(r[0], from_width, from_signed).clamp(low, high), to_width)
            });
        }
    }
}

fn round(x: f64, mode: &str) -> f64 {
    match mode {
        "rni" => x.round_ties_even(),
        "rzi" => x.trunc(),
        "rmi" => x.floor(),
        _ => x.ceil(),
    }
}

/// Out-of-range values saturate; NaN gives 0, or the top bit for `.f64` sources and 64-bit destinations.
#[test]
fn floats_to_integers() {
    let mut singles32: Vec<u64> = FLOATS.to_vec();
    for x in [
        0.5f32,
        1.5,
        2.5,
        -0.5,
        -1.5,
        126.5,
        127.5,
        255.5,
        -128.5,
        65535.5,
        2147483500.0,
        2147483648.0,
        4294967296.0,
        9.3e18,
        1.9e19,
    ] {
        singles32.push(x.to_bits().into());
        singles32.push((-x).to_bits().into());
    }
    let doubles: Vec<u64> =
        singles32.iter().map(|&b| f64::from(f32_of(b)).to_bits()).chain(DOUBLES).collect();
    for (to, width, signed) in INTS {
        let (low, high) = limits(width, signed);
        let clamp = |x: f64| {
            stored(
                if x >= high as f64 {
                    high
                } else if x <= low as f64 {
                    low
                } else {
                    x as i128
                },
                width,
            )
        };
        for mode in ["rni", "rzi", "rmi", "rpi"] {
            let signature = format!("b32 -> {}", register(width));
            let nan32 = if width == 64 { 1 << 63 } else { 0 };
            check(&signature, &format!("cvt.{mode}.{to}.f32 %d0, %a0;"), &singles(&singles32), |r| {
                let x = f64::from(f32_of(r[0]));
                if x.is_nan() { nan32 } else { clamp(round(x, mode)) }
            });
            check(
                &signature,
                &format!("cvt.{mode}.ftz.{to}.f32 %d0, %a0;"),
                &singles(&[1, 0x8000_0001]),
                |_| 0,
            );
            // The top bit of the destination type; registers wider than it are sign- or zero-extended.
            let nan64 = stored(value(1 << (width - 1), width, signed), width);
            let signature = format!("b64 -> {}", register(width));
            check(&signature, &format!("cvt.{mode}.{to}.f64 %d0, %a0;"), &singles(&doubles), |r| {
                let x = f64_of(r[0]);
                if x.is_nan() { nan64 } else { clamp(round(x, mode)) }
            });
            let signature = format!("b16 -> {}", register(width));
            let halves = [
                0, 0x8000, 1, 0x3800, 0x3e00, 0xbe00, 0x4100, 0x57f8, 0x5bfc, 0x7bff, 0xfbff, 0x7c00, 0xfc00,
                0x7e00,
            ];
            check(&signature, &format!("cvt.{mode}.{to}.f16 %d0, %a0;"), &singles(&halves), |r| {
                let x = f16::from_bits(r[0] as u16).to_f64();
                if x.is_nan() { nan32 } else { clamp(round(x, mode)) }
            });
        }
    }
}

#[test]
fn integers_to_floats() {
    let values: Vec<u64> = INTS64
        .into_iter()
        .chain([
            0x0100_0001,
            0x0100_0003,
            0x01ff_ffff,
            (1 << 53) + 1,
            (1 << 53) + 3,
            (1 << 63) + 1025,
            2049,
            2051,
            65519,
            65520,
        ])
        .collect();
    for (from, width, signed) in INTS {
        let source = |r: &[u64]| value(r[0], width, signed);
        for (name, direction) in DIRECTIONS {
            let signature = format!("{} -> b32", register(width));
            check(&signature, &format!("cvt.{name}.f32.{from} %d0, %a0;"), &singles(&values), |r| {
                f32::to_bits(rounded_f32(source(r), direction)).into()
            });
            let signature = format!("{} -> b64", register(width));
            check(&signature, &format!("cvt.{name}.f64.{from} %d0, %a0;"), &singles(&values), |r| {
                rounded_f64(source(r), direction).to_bits()
            });
        }
        // 16-bit floats to nearest: a value below 2^53 is an exact double, larger ones are infinite in f16.
        let signature = format!("{} -> b16", register(width));
        check(&signature, &format!("cvt.rn.f16.{from} %d0, %a0;"), &singles(&values), |r| {
            f16::from_f64(source(r) as f64).to_bits().into()
        });
    }
}

/// Defines the integer as a float, rounded: to nearest (0), down (1), up (2), towards zero (3).
macro_rules! rounded {
    ($($name:ident: $float:ty),*) => {$(
        fn $name(x: i128, direction: u32) -> $float {
            let nearest = x as $float;
            let (above, below) = (nearest as i128 > x, (nearest as i128) < x);
            match direction {
                1 if above => nearest.next_down(),
                2 if below => nearest.next_up(),
                3 if x > 0 && above => nearest.next_down(),
                3 if x < 0 && below => nearest.next_up(),
                _ => nearest,
            }
        }
    )*};
}

rounded!(rounded_f32: f32, rounded_f64: f64);

#[test]
fn between_single_and_double() {
    check("b32 -> b64", "cvt.f64.f32 %d0, %a0;", &singles(&FLOATS[..20]), |r| {
        f64::from(f32_of(r[0])).to_bits()
    });
    check("b32 -> b64", "cvt.ftz.f64.f32 %d0, %a0;", &singles(&[1, 0x8000_0001]), |r| {
        (r[0] & 0x8000_0000) << 32
    });
    let numbers: Vec<u64> =
        FLOATS[..20].iter().map(|&b| f64::from(f32_of(b)).to_bits() ^ 0x1234).chain(DOUBLES).collect();
    for (name, direction) in DIRECTIONS {
        check("b64 -> b32", &format!("cvt.{name}.f32.f64 %d0, %a0;"), &singles(&numbers), |r| {
            f32_bits(host::narrow(f64_of(r[0]), direction))
        });
    }
    let flush = |x: u64| if x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x };
    check("b64 -> b32", "cvt.rn.ftz.f32.f64 %d0, %a0;", &singles(&numbers), |r| {
        flush(f32_bits(f64_of(r[0]) as f32))
    });
    check("b64 -> b32", "cvt.rn.sat.f32.f64 %d0, %a0;", &singles(&numbers), |r| {
        let x = f64_of(r[0]) as f32;
        if x > 0.0 { f32_bits(x.min(1.0)) } else { 0 }
    });
}

#[test]
fn same_type_rounds_flushes_and_saturates() {
    let rows = singles(&FLOATS);
    check("b32 -> b32", "cvt.sat.f32.f32 %d0, %a0;", &rows, |r| {
        let x = f32_of(r[0]);
        if x > 0.0 { f32_bits(x.min(1.0)) } else { 0 }
    });
    check("b32 -> b32", "cvt.ftz.f32.f32 %d0, %a0;", &singles(&FLOATS[..20]), |r| {
        if r[0] & 0x7f80_0000 == 0 { r[0] & 0x8000_0000 } else { r[0] }
    });
    for mode in ["rni", "rzi", "rmi", "rpi"] {
        check("b32 -> b32", &format!("cvt.{mode}.f32.f32 %d0, %a0;"), &rows, |r| {
            f32_bits(round(f32_of(r[0]).into(), mode) as f32)
        });
        let numbers: Vec<u64> = DOUBLES[..15].to_vec();
        check("b64 -> b64", &format!("cvt.{mode}.f64.f64 %d0, %a0;"), &singles(&numbers), |r| {
            round(f64_of(r[0]), mode).to_bits()
        });
    }
}

#[test]
fn sixteen_bit_floats() {
    let every: Vec<u64> = (0..=0xffffu64).step_by(17).chain([0x7c00, 0xfc00, 0x03ff, 0x0400]).collect();
    let rows = singles(&every);
    check("b16 -> b32", "cvt.f32.f16 %d0, %a0;", &rows, |r| f32_bits(f16::from_bits(r[0] as u16).to_f32()));
    check("b16 -> b32", "cvt.f32.bf16 %d0, %a0;", &rows, |r| f32_bits(bf16::from_bits(r[0] as u16).to_f32()));
    let numbers: Vec<u64> = every.iter().copied().filter(|bits| bits & 0x7fff <= 0x7c00).collect();
    check("b16 -> b64", "cvt.f64.f16 %d0, %a0;", &singles(&numbers), |r| {
        f16::from_bits(r[0] as u16).to_f64().to_bits()
    });
    let mut wide: Vec<u64> = FLOATS.to_vec();
    for e in 0x60..0xa0u64 {
        wide.extend(
            [0u64, 0x1000, 0x1001, 0x0fff, 0x3000, 0x8000, 0x8001, 0x7fff, 0x18000].map(|m| e << 23 | m),
        );
    }
    wide.extend(
        [65504.0f32, 65519.0, 65520.0, 1e6, 6e-8, 3e-8, 2.98e-8, 5.96e-8].map(|x| u64::from(x.to_bits())),
    );
    let rows = singles(&wide);
    let half = |x: f32| if x.is_nan() { 0x7fff } else { f16::from_f32(x).to_bits().into() };
    let brain = |x: f32| if x.is_nan() { 0x7fff } else { bf16::from_f32(x).to_bits().into() };
    check("b32 -> b16", "cvt.rn.f16.f32 %d0, %a0;", &rows, |r| half(f32_of(r[0])));
    check("b32 -> b16", "cvt.rn.bf16.f32 %d0, %a0;", &rows, |r| brain(f32_of(r[0])));
    check("b32 -> b16", "cvt.rn.relu.f16.f32 %d0, %a0;", &rows, |r| {
        half(if f32_of(r[0]) <= 0.0 { 0.0 } else { f32_of(r[0]) })
    });
    // Toward zero: truncation, with overflow to the largest number.
    check("b32 -> b16", "cvt.rz.bf16.f32 %d0, %a0;", &rows, |r| {
        if f32_of(r[0]).is_nan() { 0x7fff } else { r[0] >> 16 }
    });
    let toward_zero = |x: f32| {
        let bits = half(x);
        let back = f16::from_bits(bits as u16).to_f32();
        if back.abs() > x.abs() { bits - 1 } else { bits }
    };
    check("b32 -> b16", "cvt.rz.f16.f32 %d0, %a0;", &rows, |r| toward_zero(f32_of(r[0])));
    let double_rows: Vec<Vec<u64>> = wide.iter().zip(wide.iter().rev()).map(|(&a, &b)| vec![a, b]).collect();
    check("b32 b32 -> b32", "cvt.rn.f16x2.f32 %d0, %a0, %a1;", &double_rows, |r| {
        half(f32_of(r[0])) << 16 | half(f32_of(r[1]))
    });
    check("b32 b32 -> b32", "cvt.rn.bf16x2.f32 %d0, %a0, %a1;", &double_rows, |r| {
        brain(f32_of(r[0])) << 16 | brain(f32_of(r[1]))
    });
    check("b32 b32 -> b32", "cvt.rz.f16x2.f32 %d0, %a0, %a1;", &double_rows, |r| {
        toward_zero(f32_of(r[0])) << 16 | toward_zero(f32_of(r[1]))
    });
    check("b32 -> b16", "cvt.rn.satfinite.f16.f32 %d0, %a0;", &rows, |r| {
        let bits = half(f32_of(r[0]));
        if bits & 0x7fff == 0x7c00 { bits - 1 } else { bits }
    });
    check("b32 b32 -> b32", "cvt.rn.relu.satfinite.bf16x2.f32 %d0, %a0, %a1;", &double_rows, |r| {
        let one = |x: f32| if x.is_nan() { 0x7fff } else { brain(x.max(0.0)).min(0x7f7f) };
        one(f32_of(r[0])) << 16 | one(f32_of(r[1]))
    });
}

/// tf32 keeps ten mantissa bits; `.rna` is an addition of half a place and a cut.
#[test]
fn tf32() {
    let mut wide: Vec<u64> = FLOATS.to_vec();
    wide.extend([0x3f80_1000, 0x3f80_0fff, 0x3f80_3000, 0xbf80_1000, 0x7f7f_f000, 0x0000_1000]);
    let finite = |x: u64| x & 0x7f80_0000 != 0x7f80_0000;
    check("b32 -> b32", "cvt.rna.tf32.f32 %d0, %a0;", &singles(&wide), |r| match r[0] {
        x if finite(x) => (x + 0x1000) & !0x1fff,
        x if x & 0x7f_ffff == 0 => x,
        _ => 0x7fff_ffff,
    });
    let rows: Vec<u64> = wide.into_iter().filter(|&x| finite(x)).collect();
    check("b32 -> b32", "cvt.rn.tf32.f32 %d0, %a0;", &singles(&rows), |r| {
        (r[0] + 0xfff + (r[0] >> 13 & 1)) & !0x1fff
    });
    check("b32 -> b32", "cvt.rz.tf32.f32 %d0, %a0;", &singles(&rows), |r| r[0] & !0x1fff);
    check("b32 -> b32", "cvt.rn.relu.tf32.f32 %d0, %a0;", &singles(&[0xbf80_0000, 0x3f80_0000]), |r| {
        if r[0] >> 31 == 1 { 0 } else { r[0] }
    });
    check("b32 -> b32", "cvt.rna.satfinite.tf32.f32 %d0, %a0;", &singles(&[0x7f7f_ffff, 0xff80_0000]), |r| {
        r[0] & 0x8000_0000 | 0x7f7f_e000
    });
}

/// The values of FP8 by the definition of the formats: `e4m3` has no infinities and one NaN per sign.
fn fp8_value(bits: u64, e4m3: bool) -> f64 {
    let (exponent, mantissa, bias) =
        if e4m3 { (bits >> 3 & 0xf, bits & 7, 7) } else { (bits >> 2 & 0x1f, bits & 3, 15) };
    let places = if e4m3 { 8.0 } else { 4.0 };
    let sign = if bits & 0x80 != 0 { -1.0 } else { 1.0 };
    let magnitude = match (e4m3, exponent, mantissa) {
        (true, 15, 7) => f64::NAN,
        (false, 31, 0) => f64::INFINITY,
        (false, 31, _) => f64::NAN,
        (_, 0, m) => m as f64 / places * 2f64.powi(1 - bias),
        (_, e, m) => (1.0 + m as f64 / places) * 2f64.powi(e as i32 - bias),
    };
    sign * magnitude
}

/// Nearest of all finite values, ties to the even pattern, beyond them the largest; NaN is 0x7f.
fn fp8_nearest(x: f64, e4m3: bool) -> u64 {
    if x.is_nan() {
        return 0x7f;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    // Far beyond the largest value all distances round to the same double.
    let magnitude = x.abs().min(1e6);
    let distance = |bits: u64| (fp8_value(bits, e4m3) - magnitude).abs();
    let finite = (0..0x80).filter(|&bits| fp8_value(bits, e4m3).is_finite());
    sign | finite.min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1)))).unwrap()
}

#[test]
fn fp8_pairs() {
    for (name, e4m3) in [("e4m3x2", true), ("e5m2x2", false)] {
        let bytes: Vec<u64> = (0..256).map(|b| b << 8 | (255 - b)).collect();
        let widen = |bits: u64| {
            let x = fp8_value(bits & 0xff, e4m3);
            if x.is_nan() { 0x7fff } else { u64::from(f16::from_f64(x).to_bits()) }
        };
        check("b16 -> b32", &format!("cvt.rn.f16x2.{name} %d0, %a0;"), &singles(&bytes), |r| {
            widen(r[0] >> 8) << 16 | widen(r[0])
        });
        check("b16 -> b32", &format!("cvt.rn.relu.f16x2.{name} %d0, %a0;"), &singles(&bytes), |r| {
            let relu = |x: u64| if x & 0x8000 != 0 { 0 } else { x };
            relu(widen(r[0] >> 8)) << 16 | relu(widen(r[0]))
        });
        let mut wide: Vec<u64> = FLOATS.to_vec();
        for bits in 0..0x80 {
            // Each value, the midpoint to the next, and its neighbours.
            let (x, y) = (fp8_value(bits, e4m3), fp8_value(bits + 1, e4m3));
            let middle = ((x + y) / 2.0) as f32;
            wide.extend(
                [x as f32, middle, middle.next_up(), -middle.next_down()].map(|x| u64::from(x.to_bits())),
            );
        }
        let rows: Vec<Vec<u64>> = wide.iter().zip(wide.iter().rev()).map(|(&a, &b)| vec![a, b]).collect();
        let narrow = |x: u64| fp8_nearest(f32_of(x).into(), e4m3);
        check("b32 b32 -> b16", &format!("cvt.rn.satfinite.{name}.f32 %d0, %a0, %a1;"), &rows, |r| {
            narrow(r[0]) << 8 | narrow(r[1])
        });
        check("b32 b32 -> b16", &format!("cvt.rn.satfinite.relu.{name}.f32 %d0, %a0, %a1;"), &rows, |r| {
            let relu = |x: u64| if f32_of(x) <= 0.0 { 0 } else { narrow(x) };
            relu(r[0]) << 8 | relu(r[1])
        });
        let halves: Vec<u64> = (0..0x10000u64).step_by(37).map(|h| h << 16 | (0xffff - h)).collect();
        check("b32 -> b16", &format!("cvt.rn.satfinite.{name}.f16x2 %d0, %a0;"), &singles(&halves), |r| {
            let one = |bits: u64| fp8_nearest(f16::from_bits(bits as u16).to_f64(), e4m3);
            one(r[0] >> 16) << 8 | one(r[0] & 0xffff)
        });
    }
}
