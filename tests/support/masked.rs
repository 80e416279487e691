//! Small problems of the loss with masked classes, logits of −∞, and what the reference makes of them.

use std::fmt;

use multimix::reference::{self, Loss, LossGradient, LossInputs, Sizes};
use multimix::{Alpha, Factor, Generator, LossOptions, Mixing, Reduction};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::raw::raw_weights;

pub const MASKED: f32 = f32::NEG_INFINITY;

/// Arrays in row-major order. Logits are whole eighths, which every storage type holds.
#[derive(Debug)]
pub struct Masked {
    pub index: u64,
    pub sizes: Sizes,
    pub mixing: Mixing,
    pub logits: Vec<f32>,
    pub labels: Vec<u32>,
    pub soft: Option<Vec<f32>>,
    pub attention: Option<Vec<f32>>,
    /// Explicit weights (r, b, n), mostly zero.
    pub weights: Option<Vec<f32>>,
    pub options: LossOptions,
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "problem {}, {:?}, {:?}, {:?}", self.index, self.sizes, self.mixing, self.options)
    }
}

impl Masked {
    /// Every generator, kind of target and share of masked classes in turn. Half of the problems mask no label of the mini-batch.
    pub fn random(index: u64) -> Self {
        let rng = &mut ChaCha8Rng::seed_from_u64(0x51_2e5 << 32 | index);
        let mut size = |most: usize| rng.random_range(1..=most);
        Self::of_sizes(index, Sizes { b: size(9), r: size(3), d: 1, c: size(6), n: size(40) })
    }

    pub fn of_sizes(index: u64, sizes: Sizes) -> Self {
        let rng = &mut ChaCha8Rng::seed_from_u64(0x3a5c << 32 | index);
        let Sizes { b, r, c, n, .. } = sizes;
        let mixing = generator(index, n);
        let given = mixing.generator == Generator::Explicit;
        let labels: Vec<u32> = (0..b).map(|_| rng.random_range(0..c as u32)).collect();
        let spares = index.is_multiple_of(2);
        let is_label = |class: usize| labels.iter().any(|&y| y as usize == class);
        let share = [0.05, 0.3, 1.0][index as usize / 4 % 3];
        let logit = |at: usize| match rng.random_bool(share) && !(spares && is_label(at % c)) {
            true => MASKED,
            false => rng.random_range(-24..24) as f32 / 8.0,
        };
        let logits = (0..b * r * c).map(logit).collect();
        let attention = (!index.is_multiple_of(5))
            .then(|| (0..b * r).map(|_| rng.random_range(0.1..1.0)).collect::<Vec<f32>>());
        let target = |at: usize| match spares && !is_label(at % c) {
            true => 0.0,
            false => rng.random_range(0.0..1.0),
        };
        let soft = index.is_multiple_of(3).then(|| (0..b * c).map(target).collect());
        let weight = |at: usize| match at / n % b == at % n % b || rng.random_bool(0.2) {
            true => rng.random_range(0.1..1.0),
            false => 0.0,
        };
        let options = LossOptions {
            reduction: if index % 7 < 3 { Reduction::Mean } else { Reduction::AttentionWeighted },
            detach_attention: attention.is_none(),
            kl: true,
        };
        let weights = given.then(|| (0..r * b * n).map(weight).collect());
        Self { index, sizes, mixing, logits, labels, soft, attention, weights, options }
    }

    /// Loss and gradients in f64.
    pub fn reference(&self) -> (Loss, LossGradient) {
        let raw = raw_weights(&self.sizes, &self.mixing, self.weights.as_deref());
        let weights = reference::normalise_weights(&self.sizes, &wide(&raw)).unwrap();
        let labels: Vec<usize> = self.labels.iter().map(|&y| y as usize).collect();
        let (logits, soft) = (wide(&self.logits), self.soft.as_deref().map(wide));
        let attention = self.attention.as_deref().map(wide);
        let inputs = LossInputs {
            logits: &logits,
            targets: match &soft {
                Some(rows) => reference::Targets::Soft(rows),
                None => reference::Targets::Labels(&labels),
            },
            weights: &weights,
            attention: attention.as_deref(),
        };
        let loss = reference::loss(&self.sizes, &inputs, self.options).unwrap();
        (loss, reference::loss_backward(&self.sizes, &inputs, self.options, 1.0).unwrap())
    }
}

fn generator(index: u64, n: usize) -> Mixing {
    let alpha = Alpha::Fixed([0.2, 1.0, 1.7][index as usize % 3]);
    let mixing = match index % 4 {
        0 => Mixing::dirichlet(n, alpha),
        1 => Mixing::pair(n, alpha, Factor::PerBatch),
        2 => Mixing::pair(n, alpha, Factor::PerColumn),
        _ => Mixing::explicit(n),
    };
    mixing.seed(index)
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Every value as wanted, infinities too, or within `tolerance` of the largest.
pub fn assert_close(name: &str, given: &[f32], wanted: &[f64], tolerance: f64) {
    assert_eq!(given.len(), wanted.len(), "{name}");
    // Terms near 1 cancel.
    let largest = wanted.iter().filter(|x| x.is_finite()).fold(0.3f64, |largest, x| largest.max(x.abs()));
    for (at, (&given, &wanted)) in given.iter().zip(wanted).enumerate() {
        let same = f64::from(given) == wanted || (f64::from(given) - wanted).abs() <= tolerance * largest;
        assert!(same, "{name}[{at}] is {given}, but must be {wanted}");
    }
}
