//! Tests of the matrix products against plain loops over matrices placed by the fragment layouts.

use super::*;
use crate::arith::wmma;

/// Small pseudo-random integers, exact in every type.
fn number(seed: usize, i: usize, j: usize, modulus: i32) -> i32 {
    let x = (seed * 7919 + i * 104_729 + j * 1_299_709) as u32;
    (x.wrapping_mul(0x9e37_79b1) >> 16) as i32 % modulus
}

fn encode(element: Element, value: i32) -> u32 {
    let x = value as f32;
    match element {
        Element::F16 => half::f16_from_f32(x.to_bits()).into(),
        Element::Bf16 => half::bf16_from_f32(x.to_bits()).into(),
        Element::Tf32 => x.to_bits() | 0x1fff,
        Element::E4m3 => Format::E4M3.from_f64(x.into(), Round::Nearest) as u32,
        Element::E5m2 => Format::E5M2.from_f64(x.into(), Round::Nearest) as u32,
        _ => value as u32 & ((1 << element.bits()) - 1),
    }
}

/// The range of test values an element type holds exactly.
fn value(element: Element, seed: usize, i: usize, j: usize) -> i32 {
    match element {
        Element::U8 => number(seed, i, j, 256),
        Element::S8 => number(seed, i, j, 256) - 128,
        Element::U4 => number(seed, i, j, 16),
        Element::S4 => number(seed, i, j, 16) - 8,
        Element::B1 => number(seed, i, j, 2),
        Element::E5m2 => number(seed, i, j, 9) - 4,
        _ => number(seed, i, j, 15) - 7,
    }
}

/// Fills registers from a matrix through a layout.
fn fill(
    count: usize,
    bits: usize,
    position: impl Fn(usize, usize) -> (usize, usize),
    element: impl Fn(usize, usize) -> u32,
) -> Vec<[u32; 32]> {
    let per = 32 / bits;
    (0..count)
        .map(|r| {
            std::array::from_fn(|lane| {
                (0..per).fold(0, |word, e| {
                    let (row, column) = position(lane, r * per + e);
                    word | element(row, column) << (bits * e)
                })
            })
        })
        .collect()
}

fn accumulator_bits(kind: Accumulator, x: i32) -> u32 {
    match kind {
        Accumulator::F16 => half::f16_from_f32((x as f32).to_bits()).into(),
        Accumulator::F32 => (x as f32).to_bits(),
        _ => x as u32,
    }
}

fn check(mma: Mma) {
    let Shape { m, n, k } = mma.shape;
    let shape = mma.shape;
    let a_value = |i: usize, j: usize| value(mma.a, 1, i, j);
    let b_value = |i: usize, j: usize| value(mma.b, 2, i, j);
    let c_value = |i: usize, j: usize| number(3, i, j, 100) - 50;
    let a = fill(
        mma.a_registers(),
        mma.a.bits(),
        |l, i| shape.a_position(mma.a, l, i),
        |i, j| encode(mma.a, a_value(i, j)),
    );
    let b = fill(
        mma.b_registers(),
        mma.b.bits(),
        |l, i| shape.b_position(mma.b, l, i),
        |i, j| encode(mma.b, b_value(i, j)),
    );
    let c_of = |kind, i, j| accumulator_bits(kind, c_value(i, j));
    let c = fill(mma.c_registers(), mma.c.bits(), |l, i| shape.c_position(l, i), |i, j| c_of(mma.c, i, j));
    let mut d = vec![[0; 32]; mma.d_registers()];
    mma.execute(&a, &b, &c, &mut d);
    let combine = |x: i32, y: i32| match (mma.a, mma.bit_op) {
        (Element::B1, BitOp::Xor) => x ^ y,
        (Element::B1, BitOp::And) => x & y,
        _ => x * y,
    };
    let dot = |i: usize, j: usize| {
        (0..k).map(|l| combine(a_value(i, l), b_value(l, j))).sum::<i32>() + c_value(i, j)
    };
    let expected = fill(
        mma.d_registers(),
        mma.d.bits(),
        |l, i| shape.c_position(l, i),
        |i, j| {
            assert!(i < m && j < n);
            accumulator_bits(mma.d, dot(i, j))
        },
    );
    assert_eq!(d, expected, "{mma:?}");
}

fn shape(m: usize, n: usize, k: usize) -> Shape {
    Shape { m, n, k }
}

#[test]
fn every_dense_shape_multiplies_integers_exactly() {
    use Accumulator::{F16, F32, S32};
    use Element::{B1, Bf16, E4m3, E5m2, S4, S8, Tf32, U4, U8};
    let f16 = Element::F16;
    for (c, d) in [(F32, F32), (F16, F16)] {
        for k in [8, 16] {
            check(Mma::new(shape(16, 8, k), f16, f16, c, d).unwrap());
        }
        for (a, b) in [(E4m3, E4m3), (E4m3, E5m2), (E5m2, E5m2)] {
            check(Mma::new(shape(16, 8, 16), a, b, c, d).unwrap());
            check(Mma::new(shape(16, 8, 32), a, b, c, d).unwrap());
        }
    }
    for (k, element) in [(8, Bf16), (16, Bf16), (4, Tf32), (8, Tf32)] {
        check(Mma::new(shape(16, 8, k), element, element, F32, F32).unwrap());
    }
    for (a, b) in [(S8, S8), (S8, U8), (U8, S8), (U8, U8)] {
        for sizes in [shape(8, 8, 16), shape(16, 8, 16), shape(16, 8, 32)] {
            check(Mma::new(sizes, a, b, S32, S32).unwrap());
        }
    }
    for (a, b) in [(S4, S4), (S4, U4), (U4, U4)] {
        for sizes in [shape(8, 8, 32), shape(16, 8, 32), shape(16, 8, 64)] {
            check(Mma::new(sizes, a, b, S32, S32).unwrap());
        }
    }
    for sizes in [shape(8, 8, 128), shape(16, 8, 128), shape(16, 8, 256)] {
        let xor = Mma::new(sizes, B1, B1, S32, S32).unwrap();
        check(xor);
        check(Mma { bit_op: BitOp::And, ..xor });
    }
}

#[test]
fn every_wmma_shape_multiplies_integers_exactly() {
    use Accumulator::{F16, F32, S32};
    use Element::{B1, Bf16, S4, S8, Tf32, U4, U8};
    for sizes in [shape(16, 16, 16), shape(8, 32, 16), shape(32, 8, 16)] {
        for (c, d) in [(F32, F32), (F16, F16), (F16, F32), (F32, F16)] {
            check(wmma::product(sizes, Element::F16, Element::F16, c, d).unwrap());
        }
        check(wmma::product(sizes, Bf16, Bf16, F32, F32).unwrap());
        check(wmma::product(sizes, S8, S8, S32, S32).unwrap());
        check(wmma::product(sizes, U8, U8, S32, S32).unwrap());
    }
    check(wmma::product(shape(16, 16, 8), Tf32, Tf32, F32, F32).unwrap());
    check(wmma::product(shape(8, 8, 32), S4, S4, S32, S32).unwrap());
    check(wmma::product(shape(8, 8, 32), U4, U4, S32, S32).unwrap());
    check(wmma::product(shape(8, 8, 128), B1, B1, S32, S32).unwrap());
}

#[test]
fn double_products() {
    for sizes in [shape(8, 8, 4), shape(16, 8, 4), shape(16, 8, 8), shape(16, 8, 16)] {
        let (e, acc) = (Element::F64, Accumulator::F64);
        let mma = Mma::new(sizes, e, e, acc, acc).unwrap();
        let of = |seed, i: usize, j: usize| f64::from(number(seed, i, j, 1000) - 500) / 8.0;
        let load =
            |count: usize, seed, position: &dyn Fn(usize, usize) -> (usize, usize)| -> Vec<[u64; 32]> {
                (0..count)
                    .map(|r| {
                        std::array::from_fn(|lane| {
                            let (i, j) = position(lane, r);
                            of(seed, i, j).to_bits()
                        })
                    })
                    .collect()
            };
        let a = load(mma.a_registers(), 1, &|l, i| sizes.a_position(e, l, i));
        let b = load(mma.b_registers(), 2, &|l, i| sizes.b_position(e, l, i));
        let c = load(mma.c_registers(), 3, &|l, i| sizes.c_position(l, i));
        let mut d = vec![[0; 32]; mma.d_registers()];
        mma.execute_f64(&a, &b, &c, &mut d);
        for (r, register) in d.iter().enumerate() {
            for (lane, bits) in register.iter().enumerate() {
                let (i, j) = sizes.c_position(lane, r);
                let dot = (0..sizes.k).map(|l| of(1, i, l) * of(2, l, j)).sum::<f64>() + of(3, i, j);
                assert_eq!(f64::from_bits(*bits), dot);
            }
        }
    }
}

/// The four products of `m8n8k4`, each with the layouts that the ISA writes for its two groups of lanes.
#[test]
fn quad_pairs() {
    use Accumulator::{F16, F32};
    for (a_column, b_row) in [(false, false), (true, false), (false, true), (true, true)] {
        for (c_type, d_type) in [(F32, F32), (F16, F16), (F16, F32)] {
            let mma = Mma::new(shape(8, 8, 4), Element::F16, Element::F16, c_type, d_type).unwrap();
            let mma = Mma { a_column, b_row, ..mma };
            let lanes = |q: usize| (0..4).map(move |t| 4 * q + t).chain((0..4).map(move |t| 16 + 4 * q + t));
            let (mut a, mut b) = (vec![[0u32; 32]; 2], vec![[0u32; 32]; 2]);
            let mut c = vec![[0u32; 32]; mma.c_registers()];
            let upper = |lane: usize| if lane < 16 { 0 } else { 4 };
            let position_c = |kind, lane: usize, i: usize| match kind {
                F16 => (lane % 4 + upper(lane), i),
                _ => ((lane & 1) + (i & 2) + upper(lane), (i & 4) + (lane & 2) + (i & 1)),
            };
            for q in 0..4 {
                for lane in lanes(q) {
                    for i in 0..4 {
                        let (row, column) = if a_column {
                            (i % 4 + upper(lane), lane % 4)
                        } else {
                            (lane % 4 + upper(lane), i)
                        };
                        a[i / 2][lane] |=
                            encode(Element::F16, value(Element::F16, q, row, column)) << (16 * (i % 2));
                        let (row, column) =
                            if b_row { (lane % 4, i + upper(lane)) } else { (i, lane % 4 + upper(lane)) };
                        b[i / 2][lane] |=
                            encode(Element::F16, value(Element::F16, 9 + q, row, column)) << (16 * (i % 2));
                    }
                    for i in 0..8 {
                        let (row, column) = position_c(c_type, lane, i);
                        let bits = accumulator_bits(c_type, number(q, row, column, 64));
                        match c_type {
                            F16 => c[i / 2][lane] |= bits << (16 * (i % 2)),
                            _ => c[i][lane] = bits,
                        }
                    }
                }
            }
            let mut d = vec![[0; 32]; mma.d_registers()];
            mma.execute(&a, &b, &c, &mut d);
            for q in 0..4 {
                for lane in lanes(q) {
                    for i in 0..8 {
                        let (row, column) = position_c(d_type, lane, i);
                        let dot: i32 = (0..4)
                            .map(|l| value(Element::F16, q, row, l) * value(Element::F16, 9 + q, l, column))
                            .sum();
                        let expected = accumulator_bits(d_type, dot + number(q, row, column, 64));
                        let seen = if d_type == F16 {
                            d[i / 2][lane] >> (16 * (i % 2)) & 0xffff
                        } else {
                            d[i][lane]
                        };
                        assert_eq!(seen, expected, "{mma:?} product {q} lane {lane} element {i}");
                    }
                }
            }
        }
    }
}

#[test]
fn integers_wrap_or_clamp() {
    let mma =
        Mma::new(shape(8, 8, 16), Element::U8, Element::U8, Accumulator::S32, Accumulator::S32).unwrap();
    let (a, b, c) = ([[u32::MAX; 32]], [[u32::MAX; 32]], [[i32::MAX as u32 - 5; 32]; 2]);
    let mut d = [[0; 32]; 2];
    mma.execute(&a, &b, &c, &mut d);
    assert_eq!(d[0][0], (i32::MAX - 5).wrapping_add(16 * 255 * 255) as u32);
    Mma { satfinite: true, ..mma }.execute(&a, &b, &c, &mut d);
    assert_eq!(d[1][31], i32::MAX as u32);
}

#[test]
fn inputs_are_rounded_to_their_type_and_nan_spreads() {
    let mma =
        Mma::new(shape(16, 8, 8), Element::Tf32, Element::Tf32, Accumulator::F32, Accumulator::F32).unwrap();
    let one_and_a_bit = 0x3f80_1fff;
    let (a, b, mut c) = (vec![[one_and_a_bit; 32]; 4], vec![[0x3f80_0000; 32]; 2], vec![[0; 32]; 4]);
    let mut d = vec![[0; 32]; 4];
    mma.execute(&a, &b, &c, &mut d);
    assert_eq!(d[0][0], 8f32.to_bits(), "the low 13 bits of tf32 do not count");
    assert_eq!(truncate_tf32(one_and_a_bit), 0x3f80_0000);
    c[1][7] = 0xffc0_0123;
    mma.execute(&a, &b, &c, &mut d);
    assert_eq!((d[1][7], d[1][6]), (single::NAN, 8f32.to_bits()));
}

#[test]
fn shapes_the_isa_lacks_are_refused() {
    use Accumulator::{F16, F32, S32};
    let new = |m, n, k, a, b, c, d| Mma::new(shape(m, n, k), a, b, c, d);
    assert_eq!(new(16, 8, 16, Element::Tf32, Element::Tf32, F32, F32), None);
    assert_eq!(new(16, 8, 16, Element::Bf16, Element::Bf16, F16, F16), None);
    assert_eq!(new(16, 8, 16, Element::F16, Element::Bf16, F32, F32), None);
    assert_eq!(new(16, 8, 16, Element::F16, Element::F16, F16, F32), None);
    assert_eq!(new(8, 8, 4, Element::F16, Element::F16, F32, F16), None);
    assert_eq!(new(16, 8, 16, Element::S8, Element::S8, F32, F32), None);
    assert_eq!(new(16, 16, 16, Element::F16, Element::F16, F32, F32), None);
    assert_eq!(new(16, 8, 64, Element::S8, Element::S8, S32, S32), None);
}
