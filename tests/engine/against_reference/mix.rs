//! Z̃ and Ỹ, and the gradients dZ, dY and da that flow back through them.

use super::case::{Case, wide};
use crate::support::measure::{Ledger, Sample};
use crate::support::real::Tracked;
use crate::support::strided::Strided;
use multimix::cpu::{self, MixBackwardOutputs, MixGradients, MixOutputs, MixedGradients};
use multimix::reference::Sizes;
use multimix::{Element, reference};

pub fn check_forward<T: Element>(case: &mut Case<T>, ledger: &mut Ledger) {
    let Sizes { r, d, c, n, .. } = case.problem.sizes;
    let mut features = Strided::<T, 3>::empty(&mut case.problem.rng, [n, r, d], T::from_f32(-7.0));
    let mut targets = Strided::<f32, 3>::empty(&mut case.problem.rng, [n, r, c], -7.0);
    let (mixing, input) = (&case.problem.mixing, case.engine_mix());
    let mut workspace = vec![0; cpu::mix_forward_workspace_bytes(mixing, &input).unwrap()];
    let outputs = MixOutputs { features: features.view_mut(), targets: Some(targets.view_mut()) };
    cpu::mix_forward_into(mixing, &input, outputs, &mut workspace).unwrap();
    features.assert_gaps_untouched("the mixed features");
    targets.assert_gaps_untouched("the mixed targets");
    let allocated = cpu::mix_forward(mixing, &input).unwrap();
    assert_eq!(allocated.features, features.values());
    assert_eq!(allocated.targets, Some(targets.values()));

    let mixed = reference::mix(&case.problem.sizes, &case.reference_mix()).unwrap();
    let inputs = case.plain();
    let (plain, tracked) = (inputs.mix::<f32>(), inputs.mix::<Tracked>());
    let sample = Sample {
        engine: &features.floats(),
        reference: &mixed.features,
        plain: &inputs.mixed_features(&plain),
        tracked: &inputs.mixed_features(&tracked),
    };
    case.enter_stored(ledger, "mix_forward: features", sample);
    let sample = Sample {
        engine: &targets.values(),
        reference: &mixed.targets,
        plain: &inputs.mixed_targets(&plain),
        tracked: &inputs.mixed_targets(&tracked),
    };
    case.enter(ledger, "mix_forward: targets", sample);
}

pub fn check_backward<T: Element>(case: &mut Case<T>, ledger: &mut Ledger) {
    let engine = engine_backward(case);
    let d_mixed = case.problem.d_mixed.floats();
    let d_mixed_targets = case.problem.d_mixed_targets.as_ref().map(Strided::floats);
    let wide_targets = d_mixed_targets.as_deref().map(wide);
    let given = case.reference_mix();
    let gradients =
        reference::mix_backward(&case.problem.sizes, &given, &wide(&d_mixed), wide_targets.as_deref())
            .unwrap();
    let inputs = case.plain();
    let plain = inputs.mix_backward(&inputs.mix::<f32>(), &d_mixed, d_mixed_targets.as_deref());
    let tracked = inputs.mix_backward(&inputs.mix::<Tracked>(), &d_mixed, d_mixed_targets.as_deref());
    let features: Vec<f32> = engine.features.iter().map(|x| x.to_f32()).collect();
    let sample = Sample {
        engine: &features,
        reference: &gradients.features,
        plain: &plain.features,
        tracked: &tracked.features,
    };
    case.enter_stored(ledger, "mix_backward: features", sample);
    if let Some(engine) = &engine.targets {
        let sample = Sample {
            engine,
            reference: &gradients.targets,
            plain: &plain.targets,
            tracked: &tracked.targets,
        };
        case.enter(ledger, "mix_backward: targets", sample);
    }
    assert_eq!(engine.attention.is_some(), gradients.attention.is_some());
    if let (Some(engine), Some(reference)) = (&engine.attention, &gradients.attention) {
        let (plain, tracked) = (plain.attention.unwrap(), tracked.attention.unwrap());
        let sample = Sample { engine, reference, plain: &plain, tracked: &tracked };
        case.enter(ledger, "mix_backward: attention", sample);
    }
}

/// The engine's gradients, written through layouts of all kinds; the allocating call must give the same bits.
fn engine_backward<T: Element>(case: &mut Case<T>) -> MixGradients<T> {
    let Sizes { b, r, d, c, .. } = case.problem.sizes;
    let mut features = Strided::<T, 3>::empty(&mut case.problem.rng, [b, r, d], T::from_f32(-7.0));
    let mut targets = Strided::<f32, 2>::empty(&mut case.problem.rng, [b, c], -7.0);
    let mut attention = Strided::<f32, 2>::empty(&mut case.problem.rng, [b, r], -7.0);
    let has_targets = case.problem.soft.is_some() && case.problem.d_mixed_targets.is_some();
    let has_attention = case.problem.attention.is_some();
    let (mixing, input) = (&case.problem.mixing, case.engine_mix());
    let gradients = MixedGradients {
        features: case.problem.d_mixed.view(),
        targets: case.problem.d_mixed_targets.as_ref().map(Strided::view),
    };
    let outputs = MixBackwardOutputs {
        features: Some(features.view_mut()),
        targets: has_targets.then(|| targets.view_mut()),
        attention: has_attention.then(|| attention.view_mut()),
    };
    let mut workspace = vec![0; cpu::mix_backward_workspace_bytes(mixing, &input, &outputs).unwrap()];
    cpu::mix_backward_into(mixing, &input, &gradients, outputs, &mut workspace).unwrap();
    features.assert_gaps_untouched("dZ");
    targets.assert_gaps_untouched("dY");
    attention.assert_gaps_untouched("da");
    let written = MixGradients {
        features: features.values(),
        targets: has_targets.then(|| targets.values()),
        attention: has_attention.then(|| attention.values()),
    };
    assert_eq!(cpu::mix_backward(mixing, &input, &gradients).unwrap(), written, "{}", case.problem.name);
    written
}
