//! `.f32` and `.f64` instructions. The host's floating-point unit, set to each rounding direction, is the
//! oracle.

mod isa;
use isa::host::{self, DIRECTIONS};
use isa::*;

/// Edges, and pseudo-random patterns spread over all exponents.
fn floats() -> Vec<u64> {
    let random = (1..24u32).map(|i| u64::from(i.wrapping_mul(0x9e37_79b1).rotate_left(i)));
    FLOATS.into_iter().chain(random).collect()
}

fn doubles() -> Vec<u64> {
    let random = (1..20u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(i as u32 * 3));
    DOUBLES.into_iter().chain(random).collect()
}

fn f64_bits(operands: &[u64], x: f64) -> u64 {
    if !x.is_nan() {
        return x.to_bits();
    }
    // Payloads pass through, quieted; an invalid operation gives the default NaN.
    let nan = operands.iter().find(|&&bits| f64_of(bits).is_nan());
    nan.map_or(0xfff8_0000_0000_0000, |bits| bits | 1 << 51)
}

#[test]
fn single_precision_in_every_direction() {
    let values = floats();
    let rows = pairs(&values, &values);
    type Oracle = fn(f32, f32, u32) -> f32;
    for (name, direction) in DIRECTIONS {
        for (op, oracle) in [
            ("add", host::add_f32 as Oracle),
            ("sub", host::sub_f32),
            ("mul", host::mul_f32),
            ("div", host::div_f32),
        ] {
            check("b32 b32 -> b32", &format!("{op}.{name}.f32 %d0, %a0, %a1;"), &rows, |r| {
                f32_bits(oracle(f32_of(r[0]), f32_of(r[1]), direction))
            });
        }
        let rows = singles(&values);
        check("b32 -> b32", &format!("sqrt.{name}.f32 %d0, %a0;"), &rows, |r| {
            f32_bits(host::sqrt_f32(f32_of(r[0]), direction))
        });
        check("b32 -> b32", &format!("rcp.{name}.f32 %d0, %a0;"), &rows, |r| {
            f32_bits(host::div_f32(1.0, f32_of(r[0]), direction))
        });
    }
    check("b32 b32 -> b32", "add.f32 %d0, %a0, %a1;", &rows, |r| f32_bits(f32_of(r[0]) + f32_of(r[1])));
    check("b32 b32 -> b32", "mul.f32 %d0, %a0, %a1;", &rows, |r| f32_bits(f32_of(r[0]) * f32_of(r[1])));
}

#[test]
fn fused_multiply_add_in_every_direction() {
    let values = floats();
    let rows = triples(&values, &values[..30], &values);
    for (name, direction) in DIRECTIONS {
        for op in ["fma", "mad"] {
            check("b32 b32 b32 -> b32", &format!("{op}.{name}.f32 %d0, %a0, %a1, %a2;"), &rows, |r| {
                f32_bits(host::fma_f32(f32_of(r[0]), f32_of(r[1]), f32_of(r[2]), direction))
            });
        }
    }
    let values = doubles();
    let rows = triples(&values, &values[..24], &values);
    for (name, direction) in DIRECTIONS {
        check("b64 b64 b64 -> b64", &format!("fma.{name}.f64 %d0, %a0, %a1, %a2;"), &rows, |r| {
            f64_bits(r, host::fma_f64(f64_of(r[0]), f64_of(r[1]), f64_of(r[2]), direction))
        });
    }
}

#[test]
fn double_precision_in_every_direction() {
    let values = doubles();
    let rows = pairs(&values, &values);
    type Oracle = fn(f64, f64, u32) -> f64;
    for (name, direction) in DIRECTIONS {
        for (op, oracle) in [
            ("add", host::add_f64 as Oracle),
            ("sub", host::sub_f64),
            ("mul", host::mul_f64),
            ("div", host::div_f64),
        ] {
            check("b64 b64 -> b64", &format!("{op}.{name}.f64 %d0, %a0, %a1;"), &rows, |r| {
                f64_bits(r, oracle(f64_of(r[0]), f64_of(r[1]), direction))
            });
        }
        let rows = singles(&values);
        check("b64 -> b64", &format!("sqrt.{name}.f64 %d0, %a0;"), &rows, |r| {
            f64_bits(r, host::sqrt_f64(f64_of(r[0]), direction))
        });
        check("b64 -> b64", &format!("rcp.{name}.f64 %d0, %a0;"), &rows, |r| {
            f64_bits(r, host::div_f64(1.0, f64_of(r[0]), direction))
        });
    }
}

fn flush(bits: u64) -> u64 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

#[test]
fn ftz_flushes_operands_and_results() {
    let values = floats();
    let rows = pairs(&values, &values);
    let with =
        |r: &[u64], op: fn(f32, f32) -> f32| flush(f32_bits(op(f32_of(flush(r[0])), f32_of(flush(r[1])))));
    check("b32 b32 -> b32", "add.ftz.f32 %d0, %a0, %a1;", &rows, |r| with(r, |a, b| a + b));
    check("b32 b32 -> b32", "sub.rn.ftz.f32 %d0, %a0, %a1;", &rows, |r| with(r, |a, b| a - b));
    check("b32 b32 -> b32", "mul.rn.ftz.f32 %d0, %a0, %a1;", &rows, |r| with(r, |a, b| a * b));
    check("b32 b32 -> b32", "div.rn.ftz.f32 %d0, %a0, %a1;", &rows, |r| with(r, |a, b| a / b));
    check("b32 b32 -> b32", "min.ftz.f32 %d0, %a0, %a1;", &[vec![1, 0x8000_0001]], |_| 0x8000_0000);
    let rows = singles(&values);
    check("b32 -> b32", "sqrt.rn.ftz.f32 %d0, %a0;", &rows, |r| f32_bits(f32_of(flush(r[0])).sqrt()));
    check("b32 -> b32", "abs.ftz.f32 %d0, %a0;", &rows, |r| f32_bits(f32_of(flush(r[0])).abs()));
    check("b32 -> b32", "neg.ftz.f32 %d0, %a0;", &rows, |r| f32_bits(-f32_of(flush(r[0]))));
    let rows = triples(&values, &values[..12], &values);
    check("b32 b32 b32 -> b32", "fma.rn.ftz.f32 %d0, %a0, %a1, %a2;", &rows, |r| {
        let [a, b, c] = [0, 1, 2].map(|i| f32_of(flush(r[i])));
        flush(f32_bits(a.mul_add(b, c)))
    });
}

#[test]
fn sat_clamps_to_the_unit_interval() {
    let sat = |x: f32| if x > 0.0 { f32_bits(x.min(1.0)) } else { 0 };
    let values = floats();
    let rows = pairs(&values, &values);
    check("b32 b32 -> b32", "add.sat.f32 %d0, %a0, %a1;", &rows, |r| sat(f32_of(r[0]) + f32_of(r[1])));
    check("b32 b32 -> b32", "sub.sat.f32 %d0, %a0, %a1;", &rows, |r| sat(f32_of(r[0]) - f32_of(r[1])));
    check("b32 b32 -> b32", "mul.rn.sat.f32 %d0, %a0, %a1;", &rows, |r| sat(f32_of(r[0]) * f32_of(r[1])));
    let rows = triples(&values, &values[..8], &values[..20]);
    check("b32 b32 b32 -> b32", "fma.rn.sat.f32 %d0, %a0, %a1, %a2;", &rows, |r| {
        sat(f32_of(r[0]).mul_add(f32_of(r[1]), f32_of(r[2])))
    });
}

/// `min`: a number beats NaN, -0 is less than +0; `.NaN` spreads it; `.xorsign.abs` compares magnitudes.
#[test]
fn minima_and_maxima() {
    let rows = pairs(&floats(), &floats());
    let key = |x: f32| {
        if x.to_bits() >> 31 == 1 { -i64::from(x.to_bits() & 0x7fff_ffff) - 1 } else { x.to_bits().into() }
    };
    let pick = |a: f32, b: f32, greater: bool| match (a.is_nan(), b.is_nan()) {
        (true, true) => f32::NAN,
        (true, false) => b,
        (false, true) => a,
        _ if (key(a) < key(b)) != greater => a,
        _ => b,
    };
    for (op, greater) in [("min", false), ("max", true)] {
        check("b32 b32 -> b32", &format!("{op}.f32 %d0, %a0, %a1;"), &rows, |r| {
            f32_bits(pick(f32_of(r[0]), f32_of(r[1]), greater))
        });
        check("b32 b32 -> b32", &format!("{op}.NaN.f32 %d0, %a0, %a1;"), &rows, |r| {
            let (a, b) = (f32_of(r[0]), f32_of(r[1]));
            f32_bits(if a.is_nan() || b.is_nan() { f32::NAN } else { pick(a, b, greater) })
        });
        check("b32 b32 -> b32", &format!("{op}.xorsign.abs.f32 %d0, %a0, %a1;"), &rows, |r| {
            let (a, b) = (f32_of(r[0]), f32_of(r[1]));
            let picked = pick(a.abs(), b.abs(), greater);
            let sign = (r[0] ^ r[1]) & 0x8000_0000;
            if picked.is_nan() { 0x7fff_ffff } else { u64::from(picked.to_bits()) & 0x7fff_ffff | sign }
        });
    }
    let rows: Vec<_> = pairs(&doubles(), &doubles());
    check("b64 b64 -> b64", "max.f64 %d0, %a0, %a1;", &rows, |r| {
        let (a, b) = (f64_of(r[0]), f64_of(r[1]));
        match (a.is_nan(), b.is_nan()) {
            (true, true) => r[0] | 1 << 51,
            (true, false) => r[1],
            (false, true) => r[0],
            _ if a == 0.0 && b == 0.0 => r[0] & r[1],
            _ => a.max(b).to_bits(),
        }
    });
    check("b64 b64 -> b64", "min.f64 %d0, %a0, %a1;", &[vec![0, 1 << 63], vec![1 << 63, 0]], |_| 1 << 63);
}

#[test]
fn signs() {
    let rows = singles(&floats());
    check("b32 -> b32", "abs.f32 %d0, %a0;", &rows, |r| f32_bits(f32_of(r[0]).abs()));
    check("b32 -> b32", "neg.f32 %d0, %a0;", &rows, |r| f32_bits(-f32_of(r[0])));
    let rows = pairs(&floats(), &floats());
    check("b32 b32 -> b32", "copysign.f32 %d0, %a0, %a1;", &rows, |r| {
        r[0] & 0x8000_0000 | r[1] & 0x7fff_ffff
    });
    let numbers: Vec<u64> = doubles().into_iter().filter(|&b| !f64_of(b).is_nan()).collect();
    check("b64 -> b64", "abs.f64 %d0, %a0;", &singles(&numbers), |r| f64_of(r[0]).abs().to_bits());
    check("b64 -> b64", "neg.f64 %d0, %a0;", &singles(&numbers), |r| (-f64_of(r[0])).to_bits());
    check("b64 -> b64", "abs.f64 %d0, %a0;", &[vec![0xfff8_0000_0000_0007]], |r| r[0]);
    check("b64 b64 -> b64", "copysign.f64 %d0, %a0, %a1;", &pairs(&numbers, &numbers), |r| {
        r[0] & 1 << 63 | r[1] & !(1 << 63)
    });
}

#[test]
fn literals_keep_their_bits() {
    check("b32 -> b32", "add.f32 %d0, %a0, 0f3DCCCCCD;", &[vec![0]], |_| 0x3dcc_cccd);
    check("b64 -> b64", "add.f64 %d0, %a0, 0d3FB999999999999A;", &[vec![0]], |_| 0x3fb9_9999_9999_999a);
    check("b32 -> b32", "mul.f32 %d0, %a0, 0.5;", &[vec![0x4000_0000]], |_| 0x3f80_0000);
}
