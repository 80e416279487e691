//! The CPU engine against the f64 reference on random problems: every output and every gradient, at most twice the error of a
//! plain f32 implementation. The reference gets the engine's own draws, by the sampler's scalar definition.

mod attention;
mod case;
mod loss;
mod mix;
mod weights;

use crate::support::measure::Ledger;
use crate::support::problem::{Problem, problem};
use case::Case;
use half::{bf16, f16};
use multimix::Element;

const SEED: u64 = 20_231_210;
const PROBLEMS: u64 = 300;

#[test]
fn the_engine_errs_no_more_than_twice_a_plain_implementation() {
    println!("seed {SEED}, {PROBLEMS} problems");
    let (mut ledger, mut checked) = (Ledger::default(), 0);
    for index in 0..PROBLEMS {
        match index % 4 {
            0 => check(problem::<f16>(SEED, index), &mut ledger),
            1 => check(problem::<bf16>(SEED, index), &mut ledger),
            _ => check(problem::<f32>(SEED, index), &mut ledger),
        }
        checked += 1;
    }
    assert!(checked >= 200);
    println!("{checked} problems checked");
    ledger.conclude();
}

fn check<T: Element>(problem: Problem<T>, ledger: &mut Ledger) {
    let mut case = Case::new(problem);
    weights::check(&mut case, ledger);
    mix::check_forward(&mut case, ledger);
    mix::check_backward(&mut case, ledger);
    loss::check(&mut case, ledger);
    attention::check(&mut case, ledger);
}
