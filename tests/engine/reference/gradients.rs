//! Every gradient of `multimix::reference` against extrapolated finite differences in f64.

use multimix::reference::{
    Classifier, LossInputs, MixInputs, Sizes, Targets, attention, attention_backward, loss, loss_backward,
    mix, mix_backward, mix_matrix, mix_matrix_backward,
};
use multimix::{AttentionOptions, LossOptions, Normalise, Query, Reduction};
use proptest::prelude::*;

use crate::support::exact::*;

/// Step for positive variables, as a part of their value.
const RELATIVE: f64 = 1.0 / 64.0;
/// Step for logits, features and targets.
const ABSOLUTE: f64 = 1.0 / 32.0;

const OPTIONS: [LossOptions; 4] = [
    LossOptions { reduction: Reduction::Mean, detach_attention: false, kl: false },
    LossOptions { reduction: Reduction::Mean, detach_attention: true, kl: false },
    LossOptions { reduction: Reduction::AttentionWeighted, detach_attention: false, kl: false },
    LossOptions { reduction: Reduction::AttentionWeighted, detach_attention: true, kl: false },
];

fn check_loss(problem: &Exact, soft: bool, options: LossOptions) {
    let sizes = &problem.sizes;
    let upstream = 1.75;
    let value = |inputs: &LossInputs| upstream * loss(sizes, inputs, options).unwrap().value;
    for inputs in [problem.loss_inputs(soft), LossInputs { attention: None, ..problem.loss_inputs(soft) }] {
        let gradient = loss_backward(sizes, &inputs, options, upstream).unwrap();
        let numeric = numeric_gradient(inputs.logits, fixed_step(ABSOLUTE), |logits| {
            value(&LossInputs { logits, ..inputs })
        });
        assert_gradient("logits", &gradient.logits, &numeric);
        match inputs.attention {
            Some(a) if !options.detach_attention => {
                let numeric = numeric_gradient(a, relative_step(RELATIVE), |a| {
                    value(&LossInputs { attention: Some(a), ..inputs })
                });
                assert_gradient("attention", &gradient.attention.unwrap(), &numeric);
            }
            _ => assert_eq!(gradient.attention, None),
        }
    }
}

fn check_mix(problem: &Exact, soft: bool, with_attention: bool, use_targets: bool) {
    let sizes = &problem.sizes;
    let Sizes { r, d, c, n, .. } = *sizes;
    let (d_features, rest) = problem.cotangent.split_at(n * r * d);
    let d_targets = use_targets.then(|| &rest[..n * r * c]);
    let all = problem.mix_inputs(soft);
    let inputs = MixInputs { attention: all.attention.filter(|_| with_attention), ..all };
    let value = |inputs: &MixInputs| {
        let mixed = mix(sizes, inputs).unwrap();
        dot(&mixed.features, d_features) + d_targets.map_or(0.0, |d| dot(&mixed.targets, d))
    };
    let gradient = mix_backward(sizes, &inputs, d_features, d_targets).unwrap();

    let numeric = numeric_gradient(inputs.features, fixed_step(ABSOLUTE), |features| {
        value(&MixInputs { features, ..inputs })
    });
    assert_gradient("features", &gradient.features, &numeric);
    // Linear in Y: the gradient at labels is that at any rows.
    let numeric = numeric_gradient(&problem.soft, relative_step(RELATIVE), |rows| {
        value(&MixInputs { targets: Targets::Soft(rows), ..inputs })
    });
    assert_gradient("targets", &gradient.targets, &numeric);
    let numeric = numeric_gradient(inputs.weights, relative_step(RELATIVE), |weights| {
        value(&MixInputs { weights, ..inputs })
    });
    assert_gradient("weights", &gradient.weights, &numeric);
    match inputs.attention {
        None => assert_eq!(gradient.attention, None),
        Some(a) => {
            let numeric = numeric_gradient(a, relative_step(RELATIVE), |a| {
                value(&MixInputs { attention: Some(a), ..inputs })
            });
            assert_gradient("attention", &gradient.attention.unwrap(), &numeric);
        }
    }
}

/// The matrix M̂ and the mass s, each with a cotangent of its own.
fn check_mix_matrix(problem: &Exact) {
    let sizes = &problem.sizes;
    let (d_matrix, rest) = problem.cotangent.split_at(problem.weights.len());
    let d_mass = &rest[..sizes.r * sizes.n];
    let value = |weights: &[f64], attention: &[f64]| {
        let mix = mix_matrix(sizes, weights, Some(attention)).unwrap();
        dot(&mix.matrix, d_matrix) + dot(&mix.mass, d_mass)
    };
    let (weights, a) = (&problem.weights, &problem.attention);
    let gradient = mix_matrix_backward(sizes, weights, Some(a), d_matrix, Some(d_mass)).unwrap();
    let numeric = numeric_gradient(weights, relative_step(RELATIVE), |weights| value(weights, a));
    assert_gradient("weights", &gradient.weights, &numeric);
    let numeric = numeric_gradient(a, relative_step(RELATIVE), |a| value(weights, a));
    assert_gradient("attention", &gradient.attention.unwrap(), &numeric);
}

/// Scores stay on their side of the kink of ReLU: steps of 1/1024 move a score by less than 0.01.
const KINK: f64 = 0.1;
const ATTENTION_STEP: f64 = 1.0 / 1024.0;

fn attention_of(problem: &Exact, options: AttentionOptions, features: &[f64], rows: &[f64]) -> Vec<f64> {
    let classifier = Classifier { rows, labels: &problem.labels };
    attention(&problem.sizes, features, options, Some(classifier)).unwrap().maps
}

fn away_from_kinks(problem: &Exact, options: AttentionOptions) -> bool {
    let classifier = Classifier { rows: &problem.classifier, labels: &problem.labels };
    let forward = attention(&problem.sizes, &problem.features, options, Some(classifier)).unwrap();
    forward.scores.iter().all(|t| t.abs() > KINK)
}

fn check_attention(problem: &Exact, options: AttentionOptions) {
    let sizes = &problem.sizes;
    let d_maps = &problem.cotangent[..sizes.b * sizes.r];
    let (features, rows) = (&problem.features, &problem.classifier);
    let classifier = Classifier { rows, labels: &problem.labels };
    let gradient = attention_backward(sizes, features, options, Some(classifier), d_maps).unwrap();
    let numeric = numeric_gradient(features, fixed_step(ATTENTION_STEP), |features| {
        dot(&attention_of(problem, options, features, rows), d_maps)
    });
    assert_gradient("features", &gradient.features, &numeric);
    if options.query == Query::Gap {
        assert_eq!(gradient.classifier, None);
        return;
    }
    let numeric = numeric_gradient(rows, fixed_step(ATTENTION_STEP), |rows| {
        dot(&attention_of(problem, options, features, rows), d_maps)
    });
    assert_gradient("classifier", &gradient.classifier.unwrap(), &numeric);
}

/// Problems whose attention has zeros that leave every derivative (from above) in place: example 0 keeps
/// attention of at least a half, so that every column keeps mass, and an all-zero map is an example's own
/// affair.
fn problem_with_zeros() -> impl Strategy<Value = Exact> {
    (problem(), proptest::collection::vec(any::<bool>(), 12)).prop_map(|(mut problem, zero)| {
        let (first, others) = problem.attention.split_at_mut(problem.sizes.r);
        first.iter_mut().for_each(|a| *a = 0.5 + *a / 2.0);
        for (a, zero) in others.iter_mut().zip(zero) {
            *a *= f64::from(!zero);
        }
        problem
    })
}

fn check_zeros(problem: &Exact, options: LossOptions) {
    let sizes = &problem.sizes;
    let inputs = problem.loss_inputs(false);
    let value = |a: &[f64]| loss(sizes, &LossInputs { attention: Some(a), ..inputs }, options).unwrap().value;
    let gradient = loss_backward(sizes, &inputs, options, 1.0).unwrap().attention.unwrap();
    let a = &problem.attention;
    let mut numeric = numeric_gradient(a, relative_step(RELATIVE), value);
    for at in 0..a.len() {
        let map = &a[at / sizes.r * sizes.r..][..sizes.r];
        if map.iter().all(|&a| a == 0.0) {
            numeric[at] = 0.0;
            assert_eq!(gradient[at], 0.0, "an all-zero map is a constant");
        } else if a[at] == 0.0 {
            numeric[at] = numeric_derivative_from_above(a, at, 1.0 / 1024.0, value);
        }
    }
    assert_gradient("attention", &gradient, &numeric);
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn loss_with_labels(problem in problem(), which in 0..4usize) {
        check_loss(&problem, false, OPTIONS[which]);
    }

    #[test]
    fn loss_with_soft_targets(problem in problem(), which in 0..4usize) {
        check_loss(&problem, true, OPTIONS[which]);
    }

    #[test]
    fn loss_with_targets_of_any_sum(mut problem in problem(), which in 0..4usize, scale in 0.1..3.0) {
        problem.soft.iter_mut().enumerate().for_each(|(at, y)| *y *= scale * (1.0 + at as f64 / 8.0));
        check_loss(&problem, true, OPTIONS[which]);
    }

    #[test]
    fn loss_with_zeros_in_attention(problem in problem_with_zeros(), weighted: bool) {
        check_zeros(&problem, OPTIONS[if weighted { 2 } else { 0 }]);
    }

    #[test]
    fn mixing(problem in problem(), soft: bool, with_attention: bool, use_targets: bool) {
        check_mix(&problem, soft, with_attention, use_targets);
    }

    #[test]
    fn matrix_and_mass(problem in problem()) {
        check_mix_matrix(&problem);
    }
}

/// Every combination of query and normalisation, each on problems of its own.
macro_rules! attention_tests {
    ($($name:ident: $query:ident, $normalise:ident;)*) => {
        proptest! {
            #![proptest_config(config(60))]
            $(
                #[test]
                fn $name(problem in problem().prop_filter("a score near the kink", |problem| {
                    away_from_kinks(problem, AttentionOptions { query: Query::$query, normalise: Normalise::$normalise })
                })) {
                    let options = AttentionOptions { query: Query::$query, normalise: Normalise::$normalise };
                    check_attention(&problem, options);
                }
            )*
        }
    };
}

attention_tests! {
    attention_gap_relu: Gap, ReluL1;
    attention_cam_relu: Cam, ReluL1;
    attention_gap_softmax: Gap, Softmax;
    attention_cam_softmax: Cam, Softmax;
}
