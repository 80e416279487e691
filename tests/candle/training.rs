//! A model trains through the candle ops: what it minimises falls, and it learns its classes.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Linear, Optimizer, ParamsAdamW};
use multimix::candle;
use multimix::{Alpha, AttentionOptions, LossOptions, Mixing};

use crate::support::tensors::{assert_close, tensor};

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
    assert_close(&fused, &plain, 1e-6)?;
    let (fused, plain) = (fused.backward()?, plain.backward()?);
    for variable in [&model.encoder, &model.classifier] {
        assert_close(fused.get(variable).unwrap(), plain.get(variable).unwrap(), 1e-5)?;
    }
    Ok(())
}

/// Images (b, 1, 16, 16) of ten classes: noise, and for each class a pattern of its own.
fn images() -> Result<(Tensor, Tensor)> {
    let labels = Tensor::from_iter((0..64u32).map(|i| i % 10), &Device::Cpu)?;
    let patterns = tensor((10, 1, 16, 16), 21)?.index_select(&labels, 0)?;
    Ok(((patterns + (tensor((64, 1, 16, 16), 22)? * 0.5)?)?, labels))
}

/// Trains an encoder and a linear head as the README does, with a way from maps (b, d, h, w) to logits (b, r,
/// c): the values of the loss, and the accuracy.
fn train_linear_head(logits: impl Fn(&Tensor, &Linear) -> Result<Tensor>) -> Result<(Vec<f32>, f32)> {
    let (images, labels) = images()?;
    let encoder = Var::from_tensor(&(tensor((16, 1, 4, 4), 23)? * 0.4)?)?;
    let weight = Var::from_tensor(&(tensor((10, 16), 24)? * 0.3)?)?;
    let bias = Var::zeros(10, DType::F32, &Device::Cpu)?;
    let linear = Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()));
    let settings = ParamsAdamW { lr: 0.03, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(vec![encoder.clone(), weight.clone(), bias.clone()], settings)?;
    let forward = || -> Result<(Tensor, Tensor)> {
        let map = images.conv2d(&encoder, 0, 4, 1, 1)?.relu()?;
        Ok((logits(&map, &linear)?, candle::positions(&map)?))
    };
    let step = |step| -> Result<f32> {
        let (logits, features) = forward()?;
        let attention = candle::attention(&features.detach(), None, &AttentionOptions::default())?;
        let mixing = Mixing::dirichlet(200, Alpha::PAPER).seed(1).step(step);
        let loss = candle::loss(&logits, &labels, Some(&attention), &mixing, &LossOptions::default())?;
        optimizer.backward_step(&loss)?;
        loss.to_scalar()
    };
    let losses = (0..150).map(step).collect::<Result<_>>()?;
    let right = forward()?.0.mean(1)?.argmax(D::Minus1)?.eq(&labels)?.to_dtype(DType::F32)?;
    Ok((losses, right.mean_all()?.to_scalar()?))
}

#[test]
fn a_linear_head_on_positions_trains_as_on_copies_and_as_in_plain_sums() -> Result<()> {
    let (losses, accuracy) = train_linear_head(|map, linear| candle::positions(map)?.apply(linear))?;
    let copied =
        train_linear_head(|map, linear| map.flatten_from(2)?.transpose(1, 2)?.contiguous()?.apply(linear))?;
    // No product of matrices: each channel times its weight, summed.
    let plain = train_linear_head(|map, linear| {
        let map = map.flatten_from(2)?.transpose(1, 2)?.unsqueeze(2)?;
        map.broadcast_mul(linear.weight())?.sum(D::Minus1)?.broadcast_add(linear.bias().unwrap())
    })?;
    for (other, other_accuracy) in [copied, plain] {
        for (step, (given, wanted)) in losses.iter().zip(&other).enumerate() {
            // Differences of rounding grow as training goes on.
            let tolerance = if step < 10 { 1e-5 } else { 1e-2 };
            assert!((given - wanted).abs() < tolerance * wanted, "step {step}: {given}, not {wanted}");
        }
        assert_eq!(accuracy, other_accuracy);
    }
    assert!(
        accuracy > 0.95 && losses[149] < 0.97 * losses[0],
        "{accuracy}, {} to {}",
        losses[0],
        losses[149]
    );
    Ok(())
}
