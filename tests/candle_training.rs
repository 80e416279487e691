//! A model trains through the candle ops: what it minimises falls, and it learns its classes.

#![cfg(feature = "candle")]

mod candle_support;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use candle_support::tensor;
use multimix::candle;
use multimix::{Alpha, AttentionOptions, LossOptions, Mixing};

const B: usize = 24;
const CLASSES: usize = 3;
const CHANNELS: usize = 8;

/// Maps (b, 4, 2, 2): noise, and for each class one channel that stands out.
fn data() -> Result<(Tensor, Tensor)> {
    let labels = Tensor::from_iter((0..B).map(|i| (i % CLASSES) as u32), &Device::Cpu)?;
    let signal = candle_nn::encoding::one_hot(labels.clone(), 4, 1f32, 0f32)?.reshape((B, 4, 1, 1))?;
    Ok((tensor((B, 4, 2, 2), 1)?.broadcast_add(&(signal * 1.5)?)?, labels))
}

struct Model {
    encoder: Var,
    classifier: Var,
}

impl Model {
    fn new() -> Result<Self> {
        let encoder = Var::from_tensor(&(tensor((CHANNELS, 4, 1, 1), 2)? * 0.8)?)?;
        let classifier = Var::from_tensor(&(tensor((CHANNELS, CLASSES), 3)? * 0.5)?)?;
        Ok(Self { encoder, classifier })
    }

    fn features(&self, images: &Tensor) -> Result<Tensor> {
        candle::positions(&images.conv2d(&self.encoder, 0, 1, 1, 1)?.relu()?)
    }

    fn accuracy(&self, images: &Tensor, labels: &Tensor) -> Result<f32> {
        let logits = self.features(images)?.mean(1)?.matmul(&self.classifier)?;
        let right = logits.argmax(D::Minus1)?.eq(labels)?.to_dtype(DType::F32)?;
        right.mean_all()?.to_scalar()
    }

    /// Trains with a loss that takes the model and the step; gives the values of the loss.
    fn train(&self, loss: impl Fn(&Self, u64) -> Result<Tensor>) -> Result<Vec<f32>> {
        let settings = ParamsAdamW { lr: 0.02, ..ParamsAdamW::default() };
        let mut optimizer = AdamW::new(vec![self.encoder.clone(), self.classifier.clone()], settings)?;
        let step = |step| -> Result<f32> {
            let loss = loss(self, step)?;
            optimizer.backward_step(&loss)?;
            loss.to_scalar()
        };
        (0..80).map(step).collect()
    }
}

/// The mean of the last values lies below that of the first by a good part, and every class is told apart.
fn assert_learnt(model: &Model, losses: &[f32]) -> Result<()> {
    let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
    let (first, last) = (mean(&losses[..5]), mean(&losses[losses.len() - 5..]));
    assert!(last < 0.98 * first, "the loss went from {first} to {last}");
    let (images, labels) = data()?;
    let accuracy = model.accuracy(&images, &labels)?;
    assert!(accuracy > 0.9, "accuracy {accuracy}");
    Ok(())
}

#[test]
fn dense_multimix_through_logits() -> Result<()> {
    let (model, (images, labels)) = (Model::new()?, data()?);
    let losses = model.train(|model, step| {
        let features = model.features(&images)?;
        let attention = candle::attention(&features.detach(), None, &AttentionOptions::default())?;
        let logits = features.broadcast_matmul(&model.classifier)?;
        let mixing = Mixing::dirichlet(100, Alpha::Fixed(0.5)).seed(1).step(step);
        candle::loss(&logits, &labels, Some(&attention), &mixing, &LossOptions::default())
    })?;
    assert_learnt(&model, &losses)
}

#[test]
fn multimix_through_mixed_features() -> Result<()> {
    let (model, (images, labels)) = (Model::new()?, data()?);
    let losses = model.train(|model, step| {
        let pooled = model.features(&images)?.mean_keepdim(1)?;
        let mixing = Mixing::dirichlet(100, Alpha::Fixed(0.5)).seed(1).step(step);
        let mixed = candle::mix(&pooled, None, &mixing)?.squeeze(1)?;
        let targets = candle::mix_targets(&labels, CLASSES, 1, None, &mixing)?.squeeze(1)?;
        let log_probabilities = candle_nn::ops::log_softmax(&mixed.matmul(&model.classifier)?, 1)?;
        (targets * log_probabilities)?.sum(1)?.mean_all()?.neg()
    })?;
    assert_learnt(&model, &losses)
}

#[test]
fn both_ways_to_the_loss_agree() -> Result<()> {
    let (model, (images, labels)) = (Model::new()?, data()?);
    let pooled = model.features(&images)?.mean_keepdim(1)?;
    let mixing = Mixing::dirichlet(50, Alpha::PAPER).seed(4);
    let logits = pooled.broadcast_matmul(&model.classifier)?;
    let fused = candle::loss(&logits, &labels, None, &mixing, &LossOptions::default())?;
    let mixed = candle::mix(&pooled, None, &mixing)?.squeeze(1)?.matmul(&model.classifier)?;
    let targets = candle::mix_targets(&labels, CLASSES, 1, None, &mixing)?.squeeze(1)?;
    let plain = (targets * candle_nn::ops::log_softmax(&mixed, 1)?)?.sum(1)?.mean_all()?.neg()?;
    candle_support::assert_close(&fused, &plain, 1e-6)?;
    let (fused, plain) = (fused.backward()?, plain.backward()?);
    for variable in [&model.encoder, &model.classifier] {
        candle_support::assert_close(fused.get(variable).unwrap(), plain.get(variable).unwrap(), 1e-5)?;
    }
    Ok(())
}
