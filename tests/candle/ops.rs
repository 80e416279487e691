//! The candle ops against the same formulas written in candle's own operations, whose gradients candle
//! derives.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops::{log_softmax, softmax};
use multimix::candle::{self, Classifier};
use multimix::{Alpha, AttentionOptions, Factor, LossOptions, Mixing, Normalise, Query, Reduction};

use crate::support::tensors::{assert_close, labels, tensor};

const B: usize = 6;
const R: usize = 3;
const D_: usize = 5;
const C: usize = 4;
const N: usize = 7;

/// Λ (r, b, n) with columns that sum to 1, some weights zero.
fn explicit_weights() -> Result<Tensor> {
    let raw = tensor((R, B, N), 11)?.relu()?;
    raw.broadcast_div(&raw.sum_keepdim(1)?)
}

/// M = diag(a) Λ, M̂ = M diag(1ᵀM)⁻¹ and s = 1ᵀM, equations (5) and (6): (r, b, n) and (r, n).
fn mix_matrix(weights: &Tensor, attention: &Tensor) -> Result<(Tensor, Tensor)> {
    let m = weights.broadcast_mul(&attention.t()?.unsqueeze(2)?)?;
    let mass = m.sum_keepdim(1)?;
    Ok((m.broadcast_div(&mass)?, mass.squeeze(1)?))
}

/// Z̃ = Z M̂ as (n, r, d), equation (7).
fn mixed(features: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    matrix.transpose(1, 2)?.contiguous()?.matmul(&features.transpose(0, 1)?.contiguous()?)?.transpose(0, 1)
}

/// The loss in full, nothing fused.
fn plain_loss(
    logits: &Tensor,
    rows: &Tensor,
    weights: &Tensor,
    attention: &Tensor,
    reduction: Reduction,
) -> Result<Tensor> {
    let (matrix, mass) = mix_matrix(weights, attention)?;
    let targets = mixed(&rows.unsqueeze(1)?.broadcast_as((B, R, C))?.contiguous()?, &matrix)?;
    let log_probabilities = log_softmax(&mixed(logits, &matrix)?, D::Minus1)?;
    let losses = (targets * log_probabilities)?.sum(D::Minus1)?.neg()?.t()?; // (r, n)
    match reduction {
        Reduction::Mean => losses.mean_all(),
        Reduction::AttentionWeighted => ((losses * &mass)?.sum(1)? / mass.sum(1)?)?.mean_all(),
    }
}

fn one_hot(labels: &Tensor) -> Result<Tensor> {
    candle_nn::encoding::one_hot(labels.clone(), C, 1f32, 0f32)
}

fn positive_attention() -> Result<Var> {
    Var::from_tensor(&(tensor((B, R), 5)?.abs()? + 0.05)?)
}

#[test]
fn the_loss_and_its_gradients_are_those_of_the_plain_formula() -> Result<()> {
    let (weights, labels) = (explicit_weights()?, labels(B, C)?);
    for reduction in [Reduction::Mean, Reduction::AttentionWeighted] {
        let logits = Var::from_tensor(&(tensor((B, R, C), 1)? * 3.0)?)?;
        let attention = positive_attention()?;
        let options = LossOptions { reduction, detach_attention: false, ..LossOptions::default() };
        let ours = candle::loss(&logits, &labels, Some(&attention), &weights, &options)?;
        let plain = plain_loss(&logits, &one_hot(&labels)?, &weights, &attention, reduction)?;
        assert_close(&ours, &plain, 1e-6)?;
        let (ours, plain) = ((ours * 2.5)?.backward()?, (plain * 2.5)?.backward()?);
        for variable in [&logits, &attention] {
            assert_close(ours.get(variable).unwrap(), plain.get(variable).unwrap(), 1e-5)?;
        }
    }
    Ok(())
}

#[test]
fn attention_gets_no_gradient_when_detached() -> Result<()> {
    let logits = Var::from_tensor(&tensor((B, R, C), 1)?)?;
    let attention = positive_attention()?;
    let (labels, mixing) = (labels(B, C)?, Mixing::dirichlet(N, Alpha::PAPER));
    let loss = candle::loss(&logits, &labels, Some(&attention), &mixing, &LossOptions::default())?;
    let gradients = loss.backward()?;
    assert!(gradients.get(&attention).is_none());
    assert!(gradients.get(&logits).is_some());
    Ok(())
}

#[test]
fn attention_alone_may_be_tracked() -> Result<()> {
    let (logits, attention) = (tensor((B, R, C), 1)?, positive_attention()?);
    let (labels, weights) = (labels(B, C)?, explicit_weights()?);
    let options = LossOptions { detach_attention: false, ..LossOptions::default() };
    let ours = candle::loss(&logits, &labels, Some(&attention), &weights, &options)?;
    let plain = plain_loss(&logits, &one_hot(&labels)?, &weights, &attention, Reduction::AttentionWeighted)?;
    let (ours, plain) = (ours.backward()?, plain.backward()?);
    assert_close(ours.get(&attention).unwrap(), plain.get(&attention).unwrap(), 1e-5)
}

#[test]
fn the_gradient_serves_any_number_of_backward_passes() -> Result<()> {
    let logits = Var::from_tensor(&tensor((B, C), 1)?)?;
    let (labels, mixing) = (labels(B, C)?, Mixing::dirichlet(N, Alpha::Fixed(1.0)).seed(3));
    let loss = candle::loss(&logits, &labels, None, &mixing, &LossOptions::default())?;
    let once = loss.backward()?;
    let thrice = (&loss * 3.0)?.backward()?;
    assert_close(&(once.get(&logits).unwrap() * 3.0)?, thrice.get(&logits).unwrap(), 1e-6)
}

#[test]
fn soft_targets_and_all_integer_types_agree() -> Result<()> {
    let logits = tensor((B, R, C), 1)?;
    let (labels, mixing) = (labels(B, C)?, Mixing::pair(N, Alpha::Fixed(0.4), Factor::PerColumn).seed(9));
    let loss = |targets: &Tensor| candle::loss(&logits, targets, None, &mixing, &LossOptions::default());
    let expected = loss(&labels)?;
    assert_close(&loss(&labels.to_dtype(DType::I64)?)?, &expected, 0.0)?;
    assert_close(&loss(&labels.to_dtype(DType::U8)?)?, &expected, 0.0)?;
    assert_close(&loss(&labels.to_dtype(DType::I32)?)?, &expected, 0.0)?;
    assert_close(&loss(&one_hot(&labels)?)?, &expected, 1e-6)
}

#[test]
fn identity_weights_give_candles_cross_entropy() -> Result<()> {
    let logits = Var::from_tensor(&tensor((B, C), 1)?)?;
    let (labels, identity) = (labels(B, C)?, Tensor::eye(B, DType::F32, &Device::Cpu)?.unsqueeze(0)?);
    let ours = candle::loss(&logits, &labels, None, &identity, &LossOptions::default())?;
    let theirs = candle_nn::loss::cross_entropy(&logits, &labels)?;
    assert_close(&ours, &theirs, 1e-6)?;
    let (ours, theirs) = (ours.backward()?, theirs.backward()?);
    assert_close(ours.get(&logits).unwrap(), theirs.get(&logits).unwrap(), 1e-6)
}

#[test]
fn mixing_and_its_gradients_are_those_of_the_plain_formula() -> Result<()> {
    let (features, attention) = (Var::from_tensor(&tensor((B, R, D_), 2)?)?, positive_attention()?);
    let (weights, upstream) = (explicit_weights()?, tensor((N, R, D_), 3)?);
    let ours = candle::mix(&features, Some(&attention), &weights)?;
    let plain = mixed(&features, &mix_matrix(&weights, &attention)?.0)?;
    assert_close(&ours, &plain, 1e-6)?;
    let (ours, plain) =
        ((ours * &upstream)?.sum_all()?.backward()?, (plain * &upstream)?.sum_all()?.backward()?);
    for variable in [&features, &attention] {
        assert_close(ours.get(variable).unwrap(), plain.get(variable).unwrap(), 1e-5)?;
    }
    Ok(())
}

#[test]
fn mixing_draws_the_weights_that_it_shows() -> Result<()> {
    let (features, labels) = (Var::from_tensor(&tensor((B, R, D_), 2)?)?, labels(B, C)?);
    for mixing in [
        Mixing::dirichlet(N, Alpha::PAPER).seed(5).step(2),
        Mixing::pair(N, Alpha::Fixed(2.0), Factor::PerBatch).seed(5).step(2),
    ] {
        let weights = candle::weights(B, R, None, &mixing, &Device::Cpu)?.matrix;
        assert_eq!(weights.dims(), [R, B, N]);
        let ours = candle::mix(&features, None, &mixing)?;
        assert_close(&ours, &mixed(&features, &weights)?, 1e-6)?;
        let gradient = ours.sqr()?.sum_all()?.backward()?;
        let plain = mixed(&features, &weights)?.sqr()?.sum_all()?.backward()?;
        assert_close(gradient.get(&features).unwrap(), plain.get(&features).unwrap(), 1e-5)?;

        let targets = candle::mix_targets(&labels, C, R, None, &mixing)?;
        let rows = one_hot(&labels)?.unsqueeze(1)?.broadcast_as((B, R, C))?.contiguous()?;
        assert_close(&targets, &mixed(&rows, &weights)?, 1e-6)?;
        assert_close(&candle::mix_targets(&one_hot(&labels)?, C, R, None, &mixing)?, &targets, 1e-6)?;
    }
    Ok(())
}

#[test]
fn gradients_of_mixed_targets_are_those_of_the_plain_formula() -> Result<()> {
    let (rows, attention) = (Var::from_tensor(&tensor((B, C), 4)?.abs()?)?, positive_attention()?);
    let (weights, upstream) = (explicit_weights()?, tensor((N, R, C), 3)?);
    let ours = candle::mix_targets(&rows, C, R, Some(&attention), &weights)?;
    let repeated = rows.unsqueeze(1)?.broadcast_as((B, R, C))?.contiguous()?;
    let plain = mixed(&repeated, &mix_matrix(&weights, &attention)?.0)?;
    assert_close(&ours, &plain, 1e-6)?;
    let (ours, plain) =
        ((ours * &upstream)?.sum_all()?.backward()?, (plain * &upstream)?.sum_all()?.backward()?);
    for variable in [&rows, &attention] {
        assert_close(ours.get(variable).unwrap(), plain.get(variable).unwrap(), 1e-5)?;
    }
    Ok(())
}

#[test]
fn weights_are_the_mix_matrix_and_its_mass() -> Result<()> {
    let (attention, explicit) = (positive_attention()?, explicit_weights()?);
    let shown = candle::weights(B, R, Some(&attention), &explicit, &Device::Cpu)?;
    let (matrix, mass) = mix_matrix(&explicit, &attention)?;
    assert_close(&shown.matrix, &matrix, 1e-6)?;
    assert_close(&shown.mass, &mass, 1e-6)?;
    let mixing = Mixing::dirichlet(N, Alpha::PAPER).seed(5);
    let drawn = candle::weights(B, R, None, &mixing, &Device::Cpu)?;
    assert_close(&drawn.mass, &Tensor::ones((R, N), DType::F32, &Device::Cpu)?, 0.0)?;
    let shown = candle::weights(B, R, Some(&attention), &mixing, &Device::Cpu)?;
    let (matrix, mass) = mix_matrix(&drawn.matrix, &attention)?;
    assert_close(&shown.matrix, &matrix, 1e-6)?;
    assert_close(&shown.mass, &mass, 1e-6)
}

#[test]
fn attention_and_its_gradients_are_those_of_the_plain_formula() -> Result<()> {
    let (labels, upstream) = (labels(B, C)?, tensor((B, R), 8)?);
    for (query, normalise) in [
        (Query::Gap, Normalise::ReluL1),
        (Query::Gap, Normalise::Softmax),
        (Query::Cam, Normalise::ReluL1),
        (Query::Cam, Normalise::Softmax),
    ] {
        let features = Var::from_tensor(&(tensor((B, R, D_), 2)? + 0.3)?)?;
        let rows = Var::from_tensor(&(tensor((C, D_), 4)? + 0.3)?)?;
        let classifier = (query == Query::Cam).then_some(Classifier { rows: &rows, labels: &labels });
        let ours = candle::attention(&features, classifier, &AttentionOptions { query, normalise })?;

        let u = match query {
            Query::Gap => features.mean(1)?,
            Query::Cam => rows.index_select(&labels, 0)?,
        };
        let scores = features.broadcast_mul(&u.unsqueeze(1)?)?.sum(2)?;
        let plain = match normalise {
            Normalise::ReluL1 => scores.relu()?.broadcast_div(&scores.relu()?.sum_keepdim(1)?)?,
            Normalise::Softmax => softmax(&scores, 1)?,
        };
        assert_close(&ours, &plain, 1e-5)?;
        let (ours, plain) =
            ((ours * &upstream)?.sum_all()?.backward()?, (plain * &upstream)?.sum_all()?.backward()?);
        assert_close(ours.get(&features).unwrap(), plain.get(&features).unwrap(), 1e-4)?;
        if query == Query::Cam {
            assert_close(ours.get(&rows).unwrap(), plain.get(&rows).unwrap(), 1e-4)?;
        }
    }
    Ok(())
}
