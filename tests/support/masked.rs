//! Small problems of the loss with masked classes, logits of −∞, in row-major order.

use multimix::reference::{self, LossGradient, Sizes};
use multimix::{Alpha, Element, Factor, LossOptions, Mixing, Reduction};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::measure::{assert_close, floats};
use super::on_cpu::Loss;
use super::problem::Problem;
use super::strided::Strided;

pub const MASKED: f32 = f32::NEG_INFINITY;

/// Every generator, kind of target and share of masked classes in turn. Half of the problems mask no label of
/// the mini-batch. Logits are whole eighths, which every storage type holds; explicit weights are mostly
/// zero.
pub fn masked<T: Element>(index: u64) -> Problem<T> {
    let rng = &mut ChaCha8Rng::seed_from_u64(0x51_2e5 << 32 | index);
    let mut size = |most: usize| rng.random_range(1..=most);
    masked_of(index, Sizes { b: size(9), r: size(3), d: 1, c: size(6), n: size(40) })
}

pub fn masked_of<T: Element>(index: u64, sizes: Sizes) -> Problem<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(0x3a5c << 32 | index);
    let Sizes { b, r, c, n, .. } = sizes;
    let (mixing, given) = mixing(index, n);
    let labels: Vec<u32> = (0..b).map(|_| rng.random_range(0..c as u32)).collect();
    let spares = index.is_multiple_of(2);
    let is_label = |class: usize| labels.iter().any(|&y| y as usize == class);
    let share = [0.05, 0.3, 1.0][index as usize / 4 % 3];
    let logit = |at: usize| match rng.random_bool(share) && !(spares && is_label(at % c)) {
        true => T::from_f32(MASKED),
        false => T::from_f32(rng.random_range(-24..24) as f32 / 8.0),
    };
    let logits = Strided::contiguous([b, r, c], logit);
    let attention =
        (!index.is_multiple_of(5)).then(|| Strided::contiguous([b, r], |_| rng.random_range(0.1..1.0)));
    let target = |at: usize| match spares && !is_label(at % c) {
        true => 0.0,
        false => rng.random_range(0.0..1.0),
    };
    let soft = index.is_multiple_of(3).then(|| Strided::contiguous([b, c], target));
    let weight = |at: usize| match at / n % b == at % n % b || rng.random_bool(0.2) {
        true => rng.random_range(0.1..1.0),
        false => 0.0,
    };
    let options = LossOptions {
        reduction: if index % 7 < 3 { Reduction::Mean } else { Reduction::AttentionWeighted },
        detach_attention: attention.is_none(),
        kl: true,
    };
    let weights = given.then(|| Strided::contiguous([r, b, n], weight));
    let name = format!("problem {index}, {sizes:?}, {mixing:?}, explicit {given}, {options:?}");
    let blank = Problem::blank(name, sizes, mixing, rng.clone());
    Problem { logits, labels, soft, attention, weights, options, ..blank }
}

impl<T: Element> Problem<T> {
    /// Loss and gradients in f64.
    pub fn exact_loss(&self) -> (reference::Loss, LossGradient) {
        let inputs = self.exact(self.normalised());
        inputs.loss(self.soft.is_some(), self.options, f64::from(self.upstream))
    }

    /// Loss, KL, values of mixtures and both gradients, infinities among them.
    pub fn assert_close_loss(&self, given: &Loss<T>, tolerance: f64) {
        let (wanted, gradient) = self.exact_loss();
        let close = |what, given: &[f32], wanted: &[f64]| {
            assert_close(&format!("{}: {what}", self.name), given, wanted, tolerance);
        };
        close("loss", &[given.value], &[wanted.value]);
        close("KL", &[given.kl.unwrap()], &[wanted.kl]);
        close("CE", &given.per_mixture, &wanted.cross_entropy);
        close("log-sum-exp", &given.log_sum_exp, &wanted.log_sum_exp);
        close("dS", &floats(&given.logits), &gradient.logits);
        assert_eq!(given.attention.is_some(), gradient.attention.is_some());
        if let (Some(given), Some(wanted)) = (&given.attention, &gradient.attention) {
            close("da", given, wanted);
        }
    }
}

/// How columns are drawn, and whether there are explicit weights in their place.
fn mixing(index: u64, n: usize) -> (Mixing, bool) {
    let alpha = Alpha::Fixed([0.2, 1.0, 1.7][index as usize % 3]);
    let mixing = match index % 4 {
        0 => Mixing::dirichlet(n, alpha),
        1 => Mixing::pair(n, alpha, Factor::PerBatch),
        2 => Mixing::pair(n, alpha, Factor::PerColumn),
        _ => Mixing::dirichlet(n, alpha),
    };
    (mixing.seed(index), index % 4 == 3)
}
