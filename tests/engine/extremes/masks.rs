//! Masked classes, logits of −∞: every result is the reference's.

use multimix::reference::{self, LossInputs, Sizes};
use multimix::{
    Alpha, EmptyMaps, Factor, LossCall, LossInput, LossOptions, LossOutputs, Mixing, Targets, View, ViewMut,
    Want, cpu,
};

use crate::support::masked::{MASKED, masked};
use crate::support::measure::{assert_close, wide};
use crate::support::on_cpu::run_loss;
use crate::support::raw::raw_weights;

/// Two examples by themselves, and half of each; class 2 is masked in the first, class 0 in the second.
#[test]
fn an_example_without_weight_masks_nothing() {
    let logits = [1.0f32, 0.0, MASKED, /* second */ MASKED, 2.0, 1.0];
    let weights = [1.0f32, 0.0, 0.5, /* second */ 0.0, 1.0, 0.5]; // (b = 2, n = 3)
    let input = LossInput {
        logits: View::new(&logits, [2, 1, 3]).unwrap(),
        targets: Targets::labels(&[1u32, 1]),
        attention: None,
    };
    let (mut ce, mut lse, mut d_logits) = ([0f32; 3], [0f32; 3], [0f32; 6]);
    let outputs = LossOutputs {
        logits: Some(ViewMut::new(&mut d_logits, [2, 1, 3]).unwrap()),
        per_mixture: Some(ViewMut::new(&mut ce, [1, 3]).unwrap()),
        log_sum_exp: Some(ViewMut::new(&mut lse, [1, 3]).unwrap()),
        ..LossOutputs::default()
    };
    let columns = View::new(&weights, [1, 2, 3]).unwrap().into();
    let options = LossOptions::default();
    run_loss(LossCall { columns, input, options, upstream: 1.0.into(), outputs }).unwrap();
    // By hand: only class 1 is left to the mixture of both, at logit 1.
    let first = (1f64.exp() + 1.0).ln();
    let second = (2f64.exp() + 1f64.exp()).ln();
    assert_close("log-sum-exp", &lse, &[first, second, 1.0], 2e-5);
    assert_close("CE", &ce, &[first, second - 2.0, 0.0], 2e-5);
    let (p, q) = ((1.0 - first).exp() / 3.0, (1.0 - second).exp() / 3.0);
    assert_close("dS", &d_logits, &[p, -p, 0.0, 0.0, -q, q], 2e-5);
}

#[test]
fn a_target_on_a_masked_class_makes_the_loss_infinite_and_no_gradient_a_nan() {
    let logits = [MASKED, 1.0, /* second */ 0.0, 1.0, /* third, all masked */ MASKED, MASKED];
    let attention = [1.0f32, 1.0, 1.0];
    let input = LossInput {
        logits: View::new(&logits, [3, 1, 2]).unwrap(),
        targets: Targets::labels(&[0u32, 1, 1]),
        attention: Some(View::new(&attention, [3, 1]).unwrap()),
    };
    let options = LossOptions { detach_attention: false, ..LossOptions::default() };
    for mixing in [Mixing::dirichlet(20, Alpha::PAPER), Mixing::pair(20, Alpha::PAPER, Factor::PerColumn)] {
        let mut d_attention = [f32::NAN; 3];
        let (mut d_logits, mut loss) = ([f32::NAN; 6], [f32::NAN]);
        let outputs = LossOutputs {
            loss: Some(ViewMut::new(&mut loss, [1]).unwrap()),
            logits: Some(ViewMut::new(&mut d_logits, [3, 1, 2]).unwrap()),
            attention: Some(ViewMut::new(&mut d_attention, [3, 1]).unwrap()),
            ..LossOutputs::default()
        };
        let columns = mixing.into();
        run_loss(LossCall { columns, input: input.reborrow(), options, upstream: 1.0.into(), outputs })
            .unwrap();
        assert_eq!(loss, [f32::INFINITY]);
        assert_eq!(d_attention, [0.0; 3], "an infinite loss has no slope");
        assert!(d_logits.iter().all(|d| d.is_finite()) && d_logits[0] < 0.0, "{d_logits:?}");
    }
}

/// Random masks under every generator: loss, KL, values of mixtures and both gradients.
#[test]
fn masked_problems_agree_with_the_reference() {
    let (mut finite, problems) = (0, 600);
    for index in 0..problems {
        let problem = masked::<f32>(index);
        problem.assert_close_loss(&problem.loss_on_cpu(), 2e-5);
        finite += u32::from(problem.exact_loss().0.value.is_finite());
    }
    println!("{problems} problems, the loss of {finite} finite");
    assert!(finite > 150 && u64::from(finite) < problems - 100, "{finite} of {problems}");
}

/// An example that pads the mini-batch: with an empty map and [`EmptyMaps::LeaveOut`] everything is as if it
/// were not there. The reference has no such rule; a map of 1e-300 is as good as none in f64.
#[test]
fn an_example_that_is_left_out_changes_nothing() {
    let (sizes, mixing) =
        (Sizes { b: 3, r: 2, d: 1, c: 4, n: 25 }, Mixing::dirichlet(25, Alpha::PAPER).seed(3));
    let logits: Vec<f32> =
        (0..24).map(|x| (x as f32 * 0.7).sin() * if x >= 16 { 1e3 } else { 2.0 }).collect();
    let attention = [0.5f32, 0.25, 0.75, 1.0, 0.0, 0.0];
    let input = LossInput {
        logits: View::new(&logits, [3, 2, 4]).unwrap(),
        targets: Targets::labels(&[0u32, 2, 3]),
        attention: Some(View::new(&attention, [3, 2]).unwrap()),
    };
    let options = LossOptions { detach_attention: false, ..LossOptions::default() };
    let weights = reference::normalise_weights(&sizes, &wide(&raw_weights(&sizes, &mixing, None))).unwrap();
    let inputs = LossInputs {
        logits: &wide(&logits),
        targets: reference::Targets::Labels(&[0, 2, 3]),
        weights: &weights,
        attention: Some(&[0.5, 0.25, 0.75, 1.0, 1e-300, 1e-300]),
    };
    let wanted = reference::loss(&sizes, &inputs, options).unwrap();
    let wanted_gradient = reference::loss_backward(&sizes, &inputs, options, 1.0).unwrap();

    let left_out = mixing.empty_maps(EmptyMaps::LeaveOut);
    let mut loss = [f32::NAN];
    let outputs = LossOutputs { loss: Some(ViewMut::new(&mut loss, [1]).unwrap()), ..LossOutputs::default() };
    let columns = left_out.into();
    run_loss(LossCall { columns, input: input.reborrow(), options, upstream: 1.0.into(), outputs }).unwrap();
    assert_close("loss", &loss, &[wanted.value], 2e-5);
    let gradients = cpu::loss(left_out, &input, &options, Want::Gradients(1.0)).unwrap();
    let d_logits = gradients.logits.unwrap();
    assert_close("dS", &d_logits, &wanted_gradient.logits, 2e-5);
    assert_eq!(d_logits[16..], [0.0; 8]);
    let d_attention = gradients.attention.unwrap();
    assert_close("da", &d_attention[..4], &wanted_gradient.attention.unwrap()[..4], 2e-5);
    assert_eq!(d_attention[4..], [0.0; 2], "an empty map is no variable");
    // By default it takes part, at 1/r everywhere.
    let default = cpu::loss(mixing, &input, &options, Want::Loss).unwrap();
    assert!((f64::from(default.value) - wanted.value).abs() > 1.0, "{} and {}", default.value, wanted.value);
}
