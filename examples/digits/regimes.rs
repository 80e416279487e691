//! Five ways to train the same model on the same batches, and what each run leaves behind.

use std::f64::consts::PI;

use anyhow::Result;
use candle_core::Tensor;
use candle_nn::{AdamW, Optimizer, ParamsAdamW, loss::cross_entropy, ops};
use clap::ValueEnum;
use multimix::{Alpha, AttentionOptions, Factor, LossOptions, Mixing};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::{CLASSES, Images, PIXELS, Split, shuffled_batches};
use crate::metrics::{Embeddings, Geometry, alignment_uniformity, auroc, average_precision};
use crate::model::{CHANNELS, Model, pool};

/// Images per forward pass where nothing is trained.
const EVALUATION_BATCH: usize = 256;
/// How often the loss on the test images is recorded during a run.
const RECORDS: usize = 20;

/// What the loss of a mini-batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Regime {
    /// Cross-entropy on the images.
    Baseline,
    /// Pairs of images, one factor per mini-batch.
    InputMixup,
    /// Pairs of pooled embeddings (equations 1 and 2), or input mixup.
    ManifoldMixup,
    /// n combinations of all pooled embeddings (equations 3 and 4), or input mixup.
    Multimix,
    /// n combinations of all embeddings at each position, weighed by attention (equations 5 to 8), or input
    /// mixup.
    DenseMultimix,
}

impl Regime {
    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Regime::Baseline => "Baseline",
            Regime::InputMixup => "Input mixup",
            Regime::ManifoldMixup => "Manifold mixup",
            Regime::Multimix => "MultiMix",
            Regime::DenseMultimix => "Dense MultiMix",
        }
    }
}

/// What all regimes share.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images per mini-batch (b).
    pub batch: usize,
    /// Mixtures per position (MultiMix).
    pub n: usize,
    /// Concentration of every Dirichlet and Beta distribution.
    pub alpha: Alpha,
    /// Peak of AdamW's learning rate, which falls to 0 along a cosine.
    pub learning_rate: f64,
}

/// What is measured at the end of a run.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    /// Share of the test images classified rightly.
    pub accuracy: f64,
    /// Probability that a test image gets a higher score than an out-of-distribution one.
    pub auroc: f64,
    /// Average precision of finding test images by a high score.
    pub aupr_id: f64,
    /// Average precision of finding out-of-distribution images by a low score.
    pub aupr_ood: f64,
    /// Of the test images' embeddings.
    pub alignment: f64,
    /// Of the test images' embeddings.
    pub uniformity: f64,
}

/// A finished run.
pub struct Run {
    /// How it was trained.
    pub regime: Regime,
    /// Which repetition.
    pub seed: u64,
    /// The mean of what was minimised, for each epoch.
    pub objective: Vec<f64>,
    /// Epoch and mean cross-entropy on the test images, some twenty times.
    pub test_loss: Vec<(usize, f64)>,
    /// The final model's.
    pub metrics: Metrics,
    /// Pooled embeddings of the test images.
    pub test: Embeddings,
    /// Pooled embeddings of the out-of-distribution images.
    pub ood: Embeddings,
}

/// Trains one model and measures it; `on_epoch` is called after every epoch.
///
/// The seed decides initial weights, batches, coins and draws: runs of one seed differ in their regime alone.
pub fn train(regime: Regime, seed: u64, split: &Split, plan: &Plan, on_epoch: impl Fn()) -> Result<Run> {
    let model = Model::new(CLASSES, seed)?;
    let mut optimizer = AdamW::new(model.variables(), ParamsAdamW::default())?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut trainer = Objective { regime, model: &model, plan, seed, step: 0 };
    let steps = plan.epochs * split.train.len().div_ceil(plan.batch);
    let (mut objective, mut test_loss) = (Vec::new(), Vec::new());
    for epoch in 1..=plan.epochs {
        let batches = shuffled_batches(split.train.len(), plan.batch, &mut rng);
        let mut sum = 0.0;
        for chosen in &batches {
            let (images, labels) = split.train.batch(chosen)?;
            let loss = trainer.loss(&images, &labels, rng.random())?;
            let progress = trainer.step as f64 / steps as f64;
            optimizer.set_learning_rate(plan.learning_rate * 0.5 * (1.0 + (PI * progress).cos()));
            optimizer.backward_step(&loss)?;
            trainer.step += 1;
            sum += f64::from(loss.to_scalar::<f32>()?);
        }
        objective.push(sum / batches.len() as f64);
        if epoch % plan.epochs.div_ceil(RECORDS) == 0 || epoch == plan.epochs {
            test_loss.push((epoch, Outputs::of(&model, &split.test)?.cross_entropy(&split.test)));
        }
        on_epoch();
    }
    let (test, ood) = (Outputs::of(&model, &split.test)?, Outputs::of(&model, &split.ood)?);
    let metrics = measure(&test, &ood, &split.test)?;
    Ok(Run { regime, seed, objective, test_loss, metrics, test: test.embeddings, ood: ood.embeddings })
}

/// The loss of a mini-batch under a regime.
struct Objective<'a> {
    regime: Regime,
    model: &'a Model,
    plan: &'a Plan,
    seed: u64,
    step: u64,
}

impl Objective<'_> {
    /// `coin` chooses input mixup in place of mixing embeddings, in the regimes that do the latter.
    fn loss(&self, images: &Tensor, labels: &Tensor, coin: bool) -> candle_core::Result<Tensor> {
        let pairs = Mixing::pair(images.dim(0)?, self.plan.alpha, Factor::PerBatch);
        let many = Mixing::dirichlet(self.plan.n, self.plan.alpha);
        match self.regime {
            Regime::Baseline => cross_entropy(&self.pooled_logits(images)?, labels),
            Regime::InputMixup => self.input_mixup(images, labels),
            _ if coin => self.input_mixup(images, labels),
            Regime::ManifoldMixup => self.mixed(&self.pooled_logits(images)?, labels, None, &pairs),
            Regime::Multimix => self.mixed(&self.pooled_logits(images)?, labels, None, &many),
            Regime::DenseMultimix => {
                let features = self.model.features(images)?;
                let attention =
                    multimix::candle::attention(&features.detach(), None, &AttentionOptions::default())?;
                self.mixed(&self.model.classify(&features)?, labels, Some(&attention), &many)
            }
        }
    }

    /// The loss on mixed embeddings from the logits of unmixed ones: a linear classifier commutes with
    /// mixing.
    fn mixed(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        attention: Option<&Tensor>,
        mixing: &Mixing,
    ) -> candle_core::Result<Tensor> {
        let mixing = mixing.seed(self.seed).step(self.step);
        multimix::candle::loss(logits, labels, attention, &mixing, &LossOptions::default())
    }

    fn pooled_logits(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        self.model.classify(&pool(&self.model.features(images)?)?)
    }

    fn input_mixup(&self, images: &Tensor, labels: &Tensor) -> candle_core::Result<Tensor> {
        let b = images.dim(0)?;
        let pairs = Mixing::pair(b, self.plan.alpha, Factor::PerBatch).seed(self.seed).step(self.step);
        let images = multimix::candle::mix(&images.reshape((b, 1, PIXELS))?, None, &pairs)?;
        let targets = multimix::candle::mix_targets(labels, CLASSES, 1, None, &pairs)?.squeeze(1)?;
        let logits = self.pooled_logits(&images.reshape((b, PIXELS, 1))?)?;
        (targets * ops::log_softmax(&logits, 1)?)?.sum(1)?.mean_all()?.neg()
    }
}

/// What a model says of some images.
struct Outputs {
    embeddings: Embeddings,
    /// (count, CLASSES), row by row.
    log_probabilities: Vec<f32>,
}

impl Outputs {
    fn of(model: &Model, images: &Images) -> Result<Self> {
        let mut embeddings = Embeddings { values: Vec::new(), width: CHANNELS };
        let mut log_probabilities = Vec::new();
        let all: Vec<usize> = (0..images.len()).collect();
        for chosen in all.chunks(EVALUATION_BATCH) {
            let pooled = pool(&model.features(&images.batch(chosen)?.0)?)?.detach();
            let log_probability = ops::log_softmax(&model.classify(&pooled)?, 1)?;
            embeddings.values.extend(pooled.flatten_all()?.to_vec1::<f32>()?);
            log_probabilities.extend(log_probability.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(Self { embeddings, log_probabilities })
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.log_probabilities.chunks_exact(CLASSES)
    }

    fn cross_entropy(&self, images: &Images) -> f64 {
        let sum: f64 = self.rows().zip(&images.labels).map(|(row, &y)| -f64::from(row[y as usize])).sum();
        sum / images.len() as f64
    }

    fn accuracy(&self, images: &Images) -> f64 {
        let right = |row: &[f32], label: u32| row.iter().all(|&p| p <= row[label as usize]);
        let hits = self.rows().zip(&images.labels).filter(|&(row, &label)| right(row, label)).count();
        hits as f64 / images.len() as f64
    }

    /// The largest probability of each image, as its logarithm: the order is the same, and no two large ones
    /// round to 1.
    fn scores(&self) -> Vec<f32> {
        self.rows().map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect()
    }
}

fn measure(test: &Outputs, ood: &Outputs, images: &Images) -> Result<Metrics> {
    let (known, unknown) = (test.scores(), ood.scores());
    let negated = |scores: &[f32]| scores.iter().map(|score| -score).collect::<Vec<_>>();
    let (alignment, uniformity) =
        alignment_uniformity(&test.embeddings, &images.labels, Geometry::default())?;
    Ok(Metrics {
        accuracy: test.accuracy(images),
        auroc: auroc(&known, &unknown)?,
        aupr_id: average_precision(&known, &unknown)?,
        aupr_ood: average_precision(&negated(&unknown), &negated(&known))?,
        alignment,
        uniformity,
    })
}
