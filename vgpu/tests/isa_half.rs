//! `.f16`, `.f16x2`, `.bf16`, `.bf16x2` instructions. Expectations: double precision, in which sums and
//! products of 16-bit floats are exact or, for fused operations, checked to be; the `half` crate rounds them.

mod isa;
use half::{bf16, f16};
use isa::*;

const HALVES: [u64; 20] = [
    0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x3c01, 0x3bff, 0x3555, 0x4248, 0xd640, 0x7bff,
    0xfbff, 0x7c00, 0xfc00, 0x7e00, 0xfe01, 0x6800,
];
const BRAINS: [u64; 18] = [
    0, 0x8000, 1, 0x007f, 0x0080, 0x3f80, 0xbf80, 0x3f81, 0x3f7f, 0x3eab, 0x4049, 0xc2f7, 0x7f7f, 0xff7f,
    0x7f80, 0xff80, 0x7fc0, 0xffa0,
];

/// The two formats: name, samples, to a double, from a double.
struct Kind {
    name: &'static str,
    samples: &'static [u64],
    value: fn(u64) -> f64,
    bits: fn(f64) -> u64,
}

/// Rounds a double to the nearest of a format's values by search: no conversion code of anybody's.
fn nearest(x: f64, value: fn(u64) -> f64, infinity: u64) -> u64 {
    if x.is_nan() {
        return 0x7fff;
    }
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    let x = x.abs();
    // Non-negative values are ordered as their patterns; infinity stands one step above the largest number.
    let step = value(infinity - 1) - value(infinity - 2);
    let at = |bits: u64| if bits == infinity { value(infinity - 1) + step } else { value(bits) };
    let (mut low, mut high) = (0, infinity);
    if x >= at(high) {
        return sign | infinity;
    }
    while high - low > 1 {
        let middle = (low + high) / 2;
        if at(middle) <= x { low = middle } else { high = middle }
    }
    let (down, up) = (x - at(low), at(high) - x);
    sign | if down < up || down == up && low & 1 == 0 { low } else { high }
}

fn f16_value(bits: u64) -> f64 {
    f16::from_bits(bits as u16).to_f64()
}

fn bf16_value(bits: u64) -> f64 {
    bf16::from_bits(bits as u16).to_f64()
}

const KINDS: [Kind; 2] = [
    Kind { name: "f16", samples: &HALVES, value: f16_value, bits: |x| nearest(x, f16_value, 0x7c00) },
    Kind { name: "bf16", samples: &BRAINS, value: bf16_value, bits: |x| nearest(x, bf16_value, 0x7f80) },
];

/// Sums of doubles made of 16-bit floats round twice only when their exponents lie further apart than 53
/// bits; then the small one cannot change the 16-bit result except in a tie, which is settled by its sign.
fn sum(a: f64, b: f64) -> f64 {
    let total = a + b;
    let (large, small) = if a.abs() > b.abs() { (a, b) } else { (b, a) };
    if !total.is_finite() || small == 0.0 || total != large {
        return total;
    }
    if (small > 0.0) == (total > 0.0) {
        f64::from_bits(total.to_bits() + 1)
    } else {
        f64::from_bits(total.to_bits() - 1)
    }
}

/// Packs rows of scalars two by two: the scalar results must appear in the halves.
fn check_both(kind: &Kind, op: &str, operands: usize, rows: &[Vec<u64>], expected: impl Fn(&[u64]) -> u64) {
    let list = (0..operands).map(|i| format!(", %a{i}")).collect::<String>();
    let signature = |width: &str| format!("{}-> {width}", format!("{width} ").repeat(operands));
    let name = kind.name;
    check(&signature("b16"), &format!("{op}.{name} %d0{list};"), rows, &expected);
    let packed: Vec<Vec<u64>> = rows
        .iter()
        .zip(rows.iter().rev())
        .map(|(x, y)| x.iter().zip(y).map(|(x, y)| x | y << 16).collect())
        .collect();
    check(&signature("b32"), &format!("{op}.{name}x2 %d0{list};"), &packed, |r| {
        let part = |shift: u32| r.iter().map(|x| x >> shift & 0xffff).collect::<Vec<u64>>();
        expected(&part(0)) | expected(&part(16)) << 16
    });
}

#[test]
fn arithmetic_rounds_once() {
    for kind in &KINDS {
        let (value, bits) = (kind.value, kind.bits);
        let rows = pairs(kind.samples, kind.samples);
        check_both(kind, "add", 2, &rows, |r| bits(sum(value(r[0]), value(r[1]))));
        check_both(kind, "sub.rn", 2, &rows, |r| bits(sum(value(r[0]), -value(r[1]))));
        check_both(kind, "mul.rn", 2, &rows, |r| bits(value(r[0]) * value(r[1])));
        let rows = triples(kind.samples, kind.samples, kind.samples);
        check_both(kind, "fma.rn", 3, &rows, |r| bits(sum(value(r[0]) * value(r[1]), value(r[2]))));
        check_both(kind, "fma.rn.relu", 3, &rows, |r| {
            let result = bits(sum(value(r[0]) * value(r[1]), value(r[2])));
            if result & 0x8000 != 0 { 0 } else { result }
        });
    }
}

#[test]
fn signs_minima_maxima() {
    for kind in &KINDS {
        let value = kind.value;
        let nan = |x: u64| value(x).is_nan();
        check_both(
            kind,
            "neg",
            1,
            &singles(kind.samples),
            |r| if nan(r[0]) { 0x7fff } else { r[0] ^ 0x8000 },
        );
        check_both(
            kind,
            "abs",
            1,
            &singles(kind.samples),
            |r| if nan(r[0]) { 0x7fff } else { r[0] & 0x7fff },
        );
        let rows = pairs(kind.samples, kind.samples);
        let key = |x: u64| if x & 0x8000 != 0 { -((x & 0x7fff) as i64) - 1 } else { x as i64 };
        let pick = |a: u64, b: u64, greater: bool| match (nan(a), nan(b)) {
            (true, true) => 0x7fff,
            (true, false) => b,
            (false, true) => a,
            _ if (key(a) < key(b)) != greater => a,
            _ => b,
        };
        for (op, greater) in [("min", false), ("max", true)] {
            check_both(kind, op, 2, &rows, |r| pick(r[0], r[1], greater));
            check_both(kind, &format!("{op}.NaN"), 2, &rows, |r| {
                if nan(r[0]) || nan(r[1]) { 0x7fff } else { pick(r[0], r[1], greater) }
            });
            check_both(kind, &format!("{op}.xorsign.abs"), 2, &rows, |r| {
                let picked = pick(r[0] & 0x7fff, r[1] & 0x7fff, greater);
                if nan(picked) { 0x7fff } else { picked | (r[0] ^ r[1]) & 0x8000 }
            });
        }
    }
}

#[test]
fn f16_modifiers() {
    let kind = &KINDS[0];
    let flush = |x: u64| if x & 0x7c00 == 0 { x & 0x8000 } else { x };
    let (value, bits) = (kind.value, kind.bits);
    let rows = pairs(&HALVES, &HALVES);
    check_both(kind, "add.ftz", 2, &rows, |r| flush(bits(value(flush(r[0])) + value(flush(r[1])))));
    check_both(kind, "mul.rn.ftz", 2, &rows, |r| flush(bits(value(flush(r[0])) * value(flush(r[1])))));
    let sat = |x: u64| if x & 0x8000 != 0 || value(x).is_nan() { 0 } else { x.min(0x3c00) };
    check_both(kind, "add.sat", 2, &rows, |r| sat(bits(value(r[0]) + value(r[1]))));
    check_both(kind, "sub.sat", 2, &rows, |r| sat(bits(value(r[0]) - value(r[1]))));
    let rows = triples(&HALVES, &HALVES[..10], &HALVES);
    check_both(kind, "fma.rn.ftz.sat", 3, &rows, |r| {
        let [a, b, c] = [0, 1, 2].map(|i| value(flush(r[i])));
        sat(flush(bits(sum(a * b, c))))
    });
}

/// Threads that each update their own 16 bits of a word do not race, whoever has the other half.
#[test]
fn neighbouring_halves_are_updated_in_place() {
    let body = ".reg .b64 %own, %base; .reg .b16 %h;\n ld.param.u64 %base, [out];\n cvt.u64.u32 %own, %thread;\n\
        mad.lo.u64 %own, %own, 2, %base;\n st.global.b16 [%own], %a0;\n ld.global.b16 %h, [%own];\n\
        add.f16 %h, %h, %h;\n st.global.b16 [%own], %h;\n ld.global.b16 %d0, [%own];\n bar.sync 0;";
    let rows = singles(&[0x3c00; 32]);
    check("b16 -> b16", body, &rows, |_| 0x4000);
}
