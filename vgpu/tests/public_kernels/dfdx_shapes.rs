//! dfdx: binary operations over strides, reductions, comparisons, and operations that move elements.

use crate::Case;
use crate::bench::{Bench, blocks, threads};
use crate::launch;
use crate::values::{Real, agree, equal, spread};

/// The left operand is (4, 32, 8); the right one (4, 8), broadcast along the middle.
const DIMS: [usize; 3] = [4, 32, 8];
const COUNT: usize = 4 * 32 * 8;
const SMALL: usize = 4 * 8;

/// A binary operation: f and its two derivatives.
#[derive(Clone, Copy)]
struct Binary {
    file: &'static str,
    name: &'static str,
    /// The operation's only scalar, where it has one.
    scalar: Option<f64>,
    range: (f64, f64),
    forward: fn(f64, f64) -> f64,
    by_left: fn(f64, f64) -> f64,
    by_right: fn(f64, f64) -> f64,
}

const DELTA: f64 = 0.5;

fn huber_slope(x: f64, y: f64) -> f64 {
    (x - y).clamp(-DELTA, DELTA)
}

const BINARY: [Binary; 8] = [
    Binary {
        file: "add/binary_add.cu",
        name: "badd",
        scalar: None,
        range: (-3.0, 3.0),
        forward: |x, y| x + y,
        by_left: |_, _| 1.0,
        by_right: |_, _| 1.0,
    },
    Binary {
        file: "sub/binary_sub.cu",
        name: "bsub",
        scalar: None,
        range: (-3.0, 3.0),
        forward: |x, y| x - y,
        by_left: |_, _| 1.0,
        by_right: |_, _| -1.0,
    },
    Binary {
        file: "mul/binary_mul.cu",
        name: "bmul",
        scalar: None,
        range: (-3.0, 3.0),
        forward: |x, y| x * y,
        by_left: |_, y| y,
        by_right: |x, _| x,
    },
    Binary {
        file: "div/binary_div.cu",
        name: "bdiv",
        scalar: None,
        range: (0.5, 3.0),
        forward: |x, y| x / y,
        by_left: |_, y| 1.0 / y,
        by_right: |x, y| -x / (y * y),
    },
    Binary {
        file: "minimum/minimum.cu",
        name: "minimum",
        scalar: None,
        range: (-3.0, 3.0),
        forward: f64::min,
        by_left: |x, y| f64::from(u8::from(x < y)),
        by_right: |x, y| f64::from(u8::from(x > y)),
    },
    Binary {
        file: "maximum/maximum.cu",
        name: "maximum",
        scalar: None,
        range: (-3.0, 3.0),
        forward: f64::max,
        by_left: |x, y| f64::from(u8::from(x > y)),
        by_right: |x, y| f64::from(u8::from(x < y)),
    },
    Binary {
        file: "huber_error/huber_error.cu",
        name: "huber",
        scalar: Some(DELTA),
        range: (-2.0, 2.0),
        forward: |x, y| {
            let a = (x - y).abs();
            if a < DELTA { 0.5 * a * a } else { DELTA * (a - 0.5 * DELTA) }
        },
        by_left: huber_slope,
        by_right: |x, y| -huber_slope(x, y),
    },
    Binary {
        file: "bce/bce.cu",
        name: "bce",
        scalar: None,
        range: (0.05, 0.95),
        forward: |x, y| x.max(0.0) - x * y + (1.0 + (-x.abs()).exp()).ln(),
        by_left: |x, y| 1.0 - y - 1.0 / (1.0 + x.exp()),
        by_right: |x, _| -x,
    },
];

/// Strides of the operands in the order of `DIMS`, then of the gradient of the right operand, which runs over
/// (4, 8, 32) so that what is summed lies together: dims, output strides, strides of the other operand,
/// twice.
fn info() -> Vec<usize> {
    let forward: [[usize; 3]; 3] = [DIMS, [256, 8, 1], [8, 0, 1]];
    let right: [[usize; 3]; 3] = [[4, 8, 32], [256, 1, 8], [256, 1, 8]];
    [forward, right].concat().concat()
}

fn binary<T: Real>(bench: &Bench, op: Binary) -> Result<(), String> {
    let file = format!("tensor_ops/{}", op.file);
    let kernel = |part: &str| bench.kernel("dfdx", &file, &format!("{}_{part}_{}", op.name, T::NAME));
    let (left, right) =
        (spread::<T>(COUNT, op.range.0, op.range.1, 1), spread::<T>(SMALL, op.range.0, op.range.1, 2));
    let gradient = spread::<T>(COUNT, -1.0, 1.0, 3);
    let [x, y, dz] = [bench.upload(&left)?, bench.upload(&right)?, bench.upload(&gradient)?];
    let mut z = bench.zeros::<T>(COUNT)?;
    let [mut dx, mut dy] = [bench.zeros::<T>(COUNT)?, bench.zeros::<T>(SMALL)?];
    let places = bench.upload(&info())?;
    let (rank, one, chunk, grid) = (3usize, 1usize, 32usize, blocks(COUNT / 128, 128));
    let (empty, scalar) = (0u8, T::from_f64(op.scalar.unwrap_or(0.0)));
    macro_rules! with_op {
        ($kernel:expr, $($rest:expr),+) => {
            if op.scalar.is_some() {
                launch!(bench, $kernel, grid, &scalar, $($rest),+)
            } else {
                launch!(bench, $kernel, grid, &empty, $($rest),+)
            }
        };
    }
    with_op!(kernel("fwd")?, &COUNT, &rank, &places, &x, &y, &mut z);
    with_op!(kernel("bwd_lhs")?, &COUNT, &rank, &places, &x, &mut dx, &one, &y, &dz);
    with_op!(kernel("bwd_rhs")?, &COUNT, &rank, &places, &x, &y, &mut dy, &chunk, &dz);
    let value = |i: usize| (left[i].to_f64(), right[i / 256 * 8 + i % 8].to_f64());
    let each = |f: fn(f64, f64) -> f64| (0..COUNT).map(|i| f(value(i).0, value(i).1)).collect::<Vec<f64>>();
    agree(&bench.download(&z)?, &each(op.forward), 16.0)?;
    let slope: Vec<f64> = each(op.by_left).iter().zip(&gradient).map(|(d, g)| d * g.to_f64()).collect();
    agree(&bench.download(&dx)?, &slope, 16.0)?;
    let mut sums = vec![0.0; SMALL];
    for (i, d) in each(op.by_right).into_iter().enumerate() {
        sums[i / 256 * 8 + i % 8] += d * gradient[i].to_f64();
    }
    agree(&bench.download(&dy)?, &sums, 64.0)
}

/// Sums, maxima or minima of runs of 16 elements, four to a block of 64; and the gradient's way back.
fn reduction<T: Real>(bench: &Bench, which: &'static str) -> Result<(), String> {
    let file = format!("tensor_ops/{which}/{which}.cu");
    let kernel = |part: &str| bench.kernel("dfdx", &file, &format!("{which}_{part}_{}", T::NAME));
    let (count, chunk) = (512usize, 16usize);
    let inputs = spread::<T>(count, -2.0, 2.0, 1);
    let start = match which {
        "sum_to" => 0.0,
        "max_to" => f64::NEG_INFINITY,
        _ => f64::INFINITY,
    };
    let x = bench.upload(&inputs)?;
    let mut out = bench.upload(&vec![T::from_f64(start); count / chunk])?;
    // One dimension, contiguous; for the way back also the output's strides, over (32, 16).
    let places = bench.upload(&[count, 1])?;
    let (rank, one) = (1usize, T::from_f64(1.0));
    let forward = kernel("fwd")?;
    if which == "sum_to" {
        launch!(bench, forward, blocks(8, 64), &count, &rank, &one, &chunk, &places, &x, &mut out);
    } else {
        launch!(bench, forward, blocks(8, 64), &count, &rank, &chunk, &places, &x, &mut out);
    }
    let fold = |run: &[T]| {
        let values = run.iter().map(|x| x.to_f64());
        match which {
            "sum_to" => values.sum::<f64>(),
            "max_to" => values.fold(f64::NEG_INFINITY, f64::max),
            _ => values.fold(f64::INFINITY, f64::min),
        }
    };
    let expected: Vec<f64> = inputs.chunks(chunk).map(fold).collect();
    agree(&bench.download(&out)?, &expected, if which == "sum_to" { 16.0 } else { 0.0 })?;

    let gradient = spread::<T>(count / chunk, -1.0, 1.0, 2);
    let dy = bench.upload(&gradient)?;
    let mut dx = bench.zeros::<T>(count)?;
    let places = bench.upload(&[count / chunk, chunk, chunk, 1, 1, 0])?;
    let rank = 2usize;
    let backward = kernel("bwd")?;
    if which == "sum_to" {
        launch!(bench, backward, blocks(8, 64), &count, &rank, &one, &places, &mut dx, &dy);
    } else {
        launch!(bench, backward, blocks(8, 64), &count, &rank, &one, &places, &x, &mut dx, &out, &dy);
    }
    let expected: Vec<f64> = (0..count)
        .map(|i| {
            let chosen = which == "sum_to" || inputs[i].to_f64() == expected[i / chunk];
            if chosen { gradient[i / chunk].to_f64() } else { 0.0 }
        })
        .collect();
    agree(&bench.download(&dx)?, &expected, 0.0)
}

fn comparison<T: Real>(bench: &Bench, name: &str, holds: fn(f64, f64) -> bool) -> Result<(), String> {
    let kernel =
        |part: &str| bench.kernel("dfdx", "tensor_ops/cmp/cmp.cu", &format!("{part}{name}_fwd_{}", T::NAME));
    // Few different values, so that equals occur; and NaN.
    let coarse = |seed| {
        let mut list = spread::<T>(COUNT, -2.0, 2.0, seed);
        list.iter_mut().for_each(|x| *x = T::from_f64(x.to_f64().round()));
        list.iter_mut().step_by(11).for_each(|x| *x = T::from_f64(f64::NAN));
        list
    };
    let (left, right, scalar) = (coarse(1), coarse(2), T::from_f64(1.0));
    let (x, y) = (bench.upload(&left)?, bench.upload(&right)?);
    let (dims, contiguous) = (bench.upload(&DIMS)?, bench.upload(&[256usize, 8, 1])?);
    // The right operand is read with its first two dimensions exchanged.
    let turned = bench.upload(&[8usize, 32, 1])?;
    let mut out = bench.zeros::<u8>(COUNT)?;
    let rank = 3usize;
    launch!(
        bench,
        kernel("")?,
        threads(COUNT),
        &COUNT,
        &rank,
        &dims,
        &x,
        &contiguous,
        &y,
        &turned,
        &mut out,
        &contiguous
    );
    let other = |i: usize| right[i / 256 * 8 + i / 8 % 32 * 32 + i % 8].to_f64();
    let expected: Vec<u8> = (0..COUNT).map(|i| holds(left[i].to_f64(), other(i)).into()).collect();
    equal(&bench.download(&out)?, &expected)?;
    launch!(
        bench,
        kernel("scalar_")?,
        threads(COUNT),
        &COUNT,
        &rank,
        &dims,
        &x,
        &contiguous,
        &scalar,
        &mut out,
        &contiguous
    );
    let expected: Vec<u8> = left.iter().map(|x| holds(x.to_f64(), 1.0).into()).collect();
    equal(&bench.download(&out)?, &expected)
}

fn boolean(bench: &Bench, name: &str, f: fn(u8, u8) -> u8) -> Result<(), String> {
    let bits =
        |seed: usize| (0..COUNT).map(|i| u8::from((i * 7 + seed * i / 3) % 5 < 2)).collect::<Vec<u8>>();
    let (left, right) = (bits(1), bits(2));
    let (x, y) = (bench.upload(&left)?, bench.upload(&right)?);
    let (dims, strides) = (bench.upload(&DIMS)?, bench.upload(&[256usize, 8, 1])?);
    let mut out = bench.zeros::<u8>(COUNT)?;
    let kernel = bench.kernel("dfdx", "tensor_ops/boolean/boolean.cu", name)?;
    let rank = 3usize;
    if name == "boolean_not" {
        launch!(bench, kernel, threads(COUNT), &COUNT, &x, &mut out);
    } else {
        launch!(bench, kernel, threads(COUNT), &COUNT, &rank, &dims, &x, &strides, &y, &strides, &mut out);
    }
    let expected: Vec<u8> = left.iter().zip(&right).map(|(&a, &b)| f(a, b)).collect();
    equal(&bench.download(&out)?, &expected)
}

fn choose(bench: &Bench) -> Result<(), String> {
    let (left, right) = (spread::<f32>(COUNT, -1.0, 1.0, 1), spread::<f32>(SMALL, -1.0, 1.0, 2));
    let condition: Vec<u8> = (0..COUNT).map(|i| u8::from(i % 3 == 0)).collect();
    let [x, y] = [bench.upload(&left)?, bench.upload(&right)?];
    let pick = bench.upload(&condition)?;
    let (dims, strides, broadcast) =
        (bench.upload(&DIMS)?, bench.upload(&[256usize, 8, 1])?, bench.upload(&[8usize, 0, 1])?);
    let (mut out, rank) = (bench.zeros::<f32>(COUNT)?, 3usize);
    let file = "tensor_ops/choose/choose.cu";
    let kernel = bench.kernel("dfdx", file, "choose_fwd_f32")?;
    launch!(
        bench,
        kernel,
        threads(COUNT),
        &COUNT,
        &rank,
        &dims,
        &pick,
        &strides,
        &x,
        &strides,
        &y,
        &broadcast,
        &mut out
    );
    let small = |i: usize| i / 256 * 8 + i % 8;
    let expected: Vec<f32> =
        (0..COUNT).map(|i| if condition[i] == 1 { left[i] } else { right[small(i)] }).collect();
    equal(&bench.download(&out)?, &expected)?;
    // Back: the broadcast operand's gradient is summed by atomics, in any order.
    let [mut dx, mut dy] = [bench.zeros::<f32>(COUNT)?, bench.zeros::<f32>(SMALL)?];
    let kernel = bench.kernel("dfdx", file, "choose_bwd_f32")?;
    launch!(
        bench,
        kernel,
        threads(COUNT),
        &COUNT,
        &rank,
        &dims,
        &pick,
        &strides,
        &mut dx,
        &strides,
        &mut dy,
        &broadcast,
        &x
    );
    let mut sums = vec![0.0; SMALL];
    for i in (0..COUNT).filter(|&i| condition[i] == 0) {
        sums[small(i)] += f64::from(left[i]);
    }
    agree(&bench.download(&dy)?, &sums, 32.0)?;
    let expected: Vec<f32> = (0..COUNT).map(|i| if condition[i] == 1 { left[i] } else { 0.0 }).collect();
    equal(&bench.download(&dx)?, &expected)
}

#[repr(C)]
struct Roll {
    axis: usize,
    amount: usize,
}
// SAFETY: two plain numbers, as in the kernel's struct.
unsafe impl cudarc::driver::DeviceRepr for Roll {}

fn roll(bench: &Bench) -> Result<(), String> {
    let inputs = spread::<f32>(COUNT, -1.0, 1.0, 1);
    let x = bench.upload(&inputs)?;
    let (dims, strides) = (bench.upload(&DIMS)?, bench.upload(&[256usize, 8, 1])?);
    let (mut out, rank) = (bench.zeros::<f32>(COUNT)?, 3usize);
    let op = Roll { axis: 1, amount: 5 };
    let kernel = bench.kernel("dfdx", "tensor_ops/roll/roll.cu", "roll_fwd_f32")?;
    launch!(bench, kernel, threads(COUNT), &op, &rank, &COUNT, &dims, &strides, &strides, &x, &mut out);
    let expected: Vec<f32> =
        (0..COUNT).map(|i| inputs[i / 256 * 256 + (i / 8 % 32 + 27) % 32 * 8 + i % 8]).collect();
    equal(&bench.download(&out)?, &expected)
}

/// The middle rows 3 to 12 of each of the four matrices, as every element size.
fn slice<
    T: cudarc::driver::DeviceRepr
        + cudarc::driver::ValidAsZeroBits
        + Copy
        + Default
        + PartialEq
        + std::fmt::Debug,
>(
    bench: &Bench,
    name: &str,
    from: fn(usize) -> T,
) -> Result<(), String> {
    let inputs: Vec<T> = (0..COUNT).map(from).collect();
    let x = bench.upload(&inputs)?;
    let (dims, strides) = (bench.upload(&[4usize, 10, 8])?, bench.upload(&[256usize, 8, 1])?);
    let (count, rank, offset) = (320usize, 3usize, 24usize);
    let mut out = bench.zeros::<T>(count)?;
    let kernel = bench.kernel("dfdx", "tensor_ops/slice/slice.cu", name)?;
    launch!(bench, kernel, threads(count), &count, &rank, &dims, &strides, &offset, &x, &mut out);
    let expected: Vec<T> = (0..count).map(|i| inputs[i / 80 * 256 + 24 + i % 80]).collect();
    equal(&bench.download(&out)?, &expected)
}

#[repr(C)]
struct AttentionReshape {
    numel: usize,
    heads: usize,
    head_dim: usize,
    sequence: usize,
    past: usize,
}
// SAFETY: plain numbers, as in the kernel's struct.
unsafe impl cudarc::driver::DeviceRepr for AttentionReshape {}

/// (sequence, 3, heads, dim) and the past keys and values into queries, transposed keys, and values.
fn attention_reshape(bench: &Bench) -> Result<(), String> {
    let (heads, dim, sequence, past) = (3usize, 8usize, 5usize, 4usize);
    let total = sequence + past;
    let (hidden, q_count, k_count) = (heads * dim, heads * dim * sequence, heads * dim * total);
    let qkv = spread::<f32>(3 * q_count, -1.0, 1.0, 1);
    let (past_k, past_v) =
        (spread::<f32>(hidden * past, -1.0, 1.0, 2), spread::<f32>(hidden * past, -1.0, 1.0, 3));
    let [x, pk, pv] = [bench.upload(&qkv)?, bench.upload(&past_k)?, bench.upload(&past_v)?];
    let [mut q, mut k, mut v] = [bench.zeros::<f32>(q_count)?, bench.zeros(k_count)?, bench.zeros(k_count)?];
    let op = AttentionReshape { numel: q_count + 2 * k_count, heads, head_dim: dim, sequence, past };
    let kernel =
        bench.kernel("dfdx", "tensor_ops/attention_reshape/attention_reshape.cu", "attention_reshape_f32")?;
    launch!(bench, kernel, threads(op.numel), &op, &x, &pk, &pv, &mut q, &mut k, &mut v);
    let at = |part: usize, t: usize, h: usize, c: usize| qkv[t * 3 * hidden + part * hidden + h * dim + c];
    let (mut eq, mut ek, mut ev) = (vec![], vec![], vec![]);
    for h in 0..heads {
        for t in 0..sequence {
            eq.extend((0..dim).map(|c| at(0, t, h, c)));
        }
        for c in 0..dim {
            ek.extend((0..past).map(|t| past_k[(h * dim + c) * past + t]));
            ek.extend((0..sequence).map(|t| at(1, t, h, c)));
        }
        for t in 0..total {
            ev.extend((0..dim).map(|c| match t.checked_sub(past) {
                None => past_v[(h * past + t) * dim + c],
                Some(t) => at(2, t, h, c),
            }));
        }
    }
    equal(&bench.download(&q)?, &eq)?;
    equal(&bench.download(&k)?, &ek)?;
    equal(&bench.download(&v)?, &ev)
}

#[repr(C)]
struct Conv2d {
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
    groups: usize,
    batch: usize,
    chan_in: usize,
    chan_out: usize,
    h_in: usize,
    h_out: usize,
    w_in: usize,
    w_out: usize,
}
// SAFETY: plain numbers, as in the kernel's struct.
unsafe impl cudarc::driver::DeviceRepr for Conv2d {}

const CONV: Conv2d = Conv2d {
    kernel: 3,
    stride: 2,
    padding: 1,
    dilation: 1,
    groups: 2,
    batch: 2,
    chan_in: 4,
    chan_out: 6,
    h_in: 7,
    h_out: 4,
    w_in: 6,
    w_out: 3,
};

/// The im2col of a padded, strided convolution.
fn unfold(bench: &Bench) -> Result<(), String> {
    let op = CONV;
    let image = spread::<f32>(op.batch * op.chan_in * op.h_in * op.w_in, -1.0, 1.0, 1);
    let count = op.batch * op.chan_in * 9 * op.h_out * op.w_out;
    let x = bench.upload(&image)?;
    let strides = bench.upload(&[op.chan_in * op.h_in * op.w_in, op.h_in * op.w_in, op.w_in, 1])?;
    let mut patches = bench.zeros::<f32>(count)?;
    let kernel = bench.kernel("dfdx", "tensor_ops/conv2d/conv2d.cu", "unfold_input_into_patches_f32")?;
    launch!(
        bench,
        kernel,
        threads(op.batch * op.chan_in * op.h_out * op.w_out),
        &op,
        &x,
        &strides,
        &mut patches
    );
    let mut expected = vec![];
    for plane in 0..op.batch * op.chan_in {
        for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
            for (oy, ox) in (0..op.h_out).flat_map(|oy| (0..op.w_out).map(move |ox| (oy, ox))) {
                let (y, x) = ((oy * 2 + dy).wrapping_sub(1), (ox * 2 + dx).wrapping_sub(1));
                let inside = y < op.h_in && x < op.w_in;
                expected.push(if inside { image[(plane * op.h_in + y) * op.w_in + x] } else { 0.0 });
            }
        }
    }
    equal(&bench.download(&patches)?, &expected)
}

fn transpose_filters(bench: &Bench) -> Result<(), String> {
    let op = CONV;
    let (inner, outer) = (op.chan_in / op.groups, op.chan_out / op.groups);
    let filters = spread::<f64>(op.chan_out * inner * 9, -1.0, 1.0, 1);
    let x = bench.upload(&filters)?;
    let strides = bench.upload(&[inner * 9, 9, 3, 1])?;
    let mut out = bench.zeros::<f64>(filters.len())?;
    let kernel = bench.kernel("dfdx", "tensor_ops/conv2d/conv2d.cu", "transpose_filters_f64")?;
    launch!(bench, kernel, threads(filters.len()), &op, &x, &strides, &mut out);
    let mut expected = vec![];
    for (g, c) in (0..op.groups).flat_map(|g| (0..inner).map(move |c| (g, c))) {
        for o in 0..outer {
            let start = ((g * outer + o) * inner + c) * 9;
            expected.extend_from_slice(&filters[start..start + 9]);
        }
    }
    equal(&bench.download(&out)?, &expected)
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for op in BINARY {
        cases.push(Case::new(format!("dfdx::{}_f32 fwd bwd_lhs bwd_rhs", op.name), move |b| {
            binary::<f32>(b, op)
        }));
        cases.push(Case::new(format!("dfdx::{}_f64 fwd bwd_lhs bwd_rhs", op.name), move |b| {
            binary::<f64>(b, op)
        }));
    }
    for which in ["sum_to", "max_to", "min_to"] {
        cases.push(Case::new(format!("dfdx::{which}_f32 fwd bwd"), move |b| reduction::<f32>(b, which)));
        cases.push(Case::new(format!("dfdx::{which}_f64 fwd bwd"), move |b| reduction::<f64>(b, which)));
    }
    type Holds = fn(f64, f64) -> bool;
    let comparisons: [(&str, Holds); 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
    ];
    for (name, holds) in comparisons {
        cases.push(Case::new(format!("dfdx::{name}_fwd_f32"), move |b| comparison::<f32>(b, name, holds)));
        cases.push(Case::new(format!("dfdx::{name}_fwd_f16"), move |b| {
            comparison::<half::f16>(b, name, holds)
        }));
    }
    type Bits = fn(u8, u8) -> u8;
    let booleans: [(&str, Bits); 4] = [
        ("boolean_and", |a, b| a & b),
        ("boolean_or", |a, b| a | b),
        ("boolean_xor", |a, b| a ^ b),
        ("boolean_not", |a, _| 1 - a),
    ];
    for (name, f) in booleans {
        cases.push(Case::new(format!("dfdx::{name}"), move |b| boolean(b, name, f)));
    }
    cases.push(Case::new("dfdx::choose_f32 fwd bwd", choose));
    cases.push(Case::new("dfdx::roll_fwd_f32", roll));
    cases.push(Case::new("dfdx::slice_fwd_u8", |b| slice(b, "slice_fwd_u8", |i| i as u8)));
    cases.push(Case::new("dfdx::slice_fwd_i16", |b| slice(b, "slice_fwd_i16", |i| i as i16 - 300)));
    cases.push(Case::new("dfdx::slice_fwd_u64", |b| {
        slice(b, "slice_fwd_u64", |i| i as u64 * 0x0123_4567_89ab)
    }));
    cases.push(Case::new("dfdx::attention_reshape_f32", attention_reshape));
    cases.push(Case::new("dfdx::unfold_input_into_patches_f32", unfold));
    cases.push(Case::new("dfdx::transpose_filters_f64", transpose_filters));
    cases
}
