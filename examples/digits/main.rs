//! Trains a small encoder on handwritten digits under five regimes, from no mixing to Dense MultiMix, and
//! compares them: test accuracy, detection of classes never seen in training, and the shape of the embedding
//! space.
//!
//! ```text
//! cargo run --release --example digits
//! cargo run --release --example digits -- --help
//! ```

mod data;
mod metrics;
mod model;
mod pca;
mod plots;
mod regimes;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use multimix::Alpha;

use data::Split;
use regimes::{Plan, Regime, Run};

/// Trains a small encoder on 8x8 handwritten digits under five regimes with several seeds each, prints one
/// table and writes plots. The digits 7, 8 and 9 are kept out of training: the out-of-distribution set.
#[derive(Parser)]
#[command(name = "digits")]
struct Options {
    /// Regimes to train, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [
        Regime::Baseline, Regime::InputMixup, Regime::ManifoldMixup, Regime::Multimix, Regime::DenseMultimix,
    ])]
    regimes: Vec<Regime>,
    /// Repetitions of each regime
    #[arg(long, default_value_t = 5, value_parser = count)]
    seeds: usize,
    /// Passes over the training images
    #[arg(long, default_value_t = 100, value_parser = count)]
    epochs: usize,
    /// Images per mini-batch (b)
    #[arg(long, default_value_t = 64, value_parser = count)]
    batch: usize,
    /// Mixtures per mini-batch and position in MultiMix and Dense MultiMix
    #[arg(long, default_value_t = 1000, value_parser = count)]
    n: usize,
    /// Concentration of the Dirichlet and Beta distributions: one value, or LO:HI to draw it from
    #[arg(long, default_value = "0.5:2")]
    alpha: Concentration,
    /// Models trained at a time [default: the number of processors]
    #[arg(long, value_parser = count)]
    threads: Option<usize>,
    /// Folder for the plots and the numbers of every run
    #[arg(long, default_value = "out")]
    out: PathBuf,
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(value @ 1..=1_000_000) => Ok(value),
        _ => Err("must be a whole number from 1 to 1,000,000".into()),
    }
}

#[derive(Clone, Copy)]
struct Concentration(Alpha);

impl FromStr for Concentration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse::<f32>() {
            Ok(value) if (1e-3..=1e3).contains(&value) => Ok(value),
            _ => Err(format!("{text} is not a number from 0.001 to 1000")),
        };
        Ok(Self(match text.split_once(':') {
            None => Alpha::Fixed(number(text)?),
            Some((lo, hi)) => match (number(lo)?, number(hi)?) {
                (lo, hi) if lo > hi => return Err(format!("{lo} is more than {hi}")),
                (lo, hi) => Alpha::Uniform { lo, hi },
            },
        }))
    }
}

fn main() -> Result<()> {
    // Each model is trained on one thread, several at a time. candle takes its number of threads from this
    // variable alone; two of its spinning pools on few cores made such small models five times slower.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    let options = Options::parse();
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("the folder {} cannot be made", options.out.display()))?;
    let split = Split::load()?;
    let plan = Plan {
        epochs: options.epochs,
        batch: options.batch,
        n: options.n,
        alpha: options.alpha.0,
        learning_rate: 2e-3,
    };
    let mut regimes = options.regimes.clone();
    regimes.sort_unstable();
    regimes.dedup();
    let runs = train_all(&regimes, options.seeds as u64, options.threads, &split, &plan)?;

    std::fs::write(options.out.join("runs.csv"), report::csv(&runs))?;
    plots::embeddings(&options.out.join("embeddings.png"), &regimes, &runs, &split)?;
    plots::losses(&options.out.join("losses.png"), &regimes, &runs)?;
    plots::bars(&options.out.join("table.png"), &regimes, &runs)?;
    let table = report::table(&regimes, &runs, &split, &plan);
    let files = "embeddings.png, losses.png, table.png and runs.csv are in";
    writeln!(std::io::stdout(), "{table}\n{files} {}", options.out.display())?;
    Ok(())
}

/// Trains every regime with every seed, one model per thread at a time; the slowest regimes first.
fn train_all(
    regimes: &[Regime],
    seeds: u64,
    threads: Option<usize>,
    split: &Split,
    plan: &Plan,
) -> Result<Vec<Run>> {
    let jobs: Vec<(Regime, u64)> =
        regimes.iter().flat_map(|&regime| (0..seeds).map(move |seed| (regime, seed))).collect();
    let bar = progress_bar(jobs.len() * plan.epochs)?;
    let queue = Mutex::new(jobs);
    let runs = Mutex::new(Vec::new());
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    thread::scope(|scope| {
        let worker = || -> Result<()> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
            while let Some((regime, seed)) = next(&queue) {
                let run = pool.install(|| train(regime, seed, split, plan, &bar))?;
                runs.lock().expect("no worker panics").push(run);
            }
            Ok(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    bar.finish_and_clear();
    let mut runs = runs.into_inner().expect("no worker panics");
    runs.sort_by_key(|run| (run.regime, run.seed));
    Ok(runs)
}

fn next(queue: &Mutex<Vec<(Regime, u64)>>) -> Option<(Regime, u64)> {
    queue.lock().expect("no worker panics").pop()
}

fn train(regime: Regime, seed: u64, split: &Split, plan: &Plan, bar: &ProgressBar) -> Result<Run> {
    let run = regimes::train(regime, seed, split, plan, || {
        bar.set_message(format!("{}, seed {seed}", regime.name()));
        bar.inc(1);
    });
    run.with_context(|| format!("{}, seed {seed}", regime.name()))
}

fn progress_bar(epochs: usize) -> Result<ProgressBar> {
    let style = "{elapsed:>4} [{bar:40}] {pos}/{len} epochs, {eta} left: {msg}";
    Ok(ProgressBar::new(epochs as u64).with_style(ProgressStyle::with_template(style)?))
}
