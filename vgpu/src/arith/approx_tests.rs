//! Tests of the approximate units: the corner cases of the ISA's tables, and the documented bounds under
//! noise.

use super::*;

/// Seed 0 stands for no noise.
fn noise_of(seed: u64) -> Noise {
    if seed == 0 { Noise::OFF } else { Noise::seeded(seed) }
}

const INF: u32 = 0x7f80_0000;
const ONE: u32 = 0x3f80_0000;

fn f(x: f32) -> u32 {
    x.to_bits()
}

#[test]
fn corner_cases_of_the_tables() {
    for noise in [Noise::OFF, Noise::seeded(7)] {
        let ex2 = |a| ex2(a, false, noise);
        assert_eq!([SIGN | INF, SIGN, 0, INF, 0x7fc0_0001].map(ex2), [0, ONE, ONE, INF, single::NAN]);
        let lg2 = |a| lg2(a, false, noise);
        assert_eq!(
            [SIGN | INF, f(-1.0), SIGN, 0, INF].map(lg2),
            [single::NAN, single::NAN, SIGN | INF, SIGN | INF, INF]
        );
        let rcp = |a| rcp(a, false, noise);
        assert_eq!([SIGN | INF, SIGN, 0, INF, single::NAN].map(rcp), [SIGN, SIGN | INF, INF, 0, single::NAN]);
        let rsqrt = |a| rsqrt(a, false, noise);
        assert_eq!(
            [SIGN | INF, f(-2.0), SIGN, 0, INF].map(rsqrt),
            [single::NAN, single::NAN, SIGN | INF, INF, 0]
        );
        let sqrt = |a| sqrt(a, false, noise);
        assert_eq!([SIGN | INF, f(-2.0), SIGN, 0, INF].map(sqrt), [single::NAN, single::NAN, SIGN, 0, INF]);
        let sin = |a| sin(a, false, noise);
        assert_eq!([SIGN | INF, SIGN, 0, INF].map(sin), [single::NAN, SIGN, 0, single::NAN]);
        let cos = |a| cos(a, false, noise);
        assert_eq!([SIGN | INF, SIGN, 0, INF].map(cos), [single::NAN, ONE, ONE, single::NAN]);
        let tanh = |a| tanh(a, noise);
        assert_eq!([SIGN | INF, SIGN, 0, INF].map(tanh), [SIGN | ONE, SIGN, 0, ONE]);
    }
}

#[test]
fn division_by_huge_numbers_gives_zero() {
    let huge = f(2.0f32.powi(127));
    assert_eq!(div(ONE, huge, false, Noise::OFF), 0);
    assert_eq!(div(SIGN | ONE, huge, false, Noise::OFF), SIGN);
    assert_eq!(div(INF, huge, false, Noise::OFF), single::NAN);
    assert_eq!(div_full(huge, huge, false, Noise::OFF), ONE);
    assert_eq!(div(ONE, INF, false, Noise::OFF), 0);
    assert_eq!(div(f(6.0), f(3.0), false, Noise::OFF), f(2.0));
    assert_eq!(div(f(2.0f32.powi(126)), f(2.0f32.powi(126)), false, Noise::OFF), ONE);
}

#[test]
fn ftz_flushes() {
    assert_eq!(ex2(1, true, Noise::OFF), ONE);
    assert_eq!(ex2(f(-130.0), true, Noise::OFF), 0);
    assert_ne!(ex2(f(-130.0), false, Noise::OFF), 0);
    assert_eq!(rcp(1, true, Noise::OFF), INF);
    assert_eq!(lg2(1, true, Noise::OFF), SIGN | INF);
    assert_eq!(lg2(1, false, Noise::OFF), f(-149.0));
    assert_eq!(sin(SIGN | 1, true, Noise::OFF), SIGN);
}

/// Every tenth power-of-two scale, with and without noise: the error stays within the ISA's bound, and noise
/// shows.
#[test]
fn errors_stay_within_the_documented_bounds() {
    let ulp = |x: f64| {
        let bits = (x as f32).abs().to_bits().max(0x0080_0000);
        f64::from(f32::from_bits(bits & 0x7f80_0000)) * 2.0f64.powi(-23)
    };
    type Bound<'a> = &'a dyn Fn(f64, f64) -> f64;
    let absolute = |bound: f64| move |_: f64, _: f64| bound;
    let relative = |bound: f64| move |_: f64, y: f64| y.abs() * bound;
    let trig = absolute(2.0f64.powf(-20.5));
    let log = |x: f64, y: f64| if x > 0.5 && x < 2.0 { 2.0f64.powi(-22) } else { y.abs() * 2.0f64.powi(-22) };
    let two_ulp = |_: f64, y: f64| 2.5 * ulp(y);
    let one_ulp = |_: f64, y: f64| 1.5 * ulp(y);
    let (root, reciprocal_root) = (relative(2.0f64.powi(-23)), relative(2.0f64.powf(-22.9)));
    let hyperbolic = relative(2.0f64.powi(-11));
    type Case<'a> = (&'a str, fn(u32, bool, Noise) -> u32, fn(f64) -> f64, f64, f64, Bound<'a>);
    let cases: [Case; 8] = [
        ("ex2", ex2, f64::exp2, -120.0, 120.0, &two_ulp),
        ("lg2", lg2, f64::log2, 1e-6, 40.0, &log),
        ("rcp", rcp, f64::recip, 1e-3, 1e3, &one_ulp),
        ("rsqrt", rsqrt, |x| 1.0 / x.sqrt(), 1e-3, 1e3, &reciprocal_root),
        ("sqrt", sqrt, f64::sqrt, 1e-3, 1e3, &root),
        ("sin", sin, f64::sin, -6.25, 6.25, &trig),
        ("cos", cos, f64::cos, -6.25, 6.25, &trig),
        ("tanh", |a, _, noise| tanh(a, noise), f64::tanh, -9.0, 9.0, &hyperbolic),
    ];
    for (name, unit, exact, from, to, bound) in cases {
        for seed in 0..4 {
            let mut moved = 0;
            for i in 0..20_000 {
                let x = (from + (to - from) * f64::from(i) / 20_000.0) as f32;
                let result = unit(x.to_bits(), false, noise_of(seed));
                let truth = exact(f64::from(x));
                let error = (f64::from(f32::from_bits(result)) - truth).abs();
                assert!(
                    error <= bound(f64::from(x), truth),
                    "{name}({x:e}) = {truth:e}: error {error:e}, seed {seed}"
                );
                moved += i32::from(result != unit(x.to_bits(), false, Noise::OFF));
            }
            assert_eq!(moved > 5000, seed != 0, "{name}: noise moved {moved} of 20000 results");
        }
    }
}

#[test]
fn powers_of_two_are_exact_under_noise() {
    for exponent in -149..=127 {
        let exact = f64::from(exponent).exp2() as f32;
        assert_eq!(ex2(f(exponent as f32), false, Noise::seeded(3)), f(exact), "2^{exponent}");
    }
}

#[test]
fn half_units_stay_within_their_bounds() {
    for seed in 0..3 {
        let noise = noise_of(seed);
        for bits in 0..=u16::MAX {
            for (kind, exp_bound, tanh_bound) in [
                (Half::F16, 2.0f64.powf(-9.9), 2.0f64.powf(-10.987)),
                (Half::Bf16, 2.0f64.powi(-7), 2.0f64.powi(-8)),
            ] {
                let x = value(kind.to_f32(bits));
                let of = |bits: u16| value(kind.to_f32(bits));
                if x.is_nan() {
                    assert_eq!(
                        (ex2_half(kind, bits, false, noise), tanh_half(kind, bits, noise)),
                        (half::NAN, half::NAN)
                    );
                    continue;
                }
                let (e, t) = (of(ex2_half(kind, bits, false, noise)), of(tanh_half(kind, bits, noise)));
                assert!((t - x.tanh()).abs() <= tanh_bound, "tanh {kind:?} {x:e} -> {t:e}");
                let truth = x.exp2();
                if truth > 1e-4 && truth < 6e4 {
                    assert!(
                        (e - truth).abs() <= truth * exp_bound,
                        "ex2 {kind:?} {x:e} -> {e:e}, not {truth:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn gross_double_approximations_use_the_upper_word() {
    assert_eq!(rcp_ftz_f64(2.0f64.to_bits()), 0.5f64.to_bits());
    assert_eq!(rcp_ftz_f64(1), f64::INFINITY.to_bits());
    assert_eq!(rcp_ftz_f64(1 << 63), f64::NEG_INFINITY.to_bits());
    assert_eq!(rcp_ftz_f64(f64::NAN.to_bits()), 0x7fff_ffff_0000_0000);
    assert_eq!(rcp_ftz_f64(3.0f64.to_bits()) & 0xffff_ffff, 0);
    assert!((f64::from_bits(rcp_ftz_f64(3.0f64.to_bits())) * 3.0 - 1.0).abs() < 1e-6);
    assert_eq!(rsqrt_ftz_f64(4.0f64.to_bits()), 0.5f64.to_bits());
    assert_eq!(rsqrt_ftz_f64((-0.0f64).to_bits()), f64::NEG_INFINITY.to_bits());
    assert_eq!(rsqrt_ftz_f64((-4.0f64).to_bits()), 0x7fff_ffff_0000_0000);
    assert_eq!(rsqrt_f64(0.25f64.to_bits()), 2.0f64.to_bits());
    assert_eq!(rsqrt_f64((-0.0f64).to_bits()), f64::NEG_INFINITY.to_bits());
}
