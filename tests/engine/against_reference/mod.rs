//! The CPU engine against the f64 reference on random problems: every output and every gradient, at most
//! twice the error of a plain f32 implementation. The reference gets the engine's own draws, by the sampler's
//! scalar definition.

mod attention;
mod loss;
mod mix;
mod weights;

use half::{bf16, f16};
use multimix::Element;

use crate::support::exact::Exact;
use crate::support::measure::Ledger;
use crate::support::plain;
use crate::support::problem::Problem;
use crate::support::usual::usual;

const SEED: u64 = 20_231_210;
const PROBLEMS: u64 = 300;

/// A problem as the engine, the reference and the plain implementation take it.
struct Case<T> {
    problem: Problem<T>,
    exact: Exact,
    plain: plain::Inputs,
}

#[test]
fn the_engine_errs_no_more_than_twice_a_plain_implementation() {
    println!("seed {SEED}, {PROBLEMS} problems");
    let (mut ledger, mut checked) = (Ledger::default(), 0);
    for index in 0..PROBLEMS {
        match index % 4 {
            0 => check(usual::<f16>(SEED, index), &mut ledger),
            1 => check(usual::<bf16>(SEED, index), &mut ledger),
            _ => check(usual::<f32>(SEED, index), &mut ledger),
        }
        checked += 1;
    }
    assert!(checked >= 200);
    println!("{checked} problems checked");
    ledger.conclude();
}

fn check<T: Element>(problem: Problem<T>, ledger: &mut Ledger) {
    let (exact, plain) = (problem.exact(problem.normalised()), problem.plain());
    let case = Case { problem, exact, plain };
    weights::check(&case, ledger);
    mix::check_forward(&case, ledger);
    mix::check_backward(&case, ledger);
    loss::check(&case, ledger);
    attention::check(&case, ledger);
}
