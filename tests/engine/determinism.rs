//! The same bits with any number of threads: every op, every output, both reductions, shapes whose positions
//! are cut into several items and shapes whose are not.

use half::bf16;
use multimix::{
    Alpha, AttentionInput, AttentionOptions, Classifier, Columns, Element, Factor, Labels, LossCall,
    LossInput, LossOptions, LossOutputs, MixInput, MixTargets, MixedGradients, Mixing, Normalise, Query,
    Reduction, Targets, View, ViewMut, Want, WeightsInput, cpu,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::on_cpu::run_loss;
use crate::support::usual::normal;

/// The sizes of a problem: b, r, d, c, n.
type Shape = [usize; 5];

/// One position and many columns (several items and panels), many positions (one item each), few of
/// everything, and between.
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
    rows: Vec<T>,
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
        let rows = rows.into_iter().map(T::from_f32).collect();
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
            Targets::labels(&self.labels)
        }
    }

    /// All that the engine computes for the problem, as bits.
    fn run(&self) -> Vec<u32> {
        let [b, r, _, _, n] = self.shape;
        let mut bits = Vec::new();
        let drawn = [
            Mixing::dirichlet(n, Alpha::PAPER),
            Mixing::dirichlet(n, Alpha::Fixed(1e-3)),
            Mixing::pair(n, Alpha::Fixed(0.4), Factor::PerColumn),
        ];
        let drawn = drawn.into_iter().enumerate();
        let drawn = drawn.map(|(at, mixing)| Columns::from(mixing.seed(3).step(at as u64)));
        let given = Columns::from(View::new(&self.weights, [r, b, n]).unwrap());
        for (at, columns) in drawn.chain([given]).enumerate() {
            let soft = at % 2 == 1;
            self.weights(columns, &mut bits);
            self.mix(columns, soft, &mut bits);
            for reduction in [Reduction::Mean, Reduction::AttentionWeighted] {
                let options = LossOptions { reduction, detach_attention: false, kl: true };
                self.loss(columns, options, soft, &mut bits);
            }
        }
        self.attention_ops(&mut bits);
        bits
    }

    fn weights(&self, columns: Columns<'_>, bits: &mut Vec<u32>) {
        let [b, r, ..] = self.shape;
        let input = WeightsInput { b, r, attention: Some(self.attention()) };
        let given = cpu::weights(columns, &input).unwrap();
        push(bits, &given.matrix);
        push(bits, &given.mass);
    }

    fn mix(&self, columns: Columns<'_>, soft: bool, bits: &mut Vec<u32>) {
        let [b, r, d, c, n] = self.shape;
        let input = MixInput {
            features: View::new(&self.features, [b, r, d]).unwrap(),
            targets: Some(MixTargets { targets: self.targets(soft), classes: c }),
            attention: Some(self.attention()),
        };
        let mixed = cpu::mix(columns, &input).unwrap();
        push(bits, &mixed.features);
        push(bits, &mixed.targets.unwrap());
        let gradients = MixedGradients {
            features: View::new(&self.d_mixed, [n, r, d]).unwrap(),
            targets: Some(View::new(&self.d_mixed_targets, [n, r, c]).unwrap()),
        };
        let given = cpu::mix_backward(columns, &input, &gradients).unwrap();
        assert_eq!(given.targets.is_some(), soft);
        push(bits, &given.features);
        push(bits, &given.targets.unwrap_or_default());
        push(bits, &given.attention.unwrap());
    }

    fn loss(&self, columns: Columns<'_>, options: LossOptions, soft: bool, bits: &mut Vec<u32>) {
        let [b, r, _, c, n] = self.shape;
        let input = LossInput {
            logits: View::new(&self.logits, [b, r, c]).unwrap(),
            targets: self.targets(soft),
            attention: Some(self.attention()),
        };
        let mut logits = vec![T::from_f32(0.0); b * r * c];
        let [mut attention, mut ce, mut lse] = [b * r, r * n, r * n].map(|count| vec![0f32; count]);
        let [mut value, mut kl] = [[0f32]; 2];
        let outputs = LossOutputs {
            loss: Some(ViewMut::new(&mut value, [1]).unwrap()),
            kl: Some(ViewMut::new(&mut kl, [1]).unwrap()),
            logits_f32: None,
            logits: Some(ViewMut::new(&mut logits, [b, r, c]).unwrap()),
            attention: Some(ViewMut::new(&mut attention, [b, r]).unwrap()),
            per_mixture: Some(ViewMut::new(&mut ce, [r, n]).unwrap()),
            log_sum_exp: Some(ViewMut::new(&mut lse, [r, n]).unwrap()),
        };
        let call = LossCall {
            columns: columns.reborrow(),
            input: input.reborrow(),
            options,
            upstream: 1.5.into(),
            outputs,
        };
        run_loss(call).unwrap();
        push(bits, &logits);
        [attention, ce, lse, vec![value[0], kl[0]]].iter().for_each(|values| push(bits, values));
        let forward = cpu::loss(columns, &input, &options, Want::Loss).unwrap();
        push(bits, &[forward.value]);
    }

    fn attention_ops(&self, bits: &mut Vec<u32>) {
        let [b, r, d, c, _] = self.shape;
        for query in [Query::Gap, Query::Cam] {
            for normalise in [Normalise::ReluL1, Normalise::Softmax] {
                let (rows, labels) = (View::new(&self.rows, [c, d]).unwrap(), Labels::from(&self.labels));
                let input = AttentionInput {
                    features: View::new(&self.features, [b, r, d]).unwrap(),
                    classifier: (query == Query::Cam).then_some(Classifier { rows, labels }),
                };
                let options = AttentionOptions { query, normalise };
                push(bits, &cpu::attention(&input, &options).unwrap());
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
