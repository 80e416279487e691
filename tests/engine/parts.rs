//! Parts of a call drawn apart, by positions or by columns, are the whole bit for bit: weights, mixtures and
//! the losses of single mixtures.

use multimix::reference::{self, Sizes};
use multimix::sampler::{Domain, Gamma, Stream, column_alpha, factor, partner, settle};
use multimix::{Alpha, Columns, Error, ErrorKind, Factor, Generator, LossOptions, Mixing, Reduction, cpu};
use multimix::{
    LossCall, LossInput, LossOutputs, MixInput, MixTargets, Targets, View, ViewMut, WeightsInput,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

/// Sizes and places stay within this.
const LIMIT: usize = 1 << 31;
/// The most examples for which mixtures are bit for bit those of the whole: the products cut the sums of
/// more.
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
    /// Whether columns are explicit weights in place of the mixing's.
    explicit: bool,
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

/// Nothing for explicit weights.
fn generator() -> impl Strategy<Value = Option<Generator>> {
    let alpha = prop::sample::select(vec![
        Alpha::PAPER,
        Alpha::Fixed(1.0),
        Alpha::Fixed(1e-3),
        Alpha::Fixed(1.7),
        Alpha::Uniform { lo: 1e-3, hi: 2.0 },
    ]);
    let factors = prop::sample::select(vec![Factor::PerBatch, Factor::PerColumn]);
    prop_oneof![
        3 => alpha.clone().prop_map(|alpha| Some(Generator::Dirichlet { alpha })),
        2 => (alpha, factors).prop_map(|(alpha, factor)| Some(Generator::Pair { alpha, factor })),
        1 => Just(None),
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
        let explicit = generator.is_none();
        let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(seed).step(3);
        let mixing = Mixing { generator: generator.unwrap_or(mixing.generator), ..mixing };
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
        Problem { sizes: Sizes { b, r, d, c, n }, mixing, explicit, cuts, data }
    })
}

/// The elements of axes (outer, size, inner) whose index of the middle one lies in the range.
fn cut<T: Copy>(values: &[T], size: usize, inner: usize, range: &Range<usize>) -> Vec<T> {
    let rows = values.chunks_exact(size * inner);
    rows.flat_map(|row| row[range.start * inner..range.end * inner].iter().copied()).collect()
}

/// A part's columns: explicit weights (r, b, n), or drawn.
fn columns_of<'a>(weights: &'a Option<Vec<f32>>, shape: [usize; 3], mixing: &Mixing) -> Columns<'a> {
    match weights {
        Some(weights) => View::new(weights, shape).unwrap().into(),
        None => mixing.into(),
    }
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

    /// Positions and columns of the whole, computed as a call of their own; with the loss and KL.
    fn run(&self, [positions, columns]: &[Range<usize>; 2]) -> (Results, [f32; 2]) {
        let Sizes { b, d, c, .. } = self.sizes;
        let (r, n) = (positions.len(), columns.len());
        let mixing = self.mixing_of(&[positions.clone(), columns.clone()]);
        let of_positions = |values: &[f32], inner| cut(values, self.sizes.r, inner, positions);
        let (features, logits) = (of_positions(&self.data.features, d), of_positions(&self.data.logits, c));
        let attention = self.data.attention.as_ref().map(|attention| of_positions(attention, 1));
        let attention = attention.as_ref().map(|values| View::new(values, [b, r]).unwrap());
        let weights = self.explicit_of(&[positions.clone(), columns.clone()]);
        let columns = columns_of(&weights, [r, b, n], &mixing);
        let targets = match &self.data.labels {
            Some(labels) => Targets::labels(labels),
            None => Targets::Soft(View::new(&self.data.soft, [b, c]).unwrap()),
        };
        let mix = cpu::weights(columns, &WeightsInput { b, r, attention }).unwrap();
        let features = View::new(&features, [b, r, d]).unwrap();
        let targets_of_mix = Some(MixTargets { targets, classes: c });
        let input = MixInput { features, targets: targets_of_mix, attention };
        let mixed = cpu::mix(columns, &input).unwrap();
        let input = LossInput { logits: View::new(&logits, [b, r, c]).unwrap(), targets, attention };
        let options = LossOptions { reduction: Reduction::Mean, ..LossOptions::default() };
        let [mut ce, mut lse] = [(); 2].map(|_| vec![0f32; r * n]);
        let [mut loss, mut kl] = [[0f32]; 2];
        let outputs = LossOutputs {
            loss: Some(ViewMut::new(&mut loss, [1]).unwrap()),
            kl: Some(ViewMut::new(&mut kl, [1]).unwrap()),
            per_mixture: Some(ViewMut::new(&mut ce, [r, n]).unwrap()),
            log_sum_exp: Some(ViewMut::new(&mut lse, [r, n]).unwrap()),
            ..LossOutputs::default()
        };
        let mut call = LossCall { columns, input, options, upstream: 1.0.into(), outputs };
        let mut workspace = vec![0; cpu::loss_workspace(&call).unwrap()];
        cpu::loss_into(&mut call, &mut workspace).unwrap();
        let results = Results {
            matrix: bits(&mix.matrix),
            mass: bits(&mix.mass),
            features: bits(&mixed.features),
            targets: bits(&mixed.targets.unwrap()),
            ce: bits(&ce),
            lse: bits(&lse),
        };
        (results, [loss[0], kl[0]])
    }

    fn mixing_of(&self, [positions, columns]: &[Range<usize>; 2]) -> Mixing {
        Mixing { n: columns.len(), ..self.mixing }
            .first_position(self.mixing.first_position + positions.start)
            .first_column(self.mixing.first_column + columns.start)
    }

    /// A part's explicit weights (r, b, n), where they are.
    fn explicit_of(&self, [positions, columns]: &[Range<usize>; 2]) -> Option<Vec<f32>> {
        let Sizes { b, r, n, .. } = self.sizes;
        let weights = || cut(&cut(&self.data.weights, r, b * n, positions), n, 1, columns);
        self.explicit.then(weights)
    }

    /// A part's Λ (r, b, n) by the reference, from draws at the places that the definition of the sampler
    /// gives them.
    fn reference(&self, part: &[Range<usize>; 2]) -> Vec<f64> {
        let (mixing, b) = (self.mixing_of(part), self.sizes.b);
        let sizes = Sizes { b, r: part[0].len(), n: mixing.n, ..Sizes::default() };
        let stream = Stream::new(mixing.seed, mixing.step);
        let column = |k: usize| mixing.first_column + k;
        if let Some(given) = self.explicit_of(part) {
            let given: Vec<f64> = given.into_iter().map(f64::from).collect();
            return reference::normalise_weights(&sizes, &given).unwrap();
        }
        match mixing.generator {
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
        let (whole, [loss, kl]) = problem.run(&problem.whole());
        for axis in 0..2 {
            let mut means = [0.0; 2];
            for part in problem.parts(axis) {
                let (given, losses) = problem.run(&part);
                let wanted = whole.part(&problem.sizes, &part);
                prop_assert!(given == wanted, "axis {axis} {part:?} of {:?}", problem.sizes);
                let share = part[axis].len() as f64 / problem.whole()[axis].len() as f64;
                means.iter_mut().zip(losses).for_each(|(mean, loss)| *mean += share * f64::from(loss));
            }
            let near = |given: f32, wanted: f64| (f64::from(given) - wanted).abs() < 1e-6 * (1.0 + wanted.abs());
            prop_assert!(near(loss, means[0]), "{loss} is not {}", means[0]);
            prop_assert!(near(kl, means[1]), "{kl} is not {}", means[1]);
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
            let columns = columns_of(&weights, shape, &problem.mixing_of(&part));
            let input = WeightsInput { b, r: shape[0], attention: None };
            let engine = cpu::weights(columns, &input).unwrap().matrix;
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
        cpu::weights(mixing, &WeightsInput { b, r: 1, attention: None }).unwrap().matrix
    };
    let whole = of(0, n);
    for first in 1..n {
        assert_eq!(of(first, n - first), cut(&whole, n, 1, &(first..n)));
    }
}

#[test]
fn places_past_the_last_are_errors_and_the_last_is_not() {
    let (b, r, n) = (2, 3, 4);
    let call = |mixing: Mixing| cpu::weights(mixing, &WeightsInput { b, r, attention: None });
    let dirichlet = Mixing::dirichlet(n, Alpha::PAPER);
    for mixing in [dirichlet, Mixing::pair(n, Alpha::PAPER, Factor::PerColumn)] {
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
        assert!(matches!(column.kind, ErrorKind::Value { .. }), "{column}");
    }
    assert_ne!(call(dirichlet).unwrap(), call(dirichlet.first_position(1)).unwrap());
}
