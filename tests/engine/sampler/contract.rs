//! The engine's weights against the scalar definition of the sampler's contract, bit for bit: draws, sums,
//! settled columns, attention.

use multimix::reference::Sizes;
use multimix::sampler::{MASSLESS_BELOW, Stream, column_sum, factor, pair, partner};
use multimix::{Alpha, Factor, Generator, Mixing, View, WeightsInput, cpu};

use crate::support::raw::raw_weights;

/// λ_ik = g_ik (1 / Σ g), or M̂_ik = (a_i g_ik) (1 / Σ a g) with s = Σ a g / Σ g; a column without mass has λ
/// and 0.
fn column(draws: &[f32], attention: Option<&[f32]>) -> (Vec<f32>, f32) {
    let total = column_sum(draws.iter().copied());
    let Some(attention) = attention else {
        let inverse = 1.0 / total;
        return (draws.iter().map(|g| g * inverse).collect(), 1.0);
    };
    let mass = column_sum(draws.iter().zip(attention).map(|(g, a)| a * g));
    if mass < MASSLESS_BELOW {
        let inverse = 1.0 / total;
        return (draws.iter().map(|g| g * inverse).collect(), 0.0);
    }
    let inverse = 1.0 / mass;
    (draws.iter().zip(attention).map(|(g, a)| (a * g) * inverse).collect(), mass / total)
}

/// Attention (b, r) with zeros but no map of zeros, its largest value at each position in [1, 2): so the
/// engine's scale is 1.
fn attention(b: usize, r: usize) -> Vec<f32> {
    let value = |i: usize, j: usize| match (i + 3 * j) % 7 {
        0 if i > 0 && r > 1 => 0.0,
        rest => (1.0 + rest as f32 / 8.0) / (1 << (i % 5)) as f32,
    };
    (0..b * r).map(|at| value(at / r, at % r)).collect()
}

/// Compares all weights of a call; gives how many there were, and how many columns were without mass.
fn compare(mixing: &Mixing, b: usize, r: usize, with_attention: bool) -> (usize, usize) {
    let n = mixing.n;
    let sizes = Sizes { b, r, n, ..Sizes::default() };
    let raw = raw_weights(&sizes, mixing, None);
    let maps = attention(b, r);
    let attention = with_attention.then(|| View::new(&maps, [b, r]).unwrap());
    let given = cpu::weights(mixing, &WeightsInput { b, r, attention }).unwrap();
    let mut massless = 0;
    for j in 0..r {
        let position: Vec<f32> = (0..b).map(|i| maps[i * r + j]).collect();
        for k in 0..n {
            let mut draws: Vec<f32> = (0..b).map(|i| raw[sizes.weight(j, i, k)]).collect();
            if let Generator::Pair { alpha, factor } = mixing.generator {
                draws = pair_column(mixing, alpha, factor, b, k);
            }
            let (wanted, mass) = column(&draws, with_attention.then_some(&position));
            massless += usize::from(mass == 0.0);
            assert_eq!(given.mass[j * n + k].to_bits(), mass.to_bits(), "s of column {k} at {j}, {mixing:?}");
            for (i, wanted) in wanted.iter().enumerate() {
                let given = given.matrix[sizes.weight(j, i, k)];
                assert_eq!(
                    given.to_bits(),
                    wanted.to_bits(),
                    "[{j}, {i}, {k}] is {given:e}, not {wanted:e}: {mixing:?}"
                );
            }
        }
    }
    (r * b * n, massless)
}

/// λ in the place of the example, 1 − λ in that of its partner, both where they are one.
fn pair_column(mixing: &Mixing, alpha: Alpha, kind: Factor, b: usize, k: usize) -> Vec<f32> {
    let stream = Stream::new(mixing.seed, mixing.step);
    let [lambda, rest] = pair::normalised(factor(stream, alpha, kind, k as u32));
    let mut column = vec![0.0; b];
    column[k % b] = lambda;
    column[partner(stream, b, (k / b) as u32)[k % b] as usize] += rest;
    column
}

#[test]
fn dirichlet_weights_are_those_of_the_definition() {
    let fixed = [1e-3, 0.05, 0.5, 1.0, 1.7, 50.0].map(Alpha::Fixed);
    let ranges = [Alpha::PAPER, Alpha::Uniform { lo: 1e-3, hi: 0.01 }, Alpha::Uniform { lo: 1e-3, hi: 1e3 }];
    let (mut compared, mut massless) = (0, 0);
    for (seed, alpha) in fixed.into_iter().chain(ranges).enumerate() {
        for (b, r, n) in
            [(1, 2, 40), (2, 3, 100), (3, 1, 1030), (63, 2, 17), (64, 1, 33), (65, 1, 16), (130, 2, 50)]
        {
            for with_attention in [false, true] {
                let mixing = Mixing::dirichlet(n, alpha).seed(seed as u64).step(b as u64);
                let counts = compare(&mixing, b, r, with_attention);
                (compared, massless) = (compared + counts.0, massless + counts.1);
            }
        }
    }
    println!("{compared} weights compared, {massless} columns without mass");
    assert!(compared > 390_000 && massless > 20);
}

#[test]
fn pair_weights_are_those_of_the_definition() {
    let mut compared = 0;
    for (seed, alpha) in
        [Alpha::Fixed(0.2), Alpha::Fixed(1.0), Alpha::PAPER, Alpha::Fixed(1e-3)].into_iter().enumerate()
    {
        for factor in [Factor::PerBatch, Factor::PerColumn] {
            for (b, r, n) in [(1, 1, 3), (2, 2, 9), (17, 3, 100), (64, 1, 1100)] {
                for with_attention in [false, true] {
                    let mixing = Mixing::pair(n, alpha, factor).seed(seed as u64);
                    compared += compare(&mixing, b, r, with_attention).0;
                }
            }
        }
    }
    println!("{compared} weights compared");
    assert!(compared > 500_000);
}

/// The smallest concentration with two examples: most draws underflow, and columns are settled in log space.
#[test]
fn columns_whose_draws_underflow_still_sum_to_one() {
    for alpha in [Alpha::Fixed(1e-3), Alpha::Uniform { lo: 1e-3, hi: 2e-3 }] {
        let (b, n) = (2, 50_000);
        let input = WeightsInput { b, r: 1, attention: None };
        let given = cpu::weights(Mixing::dirichlet(n, alpha).seed(5), &input).unwrap();
        let mut ends = 0;
        for k in 0..n {
            let (x, y) = (given.matrix[k], given.matrix[n + k]);
            assert!(x >= 0.0 && y >= 0.0 && (x + y - 1.0).abs() <= 2e-7, "column {k}: {x} + {y}");
            ends += usize::from(x == 0.0 || y == 0.0);
        }
        // Beta(0.001, 0.001) has all but some hundredths of its mass at the ends.
        assert!(ends > n * 8 / 10, "{ends} of {n} columns at the ends");
    }
}
