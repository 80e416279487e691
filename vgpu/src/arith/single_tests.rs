//! Tests of `.f32` arithmetic against exact integer arithmetic and hand-picked edges.

use super::*;
use crate::arith::format::{Exact, Format};

const EDGES: [u32; 24] = [
    0,
    SIGN,
    1,
    SIGN | 1,
    0x007f_ffff,
    MIN_NORMAL,
    SIGN | MIN_NORMAL,
    0x0080_0001,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x3f7f_ffff,
    0x3f00_0000,
    0x4b80_0001,
    0xcb80_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    INFINITY,
    SIGN | INFINITY,
    0x7fc0_0000,
    0xffc1_2345,
    0x7f80_0001,
    0x3580_0000,
    0x0000_0100,
];

const ROUNDS: [Round; 4] = [Round::Nearest, Round::Zero, Round::Down, Round::Up];

fn mode(round: Round) -> F32Mode {
    F32Mode { round, ..F32Mode::default() }
}

/// Edges, then pseudo-random patterns.
fn samples(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|i| match EDGES.get(i as usize) {
        Some(&edge) => edge,
        None => i.wrapping_mul(0x9e37_79b1).rotate_left(i % 32) ^ i << 7,
    })
}

/// `a · b + c` in integers: the exact value over a common exponent, sticky where the operands lie far apart.
fn exact_fma(a: u32, b: u32, c: u32, round: Round) -> Option<u32> {
    let [x, y, z] = [a, b, c].map(f32::from_bits);
    if !(x.is_finite() && y.is_finite() && z.is_finite()) {
        return None;
    }
    let [x, y, z] = [x, y, z].map(|v| Exact::from_f64(v.into()));
    let product = (x.negative ^ y.negative, x.significand * y.significand, x.exponent + y.exponent);
    let (p, q) = (product, (z.negative, z.significand, z.exponent));
    // Doubles carry 53 bits of which 24 are used: strip the 29 zeros so that sums fit in 128 bits.
    let p = (p.0, p.1 >> 58, p.2 + 58);
    let q = (q.0, q.1 >> 29, q.2 + 29);
    let (high, low) = if p.1 == 0 || q.1 != 0 && q.2 >= p.2 { (q, p) } else { (p, q) };
    let gap = (high.2 - low.2).min(if low.1 == 0 { 0 } else { 70 });
    let signed = |v: (bool, u128, i32), shift: i32| (if v.0 { -1 } else { 1 }) * ((v.1 << shift) as i128);
    let far = low.1 != 0 && high.2 - low.2 > 70 && high.1 != 0;
    let (sum, exponent) = if low.1 == 0 {
        (signed(high, 0), high.2)
    } else if high.1 == 0 {
        (signed(low, 0), low.2)
    } else if far {
        // Anything that far below only breaks ties.
        ((signed(high, 70)) + if low.0 { -1 } else { 1 }, high.2 - 70)
    } else {
        (signed(high, gap) + signed(low, 0), low.2)
    };
    if sum == 0 {
        let both = p.0 && q.0;
        return Some(if both || round == Round::Down && (p.0 || q.0) { SIGN } else { 0 });
    }
    Some(Format::F32.encode(Exact { exponent, ..Exact::from_int(sum) }, round) as u32)
}

#[test]
fn add_mul_fma_are_exact_in_every_rounding_direction() {
    for (i, a) in samples(200).enumerate() {
        for (j, b) in samples(200).enumerate() {
            for c in EDGES.into_iter().chain(samples(((i * j) % 40) as u32).skip(24)) {
                for round in ROUNDS {
                    if let Some(expected) = exact_fma(a, b, c, round) {
                        assert_eq!(
                            fma(a, b, c, mode(round)),
                            expected,
                            "fma.{round:?} {a:08x} {b:08x} {c:08x}"
                        );
                    }
                }
            }
            for round in ROUNDS {
                if let Some(expected) = exact_fma(a, 0x3f80_0000, b, round) {
                    assert_eq!(add(a, b, mode(round)), expected, "add.{round:?} {a:08x} {b:08x}");
                    assert_eq!(sub(a, b ^ SIGN, mode(round)), expected);
                }
                // A zero of the product's sign leaves the product as it is.
                let zero = (a ^ b) & SIGN;
                if let Some(expected) = exact_fma(a, b, zero, round) {
                    assert_eq!(mul(a, b, mode(round)), expected, "mul.{round:?} {a:08x} {b:08x}");
                }
            }
        }
    }
}

/// A quotient or root is right when the exact value lies between it and its neighbour on the right side.
#[test]
fn div_and_sqrt_bracket_the_exact_value() {
    let finite = |bits: u32| f32::from_bits(bits).is_finite() && bits & !SIGN != 0;
    for a in samples(400).filter(|&a| finite(a)) {
        for b in samples(200).filter(|&b| finite(b)) {
            let [down, up, zero] =
                [Round::Down, Round::Up, Round::Zero].map(|r| f32::from_bits(div(a, b, mode(r))));
            let (x, y) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
            // Products of a 24-bit quotient and b are exact in double precision.
            let below = |q: f32| {
                q == f32::NEG_INFINITY || (f64::from(q) * y <= x) == (y > 0.0) || f64::from(q) * y == x
            };
            let above =
                |q: f32| q == f32::INFINITY || (f64::from(q) * y >= x) == (y > 0.0) || f64::from(q) * y == x;
            assert!(below(down) && above(up), "{a:08x} / {b:08x}: {down:e} {up:e}");
            let exact = down.is_finite() && f64::from(down) * y == x;
            assert_eq!(up.to_bits(), if exact { down } else { down.next_up() }.to_bits(), "{a:08x}/{b:08x}");
            assert_eq!(zero.to_bits(), if x / y > 0.0 { down } else { up }.to_bits());
        }
        if a & SIGN == 0 {
            let [down, up] = [Round::Down, Round::Up].map(|r| f32::from_bits(sqrt(a, mode(r))));
            let x = f64::from(f32::from_bits(a));
            assert!(f64::from(down) * f64::from(down) <= x && f64::from(up) * f64::from(up) >= x);
            assert!(up == down && f64::from(up) * f64::from(up) == x || up == down.next_up());
            assert_eq!(f32::from_bits(sqrt(a, mode(Round::Zero))), down);
        }
    }
}

#[test]
fn special_operands_of_div_rcp_sqrt() {
    for round in ROUNDS {
        let m = mode(round);
        assert_eq!(div(0x3f80_0000, 0, m), INFINITY, "1/+0 = +inf, whatever the direction");
        assert_eq!(div(0xbf80_0000, 0, m), SIGN | INFINITY);
        assert_eq!(div(0, 0, m), NAN);
        assert_eq!(div(INFINITY, INFINITY, m), NAN);
        assert_eq!(rcp(SIGN | INFINITY, m), SIGN);
        assert_eq!(sqrt(SIGN, m), SIGN, "sqrt(-0) = -0");
        assert_eq!(sqrt(0xbf80_0000, m), NAN);
        assert_eq!(sqrt(INFINITY, m), INFINITY);
        assert_eq!(fma(INFINITY, 0, 0x3f80_0000, m), NAN);
        assert_eq!(add(INFINITY, SIGN | INFINITY, m), NAN);
    }
    assert_eq!(rcp(1, mode(Round::Zero)), 0x7f7f_ffff, "1/denorm_min overflows to the largest number");
    assert_eq!(rcp(1, mode(Round::Up)), INFINITY);
}

#[test]
fn ftz_flushes_inputs_and_results() {
    let m = F32Mode { ftz: true, ..F32Mode::default() };
    assert_eq!(add(1, 1, m), 0);
    assert_eq!(add(SIGN | 5, SIGN | 7, m), SIGN, "the sign stays");
    assert_eq!(mul(MIN_NORMAL, 0x3f00_0000, m), 0, "a subnormal result is flushed");
    assert_eq!(mul(MIN_NORMAL | SIGN, 0x3f00_0000, m), SIGN);
    assert_eq!(div(0x3f80_0000, 1, m), INFINITY, "a subnormal divisor is zero");
    assert_eq!(fma(1, 0x7f00_0000, 0x3f80_0000, m), 0x3f80_0000);
    assert_eq!((abs(SIGN | 3, true), neg(3, true), abs(SIGN | 3, false)), (0, SIGN, 3));
    assert_eq!(add(MIN_NORMAL, 0, m), MIN_NORMAL);
}

#[test]
fn sat_clamps_to_the_unit_interval_and_flushes_nan() {
    let m = F32Mode { sat: true, ..F32Mode::default() };
    assert_eq!(add(0x3f80_0000, 0x3f80_0000, m), 0x3f80_0000);
    assert_eq!(add(0xbf80_0000, 0, m), 0);
    assert_eq!(add(NAN, 0, m), 0);
    assert_eq!(mul(INFINITY, 0, m), 0);
    assert_eq!(add(SIGN, SIGN, m), 0);
    assert_eq!(add(0x3e80_0000, 0x3e80_0000, m), 0x3f00_0000);
}

#[test]
fn exact_zero_sums_take_the_sign_of_the_rounding_direction() {
    let one = 0x3f80_0000;
    for (round, expected) in [(Round::Nearest, 0), (Round::Zero, 0), (Round::Up, 0), (Round::Down, SIGN)] {
        assert_eq!(sub(one, one, mode(round)), expected, "{round:?}");
        assert_eq!(fma(one, one, one | SIGN, mode(round)), expected);
        assert_eq!(add(0, SIGN, mode(round)), expected);
        assert_eq!(add(0, 0, mode(round)), 0);
        assert_eq!(add(SIGN, SIGN, mode(round)), SIGN);
    }
}

#[test]
fn min_max_order_zeros_and_treat_nan_as_asked() {
    let plain = MinMaxMode::default();
    let nan = MinMaxMode { nan: true, ..plain };
    assert_eq!((min(0, SIGN, plain), min(SIGN, 0, plain)), (SIGN, SIGN));
    assert_eq!((max(0, SIGN, plain), max(SIGN, 0, plain)), (0, 0));
    assert_eq!((min(0x7fc0_1234, 5, plain), max(5, 0xffc0_1234, plain)), (5, 5));
    assert_eq!((min(0x7fc0_1234, 5, nan), max(0x7fc0_1234, 0xffff_ffff, plain)), (NAN, NAN));
    assert_eq!(min(1, SIGN | 1, MinMaxMode { ftz: true, ..plain }), SIGN);
    let xorsign = MinMaxMode { abs: true, xorsign: true, ..plain };
    let (two, three) = (0x4000_0000, 0x4040_0000);
    assert_eq!(min(two | SIGN, three, xorsign), two | SIGN);
    assert_eq!(max(two | SIGN, three | SIGN, xorsign), three);
    assert_eq!(max(two | SIGN, NAN, MinMaxMode { abs: true, ..plain }), two);
    for a in samples(300).filter(|&a| !is_nan(a)) {
        for b in samples(300).filter(|&b| !is_nan(b)) {
            let (x, y) = (f32::from_bits(a), f32::from_bits(b));
            if x != y {
                assert_eq!(min(a, b, plain), x.min(y).to_bits());
                assert_eq!(max(a, b, plain), x.max(y).to_bits());
            }
        }
    }
}

#[test]
fn testp_sees_zero_as_normal() {
    use TestProperty::{Finite, Infinite, Normal, NotANumber, Number, Subnormal};
    assert!(Normal.f32(SIGN) && Normal.f32(0x3f80_0000) && !Normal.f32(1) && !Normal.f32(INFINITY));
    assert!(
        Subnormal.f32(1) && !Subnormal.f32(0) && Finite.f32(1) && !Finite.f32(NAN) && !Finite.f32(INFINITY)
    );
    assert!(
        Infinite.f32(SIGN | INFINITY)
            && !Infinite.f32(NAN)
            && Number.f32(INFINITY)
            && NotANumber.f32(0x7f80_0001)
    );
    assert!(Subnormal.f64(1) && Normal.f64(1 << 63) && NotANumber.f64(u64::MAX) && Infinite.f64(0x7ff << 52));
}
