//! The loss: its value, KL, what it gives per mixture, and the gradients dS and da.

use multimix::{Element, Loss, Want, cpu};

use super::Case;
use crate::support::measure::{Ledger, Sample, floats};
use crate::support::real::Tracked;

pub fn check<T: Element>(Case { problem, exact, plain: inputs }: &Case<T>, ledger: &mut Ledger) {
    let (engine, name, upstream) = (problem.loss_on_cpu(), &problem.name, problem.upstream);
    let (columns, input, options) = (problem.columns(), problem.loss_input(), &problem.options);
    let allocated = cpu::loss(columns, &input, options, Want::Gradients(upstream)).unwrap();
    let (logits, attention) = (Some(engine.logits.clone()), engine.attention.clone());
    let wanted = Loss { value: engine.value, kl: engine.kl, logits, logits_f32: None, attention };
    assert_eq!(allocated, wanted, "{name}");
    let alone = cpu::loss(columns, &input, options, Want::Loss).unwrap();
    assert_eq!(alone, Loss { logits: None, attention: None, ..allocated }, "{name}");

    let (loss, gradient) = exact.loss(problem.soft.is_some(), problem.options, upstream.into());
    let plain = inputs.loss(&inputs.mix::<f32>(), options.reduction, upstream);
    let tracked = inputs.loss(&inputs.mix::<Tracked>(), options.reduction, upstream);
    let sample = Sample {
        engine: &floats(&engine.logits),
        reference: &gradient.logits,
        plain: &plain.logits,
        tracked: &tracked.logits,
    };
    ledger.enter_stored::<T>("loss: dS", name, &sample);
    let per_mixture = [
        ("loss: CE", &engine.per_mixture, &loss.cross_entropy, &plain.cross_entropy, &tracked.cross_entropy),
        (
            "loss: log-sum-exp",
            &engine.log_sum_exp,
            &loss.log_sum_exp,
            &plain.log_sum_exp,
            &tracked.log_sum_exp,
        ),
    ];
    for (op, engine, reference, plain, tracked) in per_mixture {
        ledger.enter(op, name, &Sample { engine, reference, plain, tracked });
    }
    assert_eq!(engine.kl.is_some(), options.kl);
    let numbers = [
        ("loss: value", Some(engine.value), loss.value, plain.value, tracked.value),
        ("loss: KL", engine.kl, loss.kl, plain.kl, tracked.kl),
    ];
    for (op, engine, reference, plain, tracked) in numbers {
        let Some(engine) = engine else { continue };
        let sample =
            Sample { engine: &[engine], reference: &[reference], plain: &[plain], tracked: &[tracked] };
        ledger.enter(op, name, &sample);
    }
    assert_eq!(engine.attention.is_some(), gradient.attention.is_some());
    if let (Some(engine), Some(reference)) = (&engine.attention, &gradient.attention) {
        let (plain, tracked) = (plain.attention.unwrap(), tracked.attention.unwrap());
        let sample = Sample { engine, reference, plain: &plain, tracked: &tracked };
        ledger.enter("loss: da", name, &sample);
    }
}
