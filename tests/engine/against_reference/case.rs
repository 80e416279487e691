//! A problem with its arrays as the reference, the plain implementation and the engine take them.

use crate::support::measure::{Ledger, Sample};
use crate::support::plain;
use crate::support::problem::Problem;
use crate::support::real::Tracked;
use crate::support::strided::Strided;
use multimix::cpu::{LossInput, MixInput, MixTargets, Targets, WeightsInput};
use multimix::reference::{self, LossInputs, MixInputs};
use multimix::{Dtype, Element};

pub struct Case<T> {
    pub problem: Problem<T>,
    pub labels: Vec<usize>,
    features: Vec<f32>,
    logits: Vec<f32>,
    attention: Option<Vec<f32>>,
    /// Y (b, c), one-hot for labels.
    targets: Vec<f32>,
    wide: Wide,
}

/// The same in f64.
struct Wide {
    features: Vec<f64>,
    logits: Vec<f64>,
    attention: Option<Vec<f64>>,
    targets: Vec<f64>,
    /// Λ (r, b, n).
    weights: Vec<f64>,
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

impl<T: Element> Case<T> {
    pub fn new(problem: Problem<T>) -> Self {
        let sizes = problem.sizes;
        let labels: Vec<usize> = problem.labels.iter().map(|&y| y as usize).collect();
        let one_hot = |at: usize| f32::from(u8::from(labels[at / sizes.c] == at % sizes.c));
        let targets = match &problem.soft {
            Some(soft) => soft.floats(),
            None => (0..sizes.b * sizes.c).map(one_hot).collect(),
        };
        let (features, logits) = (problem.features.floats(), problem.logits.floats());
        let attention = problem.attention.as_ref().map(Strided::floats);
        let wide = Wide {
            features: wide(&features),
            logits: wide(&logits),
            attention: attention.as_deref().map(wide),
            targets: wide(&targets),
            weights: reference::normalise_weights(&sizes, &wide(&problem.raw)).unwrap(),
        };
        Self { problem, labels, features, logits, attention, targets, wide }
    }

    pub fn plain(&self) -> plain::Inputs<'_> {
        plain::Inputs {
            sizes: self.problem.sizes,
            raw: &self.problem.raw,
            attention: self.attention.as_deref(),
            features: &self.features,
            logits: &self.logits,
            targets: &self.targets,
            labels: self.problem.soft.is_none().then_some(&self.labels),
        }
    }

    fn reference_targets(&self) -> reference::Targets<'_> {
        match self.problem.soft {
            Some(_) => reference::Targets::Soft(&self.wide.targets),
            None => reference::Targets::Labels(&self.labels),
        }
    }

    pub fn reference_mix(&self) -> MixInputs<'_> {
        MixInputs {
            features: &self.wide.features,
            targets: self.reference_targets(),
            weights: &self.wide.weights,
            attention: self.wide.attention.as_deref(),
        }
    }

    pub fn reference_loss(&self) -> LossInputs<'_> {
        LossInputs {
            logits: &self.wide.logits,
            targets: self.reference_targets(),
            weights: &self.wide.weights,
            attention: self.wide.attention.as_deref(),
        }
    }

    fn engine_targets(&self) -> Targets<'_> {
        match &self.problem.soft {
            Some(soft) => Targets::Soft(soft.view()),
            None => Targets::Labels(&self.problem.labels),
        }
    }

    pub fn engine_weights(&self) -> WeightsInput<'_> {
        WeightsInput {
            b: self.problem.sizes.b,
            r: self.problem.sizes.r,
            attention: self.problem.attention.as_ref().map(Strided::view),
            weights: self.problem.weights.as_ref().map(Strided::view),
        }
    }

    pub fn engine_mix(&self) -> MixInput<'_, T> {
        MixInput {
            features: self.problem.features.view(),
            targets: Some(MixTargets { targets: self.engine_targets(), classes: self.problem.sizes.c }),
            attention: self.problem.attention.as_ref().map(Strided::view),
            weights: self.problem.weights.as_ref().map(Strided::view),
        }
    }

    pub fn engine_loss(&self) -> LossInput<'_, T> {
        LossInput {
            logits: self.problem.logits.view(),
            targets: self.engine_targets(),
            attention: self.problem.attention.as_ref().map(Strided::view),
            weights: self.problem.weights.as_ref().map(Strided::view),
        }
    }

    pub fn enter(&self, ledger: &mut Ledger, op: &str, sample: Sample<'_>) {
        ledger.enter(op, &self.problem.name, &sample);
    }

    /// As [`Case::enter`], for results that engine and plain implementation round to the storage type.
    pub fn enter_stored(&self, ledger: &mut Ledger, op: &str, sample: Sample<'_>) {
        let (precision, smallest) = match T::DTYPE {
            Dtype::F16 => (11, -24),
            Dtype::Bf16 => (8, -133),
            _ => (24, -149),
        };
        let plain: Vec<f32> = sample.plain.iter().map(|&x| T::from_f32(x).to_f32()).collect();
        let tracked: Vec<Tracked> = sample.tracked.iter().map(|x| x.stored(precision, smallest)).collect();
        let op = format!("{op} {:?}", T::DTYPE);
        self.enter(ledger, &op, Sample { plain: &plain, tracked: &tracked, ..sample });
    }
}
