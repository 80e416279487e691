//! Usual problems, with NaN in the gaps of their arrays: sizes, memory order, storage type, generator,
//! attention, targets and options all vary.

use multimix::reference::Sizes;
use multimix::{Alpha, AttentionOptions, Element, Factor, LossOptions, Mixing, Normalise, Query, Reduction};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::problem::Problem;
use super::strided::{Strided, unravel};

/// Problem `index` of the run of `seed`. Columns whose mass lies at the threshold below which it counts as
/// none are avoided: there the engine's scale of attention decides, which the reference does not have.
pub fn usual<T: Element>(seed: u64, index: u64) -> Problem<T> {
    (0..)
        .map(|attempt| build(ChaCha8Rng::seed_from_u64(seed ^ (index << 8) ^ (attempt << 32)), index))
        .find(|problem| !has_borderline_mass(problem))
        .unwrap()
}

fn build<T: Element>(mut rng: ChaCha8Rng, index: u64) -> Problem<T> {
    let rng_ = &mut rng;
    let sizes = sizes(rng_, index);
    let Sizes { b, r, d, c, n } = sizes;
    let (mixing, explicit) = generator(rng_, &sizes, index);
    let weights = explicit.map(|(values, positions)| {
        let repeated = [false, b > 1 && rng_.random_bool(0.1), false];
        (values, positions, repeated)
    });
    let weights = weights.map(|(values, positions, repeated)| {
        let shape = [positions, b, n];
        let mut values = repeat(&values, shape, repeated);
        if repeated[1] {
            // All examples alike: none may be without weight.
            let largest = values.iter().copied().fold(0f32, f32::max);
            values.iter_mut().filter(|w| **w == 0.0).for_each(|w| *w = largest);
        }
        Strided::broadcast(rng_, shape, repeated, &values, f32::NAN)
    });
    let scale = 10f32.powf(rng_.random_range(-1.0..1.5));
    let offset = if rng_.random_bool(0.2) { 30.0 * normal(rng_) } else { 0.0 };
    let logits = array::<T, 3>(rng_, [b, r, c], [false; 3], |rng| scale * normal(rng) + offset);
    let repeated = [rng_.random_bool(0.05), rng_.random_bool(0.1), false];
    let features = array::<T, 3>(rng_, [b, r, d], repeated, normal);
    let attention = attention(rng_, b, r, index);
    let soft = (index % 3 == 1).then(|| array::<f32, 2>(rng_, [b, c], [false; 2], soft_target));
    Problem {
        name: format!(
            "problem {index}: {sizes:?}, {:?}, {mixing:?}, explicit {}",
            T::DTYPE,
            weights.is_some()
        ),
        sizes,
        mixing,
        features,
        logits,
        attention,
        weights,
        labels: (0..b).map(|_| rng_.random_range(0..c as u32)).collect(),
        soft,
        mixes_targets: true,
        classifier: array(rng_, [c, d], [false; 2], normal),
        options: LossOptions {
            reduction: if rng_.random_bool(0.5) { Reduction::Mean } else { Reduction::AttentionWeighted },
            detach_attention: rng_.random_bool(0.25),
            kl: rng_.random_bool(0.5),
        },
        upstream: [1.0, -2.5, 0.125, 1024.0][rng_.random_range(0..4)],
        attention_options: AttentionOptions {
            query: if rng_.random_bool(0.5) { Query::Gap } else { Query::Cam },
            normalise: if rng_.random_bool(0.5) { Normalise::ReluL1 } else { Normalise::Softmax },
        },
        d_mixed: array(rng_, [n, r, d], [false; 3], normal),
        d_mixed_targets: rng_.random_bool(0.6).then(|| array(rng_, [n, r, c], [false; 3], normal)),
        d_attention: array(rng_, [b, r], [false; 2], normal),
        rng,
    }
}

/// Mostly small and odd; now and then many examples (sums of several runs), many columns (several panels,
/// several items per position) or many positions.
fn sizes(rng: &mut ChaCha8Rng, index: u64) -> Sizes {
    let mut up_to = |most: f64| rng.random_range(0.0..(most + 0.99).ln()).exp() as usize;
    match index % 10 {
        7 => Sizes { b: 60 + up_to(90.0), r: up_to(3.0), d: up_to(9.0), c: up_to(9.0), n: up_to(60.0) },
        8 => Sizes { b: up_to(12.0), r: up_to(3.0), d: up_to(6.0), c: up_to(6.0), n: 250 + up_to(1200.0) },
        9 => Sizes { b: up_to(12.0), r: 20 + up_to(60.0), d: up_to(6.0), c: up_to(6.0), n: up_to(40.0) },
        _ => Sizes { b: up_to(40.0), r: up_to(9.0), d: up_to(40.0), c: up_to(30.0), n: up_to(90.0) },
    }
}

/// The mixing, and in its place explicit weights with their number of positions.
fn generator(rng: &mut ChaCha8Rng, sizes: &Sizes, index: u64) -> (Mixing, Option<(Vec<f32>, usize)>) {
    let Sizes { b, r, n, .. } = *sizes;
    let fixed = [1e-3, 0.05, 0.4, 1.0, 1.7, 50.0, 1e3][rng.random_range(0..7)];
    let ranges = [(0.5, 2.0), (1e-3, 1e3), (0.9, 1.1), (2.0, 2.0), (1e-3, 0.02)];
    let (lo, hi) = ranges[rng.random_range(0..ranges.len())];
    let alpha = if rng.random_bool(0.5) { Alpha::Fixed(fixed) } else { Alpha::Uniform { lo, hi } };
    let mixing = match index % 6 {
        0..=2 => Mixing::dirichlet(n, alpha),
        3 => Mixing::pair(n, alpha, Factor::PerBatch),
        4 => Mixing::pair(n, alpha, Factor::PerColumn),
        _ => Mixing::dirichlet(n, Alpha::PAPER), // beside explicit weights
    };
    let mixing = mixing.seed(rng.random()).step(rng.random_range(0..1000));
    let explicit = (index % 6 == 5).then(|| {
        let positions = if rng.random_bool(0.3) { 1 } else { r };
        let scale = [1.0, 1e-3, 1e4, 1e-30, 1e30][rng.random_range(0..5)];
        let mut values: Vec<f32> = (0..positions * b * n)
            .map(|_| if rng.random_bool(0.3) { 0.0 } else { scale * rng.random_range(0.001..1f32) })
            .collect();
        // No column without weight.
        for j in 0..positions {
            for k in 0..n {
                values[(j * b + k % b) * n + k] = scale;
            }
        }
        (values, positions)
    });
    (mixing, explicit)
}

/// None, positive, sparse, with dead examples and positions, or on extreme scales.
fn attention(rng: &mut ChaCha8Rng, b: usize, r: usize, index: u64) -> Option<Strided<f32, 2>> {
    let kind = (index / 2) % 7;
    if kind == 0 {
        return None;
    }
    let dead_example: Vec<bool> = (0..b).map(|_| kind == 3 && rng.random_bool(0.4)).collect();
    let position_scale: Vec<f32> = (0..r)
        .map(|_| match kind {
            4 if rng.random_bool(0.5) => 0.0,
            5 => 10f32.powi(rng.random_range(-30..30)),
            _ => 1.0,
        })
        .collect();
    let mut value = |at: usize| {
        let sparse = matches!(kind, 2 | 4) && rng.random_bool(0.5);
        let value = rng.random_range(0.01..1f32) * position_scale[at % r];
        if sparse || dead_example[at / r] || kind == 6 { 0.0 } else { value }
    };
    let values: Vec<f32> = (0..b * r).map(&mut value).collect();
    let repeated = [kind == 1 && rng.random_bool(0.15), kind == 1 && rng.random_bool(0.15)];
    let values = repeat(&values, [b, r], repeated);
    Some(Strided::broadcast(rng, [b, r], repeated, &values, f32::NAN))
}

fn soft_target(rng: &mut ChaCha8Rng) -> f32 {
    if rng.random_bool(0.3) { 0.0 } else { rng.random_range(0.0..2.0) }
}

/// About normal: a sum of uniforms.
pub fn normal(rng: &mut ChaCha8Rng) -> f32 {
    (0..4).map(|_| rng.random_range(-1.0..1f32)).sum::<f32>() * 0.87
}

fn array<T: Element, const N: usize>(
    rng: &mut ChaCha8Rng,
    shape: [usize; N],
    repeated: [bool; N],
    mut value: impl FnMut(&mut ChaCha8Rng) -> f32,
) -> Strided<T, N> {
    let values: Vec<T> = (0..shape.iter().product()).map(|_| T::from_f32(value(rng))).collect();
    let values = repeat(&values, shape, repeated);
    Strided::broadcast(rng, shape, repeated, &values, T::from_f32(f32::NAN))
}

/// Makes values constant along the repeated axes.
fn repeat<T: Copy, const N: usize>(values: &[T], shape: [usize; N], repeated: [bool; N]) -> Vec<T> {
    let source = |at: usize| {
        let index = unravel(at, shape);
        (0..N).fold(0, |place, axis| place * shape[axis] + if repeated[axis] { 0 } else { index[axis] })
    };
    (0..values.len()).map(|at| values[source(at)]).collect()
}

/// Whether a column's mass lies within some powers of two of the threshold 2⁻¹²⁰, on the scale of its draws.
fn has_borderline_mass<T: Element>(problem: &Problem<T>) -> bool {
    let (Sizes { b, r, n, .. }, Some(attention)) = (problem.sizes, &problem.attention) else { return false };
    let (mut attention, raw) = (attention.floats(), problem.raw());
    for map in attention.chunks_exact_mut(r).filter(|map| map.iter().all(|&a| a == 0.0)) {
        map.fill(1.0 / r as f32);
    }
    (0..r).any(|j| {
        let largest = (0..b).map(|i| attention[i * r + j]).fold(0f32, f32::max);
        (0..n).any(|k| {
            let term =
                |i: usize| f64::from(attention[i * r + j] / largest) * f64::from(raw[(j * b + i) * n + k]);
            let mass: f64 = (0..b).map(term).sum();
            mass > 0.0 && mass < 2f64.powi(-110)
        })
    })
}
