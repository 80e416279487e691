//! Mixed features and targets, for classifiers that do not commute with mixing.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail};
use half::{bf16, f16};

use super::bridge::{self, Float};
use super::draw::Draw;
use crate::cpu::{self, MixBackwardOutputs, MixInput, MixedGradients, WeightsInput};
use crate::element::Element;
use crate::problem::Mixing;
use crate::view::{View, ViewMut};

const OP: &str = "mix";

/// Z̃ (n, r, d) of features Z (b, r, d), equation (7), in the features' type.
///
/// `attention` a (b, r), not negative; none for M̂ = Λ. `draw`: a [`Mixing`] or a tensor of explicit weights. Gradients
/// flow to the features and to the attention; detach it to keep it constant. Backward draws again what forward drew.
///
/// # Errors
/// Whatever [`crate::cpu::mix_forward`] refuses, tensors on another device than the CPU, and types other than f32, f16, bf16.
pub fn mix<'a>(features: &Tensor, attention: Option<&Tensor>, draw: impl Into<Draw<'a>>) -> Result<Tensor> {
    bridge::expect_cpu(OP, "features", features)?;
    let (mixing, weights) = draw.into().resolve(OP)?;
    let op = MixOp { mixing, weights };
    match attention {
        Some(attention) => features.apply_op2(&bridge::to_f32(OP, "attention", attention)?, op),
        None => features.apply_op1(op),
    }
}

/// Ỹ (n, r, c) in f32, equation (8): what [`mix`] does to features, done to targets with the same draws.
///
/// `targets`: class ids (b) below `classes` of u8, u32 or i64, or rows (b, `classes`) of floats, to which gradients flow.
/// `positions` is r of the features mixed beside them.
///
/// # Errors
/// As [`mix`], and for a label that is not below `classes`.
pub fn mix_targets<'a>(
    targets: &Tensor,
    classes: usize,
    positions: usize,
    attention: Option<&Tensor>,
    draw: impl Into<Draw<'a>>,
) -> Result<Tensor> {
    let rows = match targets.rank() {
        1 => one_hot(&bridge::labels(OP, targets)?, classes)?,
        _ => bridge::to_f32(OP, "targets", targets)?,
    };
    let (b, columns) = rows.dims2()?;
    if columns != classes {
        bail!("{OP}: targets have {columns} columns, but there are {classes} classes");
    }
    mix(&rows.unsqueeze(1)?.broadcast_as((b, positions, classes))?, attention, draw)
}

fn one_hot(labels: &[u32], classes: usize) -> Result<Tensor> {
    let mut rows = vec![0f32; labels.len() * classes];
    for (index, &label) in labels.iter().enumerate() {
        crate::problem::check_label(OP, index, label.into(), classes)?;
        rows[index * classes + label as usize] = 1.0;
    }
    Tensor::from_vec(rows, (labels.len(), classes), &Device::Cpu)
}

/// The mix matrix (r, b, n) in f32 as the ops draw it for `b` examples at `r` positions: Λ, or M̂ where attention (b, r) is given.
/// Every column at every position sums to 1. A constant: no gradient flows through it.
///
/// # Errors
/// Whatever [`crate::cpu::weights`] refuses.
pub fn weights<'a>(
    b: usize,
    r: usize,
    attention: Option<&Tensor>,
    draw: impl Into<Draw<'a>>,
) -> Result<Tensor> {
    let op = "weights";
    let (mixing, weights) = draw.into().resolve(op)?;
    let attention = attention.map(|attention| bridge::to_f32(op, "attention", attention)).transpose()?;
    let drawn = bridge::with_optional_view(op, "attention", attention.as_ref(), |attention| {
        bridge::with_optional_view(op, "weights", weights.as_ref(), |weights| {
            Ok(cpu::weights(&mixing, &WeightsInput { b, r, attention, weights })?)
        })
    })?;
    Tensor::from_vec(drawn.matrix, (r, b, mixing.n), &Device::Cpu)
}

struct MixOp {
    mixing: Mixing,
    weights: Option<Tensor>,
}

impl MixOp {
    fn forward(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        attention: Option<View<'_, f32, 2>>,
    ) -> Result<(CpuStorage, Shape)> {
        match storage.dtype() {
            DType::F32 => self.mixed::<f32>(storage, layout, attention),
            DType::F16 => self.mixed::<f16>(storage, layout, attention),
            DType::BF16 => self.mixed::<bf16>(storage, layout, attention),
            other => bail!("{OP}: features have type {other:?}, but must be f32, f16 or bf16"),
        }
    }

    fn mixed<T: Float>(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        attention: Option<View<'_, f32, 2>>,
    ) -> Result<(CpuStorage, Shape)> {
        let features: View<'_, T, 3> = bridge::view(OP, "features", storage, layout)?;
        let [_, r, d] = features.shape();
        let mixed = bridge::with_optional_view(OP, "weights", self.weights.as_ref(), |weights| {
            let input = MixInput { features, targets: None, attention, weights };
            Ok(cpu::mix_forward(&self.mixing, &input)?)
        })?;
        Ok((T::to_cpu_storage_owned(mixed.features), Shape::from((self.mixing.n, r, d))))
    }

    fn backward(
        &self,
        features: &Tensor,
        attention: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        match features.dtype() {
            DType::F32 => self.gradients::<f32>(features, attention, upstream),
            DType::F16 => self.gradients::<f16>(features, attention, upstream),
            DType::BF16 => self.gradients::<bf16>(features, attention, upstream),
            other => bail!("{OP}: features have type {other:?}, but must be f32, f16 or bf16"),
        }
    }

    fn gradients<T: Float>(
        &self,
        features: &Tensor,
        attention: Option<&Tensor>,
        upstream: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let mut for_features = vec![<T as Element>::from_f32(0.0); features.elem_count()];
        // candle wants a gradient for every tracked argument, and has no use for the others.
        let tracked = attention.filter(|attention| attention.track_op());
        let mut for_attention = tracked.map(|attention| vec![0f32; attention.elem_count()]);
        self.read::<T, ()>(features, attention, |input| {
            let [b, r, d] = input.features.shape();
            let outputs = MixBackwardOutputs {
                features: Some(ViewMut::new(&mut for_features, [b, r, d])?),
                targets: None,
                attention: for_attention.as_mut().map(|da| ViewMut::new(da, [b, r])).transpose()?,
            };
            let mut workspace = vec![0u8; cpu::mix_backward_workspace_bytes(&self.mixing, input, &outputs)?];
            bridge::with_view(OP, "the gradient", upstream, |features| {
                let gradients = MixedGradients { features, targets: None };
                Ok(cpu::mix_backward_into(&self.mixing, input, &gradients, outputs, &mut workspace)?)
            })
        })?;
        let for_features = Tensor::from_vec(for_features, features.shape(), &Device::Cpu)?;
        let for_attention = match (for_attention, attention) {
            (Some(values), Some(attention)) => {
                Some(Tensor::from_vec(values, attention.shape(), &Device::Cpu)?)
            }
            _ => None,
        };
        Ok((for_features, for_attention))
    }

    fn read<T: Float, R>(
        &self,
        features: &Tensor,
        attention: Option<&Tensor>,
        run: impl FnOnce(&MixInput<'_, T>) -> Result<R>,
    ) -> Result<R> {
        bridge::with_view(OP, "features", features, |features| {
            bridge::with_optional_view(OP, "attention", attention, |attention| {
                bridge::with_optional_view(OP, "weights", self.weights.as_ref(), |weights| {
                    run(&MixInput { features, targets: None, attention, weights })
                })
            })
        })
    }
}

impl CustomOp1 for MixOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, features: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(features, layout, None)
    }

    fn bwd(&self, features: &Tensor, _mixed: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.backward(features, None, upstream)?.0))
    }
}

impl CustomOp2 for MixOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        features: &CpuStorage,
        features_layout: &Layout,
        attention: &CpuStorage,
        attention_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let attention = bridge::view(OP, "attention", attention, attention_layout)?;
        self.forward(features, features_layout, Some(attention))
    }

    fn bwd(
        &self,
        features: &Tensor,
        attention: &Tensor,
        _mixed: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (for_features, for_attention) = self.backward(features, Some(attention), upstream)?;
        Ok((Some(for_features), for_attention))
    }
}
