//! `atom` and `red`: each operation on every type, in global and shared memory.

mod isa;
use half::{bf16, f16};
use isa::*;

/// Applies an operation to a cell of the thread's own that holds `%a0`, with `%a1` (and `%a2`); gives the old
/// value and what the cell holds afterwards.
fn in_place(space: &str, op: &str, width: &str, rows: &[Vec<u64>], expected: impl Fn(&[u64]) -> u64) {
    let bits = &width[1..];
    let operands = (1..rows[0].len()).map(|i| format!(", %a{i}")).collect::<String>();
    let (cell, at) = match space {
        "global" => ("", "[%from]"),
        _ => (
            ".shared .align 8 .b8 cells[256]; .reg .b32 %cell, %lane;\n mov.u32 %cell, cells; mov.u32 %lane, %laneid; mad.lo.u32 %cell, %lane, 8, %cell;\n",
            "[%cell]",
        ),
    };
    // The width of the operation, not of the row: what lies beside it must stay as it is.
    let body = format!(
        "{cell} st.{space}.b64 {at}, -1;\n st.{space}.b{bits} {at}, %a0;\n atom.{space}.{op} %d0, {at}{operands};\n\
         ld.{space}.b{bits} %d1, {at};\n ld.{space}.b64 %d2, {at};"
    );
    let signature = format!("{}-> {width} {width} b64", format!("{width} ").repeat(rows[0].len()));
    let mask = if width == "b64" { u64::MAX } else { (1 << bits.parse::<u32>().unwrap()) - 1 };
    for (row, seen) in rows.iter().zip(run(&signature, &body, rows)) {
        let after = expected(row);
        assert_eq!(seen, [row[0] & mask, after, after | !mask], "atom.{space}.{op} {row:x?}");
    }
}

const SPACES: [&str; 2] = ["global", "shared"];

#[test]
fn integers_and_bits() {
    for space in SPACES {
        let rows = pairs(&INTS32, &INTS32);
        type Function = fn(u64, u64) -> u64;
        let table: [(&str, Function); 12] = [
            ("add.u32", |a, b| (a + b) & 0xffff_ffff),
            ("add.s32", |a, b| (a + b) & 0xffff_ffff),
            ("and.b32", |a, b| a & b),
            ("or.b32", |a, b| a | b),
            ("xor.b32", |a, b| a ^ b),
            ("exch.b32", |_, b| b),
            ("min.u32", u64::min),
            ("max.u32", u64::max),
            ("min.s32", |a, b| u64::from((a as i32).min(b as i32) as u32)),
            ("max.s32", |a, b| u64::from((a as i32).max(b as i32) as u32)),
            // Wrapping counters, up to and down from the operand.
            ("inc.u32", |a, b| if a >= b { 0 } else { a + 1 }),
            ("dec.u32", |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ];
        for (op, f) in table {
            in_place(space, op, "b32", &rows, |r| f(r[0], r[1]));
        }
        let table: [(&str, Function); 7] = [
            ("add.u64", u64::wrapping_add),
            ("and.b64", |a, b| a & b),
            ("exch.b64", |_, b| b),
            ("min.u64", u64::min),
            ("max.u64", u64::max),
            ("min.s64", |a, b| (a as i64).min(b as i64) as u64),
            ("max.s64", |a, b| (a as i64).max(b as i64) as u64),
        ];
        for (op, f) in table {
            in_place(space, op, "b64", &pairs(&INTS64, &INTS64), |r| f(r[0], r[1]));
        }
        let rows = triples(&INTS32[..6], &INTS32[..6], &[0xabcd]);
        in_place(space, "cas.b32", "b32", &rows, |r| if r[0] == r[1] { r[2] } else { r[0] });
        in_place(space, "cas.b64", "b64", &rows, |r| if r[0] == r[1] { r[2] } else { r[0] });
        in_place(space, "cas.b16", "b16", &rows, |r| {
            if r[0] & 0xffff == r[1] & 0xffff { 0xabcd } else { r[0] & 0xffff }
        });
    }
}

#[test]
fn floats() {
    let numbers = [0x3f80_0000u64, 0xbf80_0001, 0x4b80_0000, 0x7f7f_ffff, 0x7f80_0000, 0x0080_0000];
    for space in SPACES {
        in_place(space, "add.f32", "b32", &pairs(&numbers, &numbers), |r| {
            f32_bits(f32_of(r[0]) + f32_of(r[1]))
        });
        let doubles: Vec<u64> = DOUBLES.into_iter().filter(|&bits| !f64_of(bits).is_nan()).collect();
        let rows: Vec<_> = pairs(&doubles, &doubles)
            .into_iter()
            .filter(|r| !(f64_of(r[0]) + f64_of(r[1])).is_nan())
            .collect();
        in_place(space, "add.f64", "b64", &rows, |r| (f64_of(r[0]) + f64_of(r[1])).to_bits());
        let halves = [0x3c00u64, 0xbc01, 0x7bff, 0x0001, 0x6800];
        let sum = |a: u64, b: u64| {
            let [a, b] = [a, b].map(|bits| f16::from_bits(bits as u16).to_f64());
            u64::from(f16::from_f64(a + b).to_bits())
        };
        in_place(space, "add.noftz.f16", "b16", &pairs(&halves, &halves), |r| sum(r[0], r[1]));
        let brains = [0x3f80u64, 0xbf81, 0x4b80, 0x0080];
        let brain_sum = |a: u64, b: u64| {
            let [a, b] = [a, b].map(|bits| bf16::from_bits(bits as u16).to_f32());
            u64::from(bf16::from_f32(a + b).to_bits())
        };
        in_place(space, "add.noftz.bf16", "b16", &pairs(&brains, &brains), |r| brain_sum(r[0], r[1]));
        let packed: Vec<Vec<u64>> =
            pairs(&halves, &halves).iter().map(|r| vec![r[0] << 16 | r[1], r[1] << 16 | r[0]]).collect();
        in_place(space, "add.noftz.f16x2", "b32", &packed, |r| {
            sum(r[0] >> 16, r[1] >> 16) << 16 | sum(r[0] & 0xffff, r[1] & 0xffff)
        });
    }
    // Sums of subnormals are flushed in global memory and kept in shared memory.
    let rows = [vec![1, 2], vec![0x8000_0003, 0x8000_0001]];
    in_place("global", "add.f32", "b32", &rows, |r| r[0] & 0x8000_0000);
    in_place("shared", "add.f32", "b32", &rows, |r| (r[0] & 0x8000_0000) | ((r[0] + r[1]) & 0x7fff_ffff));
}

/// All threads of a block on one cell: every old value is one of the partial sums, each seen once.
#[test]
fn contention() {
    let body = ".shared .align 4 .b32 cell; .reg .pred %first; .reg .b32 %lane;\n mov.u32 %lane, %laneid; setp.eq.u32 %first, %lane, 0;\n\
        @%first st.shared.b32 [cell], 1000;\n bar.sync 0;\n atom.shared.add.u32 %d0, [cell], 3;\n bar.sync 0;\n\
        red.shared.max.u32 [cell], %a0;\n bar.sync 0;\n ld.shared.b32 %d1, [cell];";
    let rows: Vec<Vec<u64>> = (0..32).map(|i| vec![2000 + i * 17 % 32]).collect();
    let seen = run("b32 -> b32 b32", body, &rows);
    let mut olds: Vec<u64> = seen.iter().map(|row| row[0]).collect();
    olds.sort_unstable();
    assert_eq!(olds, (0..32).map(|i| 1000 + 3 * i).collect::<Vec<u64>>());
    assert!(seen.iter().all(|row| row[1] == 2031));
}
