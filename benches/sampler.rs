//! The sampler: nanoseconds for each draw on one thread, against the scalar definition that it repeats bit
//! for bit.

mod common;

use common::{percentile, time};
use multimix::sampler::{Domain, Gamma, Stream};
use multimix::{Alpha, Mixing, WeightsInput, cpu};

const B: usize = 128;
const N: usize = 8192;

fn main() {
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    println!(
        "draws of a mix matrix (b 128, n 8192), sums and normalisation included; the definition in plain scalar code beside them"
    );
    let alphas = [0.05, 0.5, 0.7, 1.0, 1.7, 2.0, 50.0].map(Alpha::Fixed).into_iter().chain([Alpha::PAPER]);
    for alpha in alphas {
        one_thread.install(|| compare(alpha));
    }
}

fn compare(alpha: Alpha) {
    let input = WeightsInput { b: B, r: 1, attention: None };
    let (mut engine, mut definition) = (Vec::new(), Vec::new());
    for step in 0..15 {
        let mixing = Mixing::dirichlet(N, alpha).step(step);
        engine.push(time(|| drop(cpu::weights(mixing, &input).expect("valid sizes"))));
        definition.push(time(|| scalar(alpha, step)));
    }
    let (draws, scalar_draws) = ((B * N) as f64, (B * SCALAR_COLUMNS) as f64);
    let [low, median, high] = [0.2, 0.5, 0.8].map(|p| percentile(&mut engine, p) / draws * 1e9);
    let scalar = percentile(&mut definition, 0.5) / scalar_draws * 1e9;
    println!("{alpha:?}: {median:.2} ns per draw ({low:.2}, {high:.2}); definition {scalar:.1} ns");
}

const SCALAR_COLUMNS: usize = 256;

fn scalar(alpha: Alpha, step: u64) {
    let stream = Stream::new(0, step);
    let mut sum = 0.0;
    for k in 0..SCALAR_COLUMNS as u32 {
        let gamma = Gamma::new(multimix::sampler::column_alpha(stream, alpha, 0, k), alpha);
        sum += (0..B as u32).map(|i| gamma.draw(stream, Domain::Weight, 0, i, k)).sum::<f32>();
    }
    assert!(sum > 0.0);
}
