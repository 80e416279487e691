//! The CPU engine as a backend of the ops.

use candle_core::{CpuStorage, Result, Storage, WithDType};

use super::backend::{Backend, Classified, Columns, Gradients, LossAndGradients, LossCall, Targets};
use super::bridge::{Float, Operand};
use crate::cpu;
use crate::problem::AttentionOptions;
use crate::view::{View, ViewMut};

/// Tensors in host memory.
pub(super) struct Cpu;

impl<'a> Operand<'a, CpuStorage> {
    /// The memory as a view, without a copy.
    fn view<T: WithDType, const N: usize>(self) -> Result<View<'a, T, N>> {
        let values = &self.storage.as_slice::<T>()?[self.layout.start_offset()..];
        let layout = self.layout::<N>()?;
        layout.reach(self.op, self.name)?;
        Ok(View::with_strides(values, layout.shape, layout.strides)?)
    }

    /// Labels, which are contiguous.
    fn labels(self) -> Result<&'a [u32]> {
        let first = self.layout.start_offset();
        Ok(&self.storage.as_slice::<u32>()?[first..first + self.layout.shape().elem_count()])
    }
}

/// Attention and explicit weights.
type ColumnViews<'a> = (Option<View<'a, f32, 2>>, Option<View<'a, f32, 3>>);

impl<'a> Columns<'a, CpuStorage> {
    fn views(&self) -> Result<ColumnViews<'a>> {
        Ok((self.attention.map(Operand::view).transpose()?, self.weights.map(Operand::view).transpose()?))
    }

    fn mix_input<T: Float>(&self, features: Operand<'a, CpuStorage>) -> Result<cpu::MixInput<'a, T>> {
        let (attention, weights) = self.views()?;
        Ok(cpu::MixInput { features: features.view()?, targets: None, attention, weights })
    }
}

impl<'a> LossCall<'a, CpuStorage> {
    fn input<T: Float>(&self) -> Result<cpu::LossInput<'a, T>> {
        let (attention, weights) = self.columns.views()?;
        let targets = match &self.targets {
            Targets::Labels(labels) => cpu::Targets::Labels(labels.labels()?),
            Targets::Soft(rows) => cpu::Targets::Soft(rows.view()?),
        };
        Ok(cpu::LossInput { logits: self.logits.view()?, targets, attention, weights })
    }
}

fn attention_input<'a, T: Float>(
    features: Operand<'a, CpuStorage>,
    classifier: Option<Classified<'a, CpuStorage>>,
) -> Result<cpu::AttentionInput<'a, T>> {
    let classifier = match classifier {
        Some(Classified { rows, labels }) => {
            Some(cpu::Classifier { rows: rows.view()?, labels: labels.labels()? })
        }
        None => None,
    };
    Ok(cpu::AttentionInput { features: features.view()?, classifier })
}

impl Backend for Cpu {
    type Storage = CpuStorage;
    const NAME: &'static str = "the CPU";

    fn storage(storage: &Storage) -> Option<&CpuStorage> {
        match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        }
    }

    fn into_candle(storage: CpuStorage) -> Storage {
        Storage::Cpu(storage)
    }

    fn attention<T: Float>(
        &self,
        features: Operand<'_, CpuStorage>,
        classifier: Option<Classified<'_, CpuStorage>>,
        options: &AttentionOptions,
    ) -> Result<CpuStorage> {
        let input = attention_input::<T>(features, classifier)?;
        Ok(CpuStorage::F32(cpu::attention_forward(&input, options)?))
    }

    fn attention_backward<T: Float>(
        &self,
        features: Operand<'_, CpuStorage>,
        classifier: Option<Classified<'_, CpuStorage>>,
        options: &AttentionOptions,
        upstream: Operand<'_, CpuStorage>,
    ) -> Result<Gradients<CpuStorage>> {
        let input = attention_input::<T>(features, classifier)?;
        let gradients = cpu::attention_backward(&input, options, &upstream.view()?)?;
        Ok((T::to_cpu_storage_owned(gradients.features), gradients.classifier.map(CpuStorage::F32)))
    }

    fn mix<T: Float>(
        &self,
        columns: &Columns<'_, CpuStorage>,
        features: Operand<'_, CpuStorage>,
    ) -> Result<CpuStorage> {
        let mixed = cpu::mix_forward(columns.mixing, &columns.mix_input::<T>(features)?)?;
        Ok(T::to_cpu_storage_owned(mixed.features))
    }

    fn mix_backward<T: Float>(
        &self,
        columns: &Columns<'_, CpuStorage>,
        features: Operand<'_, CpuStorage>,
        upstream: Operand<'_, CpuStorage>,
        wants_attention: bool,
    ) -> Result<Gradients<CpuStorage>> {
        let input = columns.mix_input::<T>(features)?;
        let [b, r, d] = input.features.shape();
        let op = features.op;
        let mut for_features = cpu::zeros::<T>(op, "the gradient of the features", &[b, r, d])?;
        let mut for_attention = match wants_attention {
            true => Some(cpu::zeros::<f32>(op, "the gradient of attention", &[b, r])?),
            false => None,
        };
        let outputs = cpu::MixBackwardOutputs {
            features: Some(ViewMut::new(&mut for_features, [b, r, d])?),
            targets: None,
            attention: for_attention.as_mut().map(|da| ViewMut::new(da, [b, r])).transpose()?,
        };
        let bytes = cpu::mix_backward_workspace_bytes(columns.mixing, &input, &outputs)?;
        let mut workspace = cpu::zeros_bytes(op, bytes)?;
        let gradients = cpu::MixedGradients { features: upstream.view()?, targets: None };
        cpu::mix_backward_into(columns.mixing, &input, &gradients, outputs, &mut workspace)?;
        Ok((T::to_cpu_storage_owned(for_features), for_attention.map(CpuStorage::F32)))
    }

    fn loss<T: Float>(&self, call: &LossCall<'_, CpuStorage>) -> Result<CpuStorage> {
        let loss = cpu::loss_forward(call.columns.mixing, &call.input::<T>()?, call.options)?;
        Ok(CpuStorage::F32(vec![loss.value]))
    }

    fn loss_with_gradients<T: Float>(
        &self,
        call: &LossCall<'_, CpuStorage>,
    ) -> Result<LossAndGradients<CpuStorage>> {
        let input = call.input::<T>()?;
        let (loss, gradients) = cpu::loss_forward_backward(call.columns.mixing, &input, call.options, 1.0)?;
        Ok(LossAndGradients {
            loss: CpuStorage::F32(vec![loss.value]),
            gradients: (T::to_cpu_storage_owned(gradients.logits), gradients.attention.map(CpuStorage::F32)),
            scale: 1.0,
        })
    }

    fn weights(
        &self,
        columns: &Columns<'_, CpuStorage>,
        b: usize,
        r: usize,
    ) -> Result<(CpuStorage, CpuStorage)> {
        let (attention, weights) = columns.views()?;
        let drawn = cpu::weights(columns.mixing, &cpu::WeightsInput { b, r, attention, weights })?;
        Ok((CpuStorage::F32(drawn.matrix), CpuStorage::F32(drawn.mass)))
    }
}
