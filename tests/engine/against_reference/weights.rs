//! Λ, M̂ and s.

use multimix::{Element, cpu, reference};

use super::Case;
use crate::support::measure::{Ledger, Sample};
use crate::support::real::Tracked;

pub fn check<T: Element>(Case { problem, exact, plain }: &Case<T>, ledger: &mut Ledger) {
    let (n, name) = (problem.sizes.n, &problem.name);
    let engine = problem.weights_on_cpu();
    assert_eq!(cpu::weights(problem.columns(), &problem.weights_input()).unwrap(), engine, "{name}");
    let mix = reference::mix_matrix(&problem.sizes, &exact.weights, exact.attention()).unwrap();
    let (plain, tracked) = (plain.mix::<f32>(), plain.mix::<Tracked>());
    let sample = Sample {
        engine: &engine.matrix,
        reference: &mix.matrix,
        plain: &plain.matrix,
        tracked: &tracked.matrix,
    };
    ledger.enter("weights: matrix", name, &sample);
    // The plain implementation keeps to the position's scale, which is a power of two: nothing is rounded by
    // it.
    let scale = |at: usize| plain.scale[at / n];
    let mass: Vec<f32> = engine.mass.iter().enumerate().map(|(at, s)| s * scale(at)).collect();
    let wanted: Vec<f64> = mix.mass.iter().enumerate().map(|(at, s)| s * f64::from(scale(at))).collect();
    let sample = Sample { engine: &mass, reference: &wanted, plain: &plain.mass, tracked: &tracked.mass };
    ledger.enter("weights: mass", name, &sample);
}
