//! Attention maps by GAP and CAM, ReLU + l1 and softmax, and their gradients.

use multimix::{Element, cpu};

use super::Case;
use crate::support::measure::{Ledger, Sample, floats};
use crate::support::plain_attention::Inputs;
use crate::support::real::Tracked;

pub fn check<T: Element>(Case { problem, exact, .. }: &Case<T>, ledger: &mut Ledger) {
    let (sizes, options, about) = (problem.sizes, problem.attention_options, &problem.name);
    let (maps, gradients) = (problem.attention_on_cpu(), problem.attention_backward_on_cpu());
    let (input, d_maps) = (problem.attention_input(), problem.d_attention.view());
    assert_eq!(cpu::attention(&input, &options).unwrap(), maps, "{about}");
    assert_eq!(cpu::attention_backward(&input, &options, &d_maps).unwrap(), gradients, "{about}");
    let (expected, expected_gradients) = exact.attend(options, &problem.d_attention.exact());
    let (features, rows) = (problem.features.floats(), problem.classifier.floats());
    let inputs = Inputs { sizes, options, features: &features, classifier: &rows, labels: &exact.labels };
    let d_maps = problem.d_attention.floats();
    let (plain, tracked) = (inputs.run::<f32>(&d_maps), inputs.run::<Tracked>(&d_maps));
    let name = |what: &str| format!("attention {:?} {:?}: {what}", options.query, options.normalise);
    let sample =
        Sample { engine: &maps, reference: &expected.maps, plain: &plain.maps, tracked: &tracked.maps };
    ledger.enter(&name("maps"), about, &sample);
    let sample = Sample {
        engine: &floats(&gradients.features),
        reference: &expected_gradients.features,
        plain: &plain.features,
        tracked: &tracked.features,
    };
    ledger.enter_stored::<T>(&name("dZ"), about, &sample);
    assert_eq!(gradients.classifier.is_some(), problem.is_cam());
    if let (Some(engine), Some(reference)) = (&gradients.classifier, &expected_gradients.classifier) {
        let (plain, tracked) = (&plain.classifier, &tracked.classifier);
        let sample = Sample { engine: &floats(engine), reference, plain, tracked };
        ledger.enter_stored::<T>(&name("dW"), about, &sample);
    }
}
