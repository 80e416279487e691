//! A problem: all that the ops may be given, whatever the engine. Tests draw them by [`usual`](super::usual),
//! [`tiles`](super::tiles) and [`masked`](super::masked).

use multimix::reference::{Sizes, normalise_weights};
use multimix::{
    AttentionInput, AttentionOptions, Classifier, Columns, Element, Labels, LossInput, LossOptions, MixInput,
    MixTargets, MixedGradients, Mixing, Query, Targets, WeightsInput, cpu,
};
use rand_chacha::ChaCha8Rng;

use super::exact::Exact;
use super::measure::wide;
use super::plain;
use super::raw::raw_weights;
use super::strided::Strided;

/// One problem, with arrays in any memory order.
#[derive(Debug)]
pub struct Problem<T> {
    /// Says which problem it is, for messages.
    pub name: String,
    pub sizes: Sizes,
    /// How many columns, and how they are drawn where there are no explicit weights; what empty maps count
    /// for either way.
    pub mixing: Mixing,
    pub features: Strided<T, 3>,
    pub logits: Strided<T, 3>,
    pub attention: Option<Strided<f32, 2>>,
    /// Explicit weights (r or 1, b, n), in place of drawn columns.
    pub weights: Option<Strided<f32, 3>>,
    pub labels: Vec<u32>,
    /// Rows of any sum, where targets are soft.
    pub soft: Option<Strided<f32, 2>>,
    /// Whether targets are mixed beside the features.
    pub mixes_targets: bool,
    pub classifier: Strided<T, 2>,
    pub options: LossOptions,
    pub upstream: f32,
    pub attention_options: AttentionOptions,
    pub d_mixed: Strided<T, 3>,
    pub d_mixed_targets: Option<Strided<f32, 3>>,
    pub d_attention: Strided<f32, 2>,
    /// For whatever else is to be random.
    pub rng: ChaCha8Rng,
}

impl<T: Element> Problem<T> {
    /// Zeros in row-major order, and neither attention nor weights: to be filled in.
    pub fn blank(name: String, sizes: Sizes, mixing: Mixing, rng: ChaCha8Rng) -> Self {
        let Sizes { b, r, d, c, n } = sizes;
        let zeros = |shape: [usize; 3]| Strided::contiguous(shape, |_| T::from_f32(0.0));
        Self {
            name,
            sizes,
            mixing,
            features: zeros([b, r, d]),
            logits: zeros([b, r, c]),
            attention: None,
            weights: None,
            labels: vec![0; b],
            soft: None,
            mixes_targets: true,
            classifier: Strided::contiguous([c, d], |_| T::from_f32(0.0)),
            options: LossOptions::default(),
            upstream: 1.0,
            attention_options: AttentionOptions::default(),
            d_mixed: zeros([n, r, d]),
            d_mixed_targets: None,
            d_attention: Strided::contiguous([b, r], |_| 0.0),
            rng,
        }
    }

    /// Whether the loss has a gradient of attention.
    pub fn attends(&self) -> bool {
        self.attention.is_some() && !self.options.detach_attention
    }

    pub fn is_cam(&self) -> bool {
        self.attention_options.query == Query::Cam
    }

    /// Explicit weights where there are any, else what the mixing draws.
    pub fn columns(&self) -> Columns<'_> {
        match &self.weights {
            Some(weights) => Columns::Given { weights: weights.view(), empty_maps: self.mixing.empty_maps },
            None => Columns::from(&self.mixing),
        }
    }

    pub fn targets(&self) -> Targets<'_> {
        match &self.soft {
            Some(soft) => Targets::Soft(soft.view()),
            None => Targets::labels(&self.labels),
        }
    }

    pub fn weights_input(&self) -> WeightsInput<'_> {
        WeightsInput {
            b: self.sizes.b,
            r: self.sizes.r,
            attention: self.attention.as_ref().map(Strided::view),
        }
    }

    pub fn mix_input(&self) -> MixInput<'_, T> {
        let targets = MixTargets { targets: self.targets(), classes: self.sizes.c };
        MixInput {
            features: self.features.view(),
            targets: self.mixes_targets.then_some(targets),
            attention: self.attention.as_ref().map(Strided::view),
        }
    }

    pub fn mixed_gradients(&self) -> MixedGradients<'_, T> {
        MixedGradients {
            features: self.d_mixed.view(),
            targets: self.d_mixed_targets.as_ref().map(Strided::view),
        }
    }

    pub fn loss_input(&self) -> LossInput<'_, T> {
        LossInput {
            logits: self.logits.view(),
            targets: self.targets(),
            attention: self.attention.as_ref().map(Strided::view),
        }
    }

    pub fn attention_input(&self) -> AttentionInput<'_, T> {
        let classifier = Classifier { rows: self.classifier.view(), labels: Labels::from(&self.labels) };
        AttentionInput { features: self.features.view(), classifier: self.is_cam().then_some(classifier) }
    }

    /// Y (b, c), one-hot for labels.
    pub fn rows(&self) -> Vec<f32> {
        let one_hot = |&y: &u32| (0..self.sizes.c as u32).map(move |class| f32::from(u8::from(class == y)));
        self.soft.as_ref().map_or_else(|| self.labels.iter().flat_map(one_hot).collect(), Strided::floats)
    }

    /// Λ before its columns are normalised (r, b, n).
    pub fn raw(&self) -> Vec<f32> {
        let Sizes { b, r, n, .. } = self.sizes;
        let explicit = self.weights.as_ref().map(|weights| {
            let values = weights.floats();
            (0..r * b * n).map(|at| values[at % values.len()]).collect::<Vec<f32>>()
        });
        raw_weights(&self.sizes, &self.mixing, explicit.as_deref())
    }

    /// Λ (r, b, n) in f64.
    pub fn normalised(&self) -> Vec<f64> {
        normalise_weights(&self.sizes, &wide(&self.raw())).unwrap()
    }

    /// Λ (r, b, n) as every engine rounds it.
    pub fn rounded(&self) -> Vec<f64> {
        let input = WeightsInput { attention: None, ..self.weights_input() };
        wide(&cpu::weights(self.columns(), &input).unwrap().matrix)
    }

    /// The problem as the reference takes it, with Λ of one kind or the other.
    pub fn exact(&self, weights: Vec<f64>) -> Exact {
        Exact {
            sizes: self.sizes,
            features: wide(&self.features.floats()),
            logits: wide(&self.logits.floats()),
            labels: self.labels.iter().map(|&y| y as usize).collect(),
            soft: wide(&self.rows()),
            weights,
            attention: self.attention.as_ref().map_or_else(Vec::new, |attention| wide(&attention.floats())),
            classifier: wide(&self.classifier.floats()),
            cotangent: vec![],
        }
    }

    /// The problem as the plain implementation takes it.
    pub fn plain(&self) -> plain::Inputs {
        plain::Inputs {
            sizes: self.sizes,
            raw: self.raw(),
            attention: self.attention.as_ref().map(Strided::floats),
            features: self.features.floats(),
            logits: self.logits.floats(),
            targets: self.rows(),
            labels: self.soft.is_none().then(|| self.labels.iter().map(|&y| y as usize).collect()),
        }
    }
}
