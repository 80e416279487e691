//! Random problems: sizes on and off the kernels' tiles, all generators, layouts with gaps and in either order.

use multimix::{Alpha, Factor, Generator, Layout, Mixing};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

/// What all problems are drawn from: `MULTIMIX_TEST_SEED`, or 0.
pub fn seed() -> u64 {
    std::env::var("MULTIMIX_TEST_SEED")
        .map_or(0, |seed| seed.parse().expect("MULTIMIX_TEST_SEED is no number"))
}

/// Random numbers of a test, by its name and the number of the problem.
pub fn random(name: &str, problem: u64) -> ChaCha8Rng {
    let mix = |seed: u64, byte: u8| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte);
    ChaCha8Rng::seed_from_u64(name.bytes().fold(problem, mix) ^ seed().rotate_left(32))
}

/// Sizes, generator and seeds of one problem.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub b: usize,
    pub r: usize,
    pub d: usize,
    pub c: usize,
    pub mixing: Mixing,
    /// Whether attention is given.
    pub attention: bool,
}

/// Around the tiles of 8, 16 and 64; primes; one.
const EXAMPLES: &[usize] = &[1, 2, 3, 7, 8, 16, 17, 31, 63, 64, 65, 67, 96, 127, 128, 129];
const COLUMNS: &[usize] = &[1, 2, 5, 15, 16, 17, 31, 33, 63, 64, 65, 71, 129];
const POSITIONS: &[usize] = &[1, 1, 2, 3, 4, 5];
const CHANNELS: &[usize] = &[1, 3, 8, 16, 17, 31, 61, 63, 64, 65, 72, 128, 131];
const CLASSES: &[usize] = &[1, 2, 3, 8, 10, 17, 64, 65, 100];

impl Problem {
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let pick = |rng: &mut ChaCha8Rng, from: &[usize]| *from.choose(rng).expect("not empty");
        let n = pick(rng, COLUMNS);
        let mixing = Mixing { generator: generator(rng), ..Mixing::explicit(n) }
            .seed(rng.random())
            .step(rng.random_range(0..1 << 40));
        Self {
            b: pick(rng, EXAMPLES),
            r: pick(rng, POSITIONS),
            d: pick(rng, CHANNELS),
            c: pick(rng, CLASSES),
            mixing,
            attention: rng.random_bool(0.6),
        }
    }

    /// Explicit weights (r or 1, b, n), where the generator wants them.
    pub fn weights(&self, rng: &mut ChaCha8Rng) -> Option<(Vec<f32>, Layout<3>)> {
        if self.mixing.generator != Generator::Explicit {
            return None;
        }
        let positions = if rng.random_bool(0.5) { self.r } else { 1 };
        let layout = layout(rng, [positions, self.b, self.mixing.n]);
        // Every column needs a positive weight: zeros only where there are many others.
        let zeros = if self.b > 60 { 0.2 } else { 0.0 };
        let value =
            |rng: &mut ChaCha8Rng| if rng.random_bool(zeros) { 0.0 } else { rng.random_range(0.01..3.0) };
        let values: Vec<f32> = (0..reach(&layout)).map(|_| value(rng)).collect();
        Some((values, layout))
    }

    /// Attention (b, r), where it is given: mostly positive, some zeros, now and then a whole map of zeros or a tiny scale.
    pub fn attention(&self, rng: &mut ChaCha8Rng) -> Option<(Vec<f32>, Layout<2>)> {
        if !self.attention {
            return None;
        }
        let layout = layout(rng, [self.b, self.r]);
        let scale = *[1.0f32, 1.0, 1e-30, 1e20].choose(rng).expect("not empty");
        let zeros = *[0.0, 0.1, 0.9].choose(rng).expect("not empty");
        let value = |rng: &mut ChaCha8Rng| {
            if rng.random_bool(zeros) { 0.0 } else { rng.random_range(0.0..1.0) * scale }
        };
        Some(((0..reach(&layout)).map(|_| value(rng)).collect(), layout))
    }

    /// Labels below c.
    pub fn labels(&self, rng: &mut ChaCha8Rng) -> Vec<u32> {
        (0..self.b).map(|_| rng.random_range(0..self.c as u32)).collect()
    }
}

fn generator(rng: &mut ChaCha8Rng) -> Generator {
    const ALPHAS: [f32; 9] = [1e-3, 0.05, 0.5, 0.99, 1.0, 1.7, 2.0, 50.0, 1e3];
    let alpha = |rng: &mut ChaCha8Rng| match rng.random_range(0..3) {
        0 => Alpha::PAPER,
        1 => Alpha::Uniform { lo: 0.05, hi: *[0.9, 3.0].choose(rng).expect("not empty") },
        _ => Alpha::Fixed(*ALPHAS.choose(rng).expect("not empty")),
    };
    match rng.random_range(0..10) {
        0..6 => Generator::Dirichlet { alpha: alpha(rng) },
        6..8 => {
            let factor = if rng.random_bool(0.5) { Factor::PerBatch } else { Factor::PerColumn };
            Generator::Pair { alpha: alpha(rng), factor }
        }
        _ => Generator::Explicit,
    }
}

/// Contiguous, or with its axes in another order, or with gaps.
pub fn layout<const N: usize>(rng: &mut ChaCha8Rng, shape: [usize; N]) -> Layout<N> {
    let mut order: Vec<usize> = (0..N).collect();
    if rng.random_bool(0.3) {
        use rand::seq::SliceRandom;
        order.shuffle(rng);
    }
    let gap = *[0, 0, 0, 1, 8].choose(rng).expect("not empty");
    let (mut strides, mut stride) = ([0; N], 1);
    for &axis in order.iter().rev() {
        strides[axis] = stride;
        stride = stride * shape[axis] + gap;
    }
    Layout { shape, strides }
}

/// Elements that a layout reaches over.
pub fn reach<const N: usize>(layout: &Layout<N>) -> usize {
    layout.reach("test", "layout").expect("small")
}
