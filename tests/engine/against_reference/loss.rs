//! The loss: its value, KL, what it gives per mixture, and the gradients dS and da.

use super::case::Case;
use crate::support::measure::{Ledger, Sample};
use crate::support::real::Tracked;
use crate::support::strided::Strided;
use multimix::cpu::{self, LossOutputs};
use multimix::reference::Sizes;
use multimix::{Element, LossOptions, reference};

/// What the engine gave.
struct Results<T> {
    loss: cpu::Loss,
    logits: Vec<T>,
    attention: Option<Vec<f32>>,
    per_mixture: Vec<f32>,
    log_sum_exp: Vec<f32>,
}

pub fn check<T: Element>(case: &mut Case<T>, ledger: &mut Ledger) {
    let engine = run_engine(case);
    let LossOptions { reduction, .. } = case.problem.options;
    let (sizes, given, upstream) = (case.problem.sizes, case.reference_loss(), case.problem.upstream);
    let loss = reference::loss(&sizes, &given, case.problem.options).unwrap();
    let gradient = reference::loss_backward(&sizes, &given, case.problem.options, upstream.into()).unwrap();
    let inputs = case.plain();
    let plain = inputs.loss(&inputs.mix::<f32>(), reduction, upstream);
    let tracked = inputs.loss(&inputs.mix::<Tracked>(), reduction, upstream);
    let logits: Vec<f32> = engine.logits.iter().map(|x| x.to_f32()).collect();
    let sample = Sample {
        engine: &logits,
        reference: &gradient.logits,
        plain: &plain.logits,
        tracked: &tracked.logits,
    };
    case.enter_stored(ledger, "loss: dS", sample);
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
        case.enter(ledger, op, Sample { engine, reference, plain, tracked });
    }
    assert_eq!(engine.loss.kl.is_some(), case.problem.options.kl);
    let numbers = [
        ("loss: value", Some(engine.loss.value), loss.value, plain.value, tracked.value),
        ("loss: KL", engine.loss.kl, loss.kl, plain.kl, tracked.kl),
    ];
    for (op, engine, reference, plain, tracked) in numbers {
        let Some(engine) = engine else { continue };
        let sample =
            Sample { engine: &[engine], reference: &[reference], plain: &[plain], tracked: &[tracked] };
        case.enter(ledger, op, sample);
    }
    assert_eq!(engine.attention.is_some(), gradient.attention.is_some());
    if let (Some(engine), Some(reference)) = (&engine.attention, &gradient.attention) {
        let (plain, tracked) = (plain.attention.unwrap(), tracked.attention.unwrap());
        let sample = Sample { engine, reference, plain: &plain, tracked: &tracked };
        case.enter(ledger, "loss: da", sample);
    }
}

/// Runs the engine through layouts of all kinds; its other calls must give the same bits.
fn run_engine<T: Element>(case: &mut Case<T>) -> Results<T> {
    let Sizes { b, r, c, n, .. } = case.problem.sizes;
    let mut logits = Strided::<T, 3>::empty(&mut case.problem.rng, [b, r, c], T::from_f32(-7.0));
    let mut attention = Strided::<f32, 2>::empty(&mut case.problem.rng, [b, r], -7.0);
    let mut per_mixture = Strided::<f32, 2>::empty(&mut case.problem.rng, [r, n], -7.0);
    let mut log_sum_exp = Strided::<f32, 2>::empty(&mut case.problem.rng, [r, n], -7.0);
    let (mixing, input, options) = (&case.problem.mixing, case.engine_loss(), &case.problem.options);
    let has_attention = input.attention.is_some() && !options.detach_attention;
    let outputs = LossOutputs {
        logits: Some(logits.view_mut()),
        attention: has_attention.then(|| attention.view_mut()),
        per_mixture: Some(per_mixture.view_mut()),
        log_sum_exp: Some(log_sum_exp.view_mut()),
    };
    let upstream = case.problem.upstream;
    let mut workspace = vec![0; cpu::loss_workspace_bytes(mixing, &input, options, &outputs).unwrap()];
    let loss = cpu::loss_into(mixing, &input, options, upstream, outputs, &mut workspace).unwrap();
    logits.assert_gaps_untouched("dS");
    attention.assert_gaps_untouched("da");
    per_mixture.assert_gaps_untouched("CE");
    log_sum_exp.assert_gaps_untouched("log-sum-exp");
    let results = Results {
        loss,
        logits: logits.values(),
        attention: has_attention.then(|| attention.values()),
        per_mixture: per_mixture.values(),
        log_sum_exp: log_sum_exp.values(),
    };
    let alone = cpu::loss_backward(mixing, &input, options, upstream).unwrap();
    // The forward pass alone may be cut into other tiles.
    let (both, allocated) = cpu::loss_forward_backward(mixing, &input, options, upstream).unwrap();
    assert_eq!(both, loss, "{}", case.problem.name);
    assert_eq!(allocated, alone, "{}", case.problem.name);
    assert_eq!(allocated.logits, results.logits, "{}", case.problem.name);
    assert_eq!(allocated.attention, results.attention, "{}", case.problem.name);
    results
}
