//! Attention maps from features.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};
use half::{bf16, f16};

use super::bridge::{self, Float};
use crate::cpu::{self, AttentionInput};
use crate::problem::AttentionOptions;
use crate::view::View;

const OP: &str = "attention";

/// The linear classifier and the labels that CAM takes its queries from.
#[derive(Clone, Copy, Debug)]
pub struct Classifier<'a> {
    /// W (c, d), one row per class; gradients flow to it.
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
/// Whatever [`crate::cpu::attention_forward`] refuses, tensors on another device than the CPU, and types other than f32, f16, bf16.
pub fn attention(
    features: &Tensor,
    classifier: Option<Classifier<'_>>,
    options: &AttentionOptions,
) -> Result<Tensor> {
    bridge::expect_cpu(OP, "features", features)?;
    match classifier {
        None => features.apply_op1(AttentionOp { labels: Vec::new(), options: *options }),
        Some(Classifier { rows, labels }) => {
            let rows = bridge::to_f32(OP, "the classifier", rows)?;
            let labels = bridge::labels(OP, labels)?;
            features.apply_op2(&rows, AttentionOp { labels, options: *options })
        }
    }
}

struct AttentionOp {
    /// Empty without a classifier.
    labels: Vec<u32>,
    options: AttentionOptions,
}

impl AttentionOp {
    fn forward(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        rows: Option<View<'_, f32, 2>>,
    ) -> Result<(CpuStorage, Shape)> {
        match storage.dtype() {
            DType::F32 => self.maps::<f32>(storage, layout, rows),
            DType::F16 => self.maps::<f16>(storage, layout, rows),
            DType::BF16 => self.maps::<bf16>(storage, layout, rows),
            other => bail!("{OP}: features have type {other:?}, but must be f32, f16 or bf16"),
        }
    }

    fn maps<T: Float>(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        rows: Option<View<'_, f32, 2>>,
    ) -> Result<(CpuStorage, Shape)> {
        let input = self.input::<T>(bridge::view(OP, "features", storage, layout)?, rows);
        let [b, r, _] = input.features.shape();
        let maps = cpu::attention_forward(&input, &self.options)?;
        Ok((CpuStorage::F32(maps), Shape::from((b, r))))
    }

    fn backward(
        &self,
        features: &Tensor,
        rows: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        match features.dtype() {
            DType::F32 => self.gradients::<f32>(features, rows, upstream),
            DType::F16 => self.gradients::<f16>(features, rows, upstream),
            DType::BF16 => self.gradients::<bf16>(features, rows, upstream),
            other => bail!("{OP}: features have type {other:?}, but must be f32, f16 or bf16"),
        }
    }

    fn gradients<T: Float>(
        &self,
        features: &Tensor,
        rows: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let gradients = bridge::with_view(OP, "features", features, |z| {
            bridge::with_optional_view(OP, "the classifier", rows, |rows| {
                bridge::with_view(OP, "the gradient", upstream, |upstream| {
                    Ok(cpu::attention_backward(&self.input::<T>(z, rows), &self.options, &upstream)?)
                })
            })
        })?;
        let for_features = Tensor::from_vec(gradients.features, features.shape(), &Device::Cpu)?;
        let for_rows = match (gradients.classifier, rows) {
            (Some(values), Some(rows)) => Some(Tensor::from_vec(values, rows.shape(), &Device::Cpu)?),
            _ => None,
        };
        Ok((for_features, for_rows))
    }

    fn input<'a, T: Float>(
        &'a self,
        features: View<'a, T, 3>,
        rows: Option<View<'a, f32, 2>>,
    ) -> AttentionInput<'a, T> {
        let classifier = rows.map(|rows| cpu::Classifier { rows, labels: &self.labels });
        AttentionInput { features, classifier }
    }
}

impl CustomOp1 for AttentionOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, features: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(features, layout, None)
    }

    fn bwd(&self, features: &Tensor, _maps: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.backward(features, None, upstream)?.0))
    }
}

impl CustomOp2 for AttentionOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        features: &CpuStorage,
        features_layout: &Layout,
        rows: &CpuStorage,
        rows_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(features, features_layout, Some(bridge::view(OP, "the classifier", rows, rows_layout)?))
    }

    fn bwd(
        &self,
        features: &Tensor,
        rows: &Tensor,
        _maps: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (for_features, for_rows) = self.backward(features, Some(rows), upstream)?;
        Ok((Some(for_features), for_rows))
    }
}
