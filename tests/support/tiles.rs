//! Problems for kernels: sizes on and off their tiles, all generators, layouts with gaps and in either order,
//! with NaN in the gaps.

use multimix::reference::Sizes;
use multimix::{
    Alpha, AttentionOptions, Element, Factor, Generator, Layout, LossOptions, Mixing, Normalise, Query,
    Reduction,
};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::problem::Problem;
use super::strided::Strided;

/// A setting that is a number.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// What all problems are drawn from: `MULTIMIX_TEST_SEED`, or 0.
pub fn seed() -> u64 {
    setting("MULTIMIX_TEST_SEED", 0)
}

/// Random numbers of a test, by its name and the number of the problem.
pub fn random(name: &str, problem: u64) -> ChaCha8Rng {
    let mix = |seed: u64, byte: u8| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte);
    ChaCha8Rng::seed_from_u64(name.bytes().fold(problem, mix) ^ seed().rotate_left(32))
}

/// A problem of a test, by the test's name and the problem's number.
pub fn tiles<T: Element>(name: &str, number: u64) -> Problem<T> {
    let mut rng = random(name, number);
    Outline::draw(&mut rng).fill(rng)
}

/// Sizes, columns and seeds of a problem.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    pub sizes: Sizes,
    pub mixing: Mixing,
    /// Whether there are explicit weights in place of drawn columns.
    pub explicit: bool,
    /// Whether attention is given.
    pub attention: bool,
}

/// Around the tiles of 8, 16 and 64; primes; one.
const EXAMPLES: &[usize] = &[1, 2, 3, 7, 8, 16, 17, 31, 63, 64, 65, 67, 96, 127, 128, 129];
const COLUMNS: &[usize] = &[1, 2, 5, 15, 16, 17, 31, 33, 63, 64, 65, 71, 129];
const POSITIONS: &[usize] = &[1, 1, 2, 3, 4, 5];
const CHANNELS: &[usize] = &[1, 3, 8, 16, 17, 31, 61, 63, 64, 65, 72, 128, 131];
const CLASSES: &[usize] = &[1, 2, 3, 8, 10, 17, 64, 65, 100];

fn pick<T: Copy>(rng: &mut ChaCha8Rng, from: &[T]) -> T {
    *from.choose(rng).expect("not empty")
}

impl Outline {
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let sizes = Sizes {
            b: pick(rng, EXAMPLES),
            r: pick(rng, POSITIONS),
            d: pick(rng, CHANNELS),
            c: pick(rng, CLASSES),
            n: pick(rng, COLUMNS),
        };
        let mixing = Mixing::dirichlet(sizes.n, Alpha::PAPER);
        let (generator, explicit) = generator(rng).map_or((mixing.generator, true), |drawn| (drawn, false));
        let mixing = Mixing { generator, ..mixing }.seed(rng.random()).step(rng.random_range(0..1 << 40));
        Self { sizes, mixing, explicit, attention: rng.random_bool(0.6) }
    }

    /// A problem of these sizes.
    pub fn fill<T: Element>(self, mut rng: ChaCha8Rng) -> Problem<T> {
        let (Sizes { b, r, d, c, n }, rng_) = (self.sizes, &mut rng);
        let options = LossOptions {
            reduction: pick(rng_, &[Reduction::Mean, Reduction::AttentionWeighted]),
            detach_attention: !self.attention || rng_.random_bool(0.5),
            kl: rng_.random_bool(0.5),
        };
        let attention_options = AttentionOptions {
            query: pick(rng_, &[Query::Gap, Query::Cam]),
            normalise: pick(rng_, &[Normalise::ReluL1, Normalise::Softmax]),
        };
        let mixes_targets = rng_.random_bool(0.7);
        Problem {
            name: format!("{self:?} {options:?} {attention_options:?}"),
            sizes: self.sizes,
            mixing: self.mixing,
            attention: self.attention.then(|| attention(rng_, [b, r])),
            weights: self.explicit.then(|| weights(rng_, [r, b, n])),
            features: uniform(rng_, [b, r, d], -1.0..1.0),
            logits: uniform(rng_, [b, r, c], -6.0..6.0),
            labels: (0..b).map(|_| rng_.random_range(0..c as u32)).collect(),
            soft: rng_.random_bool(0.45).then(|| uniform(rng_, [b, c], 0.0..1.0)),
            mixes_targets,
            classifier: uniform(rng_, [c, d], -1.0..1.0),
            options,
            upstream: pick(rng_, &[1.0, -0.5, 64.0]),
            attention_options,
            d_mixed: uniform(rng_, [n, r, d], -1.0..1.0),
            d_mixed_targets: mixes_targets.then(|| uniform(rng_, [n, r, c], -1.0..1.0)),
            // Devices take it in row-major order.
            d_attention: Strided::contiguous([b, r], |_| rng_.random_range(-1.0..1.0)),
            rng,
        }
    }
}

fn uniform<T: Element, const N: usize>(
    rng: &mut ChaCha8Rng,
    shape: [usize; N],
    range: std::ops::Range<f32>,
) -> Strided<T, N> {
    let layout = layout(rng, shape);
    Strided::in_layout(layout, T::from_f32(f32::NAN), |_| T::from_f32(rng.random_range(range.clone())))
}

/// Of every position or of one for all. Every column needs a positive weight: zeros only where there are many
/// others.
fn weights(rng: &mut ChaCha8Rng, [r, b, n]: [usize; 3]) -> Strided<f32, 3> {
    let positions = pick(rng, &[r, 1]);
    let (layout, zeros) = (layout(rng, [positions, b, n]), if b > 60 { 0.2 } else { 0.0 });
    let value = |_| if rng.random_bool(zeros) { 0.0 } else { rng.random_range(0.01..3.0) };
    Strided::in_layout(layout, f32::NAN, value)
}

/// Mostly positive, some zeros, now and then a whole map of zeros or a tiny scale.
fn attention(rng: &mut ChaCha8Rng, shape: [usize; 2]) -> Strided<f32, 2> {
    let (scale, zeros) = (pick(rng, &[1.0f32, 1.0, 1e-30, 1e20]), pick(rng, &[0.0, 0.1, 0.9]));
    let layout = layout(rng, shape);
    let value = |_| if rng.random_bool(zeros) { 0.0 } else { rng.random_range(0.0..1.0) * scale };
    Strided::in_layout(layout, f32::NAN, value)
}

/// Nothing for explicit weights.
fn generator(rng: &mut ChaCha8Rng) -> Option<Generator> {
    const ALPHAS: [f32; 9] = [1e-3, 0.05, 0.5, 0.99, 1.0, 1.7, 2.0, 50.0, 1e3];
    let alpha = match rng.random_range(0..3) {
        0 => Alpha::PAPER,
        1 => Alpha::Uniform { lo: 0.05, hi: pick(rng, &[0.9, 3.0]) },
        _ => Alpha::Fixed(pick(rng, &ALPHAS)),
    };
    match rng.random_range(0..10) {
        0..6 => Some(Generator::Dirichlet { alpha }),
        6..8 => Some(Generator::Pair { alpha, factor: pick(rng, &[Factor::PerBatch, Factor::PerColumn]) }),
        _ => None,
    }
}

/// Contiguous, or with its axes in another order, or with gaps.
pub fn layout<const N: usize>(rng: &mut ChaCha8Rng, shape: [usize; N]) -> Layout<N> {
    let mut order: Vec<usize> = (0..N).collect();
    if rng.random_bool(0.3) {
        order.shuffle(rng);
    }
    let gap = pick(rng, &[0, 0, 0, 1, 8]);
    let (mut strides, mut stride) = ([0; N], 1);
    for &axis in order.iter().rev() {
        strides[axis] = stride;
        stride = stride * shape[axis] + gap;
    }
    Layout { shape, strides }
}
