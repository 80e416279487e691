//! `.f64` arithmetic: IEEE 754 results in all four rounding directions, NaN payloads kept.
//!
//! Round to nearest is the host's own arithmetic. The directed modes are rare and computed in integers.

use super::format::{Exact, Format, Round};

const SIGN: u64 = 1 << 63;
const QUIET: u64 = 1 << 51;
/// The NaN of an invalid operation.
pub const NAN: u64 = 0xfff8_0000_0000_0000;

/// The NaN that an operation on `operands` gives: the first NaN among them, quieted, else the default one.
fn nan_of(operands: &[u64]) -> u64 {
    operands.iter().find(|&&bits| f64::from_bits(bits).is_nan()).map_or(NAN, |bits| bits | QUIET)
}

#[inline(always)]
fn finish(x: f64, operands: &[u64]) -> u64 {
    if x.is_nan() { nan_of(operands) } else { x.to_bits() }
}

/// `a + b`.
#[inline(always)]
pub fn add(a: u64, b: u64, round: Round) -> u64 {
    match round {
        Round::Nearest => finish(f64::from_bits(a) + f64::from_bits(b), &[a, b]),
        _ => fma_directed(a, 1.0f64.to_bits(), b, round),
    }
}

/// `a - b`.
#[inline(always)]
pub fn sub(a: u64, b: u64, round: Round) -> u64 {
    match round {
        Round::Nearest => finish(f64::from_bits(a) - f64::from_bits(b), &[a, b]),
        _ => fma_directed(a, 1.0f64.to_bits(), neg(b), round),
    }
}

/// `a · b`.
#[inline(always)]
pub fn mul(a: u64, b: u64, round: Round) -> u64 {
    match round {
        Round::Nearest => finish(f64::from_bits(a) * f64::from_bits(b), &[a, b]),
        // Adding a zero of the product's sign changes nothing.
        _ => fma_directed(a, b, (a ^ b) & SIGN, round),
    }
}

/// `a · b + c`, rounded once.
#[inline(always)]
pub fn fma(a: u64, b: u64, c: u64, round: Round) -> u64 {
    match round {
        Round::Nearest => finish(f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)), &[a, b, c]),
        _ => fma_directed(a, b, c, round),
    }
}

/// `a / b`.
#[inline(always)]
pub fn div(a: u64, b: u64, round: Round) -> u64 {
    let quotient = f64::from_bits(a) / f64::from_bits(b);
    match round {
        Round::Nearest => finish(quotient, &[a, b]),
        _ if is_special(a) || is_special(b) || a & !SIGN == 0 || b & !SIGN == 0 => finish(quotient, &[a, b]),
        _ => div_directed(a, b, round),
    }
}

/// `1 / a`.
#[inline(always)]
pub fn rcp(a: u64, round: Round) -> u64 {
    div(1.0f64.to_bits(), a, round)
}

/// Square root.
#[inline(always)]
pub fn sqrt(a: u64, round: Round) -> u64 {
    let root = f64::from_bits(a).sqrt();
    match round {
        Round::Nearest => finish(root, &[a]),
        _ if is_special(a) || a & !SIGN == 0 || a & SIGN != 0 => finish(root, &[a]),
        _ => sqrt_directed(a, round),
    }
}

fn is_special(a: u64) -> bool {
    a & !SIGN >= 0x7ff << 52
}

fn fma_directed(a: u64, b: u64, c: u64, round: Round) -> u64 {
    if is_special(a) || is_special(b) || is_special(c) {
        return fma(a, b, c, Round::Nearest);
    }
    let [x, y, z] = [a, b, c].map(|bits| Exact::from_f64(f64::from_bits(bits)));
    let product = Exact {
        negative: x.negative ^ y.negative,
        significand: x.significand * y.significand,
        exponent: x.exponent + y.exponent,
    };
    let sum = sum(product, z);
    if sum.significand == 0 {
        let negative = if product.negative == z.negative { z.negative } else { round == Round::Down };
        return if negative { SIGN } else { 0 };
    }
    Format::F64.encode(sum, round)
}

/// The sum of two values below 2^106 units each, with far-away low bits folded into the last one.
fn sum(p: Exact, q: Exact) -> Exact {
    if p.significand == 0 || q.significand == 0 {
        return if p.significand == 0 { q } else { p };
    }
    // Normalise both to 126 bits; the smaller then loses bits only when it is far below the larger.
    let [p, q] = [p, q].map(|v| {
        let shift = v.significand.leading_zeros() - 2;
        Exact { significand: v.significand << shift, exponent: v.exponent - shift as i32, ..v }
    });
    let (high, low) =
        if (p.exponent, p.significand) >= (q.exponent, q.significand) { (p, q) } else { (q, p) };
    let gap = (high.exponent - low.exponent) as u32;
    let shifted = if gap > 127 {
        1
    } else {
        let lost = low.significand & ((1u128 << gap) - 1) != 0;
        low.significand >> gap | u128::from(lost)
    };
    let significand =
        if high.negative == low.negative { high.significand + shifted } else { high.significand - shifted };
    Exact { significand, ..high }
}

fn div_directed(a: u64, b: u64, round: Round) -> u64 {
    let [x, y] = [a, b].map(|bits| normalised(f64::from_bits(bits)));
    // 53-bit significands: 74 more places leave a quotient of at least 73 bits, the last one sticky.
    let numerator = x.significand << 74;
    let sticky = u128::from(!numerator.is_multiple_of(y.significand));
    let significand = (numerator / y.significand) | sticky;
    let value =
        Exact { negative: x.negative ^ y.negative, significand, exponent: x.exponent - y.exponent - 74 };
    Format::F64.encode(value, round)
}

fn sqrt_directed(a: u64, round: Round) -> u64 {
    let x = normalised(f64::from_bits(a));
    // An even exponent, and room for a root of at least 61 bits.
    let shift = 70 + (x.exponent & 1);
    let radicand = x.significand << shift;
    let root = radicand.isqrt();
    let sticky = u128::from(root * root != radicand);
    let value =
        Exact { negative: false, significand: root << 1 | sticky, exponent: (x.exponent - shift) / 2 - 1 };
    Format::F64.encode(value, round)
}

/// A finite non-zero double as a significand of exactly 53 bits.
fn normalised(x: f64) -> Exact {
    let exact = Exact::from_f64(x);
    let shift = exact.significand.leading_zeros() - 75;
    Exact { significand: exact.significand << shift, exponent: exact.exponent - shift as i32, ..exact }
}

/// `|a|`; NaN passes through unchanged.
#[inline(always)]
pub fn abs(a: u64) -> u64 {
    if f64::from_bits(a).is_nan() { a } else { a & !SIGN }
}

/// `-a`.
#[inline(always)]
pub fn neg(a: u64) -> u64 {
    if f64::from_bits(a).is_nan() { a } else { a ^ SIGN }
}

/// The value of `b` with the sign of `a`.
#[inline(always)]
pub fn copysign(a: u64, b: u64) -> u64 {
    a & SIGN | b & !SIGN
}

/// The lesser operand; a NaN gives way to a number, -0 counts as less than +0.
#[inline(always)]
pub fn min(a: u64, b: u64) -> u64 {
    pick(a, b, |x, y| x < y)
}

/// The greater operand; a NaN gives way to a number, +0 counts as greater than -0.
#[inline(always)]
pub fn max(a: u64, b: u64) -> u64 {
    pick(a, b, |x, y| x > y)
}

#[inline(always)]
fn pick(a: u64, b: u64, first: impl Fn(i64, i64) -> bool) -> u64 {
    match (f64::from_bits(a).is_nan(), f64::from_bits(b).is_nan()) {
        (true, true) => a | QUIET,
        (true, false) => b,
        (false, true) => a,
        (false, false) => {
            if first(ordered(a), ordered(b)) {
                a
            } else {
                b
            }
        }
    }
}

/// Maps float bits to integers in the same order, -0 just below +0.
#[inline(always)]
fn ordered(a: u64) -> i64 {
    let a = a as i64;
    a ^ ((a >> 63) as u64 >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGES: [f64; 18] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        5e-324,
        -5e-324,
        f64::MIN_POSITIVE,
        2.225_073_858_507_201e-308,
        1.0 + f64::EPSILON,
        1.0 - f64::EPSILON / 2.0,
        3.0,
        -7.0,
        f64::MAX,
        -f64::MAX,
        f64::INFINITY,
        1e-300,
        1e300,
        0.1,
    ];

    fn samples() -> Vec<u64> {
        let random = (1..60u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(i as u32));
        EDGES.iter().map(|x| x.to_bits()).chain(random.filter(|&b| !f64::from_bits(b).is_nan())).collect()
    }

    /// The integer path must agree with the host where the host can say: rounding to nearest.
    #[test]
    fn integer_path_rounds_to_nearest_like_the_host() {
        for a in samples() {
            for b in samples() {
                if !is_special(a) && !is_special(b) && a & !SIGN != 0 && b & !SIGN != 0 {
                    let native = f64::from_bits(a) / f64::from_bits(b);
                    assert_eq!(div_directed(a, b, Round::Nearest), native.to_bits(), "{a:x} / {b:x}");
                }
                for c in samples() {
                    let native = f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c));
                    if !is_special(a) && !is_special(b) && !is_special(c) {
                        assert_eq!(
                            fma_directed(a, b, c, Round::Nearest),
                            native.to_bits(),
                            "{a:x} {b:x} {c:x}"
                        );
                    }
                }
            }
            if a & SIGN == 0 && a != 0 && !is_special(a) {
                assert_eq!(sqrt_directed(a, Round::Nearest), f64::from_bits(a).sqrt().to_bits());
            }
        }
    }

    /// Down <= nearest <= up, at most one step apart, equal only together; toward zero is one of them.
    #[test]
    fn directed_results_bracket_the_nearest_one() {
        let check = |label: &str, f: &dyn Fn(Round) -> u64| {
            let [near, zero, down, up] = [Round::Nearest, Round::Zero, Round::Down, Round::Up].map(f);
            let [n, d, u] = [near, down, up].map(f64::from_bits);
            if n.is_nan() {
                return;
            }
            assert!(d <= n && n <= u, "{label}: {d:e} {n:e} {u:e}");
            assert!(d == u || d.next_up() == u, "{label}: {d:e} {u:e}");
            assert_eq!(f64::from_bits(zero).abs(), d.abs().min(u.abs()), "{label}");
        };
        for a in samples() {
            for b in samples() {
                check(&format!("{a:x} + {b:x}"), &|r| add(a, b, r));
                check(&format!("{a:x} - {b:x}"), &|r| sub(a, b, r));
                check(&format!("{a:x} * {b:x}"), &|r| mul(a, b, r));
                check(&format!("{a:x} / {b:x}"), &|r| div(a, b, r));
            }
            check(&format!("sqrt {a:x}"), &|r| sqrt(a, r));
            check(&format!("rcp {a:x}"), &|r| rcp(a, r));
        }
    }

    #[test]
    fn inexact_results_differ_between_directions() {
        let (one, three, tenth) = (1.0f64.to_bits(), 3.0f64.to_bits(), 0.1f64.to_bits());
        assert_eq!(div(one, three, Round::Up), div(one, three, Round::Down) + 1);
        assert_eq!(mul(tenth, tenth, Round::Up), mul(tenth, tenth, Round::Zero) + 1);
        assert_eq!(add(one, 1, Round::Up), one + 1, "a subnormal still nudges the sum");
        assert_eq!(add(one, 1 | SIGN, Round::Zero), one - 1);
        assert_eq!(sub(one, one, Round::Down), SIGN);
        assert_eq!(sub(one, one, Round::Up), 0);
        assert_eq!(mul(1, 1, Round::Up), 1, "underflow rounds up to the smallest subnormal");
        assert_eq!(add(f64::MAX.to_bits(), one, Round::Up), f64::INFINITY.to_bits());
        assert_eq!(add(f64::MAX.to_bits(), f64::MAX.to_bits(), Round::Zero), f64::MAX.to_bits());
    }

    #[test]
    fn nan_payloads_pass_through_quieted() {
        let signalling = 0x7ff0_0000_0000_1234;
        assert_eq!(add(signalling, 0, Round::Nearest), signalling | QUIET);
        assert_eq!(mul(0, 0xfff8_0000_0000_0042, Round::Zero), 0xfff8_0000_0000_0042);
        assert_eq!(sub(0x7ff << 52, 0x7ff << 52, Round::Nearest), NAN);
        assert_eq!((abs(NAN | 5), neg(1), abs(SIGN | 1)), (NAN | 5, SIGN | 1, 1));
        assert_eq!((min(NAN, 3), max(3, NAN), min(0, SIGN), max(SIGN, 0)), (3, 3, SIGN, 0));
        assert_eq!(sqrt((-1.0f64).to_bits(), Round::Down), NAN);
    }
}
