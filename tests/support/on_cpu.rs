//! The CPU engine on a [`Problem`], through outputs in any memory order: NaN where nothing is written, and
//! nothing but elements is.

use multimix::reference::Sizes;
use multimix::{
    AttentionBackwardCall, AttentionCall, AttentionGradients, AttentionOutputs, Element, LossCall,
    LossOutputs, MixBackwardCall, MixBackwardOutputs, MixCall, MixGradients, MixMatrix, MixOutputs, Mixed,
    Result, WeightsCall, WeightsOutputs, cpu,
};
use rand_chacha::ChaCha8Rng;

use super::problem::Problem;
use super::strided::Strided;

/// What an engine gives for the loss, in row-major order.
pub struct Loss<T> {
    pub value: f32,
    pub kl: Option<f32>,
    pub logits: Vec<T>,
    pub attention: Option<Vec<f32>>,
    pub per_mixture: Vec<f32>,
    pub log_sum_exp: Vec<f32>,
}

fn output<T: Element, const N: usize>(rng: &mut ChaCha8Rng, shape: [usize; N]) -> Strided<T, N> {
    Strided::empty(rng, shape, T::from_f32(f32::NAN))
}

/// A workspace with something in it.
fn workspace(bytes: Result<usize>) -> Vec<u8> {
    vec![0xff; bytes.unwrap()]
}

/// A call of the loss, on a workspace of just the size it asks for.
pub fn run_loss<T: Element>(mut call: LossCall<'_, T>) -> Result<()> {
    let bytes = cpu::loss_workspace(&call)?;
    cpu::loss_into(&mut call, &mut workspace(Ok(bytes)))
}

impl<T: Element> Problem<T> {
    pub fn weights_on_cpu(&self) -> MixMatrix {
        let (Sizes { b, r, n, .. }, rng) = (self.sizes, &mut self.rng.clone());
        let (mut matrix, mut mass) = (output::<f32, 3>(rng, [r, b, n]), output::<f32, 2>(rng, [r, n]));
        let outputs = WeightsOutputs { matrix: Some(matrix.view_mut()), mass: Some(mass.view_mut()) };
        let mut call = WeightsCall { columns: self.columns(), input: self.weights_input(), outputs };
        let scratch = &mut workspace(cpu::weights_workspace(&call));
        cpu::weights_into(&mut call, scratch).unwrap();
        MixMatrix { matrix: matrix.written("M̂"), mass: mass.written("s") }
    }

    pub fn mix_on_cpu(&self) -> Mixed<T> {
        let (Sizes { r, d, c, n, .. }, rng) = (self.sizes, &mut self.rng.clone());
        let (mut features, mut targets) = (output::<T, 3>(rng, [n, r, d]), output::<f32, 3>(rng, [n, r, c]));
        let outputs = MixOutputs {
            features: features.view_mut(),
            targets: self.mixes_targets.then(|| targets.view_mut()),
        };
        let mut call = MixCall { columns: self.columns(), input: self.mix_input(), outputs };
        let scratch = &mut workspace(cpu::mix_workspace(&call));
        cpu::mix_into(&mut call, scratch).unwrap();
        Mixed {
            features: features.written("Z̃"), targets: self.mixes_targets.then(|| targets.written("Ỹ"))
        }
    }

    pub fn mix_backward_on_cpu(&self) -> MixGradients<T> {
        let (Sizes { b, r, d, c, .. }, rng) = (self.sizes, &mut self.rng.clone());
        let mut features = output::<T, 3>(rng, [b, r, d]);
        let has_targets = self.mixes_targets && self.soft.is_some() && self.d_mixed_targets.is_some();
        let mut targets = has_targets.then(|| output::<f32, 2>(rng, [b, c]));
        let mut attention = self.attention.as_ref().map(|_| output::<f32, 2>(rng, [b, r]));
        let outputs = MixBackwardOutputs {
            features: Some(features.view_mut()),
            targets: targets.as_mut().map(Strided::view_mut),
            attention: attention.as_mut().map(Strided::view_mut),
        };
        let (columns, input, gradients) = (self.columns(), self.mix_input(), self.mixed_gradients());
        let mut call = MixBackwardCall { columns, input, gradients, outputs };
        let scratch = &mut workspace(cpu::mix_backward_workspace(&call));
        cpu::mix_backward_into(&mut call, scratch).unwrap();
        MixGradients {
            features: features.written("dZ"),
            targets: targets.map(|targets| targets.written("dY")),
            attention: attention.map(|attention| attention.written("da of mixing")),
        }
    }

    pub fn loss_on_cpu(&self) -> Loss<T> {
        let (Sizes { b, r, c, n, .. }, rng) = (self.sizes, &mut self.rng.clone());
        let mut logits = output::<T, 3>(rng, [b, r, c]);
        let mut attention = self.attends().then(|| output::<f32, 2>(rng, [b, r]));
        let (mut ce, mut lse) = (output::<f32, 2>(rng, [r, n]), output::<f32, 2>(rng, [r, n]));
        let mut value = output::<f32, 1>(rng, [1]);
        let mut kl = self.options.kl.then(|| output::<f32, 1>(rng, [1]));
        let outputs = LossOutputs {
            loss: Some(value.view_mut()),
            kl: kl.as_mut().map(Strided::view_mut),
            logits: Some(logits.view_mut()),
            logits_f32: None,
            attention: attention.as_mut().map(Strided::view_mut),
            per_mixture: Some(ce.view_mut()),
            log_sum_exp: Some(lse.view_mut()),
        };
        let (columns, input, options) = (self.columns(), self.loss_input(), self.options);
        run_loss(LossCall { columns, input, options, upstream: self.upstream.into(), outputs }).unwrap();
        Loss {
            value: value.written("the loss")[0],
            kl: kl.map(|kl| kl.written("the KL")[0]),
            logits: logits.written("dS"),
            attention: attention.map(|attention| attention.written("da of the loss")),
            per_mixture: ce.written("CE"),
            log_sum_exp: lse.written("log-sum-exp"),
        }
    }

    pub fn attention_on_cpu(&self) -> Vec<f32> {
        let mut maps = output::<f32, 2>(&mut self.rng.clone(), [self.sizes.b, self.sizes.r]);
        let (input, options) = (self.attention_input(), self.attention_options);
        let mut call = AttentionCall { input, options, maps: maps.view_mut() };
        let scratch = &mut workspace(cpu::attention_workspace(&call));
        cpu::attention_into(&mut call, scratch).unwrap();
        maps.written("attention")
    }

    pub fn attention_backward_on_cpu(&self) -> AttentionGradients<T> {
        let (Sizes { b, r, d, c, .. }, rng) = (self.sizes, &mut self.rng.clone());
        let mut features = output::<T, 3>(rng, [b, r, d]);
        let mut classifier = self.is_cam().then(|| output::<T, 2>(rng, [c, d]));
        let outputs = AttentionOutputs {
            features: features.view_mut(),
            classifier: classifier.as_mut().map(Strided::view_mut),
        };
        let (input, options, d_maps) =
            (self.attention_input(), self.attention_options, self.d_attention.view());
        let mut call = AttentionBackwardCall { input, options, d_maps, outputs };
        let scratch = &mut workspace(cpu::attention_backward_workspace(&call));
        cpu::attention_backward_into(&mut call, scratch).unwrap();
        AttentionGradients {
            features: features.written("dZ of attention"),
            classifier: classifier.map(|rows| rows.written("dW")),
        }
    }
}
