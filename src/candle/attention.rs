//! Attention maps from features.

use candle_core::{DType, Result, Shape, Tensor};

use super::backend::{Backend, Classified};
use super::bridge::{self, Argument, Borrowed, CLASSIFIER, FEATURES, Float, Operand};
use super::op::{Differentiable, Given, TensorGradients, apply};
use crate::problem::AttentionOptions;

const OP: &str = "attention";

/// The linear classifier and the labels that CAM takes its queries from.
#[derive(Clone, Copy, Debug)]
pub struct Classifier<'a> {
    /// W (c, d), one row per class; gradients flow to it. On CUDA it is read in the type of the features.
    pub rows: &'a Tensor,
    /// y (b), one class id per example: u8, u32 or i64.
    pub labels: &'a Tensor,
}

/// Attention maps a (b, r) of features Z (b, r, d), in f32: every map is a distribution over the positions.
///
/// `classifier` is for [`crate::Query::Cam`], which needs it. Gradients flow to the features and the classifier; detach the
/// features to keep attention constant.
///
/// # Errors
/// Whatever the engine refuses ([`crate::cpu::attention_forward`], and its like on CUDA), tensors on other devices, and types
/// other than f32, f16, bf16.
pub fn attention(
    features: &Tensor,
    classifier: Option<Classifier<'_>>,
    options: &AttentionOptions,
) -> Result<Tensor> {
    let Some(Classifier { rows, labels }) = classifier else {
        return apply(AttentionOp { labels: None, options: *options }, features, None);
    };
    let dtype = if features.device().is_cuda() { features.dtype() } else { DType::F32 };
    let rows = CLASSIFIER.to_float(OP, rows, dtype)?;
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

/// The classifier and its labels, where there are both.
fn classified<'a, B: Backend>(
    rows: Option<Operand<'a, B::Storage>>,
    labels: &'a Option<Borrowed<'a>>,
) -> Result<Option<Classified<'a, B::Storage>>> {
    match (rows, labels) {
        (Some(rows), Some(labels)) => Ok(Some(Classified { rows, labels: labels.operand::<B>()? })),
        _ => Ok(None),
    }
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
        let maps = backend.attention::<T>(features, classified::<B>(rows, &labels)?, &self.options)?;
        let (b, r, _) = features.layout.shape().dims3()?;
        Ok((maps, Shape::from((b, r))))
    }

    fn backward<B: Backend, T: Float>(&self, backend: &B, given: &Given<'_>) -> Result<TensorGradients> {
        let upstream = given.upstream.contiguous()?;
        let upstream = Borrowed::new(OP, "the gradient", &upstream);
        let features = Borrowed::new(OP, "features", given.first);
        let rows = given.second.map(|rows| Borrowed::new(OP, "the classifier", rows));
        let labels = self.labels();
        let classifier = classified::<B>(rows.as_ref().map(Borrowed::operand::<B>).transpose()?, &labels)?;
        let (for_features, for_rows) = backend.attention_backward::<T>(
            features.operand::<B>()?,
            classifier,
            &self.options,
            upstream.operand::<B>()?,
        )?;
        let for_rows = for_rows.zip(given.second).map(|(gradient, rows)| B::tensor(gradient, rows.shape()));
        Ok((B::tensor(for_features, given.first.shape()), for_rows))
    }
}
