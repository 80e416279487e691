//! candle: element-wise kernels of every type, conversions, fills, selections, indexing.

use crate::bench::{Bench, threads};
use crate::launch;
use crate::values::{Real, agree, equal, erf, spread};
use crate::{Case, Run};
use cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use half::{bf16, f16};

/// Not a multiple of any vector width.
const COUNT: usize = 1003;

const CRATE: &str = "candle-kernels";

/// A contiguous one-dimensional tensor: its length and stride.
fn contiguous(count: usize) -> Vec<usize> {
    vec![count, 1]
}

fn normal_cdf(x: f64) -> f64 {
    0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// name, range of inputs, function
type Unary = (&'static str, (f64, f64), fn(f64) -> f64);

const UNARY: [Unary; 20] = [
    ("uneg", (-3.0, 3.0), |x| -x),
    ("urecip", (0.2, 5.0), |x| 1.0 / x),
    ("uexp", (-4.0, 3.0), f64::exp),
    ("ulog", (0.1, 9.0), f64::ln),
    ("usin", (-9.0, 9.0), f64::sin),
    ("ucos", (-9.0, 9.0), f64::cos),
    ("utanh", (-4.0, 4.0), f64::tanh),
    ("uerf", (-3.0, 3.0), erf),
    ("uceil", (-5.0, 5.0), f64::ceil),
    ("ufloor", (-5.0, 5.0), f64::floor),
    ("uround", (-5.0, 5.0), f64::round),
    ("unormcdf", (-4.0, 4.0), normal_cdf),
    ("uabs", (-3.0, 3.0), f64::abs),
    ("usqr", (-3.0, 3.0), |x| x * x),
    ("usqrt", (0.1, 9.0), f64::sqrt),
    ("ugelu", (-3.0, 3.0), |x| {
        0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044715 * x.powi(3))).tanh())
    }),
    ("ugelu_erf", (-3.0, 3.0), |x| x * normal_cdf(x)),
    ("urelu", (-3.0, 3.0), |x| x.max(0.0)),
    ("usilu", (-5.0, 5.0), |x| x / (1.0 + (-x).exp())),
    ("usigmoid", (-5.0, 5.0), |x| 1.0 / (1.0 + (-x).exp())),
];

fn unary<T: Real>(bench: &Bench, (name, range, f): Unary) -> Result<(), String> {
    let inputs = spread::<T>(COUNT, range.0, range.1, 1);
    let x = bench.upload(&inputs)?;
    let info = bench.upload(&contiguous(COUNT))?;
    let (mut out, rank) = (bench.zeros::<T>(COUNT)?, 1usize);
    let kernel = bench.kernel(CRATE, "unary.cu", &format!("{name}_{}", T::NAME))?;
    launch!(bench, kernel, threads(COUNT), &COUNT, &rank, &info, &x, &mut out);
    let expected: Vec<f64> = inputs.iter().map(|x| f(x.to_f64())).collect();
    agree(&bench.download(&out)?, &expected, 24.0)
}

/// Unary operations with a parameter.
fn parametric<T: Real>(
    bench: &Bench,
    name: &str,
    param: f64,
    range: (f64, f64),
    f: fn(f64, f64) -> f64,
) -> Result<(), String> {
    let inputs = spread::<T>(COUNT, range.0, range.1, 1);
    let x = bench.upload(&inputs)?;
    let info = bench.upload(&contiguous(COUNT))?;
    let (mut out, rank, value) = (bench.zeros::<T>(COUNT)?, 1usize, T::from_f64(param));
    let kernel = bench.kernel(CRATE, "unary.cu", &format!("{name}_{}", T::NAME))?;
    launch!(bench, kernel, threads(COUNT), &COUNT, &rank, &info, &value, &x, &mut out);
    let expected: Vec<f64> = inputs.iter().map(|x| f(x.to_f64(), param)).collect();
    agree(&bench.download(&out)?, &expected, 24.0)
}

/// A transposed (17, 59) matrix through the strided path.
fn strided(bench: &Bench) -> Result<(), String> {
    let inputs = spread::<f32>(COUNT, -2.0, 2.0, 1);
    let x = bench.upload(&inputs)?;
    let info = bench.upload(&[17usize, 59, 1, 17])?;
    let (mut out, rank) = (bench.zeros::<f32>(COUNT)?, 2usize);
    let kernel = bench.kernel(CRATE, "unary.cu", "uneg_f32")?;
    launch!(bench, kernel, threads(COUNT), &COUNT, &rank, &info, &x, &mut out);
    let expected: Vec<f32> = (0..COUNT).map(|i| -inputs[i / 59 + 17 * (i % 59)]).collect();
    equal(&bench.download(&out)?, &expected)
}

fn binary<T: Real>(bench: &Bench, name: &str, f: fn(f64, f64) -> f64) -> Result<(), String> {
    let (left, right) = (spread::<T>(COUNT, 0.25, 3.0, 1), spread::<T>(COUNT, 0.25, 3.0, 2));
    let (x, y) = (bench.upload(&left)?, bench.upload(&right)?);
    let info = bench.upload(&[COUNT, 1, 1])?;
    let (mut out, rank) = (bench.zeros::<T>(COUNT)?, 1usize);
    let kernel = bench.kernel(CRATE, "binary.cu", &format!("{name}_{}", T::NAME))?;
    launch!(bench, kernel, threads(COUNT), &COUNT, &rank, &info, &x, &y, &mut out);
    let expected: Vec<f64> = left.iter().zip(&right).map(|(x, y)| f(x.to_f64(), y.to_f64())).collect();
    agree(&bench.download(&out)?, &expected, 2.0)
}

/// A type that the host computes with exactly as the kernel does.
trait Exact:
    DeviceRepr + ValidAsZeroBits + Default + Copy + PartialEq + std::fmt::Debug + Send + 'static
{
}
impl<T: DeviceRepr + ValidAsZeroBits + Default + Copy + PartialEq + std::fmt::Debug + Send + 'static> Exact
    for T
{
}

fn integers<T: Exact, R: Exact>(
    bench: &Bench,
    name: &str,
    from: fn(usize) -> T,
    f: fn(T, T) -> R,
) -> Result<(), String> {
    let (left, right): (Vec<T>, Vec<T>) =
        (0..COUNT).map(|i| (from(i * 7 + 1), from(i * i % 251 + 1))).unzip();
    let (x, y) = (bench.upload(&left)?, bench.upload(&right)?);
    let info = bench.upload(&[COUNT, 1, 1])?;
    let (mut out, rank) = (bench.zeros::<R>(COUNT)?, 1usize);
    let kernel = bench.kernel(CRATE, "binary.cu", name)?;
    launch!(bench, kernel, threads(COUNT), &COUNT, &rank, &info, &x, &y, &mut out);
    let expected: Vec<R> = left.iter().zip(&right).map(|(&x, &y)| f(x, y)).collect();
    equal(&bench.download(&out)?, &expected)
}

fn affine<T: Exact>(
    bench: &Bench,
    name: &str,
    from: fn(usize) -> T,
    (mul, add): (T, T),
    f: fn(T, T, T) -> T,
) -> Result<(), String> {
    let inputs: Vec<T> = (0..COUNT).map(from).collect();
    let x = bench.upload(&inputs)?;
    let info = bench.upload(&contiguous(COUNT))?;
    let (mut out, rank) = (bench.zeros::<T>(COUNT)?, 1usize);
    let kernel = bench.kernel(CRATE, "affine.cu", name)?;
    launch!(bench, kernel, threads(COUNT), &COUNT, &rank, &info, &x, &mut out, &mul, &add);
    let expected: Vec<T> = inputs.iter().map(|&x| f(x, mul, add)).collect();
    equal(&bench.download(&out)?, &expected)
}

fn cast<S: Exact, D: Exact>(
    bench: &Bench,
    name: &str,
    from: fn(usize) -> S,
    f: fn(S) -> D,
) -> Result<(), String> {
    let inputs: Vec<S> = (0..COUNT).map(from).collect();
    let x = bench.upload(&inputs)?;
    let info = bench.upload(&contiguous(COUNT))?;
    let (mut out, rank) = (bench.zeros::<D>(COUNT)?, 1usize);
    let kernel = bench.kernel(CRATE, "cast.cu", name)?;
    launch!(bench, kernel, threads(COUNT), &COUNT, &rank, &info, &x, &mut out);
    let expected: Vec<D> = inputs.iter().map(|&x| f(x)).collect();
    equal(&bench.download(&out)?, &expected)
}

/// Floats of both signs with fractions, some beyond the small types.
fn float(i: usize) -> f32 {
    (i as f32 - 500.0) * 1.37 + 0.3
}

fn fill<T: Exact>(bench: &Bench, name: &str, value: T) -> Result<(), String> {
    let mut out = bench.zeros::<T>(COUNT)?;
    let kernel = bench.kernel(CRATE, "fill.cu", name)?;
    launch!(bench, kernel, threads(COUNT), &mut out, &value, &COUNT);
    equal(&bench.download(&out)?, &[value; COUNT])
}

/// A (13, 29) block out of one matrix into another, of different strides.
fn copy2d(bench: &Bench) -> Result<(), String> {
    let inputs: Vec<u32> = (0..13 * 40).map(|i| i * 77).collect();
    let x = bench.upload(&inputs)?;
    let mut out = bench.zeros::<u32>(13 * 31)?;
    let kernel = bench.kernel(CRATE, "fill.cu", "copy2d_u32")?;
    launch!(bench, kernel, threads(13 * 29), &x, &mut out, &13u32, &29u32, &40u32, &31u32);
    let expected: Vec<u32> =
        (0..13 * 31).map(|i| if i % 31 < 29 { inputs[i / 31 * 40 + i % 31] } else { 0 }).collect();
    equal(&bench.download(&out)?, &expected)
}

fn select<I: Exact, T: Exact>(
    bench: &Bench,
    name: &str,
    condition: fn(usize) -> I,
    from: fn(usize) -> T,
) -> Result<(), String> {
    let ids: Vec<I> = (0..COUNT).map(condition).collect();
    let (yes, no): (Vec<T>, Vec<T>) = (0..COUNT).map(|i| (from(i), from(2 * COUNT + i))).unzip();
    let pick = bench.upload(&ids)?;
    let (t, f) = (bench.upload(&yes)?, bench.upload(&no)?);
    let info = bench.upload(&[COUNT, 1, 1, 1])?;
    let (mut out, rank) = (bench.zeros::<T>(COUNT)?, 1usize);
    let kernel = bench.kernel(CRATE, "ternary.cu", name)?;
    launch!(bench, kernel, threads(COUNT), &COUNT, &rank, &info, &pick, &t, &f, &mut out);
    let expected: Vec<T> = (0..COUNT).map(|i| if ids[i] == I::default() { no[i] } else { yes[i] }).collect();
    equal(&bench.download(&out)?, &expected)
}

/// (4, 10, 7) indexed along the middle by 6 numbers, one of them the marker for zero.
fn index_select(bench: &Bench) -> Result<(), String> {
    let ids = [3u32, 9, 0, u32::MAX, 3, 7];
    let inputs = spread::<f32>(280, -1.0, 1.0, 1);
    let (x, index) = (bench.upload(&inputs)?, bench.upload(&ids)?);
    let info = bench.upload(&[4usize, 10, 7, 70, 7, 1])?;
    let (count, rank, left, source, picked, right) = (168usize, 3usize, 4usize, 10usize, 6usize, 7usize);
    let mut out = bench.zeros::<f32>(count)?;
    let kernel = bench.kernel(CRATE, "indexing.cu", "is_u32_f32")?;
    launch!(
        bench,
        kernel,
        threads(count),
        &count,
        &rank,
        &info,
        &index,
        &x,
        &mut out,
        &left,
        &source,
        &picked,
        &right
    );
    let expected: Vec<f32> = (0..count)
        .map(|i| match ids[i / 7 % 6] {
            u32::MAX => 0.0,
            id => inputs[i / 42 * 70 + id as usize * 7 + i % 7],
        })
        .collect();
    equal(&bench.download(&out)?, &expected)
}

fn gather(bench: &Bench) -> Result<(), String> {
    let inputs = spread::<f32>(280, -1.0, 1.0, 1);
    let ids: Vec<i64> = (0..168).map(|i| (i * 31 % 10) as i64).collect();
    let (x, index) = (bench.upload(&inputs)?, bench.upload(&ids)?);
    let (count, left, source, picked, right) = (168usize, 4usize, 10usize, 6usize, 7usize);
    let mut out = bench.zeros::<f32>(count)?;
    let kernel = bench.kernel(CRATE, "indexing.cu", "gather_i64_f32")?;
    launch!(bench, kernel, threads(count), &count, &index, &x, &mut out, &left, &source, &picked, &right);
    let expected: Vec<f32> =
        (0..count).map(|i| inputs[(i / 42 * 10 + ids[i] as usize) * 7 + i % 7]).collect();
    equal(&bench.download(&out)?, &expected)
}

/// Adds rows to the rows that the indices name, in order: exact on both sides.
fn index_add(bench: &Bench) -> Result<(), String> {
    let ids = [3i64, 9, 0, 3, 3, 7];
    let inputs = spread::<f32>(4 * 6 * 7, -1.0, 1.0, 1);
    let start = spread::<f32>(280, -1.0, 1.0, 2);
    let (x, index) = (bench.upload(&inputs)?, bench.upload(&ids)?);
    let mut out = bench.upload(&start)?;
    let (picked, left, source, target, right) = (6usize, 4usize, 6usize, 10usize, 7usize);
    let kernel = bench.kernel(CRATE, "indexing.cu", "ia_i64_f32")?;
    launch!(bench, kernel, threads(28), &index, &picked, &x, &mut out, &left, &source, &target, &right);
    let mut expected = start;
    for (i, x) in inputs.iter().enumerate() {
        expected[i / 42 * 70 + ids[i / 7 % 6] as usize * 7 + i % 7] += x;
    }
    equal(&bench.download(&out)?, &expected)
}

/// `s` overwrites, `sa` adds.
fn scatter(bench: &Bench, name: &str, adds: bool) -> Result<(), String> {
    let inputs = spread::<f32>(4 * 6 * 7, -1.0, 1.0, 1);
    let ids: Vec<u32> = (0..168).map(|i| i * 13 % 10).collect();
    let start = spread::<f32>(280, -1.0, 1.0, 2);
    let (x, index) = (bench.upload(&inputs)?, bench.upload(&ids)?);
    let mut out = bench.upload(&start)?;
    let (left, source, target, right) = (4usize, 6usize, 10usize, 7usize);
    let kernel = bench.kernel(CRATE, "indexing.cu", name)?;
    launch!(bench, kernel, threads(28), &index, &x, &mut out, &left, &source, &target, &right);
    let mut expected = start;
    for (i, &x) in inputs.iter().enumerate() {
        let place = &mut expected[i / 42 * 70 + ids[i] as usize * 7 + i % 7];
        *place = if adds { *place + x } else { x };
    }
    equal(&bench.download(&out)?, &expected)
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    let mut case = |name: String, run: Run| {
        cases.push(Case::new(format!("candle::{name}"), run));
    };
    for op in UNARY {
        case(format!("{}_f32", op.0), Box::new(move |b| unary::<f32>(b, op)));
        case(format!("{}_f64", op.0), Box::new(move |b| unary::<f64>(b, op)));
        case(format!("{}_f16", op.0), Box::new(move |b| unary::<f16>(b, op)));
        case(format!("{}_bf16", op.0), Box::new(move |b| unary::<bf16>(b, op)));
    }
    let elu: fn(f64, f64) -> f64 = |x, alpha| if x > 0.0 { x } else { alpha * x.exp_m1() };
    case("uelu_f32".into(), Box::new(move |b| parametric::<f32>(b, "uelu", 1.5, (-3.0, 3.0), elu)));
    case("upowf_f32".into(), Box::new(|b| parametric::<f32>(b, "upowf", 2.5, (0.1, 3.0), f64::powf)));
    case("upowf_bf16".into(), Box::new(|b| parametric::<bf16>(b, "upowf", 2.5, (0.1, 3.0), f64::powf)));
    case("uneg_f32 transposed".into(), Box::new(strided));
    type Function = fn(f64, f64) -> f64;
    let functions: [(&str, Function); 6] = [
        ("badd", |x, y| x + y),
        ("bsub", |x, y| x - y),
        ("bmul", |x, y| x * y),
        ("bdiv", |x, y| x / y),
        ("bmaximum", f64::max),
        ("bminimum", f64::min),
    ];
    for (name, f) in functions {
        case(format!("{name}_f32"), Box::new(move |b| binary::<f32>(b, name, f)));
        case(format!("{name}_f64"), Box::new(move |b| binary::<f64>(b, name, f)));
        case(format!("{name}_f16"), Box::new(move |b| binary::<f16>(b, name, f)));
        case(format!("{name}_bf16"), Box::new(move |b| binary::<bf16>(b, name, f)));
    }
    case("badd_u8".into(), Box::new(|b| integers(b, "badd_u8", |i| i as u8, u8::wrapping_add)));
    case(
        "bmul_u32".into(),
        Box::new(|b| integers(b, "bmul_u32", |i| (i as u32).wrapping_mul(0x9e37_79b1), u32::wrapping_mul)),
    );
    case("bdiv_u32".into(), Box::new(|b| integers(b, "bdiv_u32", |i| i as u32, |x, y| x / y)));
    case(
        "bdiv_i64".into(),
        Box::new(|b| integers(b, "bdiv_i64", |i| ((i as i64 - 300) * 0x1_0000_0001) | 1, |x, y| x / y)),
    );
    case("bminimum_i64".into(), Box::new(|b| integers(b, "bminimum_i64", |i| 500 - i as i64, i64::min)));
    case("lt_f32".into(), Box::new(|b| integers(b, "lt_f32", |i| (i % 16) as f32, |x, y| u8::from(x < y))));
    case("ge_i64".into(), Box::new(|b| integers(b, "ge_i64", |i| (i % 16) as i64, |x, y| u8::from(x >= y))));
    case("eq_u8".into(), Box::new(|b| integers(b, "eq_u8", |i| (i % 4) as u8, |x, y| u8::from(x == y))));
    // The compiler contracts x * mul + add.
    case("affine_f32".into(), Box::new(|b| affine(b, "affine_f32", float, (0.37, -2.5), f32::mul_add)));
    case(
        "affine_f64".into(),
        Box::new(|b| affine(b, "affine_f64", |i| i as f64 / 3.0, (0.37, -2.5), f64::mul_add)),
    );
    case(
        "affine_u8".into(),
        Box::new(|b| {
            affine(b, "affine_u8", |i| i as u8, (7, 9), |x, m, a| x.wrapping_mul(m).wrapping_add(a))
        }),
    );
    case(
        "affine_i64".into(),
        Box::new(|b| affine(b, "affine_i64", |i| i as i64 - 500, (-77, 1 << 40), |x, m, a| x * m + a)),
    );
    case("cast_f32_f16".into(), Box::new(|b| cast(b, "cast_f32_f16", float, f16::from_f32)));
    case("cast_f32_bf16".into(), Box::new(|b| cast(b, "cast_f32_bf16", float, bf16::from_f32)));
    case(
        "cast_bf16_f32".into(),
        Box::new(|b| cast(b, "cast_bf16_f32", |i| bf16::from_f32(float(i)), bf16::to_f32)),
    );
    case(
        "cast_f16_f64".into(),
        Box::new(|b| cast(b, "cast_f16_f64", |i| f16::from_f32(float(i)), f16::to_f64)),
    );
    case("cast_f32_i64".into(), Box::new(|b| cast(b, "cast_f32_i64", float, |x| x as i64)));
    case(
        "cast_f32_u8".into(),
        Box::new(|b| cast(b, "cast_f32_u8", |i| (i % 256) as f32 + 0.75, |x| x as u8)),
    );
    case(
        "cast_i64_f32".into(),
        Box::new(|b| cast(b, "cast_i64_f32", |i| (i as i64 - 500) << 33 | 12345, |x| x as f32)),
    );
    case(
        "cast_u32_f64".into(),
        Box::new(|b| cast(b, "cast_u32_f64", |i| (i as u32).wrapping_mul(0x9e37_79b1), f64::from)),
    );
    case(
        "cast_f64_f32".into(),
        Box::new(|b| cast(b, "cast_f64_f32", |i| (i as f64).exp2().recip(), |x| x as f32)),
    );
    case(
        "cast_u8_bf16".into(),
        Box::new(|b| cast(b, "cast_u8_bf16", |i| i as u8, |x| bf16::from_f32(x.into()))),
    );
    case("cast_f32_f8_e4m3 and back".into(), Box::new(fp8));
    case("fill_f32".into(), Box::new(|b| fill(b, "fill_f32", 2.5f32)));
    case("fill_u8".into(), Box::new(|b| fill(b, "fill_u8", 0xa5u8)));
    case("fill_bf16".into(), Box::new(|b| fill(b, "fill_bf16", bf16::from_f32(-0.75))));
    case("fill_i64".into(), Box::new(|b| fill(b, "fill_i64", i64::MIN + 7)));
    case("copy2d_u32".into(), Box::new(copy2d));
    case("where_u8_f32".into(), Box::new(|b| select(b, "where_u8_f32", |i| (i % 3) as u8, float)));
    case(
        "where_i64_f64".into(),
        Box::new(|b| select(b, "where_i64_f64", |i| (i as i64 % 2) << 40, |i| i as f64)),
    );
    case("where_u32_u8".into(), Box::new(|b| select(b, "where_u32_u8", |i| i as u32 & 4, |i| i as u8)));
    case("is_u32_f32".into(), Box::new(index_select));
    case("gather_i64_f32".into(), Box::new(gather));
    case("ia_i64_f32".into(), Box::new(index_add));
    case("s_u32_f32".into(), Box::new(|b| scatter(b, "s_u32_f32", false)));
    case("sa_u32_f32".into(), Box::new(|b| scatter(b, "sa_u32_f32", true)));
    cases
}

/// Every f32 that is an FP8 number or the midpoint of two survives as the format's rounding says.
fn fp8(bench: &Bench) -> Result<(), String> {
    let value = |bits: u8| {
        let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
        if exponent == 0 { mantissa * 2f64.powi(-9) } else { (8.0 + mantissa) * 2f64.powi(exponent - 10) }
    };
    // 126 is the largest finite pattern; odd multiples of half a step are ties.
    let inputs: Vec<f32> =
        (0..126u8).flat_map(|b| [value(b), (value(b) + value(b + 1)) / 2.0]).map(|x| -x as f32).collect();
    let count = inputs.len();
    let info = bench.upload(&contiguous(count))?;
    let (x, rank) = (bench.upload(&inputs)?, 1usize);
    let mut bytes = bench.zeros::<u8>(count)?;
    let mut back = bench.zeros::<f32>(count)?;
    let kernel = bench.kernel(CRATE, "cast.cu", "cast_f32_f8_e4m3")?;
    launch!(bench, kernel, threads(count), &count, &rank, &info, &x, &mut bytes);
    let expected: Vec<u8> = (0..126u8).flat_map(|b| [b, b + (b & 1)]).map(|b| b | 0x80).collect();
    equal(&bench.download(&bytes)?, &expected)?;
    let kernel = bench.kernel(CRATE, "cast.cu", "cast_f8_e4m3_f32")?;
    launch!(bench, kernel, threads(count), &count, &rank, &info, &bytes, &mut back);
    let expected: Vec<f32> = expected.iter().map(|&b| -value(b & 0x7f) as f32).collect();
    equal(&bench.download(&back)?, &expected)
}
