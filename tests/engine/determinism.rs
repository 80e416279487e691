//! The same bits with any number of threads: every op, every output, both reductions, shapes whose positions are cut into several items
//! and shapes whose are not.

use half::bf16;
use multimix::cpu::{self, AttentionInput, Classifier, LossInput, LossOutputs, MixInput, MixTargets};
use multimix::cpu::{MixedGradients, Targets, WeightsInput};
use multimix::{
    Alpha, AttentionOptions, Element, Factor, LossOptions, Mixing, Normalise, Query, Reduction, View, ViewMut,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::usual::normal;

/// The sizes of a problem: b, r, d, c, n.
type Shape = [usize; 5];

/// One position and many columns (several items and panels), many positions (one item each), few of everything, and between.
const SHAPES: [Shape; 5] =
    [[33, 1, 17, 19, 1500], [20, 70, 5, 7, 40], [3, 2, 3, 2, 5], [65, 5, 13, 10, 600], [16, 64, 4, 6, 130]];

/// A problem's arrays, contiguous.
struct Data<T> {
    shape: Shape,
    features: Vec<T>,
    logits: Vec<T>,
    attention: Vec<f32>,
    labels: Vec<u32>,
    soft: Vec<f32>,
    rows: Vec<f32>,
    d_mixed: Vec<T>,
    d_mixed_targets: Vec<f32>,
    weights: Vec<f32>,
}

impl<T: Element> Data<T> {
    fn new(shape: Shape) -> Self {
        let [b, r, d, c, n] = shape;
        let mut rng =
            ChaCha8Rng::seed_from_u64(shape.iter().fold(7, |seed, &size| seed * 1009 + size as u64));
        let mut stored = |count| (0..count).map(|_| T::from_f32(normal(&mut rng))).collect::<Vec<T>>();
        let [features, logits, d_mixed] = [b * r * d, b * r * c, n * r * d].map(&mut stored);
        let mut positive = |count| (0..count).map(|_| rng.random_range(0.0..1f32)).collect::<Vec<f32>>();
        let [attention, soft, rows, weights, d_mixed_targets] =
            [b * r, b * c, c * d, r * b * n, n * r * c].map(&mut positive);
        let labels = (0..b as u32).map(|i| i * 7 % c as u32).collect();
        Self { shape, features, logits, attention, labels, soft, rows, d_mixed, d_mixed_targets, weights }
    }

    fn attention(&self) -> View<'_, f32, 2> {
        View::new(&self.attention, [self.shape[0], self.shape[1]]).unwrap()
    }

    fn targets(&self, soft: bool) -> Targets<'_> {
        let [b, _, _, c, _] = self.shape;
        if soft {
            Targets::Soft(View::new(&self.soft, [b, c]).unwrap())
        } else {
            Targets::Labels(&self.labels)
        }
    }

    /// All that the engine computes for the problem, as bits.
    fn run(&self) -> Vec<u32> {
        let n = self.shape[4];
        let mut bits = Vec::new();
        let generators = [
            Mixing::dirichlet(n, Alpha::PAPER),
            Mixing::dirichlet(n, Alpha::Fixed(1e-3)),
            Mixing::pair(n, Alpha::Fixed(0.4), Factor::PerColumn),
            Mixing::explicit(n),
        ];
        for (at, mixing) in generators.into_iter().enumerate() {
            let (mixing, soft) = (mixing.seed(3).step(at as u64), at % 2 == 1);
            self.weights(&mixing, &mut bits);
            self.mix(&mixing, soft, &mut bits);
            for reduction in [Reduction::Mean, Reduction::AttentionWeighted] {
                self.loss(
                    &mixing,
                    LossOptions { reduction, detach_attention: false, kl: true },
                    soft,
                    &mut bits,
                );
            }
        }
        self.attention_ops(&mut bits);
        bits
    }

    /// Explicit weights where the generator takes them.
    fn explicit(&self, mixing: &Mixing) -> Option<View<'_, f32, 3>> {
        let [b, r, _, _, n] = self.shape;
        let wanted = mixing.generator == multimix::Generator::Explicit;
        wanted.then(|| View::new(&self.weights, [r, b, n]).unwrap())
    }

    fn weights(&self, mixing: &Mixing, bits: &mut Vec<u32>) {
        let [b, r, ..] = self.shape;
        let input = WeightsInput { b, r, attention: Some(self.attention()), weights: self.explicit(mixing) };
        let given = cpu::weights(mixing, &input).unwrap();
        push(bits, &given.matrix);
        push(bits, &given.mass);
    }

    fn mix(&self, mixing: &Mixing, soft: bool, bits: &mut Vec<u32>) {
        let [b, r, d, c, n] = self.shape;
        let input = MixInput {
            features: View::new(&self.features, [b, r, d]).unwrap(),
            targets: Some(MixTargets { targets: self.targets(soft), classes: c }),
            attention: Some(self.attention()),
            weights: self.explicit(mixing),
        };
        let mixed = cpu::mix_forward(mixing, &input).unwrap();
        push(bits, &mixed.features);
        push(bits, &mixed.targets.unwrap());
        let gradients = MixedGradients {
            features: View::new(&self.d_mixed, [n, r, d]).unwrap(),
            targets: Some(View::new(&self.d_mixed_targets, [n, r, c]).unwrap()),
        };
        let given = cpu::mix_backward(mixing, &input, &gradients).unwrap();
        assert_eq!(given.targets.is_some(), soft);
        push(bits, &given.features);
        push(bits, &given.targets.unwrap_or_default());
        push(bits, &given.attention.unwrap());
    }

    fn loss(&self, mixing: &Mixing, options: LossOptions, soft: bool, bits: &mut Vec<u32>) {
        let [b, r, _, c, n] = self.shape;
        let input = LossInput {
            logits: View::new(&self.logits, [b, r, c]).unwrap(),
            targets: self.targets(soft),
            attention: Some(self.attention()),
            weights: self.explicit(mixing),
        };
        let mut logits = vec![T::from_f32(0.0); b * r * c];
        let [mut attention, mut ce, mut lse] = [b * r, r * n, r * n].map(|count| vec![0f32; count]);
        let outputs = LossOutputs {
            logits: Some(ViewMut::new(&mut logits, [b, r, c]).unwrap()),
            attention: Some(ViewMut::new(&mut attention, [b, r]).unwrap()),
            per_mixture: Some(ViewMut::new(&mut ce, [r, n]).unwrap()),
            log_sum_exp: Some(ViewMut::new(&mut lse, [r, n]).unwrap()),
        };
        let mut workspace =
            vec![0xff; cpu::loss_workspace_bytes(mixing, &input, &options, &outputs).unwrap()];
        let loss = cpu::loss_into(mixing, &input, &options, 1.5, outputs, &mut workspace).unwrap();
        push(bits, &logits);
        [attention, ce, lse, vec![loss.value, loss.kl.unwrap()]].iter().for_each(|values| push(bits, values));
        let forward = cpu::loss_forward(mixing, &input, &options).unwrap();
        push(bits, &[forward.value]);
    }

    fn attention_ops(&self, bits: &mut Vec<u32>) {
        let [b, r, d, c, _] = self.shape;
        for query in [Query::Gap, Query::Cam] {
            for normalise in [Normalise::ReluL1, Normalise::Softmax] {
                let rows = View::new(&self.rows, [c, d]).unwrap();
                let input = AttentionInput {
                    features: View::new(&self.features, [b, r, d]).unwrap(),
                    classifier: (query == Query::Cam).then_some(Classifier { rows, labels: &self.labels }),
                };
                let options = AttentionOptions { query, normalise };
                push(bits, &cpu::attention_forward(&input, &options).unwrap());
                let gradients = cpu::attention_backward(&input, &options, &self.attention()).unwrap();
                push(bits, &gradients.features);
                push(bits, &gradients.classifier.unwrap_or_default());
            }
        }
    }
}

fn push<T: Element>(bits: &mut Vec<u32>, values: &[T]) {
    bits.extend(values.iter().map(|value| value.to_f32().to_bits()));
}

fn check<T: Element>() {
    for shape in SHAPES {
        let data = Data::<T>::new(shape);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| data.run())
        };
        let wanted = on(1);
        assert!(wanted.iter().all(|&bits| f32::from_bits(bits).is_finite()), "{shape:?}");
        for threads in [2, 5, 1, 2, 5] {
            let given = on(threads);
            assert_eq!(given.len(), wanted.len());
            let differs = given.iter().zip(&wanted).position(|(x, y)| x != y);
            assert_eq!(differs, None, "{shape:?} with {threads} threads");
        }
        println!("{shape:?}: {} values", wanted.len());
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits_in_f32() {
    check::<f32>();
}

#[test]
fn any_number_of_threads_gives_the_same_bits_in_bf16() {
    check::<bf16>();
}
