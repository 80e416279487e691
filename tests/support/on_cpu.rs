//! The CPU engine on a [`Problem`], through outputs in any memory order: NaN where nothing is written, and nothing but elements is.

use multimix::Element;
use multimix::cpu::{
    self, AttentionGradients, LossOutputs, MixBackwardOutputs, MixGradients, MixMatrix, MixOutputs, Mixed,
};
use multimix::reference::Sizes;
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
fn workspace(bytes: multimix::Result<usize>) -> Vec<u8> {
    vec![0xff; bytes.unwrap()]
}

impl<T: Element> Problem<T> {
    pub fn weights_on_cpu(&self) -> MixMatrix {
        let (Sizes { b, r, n, .. }, rng, input) = (self.sizes, &mut self.rng.clone(), &self.weights_input());
        let (mut matrix, mut mass) = (output::<f32, 3>(rng, [r, b, n]), output::<f32, 2>(rng, [r, n]));
        let scratch = &mut workspace(cpu::weights_workspace_bytes(&self.mixing, input));
        let (out, out_mass) = (matrix.view_mut(), Some(mass.view_mut()));
        cpu::weights_into(&self.mixing, input, out, out_mass, scratch).unwrap();
        MixMatrix { matrix: matrix.written("M̂"), mass: mass.written("s") }
    }

    pub fn mix_on_cpu(&self) -> Mixed<T> {
        let (Sizes { r, d, c, n, .. }, rng, input) = (self.sizes, &mut self.rng.clone(), &self.mix_input());
        let (mut features, mut targets) = (output::<T, 3>(rng, [n, r, d]), output::<f32, 3>(rng, [n, r, c]));
        let scratch = &mut workspace(cpu::mix_forward_workspace_bytes(&self.mixing, input));
        let outputs = MixOutputs {
            features: features.view_mut(),
            targets: self.mixes_targets.then(|| targets.view_mut()),
        };
        cpu::mix_forward_into(&self.mixing, input, outputs, scratch).unwrap();
        Mixed {
            features: features.written("Z̃"), targets: self.mixes_targets.then(|| targets.written("Ỹ"))
        }
    }

    pub fn mix_backward_on_cpu(&self) -> MixGradients<T> {
        let (Sizes { b, r, d, c, .. }, rng, input) = (self.sizes, &mut self.rng.clone(), &self.mix_input());
        let mut features = output::<T, 3>(rng, [b, r, d]);
        let has_targets = self.mixes_targets && self.soft.is_some() && self.d_mixed_targets.is_some();
        let mut targets = has_targets.then(|| output::<f32, 2>(rng, [b, c]));
        let mut attention = self.attention.as_ref().map(|_| output::<f32, 2>(rng, [b, r]));
        let outputs = MixBackwardOutputs {
            features: Some(features.view_mut()),
            targets: targets.as_mut().map(Strided::view_mut),
            attention: attention.as_mut().map(Strided::view_mut),
        };
        let scratch = &mut workspace(cpu::mix_backward_workspace_bytes(&self.mixing, input, &outputs));
        cpu::mix_backward_into(&self.mixing, input, &self.mixed_gradients(), outputs, scratch).unwrap();
        MixGradients {
            features: features.written("dZ"),
            targets: targets.map(|targets| targets.written("dY")),
            attention: attention.map(|attention| attention.written("da of mixing")),
        }
    }

    pub fn loss_on_cpu(&self) -> Loss<T> {
        let (Sizes { b, r, c, n, .. }, rng, input) = (self.sizes, &mut self.rng.clone(), &self.loss_input());
        let mut logits = output::<T, 3>(rng, [b, r, c]);
        let mut attention = self.attends().then(|| output::<f32, 2>(rng, [b, r]));
        let (mut ce, mut lse) = (output::<f32, 2>(rng, [r, n]), output::<f32, 2>(rng, [r, n]));
        let outputs = LossOutputs {
            logits: Some(logits.view_mut()),
            attention: attention.as_mut().map(Strided::view_mut),
            per_mixture: Some(ce.view_mut()),
            log_sum_exp: Some(lse.view_mut()),
        };
        let (mixing, options) = (&self.mixing, &self.options);
        let scratch = &mut workspace(cpu::loss_workspace_bytes(mixing, input, options, &outputs));
        let loss = cpu::loss_into(mixing, input, options, self.upstream, outputs, scratch).unwrap();
        Loss {
            value: loss.value,
            kl: loss.kl,
            logits: logits.written("dS"),
            attention: attention.map(|attention| attention.written("da of the loss")),
            per_mixture: ce.written("CE"),
            log_sum_exp: lse.written("log-sum-exp"),
        }
    }

    pub fn attention_on_cpu(&self) -> Vec<f32> {
        let mut maps = output::<f32, 2>(&mut self.rng.clone(), [self.sizes.b, self.sizes.r]);
        let (input, options) = (&self.attention_input(), &self.attention_options);
        let scratch = &mut workspace(cpu::attention_workspace_bytes(input, options));
        cpu::attention_forward_into(input, options, maps.view_mut(), scratch).unwrap();
        maps.written("attention")
    }

    pub fn attention_backward_on_cpu(&self) -> AttentionGradients<T> {
        let (Sizes { b, r, d, c, .. }, rng) = (self.sizes, &mut self.rng.clone());
        let (input, options) = (&self.attention_input(), &self.attention_options);
        let mut features = output::<T, 3>(rng, [b, r, d]);
        let mut classifier = self.is_cam().then(|| output::<f32, 2>(rng, [c, d]));
        let (out, out_rows) = (features.view_mut(), classifier.as_mut().map(Strided::view_mut));
        let scratch = &mut workspace(cpu::attention_workspace_bytes(input, options));
        cpu::attention_backward_into(input, options, &self.d_attention.view(), out, out_rows, scratch)
            .unwrap();
        AttentionGradients {
            features: features.written("dZ of attention"),
            classifier: classifier.map(|rows| rows.written("dW")),
        }
    }
}
