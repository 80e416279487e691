//! Attention maps by GAP and CAM, ReLU + l1 and softmax, and their gradients.

use super::case::{Case, wide};
use crate::support::measure::{Ledger, Sample};
use crate::support::plain_attention::Inputs;
use crate::support::real::Tracked;
use crate::support::strided::Strided;
use multimix::cpu::{self, AttentionGradients, AttentionInput, Classifier};
use multimix::reference::Sizes;
use multimix::{Element, Query, reference};

pub fn check<T: Element>(case: &mut Case<T>, ledger: &mut Ledger) {
    let (maps, gradients) = run_engine(case);
    let options = case.problem.attention_options;
    let (features, d_maps) = (case.problem.features.floats(), case.problem.d_attention.floats());
    let rows = case.problem.classifier.floats();
    let sizes = case.problem.sizes;
    let (wide_features, wide_rows) = (wide(&features), wide(&rows));
    let classifier = (options.query == Query::Cam)
        .then_some(reference::Classifier { rows: &wide_rows, labels: &case.labels });
    let expected = reference::attention(&sizes, &wide_features, options, classifier).unwrap();
    let expected_gradients =
        reference::attention_backward(&sizes, &wide_features, options, classifier, &wide(&d_maps)).unwrap();
    let inputs = Inputs { sizes, options, features: &features, classifier: &rows, labels: &case.labels };
    let (plain, tracked) = (inputs.run::<f32>(&d_maps), inputs.run::<Tracked>(&d_maps));
    let name = |what: &str| format!("attention {:?} {:?}: {what}", options.query, options.normalise);
    let sample =
        Sample { engine: &maps, reference: &expected.maps, plain: &plain.maps, tracked: &tracked.maps };
    case.enter(ledger, &name("maps"), sample);
    let d_features: Vec<f32> = gradients.features.iter().map(|x| x.to_f32()).collect();
    let sample = Sample {
        engine: &d_features,
        reference: &expected_gradients.features,
        plain: &plain.features,
        tracked: &tracked.features,
    };
    case.enter_stored(ledger, &name("dZ"), sample);
    assert_eq!(gradients.classifier.is_some(), options.query == Query::Cam);
    if let (Some(engine), Some(reference)) = (&gradients.classifier, &expected_gradients.classifier) {
        let sample = Sample { engine, reference, plain: &plain.classifier, tracked: &tracked.classifier };
        case.enter(ledger, &name("dW"), sample);
    }
}

/// Runs the engine through layouts of all kinds; its allocating calls must give the same bits.
fn run_engine<T: Element>(case: &mut Case<T>) -> (Vec<f32>, AttentionGradients<T>) {
    let Sizes { b, r, d, c, .. } = case.problem.sizes;
    let mut maps = Strided::<f32, 2>::empty(&mut case.problem.rng, [b, r], -7.0);
    let mut features = Strided::<T, 3>::empty(&mut case.problem.rng, [b, r, d], T::from_f32(-7.0));
    let mut classifier = Strided::<f32, 2>::empty(&mut case.problem.rng, [c, d], -7.0);
    let problem = &case.problem;
    let options = &problem.attention_options;
    let is_cam = options.query == Query::Cam;
    let input = AttentionInput {
        features: problem.features.view(),
        classifier: is_cam.then(|| Classifier { rows: problem.classifier.view(), labels: &problem.labels }),
    };
    let d_maps = problem.d_attention.view();
    let mut workspace = vec![0; cpu::attention_workspace_bytes(&input, options).unwrap()];
    cpu::attention_forward_into(&input, options, maps.view_mut(), &mut workspace).unwrap();
    let (out, out_rows) = (features.view_mut(), is_cam.then(|| classifier.view_mut()));
    cpu::attention_backward_into(&input, options, &d_maps, out, out_rows, &mut workspace).unwrap();
    maps.assert_gaps_untouched("maps");
    features.assert_gaps_untouched("dZ");
    classifier.assert_gaps_untouched("dW");
    let gradients =
        AttentionGradients { features: features.values(), classifier: is_cam.then(|| classifier.values()) };
    assert_eq!(cpu::attention_forward(&input, options).unwrap(), maps.values());
    assert_eq!(cpu::attention_backward(&input, options, &d_maps).unwrap(), gradients);
    (maps.values(), gradients)
}
