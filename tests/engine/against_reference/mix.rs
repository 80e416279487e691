//! Z̃ and Ỹ, and the gradients dZ, dY and da that flow back through them.

use multimix::{Element, cpu, reference};

use super::Case;
use crate::support::measure::{Ledger, Sample, floats, wide};
use crate::support::real::Tracked;
use crate::support::strided::Strided;

pub fn check_forward<T: Element>(Case { problem, exact, plain: inputs }: &Case<T>, ledger: &mut Ledger) {
    let (engine, name) = (problem.mix_on_cpu(), &problem.name);
    assert_eq!(cpu::mix(problem.columns(), &problem.mix_input()).unwrap(), engine, "{name}");
    let mixed = reference::mix(&problem.sizes, &exact.mix_inputs(problem.soft.is_some())).unwrap();
    let (plain, tracked) = (inputs.mix::<f32>(), inputs.mix::<Tracked>());
    let sample = Sample {
        engine: &floats(&engine.features),
        reference: &mixed.features,
        plain: &inputs.mixed_features(&plain),
        tracked: &inputs.mixed_features(&tracked),
    };
    ledger.enter_stored::<T>("mix: features", name, &sample);
    let sample = Sample {
        engine: &engine.targets.unwrap(),
        reference: &mixed.targets,
        plain: &inputs.mixed_targets(&plain),
        tracked: &inputs.mixed_targets(&tracked),
    };
    ledger.enter("mix: targets", name, &sample);
}

pub fn check_backward<T: Element>(Case { problem, exact, plain: inputs }: &Case<T>, ledger: &mut Ledger) {
    let (engine, name) = (problem.mix_backward_on_cpu(), &problem.name);
    let allocated = cpu::mix_backward(problem.columns(), &problem.mix_input(), &problem.mixed_gradients());
    assert_eq!(allocated.unwrap(), engine, "{name}");
    let d_mixed = problem.d_mixed.floats();
    let d_targets = problem.d_mixed_targets.as_ref().map(Strided::floats);
    let (given, wide_targets) = (exact.mix_inputs(problem.soft.is_some()), d_targets.as_deref().map(wide));
    let gradients =
        reference::mix_backward(&problem.sizes, &given, &wide(&d_mixed), wide_targets.as_deref()).unwrap();
    let plain = inputs.mix_backward(&inputs.mix::<f32>(), &d_mixed, d_targets.as_deref());
    let tracked = inputs.mix_backward(&inputs.mix::<Tracked>(), &d_mixed, d_targets.as_deref());
    let sample = Sample {
        engine: &floats(&engine.features),
        reference: &gradients.features,
        plain: &plain.features,
        tracked: &tracked.features,
    };
    ledger.enter_stored::<T>("mix_backward: features", name, &sample);
    if let Some(engine) = &engine.targets {
        let (reference, plain, tracked) = (&gradients.targets, &plain.targets, &tracked.targets);
        ledger.enter("mix_backward: targets", name, &Sample { engine, reference, plain, tracked });
    }
    assert_eq!(engine.attention.is_some(), gradients.attention.is_some());
    if let (Some(engine), Some(reference)) = (&engine.attention, &gradients.attention) {
        let (plain, tracked) = (&plain.attention.unwrap(), &tracked.attention.unwrap());
        ledger.enter("mix_backward: attention", name, &Sample { engine, reference, plain, tracked });
    }
}
