//! The distribution of the draws: gamma, Dirichlet and Beta laws, and independence along every index and
//! between attempts.
//!
//! All seeds are fixed, so the outcome is too. Each Kolmogorov-Smirnov and chi-square test stands at a
//! significance of 1e-4, each comparison of moments at four and a half standard errors (7e-6): of the hundred
//! or so here, a correct sampler would fail one with probability about 1e-2 for a seed chosen at random.

use multimix::sampler::{Domain, Gamma, Stream, column_alpha, factor, pair};
use multimix::{Alpha, Factor, Mixing, WeightsInput, cpu};
use statrs::distribution::{Beta, ContinuousCDF};

use crate::support::statistics::{assert_independent, assert_ks, assert_near, exact_attempt, gamma_cdf};

const ALPHAS: [f32; 6] = [0.05, 0.5, 1.0, 1.7, 2.0, 50.0];
const DRAWS: u32 = 200_000;

/// The draw as a number between 0 and 1: its distribution function. Taken from its logarithm, which does not
/// underflow.
fn uniform_of(alpha: f32, gamma: &Gamma, stream: Stream, [j, i, k]: [u32; 3]) -> f64 {
    gamma_cdf(alpha.into(), f64::from(gamma.draw_log2(stream, Domain::Weight, j, i, k)))
}

#[test]
fn draws_follow_the_gamma_law() {
    for alpha in ALPHAS {
        let (gamma, stream) = (Gamma::new(alpha, Alpha::Fixed(alpha)), Stream::new(11, 0));
        // Even and odd examples of a pair, several positions.
        let uniform = |at: u32| uniform_of(alpha, &gamma, stream, [at % 3, at % 5, at / 5]);
        assert_ks(&format!("alpha {alpha}"), (0..DRAWS).map(uniform).collect());
    }
}

#[test]
fn concentrations_per_column_are_uniform_and_their_draws_gamma() {
    let (lo, hi) = (0.5, 2.0);
    let (alpha, stream) = (Alpha::Uniform { lo, hi }, Stream::new(12, 1));
    let place = |k: u32| f64::from((column_alpha(stream, alpha, 3, k) - lo) / (hi - lo));
    assert_ks("alpha per column", (0..DRAWS).map(place).collect());
    let uniform = |k: u32| {
        let drawn = column_alpha(stream, alpha, 3, k);
        uniform_of(drawn, &Gamma::new(drawn, alpha), stream, [3, k % 7, k])
    };
    assert_ks("draws of columns with their own alpha", (0..DRAWS).map(uniform).collect());
    let pairs = |k: u32| (place(k), uniform(k));
    assert_independent("alpha and draw", (0..DRAWS).map(pairs).collect());
}

#[test]
fn columns_have_the_moments_of_the_dirichlet_law() {
    let (b, n) = (5, DRAWS as usize);
    for alpha in [0.05f32, 0.5, 1.0, 1.7, 50.0] {
        let input = WeightsInput { b, r: 1, attention: None };
        let lambda = cpu::weights(Mixing::dirichlet(n, Alpha::Fixed(alpha)).seed(13), &input).unwrap().matrix;
        let (size, total) = (b as f64, b as f64 * f64::from(alpha));
        let mean = 1.0 / size;
        for i in 0..b {
            let row = |i: usize, k: usize| f64::from(lambda[i * n + k]);
            assert_near(&format!("mean at {alpha}"), (0..n).map(|k| row(i, k)), mean);
            let square = |k: usize| (row(i, k) - mean).powi(2);
            assert_near(
                &format!("variance at {alpha}"),
                (0..n).map(square),
                mean * (1.0 - mean) / (total + 1.0),
            );
            let next = (i + 1) % b;
            let product = |k: usize| (row(i, k) - mean) * (row(next, k) - mean);
            assert_near(&format!("covariance at {alpha}"), (0..n).map(product), -mean * mean / (total + 1.0));
        }
    }
}

#[test]
fn factors_of_pairs_follow_the_beta_law() {
    for alpha in [0.2f32, 1.0, 2.5] {
        let beta = Beta::new(alpha.into(), alpha.into()).unwrap();
        let draw = |k: u32| {
            let gammas = factor(Stream::new(14, 2), Alpha::Fixed(alpha), Factor::PerColumn, k);
            // By the smaller of the two: the larger is rounded to 1 too often at a small alpha.
            match pair::normalised(gammas).map(f64::from) {
                [own, rest] if own <= rest => beta.cdf(own),
                [_, rest] => 1.0 - beta.cdf(rest),
            }
        };
        assert_ks(&format!("beta {alpha}"), (0..DRAWS).map(draw).collect());
    }
}

#[test]
fn draws_are_independent_along_every_index() {
    for alpha in [0.5f32, 1.0, 1.7] {
        let gamma = Gamma::new(alpha, Alpha::Fixed(alpha));
        let uniform = |seed: u64, step: u64, index| uniform_of(alpha, &gamma, Stream::new(seed, step), index);
        type Neighbour = fn(u32) -> [(u64, u64, [u32; 3]); 2];
        let neighbours: [(&str, Neighbour); 9] = [
            ("columns", |k| [(1, 1, [0, 0, 2 * k]), (1, 1, [0, 0, 2 * k + 1])]),
            ("distant columns", |k| [(1, 1, [0, 0, k]), (1, 1, [0, 0, k + (1 << 20)])]),
            ("examples of a pair", |k| [(2, 1, [0, 0, k]), (2, 1, [0, 1, k])]),
            ("examples of two pairs", |k| [(3, 1, [0, 1, k]), (3, 1, [0, 2, k])]),
            ("positions", |k| [(4, 1, [0, 0, k]), (4, 1, [1, 0, k])]),
            ("seeds", |k| [(5, 1, [0, 0, k]), (6, 1, [0, 0, k])]),
            ("halves of the seed", |k| [(7, 1, [0, 0, k]), (7 << 32, 1, [0, 0, k])]),
            ("steps", |k| [(8, 1, [0, 0, k]), (8, 2, [0, 0, k])]),
            ("seed and step exchanged", |k| [(9, 10, [0, 0, k]), (10, 9, [0, 0, k])]),
        ];
        for (name, neighbour) in neighbours {
            let pair = |k| neighbour(k).map(|(seed, step, index)| uniform(seed, step, index)).into();
            assert_independent(&format!("{name} at alpha {alpha}"), (0..DRAWS / 2).map(pair).collect());
        }
    }
}

#[test]
fn draws_of_later_attempts_follow_the_same_law_and_are_independent_of_their_neighbours() {
    for alpha in [0.3f32, 0.5, 1.0 + 1e-3, 1.2] {
        let (gamma, stream) = (Gamma::new(alpha, Alpha::Fixed(alpha)), Stream::new(15, 4));
        // A draw is of a later attempt when the exact transform of attempt 0 rejects its words.
        let survivors: Vec<u32> = (0..8 * DRAWS)
            .filter(|&k| {
                exact_attempt(alpha.into(), stream.block(Domain::Weight, k, 0, 0, 0), false).is_none()
            })
            .collect();
        assert!(survivors.len() > 10_000, "{} draws of later attempts at {alpha}", survivors.len());
        let uniform = |k: u32, i: u32| uniform_of(alpha, &gamma, stream, [0, i, k]);
        assert_ks(&format!("later attempts at {alpha}"), survivors.iter().map(|&k| uniform(k, 0)).collect());
        let pairs = survivors.iter().map(|&k| (uniform(k, 0), uniform(k, 1)));
        assert_independent(&format!("later attempts and their pair at {alpha}"), pairs.collect());
    }
}

/// The same words through the exact transform in f64: the f32 draw differs by rounding alone, save where the
/// two decide otherwise about a rejection at the razor's edge.
#[test]
fn draws_are_those_of_the_exact_transform() {
    let count = 500_000;
    for alpha in [0.05f32, 0.5, 1.0, 1.7, 2.0, 50.0, 1000.0] {
        let (gamma, stream) = (Gamma::new(alpha, Alpha::Fixed(alpha)), Stream::new(16, 5));
        let (mut edges, mut worst) = (0, 0f64);
        for k in 0..count {
            let i = k % 2;
            let given = f64::from(gamma.draw_log2(stream, Domain::Weight, 0, i, k));
            let exact = (0..64)
                .find_map(|attempt| {
                    let words = stream.block(Domain::Weight, k, 0, 0, attempt);
                    exact_attempt(alpha.into(), words, i == 1)
                })
                .unwrap();
            let error = ((given - exact.log2_draw) * std::f64::consts::LN_2).abs();
            // Relative to the draw. U^(1/α) magnifies the error of U, and a draw near zero has that of 1 + c
            // x.
            let magnified = 1f64.max(1.0 / f64::from(alpha)) * 1f64.max(0.1 / exact.t);
            if error > 1e-5 * magnified {
                edges += 1;
            } else {
                worst = worst.max(error / magnified);
            }
        }
        println!("alpha {alpha}: largest error {worst:.2e}, {edges} razor edges in {count}");
        // The bound that decides, x²/2 + d (1 - v + ln v), is rounded at the scale of d.
        let allowed = f64::from(count) * (1e-5 + 5e-8 * f64::from(alpha));
        assert!(f64::from(edges) <= allowed, "alpha {alpha}: {edges} draws differ");
    }
}
