//! Mixing of values at the ends of f32, and gradients of attention that is all but zero.

use multimix::reference::{self, MixInputs, Sizes};
use multimix::{
    Alpha, Factor, LossInput, LossOptions, MixInput, MixTargets, MixedGradients, Mixing, Targets, View, Want,
    cpu,
};

use crate::support::measure::wide;
use crate::support::raw::raw_weights;

#[test]
fn a_mixture_of_the_largest_number_is_the_largest_number() {
    for sign in [1.0, -1.0] {
        let features = [sign * f32::MAX; 12];
        let soft = [f32::MAX; 4];
        let input = MixInput {
            features: View::new(&features, [2, 2, 3]).unwrap(),
            targets: Some(MixTargets {
                targets: Targets::Soft(View::new(&soft, [2, 2]).unwrap()),
                classes: 2,
            }),
            attention: None,
        };
        let mixed = cpu::mix(Mixing::dirichlet(200, Alpha::PAPER), &input).unwrap();
        assert!(mixed.features.iter().all(|&z| z * sign >= f32::MAX * 0.999_99), "infinite or too small");
        assert!(mixed.features.iter().chain(&mixed.targets.unwrap()).all(|z| z.is_finite()));
    }
}

/// Pairs of which both have next to no attention: Λ / s is 1e35.
#[test]
fn gradients_of_tiny_attention_are_those_of_the_reference() {
    let sizes = Sizes { b: 4, r: 1, d: 3, c: 1, n: 64 };
    let mixing = Mixing::pair(64, Alpha::PAPER, Factor::PerColumn).seed(5);
    let features: Vec<f32> = (0..12).map(|x| (x as f32 * 1.3).sin()).collect();
    let attention = [1e-38f32, 1e-38, 1e-3, 1e-38];
    for scale in [1e-3f32, 1.0, 1e3, 1e30] {
        let d_mixed: Vec<f32> = (0..192).map(|x| (x as f32 * 0.7).cos() * scale).collect();
        let input = MixInput {
            features: View::new(&features, [4, 1, 3]).unwrap(),
            targets: None,
            attention: Some(View::new(&attention, [4, 1]).unwrap()),
        };
        let gradients = MixedGradients { features: View::new(&d_mixed, [64, 1, 3]).unwrap(), targets: None };
        let given = cpu::mix_backward(mixing, &input, &gradients).unwrap().attention.unwrap();
        let raw = raw_weights(&sizes, &mixing, None);
        let inputs = MixInputs {
            features: &wide(&features),
            targets: reference::Targets::Labels(&[0; 4]),
            weights: &reference::normalise_weights(&sizes, &wide(&raw)).unwrap(),
            attention: Some(&wide(&attention)),
        };
        let wanted =
            reference::mix_backward(&sizes, &inputs, &wide(&d_mixed), None).unwrap().attention.unwrap();
        for (given, wanted) in given.iter().zip(&wanted) {
            let held = (wanted.abs() as f32).is_finite();
            let error = (f64::from(*given) - wanted).abs();
            let right = if held {
                error <= 1e-4 * wanted.abs() + 1e-3 * f64::from(scale)
            } else {
                given.is_infinite()
            };
            assert!(right, "at {scale}: {given} in place of {wanted}");
        }
    }
}

/// Sums whose parts pass f32 in both directions: the true sum, or infinity, but no NaN.
#[test]
fn gradients_of_the_largest_numbers_cancel() {
    let (features, weights) = ([1.0f32, 1.0], [1.0f32; 512]);
    let input =
        MixInput { features: View::new(&features, [1, 1, 2]).unwrap(), targets: None, attention: None };
    // dZ = Σ_k dZ̃_k: of the first channel zero, of the second 512 times the largest.
    let mut d_mixed = [f32::MAX; 1024];
    d_mixed[512..].iter_mut().step_by(2).for_each(|d| *d = -f32::MAX);
    let gradients = MixedGradients { features: View::new(&d_mixed, [512, 1, 2]).unwrap(), targets: None };
    let weights = View::new(&weights, [1, 1, 512]).unwrap();
    let d = cpu::mix_backward(weights, &input, &gradients).unwrap().features;
    assert_eq!(d, [0.0, f32::INFINITY]);
}

/// Two classes as likely as each other, and one that is not.
#[test]
fn logits_at_the_end_of_f32_have_a_loss_and_a_gradient() {
    let logits = [f32::MAX, f32::MIN, f32::MAX].repeat(3);
    let input = LossInput {
        logits: View::new(&logits, [3, 1, 3]).unwrap(),
        targets: Targets::labels(&[0u32, 0, 2]),
        attention: None,
    };
    let (mixing, options) = (Mixing::dirichlet(200, Alpha::PAPER), LossOptions::default());
    let loss = cpu::loss(mixing, &input, &options, Want::Loss).unwrap().value;
    assert!((loss - 2f32.ln()).abs() < 1e-5 * f32::MAX && loss.is_finite(), "{loss}");
    let gradient = cpu::loss(mixing, &input, &options, Want::Gradients(1.0)).unwrap().logits.unwrap();
    assert!(gradient.iter().all(|d| d.is_finite()) && gradient.iter().any(|&d| d != 0.0), "{gradient:?}");
    for row in gradient.chunks(3) {
        assert!(
            row.iter().sum::<f32>().abs() < 1e-6,
            "the gradients of an example sum to zero: {gradient:?}"
        );
    }
}

#[test]
fn soft_targets_without_bound_are_refused_by_name() {
    let (logits, soft) = ([0f32; 4], [0.5, 0.5, f32::MAX, 1.0]);
    let input = LossInput {
        logits: View::new(&logits, [2, 1, 2]).unwrap(),
        targets: Targets::Soft(View::new(&soft, [2, 2]).unwrap()),
        attention: None,
    };
    let mixing = Mixing::dirichlet(3, Alpha::PAPER);
    let error = cpu::loss(mixing, &input, &LossOptions::default(), Want::Loss);
    let text = error.unwrap_err().to_string();
    assert!(
        text.starts_with("loss: the sum of targets[1, :] is 340282") && text.ends_with("at most 1e6"),
        "{text}"
    );
}
