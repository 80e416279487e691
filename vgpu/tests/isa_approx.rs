//! The approximate instructions: corner cases of the ISA's tables, and its error bounds with and without
//! noise.

mod isa;
use half::{bf16, f16};
use isa::*;
use vgpu::Settings;

const NAN: u64 = 0x7fff_ffff;
const INF: u64 = 0x7f80_0000;
const SIGN: u64 = 0x8000_0000;
const ONE: u64 = 0x3f80_0000;

fn settings(seed: u64) -> Settings {
    Settings { noise: seed != 0, seed, ..Settings::default() }
}

#[test]
fn corner_cases() {
    let minus_one = SIGN | ONE;
    let table: [(&str, &[(u64, u64)]); 8] = [
        ("rcp.approx.f32", &[(SIGN | INF, SIGN), (SIGN, SIGN | INF), (0, INF), (INF, 0), (NAN, NAN)]),
        (
            "sqrt.approx.f32",
            &[(SIGN | INF, NAN), (minus_one, NAN), (SIGN, SIGN), (0, 0), (INF, INF), (NAN, NAN)],
        ),
        (
            "rsqrt.approx.f32",
            &[(SIGN | INF, NAN), (minus_one, NAN), (SIGN, SIGN | INF), (0, INF), (INF, 0), (NAN, NAN)],
        ),
        ("sin.approx.f32", &[(SIGN | INF, NAN), (SIGN, SIGN), (0, 0), (INF, NAN), (NAN, NAN)]),
        ("cos.approx.f32", &[(SIGN | INF, NAN), (SIGN, ONE), (0, ONE), (INF, NAN), (NAN, NAN)]),
        (
            "lg2.approx.f32",
            &[
                (SIGN | INF, NAN),
                (minus_one, NAN),
                (SIGN, SIGN | INF),
                (0, SIGN | INF),
                (INF, INF),
                (NAN, NAN),
            ],
        ),
        ("ex2.approx.f32", &[(SIGN | INF, 0), (SIGN, ONE), (0, ONE), (INF, INF), (NAN, NAN)]),
        ("tanh.approx.f32", &[(SIGN | INF, minus_one), (SIGN, SIGN), (0, 0), (INF, ONE), (NAN, NAN)]),
    ];
    for (op, cases) in table {
        let rows: Vec<Vec<u64>> = cases.iter().map(|&(a, _)| vec![a]).collect();
        for seed in [0, 5] {
            let seen = run_with(&settings(seed), "b32 -> b32", &format!("{op} %d0, %a0;"), &rows);
            for ((a, expected), seen) in cases.iter().zip(seen) {
                assert_eq!(seen[0], *expected, "{op} {a:x}, seed {seed}");
            }
        }
    }
}

#[test]
fn ftz_forms_flush() {
    let subnormals = singles(&[1, 0x007f_ffff, SIGN | 1]);
    check("b32 -> b32", "rcp.approx.ftz.f32 %d0, %a0;", &subnormals, |r| r[0] & SIGN | INF);
    check("b32 -> b32", "sqrt.approx.ftz.f32 %d0, %a0;", &subnormals, |r| r[0] & SIGN);
    check("b32 -> b32", "rsqrt.approx.ftz.f32 %d0, %a0;", &subnormals, |r| r[0] & SIGN | INF);
    check("b32 -> b32", "sin.approx.ftz.f32 %d0, %a0;", &subnormals, |r| r[0] & SIGN);
    check("b32 -> b32", "lg2.approx.ftz.f32 %d0, %a0;", &subnormals, |_| SIGN | INF);
    check("b32 -> b32", "ex2.approx.ftz.f32 %d0, %a0;", &singles(&[(-140f32).to_bits().into()]), |_| 0);
    check("b32 -> b32", "rcp.approx.ftz.f32 %d0, %a0;", &singles(&[0x7e80_0001, SIGN | 0x7f00_0000]), |r| {
        r[0] & SIGN
    });
}

/// The distance between neighbouring floats at x.
fn ulp(x: f64) -> f64 {
    let bits = (x as f32).abs().to_bits().max(0x0080_0000) & 0x7f80_0000;
    f64::from(f32::from_bits(bits)) * 2f64.powi(-23)
}

#[test]
fn errors_stay_within_the_documented_bounds() {
    type Case = (&'static str, fn(f64) -> f64, f64, f64, fn(f64, f64) -> f64);
    let cases: [Case; 9] = [
        ("ex2.approx.f32", f64::exp2, -100.0, 100.0, |_, y| 2.5 * ulp(y)),
        ("lg2.approx.f32", f64::log2, 0.501, 1.99, |_, _| 2f64.powi(-22)),
        ("lg2.approx.f32", f64::log2, 2.01, 1e9, |_, y| y.abs() * 2f64.powi(-22)),
        ("rcp.approx.f32", f64::recip, 1e-3, 1e3, |_, y| 1.5 * ulp(y)),
        ("sqrt.approx.f32", f64::sqrt, 1e-3, 1e3, |_, y| y * 2f64.powi(-23)),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), 1e-3, 1e3, |_, y| y * 2f64.powf(-22.9)),
        ("sin.approx.f32", f64::sin, -6.25, 6.25, |_, _| 2f64.powf(-20.5)),
        ("cos.approx.f32", f64::cos, -300.0, 300.0, |x, _| {
            if x.abs() <= 6.25 { 2f64.powf(-20.5) } else { 2f64.powf(-14.7) }
        }),
        ("tanh.approx.f32", f64::tanh, -8.0, 8.0, |_, y| y.abs() * 2f64.powi(-11)),
    ];
    for (op, exact, from, to, bound) in cases {
        let inputs: Vec<f32> =
            (0..4096).map(|i| (from + (to - from) * f64::from(i) / 4096.0) as f32).collect();
        let rows: Vec<Vec<u64>> = inputs.iter().map(|x| vec![x.to_bits().into()]).collect();
        let [plain, noisy] =
            [0, 9].map(|seed| run_with(&settings(seed), "b32 -> b32", &format!("{op} %d0, %a0;"), &rows));
        for seen in [&plain, &noisy] {
            for (x, seen) in inputs.iter().zip(seen) {
                let (x, seen) = (f64::from(*x), f64::from(f32_of(seen[0])));
                let error = (seen - exact(x)).abs();
                assert!(error <= bound(x, exact(x)), "{op} of {x:e}: {seen:e}, error {error:e}");
            }
        }
        let moved = plain.iter().zip(&noisy).filter(|(a, b)| a != b).count();
        assert!(moved > 500, "{op}: noise moved only {moved} of 4096 results");
    }
}

#[test]
fn divisions() {
    let numbers = [1.0f32, -3.0, 7.5, 1e-30, -1e30, 0.1].map(|x| u64::from(x.to_bits()));
    let rows = pairs(&numbers, &numbers);
    for op in ["div.approx.f32", "div.full.f32", "div.full.ftz.f32"] {
        for (row, seen) in
            rows.iter().zip(run_with(&settings(3), "b32 b32 -> b32", &format!("{op} %d0, %a0, %a1;"), &rows))
        {
            let exact = f64::from(f32_of(row[0])) / f64::from(f32_of(row[1]));
            let seen = f64::from(f32_of(seen[0]));
            if exact.abs() < 3e38 && exact.abs() > 2e-38 {
                assert!((seen - exact).abs() <= 2.5 * ulp(exact), "{op} {row:x?}: {seen:e}, not {exact:e}");
            }
        }
    }
    // Divisors beyond 2^126: a zero of the quotient's sign, NaN for an infinite dividend.
    let huge = 0x7e80_0001;
    let rows = [vec![ONE, huge], vec![SIGN | ONE, huge], vec![INF, huge], vec![ONE, INF], vec![0, 0]];
    let expected = [0, SIGN, NAN, 0, NAN];
    for (seen, expected) in run("b32 b32 -> b32", "div.approx.f32 %d0, %a0, %a1;", &rows).iter().zip(expected)
    {
        assert_eq!(seen[0], expected);
    }
}

#[test]
fn sixteen_bit_forms() {
    let bits: Vec<u64> = (0..0x8000u64).step_by(97).flat_map(|b| [b, b | 0x8000]).collect();
    let half = |b: u64| f16::from_bits(b as u16).to_f64();
    let brain = |b: u64| bf16::from_bits(b as u16).to_f64();
    type Value = fn(u64) -> f64;
    let forms: [(&str, Value, Value, f64, f64); 4] = [
        ("tanh.approx.f16", half, half, 2f64.powf(-10.987), 0.0),
        ("tanh.approx.bf16", brain, brain, 2f64.powi(-8), 0.0),
        ("ex2.approx.f16", half, half, 0.0, 2f64.powf(-9.9)),
        ("ex2.approx.ftz.bf16", brain, brain, 0.0, 2f64.powi(-7)),
    ];
    for (op, input, output, absolute, relative) in forms {
        for (row, seen) in singles(&bits).iter().zip(run_with(
            &settings(4),
            "b16 -> b16",
            &format!("{op} %d0, %a0;"),
            &singles(&bits),
        )) {
            let x = input(row[0]);
            let exact = if op.starts_with("tanh") { x.tanh() } else { x.exp2() };
            let seen = output(seen[0]);
            // Where the result is subnormal or overflows, the relative bound says nothing.
            if x.is_nan() {
                assert!(seen.is_nan());
            } else if exact == 0.0 || (1e-4..6e4).contains(&exact.abs()) {
                assert!(
                    (seen - exact).abs() <= absolute + relative * exact,
                    "{op} {x:e}: {seen:e}, not {exact:e}"
                );
            }
        }
    }
    let packed: Vec<Vec<u64>> = vec![vec![0x3c00_0000], vec![0xbc00_7c00]];
    let seen = run("b32 -> b32", "ex2.approx.f16x2 %d0, %a0;", &packed);
    assert_eq!([seen[0][0], seen[1][0]], [0x4000_3c00, 0x3800_7c00]);
}

#[test]
fn gross_double_approximations() {
    let (two, four) = (2f64.to_bits(), 4f64.to_bits());
    let rows = singles(&[two, 1, 1 << 63, f64::INFINITY.to_bits(), f64::NAN.to_bits()]);
    let expected =
        [0.5f64.to_bits(), f64::INFINITY.to_bits(), f64::NEG_INFINITY.to_bits(), 0, 0x7fff_ffff_0000_0000];
    for (seen, expected) in run("b64 -> b64", "rcp.approx.ftz.f64 %d0, %a0;", &rows).iter().zip(expected) {
        assert_eq!(seen[0], expected);
    }
    let rows = singles(&[four, 0, (-1f64).to_bits()]);
    let expected = [0.5f64.to_bits(), f64::INFINITY.to_bits(), 0x7fff_ffff_0000_0000];
    for (seen, expected) in run("b64 -> b64", "rsqrt.approx.ftz.f64 %d0, %a0;", &rows).iter().zip(expected) {
        assert_eq!(seen[0], expected);
    }
}
