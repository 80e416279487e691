//! Seed and step from memory: what a mixing with that seed and step draws, in every op.

use multimix::{Alpha, Columns, Error, Factor, LossOptions, Mixing, View, Want, WeightsInput, cpu};

use crate::support::problem::Problem;
use crate::support::usual::usual;

fn mixings(n: usize) -> [Mixing; 4] {
    let dirichlet = Mixing::dirichlet(n, Alpha::PAPER);
    [
        dirichlet,
        dirichlet.first_position(5).first_column(1000),
        Mixing::pair(n, Alpha::Fixed(0.4), Factor::PerBatch),
        Mixing::pair(n, Alpha::PAPER, Factor::PerColumn).first_column(3),
    ]
}

#[test]
fn seed_and_step_from_memory_are_those_of_the_mixing() {
    let mut compared = 0;
    for index in 0..12 {
        let problem = Problem { weights: None, ..usual::<f32>(41, index) };
        for (at, mixing) in mixings(problem.sizes.n).into_iter().enumerate() {
            let words = [u64::MAX - index, (at as u64) << 40 | 7];
            let [seed, step] = words;
            let drawn = Columns::from(mixing.seed(seed).step(step));
            // What the mixing itself says of them counts for nothing.
            let other = mixing.seed(1).step(2);
            let from_memory = Columns::drawn_from(&other, View::new(&words, [2]).unwrap());
            assert_eq!(from_memory.n(), mixing.n);
            let both = [drawn, from_memory];
            let input = problem.weights_input();
            let [wanted, given] = both.map(|columns| cpu::weights(columns, &input).unwrap());
            assert_eq!(given, wanted, "{}", problem.name);
            let input = problem.mix_input();
            let [wanted, given] = both.map(|columns| cpu::mix(columns, &input).unwrap());
            assert_eq!(given, wanted, "{}", problem.name);
            let gradients = problem.mixed_gradients();
            let [wanted, given] = both.map(|columns| cpu::mix_backward(columns, &input, &gradients).unwrap());
            assert_eq!(given, wanted, "{}", problem.name);
            let (input, options) = (problem.loss_input(), LossOptions { kl: true, ..problem.options });
            let [wanted, given] =
                both.map(|columns| cpu::loss(columns, &input, &options, Want::Gradients(2.0)).unwrap());
            assert_eq!(given, wanted, "{}", problem.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 48);
    // The words are read in their order, and both count.
    let input = WeightsInput { b: 5, r: 2, attention: None };
    let mixing = Mixing::dirichlet(9, Alpha::PAPER);
    let weights = |words: [u64; 2]| {
        let words = View::new(&words, [2]).unwrap();
        cpu::weights(Columns::drawn_from(&mixing, words), &input.reborrow()).unwrap().matrix
    };
    let different = [[1, 2], [2, 1], [1, 3], [0, 2], [1 << 32, 2], [1, 2 << 32]].map(weights);
    for (at, one) in different.iter().enumerate() {
        assert!(different[..at].iter().all(|other| other != one), "draw {at}");
    }
}

#[test]
fn words_that_are_not_two_side_by_side_are_refused() {
    let (words, mixing) = ([1u64, 2, 3, 4], Mixing::dirichlet(9, Alpha::PAPER));
    let input = WeightsInput { b: 5, r: 2, attention: None };
    let says = |words: View<'_, u64, 1>, message: &str| {
        let error: Error = cpu::weights(Columns::drawn_from(&mixing, words), &input.reborrow()).unwrap_err();
        assert_eq!(error.to_string(), message);
    };
    let message = "weights: seed and step has shape [3], but the other arguments ask for [2]";
    says(View::new(&words, [3]).unwrap(), message);
    let message = "weights: seed and step must lie side by side";
    says(View::with_strides(&words, [2], [2]).unwrap(), message);
    says(View::with_strides(&words, [2], [0]).unwrap(), message);
}
