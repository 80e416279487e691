//! `mma.sync` and `wmma.mma`: D = A B + C over the fragments of a warp.
//!
//! Floating products are exact; f32 accumulates them one after the other in the order of k, beginning with C,
//! and rounds to nearest each time. Hardware leaves that order open. An f16 result is that f32 sum rounded
//! once. f64 takes a chain of fused multiply-adds, integers wrap or, with `.satfinite`, clamp.

use super::format::{Format, Round};
use super::fragment::{Accumulator, Element, Shape};
use super::{half, single};

/// How `mma` of single bits combines a row and a column before counting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitOp {
    /// `.xor.popc`
    Xor,
    /// `.and.popc`
    And,
}

/// A warp-level matrix product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mma {
    /// Sizes.
    pub shape: Shape,
    /// Element type of A.
    pub a: Element,
    /// Element type of B.
    pub b: Element,
    /// Type of C.
    pub c: Accumulator,
    /// Type of D.
    pub d: Accumulator,
    /// A is column-major; only `m8n8k4` of f16 has a layout of its own for it.
    pub a_column: bool,
    /// B is row-major; as above.
    pub b_row: bool,
    /// `.satfinite`: integer results clamp.
    pub satfinite: bool,
    /// For `.b1`.
    pub bit_op: BitOp,
}

impl Mma {
    /// The dense `mma.sync` of those types, if the ISA has it; row-major A, column-major B, no `.satfinite`,
    /// `.xor`.
    pub fn new(shape: Shape, a: Element, b: Element, c: Accumulator, d: Accumulator) -> Option<Mma> {
        use Accumulator::{F16, F32, F64, S32};
        use Element::{B1, Bf16, E4m3, E5m2, S4, S8, Tf32, U4, U8};
        let sizes = (shape.m, shape.n, shape.k);
        // Only m8n8k4 may widen its accumulator.
        let float = matches!((c, d), (F16, F16) | (F32, F32)) || sizes == (8, 8, 4) && (c, d) == (F16, F32);
        let valid = match (a, b) {
            (Element::F16, Element::F16) => float && matches!(sizes, (8, 8, 4) | (16, 8, 8 | 16)),
            (Bf16, Bf16) => (c, d) == (F32, F32) && matches!(sizes, (16, 8, 8 | 16)),
            (Tf32, Tf32) => (c, d) == (F32, F32) && matches!(sizes, (16, 8, 4 | 8)),
            (E4m3 | E5m2, E4m3 | E5m2) => float && matches!(sizes, (16, 8, 16 | 32)),
            (Element::F64, Element::F64) => {
                (c, d) == (F64, F64) && matches!(sizes, (8, 8, 4) | (16, 8, 4 | 8 | 16))
            }
            (S8 | U8, S8 | U8) => (c, d) == (S32, S32) && matches!(sizes, (8, 8, 16) | (16, 8, 16 | 32)),
            (S4 | U4, S4 | U4) => (c, d) == (S32, S32) && matches!(sizes, (8, 8, 32) | (16, 8, 32 | 64)),
            (B1, B1) => (c, d) == (S32, S32) && matches!(sizes, (8, 8, 128) | (16, 8, 128 | 256)),
            _ => false,
        };
        valid.then(|| Mma::unchecked(shape, a, b, c, d))
    }

    pub(super) fn unchecked(shape: Shape, a: Element, b: Element, c: Accumulator, d: Accumulator) -> Mma {
        Mma { shape, a, b, c, d, a_column: false, b_row: false, satfinite: false, bit_op: BitOp::Xor }
    }

    /// Whether it is the f16 `m8n8k4`: four products at once, one per pair of quads, with layouts of their
    /// own.
    fn is_quad_pair(self) -> bool {
        self.a == Element::F16 && self.shape == Shape { m: 8, n: 8, k: 4 }
    }

    /// Registers of A that each lane gives.
    pub fn a_registers(self) -> usize {
        if self.is_quad_pair() { 2 } else { self.shape.a_registers(self.a) }
    }

    /// Registers of B that each lane gives.
    pub fn b_registers(self) -> usize {
        if self.is_quad_pair() { 2 } else { self.shape.b_registers(self.b) }
    }

    /// Registers of C that each lane gives.
    pub fn c_registers(self) -> usize {
        self.accumulator_registers(self.c)
    }

    /// Registers of D that each lane receives.
    pub fn d_registers(self) -> usize {
        self.accumulator_registers(self.d)
    }

    fn accumulator_registers(self, accumulator: Accumulator) -> usize {
        if self.is_quad_pair() { 8 / accumulator.per_register() } else { self.shape.c_registers(accumulator) }
    }

    /// Multiplications of the whole warp: the flop count is twice that.
    pub fn products(self) -> usize {
        let shape = self.shape;
        shape.m * shape.n * shape.k * if self.is_quad_pair() { 4 } else { 1 }
    }

    /// Executes it on 32-bit registers, one array of 32 lanes per register; every type but f64. Registers
    /// beyond `*_registers()` do not count.
    ///
    /// # Panics
    /// If a slice is shorter than its `*_registers()`, or the types are f64.
    pub fn execute(self, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
        match self.a {
            Element::F64 => panic!("f64 fragments live in 64-bit registers"),
            Element::S8 | Element::U8 | Element::S4 | Element::U4 => self.execute_int(a, b, c, d),
            Element::B1 => self.execute_bits(a, b, c, d),
            _ if self.is_quad_pair() => super::quad_pair::execute(self, a, b, c, d),
            _ => self.execute_float(a, b, c, d),
        }
    }

    fn execute_float(self, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
        let (mut x, mut y) = ([[0f32; 32]; 32], [[0f32; 32]; 32]);
        scatter(&a[..self.a_registers()], self.a.bits(), decoder(self.a), |lane, i, value| {
            let (row, column) = self.shape.a_position(self.a, lane, i);
            x[row][column] = value;
        });
        scatter(&b[..self.b_registers()], self.b.bits(), decoder(self.b), |lane, i, value| {
            let (row, column) = self.shape.b_position(self.b, lane, i);
            y[row][column] = value;
        });
        let mut sum = [[0f32; 32]; 32];
        scatter(&c[..self.c_registers()], self.c.bits(), accumulator_decoder(self.c), |lane, i, value| {
            let (row, column) = self.shape.c_position(lane, i);
            sum[row][column] = value;
        });
        for (sums, row) in sum.iter_mut().zip(&x).take(self.shape.m) {
            for (tile, sums) in sums.chunks_exact_mut(8).enumerate().take(self.shape.n / 8) {
                accumulate(sums, &row[..self.shape.k], &y, 8 * tile);
            }
        }
        self.store_float(d, |lane, i| {
            let (row, column) = self.shape.c_position(lane, i);
            sum[row][column]
        });
    }

    /// Writes D from the f32 sum of each lane's elements.
    pub(super) fn store_float(self, d: &mut [[u32; 32]], sum: impl Fn(usize, usize) -> f32) {
        let count = self.d_registers();
        for (r, register) in d[..count].iter_mut().enumerate() {
            for (lane, out) in register.iter_mut().enumerate() {
                let bits = |i: usize| {
                    let value = sum(lane, i);
                    if value.is_nan() { single::NAN } else { value.to_bits() }
                };
                *out = match self.d {
                    Accumulator::F16 => {
                        let [low, high] = [2 * r, 2 * r + 1].map(|i| u32::from(half::f16_from_f32(bits(i))));
                        low | high << 16
                    }
                    _ => bits(r),
                };
            }
        }
    }

    fn execute_int(self, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
        let (mut x, mut y) = ([[0i32; 64]; 32], [[0i32; 32]; 64]);
        scatter(&a[..self.a_registers()], self.a.bits(), int_decoder(self.a), |lane, i, value| {
            let (row, column) = self.shape.a_position(self.a, lane, i);
            x[row][column] = value;
        });
        scatter(&b[..self.b_registers()], self.b.bits(), int_decoder(self.b), |lane, i, value| {
            let (row, column) = self.shape.b_position(self.b, lane, i);
            y[row][column] = value;
        });
        self.store_int(c, d, |row, column| (0..self.shape.k).map(|k| x[row][k] * y[k][column]).sum());
    }

    fn execute_bits(self, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
        // Whole registers: 32 bits along k.
        let words = self.shape.k / 32;
        let (mut x, mut y) = ([[0u32; 8]; 16], [[0u32; 8]; 8]);
        for lane in 0..32 {
            for (r, register) in a[..self.a_registers()].iter().enumerate() {
                let (row, column) = self.shape.a_position(self.a, lane, 32 * r);
                x[row][column / 32] = register[lane];
            }
            for (r, register) in b[..self.b_registers()].iter().enumerate() {
                let (row, column) = self.shape.b_position(self.b, lane, 32 * r);
                y[column][row / 32] = register[lane];
            }
        }
        let combine = |(x, y): (&u32, &u32)| match self.bit_op {
            BitOp::Xor => (x ^ y).count_ones() as i32,
            BitOp::And => (x & y).count_ones() as i32,
        };
        self.store_int(c, d, |row, column| x[row][..words].iter().zip(&y[column]).map(combine).sum());
    }

    fn store_int(self, c: &[[u32; 32]], d: &mut [[u32; 32]], product: impl Fn(usize, usize) -> i32) {
        for r in 0..self.d_registers() {
            for lane in 0..32 {
                let (row, column) = self.shape.c_position(lane, r);
                let (addend, product) = (c[r][lane] as i32, product(row, column));
                let sum = if self.satfinite {
                    addend.saturating_add(product)
                } else {
                    addend.wrapping_add(product)
                };
                d[r][lane] = sum as u32;
            }
        }
    }

    /// Executes the f64 product on 64-bit registers.
    ///
    /// # Panics
    /// If a slice is shorter than its `*_registers()`.
    pub fn execute_f64(self, a: &[[u64; 32]], b: &[[u64; 32]], c: &[[u64; 32]], d: &mut [[u64; 32]]) {
        let (mut x, mut y) = ([[0f64; 16]; 16], [[0f64; 8]; 16]);
        for lane in 0..32 {
            for (r, register) in a[..self.a_registers()].iter().enumerate() {
                let (row, column) = self.shape.a_position(self.a, lane, r);
                x[row][column] = f64::from_bits(register[lane]);
            }
            for (r, register) in b[..self.b_registers()].iter().enumerate() {
                let (row, column) = self.shape.b_position(self.b, lane, r);
                y[row][column] = f64::from_bits(register[lane]);
            }
        }
        for r in 0..self.d_registers() {
            for lane in 0..32 {
                let (row, column) = self.shape.c_position(lane, r);
                let start = f64::from_bits(c[r][lane]);
                let sum = (0..self.shape.k).fold(start, |sum, k| x[row][k].mul_add(y[k][column], sum));
                d[r][lane] = if sum.is_nan() { super::double::NAN } else { sum.to_bits() };
            }
        }
    }
}

/// `sums[j] += Σ_k row[k] · b[k][first + j]`, k by k.
#[inline(always)]
fn accumulate(sums: &mut [f32], row: &[f32], b: &[[f32; 32]; 32], first: usize) {
    let mut acc = [0f32; 8];
    acc.copy_from_slice(sums);
    for (x, b) in row.iter().zip(b) {
        for (acc, y) in acc.iter_mut().zip(&b[first..first + 8]) {
            // The product of two values of at most 11 bits is exact, so this is a fused multiply-add.
            *acc += x * y;
        }
    }
    sums.copy_from_slice(&acc);
}

/// Decodes every element of every register and hands it on with its lane and its index in the lane.
#[inline(always)]
pub(super) fn scatter<T: Copy>(
    registers: &[[u32; 32]],
    bits: usize,
    decode: fn(u32) -> T,
    mut place: impl FnMut(usize, usize, T),
) {
    let per_register = 32 / bits;
    for (r, register) in registers.iter().enumerate() {
        for element in 0..per_register {
            for (lane, word) in register.iter().enumerate() {
                place(lane, r * per_register + element, decode(word >> (bits * element)));
            }
        }
    }
}

/// The value of an element in the low bits of a word.
pub(super) fn decoder(element: Element) -> fn(u32) -> f32 {
    match element {
        Element::F16 => |word| f32::from_bits(half::f32_from_f16(word as u16)),
        Element::Bf16 => |word| f32::from_bits(half::f32_from_bf16(word as u16)),
        Element::Tf32 => |word| f32::from_bits(word & !0x1fff),
        Element::E4m3 => |word| Format::E4M3.to_f64(u64::from(word & 0xff)) as f32,
        _ => |word| Format::E5M2.to_f64(u64::from(word & 0xff)) as f32,
    }
}

pub(super) fn accumulator_decoder(accumulator: Accumulator) -> fn(u32) -> f32 {
    match accumulator {
        Accumulator::F16 => decoder(Element::F16),
        _ => f32::from_bits,
    }
}

fn int_decoder(element: Element) -> fn(u32) -> i32 {
    match element {
        Element::S8 => |word| i32::from(word as i8),
        Element::U8 => |word| i32::from(word as u8),
        Element::S4 => |word| (word << 28) as i32 >> 28,
        _ => |word| (word & 0xf) as i32,
    }
}

/// Rounds an f32 to tf32 toward zero, as the tensor cores read a register.
pub fn truncate_tf32(a: u32) -> u32 {
    (Format::TF32.from_f64(f32::from_bits(a).into(), Round::Zero) << 13) as u32
}

#[cfg(test)]
#[path = "mma_tests.rs"]
mod tests;
