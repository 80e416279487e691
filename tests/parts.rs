//! Parts of a call drawn apart, by positions or by columns, are the whole bit for bit: weights, mixtures and the losses of single mixtures.

use multimix::cpu::{self, LossInput, LossOutputs, MixInput, MixTargets, Targets, WeightsInput};
use multimix::reference::{self, Sizes};
use multimix::sampler::{Domain, Gamma, Stream, column_alpha, factor, partner, settle};
use multimix::{Alpha, Error, Factor, Generator, LossOptions, Mixing, Reduction, View, ViewMut};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

/// Sizes and places stay within this.
const LIMIT: usize = 1 << 31;
/// The most examples for which mixtures are bit for bit those of the whole: the products cut the sums of more.
const LARGEST: usize = 512;

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(20_231_210),
        fixed => fixed,
    };
    ProptestConfig { cases: 150, rng_seed, failure_persistence: None, ..default }
}

/// A whole, itself at some place of a larger one, and where it is cut.
#[derive(Debug)]
struct Problem {
    sizes: Sizes,
    mixing: Mixing,
    /// The first position and the first column of the second part.
    cuts: [usize; 2],
    data: Data,
}

/// Inputs for all positions and columns; attention is positive, for an example's map to be empty in no part.
#[derive(Debug)]
struct Data {
    features: Vec<f32>,
    logits: Vec<f32>,
    attention: Option<Vec<f32>>,
    labels: Option<Vec<u32>>,
    soft: Vec<f32>,
    weights: Vec<f32>,
}

fn generator() -> impl Strategy<Value = Generator> {
    let alpha = prop::sample::select(vec![
        Alpha::PAPER,
        Alpha::Fixed(1.0),
        Alpha::Fixed(1e-3),
        Alpha::Fixed(1.7),
        Alpha::Uniform { lo: 1e-3, hi: 2.0 },
    ]);
    let factors = prop::sample::select(vec![Factor::PerBatch, Factor::PerColumn]);
    prop_oneof![
        3 => alpha.clone().prop_map(|alpha| Generator::Dirichlet { alpha }),
        2 => (alpha, factors).prop_map(|(alpha, factor)| Generator::Pair { alpha, factor }),
        1 => Just(Generator::Explicit),
    ]
}

fn problem() -> impl Strategy<Value = Problem> {
    let n = prop_oneof![3 => 2..70usize, 1 => 250..1400usize];
    let b = prop_oneof![16 => 1..40usize, 3 => 60..140usize, 1 => Just(LARGEST)];
    let sizes = (b, 2..7usize, 1..40usize, 1..20usize, n);
    let first = || prop_oneof![Just(0), 1..5000usize, Just(LIMIT - 1400)];
    (sizes, generator(), [first(), first()], any::<u64>()).prop_map(|(sizes, generator, first, seed)| {
        let (b, r, d, c, n) = sizes;
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let mixing = Mixing { generator, ..Mixing::explicit(n) }.seed(seed).step(3);
        let mut values =
            |count: usize, low: f32| -> Vec<f32> { (0..count).map(|_| rng.random_range(low..1.0)).collect() };
        let data = Data {
            features: values(b * r * d, -1.0),
            logits: values(b * r * c, -9.0),
            attention: (seed % 3 > 0).then(|| values(b * r, 0.01)),
            soft: values(b * c, 0.0),
            weights: values(r * b * n, 0.01),
            labels: (seed % 2 > 0).then(|| (0..b as u32).map(|i| i * 5 % c as u32).collect()),
        };
        let cuts = [rng.random_range(1..r), rng.random_range(1..n)];
        let mixing = mixing.first_position(first[0]).first_column(first[1]);
        Problem { sizes: Sizes { b, r, d, c, n }, mixing, cuts, data }
    })
}

/// The elements of axes (outer, size, inner) whose index of the middle one lies in the range.
fn cut<T: Copy>(values: &[T], size: usize, inner: usize, range: &Range<usize>) -> Vec<T> {
    let rows = values.chunks_exact(size * inner);
    rows.flat_map(|row| row[range.start * inner..range.end * inner].iter().copied()).collect()
}

/// All that is computed of a part.
#[derive(Debug, PartialEq)]
struct Results {
    /// (r, b, n).
    matrix: Vec<u32>,
    /// (r, n).
    mass: Vec<u32>,
    /// (n, r, d).
    features: Vec<u32>,
    /// (n, r, c).
    targets: Vec<u32>,
    /// (r, n).
    ce: Vec<u32>,
    /// (r, n).
    lse: Vec<u32>,
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

impl Problem {
    fn whole(&self) -> [Range<usize>; 2] {
        [0..self.sizes.r, 0..self.sizes.n]
    }

    /// The parts that cutting along positions (0) or columns (1) makes.
    fn parts(&self, axis: usize) -> [[Range<usize>; 2]; 2] {
        let (mut parts, at) = ([self.whole(), self.whole()], self.cuts[axis]);
        (parts[0][axis].end, parts[1][axis].start) = (at, at);
        parts
    }

    /// Positions and columns of the whole, computed as a call of their own.
    fn run(&self, [positions, columns]: &[Range<usize>; 2]) -> (Results, cpu::Loss) {
        let Sizes { b, d, c, .. } = self.sizes;
        let (r, n) = (positions.len(), columns.len());
        let mixing = self.mixing_of(&[positions.clone(), columns.clone()]);
        let of_positions = |values: &[f32], inner| cut(values, self.sizes.r, inner, positions);
        let (features, logits) = (of_positions(&self.data.features, d), of_positions(&self.data.logits, c));
        let attention = self.data.attention.as_ref().map(|attention| of_positions(attention, 1));
        let attention = attention.as_ref().map(|values| View::new(values, [b, r]).unwrap());
        let weights = self.explicit_of(&[positions.clone(), columns.clone()]);
        let weights = weights.as_ref().map(|values| View::new(values, [r, b, n]).unwrap());
        let targets = match &self.data.labels {
            Some(labels) => Targets::Labels(labels),
            None => Targets::Soft(View::new(&self.data.soft, [b, c]).unwrap()),
        };
        let mix = cpu::weights(&mixing, &WeightsInput { b, r, attention, weights }).unwrap();
        let features = View::new(&features, [b, r, d]).unwrap();
        let targets_of_mix = Some(MixTargets { targets, classes: c });
        let input = MixInput { features, targets: targets_of_mix, attention, weights };
        let mixed = cpu::mix_forward(&mixing, &input).unwrap();
        let input = LossInput { logits: View::new(&logits, [b, r, c]).unwrap(), targets, attention, weights };
        let options = LossOptions { reduction: Reduction::Mean, kl: true, ..LossOptions::default() };
        let [mut ce, mut lse] = [(); 2].map(|_| vec![0f32; r * n]);
        let outputs = LossOutputs {
            per_mixture: Some(ViewMut::new(&mut ce, [r, n]).unwrap()),
            log_sum_exp: Some(ViewMut::new(&mut lse, [r, n]).unwrap()),
            ..LossOutputs::default()
        };
        let mut workspace = vec![0; cpu::loss_workspace_bytes(&mixing, &input, &options, &outputs).unwrap()];
        let loss = cpu::loss_into(&mixing, &input, &options, 1.0, outputs, &mut workspace).unwrap();
        let results = Results {
            matrix: bits(&mix.matrix),
            mass: bits(&mix.mass),
            features: bits(&mixed.features),
            targets: bits(&mixed.targets.unwrap()),
            ce: bits(&ce),
            lse: bits(&lse),
        };
        (results, loss)
    }

    fn mixing_of(&self, [positions, columns]: &[Range<usize>; 2]) -> Mixing {
        Mixing { n: columns.len(), ..self.mixing }
            .first_position(self.mixing.first_position + positions.start)
            .first_column(self.mixing.first_column + columns.start)
    }

    /// A part's explicit weights (r, b, n), where the generator wants them.
    fn explicit_of(&self, [positions, columns]: &[Range<usize>; 2]) -> Option<Vec<f32>> {
        let Sizes { b, r, n, .. } = self.sizes;
        let weights = || cut(&cut(&self.data.weights, r, b * n, positions), n, 1, columns);
        (self.mixing.generator == Generator::Explicit).then(weights)
    }

    /// A part's Λ (r, b, n) by the reference, from draws at the places that the definition of the sampler gives them.
    fn reference(&self, part: &[Range<usize>; 2]) -> Vec<f64> {
        let (mixing, b) = (self.mixing_of(part), self.sizes.b);
        let sizes = Sizes { b, r: part[0].len(), n: mixing.n, ..Sizes::default() };
        let stream = Stream::new(mixing.seed, mixing.step);
        let column = |k: usize| mixing.first_column + k;
        match mixing.generator {
            Generator::Explicit => {
                let given: Vec<f64> = self.explicit_of(part).unwrap().into_iter().map(f64::from).collect();
                reference::normalise_weights(&sizes, &given).unwrap()
            }
            Generator::Pair { alpha, factor: kind } => {
                let factors: Vec<f64> = (0..mixing.n)
                    .map(|k| factor(stream, alpha, kind, column(k) as u32).map(f64::from))
                    .map(|[own, other]| own / (own + other))
                    .collect();
                let partner = |k| partner(stream, b, (k / b) as u32)[k % b] as usize;
                let partners: Vec<usize> = (0..mixing.n).map(|k| partner(column(k))).collect();
                reference::pair_weights_from(&sizes, mixing.first_column, &factors, &partners).unwrap()
            }
            Generator::Dirichlet { alpha } => {
                let mut raw = vec![0.0; sizes.r * b * mixing.n];
                for at in 0..sizes.r * mixing.n {
                    let (j, k) = (at / mixing.n, at % mixing.n);
                    let (at_j, at_k) = ((mixing.first_position + j) as u32, column(k) as u32);
                    let gamma = Gamma::new(column_alpha(stream, alpha, at_j, at_k), alpha);
                    let draw = |i| gamma.draw(stream, Domain::Weight, at_j, i, at_k);
                    let mut draws: Vec<f32> = (0..b as u32).map(draw).collect();
                    settle(&mut draws, |i| gamma.draw_log2(stream, Domain::Weight, at_j, i as u32, at_k));
                    draws.iter().enumerate().for_each(|(i, &g)| raw[sizes.weight(j, i, k)] = g.into());
                }
                reference::normalise_weights(&sizes, &raw).unwrap()
            }
        }
    }
}

impl Results {
    /// What a part of the whole computes.
    fn part(&self, sizes: &Sizes, [positions, columns]: &[Range<usize>; 2]) -> Self {
        let Sizes { b, r, d, c, n } = *sizes;
        let matrix = cut(&self.matrix, r, b * n, positions);
        let mixed =
            |values, width| cut(&cut(values, r, width, positions), n, positions.len() * width, columns);
        let per_mixture = |values| cut(&cut(values, r, n, positions), n, 1, columns);
        Self {
            matrix: cut(&matrix, n, 1, columns),
            mass: per_mixture(&self.mass),
            features: mixed(&self.features, d),
            targets: mixed(&self.targets, c),
            ce: per_mixture(&self.ce),
            lse: per_mixture(&self.lse),
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn parts_are_the_whole(problem in problem()) {
        let (whole, loss) = problem.run(&problem.whole());
        for axis in 0..2 {
            let (mut mean, mut kl) = (0.0, 0.0);
            for part in problem.parts(axis) {
                let (given, loss) = problem.run(&part);
                let wanted = whole.part(&problem.sizes, &part);
                prop_assert!(given == wanted, "axis {axis} {part:?} of {:?}", problem.sizes);
                let share = part[axis].len() as f64 / problem.whole()[axis].len() as f64;
                mean += share * f64::from(loss.value);
                kl += share * f64::from(loss.kl.unwrap());
            }
            let near = |given: f32, wanted: f64| (f64::from(given) - wanted).abs() < 1e-6 * (1.0 + wanted.abs());
            prop_assert!(near(loss.value, mean), "{} is not {mean}", loss.value);
            prop_assert!(near(loss.kl.unwrap(), kl), "{:?} is not {kl}", loss.kl);
        }
    }

    #[test]
    fn parts_of_the_reference_are_its_whole(problem in problem()) {
        let Sizes { b, r, n, .. } = problem.sizes;
        let whole = problem.reference(&problem.whole());
        for part in problem.parts(0).into_iter().chain(problem.parts(1)) {
            let given = problem.reference(&part);
            let wanted = cut(&cut(&whole, r, b * n, &part[0]), n, 1, &part[1]);
            prop_assert!(given == wanted, "{part:?} of {:?}", problem.sizes);
            let weights = problem.explicit_of(&part);
            let shape = [part[0].len(), b, part[1].len()];
            let weights = weights.as_ref().map(|values| View::new(values, shape).unwrap());
            let input = WeightsInput { b, r: shape[0], attention: None, weights };
            let engine = cpu::weights(&problem.mixing_of(&part), &input).unwrap().matrix;
            for (at, (&given, wanted)) in engine.iter().zip(wanted).enumerate() {
                let near = (f64::from(given) - wanted).abs() < 1e-5;
                prop_assert!(near, "{given} is not {wanted} at {at} of {part:?}");
            }
        }
    }
}

/// Columns of one permutation lie in two parts, and the factor of the batch is that of the whole.
#[test]
fn a_batch_that_is_cut_keeps_its_permutation() {
    let (b, n, seed) = (6, 10, 4);
    let of = |first, n| {
        let mixing = Mixing::pair(n, Alpha::PAPER, Factor::PerBatch).seed(seed).first_column(first);
        cpu::weights(&mixing, &WeightsInput { b, r: 1, attention: None, weights: None }).unwrap().matrix
    };
    let whole = of(0, n);
    for first in 1..n {
        assert_eq!(of(first, n - first), cut(&whole, n, 1, &(first..n)));
    }
}

#[test]
fn places_past_the_last_are_errors_and_the_last_is_not() {
    let (b, r, n) = (2, 3, 4);
    let weights = vec![1.0; r * b * n];
    let explicit = View::new(&weights, [r, b, n]).unwrap();
    let call = |mixing: Mixing| {
        let weights = (mixing.generator == Generator::Explicit).then_some(explicit);
        cpu::weights(&mixing, &WeightsInput { b, r, attention: None, weights })
    };
    let dirichlet = Mixing::dirichlet(n, Alpha::PAPER);
    for mixing in [dirichlet, Mixing::pair(n, Alpha::PAPER, Factor::PerColumn), Mixing::explicit(n)] {
        call(mixing.first_position(LIMIT - r).first_column(LIMIT - n)).unwrap();
        for (far, sum) in [(LIMIT, LIMIT), (usize::MAX, usize::MAX)] {
            let says = |error: Error, name: &str, given: usize| {
                let rule = "must be at most 2^31, since it indexes the random numbers";
                assert_eq!(error.to_string(), format!("weights: {name} is {given}, but {rule}"));
            };
            let position = call(mixing.first_position(far)).unwrap_err();
            says(position, "first_position + r", sum.saturating_add(r));
            let column = call(mixing.first_column(far)).unwrap_err();
            says(column, "first_column + n", sum.saturating_add(n));
        }
        let column = call(mixing.first_column(LIMIT - n + 1)).unwrap_err();
        assert!(matches!(column, Error::Value { .. }), "{column}");
    }
    assert_ne!(call(dirichlet).unwrap(), call(dirichlet.first_position(1)).unwrap());
    assert_eq!(call(Mixing::explicit(n)), call(Mixing::explicit(n).first_position(9).first_column(7)));
}
