//! Attention maps from features.

use candle_core::{Result, Shape, Tensor};

use super::backend::Backend;
use super::bridge::{self, Argument, Borrowed, CLASSIFIER, FEATURES, Float, Operand};
use super::op::{Differentiable, Given, TensorGradients, apply};
use crate::op::{self, AttentionInput, Engine};
use crate::problem::AttentionOptions;

const OP: &str = "attention";

/// The linear classifier and the labels that CAM takes its queries from.
#[derive(Clone, Copy, Debug)]
pub struct Classifier<'a> {
    /// W (c, d), one row per class; gradients flow to it. It is read in the type of the features.
    pub rows: &'a Tensor,
    /// y (b), one class id per example: u8, i32, u32 or i64.
    pub labels: &'a Tensor,
}

/// Attention maps a (b, r) of features Z (b, r, d), in f32: every map is a distribution over the positions.
///
/// `classifier` is for [`crate::Query::Cam`], which needs it. Gradients flow to the features and the
/// classifier; detach the features to keep attention constant.
///
/// # Errors
/// Whatever the engine refuses ([`crate::cpu::attention()`], and its like on CUDA), tensors on other devices,
/// and types other than f32, f16, bf16.
pub fn attention(
    features: &Tensor,
    classifier: Option<Classifier<'_>>,
    options: &AttentionOptions,
) -> Result<Tensor> {
    let Some(Classifier { rows, labels }) = classifier else {
        return apply(AttentionOp { labels: None, options: *options }, features, None);
    };
    let rows = CLASSIFIER.to_float(OP, rows, features.dtype())?;
    let labels = Some(bridge::labels(OP, labels)?);
    apply(AttentionOp { labels, options: *options }, features, Some(&rows))
}

struct AttentionOp {
    /// With a classifier.
    labels: Option<Tensor>,
    options: AttentionOptions,
}

impl AttentionOp {
    fn labels(&self) -> Option<Borrowed<'_>> {
        self.labels.as_ref().map(|labels| Borrowed::new(OP, "labels", labels))
    }
}

fn input<'a, B: Backend, T: Float>(
    features: Operand<'a, B::Storage>,
    rows: Option<Operand<'a, B::Storage>>,
    labels: &'a Option<Borrowed<'_>>,
) -> Result<AttentionInput<'a, T, B::Memory>> {
    let classifier = match (rows, labels) {
        (Some(rows), Some(labels)) => {
            Some(op::Classifier { rows: B::view(rows)?, labels: labels.labels::<B>()? })
        }
        _ => None,
    };
    Ok(AttentionInput { features: B::view(features)?, classifier })
}

impl Differentiable for AttentionOp {
    const OP: &'static str = OP;
    const ARGUMENTS: [Argument; 2] = [FEATURES, CLASSIFIER];

    fn forward<B: Backend, T: Float>(
        &self,
        backend: &B,
        features: Operand<'_, B::Storage>,
        rows: Option<Operand<'_, B::Storage>>,
    ) -> Result<(B::Storage, Shape)> {
        let labels = self.labels();
        let input = input::<B, T>(features, rows, &labels)?;
        let [b, r, _] = input.features.shape();
        let maps = backend.engine()?.attention(&input, &self.options)?;
        Ok((backend.keep(maps), Shape::from((b, r))))
    }

    fn backward<B: Backend, T: Float>(&self, backend: &B, given: &Given<'_>) -> Result<TensorGradients> {
        let upstream = given.upstream.contiguous()?;
        let upstream = Borrowed::new(OP, "the gradient", &upstream);
        let features = Borrowed::new(OP, FEATURES.name, given.first);
        let rows = given.second.map(|rows| Borrowed::new(OP, CLASSIFIER.name, rows));
        let rows = rows.as_ref().map(Borrowed::operand::<B>).transpose()?;
        let labels = self.labels();
        let input = input::<B, T>(features.operand::<B>()?, rows, &labels)?;
        let gradients =
            backend.engine()?.attention_backward(&input, &self.options, &upstream.view::<B, f32, 2>()?)?;
        let for_rows = gradients.classifier.zip(given.second);
        Ok((
            backend.tensor(gradients.features, given.first.shape()),
            for_rows.map(|(gradient, rows)| backend.tensor(gradient, rows.shape())),
        ))
    }
}
