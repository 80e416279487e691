//! Problems in f64, as `multimix::reference` takes them: of any [`Problem`](super::problem::Problem), and
//! small random ones; and numerical derivatives.

use multimix::reference::{
    self, Attention, AttentionGradient, Classifier, Loss, LossGradient, LossInputs, MixInputs, Sizes,
    Targets, normalise_weights,
};
use multimix::{AttentionOptions, LossOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// The seed of every property test here, unless PROPTEST_RNG_SEED names another.
pub const SEED: u64 = 20231210;

pub fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(SEED),
        fixed => fixed,
    };
    println!("proptest rng_seed: {rng_seed:?}");
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..default }
}

/// One problem, with arrays in row-major order.
#[derive(Clone, Debug)]
pub struct Exact {
    pub sizes: Sizes,
    pub features: Vec<f64>,
    pub logits: Vec<f64>,
    pub labels: Vec<usize>,
    /// Y (b, c).
    pub soft: Vec<f64>,
    /// Λ (r, b, n).
    pub weights: Vec<f64>,
    /// a (b, r), or empty where there is none.
    pub attention: Vec<f64>,
    /// W (c, d).
    pub classifier: Vec<f64>,
    /// Cotangents, long enough for any array of the problem.
    pub cotangent: Vec<f64>,
}

impl Exact {
    pub fn targets(&self, soft: bool) -> Targets<'_> {
        if soft { Targets::Soft(&self.soft) } else { Targets::Labels(&self.labels) }
    }

    pub fn attention(&self) -> Option<&[f64]> {
        (!self.attention.is_empty()).then_some(&self.attention)
    }

    /// The loss, and the gradients of `upstream` times it.
    pub fn loss(&self, soft: bool, options: LossOptions, upstream: f64) -> (Loss, LossGradient) {
        let inputs = self.loss_inputs(soft);
        let loss = reference::loss(&self.sizes, &inputs, options).unwrap();
        (loss, reference::loss_backward(&self.sizes, &inputs, options, upstream).unwrap())
    }

    /// Maps (b, r), and the gradients that `d_maps` (b, r) gives.
    pub fn attend(&self, options: AttentionOptions, d_maps: &[f64]) -> (Attention, AttentionGradient) {
        let (sizes, features) = (&self.sizes, &self.features);
        let classifier = Some(Classifier { rows: &self.classifier, labels: &self.labels });
        let maps = reference::attention(sizes, features, options, classifier).unwrap();
        (maps, reference::attention_backward(sizes, features, options, classifier, d_maps).unwrap())
    }

    pub fn loss_inputs(&self, soft: bool) -> LossInputs<'_> {
        LossInputs {
            logits: &self.logits,
            targets: self.targets(soft),
            weights: &self.weights,
            attention: self.attention(),
        }
    }

    pub fn mix_inputs(&self, soft: bool) -> MixInputs<'_> {
        MixInputs {
            features: &self.features,
            targets: self.targets(soft),
            weights: &self.weights,
            attention: self.attention(),
        }
    }
}

pub fn sizes() -> impl Strategy<Value = Sizes> {
    (1..=4usize, 1..=3usize, 1..=4usize, 1..=4usize, 1..=5usize).prop_map(|(b, r, d, c, n)| Sizes {
        b,
        r,
        d,
        c,
        n,
    })
}

/// All weights and all attention are positive; soft targets sum to 1.
pub fn problem() -> impl Strategy<Value = Exact> {
    sizes().prop_flat_map(problem_of)
}

pub fn problem_of(sizes: Sizes) -> impl Strategy<Value = Exact> {
    let Sizes { b, r, d, c, n } = sizes;
    let longest = (b * r * (d + c)).max(n * r * (b + d + c));
    (
        (vec(-2.0..2.0, b * r * d), vec(-3.0..3.0, b * r * c), vec(0..c, b)),
        (vec(0.05..1.0, b * c), vec(0.1..3.0, r * b * n), vec(0.05..1.0, b * r)),
        (vec(-2.0..2.0, c * d), vec(-1.0..1.0, longest)),
    )
        .prop_map(
            move |((features, logits, labels), (raw_soft, raw, attention), (classifier, cotangent))| {
                let soft = rows_to_one(&raw_soft, c);
                let weights = normalise_weights(&sizes, &raw).unwrap();
                Exact { sizes, features, logits, labels, soft, weights, attention, classifier, cotangent }
            },
        )
}

fn rows_to_one(values: &[f64], width: usize) -> Vec<f64> {
    values.chunks(width).flat_map(|row| row.iter().map(|v| v / row.iter().sum::<f64>())).collect()
}

pub fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The step for a variable of any sign, and for a positive one that must stay so.
pub fn fixed_step(h: f64) -> impl Fn(f64) -> f64 {
    move |_| h
}

pub fn relative_step(h: f64) -> impl Fn(f64) -> f64 {
    move |x| h * x
}

/// Central differences at steps h, h/2 and h/4, extrapolated to h = 0 (Richardson): the error is of order h⁶.
pub fn numeric_gradient(x: &[f64], step: impl Fn(f64) -> f64, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    (0..x.len())
        .map(|at| {
            let difference = |h: f64| {
                let shifted = |h: f64| {
                    let mut moved = x.to_vec();
                    moved[at] += h;
                    f(&moved)
                };
                (shifted(h) - shifted(-h)) / (2.0 * h)
            };
            let h = step(x[at]);
            let [d1, d2, d4] = [difference(h), difference(h / 2.0), difference(h / 4.0)];
            let (e1, e2) = ((4.0 * d2 - d1) / 3.0, (4.0 * d4 - d2) / 3.0);
            (16.0 * e2 - e1) / 15.0
        })
        .collect()
}

/// The derivative from above along one variable, for a variable at the end of its range: forward differences
/// at h, h/2, ..., extrapolated to h = 0; the error is of order h⁶.
pub fn numeric_derivative_from_above(x: &[f64], at: usize, h: f64, f: impl Fn(&[f64]) -> f64) -> f64 {
    let mut table: Vec<f64> = (0..6)
        .map(|level| {
            let h = h / f64::from(1 << level);
            let mut moved = x.to_vec();
            moved[at] += h;
            (f(&moved) - f(x)) / h
        })
        .collect();
    for order in 1..table.len() {
        let factor = f64::from(1 << order);
        for level in 0..table.len() - order {
            table[level] = (factor * table[level + 1] - table[level]) / (factor - 1.0);
        }
    }
    table[0]
}

/// Relative error at most 1e-6 in every element; elements far below the largest, where the differences hold
/// nothing but rounding, are measured against a thousandth of the largest.
pub fn assert_gradient(name: &str, gradient: &[f64], numeric: &[f64]) {
    assert_eq!(gradient.len(), numeric.len(), "{name}");
    let largest = numeric.iter().fold(0.0f64, |max, g| max.max(g.abs()));
    for (at, (g, expected)) in gradient.iter().zip(numeric).enumerate() {
        let tolerance = 1e-6 * expected.abs().max(1e-3 * largest) + 1e-11;
        let error = (g - expected).abs();
        assert!(error <= tolerance, "{name}[{at}] is {g}, differences give {expected} (error {error:e})");
    }
}

/// Elementwise equality up to `tolerance`, relative to the largest element (and at least to 1).
pub fn assert_close(name: &str, given: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(given.len(), wanted.len(), "{name}");
    let scale = wanted.iter().fold(1.0f64, |max, x| max.max(x.abs()));
    for (at, (x, y)) in given.iter().zip(wanted).enumerate() {
        assert!((x - y).abs() <= tolerance * scale, "{name}[{at}] is {x}, wanted {y}");
    }
}
