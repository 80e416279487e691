//! `mma.sync.m8n8k4` of f16: four products in one instruction, each of two quads of lanes.
//!
//! Lanes 4q to 4q + 3 (the low group) and the four lanes sixteen above them (the high group) hold product q.

use super::fragment::Accumulator;
use super::mma::{Mma, accumulator_decoder, decoder, scatter};

/// Which of the four products a lane takes part in.
fn product_of(lane: usize) -> usize {
    lane % 16 / 4
}

/// Row (or column) 0 to 7 that the lane itself stands for: the high group has the upper half.
fn place(lane: usize) -> usize {
    lane % 4 + if lane < 16 { 0 } else { 4 }
}

/// Row and column of C or D.
fn c_position(accumulator: Accumulator, lane: usize, i: usize) -> (usize, usize) {
    if accumulator == Accumulator::F16 {
        return (place(lane), i);
    }
    let row = (lane & 1) + (i & 2) + if lane < 16 { 0 } else { 4 };
    (row, (i & 4) + (lane & 2) + (i & 1))
}

/// Row and column of A.
fn a_position(column_major: bool, lane: usize, i: usize) -> (usize, usize) {
    if column_major { (i + if lane < 16 { 0 } else { 4 }, lane % 4) } else { (place(lane), i) }
}

/// Row and column of B.
fn b_position(row_major: bool, lane: usize, i: usize) -> (usize, usize) {
    if row_major { (lane % 4, i + if lane < 16 { 0 } else { 4 }) } else { (i, place(lane)) }
}

pub(super) fn execute(mma: Mma, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]], d: &mut [[u32; 32]]) {
    let (mut x, mut y, mut sum) = ([[[0f32; 4]; 8]; 4], [[[0f32; 8]; 4]; 4], [[[0f32; 8]; 8]; 4]);
    scatter(&a[..2], 16, decoder(mma.a), |lane, i, value| {
        let (row, column) = a_position(mma.a_column, lane, i);
        x[product_of(lane)][row][column] = value;
    });
    scatter(&b[..2], 16, decoder(mma.b), |lane, i, value| {
        let (row, column) = b_position(mma.b_row, lane, i);
        y[product_of(lane)][row][column] = value;
    });
    scatter(&c[..mma.c_registers()], mma.c.bits(), accumulator_decoder(mma.c), |lane, i, value| {
        let (row, column) = c_position(mma.c, lane, i);
        sum[product_of(lane)][row][column] = value;
    });
    for ((sum, x), y) in sum.iter_mut().zip(&x).zip(&y) {
        for (sums, row) in sum.iter_mut().zip(x) {
            for (x, y) in row.iter().zip(y) {
                for (sum, y) in sums.iter_mut().zip(y) {
                    *sum += x * y;
                }
            }
        }
    }
    mma.store_float(d, |lane, i| {
        let (row, column) = c_position(mma.d, lane, i);
        sum[product_of(lane)][row][column]
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_holds_every_element_once() {
        type Position<'a> = &'a dyn Fn(usize, usize) -> (usize, usize);
        let layouts: [(usize, usize, Position); 6] = [
            (8, 4, &|lane, i| a_position(false, lane, i)),
            (8, 4, &|lane, i| a_position(true, lane, i)),
            (4, 8, &|lane, i| b_position(false, lane, i)),
            (4, 8, &|lane, i| b_position(true, lane, i)),
            (8, 8, &|lane, i| c_position(Accumulator::F16, lane, i)),
            (8, 8, &|lane, i| c_position(Accumulator::F32, lane, i)),
        ];
        for (rows, columns, position) in layouts {
            let mut seen = vec![false; 4 * rows * columns];
            for lane in 0..32 {
                for i in 0..rows * columns / 8 {
                    let (row, column) = position(lane, i);
                    let index = (product_of(lane) * rows + row) * columns + column;
                    assert!(!std::mem::replace(&mut seen[index], true));
                }
            }
            assert!(seen.into_iter().all(|s| s));
        }
    }
}
