//! Λ, M̂ and s.

use super::case::Case;
use crate::support::measure::{Ledger, Sample};
use crate::support::real::Tracked;
use crate::support::strided::Strided;
use multimix::reference::Sizes;
use multimix::{Element, cpu, reference};

pub fn check<T: Element>(case: &mut Case<T>, ledger: &mut Ledger) {
    let Sizes { b, r, n, .. } = case.problem.sizes;
    let mut matrix = Strided::<f32, 3>::empty(&mut case.problem.rng, [r, b, n], -7.0);
    let mut mass = Strided::<f32, 2>::empty(&mut case.problem.rng, [r, n], -7.0);
    let (mixing, input) = (&case.problem.mixing, case.engine_weights());
    let mut workspace = vec![0; cpu::weights_workspace_bytes(mixing, &input).unwrap()];
    let (out, out_mass) = (matrix.view_mut(), mass.view_mut());
    cpu::weights_into(mixing, &input, out, Some(out_mass), &mut workspace).unwrap();
    matrix.assert_gaps_untouched("the mix matrix");
    mass.assert_gaps_untouched("the mass");
    let (matrix, mass) = (matrix.values(), mass.values());
    let allocated = cpu::weights(mixing, &input).unwrap();
    assert_eq!((&allocated.matrix, &allocated.mass), (&matrix, &mass), "{}", case.problem.name);
    let given = case.reference_mix();
    let mix = reference::mix_matrix(&case.problem.sizes, given.weights, given.attention).unwrap();
    let (plain, tracked) = (case.plain().mix::<f32>(), case.plain().mix::<Tracked>());
    let sample =
        Sample { engine: &matrix, reference: &mix.matrix, plain: &plain.matrix, tracked: &tracked.matrix };
    case.enter(ledger, "weights: matrix", sample);
    // The plain implementation keeps to the position's scale, which is a power of two: nothing is rounded by it.
    let scale = |at: usize| plain.scale[at / n];
    let mass: Vec<f32> = mass.iter().enumerate().map(|(at, s)| s * scale(at)).collect();
    let wanted: Vec<f64> = mix.mass.iter().enumerate().map(|(at, s)| s * f64::from(scale(at))).collect();
    let sample = Sample { engine: &mass, reference: &wanted, plain: &plain.mass, tracked: &tracked.mass };
    case.enter(ledger, "weights: mass", sample);
}
