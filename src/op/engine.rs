//! The allocating form of every op, once for all engines: outputs and workspace are made, then the `_into`
//! form runs.

use super::{
    AttentionBackwardCall, AttentionCall, AttentionGradients, AttentionInput, AttentionOutputs, Columns,
    Loss, LossCall, LossInput, LossOutputs, MixBackwardCall, MixBackwardOutputs, MixCall, MixGradients,
    MixInput, MixMatrix, MixOutputs, Mixed, MixedGradients, Reborrow, Want, WeightsCall, WeightsInput,
    WeightsOutputs,
};
use crate::element::{Dtype, Element, Scalar};
use crate::error::Result;
use crate::memory::Memory;
use crate::problem::{AttentionOptions, LossOptions};
use crate::view::{Layout, View, ViewMut};

type Owned<T, E> = <<E as Engine>::Memory as Memory>::Owned<T>;

/// What runs ops. The required methods make arrays, and run a call with a workspace of its own.
pub(crate) trait Engine {
    type Memory: Memory;

    /// A contiguous array that the op about to run fills.
    fn array<T: Scalar>(
        &self,
        op: &'static str,
        name: &'static str,
        shape: &[usize],
    ) -> Result<Owned<T, Self>>;
    fn number(&self, op: &'static str, name: &'static str) -> Result<<Self::Memory as Memory>::Number>;

    fn run_weights<T: Element>(&self, call: &mut WeightsCall<'_, T, Self::Memory>) -> Result<()>;
    fn run_attention<T: Element>(&self, call: &mut AttentionCall<'_, T, Self::Memory>) -> Result<()>;
    fn run_attention_backward<T: Element>(
        &self,
        call: &mut AttentionBackwardCall<'_, T, Self::Memory>,
    ) -> Result<()>;
    fn run_mix<T: Element>(&self, call: &mut MixCall<'_, T, Self::Memory>) -> Result<()>;
    fn run_mix_backward<T: Element>(&self, call: &mut MixBackwardCall<'_, T, Self::Memory>) -> Result<()>;
    fn run_loss<T: Element>(&self, call: &mut LossCall<'_, T, Self::Memory>) -> Result<()>;

    fn weights<T: Element>(
        &self,
        columns: &Columns<'_, Self::Memory>,
        input: &WeightsInput<'_, Self::Memory>,
    ) -> Result<MixMatrix<T, Self::Memory>> {
        let (b, r, n) = (input.b, input.r, columns.n());
        columns.check_sizes(super::WEIGHTS, [b, r])?;
        let mut matrix = self.array::<T>(super::WEIGHTS, "the mix matrix (r, b, n)", &[r, b, n])?;
        let mut mass = self.array::<f32>(super::WEIGHTS, "the mass (r, n)", &[r, n])?;
        self.run_weights(&mut WeightsCall {
            columns: columns.map(&mut Reborrow)?,
            input: input.map(&mut Reborrow)?,
            outputs: WeightsOutputs {
                matrix: Some(whole(&mut matrix, [r, b, n])),
                mass: Some(whole(&mut mass, [r, n])),
            },
        })?;
        Ok(MixMatrix { matrix, mass })
    }

    fn attention<T: Element>(
        &self,
        input: &AttentionInput<'_, T, Self::Memory>,
        options: &AttentionOptions,
    ) -> Result<Owned<f32, Self>> {
        let [b, r, _] = input.features.shape();
        let mut maps = self.array::<f32>(super::ATTENTION, "attention (b, r)", &[b, r])?;
        let input = input.map(&mut Reborrow)?;
        self.run_attention(&mut AttentionCall { input, options: *options, maps: whole(&mut maps, [b, r]) })?;
        Ok(maps)
    }

    fn attention_backward<T: Element>(
        &self,
        input: &AttentionInput<'_, T, Self::Memory>,
        options: &AttentionOptions,
        d_maps: &View<'_, f32, 2, Self::Memory>,
    ) -> Result<AttentionGradients<T, Self::Memory>> {
        let op = super::ATTENTION;
        let shape = input.features.shape();
        let rows = input.classifier.as_ref().map(|classifier| classifier.rows.shape());
        let mut features = self.array::<T>(op, "the gradient of the features", &shape)?;
        let array = |shape: [usize; 2]| self.array::<T>(op, "the gradient of the classifier", &shape);
        let mut classifier = rows.map(array).transpose()?;
        self.run_attention_backward(&mut AttentionBackwardCall {
            input: input.map(&mut Reborrow)?,
            options: *options,
            d_maps: d_maps.reborrow(),
            outputs: AttentionOutputs {
                features: whole(&mut features, shape),
                classifier: classifier.as_mut().zip(rows).map(|(array, shape)| whole(array, shape)),
            },
        })?;
        Ok(AttentionGradients { features, classifier })
    }

    fn mix<T: Element>(
        &self,
        columns: &Columns<'_, Self::Memory>,
        input: &MixInput<'_, T, Self::Memory>,
    ) -> Result<Mixed<T, Self::Memory>> {
        let ([b, r, d], n, c) = (input.features.shape(), columns.n(), input.classes());
        columns.check_sizes(super::MIX, [b, r])?;
        let mut features = self.array::<T>(super::MIX, "the mixed features (n, r, d)", &[n, r, d])?;
        let array = |_: &_| self.array::<f32>(super::MIX, "the mixed targets (n, r, c)", &[n, r, c]);
        let mut targets = input.targets.as_ref().map(array).transpose()?;
        self.run_mix(&mut MixCall {
            columns: columns.map(&mut Reborrow)?,
            input: input.map(&mut Reborrow)?,
            outputs: MixOutputs {
                features: whole(&mut features, [n, r, d]),
                targets: targets.as_mut().map(|array| whole(array, [n, r, c])),
            },
        })?;
        Ok(Mixed { features, targets })
    }

    /// All gradients that there are, but that of attention where it is not wanted.
    fn mix_backward<T: Element>(
        &self,
        columns: &Columns<'_, Self::Memory>,
        input: &MixInput<'_, T, Self::Memory>,
        gradients: &MixedGradients<'_, T, Self::Memory>,
        wants_attention: bool,
    ) -> Result<MixGradients<T, Self::Memory>> {
        let ([b, r, d], c) = (input.features.shape(), input.classes());
        let mut features = self.array::<T>(super::MIX, "the gradient of the features", &[b, r, d])?;
        let soft = input.targets.as_ref().is_some_and(|given| given.targets.are_soft());
        let array = |wanted: bool, name, shape: [usize; 2]| {
            wanted.then(|| self.array::<f32>(super::MIX, name, &shape)).transpose()
        };
        let wants_targets = soft && gradients.targets.is_some();
        let mut targets = array(wants_targets, "the gradient of the targets", [b, c])?;
        let wants_attention = wants_attention && input.attention.is_some();
        let mut attention = array(wants_attention, "the gradient of attention", [b, r])?;
        self.run_mix_backward(&mut MixBackwardCall {
            columns: columns.map(&mut Reborrow)?,
            input: input.map(&mut Reborrow)?,
            gradients: gradients.map(&mut Reborrow)?,
            outputs: MixBackwardOutputs {
                features: Some(whole(&mut features, [b, r, d])),
                targets: targets.as_mut().map(|array| whole(array, [b, c])),
                attention: attention.as_mut().map(|array| whole(array, [b, r])),
            },
        })?;
        Ok(MixGradients { features, targets, attention })
    }

    fn loss<T: Element>(
        &self,
        columns: &Columns<'_, Self::Memory>,
        input: &LossInput<'_, T, Self::Memory>,
        options: &LossOptions,
        want: Want,
    ) -> Result<Loss<T, Self::Memory>> {
        let (op, [b, r, c]) = (super::LOSS, input.logits.shape());
        let (factor, in_f32) = match want {
            Want::Loss => (None, false),
            Want::Gradients(factor) => (Some(factor), false),
            Want::GradientsInF32(factor) => (Some(factor), T::DTYPE != Dtype::F32),
        };
        let mut value = self.number(op, "the loss")?;
        let mut kl = options.kl.then(|| self.number(op, "the KL")).transpose()?;
        let array = |_| self.array::<T>(op, "the gradient of the logits", &[b, r, c]);
        let mut logits = factor.filter(|_| !in_f32).map(array).transpose()?;
        let array = |_| self.array::<f32>(op, "the gradient of the logits", &[b, r, c]);
        let mut logits_f32 = factor.filter(|_| in_f32).map(array).transpose()?;
        let array = |_| self.array::<f32>(op, "the gradient of attention", &[b, r]);
        let mut attention = factor.filter(|_| input.wants_attention(options)).map(array).transpose()?;
        self.run_loss(&mut LossCall {
            columns: columns.map(&mut Reborrow)?,
            input: input.map(&mut Reborrow)?,
            options: *options,
            upstream: factor.unwrap_or(1.0).into(),
            outputs: LossOutputs {
                loss: Some(number(&mut value)),
                kl: kl.as_mut().map(number),
                logits: logits.as_mut().map(|array| whole(array, [b, r, c])),
                logits_f32: logits_f32.as_mut().map(|array| whole(array, [b, r, c])),
                attention: attention.as_mut().map(|array| whole(array, [b, r])),
                ..LossOutputs::default()
            },
        })?;
        Ok(Loss { value, kl, logits, logits_f32, attention })
    }
}

/// All of an array that was made for this shape.
fn whole<T, const N: usize, M: Memory>(array: &mut M::Owned<T>, shape: [usize; N]) -> ViewMut<'_, T, N, M> {
    ViewMut { data: M::borrow_owned(array), layout: Layout::contiguous(shape) }
}

fn number<M: Memory>(number: &mut M::Number) -> ViewMut<'_, f32, 1, M> {
    ViewMut { data: M::borrow_number(number), layout: Layout::contiguous([1]) }
}
