//! Tests of `cvt` against native conversions, `i128` ranges and the edges the ISA names.

use super::*;
use proptest::prelude::*;

const INTS: [Type; 8] =
    [Type::U8, Type::U16, Type::U32, Type::U64, Type::S8, Type::S16, Type::S32, Type::S64];

fn cvt(to: Type, from: Type) -> Cvt {
    Cvt::new(to, from)
}

fn f(x: f32) -> u64 {
    x.to_bits().into()
}

#[test]
fn integers_extend_chop_and_clamp() {
    assert_eq!(
        cvt(Type::S64, Type::S8).apply(0xff80),
        i64::from(-128i8) as u64,
        "upper source bits are ignored"
    );
    assert_eq!(cvt(Type::U64, Type::U8).apply(0xff80), 0x80);
    assert_eq!(cvt(Type::U32, Type::S16).apply(0x8000), 0xffff_8000);
    assert_eq!(cvt(Type::S8, Type::U32).apply(0x1ff), u64::MAX, "chopped, then sign-extended");
    assert_eq!(cvt(Type::U8, Type::S32).apply(0x1ff), 0xff);
    let sat = |to, from, a| Cvt { sat: true, ..cvt(to, from) }.apply(a);
    assert_eq!(sat(Type::U8, Type::S32, (-5i32) as u32 as u64), 0);
    assert_eq!(sat(Type::U8, Type::S32, 300), 255);
    assert_eq!(sat(Type::S8, Type::S64, (-1000i64) as u64), (-128i64) as u64);
    assert_eq!(sat(Type::S32, Type::U32, u32::MAX.into()), i32::MAX as u64);
    assert_eq!(sat(Type::U64, Type::S64, u64::MAX), 0);
    assert_eq!(sat(Type::S64, Type::U64, u64::MAX), i64::MAX as u64);
}

#[test]
fn floats_to_integers_saturate_and_settle_nan() {
    for to in INTS {
        for from in [Type::F16, Type::Bf16, Type::F32, Type::F64] {
            let (nan, infinity) = match from {
                Type::F16 => (0x7e00, 0x7c00),
                Type::Bf16 => (0x7fc0, 0x7f80),
                Type::F32 => (f(f32::NAN), f(f32::INFINITY)),
                _ => (f64::NAN.to_bits(), f64::INFINITY.to_bits()),
            };
            let (low, high) = range(to);
            let c = cvt(to, from);
            assert_eq!(c.apply(infinity), high as u64);
            assert_eq!(c.apply(infinity | 1 << (from.bits() - 1)), low as u64);
            let settled =
                if from == Type::F64 || to.bits() == 64 { extend(1 << (to.bits() - 1), to) } else { 0 };
            assert_eq!(c.apply(nan), settled, "{to:?} {from:?}");
        }
    }
    assert_eq!(cvt(Type::U8, Type::F32).apply(f(-1.5)), 0);
    assert_eq!(cvt(Type::S16, Type::F32).apply(f(-40000.0)), (-32768i64) as u64);
    assert_eq!(cvt(Type::S32, Type::F32).apply(f(2147483648.0)), i32::MAX as u64);
}

#[test]
fn integer_rounding_directions() {
    let with = |round, a: f32| Cvt { integral: Some(round), ..cvt(Type::S32, Type::F32) }.apply(f(a)) as i32;
    let table = [
        (Round::Nearest, [2, 2, 4, -2, -2]),
        (Round::Zero, [1, 2, 3, -1, -2]),
        (Round::Down, [1, 2, 3, -2, -3]),
        (Round::Up, [2, 3, 4, -1, -2]),
    ];
    for (round, expected) in table {
        assert_eq!([1.5, 2.5, 3.5, -1.5, -2.5].map(|x| with(round, x)), expected, "{round:?}");
    }
    let ceil = Cvt { integral: Some(Round::Up), ..cvt(Type::S32, Type::F32) };
    assert_eq!((ceil.apply(1), Cvt { ftz: true, ..ceil }.apply(1)), (1, 0), "ftz flushes before rounding up");
    let same = Cvt { integral: Some(Round::Nearest), ..cvt(Type::F32, Type::F32) };
    assert_eq!((same.apply(f(-0.4)), same.apply(f(2.5)), same.apply(f(1e30))), (f(-0.0), f(2.0), f(1e30)));
    assert_eq!(same.apply(f(f32::NAN)), u64::from(single::NAN));
    let half = Cvt { integral: Some(Round::Up), ..cvt(Type::F16, Type::F16) };
    assert_eq!(half.apply(0x3c01), 0x4000, "just above 1 goes to 2");
}

#[test]
fn integers_to_floats_round_once() {
    let big = (1u64 << 53) + 1;
    for (round, expected) in
        [(Round::Nearest, 1u64 << 53), (Round::Zero, 1 << 53), (Round::Up, (1 << 53) + 2)]
    {
        let c = Cvt { round, ..cvt(Type::F64, Type::U64) };
        assert_eq!(f64::from_bits(c.apply(big)), expected as f64);
        let c = Cvt { round, ..cvt(Type::F64, Type::S64) };
        let expected = if round == Round::Up { -((1i64 << 53) as f64) } else { -(expected as f64) };
        assert_eq!(f64::from_bits(c.apply(big.wrapping_neg())), expected, "{round:?}");
    }
    assert_eq!(cvt(Type::F32, Type::U32).apply(0x0100_0001), f(16777216.0));
    assert_eq!(Cvt { round: Round::Up, ..cvt(Type::F32, Type::U32) }.apply(0x0100_0001), f(16777218.0));
    assert_eq!(cvt(Type::F16, Type::S32).apply(2049), 0x6800, "a tie to even");
    assert_eq!(cvt(Type::F16, Type::U32).apply(100_000), 0x7c00);
    assert_eq!(Cvt { round: Round::Zero, ..cvt(Type::F16, Type::U32) }.apply(100_000), 0x7bff);
    assert_eq!(cvt(Type::Bf16, Type::S8).apply(0x80), 0xc300);
    assert_eq!(Cvt { sat: true, ..cvt(Type::F32, Type::S32) }.apply(7), f(1.0));
}

#[test]
fn floats_to_floats() {
    assert_eq!(cvt(Type::F64, Type::F32).apply(f(0.1)), f64::from(0.1f32).to_bits());
    assert_eq!(cvt(Type::F32, Type::F64).apply(0.1f64.to_bits()), f(0.1));
    assert_eq!(
        Cvt { round: Round::Down, ..cvt(Type::F32, Type::F64) }.apply(0.1f64.to_bits()),
        f(0.1f32.next_down())
    );
    assert_eq!(
        Cvt { round: Round::Up, ..cvt(Type::F32, Type::F64) }.apply(1),
        1,
        "a double subnormal rounds up"
    );
    assert_eq!(Cvt { ftz: true, ..cvt(Type::F32, Type::F32) }.apply(0x8000_0005), 0x8000_0000);
    assert_eq!(Cvt { sat: true, ..cvt(Type::F32, Type::F32) }.apply(f(f32::NAN)), 0);
    assert_eq!(Cvt { sat: true, ..cvt(Type::F64, Type::F64) }.apply(2.5f64.to_bits()), 1.0f64.to_bits());
    assert_eq!(Cvt { sat: true, ..cvt(Type::F16, Type::F32) }.apply(f(-3.0)), 0);
    assert_eq!(cvt(Type::Bf16, Type::F16).apply(0x3c01), 0x3f80, "16-bit formats convert through the value");
    assert_eq!(cvt(Type::F16, Type::Bf16).apply(0x4780), 0x7c00);
    assert_eq!(Cvt { relu: true, ..cvt(Type::F16, Type::F32) }.apply(f(-1.0)), 0);
    assert_eq!(Cvt { relu: true, ..cvt(Type::Bf16, Type::F32) }.apply(f(f32::NAN)), 0x7fff);
    assert_eq!(Cvt { satfinite: true, ..cvt(Type::F16, Type::F32) }.apply(f(1e9)), 0x7bff);
    assert_eq!(Cvt { satfinite: true, ..cvt(Type::Bf16, Type::F32) }.apply(f(f32::NEG_INFINITY)), 0xff7f);
    assert_eq!(Cvt { round: Round::Zero, ..cvt(Type::F16, Type::F32) }.apply(f(65535.0)), 0x7bff);
    assert_eq!(cvt(Type::F16, Type::F32).apply(f(65520.0)), 0x7c00);
    assert_eq!(
        Cvt { ftz: true, ..cvt(Type::F16, Type::F32) }.apply(f(6e-8)),
        1,
        "f16 subnormals stay under .ftz"
    );
}

#[test]
fn hot_pairs_are_the_general_conversion() {
    for i in 0..200_000u32 {
        let a = i.wrapping_mul(0x9e37_79b1);
        assert_eq!(u64::from(f32_to_u32_rzi(a)), cvt(Type::U32, Type::F32).apply(a.into()));
        assert_eq!(f32_to_s32_rzi(a), cvt(Type::S32, Type::F32).apply(a.into()) as u32);
        assert_eq!(
            u64::from(s32_to_f32(a)),
            Format::F32.encode(Exact::from_int((a as i32).into()), Round::Nearest)
        );
        assert_eq!(u64::from(u32_to_f32(a)), Format::F32.encode(Exact::from_int(a.into()), Round::Nearest));
    }
}

proptest! {
    #[test]
    fn integer_pairs_follow_the_value(a: u64) {
        for from in INTS {
            for to in INTS {
                let c = cvt(to, from);
                let value = c.source_int(a);
                let (low, high) = range(to);
                let modulo = 1i128 << to.bits();
                let mut wrapped = value.rem_euclid(modulo);
                if wrapped > high {
                    wrapped -= modulo;
                }
                prop_assert_eq!(c.apply(a), wrapped as u64);
                prop_assert_eq!(Cvt { sat: true, ..c }.apply(a), value.clamp(low, high) as u64);
            }
        }
    }

    #[test]
    fn wide_integers_to_floats_match_the_host(a: u64) {
        prop_assert_eq!(cvt(Type::F32, Type::U64).apply(a), f(a as f32));
        prop_assert_eq!(cvt(Type::F32, Type::S64).apply(a), f(a as i64 as f32));
        prop_assert_eq!(cvt(Type::F64, Type::U64).apply(a), (a as f64).to_bits());
        prop_assert_eq!(cvt(Type::F64, Type::S64).apply(a), (a as i64 as f64).to_bits());
        prop_assert_eq!(cvt(Type::F32, Type::F64).apply(a), Format::F32.from_f64(f64::from_bits(a), Round::Nearest));
    }

    /// `cvt.r?.f32.f64` brackets its input.
    #[test]
    fn directed_narrowing_brackets(x in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
        let to = |round| f64::from(f32::from_bits(Cvt { round, ..cvt(Type::F32, Type::F64) }.apply(x.to_bits()) as u32));
        let (down, up) = (to(Round::Down), to(Round::Up));
        prop_assert!(down <= x && x <= up);
        prop_assert!(down == up || (down as f32).next_up() == up as f32);
        prop_assert_eq!(to(Round::Zero), if x > 0.0 { down } else { up });
    }
}
