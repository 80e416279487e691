//! Degenerate and bad input to `multimix::reference`: no mass, sizes of one, and typed errors instead of
//! panics.

use multimix::reference::{
    Classifier, LossInputs, MixInputs, Sizes, Targets, attention, attention_backward, broadcast_weights,
    cross_entropy, entropy, loss, loss_backward, mix, mix_backward, mix_features, mix_features_backward,
    mix_matrix, mix_matrix_backward, mix_targets, mix_targets_backward, normalise_weights, pair_weights,
    reweight, settle_attention, shares,
};
use multimix::{AttentionOptions, Error, ErrorKind, LossOptions, Normalise, Query, Reduction, Result};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::exact::*;

const MEAN: LossOptions = LossOptions { reduction: Reduction::Mean, detach_attention: false, kl: true };
const WEIGHTED: LossOptions =
    LossOptions { reduction: Reduction::AttentionWeighted, detach_attention: false, kl: true };
const RELU: AttentionOptions = AttentionOptions { query: Query::Gap, normalise: Normalise::ReluL1 };
const CAM: AttentionOptions = AttentionOptions { query: Query::Cam, normalise: Normalise::Softmax };

/// Four examples at two positions, two columns of two examples each; examples 0 and 1 have no attention at
/// position 0, so column 0 has no mass there.
struct DeadColumn {
    sizes: Sizes,
    logits: Vec<f64>,
    weights: Vec<f64>,
    attention: Vec<f64>,
}

impl DeadColumn {
    fn new() -> Self {
        let sizes = Sizes { b: 4, r: 2, d: 1, c: 3, n: 2 };
        let logits = (0..24).map(|at| (at as f64 * 1.7).sin() * 2.0).collect();
        let first = [0.25, 0.0, 0.75, 0.0, 0.0, 0.5, 0.0, 0.5]; // (b, n): columns (0, 1) and (2, 3)
        let weights = broadcast_weights(&sizes, &first).unwrap();
        Self { sizes, logits, weights, attention: vec![0.0, 0.5, 0.0, 0.7, 0.4, 0.6, 0.9, 0.1] }
    }

    fn inputs(&self) -> LossInputs<'_> {
        LossInputs {
            logits: &self.logits,
            targets: Targets::Labels(&[0, 1, 2, 1]),
            weights: &self.weights,
            attention: Some(&self.attention),
        }
    }
}

#[test]
fn a_column_without_mass_mixes_with_the_weights_alone() {
    let problem = DeadColumn::new();
    let sizes = &problem.sizes;
    let mix = mix_matrix(sizes, &problem.weights, Some(&problem.attention)).unwrap();
    assert_eq!(mix.mass[0], 0.0);
    assert!(mix.mass[1..].iter().all(|&s| s > 0.0));
    let column = |values: &[f64]| (0..4).map(|i| values[sizes.weight(0, i, 0)]).collect::<Vec<_>>();
    assert_eq!(column(&mix.matrix), [0.25, 0.75, 0.0, 0.0]);

    let mean = loss(sizes, &problem.inputs(), MEAN).unwrap();
    assert_eq!(mean.shares, [0.25; 4]);
    assert!((mean.value - mean.cross_entropy.iter().sum::<f64>() / 4.0).abs() < 1e-15);
    let weighted = loss(sizes, &problem.inputs(), WEIGHTED).unwrap();
    assert_eq!(weighted.shares[..2], [0.0, 0.5]);
    assert!(weighted.cross_entropy[0] > 0.0);
}

#[test]
fn a_column_without_mass_sends_nothing_to_attention() {
    let problem = DeadColumn::new();
    let (sizes, inputs) = (&problem.sizes, problem.inputs());
    for options in [MEAN, WEIGHTED] {
        let gradient = loss_backward(sizes, &inputs, options, 1.0).unwrap();
        let value = |inputs: &LossInputs| loss(sizes, inputs, options).unwrap().value;
        let numeric = numeric_gradient(&problem.logits, fixed_step(1.0 / 32.0), |logits| {
            value(&LossInputs { logits, ..inputs })
        });
        assert_gradient("logits", &gradient.logits, &numeric);
        let numeric = numeric_gradient(&problem.attention, relative_step(1.0 / 64.0), |a| {
            value(&LossInputs { attention: Some(a), ..inputs })
        });
        let attention = gradient.attention.unwrap();
        for i in 0..sizes.b {
            for j in 0..sizes.r {
                let at = sizes.attention(i, j);
                if problem.attention[at] == 0.0 {
                    assert_eq!(attention[at], 0.0);
                } else {
                    assert_gradient("attention", &[attention[at]], &[numeric[at]]);
                }
            }
        }
    }
}

#[test]
fn the_weights_of_a_column_without_mass_keep_their_gradient() {
    let problem = DeadColumn::new();
    let sizes = &problem.sizes;
    let d_matrix: Vec<f64> = (0..16).map(f64::from).collect();
    let (weights, a) = (&problem.weights, &problem.attention);
    let gradient = mix_matrix_backward(sizes, weights, Some(a), &d_matrix, Some(&[1.0; 4])).unwrap();
    for i in 0..4 {
        let at = sizes.weight(0, i, 0);
        assert_eq!(gradient.weights[at], d_matrix[at]);
    }
}

#[test]
fn a_position_without_mass_contributes_nothing() {
    let sizes = Sizes { b: 2, r: 2, d: 1, c: 2, n: 3 };
    let weights = normalise_weights(&sizes, &[1.0, 2.0, 3.0, 3.0, 2.0, 1.0].repeat(2)).unwrap();
    let logits = [0.3, -0.4, 1.0, 0.2, -0.6, 0.1, 0.5, 0.9];
    let attention = [0.0, 0.6, 0.0, 0.3];
    let targets = Targets::Labels(&[0, 1]);
    let inputs = LossInputs { logits: &logits, targets, weights: &weights, attention: Some(&attention) };
    let both = loss(&sizes, &inputs, WEIGHTED).unwrap();
    let alone = LossInputs {
        logits: &[1.0, 0.2, 0.5, 0.9],
        weights: &weights[..6],
        attention: Some(&[0.6, 0.3]),
        ..inputs
    };
    let alone = loss(&Sizes { r: 1, ..sizes }, &alone, WEIGHTED).unwrap();
    assert!((both.value - alone.value / 2.0).abs() < 1e-15, "the mean over positions counts the empty one");
    assert_eq!(both.shares[..3], [0.0; 3]);
    let gradient = loss_backward(&sizes, &inputs, WEIGHTED, 1.0).unwrap();
    assert_eq!([gradient.logits[0], gradient.logits[1], gradient.logits[4], gradient.logits[5]], [0.0; 4]);
    assert!(gradient.logits.iter().all(|g| g.is_finite()));
    let d_attention = gradient.attention.unwrap();
    assert_eq!([d_attention[0], d_attention[2]], [0.0, 0.0]);
    assert!(d_attention[1] != 0.0 && d_attention[3] != 0.0);
}

#[test]
fn an_all_zero_map_is_uniform_and_constant() {
    let sizes = Sizes { b: 2, r: 4, d: 1, c: 2, n: 1 };
    let attention = [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.0];
    let settled = [0.25, 0.25, 0.25, 0.25, 1.0, 2.0, 3.0, 0.0];
    assert_eq!(settle_attention(&sizes, &attention).unwrap(), settled);
    let weights = vec![0.5; 8];
    assert_eq!(
        mix_matrix(&sizes, &weights, Some(&attention)).unwrap(),
        mix_matrix(&sizes, &weights, Some(&settled)).unwrap()
    );
    let d_matrix: Vec<f64> = (0..8).map(|at| f64::from(at * at)).collect();
    let d_weights =
        |a: &[f64]| mix_matrix_backward(&sizes, &weights, Some(a), &d_matrix, None).unwrap().weights;
    assert_eq!(d_weights(&attention), d_weights(&settled));

    let logits: Vec<f64> = (0..16).map(|at| f64::from(at % 5)).collect();
    let targets = Targets::Labels(&[0, 1]);
    let inputs = LossInputs { logits: &logits, targets, weights: &weights, attention: Some(&attention) };
    for options in [MEAN, WEIGHTED] {
        let gradient = loss_backward(&sizes, &inputs, options, 1.0).unwrap().attention.unwrap();
        let same = LossInputs { attention: Some(&settled), ..inputs };
        let wanted = loss_backward(&sizes, &same, options, 1.0).unwrap().attention.unwrap();
        assert_eq!(gradient[..4], [0.0; 4]);
        assert_eq!(gradient[4..], wanted[4..]);
    }
}

#[test]
fn a_map_without_positive_score_is_uniform_and_constant() {
    let sizes = Sizes { r: 3, d: 1, c: 2, ..Sizes::default() };
    let cam = AttentionOptions { query: Query::Cam, normalise: Normalise::ReluL1 };
    let classifier = Classifier { rows: &[5.0, -1.0], labels: &[1] };
    let features = [1.0, 0.0, 2.0];
    let map = attention(&sizes, &features, cam, Some(classifier)).unwrap().maps;
    assert_eq!(map, [1.0 / 3.0; 3]);
    let d_maps = [1.0, 2.0, 3.0];
    let gradient = attention_backward(&sizes, &features, cam, Some(classifier), &d_maps).unwrap();
    assert_eq!(gradient.features, [0.0; 3]);
    assert_eq!(gradient.classifier.unwrap(), [0.0; 2]);
}

#[test]
fn attention_keeps_nan_and_survives_large_scores() {
    let sizes = Sizes { b: 2, r: 2, ..Sizes::default() };
    let maps = attention(&sizes, &[f64::NAN, 1.0, 1.0, 3.0], RELU, None).unwrap().maps;
    assert!(maps[0].is_nan() && maps[1].is_nan());
    assert_eq!(maps[2..], [0.25, 0.75]);
    let softmax = AttentionOptions { query: Query::Gap, normalise: Normalise::Softmax };
    let maps = attention(&sizes, &[1e100, 1e100, -40.0, 40.0], softmax, None).unwrap().maps;
    assert_eq!(maps, [0.5; 4]);
}

#[test]
fn one_example_mixes_with_itself() {
    let sizes = Sizes { b: 1, r: 2, d: 2, c: 2, n: 3 };
    let weights = normalise_weights(&sizes, &[0.3, 1.7, 2.0, 0.1, 9.0, 4.0]).unwrap();
    assert_eq!(weights, [1.0; 6]);
    let features = [1.0, 2.0, 3.0, 4.0];
    let inputs = MixInputs {
        features: &features,
        targets: Targets::Labels(&[1]),
        weights: &weights,
        attention: Some(&[0.3, 0.0]),
    };
    let mixed = mix(&sizes, &inputs).unwrap();
    assert_eq!(mixed.features, features.repeat(3));
    assert_eq!(mixed.targets, [0.0, 1.0].repeat(6));
    let gradient = mix_backward(&sizes, &inputs, &[1.0; 12], Some(&[2.0; 12])).unwrap();
    assert_eq!(gradient.features, [3.0; 4]);
    assert_eq!(gradient.targets, [12.0; 2]);
    assert_eq!(gradient.attention.unwrap(), [0.0; 2]);
}

#[test]
fn one_class_has_no_loss() {
    let sizes = Sizes { b: 2, n: 2, ..Sizes::default() };
    let inputs = LossInputs {
        logits: &[3.0, -8.0],
        targets: Targets::Labels(&[0, 0]),
        weights: &[0.5, 0.25, 0.5, 0.75],
        attention: Some(&[0.2, 0.9]),
    };
    for options in [MEAN, WEIGHTED] {
        let loss = loss(&sizes, &inputs, options).unwrap();
        assert!(loss.value.abs() < 1e-15 && loss.kl.abs() < 1e-15);
        let gradient = loss_backward(&sizes, &inputs, options, 1.0).unwrap();
        assert!(gradient.logits.iter().chain(&gradient.attention.unwrap()).all(|g| g.abs() < 1e-15));
    }
}

/// One column, one position, one everything: the smallest problem has the values that can be done by hand.
#[test]
fn sizes_of_one() {
    let sizes = Sizes { c: 2, ..Sizes::default() };
    let inputs = LossInputs {
        logits: &[0.0, 3f64.ln()],
        targets: Targets::Labels(&[0]),
        weights: &[1.0],
        attention: None,
    };
    let loss = loss(&sizes, &inputs, LossOptions::default()).unwrap();
    assert!((loss.value - 4f64.ln()).abs() < 1e-15);
    assert_eq!(loss.kl, loss.value);
    let gradient = loss_backward(&sizes, &inputs, LossOptions::default(), 2.0).unwrap();
    assert_close("dS", &gradient.logits, &[-1.5, 1.5], 1e-15);
    assert_eq!(attention(&Sizes::default(), &[-2.0], RELU, None).unwrap().maps, [1.0]);
}

#[test]
fn a_pair_of_an_example_with_itself_is_the_example() {
    let sizes = Sizes { b: 2, n: 3, ..Sizes::default() };
    let weights = pair_weights(&sizes, &[0.3, 1.0, 0.0], &[0, 0, 1]).unwrap();
    assert_eq!(weights, [1.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
}

#[test]
fn errors_name_the_value_and_the_rule() {
    let sizes = Sizes { b: 2, r: 1, d: 1, c: 3, n: 2 };
    let shows = |error: Error, text: &str| assert_eq!(error.to_string(), text);
    let weights = [0.5; 4];
    shows(
        mix_matrix(&Sizes { n: 0, ..sizes }, &weights, None).unwrap_err(),
        "reference::mix_matrix: n is 0, but must be at least 1",
    );
    shows(
        mix_matrix(&sizes, &weights[..3], None).unwrap_err(),
        "reference::mix_matrix: weights has shape [3], but the other arguments ask for [1, 2, 2]",
    );
    shows(
        mix_matrix(&sizes, &weights, Some(&[0.5, f64::NAN])).unwrap_err(),
        "reference::reweight: attention[1, 0] is NaN, but must be finite and not negative",
    );
    shows(
        normalise_weights(&sizes, &[1.0, 0.0, 1.0, 0.0]).unwrap_err(),
        "reference::normalise_weights: the sum of column 1 at position 0 is 0, but must be positive and finite, \
         for the column to be normalised",
    );
    shows(
        normalise_weights(&sizes, &[1.0, 0.5, -1.0, 0.0]).unwrap_err(),
        "reference::normalise_weights: raw[0, 1, 0] is -1, but must be finite and not negative",
    );
    shows(
        pair_weights(&sizes, &[0.5, 1.5], &[0, 1]).unwrap_err(),
        "reference::pair_weights: factors[1] is 1.5, but must be between 0 and 1",
    );
    shows(
        pair_weights(&sizes, &[0.5, 0.5], &[0, 2]).unwrap_err(),
        "reference::pair_weights: partners[1] is 2, but must be below the number of examples",
    );
    shows(
        mix_targets(&sizes, Targets::Labels(&[0, 3]), &weights).unwrap_err(),
        "reference::mix_targets: labels[1] is 3, but there are 3 classes, counted from 0",
    );
    shows(
        attention(&sizes, &[1.0, 2.0], CAM, None).unwrap_err(),
        "reference::attention: CAM needs the classifier's rows and the labels",
    );
    let inputs = LossInputs {
        logits: &[0.0; 5],
        targets: Targets::Labels(&[0, 1]),
        weights: &weights,
        attention: None,
    };
    shows(
        loss(&sizes, &inputs, MEAN).unwrap_err(),
        "reference::loss: logits has shape [5], but the other arguments ask for [2, 1, 3]",
    );
}

#[test]
fn sizes_beyond_memory_are_errors() {
    for r in [usize::MAX, 1 << 60, 1 << 61] {
        let sizes = Sizes { r, b: 2, ..Sizes::default() };
        let error = pair_weights(&sizes, &[0.5], &[0]).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::TooLarge { .. }), "{error}");
    }
}

/// Any f64, the awkward ones often.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 0.0..1.0f64,
        1 => Just(0.0),
        1 => prop_oneof![Just(-1.0), Just(f64::NAN), Just(f64::INFINITY), Just(f64::MAX), Just(5e-324)],
    ]
}

/// An array that mostly has the length asked for, and mostly values between 0 and 1.
fn array(len: usize) -> impl Strategy<Value = Vec<f64>> {
    prop_oneof![6 => vec(0.0..1.0f64, len), 2 => vec(number(), len), 1 => vec(number(), 0..9)]
}

fn indices(len: usize) -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![6 => vec(0..2usize, len), 1 => vec(0..5usize, len), 1 => vec(0..2usize, 0..5)]
}

/// Sizes and arrays for every argument, right or wrong.
#[derive(Clone, Debug)]
struct Anything {
    sizes: Sizes,
    features: Vec<f64>,
    logits: Vec<f64>,
    labels: Vec<usize>,
    soft: Vec<f64>,
    weights: Vec<f64>,
    attention: Vec<f64>,
    rows: Vec<f64>,
    mixed_features: Vec<f64>,
    mixed_logits: Vec<f64>,
    per_mixture: Vec<f64>,
    partners: Vec<usize>,
}

fn anything() -> impl Strategy<Value = Anything> {
    let size = || prop_oneof![1 => Just(0usize), 12 => 1..4usize];
    (size(), size(), size(), size(), size()).prop_flat_map(|(b, r, d, c, n)| {
        let sizes = Sizes { b, r, d, c, n };
        (
            (array(b * r * d), array(b * r * c), indices(b), array(b * c), array(r * b * n), array(b * r)),
            (array(c * d), array(n * r * d), array(n * r * c), array(r * n), indices(n)),
        )
            .prop_map(move |((features, logits, labels, soft, weights, attention), rest)| {
                let (rows, mixed_features, mixed_logits, per_mixture, partners) = rest;
                Anything {
                    sizes,
                    features,
                    logits,
                    labels,
                    soft,
                    weights,
                    attention,
                    rows,
                    mixed_features,
                    mixed_logits,
                    per_mixture,
                    partners,
                }
            })
    })
}

/// What comes back has the shape promised, and an error has a message.
fn check_length(name: &str, result: Result<Vec<f64>>, wanted: usize) -> bool {
    match result {
        Ok(values) => assert_eq!(values.len(), wanted, "{name}"),
        Err(error) => {
            assert!(error.to_string().starts_with("reference::"), "{error}");
            return false;
        }
    }
    true
}

fn call_parts(any: &Anything, soft: bool) -> usize {
    let s = &any.sizes;
    let Sizes { b, r, d, c, n } = *s;
    let targets = if soft { Targets::Soft(&any.soft) } else { Targets::Labels(&any.labels) };
    let given = Some(&any.attention[..]);
    let results = [
        ("normalise_weights", normalise_weights(s, &any.weights), r * b * n),
        ("broadcast_weights", broadcast_weights(s, &any.weights), r * b * n),
        ("pair_weights", pair_weights(s, &any.per_mixture, &any.partners), r * b * n),
        ("settle_attention", settle_attention(s, &any.attention), b * r),
        ("reweight", reweight(s, &any.weights, &any.attention), r * b * n),
        ("mix_matrix", mix_matrix(s, &any.weights, given).map(|m| m.matrix), r * b * n),
        ("mix_features", mix_features(s, &any.features, &any.weights), n * r * d),
        ("mix_targets", mix_targets(s, targets, &any.weights), n * r * c),
        (
            "mix_features_backward",
            mix_features_backward(s, &any.features, &any.weights, &any.mixed_features).map(|g| g.1),
            r * b * n,
        ),
        (
            "mix_targets_backward",
            mix_targets_backward(s, targets, &any.weights, &any.mixed_logits).map(|g| g.0),
            b * c,
        ),
        (
            "mix_matrix_backward",
            mix_matrix_backward(s, &any.weights, given, &any.weights, Some(&any.per_mixture))
                .map(|g| g.weights),
            r * b * n,
        ),
        (
            "cross_entropy",
            cross_entropy(s, &any.mixed_logits, targets, &any.weights).map(|ce| ce.values),
            r * n,
        ),
        ("entropy", entropy(s, &any.mixed_logits), r * n),
        ("shares", shares(s, &any.per_mixture, Reduction::AttentionWeighted), r * n),
    ];
    results.into_iter().map(|(name, result, wanted)| usize::from(check_length(name, result, wanted))).sum()
}

fn call_whole(any: &Anything, soft: bool) -> usize {
    let s = &any.sizes;
    let Sizes { b, r, d, c, .. } = *s;
    let targets = if soft { Targets::Soft(&any.soft) } else { Targets::Labels(&any.labels) };
    let given = Some(&any.attention[..]);
    let inputs = LossInputs { logits: &any.logits, targets, weights: &any.weights, attention: given };
    let mixing = MixInputs { features: &any.features, targets, weights: &any.weights, attention: given };
    let classifier = Some(Classifier { rows: &any.rows, labels: &any.labels });
    let d_targets = Some(&any.mixed_logits[..]);
    let results = [
        ("attention", attention(s, &any.features, CAM, classifier).map(|a| a.maps), b * r),
        (
            "attention_backward",
            attention_backward(s, &any.features, CAM, classifier, &any.attention).map(|g| g.features),
            b * r * d,
        ),
        ("mix", mix(s, &mixing).map(|m| m.features), s.n * r * d),
        (
            "mix_backward",
            mix_backward(s, &mixing, &any.mixed_features, d_targets).map(|g| g.features),
            b * r * d,
        ),
        ("loss", loss(s, &inputs, MEAN).map(|l| l.cross_entropy), r * s.n),
        ("loss_backward", loss_backward(s, &inputs, WEIGHTED, 1.0).map(|g| g.logits), b * r * c),
    ];
    results.into_iter().map(|(name, result, wanted)| usize::from(check_length(name, result, wanted))).sum()
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn nothing_panics(any in anything(), soft: bool) {
        let succeeded = call_parts(&any, soft) + call_whole(&any, soft);
        let Sizes { b, r, d, c, n } = any.sizes;
        if [b, r, d, c, n].contains(&0) {
            prop_assert_eq!(succeeded, 0, "a size of 0 is an error in every call");
        }
    }
}
