//! What must hold between the functions of `multimix::reference`, whatever the numbers: the algebra that the
//! engines are built on.

use multimix::reference::{
    LossInputs, MixInputs, Sizes, Targets, attention, broadcast_weights, cross_entropy, loss, loss_backward,
    mix, mix_backward, mix_features, mix_matrix, pair_weights, shares,
};
use multimix::{AttentionOptions, LossOptions, Normalise, Query, Reduction};
use proptest::prelude::*;

use crate::support::exact::*;

const MEAN: LossOptions = LossOptions { reduction: Reduction::Mean, detach_attention: false, kl: true };
const WEIGHTED: LossOptions =
    LossOptions { reduction: Reduction::AttentionWeighted, detach_attention: false, kl: true };

fn options() -> impl Strategy<Value = LossOptions> {
    prop_oneof![Just(MEAN), Just(WEIGHTED)]
}

/// S = W Z + β for features (rows, d) and W (c, d).
fn linear_head(sizes: &Sizes, features: &[f64], rows: &[f64], bias: &[f64]) -> Vec<f64> {
    let head = |z: &[f64], class: usize| dot(z, &rows[class * sizes.d..][..sizes.d]) + bias[class];
    features.chunks(sizes.d).flat_map(|z| (0..sizes.c).map(move |class| head(z, class))).collect()
}

/// The same problem with its examples in another order.
fn permuted(problem: &Exact, order: &[usize]) -> Exact {
    let Sizes { b, r, d, c, n } = problem.sizes;
    let rows = |values: &[f64], width: usize| -> Vec<f64> {
        order.iter().flat_map(|&i| values[i * width..][..width].to_vec()).collect()
    };
    Exact {
        features: rows(&problem.features, r * d),
        logits: rows(&problem.logits, r * c),
        labels: order.iter().map(|&i| problem.labels[i]).collect(),
        soft: rows(&problem.soft, c),
        weights: problem.weights.chunks(b * n).flat_map(|position| rows(position, n)).collect(),
        attention: rows(&problem.attention, r),
        ..problem.clone()
    }
}

fn with_order() -> impl Strategy<Value = (Exact, Vec<usize>)> {
    problem().prop_flat_map(|problem| {
        let order: Vec<usize> = (0..problem.sizes.b).collect();
        (Just(problem), Just(order).prop_shuffle())
    })
}

fn problem_at_one_position() -> impl Strategy<Value = Exact> {
    sizes().prop_map(|sizes| Sizes { r: 1, ..sizes }).prop_flat_map(problem_of)
}

proptest! {
    #![proptest_config(config(150))]

    /// W Z̃ + β = (W Z + β) M̂, for the columns of M̂ sum to 1.
    #[test]
    fn a_linear_head_commutes_with_mixing(problem in problem()) {
        let sizes = &problem.sizes;
        let bias = &problem.cotangent[..sizes.c];
        let head = |features: &[f64]| linear_head(sizes, features, &problem.classifier, bias);
        let matrix = mix_matrix(sizes, &problem.weights, Some(&problem.attention)).unwrap().matrix;
        let mixed_first = head(&mix_features(sizes, &problem.features, &matrix).unwrap());
        let as_logits = Sizes { d: sizes.c, ..*sizes };
        let head_first = mix_features(&as_logits, &head(&problem.features), &matrix).unwrap();
        assert_close("logits", &head_first, &mixed_first, 1e-13);
    }

    #[test]
    fn labels_are_one_hot_targets(problem in problem(), options in options()) {
        let (sizes, c) = (&problem.sizes, problem.sizes.c);
        let one_hot: Vec<f64> =
            problem.labels.iter().flat_map(|&label| (0..c).map(move |class| f64::from(class == label))).collect();
        let labels = problem.loss_inputs(false);
        let rows = LossInputs { targets: Targets::Soft(&one_hot), ..labels };
        let (a, b) = (loss(sizes, &labels, options).unwrap(), loss(sizes, &rows, options).unwrap());
        assert_close("loss, kl", &[a.value, a.kl], &[b.value, b.kl], 1e-13);
        assert_close("cross entropy", &a.cross_entropy, &b.cross_entropy, 1e-13);
        let a = loss_backward(sizes, &labels, options, 1.0).unwrap();
        let b = loss_backward(sizes, &rows, options, 1.0).unwrap();
        assert_close("dS", &a.logits, &b.logits, 1e-13);
        assert_close("da", &a.attention.unwrap(), &b.attention.unwrap(), 1e-13);
    }

    /// Equations (3) and (4), written as on the poster: examples as columns, r = 1, no attention.
    #[test]
    fn one_position_without_attention_is_multimix(problem in problem_at_one_position()) {
        let sizes = &problem.sizes;
        let Sizes { b, d, c, n, .. } = *sizes;
        let inputs = MixInputs { attention: None, ..problem.mix_inputs(true) };
        let mixed = mix(sizes, &inputs).unwrap();
        for k in 0..n {
            let lambda: Vec<f64> = (0..b).map(|i| problem.weights[i * n + k]).collect();
            for ch in 0..d {
                let row: Vec<f64> = (0..b).map(|i| problem.features[i * d + ch]).collect();
                prop_assert!((mixed.features[k * d + ch] - dot(&row, &lambda)).abs() < 1e-14);
            }
            for class in 0..c {
                let row: Vec<f64> = (0..b).map(|i| problem.soft[i * c + class]).collect();
                prop_assert!((mixed.targets[k * c + class] - dot(&row, &lambda)).abs() < 1e-14);
            }
        }
    }

    /// Equations (1) and (2): every mixed example is λ of itself and 1 − λ of its partner, beyond n = b too.
    #[test]
    fn pair_weights_are_manifold_mixup((problem, order) in with_order(), lambda in 0.0..=1.0f64) {
        let sizes = &problem.sizes;
        let Sizes { b, r, d, c, n } = *sizes;
        let partners: Vec<usize> = (0..n).map(|k| order[k % b]).collect();
        let weights = pair_weights(sizes, &vec![lambda; n], &partners).unwrap();
        let inputs = MixInputs { weights: &weights, attention: None, ..problem.mix_inputs(true) };
        let mixed = mix(sizes, &inputs).unwrap();
        for (k, &partner) in partners.iter().enumerate() {
            let pair = |x: &[f64], place: &dyn Fn(usize) -> usize| {
                lambda * x[place(k % b)] + (1.0 - lambda) * x[place(partner)]
            };
            for j in 0..r {
                for ch in 0..d {
                    let wanted = pair(&problem.features, &|i| sizes.feature(i, j, ch));
                    prop_assert!((mixed.features[sizes.mixed_feature(k, j, ch)] - wanted).abs() < 1e-14);
                }
                for class in 0..c {
                    let wanted = pair(&problem.soft, &|i| sizes.target(i, class));
                    prop_assert!((mixed.targets[sizes.mixed_logit(k, j, class)] - wanted).abs() < 1e-14);
                }
            }
        }
    }

    #[test]
    fn columns_sum_to_one(mut problem in problem(), dead in proptest::collection::vec(any::<bool>(), 12)) {
        let sizes = &problem.sizes;
        for (at, a) in problem.attention.iter_mut().enumerate() {
            *a *= f64::from(!dead[at % dead.len()]);
        }
        let mix = mix_matrix(sizes, &problem.weights, Some(&problem.attention)).unwrap();
        for j in 0..sizes.r {
            for k in 0..sizes.n {
                let column: Vec<f64> = (0..sizes.b).map(|i| mix.matrix[sizes.weight(j, i, k)]).collect();
                prop_assert!((column.iter().sum::<f64>() - 1.0).abs() < 1e-14);
                prop_assert!(column.iter().all(|&m| m >= 0.0));
            }
        }
        for reduction in [Reduction::Mean, Reduction::AttentionWeighted] {
            let shares = shares(sizes, &mix.mass, reduction).unwrap();
            for (position, mass) in shares.chunks(sizes.n).zip(mix.mass.chunks(sizes.n)) {
                let dead = reduction == Reduction::AttentionWeighted && mass.iter().all(|&s| s == 0.0);
                let wanted = if dead { 0.0 } else { 1.0 / sizes.r as f64 };
                prop_assert!((position.iter().sum::<f64>() - wanted).abs() < 1e-14);
            }
        }
    }

    /// Scaling the attention of one position changes neither M̂ nor the weighted loss, and divides da by the
    /// scale; so Σ_i a_i da_i = 0 at every position.
    #[test]
    fn the_scale_of_attention_at_a_position_cancels(
        problem in problem(),
        exponent in -40..40i32,
        options in options(),
    ) {
        let sizes = &problem.sizes;
        let scale = f64::from(exponent).exp2();
        let j = sizes.r - 1;
        let mut scaled = problem.clone();
        (0..sizes.b).for_each(|i| scaled.attention[sizes.attention(i, j)] *= scale);
        let before = loss(sizes, &problem.loss_inputs(true), options).unwrap();
        let after = loss(sizes, &scaled.loss_inputs(true), options).unwrap();
        prop_assert_eq!(&before.mix.matrix, &after.mix.matrix);
        assert_close("loss", &[after.value, after.kl], &[before.value, before.kl], 1e-14);

        let before = loss_backward(sizes, &problem.loss_inputs(true), options, 1.0).unwrap();
        let after = loss_backward(sizes, &scaled.loss_inputs(true), options, 1.0).unwrap();
        assert_close("dS", &after.logits, &before.logits, 1e-14);
        let (before, mut after) = (before.attention.unwrap(), after.attention.unwrap());
        (0..sizes.b).for_each(|i| after[sizes.attention(i, j)] *= scale);
        assert_close("da", &after, &before, 1e-13);
        for j in 0..sizes.r {
            let places = (0..sizes.b).map(|i| sizes.attention(i, j));
            let sum: f64 = places.map(|at| problem.attention[at] * before[at]).sum();
            prop_assert!(sum.abs() < 1e-13);
        }
    }

    #[test]
    fn the_loss_is_at_least_the_entropy(problem in problem(), soft: bool, options in options()) {
        let loss = loss(&problem.sizes, &problem.loss_inputs(soft), options).unwrap();
        for (ce, entropy) in loss.cross_entropy.iter().zip(&loss.entropy) {
            prop_assert!(*entropy >= -1e-15 && ce - entropy >= -1e-13, "{ce} below {entropy}");
        }
        prop_assert!(loss.kl >= -1e-13 && loss.kl <= loss.value + 1e-13);
        let share_of_entropy = dot(&loss.shares, &loss.entropy);
        prop_assert!((loss.value - loss.kl - share_of_entropy).abs() < 1e-13);
    }

    /// Logits equal to the log of the targets, up to a constant, explain them fully: KL = 0 and no gradient.
    #[test]
    fn targets_explained_fully_leave_no_divergence(problem in problem(), constant in -5.0..5.0f64) {
        let (sizes, c) = (&problem.sizes, problem.sizes.c);
        let soft: Vec<f64> = (0..sizes.b).flat_map(|_| problem.soft[..c].to_vec()).collect();
        let logits: Vec<f64> =
            (0..sizes.b * sizes.r * c).map(|at| soft[at % c].ln() + constant).collect();
        let inputs = LossInputs { logits: &logits, targets: Targets::Soft(&soft), ..problem.loss_inputs(true) };
        prop_assert!(loss(sizes, &inputs, WEIGHTED).unwrap().kl.abs() < 1e-13);
        let gradient = loss_backward(sizes, &inputs, WEIGHTED, 1.0).unwrap();
        prop_assert!(gradient.logits.iter().all(|g| g.abs() < 1e-14));
    }

    #[test]
    fn the_order_of_examples_does_not_matter((problem, order) in with_order(), options in options()) {
        let Sizes { r, d, c, n, .. } = problem.sizes;
        let sizes = &problem.sizes;
        let other = permuted(&problem, &order);
        let (before, after) = (problem.mix_inputs(false), other.mix_inputs(false));
        let (mixed, also) = (mix(sizes, &before).unwrap(), mix(sizes, &after).unwrap());
        assert_close("mixed features", &also.features, &mixed.features, 1e-14);
        assert_close("mixed targets", &also.targets, &mixed.targets, 1e-14);
        let d_features = &problem.cotangent[..n * r * d];
        let mut gradient = problem.clone();
        let through = mix_backward(sizes, &before, d_features, None).unwrap();
        (gradient.features, gradient.weights) = (through.features, through.weights);
        let loss_gradient = loss_backward(sizes, &problem.loss_inputs(false), options, 1.0).unwrap();
        (gradient.logits, gradient.attention) = (loss_gradient.logits, loss_gradient.attention.unwrap());
        let wanted = permuted(&gradient, &order);

        let through = mix_backward(sizes, &after, d_features, None).unwrap();
        assert_close("dZ", &through.features, &wanted.features, 1e-14);
        assert_close("dΛ", &through.weights, &wanted.weights, 1e-14);
        let losses = [&problem, &other].map(|p| loss(sizes, &p.loss_inputs(false), options).unwrap().value);
        prop_assert!((losses[0] - losses[1]).abs() < 1e-13 * c as f64);
        let loss_gradient = loss_backward(sizes, &other.loss_inputs(false), options, 1.0).unwrap();
        assert_close("dS", &loss_gradient.logits, &wanted.logits, 1e-14);
        assert_close("da", &loss_gradient.attention.unwrap(), &wanted.attention, 1e-13);
    }

    /// Adding a constant to the logits of a feature changes nothing, so every row of dS sums to 0.
    #[test]
    fn a_constant_on_logits_cancels(
        problem in problem(),
        soft: bool,
        options in options(),
        constant in -3.0..3.0f64,
    ) {
        let sizes = &problem.sizes;
        let inputs = problem.loss_inputs(soft);
        let mut shifted = problem.logits.clone();
        shifted[..sizes.c].iter_mut().for_each(|x| *x += constant);
        let moved = LossInputs { logits: &shifted, ..inputs };
        let values = [inputs, moved].map(|inputs| loss(sizes, &inputs, options).unwrap().value);
        prop_assert!((values[0] - values[1]).abs() < 1e-13);
        let gradient = loss_backward(sizes, &inputs, options, 1.0).unwrap();
        for row in gradient.logits.chunks(sizes.c) {
            prop_assert!(row.iter().sum::<f64>().abs() < 1e-14);
        }
    }

    /// The fused loss is the loss of the materialised path, put together by hand from Z̃ and Ỹ behind a
    /// linear head.
    #[test]
    fn the_loss_is_that_of_mixed_features_and_targets(problem in problem()) {
        let sizes = &problem.sizes;
        let bias = vec![0.25; sizes.c];
        let logits = linear_head(sizes, &problem.features, &problem.classifier, &bias);
        let fused = loss(sizes, &LossInputs { logits: &logits, ..problem.loss_inputs(false) }, MEAN).unwrap();
        let mixed = mix(sizes, &problem.mix_inputs(false)).unwrap();
        let mixed_logits = linear_head(sizes, &mixed.features, &problem.classifier, &bias);
        let mut sum = 0.0;
        for (logits, targets) in mixed_logits.chunks(sizes.c).zip(mixed.targets.chunks(sizes.c)) {
            let total: f64 = logits.iter().map(|x| x.exp()).sum();
            sum -= logits.iter().zip(targets).map(|(x, y)| y * (x.exp() / total).ln()).sum::<f64>();
        }
        prop_assert!((fused.value - sum / (sizes.n * sizes.r) as f64).abs() < 1e-13 * (1.0 + fused.value));
    }

    /// Detaching attention changes nothing but what flows to attention.
    #[test]
    fn detaching_keeps_the_gradient_of_logits(problem in problem(), options in options()) {
        let inputs = problem.loss_inputs(false);
        let attached = loss_backward(&problem.sizes, &inputs, options, 0.5).unwrap();
        let detached = LossOptions { detach_attention: true, ..options };
        let detached = loss_backward(&problem.sizes, &inputs, detached, 0.5).unwrap();
        prop_assert_eq!(attached.logits, detached.logits);
        prop_assert!(attached.attention.is_some() && detached.attention.is_none());
    }

    /// No attention, uniform attention and an all-zero attention are the same, and both reductions then
    /// agree.
    #[test]
    fn uniform_attention_is_none(problem in problem(), options in options()) {
        let sizes = &problem.sizes;
        let len = problem.attention.len();
        let plain = LossInputs { attention: None, ..problem.loss_inputs(false) };
        let wanted = loss(sizes, &plain, MEAN).unwrap();
        prop_assert!(wanted.mix.mass.iter().all(|&s| s == 1.0));
        for level in [0.7, 0.0] {
            let uniform = vec![level; len];
            let given = loss(sizes, &LossInputs { attention: Some(&uniform), ..plain }, options).unwrap();
            prop_assert!((given.value - wanted.value).abs() < 1e-13);
            assert_close("M̂", &given.mix.matrix, &wanted.mix.matrix, 1e-14);
        }
        let without = loss(sizes, &plain, options).unwrap();
        prop_assert!((without.value - wanted.value).abs() < 1e-13);
    }

    #[test]
    fn attention_maps_are_distributions_over_positions(
        problem in problem(),
        softmax: bool,
        shift in -2.0..2.0f64,
    ) {
        let sizes = &problem.sizes;
        let normalise = if softmax { Normalise::Softmax } else { Normalise::ReluL1 };
        let options = AttentionOptions { query: Query::Gap, normalise };
        let features: Vec<f64> = problem.features.iter().map(|z| z + shift).collect();
        let given = attention(sizes, &features, options, None).unwrap();
        for (map, scores) in given.maps.chunks(sizes.r).zip(given.scores.chunks(sizes.r)) {
            prop_assert!((map.iter().sum::<f64>() - 1.0).abs() < 1e-14);
            for (a, t) in map.iter().zip(scores) {
                prop_assert!(*a >= 0.0 && (softmax || *t > 0.0 || *a == 0.0 || scores.iter().all(|t| *t <= 0.0)));
            }
        }
    }

    /// Weights that are the same at all positions, with the same features there, mix to the same everywhere.
    #[test]
    fn positions_do_not_see_each_other(problem in problem()) {
        let sizes = &problem.sizes;
        let Sizes { b, r, d, n, .. } = *sizes;
        let weights = broadcast_weights(sizes, &problem.weights[..b * n]).unwrap();
        let features: Vec<f64> = (0..b * r * d)
            .map(|at| problem.features[sizes.feature(at / (r * d), 0, at % d)])
            .collect();
        let matrix = mix_matrix(sizes, &weights, None).unwrap().matrix;
        let mixed = mix_features(sizes, &features, &matrix).unwrap();
        for example in mixed.chunks(r * d) {
            prop_assert!(example.chunks(d).all(|position| position == &example[..d]));
        }
    }
}

#[test]
fn large_logits_do_not_overflow() {
    let sizes = Sizes { c: 3, ..Sizes::default() };
    let ce = cross_entropy(&sizes, &[1e300, 0.0, -1e300], Targets::Labels(&[1]), &[1.0]).unwrap();
    assert_eq!((ce.values[0], ce.log_sum_exp[0]), (1e300, 1e300));
}
