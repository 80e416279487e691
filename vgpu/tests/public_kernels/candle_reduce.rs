//! candle: reductions, normalisations, softmax, rotary embeddings, sorting, quantised matrix-vector products.

use crate::bench::{Bench, blocks, threads};
use crate::launch;
use crate::values::{Real, agree, equal, spread};
use crate::{Case, Run};
use cudarc::driver::LaunchConfig;
use half::{bf16, f16};

const CRATE: &str = "candle-kernels";
const FILE: &str = "reduce.cu";

const ROWS: usize = 6;
const COLUMNS: usize = 100;

/// Reductions of each row; the block is the power of two that candle would take.
fn reduce<T: Real>(bench: &Bench, name: &str, fold: fn(&[f64]) -> f64, ulps: f64) -> Result<(), String> {
    let inputs = spread::<T>(ROWS * COLUMNS, -2.0, 2.0, 1);
    let x = bench.upload(&inputs)?;
    let info = bench.upload(&[ROWS, COLUMNS, COLUMNS, 1])?;
    let mut out = bench.zeros::<T>(ROWS)?;
    let (count, columns, rank) = (ROWS * COLUMNS, COLUMNS, 2usize);
    let kernel = bench.kernel(CRATE, FILE, &format!("{name}_{}", T::NAME))?;
    launch!(bench, kernel, blocks(ROWS, 128), &count, &columns, &rank, &info, &x, &mut out);
    agree(&bench.download(&out)?, &rows(&inputs).iter().map(|row| fold(row)).collect::<Vec<_>>(), ulps)
}

fn rows<T: Real>(inputs: &[T]) -> Vec<Vec<f64>> {
    inputs.chunks(COLUMNS).map(|row| row.iter().map(|x| x.to_f64()).collect()).collect()
}

fn argument(bench: &Bench, name: &str, better: fn(f64, f64) -> bool) -> Result<(), String> {
    let inputs = spread::<f32>(ROWS * COLUMNS, -2.0, 2.0, 1);
    let x = bench.upload(&inputs)?;
    let info = bench.upload(&[ROWS, COLUMNS, COLUMNS, 1])?;
    let mut out = bench.zeros::<u32>(ROWS)?;
    let (count, columns, rank) = (ROWS * COLUMNS, COLUMNS, 2usize);
    let kernel = bench.kernel(CRATE, FILE, name)?;
    launch!(bench, kernel, blocks(ROWS, 128), &count, &columns, &rank, &info, &x, &mut out);
    let best = |row: Vec<f64>| {
        (1..COLUMNS).fold(0, |best, i| if better(row[i], row[best]) { i } else { best }) as u32
    };
    equal(&bench.download(&out)?, &rows(&inputs).into_iter().map(best).collect::<Vec<_>>())
}

/// One thread per sum.
fn small_sums<T: Real>(bench: &Bench) -> Result<(), String> {
    let (sums, length, rank) = (200usize, 8usize, 1usize);
    let inputs = spread::<T>(sums * length, -2.0, 2.0, 1);
    let x = bench.upload(&inputs)?;
    let info = bench.upload(&[sums * length, 1])?;
    let mut out = bench.zeros::<T>(sums)?;
    let kernel = bench.kernel(CRATE, FILE, &format!("fast_sum_small_{}", T::NAME))?;
    launch!(bench, kernel, threads(sums), &sums, &length, &rank, &info, &x, &mut out);
    let expected: Vec<f64> = inputs.chunks(length).map(|run| run.iter().map(|x| x.to_f64()).sum()).collect();
    agree(&bench.download(&out)?, &expected, 8.0)
}

/// Sums over the first dimension by atomics.
fn atomic_sum(bench: &Bench) -> Result<(), String> {
    let inputs = spread::<f32>(ROWS * COLUMNS, -2.0, 2.0, 1);
    let x = bench.upload(&inputs)?;
    // dims, strides, then length and stride of the dimension summed over.
    let info = bench.upload(&[ROWS, COLUMNS, COLUMNS, 1, ROWS, COLUMNS])?;
    let mut out = bench.zeros::<f32>(COLUMNS)?;
    let (count, rank, summed) = (ROWS * COLUMNS, 2usize, 1usize);
    let kernel = bench.kernel(CRATE, FILE, "sum_f32")?;
    launch!(bench, kernel, threads(count), &count, &rank, &summed, &info, &x, &mut out);
    let expected: Vec<f64> = (0..COLUMNS).map(|c| rows(&inputs).iter().map(|row| row[c]).sum()).collect();
    agree(&bench.download(&out)?, &expected, 8.0)
}

fn softmax<T: Real>(bench: &Bench) -> Result<(), String> {
    let inputs = spread::<T>(ROWS * COLUMNS, -4.0, 4.0, 1);
    let x = bench.upload(&inputs)?;
    let mut out = bench.zeros::<T>(ROWS * COLUMNS)?;
    let kernel = bench.kernel(CRATE, FILE, &format!("softmax_{}", T::NAME))?;
    let config = LaunchConfig { grid_dim: (ROWS as u32, 1, 1), block_dim: (1, 32, 1), shared_mem_bytes: 0 };
    launch!(bench, kernel, config, &x, &mut out, &(COLUMNS as i32));
    let expected: Vec<f64> = rows(&inputs)
        .into_iter()
        .flat_map(|row| {
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            row.into_iter().map(move |x| x.exp() / sum)
        })
        .collect();
    agree(&bench.download(&out)?, &expected, 4.0)
}

/// Rows of `columns`, by a warp (short rows) or a block of 1024 (long ones).
fn normalisation<T: Real>(bench: &Bench, layer: bool, columns: usize, block: usize) -> Result<(), String> {
    let inputs = spread::<T>(3 * columns, -2.0, 2.0, 1);
    let (gain, shift) = (spread::<T>(columns, 0.5, 1.5, 2), spread::<T>(columns, -0.5, 0.5, 3));
    let [x, alpha, beta] = [bench.upload(&inputs)?, bench.upload(&gain)?, bench.upload(&shift)?];
    let mut out = bench.zeros::<T>(3 * columns)?;
    let (count, threads, epsilon) = (columns as i32, block as i32, 1e-5f32);
    if layer {
        let kernel = bench.kernel(CRATE, FILE, &format!("layernorm_{}", T::NAME))?;
        launch!(bench, kernel, blocks(3, block), &x, &mut out, &alpha, &beta, &count, &threads, &epsilon);
    } else {
        let kernel = bench.kernel(CRATE, FILE, &format!("rmsnorm_{}", T::NAME))?;
        launch!(bench, kernel, blocks(3, block), &x, &mut out, &alpha, &count, &threads, &epsilon);
    }
    let mut expected = vec![];
    for row in inputs.chunks(columns) {
        let row: Vec<f64> = row.iter().map(|x| x.to_f64()).collect();
        let mean = if layer { row.iter().sum::<f64>() / columns as f64 } else { 0.0 };
        let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / columns as f64;
        let scale = 1.0 / (square + 1e-5).sqrt();
        for (i, x) in row.iter().enumerate() {
            let shift = if layer { shift[i].to_f64() } else { 0.0 };
            expected.push((x - mean) * scale * gain[i].to_f64() + shift);
        }
    }
    agree(&bench.download(&out)?, &expected, 16.0)
}

/// Rotary embeddings of (heads, time, dim): pairs half a dimension apart, or neighbours.
fn rope(bench: &Bench, interleaved: bool) -> Result<(), String> {
    let (heads, time, dim) = (3usize, 5usize, 8usize);
    let inputs = spread::<f32>(heads * time * dim, -2.0, 2.0, 1);
    let angles: Vec<f32> = (0..time * dim / 2).map(|i| 0.1 * i as f32).collect();
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    let [x, c, s] = [bench.upload(&inputs)?, bench.upload(&cos)?, bench.upload(&sin)?];
    let mut out = bench.zeros::<f32>(inputs.len())?;
    let (bh, td, d, stride) = (heads as u32, (time * dim) as u32, dim as u32, 0u32);
    let grid = threads(inputs.len() / 2);
    if interleaved {
        let kernel = bench.kernel(CRATE, FILE, "rope_i_f32")?;
        launch!(bench, kernel, grid, &x, &c, &s, &mut out, &bh, &td, &stride);
    } else {
        let kernel = bench.kernel(CRATE, FILE, "rope_f32")?;
        launch!(bench, kernel, grid, &x, &c, &s, &mut out, &bh, &td, &d, &stride);
    }
    let mut expected = vec![0.0; inputs.len()];
    for pair in 0..inputs.len() / 2 {
        let (row, i) = (pair / (dim / 2), pair % (dim / 2));
        let (first, second) = if interleaved {
            (row * dim + 2 * i, row * dim + 2 * i + 1)
        } else {
            (row * dim + i, row * dim + i + dim / 2)
        };
        let angle = row % time * (dim / 2) + i;
        let [a, b, c, s] = [inputs[first], inputs[second], cos[angle], sin[angle]].map(f64::from);
        expected[first] = a * c - b * s;
        expected[second] = a * s + b * c;
    }
    agree(&bench.download(&out)?, &expected, 4.0)
}

/// Bitonic sort of rows in dynamic shared memory, padded to a power of two.
fn argsort(bench: &Bench, name: &str, ascending: bool) -> Result<(), String> {
    let inputs = spread::<f32>(ROWS * COLUMNS, -2.0, 2.0, 1);
    let x = bench.upload(&inputs)?;
    let mut out = bench.zeros::<u32>(ROWS * COLUMNS)?;
    let padded = COLUMNS.next_power_of_two();
    let kernel = bench.kernel(CRATE, "sort.cu", name)?;
    let config = LaunchConfig { shared_mem_bytes: 4 * padded as u32, ..blocks(ROWS, padded) };
    let (columns, width) = (COLUMNS as i32, padded as i32);
    launch!(bench, kernel, config, &x, &mut out, &columns, &width);
    let mut expected = vec![];
    for row in rows(&inputs) {
        let mut order: Vec<u32> = (0..COLUMNS as u32).collect();
        order.sort_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize]));
        if !ascending {
            order.reverse();
        }
        expected.extend(order);
    }
    equal(&bench.download(&out)?, &expected)
}

const QUANTISED: usize = 256;

/// Activations quantised to blocks of 32 bytes with scale and sum (`q8_1`), the kernel's output against the
/// definition.
fn quantise(bench: &Bench) -> Result<(), String> {
    let inputs = spread::<f32>(QUANTISED, -3.0, 3.0, 1);
    let bytes = quantised(bench, &inputs)?;
    for (block, values) in bytes.chunks(36).zip(inputs.chunks(32)) {
        let largest = values.iter().fold(0f32, |m, x| m.max(x.abs()));
        let scale = largest / 127.0;
        let stored = f16::from_le_bytes([block[0], block[1]]);
        let sum = f16::from_le_bytes([block[2], block[3]]);
        equal(&[stored], &[f16::from_f32(scale)])?;
        agree(&[sum], &[values.iter().map(|&x| f64::from(x)).sum()], 2.0)?;
        let expected: Vec<i8> = values.iter().map(|x| (x / scale).round() as i8).collect();
        equal(&block[4..].iter().map(|&b| b as i8).collect::<Vec<_>>(), &expected)?;
    }
    Ok(())
}

fn quantised(bench: &Bench, inputs: &[f32]) -> Result<Vec<u8>, String> {
    let x = bench.upload(inputs)?;
    let mut out = bench.zeros::<u8>(inputs.len() / 32 * 36)?;
    let kernel = bench.kernel(CRATE, "quantized.cu", "quantize_q8_1")?;
    let count = inputs.len() as i32;
    launch!(bench, kernel, blocks(inputs.len() / 256, 256), &x, &mut out, &count, &count);
    bench.download(&out)
}

/// Rows of 8-bit (`q8_0`) or 4-bit (`q4_0`) weights times a quantised vector, through dp4a.
fn matrix_vector(bench: &Bench, four_bits: bool) -> Result<(), String> {
    let rows = 5usize;
    let inputs = spread::<f32>(QUANTISED, -3.0, 3.0, 1);
    let vector = quantised(bench, &inputs)?;
    let bytes = if four_bits { 16 } else { 32 };
    let weights: Vec<u8> = (0..rows * QUANTISED / 32)
        .flat_map(|block| {
            let scale = f16::from_f32(0.01 + 0.003 * (block % 7) as f32).to_le_bytes();
            scale.into_iter().chain((0..bytes).map(move |i| (block * 37 + i * 101) as u8))
        })
        .collect();
    let [x, y] = [bench.upload(&weights)?, bench.upload(&vector)?];
    let mut out = bench.zeros::<f32>(rows)?;
    let name = if four_bits { "mul_mat_vec_q4_0_q8_1_cuda1" } else { "mul_mat_vec_q8_0_q8_1_cuda1" };
    let kernel = bench.kernel(CRATE, "quantized.cu", name)?;
    let config = LaunchConfig { grid_dim: (rows as u32, 1, 1), block_dim: (32, 4, 1), shared_mem_bytes: 0 };
    let (columns, count) = (QUANTISED as i32, rows as i32);
    launch!(bench, kernel, config, &x, &y, &mut out, &columns, &count, &columns, &count);
    let number = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f64();
    let mut expected = vec![0.0; rows];
    for (i, block) in weights.chunks(2 + bytes).enumerate() {
        let other = &vector[i % (QUANTISED / 32) * 36..][..36];
        let quants = |k: usize| match four_bits {
            // Low nibbles hold the first half of the block, high ones the second.
            true if k < 16 => i32::from(block[2 + k] & 15),
            true => i32::from(block[2 + k - 16] >> 4),
            false => i32::from(block[2 + k] as i8),
        };
        let dot: i32 = (0..32).map(|k| quants(k) * i32::from(other[4 + k] as i8)).sum();
        // Four bits are stored with an offset of 8, which the sum of the vector takes back.
        let offset = if four_bits { 8.0 * number(other, 2) } else { 0.0 };
        expected[i / (QUANTISED / 32)] += number(block, 0) * (f64::from(dot) * number(other, 0) - offset);
    }
    agree(&bench.download(&out)?, &expected, 32.0)
}

pub fn cases() -> Vec<Case> {
    let sum: fn(&[f64]) -> f64 = |row| row.iter().sum();
    let max: fn(&[f64]) -> f64 = |row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let min: fn(&[f64]) -> f64 = |row| row.iter().copied().fold(f64::INFINITY, f64::min);
    let named = |name: &str, run: Run| Case::new(format!("candle::{name}"), run);
    vec![
        named("fast_sum_f32", Box::new(move |b| reduce::<f32>(b, "fast_sum", sum, 16.0))),
        named("fast_sum_f64", Box::new(move |b| reduce::<f64>(b, "fast_sum", sum, 16.0))),
        named("fast_sum_bf16", Box::new(move |b| reduce::<bf16>(b, "fast_sum", sum, 2.0))),
        named("fast_max_f32", Box::new(move |b| reduce::<f32>(b, "fast_max", max, 0.0))),
        named("fast_max_f16", Box::new(move |b| reduce::<f16>(b, "fast_max", max, 0.0))),
        named("fast_min_f32", Box::new(move |b| reduce::<f32>(b, "fast_min", min, 0.0))),
        named("fast_argmax_f32", Box::new(|b| argument(b, "fast_argmax_f32", |x, y| x > y))),
        named("fast_argmin_f32", Box::new(|b| argument(b, "fast_argmin_f32", |x, y| x < y))),
        named("fast_sum_small_f32", Box::new(small_sums::<f32>)),
        named("fast_sum_small_bf16", Box::new(small_sums::<bf16>)),
        named("sum_f32", Box::new(atomic_sum)),
        named("softmax_f32", Box::new(softmax::<f32>)),
        named("softmax_f16", Box::new(softmax::<f16>)),
        named("layernorm_f32 of a warp", Box::new(|b| normalisation::<f32>(b, true, 100, 32))),
        named("layernorm_f32 of a block", Box::new(|b| normalisation::<f32>(b, true, 2500, 1024))),
        named("layernorm_f16", Box::new(|b| normalisation::<f16>(b, true, 100, 32))),
        named("rmsnorm_f32", Box::new(|b| normalisation::<f32>(b, false, 100, 32))),
        named("rmsnorm_bf16 of a block", Box::new(|b| normalisation::<bf16>(b, false, 2500, 1024))),
        named("rope_f32", Box::new(|b| rope(b, false))),
        named("rope_i_f32", Box::new(|b| rope(b, true))),
        named("asort_asc_f32", Box::new(|b| argsort(b, "asort_asc_f32", true))),
        named("asort_desc_f32", Box::new(|b| argsort(b, "asort_desc_f32", false))),
        named("quantize_q8_1", Box::new(quantise)),
        named("mul_mat_vec_q8_0_q8_1", Box::new(|b| matrix_vector(b, false))),
        named("mul_mat_vec_q4_0_q8_1", Box::new(|b| matrix_vector(b, true))),
    ]
}
