//! The table, as text and as numbers for other programs.

use std::fmt::Write;

use multimix::Alpha;

use crate::data::{CLASSES, Split};
use crate::metrics::{Geometry, mean_deviation};
use crate::model::{CHANNELS, POSITIONS};
use crate::regimes::{Metrics, Plan, Regime, Run};

/// One column of the table.
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// The number, as it is printed.
    pub value: fn(&Metrics) -> f64,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Decimals printed.
    pub decimals: usize,
}

/// The columns, in order.
pub const COLUMNS: [Column; 6] = [
    Column { name: "Accuracy %", value: |m| 100.0 * m.accuracy, higher_is_better: true, decimals: 2 },
    Column { name: "AuROC %", value: |m| 100.0 * m.auroc, higher_is_better: true, decimals: 1 },
    Column { name: "AuPR(ID) %", value: |m| 100.0 * m.aupr_id, higher_is_better: true, decimals: 1 },
    Column { name: "AuPR(OOD) %", value: |m| 100.0 * m.aupr_ood, higher_is_better: true, decimals: 1 },
    Column { name: "Alignment", value: |m| m.alignment, higher_is_better: false, decimals: 3 },
    Column { name: "Uniformity", value: |m| m.uniformity, higher_is_better: false, decimals: 3 },
];

impl Column {
    /// The column's values for a regime, by seed.
    pub fn values(&self, regime: Regime, runs: &[Run]) -> Vec<f64> {
        runs.iter().filter(|run| run.regime == regime).map(|run| (self.value)(&run.metrics)).collect()
    }

    /// The regime whose mean is best.
    pub fn best(&self, regimes: &[Regime], runs: &[Run]) -> Option<Regime> {
        let sign = if self.higher_is_better { 1.0 } else { -1.0 };
        let mean = |regime: Regime| sign * mean_deviation(&self.values(regime, runs)).0;
        regimes.iter().copied().max_by(|&a, &b| mean(a).total_cmp(&mean(b)))
    }

    /// An arrow to the better side.
    pub fn arrow(&self) -> &'static str {
        if self.higher_is_better { "↑" } else { "↓" }
    }
}

/// The table of the run with what its columns mean.
pub fn table(regimes: &[Regime], runs: &[Run], split: &Split, plan: &Plan) -> String {
    let mut text = format!("\n{:15}", "");
    for column in &COLUMNS {
        write!(text, "{:>17}", format!("{} {}", column.name, column.arrow())).expect("strings grow");
    }
    text.push('\n');
    for &regime in regimes {
        write!(text, "{:15}", regime.name()).expect("strings grow");
        for column in &COLUMNS {
            let (mean, deviation) = mean_deviation(&column.values(regime, runs));
            let star = if column.best(regimes, runs) == Some(regime) { "*" } else { " " };
            let digits = column.decimals;
            write!(text, "{:>17}", format!("{mean:.digits$} ± {deviation:.digits$}{star}"))
                .expect("strings grow");
        }
        text.push('\n');
    }
    text + &footer(runs, split, plan)
}

fn footer(runs: &[Run], split: &Split, plan: &Plan) -> String {
    let Geometry { normalize, alpha, t } = Geometry::default();
    let seeds = runs.iter().map(|run| run.seed + 1).max().unwrap_or(0);
    let concentration = match plan.alpha {
        Alpha::Fixed(alpha) => format!("{alpha}"),
        Alpha::Uniform { lo, hi } => format!("drawn from U[{lo}, {hi}]"),
    };
    let unknown = 100.0 * split.ood.len() as f64 / (split.ood.len() + split.test.len()) as f64;
    format!(
        "
Mean ± standard deviation over the seeds ({seeds}); * marks the best mean. No regime was tuned; with larger networks and data the
paper reports Dense MultiMix best in most columns and MultiMix next. Here the order is what the stars say.
Training    {} epochs, b = {}, AdamW from {} along a cosine, the last epoch's model; for one seed all regimes start from
            the same weights and see the same batches. n = {}, r = {POSITIONS}, d = {CHANNELS}; α of Dirichlet and Beta {concentration}.
            Manifold mixup, MultiMix and Dense MultiMix toss a fair coin for each batch: heads, input mixup instead.
            Dense MultiMix: attention by GAP, ReLU and l1, detached; attention-weighted loss.
Data        digits 0 to {}: {} training and {} test images (ID); all {} images of the other digits are out of
            distribution (OOD).
Detection   The score is the largest softmax probability. AuROC: ties count one half. AuPR: average precision, of ID
            images by high scores and OOD images by low ones. Without information: AuROC 50, AuPR {:.1} and {unknown:.1}.
Alignment   Mean of ‖x − y‖^alpha over pairs of one class; uniformity: log mean of exp(−t ‖x − y‖²) over all pairs of
            test images; x, y pooled embeddings. normalize = {normalize}, alpha = {alpha}, t = {t}.\n",
        plan.epochs,
        plan.batch,
        plan.learning_rate,
        plan.n,
        CLASSES - 1,
        split.train.len(),
        split.test.len(),
        split.ood.len(),
        100.0 - unknown,
    )
}

/// The metrics of every run, comma-separated, with a heading.
pub fn csv(runs: &[Run]) -> String {
    let mut text = String::from("regime,seed,accuracy,auroc,aupr_id,aupr_ood,alignment,uniformity\n");
    for Run { regime, seed, metrics: m, .. } in runs {
        let name = regime.name();
        writeln!(
            text,
            "{name},{seed},{},{},{},{},{},{}",
            m.accuracy, m.auroc, m.aupr_id, m.aupr_ood, m.alignment, m.uniformity
        )
        .expect("strings grow");
    }
    text
}
