//! `mma.sync`, `wmma`, `ldmatrix`, `stmatrix`, `movmatrix`.
//!
//! The layouts are written out per shape from the ISA's formulas; the numbers are small integers, exact
//! everywhere.

mod isa;
use half::{bf16, f16};
use isa::*;

/// Small integers, different for every matrix and place.
fn number(matrix: u32, i: usize, j: usize, range: i64) -> i64 {
    let x = (matrix + 1).wrapping_mul(0x9e37_79b1)
        ^ (i as u32).wrapping_mul(0x85eb_ca6b)
        ^ (j as u32).wrapping_mul(0xc2b2_ae35);
    i64::from(x.wrapping_mul(0x27d4_eb2f) >> 16) % (2 * range) - range
}

fn group(lane: usize) -> usize {
    lane / 4
}

fn thread(lane: usize) -> usize {
    lane % 4
}

type Position = fn(lane: usize, i: usize) -> (usize, usize);
type Encode = fn(i64) -> u64;

/// One fragment: its registers, the elements of each, their bits, and where they stand.
struct Fragment {
    registers: usize,
    per_register: usize,
    position: Position,
    encode: Encode,
}

impl Fragment {
    fn bits(&self) -> usize {
        if self.per_register == 1 { 64 } else { 32 / self.per_register }
    }

    fn word(&self, lane: usize, register: usize, element: impl Fn(usize, usize) -> i64) -> u64 {
        (0..self.per_register).fold(0, |word, e| {
            let (row, column) = (self.position)(lane, register * self.per_register + e);
            word | (self.encode)(element(row, column)) << (e * self.bits() % 64)
        })
    }
}

fn to_f16(x: i64) -> u64 {
    f16::from_f32(x as f32).to_bits().into()
}

fn to_bf16(x: i64) -> u64 {
    bf16::from_f32(x as f32).to_bits().into()
}

fn to_f32(x: i64) -> u64 {
    (x as f32).to_bits().into()
}

fn to_f64(x: i64) -> u64 {
    (x as f64).to_bits()
}

fn to_s32(x: i64) -> u64 {
    u64::from(x as u32)
}

fn to_s8(x: i64) -> u64 {
    u64::from(x as u8)
}

fn to_s4(x: i64) -> u64 {
    x as u64 & 0xf
}

/// c0, c1 in row `group`, c2, c3 in row `group + 8`; the same for every m16n8 shape and type.
fn c_16x8(lane: usize, i: usize) -> (usize, usize) {
    (group(lane) + if i < 2 { 0 } else { 8 }, thread(lane) * 2 + (i & 1))
}

fn c_8x8(lane: usize, i: usize) -> (usize, usize) {
    (group(lane), thread(lane) * 2 + i)
}

/// Multiplies (integers up to `range`) and compares every register of D.
fn check_mma(op: &str, width: &str, k: usize, range: i64, [a, b, c, d]: [&Fragment; 4]) {
    let list = |name: &str, first: usize, count: usize| {
        let registers = (first..first + count).map(|i| format!("%{name}{i}")).collect::<Vec<_>>();
        format!("{{{}}}", registers.join(", "))
    };
    let inputs = a.registers + b.registers + c.registers;
    let signature =
        format!("{}-> {}", format!("{width} ").repeat(inputs), format!("{width} ").repeat(d.registers));
    let body = format!(
        "{op} {}, {}, {}, {};",
        list("d", 0, d.registers),
        list("a", 0, a.registers),
        list("a", a.registers, b.registers),
        list("a", a.registers + b.registers, c.registers),
    );
    let of = |matrix: u32| move |i: usize, j: usize| number(matrix, i, j, range);
    let rows: Vec<Vec<u64>> = (0..32)
        .map(|lane| {
            [(a, 0u32), (b, 1), (c, 2)]
                .iter()
                .flat_map(|(fragment, matrix)| {
                    (0..fragment.registers).map(|r| fragment.word(lane, r, of(*matrix))).collect::<Vec<_>>()
                })
                .collect()
        })
        .collect();
    let product = |i: usize, j: usize| (0..k).map(|l| of(0)(i, l) * of(1)(l, j)).sum::<i64>() + of(2)(i, j);
    for (lane, seen) in run(&signature, &body, &rows).into_iter().enumerate() {
        let expected: Vec<u64> = (0..d.registers).map(|r| d.word(lane, r, product)).collect();
        assert_eq!(seen, expected, "{body}\n  lane {lane}");
    }
}

#[test]
fn sixteen_bit_floats() {
    let a16: Position = |lane, i| {
        let row = group(lane) + if i < 2 || (4..6).contains(&i) { 0 } else { 8 };
        (row, thread(lane) * 2 + (i & 1) + if i < 4 { 0 } else { 8 })
    };
    let b16: Position = |lane, i| (thread(lane) * 2 + (i & 1) + if i < 2 { 0 } else { 8 }, group(lane));
    let a8: Position = |lane, i| (group(lane) + if i < 2 { 0 } else { 8 }, thread(lane) * 2 + (i & 1));
    let b8: Position = |lane, i| (thread(lane) * 2 + i, group(lane));
    let f32_c = Fragment { registers: 4, per_register: 1, position: c_16x8, encode: to_f32 };
    let f16_c = Fragment { registers: 2, per_register: 2, position: c_16x8, encode: to_f16 };
    for (name, encode) in [("f16", to_f16 as Encode), ("bf16", to_bf16)] {
        for (k, a_position, b_position) in [(16, a16, b16), (8, a8, b8)] {
            let a = Fragment { registers: k / 4, per_register: 2, position: a_position, encode };
            let b = Fragment { registers: k / 8, per_register: 2, position: b_position, encode };
            let op = |d: &str, c: &str| format!("mma.sync.aligned.m16n8k{k}.row.col.{d}.{name}.{name}.{c}");
            check_mma(&op("f32", "f32"), "b32", k, 8, [&a, &b, &f32_c, &f32_c]);
            if name == "f16" {
                check_mma(&op("f16", "f16"), "b32", k, 8, [&a, &b, &f16_c, &f16_c]);
            }
        }
    }
}

#[test]
fn tf32_and_double() {
    let a: Position = |lane, i| (group(lane) + if i % 2 == 0 { 0 } else { 8 }, thread(lane) + i / 2 * 4);
    let b: Position = |lane, i| (thread(lane) + i * 4, group(lane));
    for k in [4, 8] {
        let a = Fragment { registers: k / 2, per_register: 1, position: a, encode: to_f32 };
        let b = Fragment { registers: k / 4, per_register: 1, position: b, encode: to_f32 };
        let c = Fragment { registers: 4, per_register: 1, position: c_16x8, encode: to_f32 };
        check_mma(
            &format!("mma.sync.aligned.m16n8k{k}.row.col.f32.tf32.tf32.f32"),
            "b32",
            k,
            64,
            [&a, &b, &c, &c],
        );
    }
    for k in [4, 8, 16] {
        let a = Fragment { registers: k / 2, per_register: 1, position: a, encode: to_f64 };
        let b = Fragment { registers: k / 4, per_register: 1, position: b, encode: to_f64 };
        let c = Fragment { registers: 4, per_register: 1, position: c_16x8, encode: to_f64 };
        check_mma(
            &format!("mma.sync.aligned.m16n8k{k}.row.col.f64.f64.f64.f64"),
            "b64",
            k,
            10_000,
            [&a, &b, &c, &c],
        );
    }
    let a = Fragment {
        registers: 1,
        per_register: 1,
        position: |lane, _| (group(lane), thread(lane)),
        encode: to_f64,
    };
    let b = Fragment {
        registers: 1,
        per_register: 1,
        position: |lane, _| (thread(lane), group(lane)),
        encode: to_f64,
    };
    let c = Fragment { registers: 2, per_register: 1, position: c_8x8, encode: to_f64 };
    check_mma("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64", "b64", 4, 10_000, [&a, &b, &c, &c]);
}

#[test]
fn integers() {
    let c = Fragment { registers: 4, per_register: 1, position: c_16x8, encode: to_s32 };
    let small_c = Fragment { registers: 2, per_register: 1, position: c_8x8, encode: to_s32 };
    let a: Position = |lane, i| {
        (
            group(lane) + if i / 4 % 2 == 0 { 0 } else { 8 },
            thread(lane) * 4 + (i & 3) + if i < 8 { 0 } else { 16 },
        )
    };
    let b: Position = |lane, i| (thread(lane) * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, group(lane));
    for k in [16, 32] {
        let a = Fragment { registers: k / 8, per_register: 4, position: a, encode: to_s8 };
        let b = Fragment { registers: k / 16, per_register: 4, position: b, encode: to_s8 };
        check_mma(
            &format!("mma.sync.aligned.m16n8k{k}.row.col.s32.s8.s8.s32"),
            "b32",
            k,
            128,
            [&a, &b, &c, &c],
        );
        check_mma(
            &format!("mma.sync.aligned.m16n8k{k}.row.col.satfinite.s32.s8.s8.s32"),
            "b32",
            k,
            128,
            [&a, &b, &c, &c],
        );
    }
    let small_a = Fragment {
        registers: 1,
        per_register: 4,
        position: |lane, i| (group(lane), thread(lane) * 4 + i),
        encode: to_s8,
    };
    let small_b = Fragment {
        registers: 1,
        per_register: 4,
        position: |lane, i| (thread(lane) * 4 + i, group(lane)),
        encode: to_s8,
    };
    check_mma(
        "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32",
        "b32",
        16,
        128,
        [&small_a, &small_b, &small_c, &small_c],
    );
    let a: Position = |lane, i| {
        (
            group(lane) + if i / 8 % 2 == 0 { 0 } else { 8 },
            thread(lane) * 8 + (i & 7) + if i < 16 { 0 } else { 32 },
        )
    };
    let b: Position = |lane, i| (thread(lane) * 8 + (i & 7) + if i < 8 { 0 } else { 32 }, group(lane));
    for k in [32, 64] {
        let a = Fragment { registers: k / 16, per_register: 8, position: a, encode: to_s4 };
        let b = Fragment { registers: k / 32, per_register: 8, position: b, encode: to_s4 };
        check_mma(
            &format!("mma.sync.aligned.m16n8k{k}.row.col.s32.s4.s4.s32"),
            "b32",
            k,
            8,
            [&a, &b, &c, &c],
        );
    }
}

/// One bit: row and column words are combined and counted.
#[test]
fn single_bits() {
    let word = |matrix: u64, i: usize| (i as u64 + 1 + 77 * matrix).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    // Register r of A: rows `group` and `group + 8`, the second pair 128 bits along; of B: column `group`.
    let a =
        |lane: usize, r: usize| word(1, ((group(lane) + 8 * (r % 2)) * 8 + thread(lane) + 4 * (r / 2)) * 3);
    let b = |lane: usize, r: usize| word(2, (group(lane) * 8 + thread(lane) + 4 * r) * 5);
    let rows: Vec<Vec<u64>> = (0..32)
        .map(|lane| {
            (0..4).map(|r| a(lane, r)).chain((0..2).map(|r| b(lane, r))).chain([1, 2, 3, 4]).collect()
        })
        .collect();
    type Combine = fn(u64, u64) -> u64;
    for (op, combine) in [("xor", (|x, y| x ^ y) as Combine), ("and", |x, y| x & y)] {
        let body = format!(
            "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.{op}.popc {{%d0, %d1, %d2, %d3}}, {{%a0, %a1, %a2, %a3}}, {{%a4, %a5}}, {{%a6, %a7, %a8, %a9}};"
        );
        let signature = format!("{}-> b32 b32 b32 b32", "b32 ".repeat(10));
        for (lane, seen) in run(&signature, &body, &rows).into_iter().enumerate() {
            for (i, seen) in seen.into_iter().enumerate() {
                let (row, column) = c_16x8(lane, i);
                let count: u32 = (0..8)
                    .map(|w| combine(word(1, (row * 8 + w) * 3), word(2, (column * 8 + w) * 5)).count_ones())
                    .sum();
                assert_eq!(seen, u64::from(count) + i as u64 + 1, "{op} lane {lane}, c{i}");
            }
        }
    }
}

/// A tile in shared memory, thread t writing the 16 bytes at 16 t; `after` reads it.
fn with_tile(after: &str) -> String {
    format!(
        ".shared .align 16 .b8 tile[512];\n .reg .b32 %at, %lane, %base;\n mov.u32 %lane, %laneid;\n mov.u32 %base, tile;\n\
         mad.lo.u32 %at, %lane, 16, %base;\n st.shared.v4.b32 [%at], {{%a0, %a1, %a2, %a3}};\n bar.sync 0;\n {after}"
    )
}

/// Row r of the tile holds the 16-bit numbers 8 r to 8 r + 7.
fn numbered_rows() -> Vec<Vec<u64>> {
    (0..32u64).map(|r| (0..4).map(|w| (8 * r + 2 * w) | (8 * r + 2 * w + 1) << 16).collect()).collect()
}

#[test]
fn ldmatrix_spreads_rows_over_lanes() {
    for (count, suffix) in [(1usize, "x1"), (2, "x2"), (4, "x4")] {
        for trans in [false, true] {
            let registers = (0..count).map(|i| format!("%d{i}")).collect::<Vec<_>>().join(", ");
            let body = with_tile(&format!(
                "ldmatrix.sync.aligned.m8n8.{suffix}{}.shared.b16 {{{registers}}}, [%at];",
                if trans { ".trans" } else { "" }
            ));
            let signature = format!("b32 b32 b32 b32 -> {}", "b32 ".repeat(count));
            for (lane, seen) in run(&signature, &body, &numbered_rows()).into_iter().enumerate() {
                for (matrix, word) in seen.into_iter().enumerate() {
                    let element = |e: usize| {
                        let (row, column) = (lane / 4, 2 * (lane % 4) + e);
                        let (row, column) = if trans { (column, row) } else { (row, column) };
                        (8 * (8 * matrix + row) + column) as u64
                    };
                    assert_eq!(
                        word,
                        element(0) | element(1) << 16,
                        "{suffix} trans {trans} lane {lane} matrix {matrix}"
                    );
                }
            }
        }
    }
}

#[test]
fn stmatrix_undoes_ldmatrix_and_movmatrix_transposes() {
    for trans in ["", ".trans"] {
        let body = with_tile(&format!(
            ".reg .b32 %m<4>;\n ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%m0, %m1, %m2, %m3}}, [%at];\n bar.sync 0;\n\
             st.shared.v4.b32 [%at], {{0, 0, 0, 0}};\n bar.sync 0;\n\
             stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%at], {{%m0, %m1, %m2, %m3}};\n bar.sync 0;\n\
             ld.shared.v4.b32 {{%d0, %d1, %d2, %d3}}, [%at];"
        ));
        assert_eq!(
            run("b32 b32 b32 b32 -> b32 b32 b32 b32", &body, &numbered_rows()),
            numbered_rows(),
            "stmatrix{trans}"
        );
    }
    let body = with_tile(
        ".reg .b32 %m;\n ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%m}, [%at];\n\
         ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%d1}, [%at];\n movmatrix.sync.aligned.m8n8.trans.b16 %d0, %m;",
    );
    for (lane, seen) in run("b32 b32 b32 b32 -> b32 b32", &body, &numbered_rows()).into_iter().enumerate() {
        assert_eq!(seen[0], seen[1], "lane {lane}");
    }
}

/// `wmma` end to end, the layouts of its fragments being the device's own: A, B, C and D through shared
/// memory.
#[test]
fn wmma_of_every_float_shape() {
    for (m, n) in [(16usize, 16usize), (8, 32), (32, 8)] {
        for (a_layout, b_layout, c_layout) in
            [("row", "col", "row"), ("col", "row", "col"), ("row", "row", "col")]
        {
            // Every thread brings its share of A (m x 16 f16), B (16 x n f16) and C (m x n f32 = 8 words a
            // thread).
            let (a_words, b_words) = (m / 4, n / 4);
            let bytes = |words: usize| 32 * 4 * words;
            let store = |first: usize, count: usize, offset: usize| {
                (0..count)
                    .map(|i| format!("st.shared.b32 [%w+{}], %a{};\n", offset + 128 * i, first + i))
                    .collect::<String>()
            };
            let registers = |name: &str, count: usize| {
                (0..count).map(|i| format!("%{name}{i}")).collect::<Vec<_>>().join(", ")
            };
            let (a_at, b_at) = (0, bytes(a_words));
            let c_at = b_at + bytes(b_words);
            let stride =
                |layout: &str, rows: usize, columns: usize| if layout == "row" { columns } else { rows };
            let load = (0..8)
                .map(|i| format!("ld.shared.b32 %d{i}, [%w+{}];\n", c_at + 128 * i))
                .collect::<String>();
            let shape = format!("m{m}n{n}k16");
            let body = format!(
                ".shared .align 32 .b8 tile[{}];\n .reg .b32 %lane, %base, %w, %at, %fa<8>, %fb<8>, %fc<8>;\n\
                 mov.u32 %lane, %laneid;\n mov.u32 %base, tile;\n mad.lo.u32 %w, %lane, 4, %base;\n{}{}{}bar.sync 0;\n\
                 add.u32 %at, %base, {a_at};\n wmma.load.a.sync.aligned.{a_layout}.{shape}.shared.f16 {{{}}}, [%at], {};\n\
                 add.u32 %at, %base, {b_at};\n wmma.load.b.sync.aligned.{b_layout}.{shape}.shared.f16 {{{}}}, [%at], {};\n\
                 add.u32 %at, %base, {c_at};\n wmma.load.c.sync.aligned.{c_layout}.{shape}.shared.f32 {{{}}}, [%at], {};\n\
                 wmma.mma.sync.aligned.{a_layout}.{b_layout}.{shape}.f32.f32 {{{}}}, {{{}}}, {{{}}}, {{{}}};\n bar.sync 0;\n\
                 wmma.store.d.sync.aligned.{c_layout}.{shape}.shared.f32 [%at], {{{}}}, {};\n bar.sync 0;\n{load}",
                c_at + 1024,
                store(0, a_words, a_at),
                store(a_words, b_words, b_at),
                store(a_words + b_words, 8, c_at),
                registers("fa", 8),
                stride(a_layout, m, 16),
                registers("fb", 8),
                stride(b_layout, 16, n),
                registers("fc", 8),
                stride(c_layout, m, n),
                registers("fc", 8),
                registers("fa", 8),
                registers("fb", 8),
                registers("fc", 8),
                registers("fc", 8),
                stride(c_layout, m, n),
            );
            // Element number `index` of a matrix in memory.
            let at = |layout: &str, rows: usize, columns: usize, index: usize| {
                if layout == "row" {
                    (index / columns, index % columns)
                } else {
                    (index % rows, index / rows)
                }
            };
            let pair = |matrix: u32, layout: &str, rows: usize, columns: usize, word: usize| {
                let element = |index: usize| {
                    let (i, j) = at(layout, rows, columns, index);
                    to_f16(number(matrix, i, j, 8))
                };
                element(2 * word) | element(2 * word + 1) << 16
            };
            let rows: Vec<Vec<u64>> = (0..32)
                .map(|lane| {
                    let a = (0..a_words).map(|i| pair(0, a_layout, m, 16, 32 * i + lane));
                    let b = (0..b_words).map(|i| pair(1, b_layout, 16, n, 32 * i + lane));
                    let c = (0..8).map(|i| {
                        let (row, column) = at(c_layout, m, n, 32 * i + lane);
                        to_f32(number(2, row, column, 8))
                    });
                    a.chain(b).chain(c).collect()
                })
                .collect();
            let signature = format!("{}-> {}", "b32 ".repeat(a_words + b_words + 8), "b32 ".repeat(8));
            for (lane, seen) in run(&signature, &body, &rows).into_iter().enumerate() {
                for (i, seen) in seen.into_iter().enumerate() {
                    let (row, column) = at(c_layout, m, n, 32 * i + lane);
                    let dot = (0..16).map(|l| number(0, row, l, 8) * number(1, l, column, 8)).sum::<i64>();
                    assert_eq!(
                        seen,
                        to_f32(dot + number(2, row, column, 8)),
                        "{shape} {a_layout} {b_layout} {c_layout} ({row}, {column})"
                    );
                }
            }
        }
    }
}
