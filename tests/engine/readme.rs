//! The README's snippets, run and judged by plain f64 loops. The lines between `// README` and `// end` of a
//! function stand in the README as they stand here.

#![allow(clippy::needless_range_loop)] // loops run over indices as the equations do

use anyhow::Result;
use candle_core::{DType, Tensor};

use crate::support::shown::assert_shown;

fn wide(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1()).unwrap()
}

#[track_caller]
fn assert_near(given: &[f64], wanted: &[f64]) {
    assert_eq!(given.len(), wanted.len());
    let size = wanted.iter().fold(0.0, |size: f64, x| size.max(x.abs()));
    for (place, (given, wanted)) in given.iter().zip(wanted).enumerate() {
        assert!((given - wanted).abs() <= 1e-5 * size, "[{place}] {given}, not {wanted}");
    }
}

/// Z (b, r, d) of a map (b, d, h, w).
fn positions(map: &Tensor) -> Vec<f64> {
    let (b, d, h, w) = map.dims4().unwrap();
    let (map, r) = (wide(map), h * w);
    (0..b * r * d).map(|at| map[(at / (r * d) * d + at % d) * r + at / d % r]).collect()
}

/// W z for rows z of length d: (rows, c).
fn linear(rows: &[f64], weight: &[f64], d: usize) -> Vec<f64> {
    let dot = |z: &[f64], w: &[f64]| z.iter().zip(w).map(|(z, w)| z * w).sum::<f64>();
    rows.chunks_exact(d).flat_map(|z| weight.chunks_exact(d).map(move |w| dot(z, w))).collect()
}

/// GAP, ReLU, l1: a (b, r).
fn attention(features: &[f64], [r, d]: [usize; 2]) -> Vec<f64> {
    let map = |z: &[f64]| {
        let mean: Vec<f64> = (0..d).map(|x| (0..r).map(|j| z[j * d + x]).sum::<f64>() / r as f64).collect();
        let scores: Vec<f64> = linear(z, &mean, d).iter().map(|score| score.max(0.0)).collect();
        let sum: f64 = scores.iter().sum();
        scores.into_iter().map(move |score| score / sum)
    };
    features.chunks_exact(r * d).flat_map(map).collect()
}

/// M̂ (r, b, n) and s (r, n), equations (5) and (6).
fn mix_matrix(lambda: &[f32], attention: &[f64], [b, r, n]: [usize; 3]) -> (Vec<f64>, Vec<f64>) {
    let (mut matrix, mut mass) = (vec![0.0; r * b * n], vec![0.0; r * n]);
    for j in 0..r {
        for k in 0..n {
            let m = |i: usize| attention[i * r + j] * f64::from(lambda[(j * b + i) * n + k]);
            mass[j * n + k] = (0..b).map(m).sum();
            for i in 0..b {
                matrix[(j * b + i) * n + k] = if mass[j * n + k] > 0.0 {
                    m(i) / mass[j * n + k]
                } else {
                    f64::from(lambda[(j * b + i) * n + k])
                };
            }
        }
    }
    (matrix, mass)
}

/// The default loss with its gradient dS (b, r, c).
fn loss(
    logits: &[f64],
    labels: &[u32],
    (matrix, mass): &(Vec<f64>, Vec<f64>),
    [b, r, n, c]: [usize; 4],
) -> (f64, Vec<f64>) {
    let (mut loss, mut gradient) = (0.0, vec![0.0; b * r * c]);
    for j in 0..r {
        let total: f64 = mass[j * n..(j + 1) * n].iter().sum();
        for k in (0..n).filter(|_| total > 0.0) {
            let m = |i: usize| matrix[(j * b + i) * n + k];
            let share = mass[j * n + k] / total / r as f64;
            let mut target = vec![0.0; c];
            (0..b).for_each(|i| target[labels[i] as usize] += m(i));
            let mixed = |x: usize| (0..b).map(|i| m(i) * logits[(i * r + j) * c + x]).sum::<f64>();
            let mixed: Vec<f64> = (0..c).map(mixed).collect();
            let log_sum = mixed.iter().map(|s| s.exp()).sum::<f64>().ln();
            for x in 0..c {
                loss += share * target[x] * (log_sum - mixed[x]);
                for i in 0..b {
                    gradient[(i * r + j) * c + x] += share * m(i) * ((mixed[x] - log_sum).exp() - target[x]);
                }
            }
        }
    }
    (loss, gradient)
}

/// Λ (r, b, n).
fn drawn(mixing: &multimix::Mixing, b: usize, r: usize) -> Vec<f32> {
    let input = multimix::WeightsInput { b, r, attention: None };
    multimix::cpu::weights(mixing, &input).unwrap().matrix
}

/// Mixed rows (n, r, width) of rows (b, r, width), equation (7).
fn mixed(rows: &[f64], matrix: &[f64], [b, r, n]: [usize; 3]) -> Vec<f64> {
    let width = rows.len() / (b * r);
    let mut mixed = vec![0.0; n * r * width];
    for (at, value) in mixed.iter_mut().enumerate() {
        let (k, j, x) = (at / (r * width), at / width % r, at % width);
        *value = (0..b).map(|i| matrix[(j * b + i) * n + k] * rows[(i * r + j) * width + x]).sum();
    }
    mixed
}

/// −Σ y log softmax s, for rows of length c.
fn cross_entropies(scores: &[f64], targets: &[f64], c: usize) -> Vec<f64> {
    let log_sum = |s: &[f64]| s.iter().map(|s| s.exp()).sum::<f64>().ln();
    let loss = |s: &[f64], y: &[f64]| s.iter().zip(y).map(|(s_x, y)| y * (log_sum(s) - s_x)).sum();
    scores.chunks(c).zip(targets.chunks(c)).map(|(s, y)| loss(s, y)).collect()
}

#[test]
fn cpu() -> Result<()> {
    // README
    use multimix::{Alpha, LossInput, LossOptions, Mixing, Targets, View, Want, cpu};

    let (b, r, c) = (4, 9, 3);
    let logits = vec![0.5f32; b * r * c]; // your classifier on every unmixed feature
    let attention = vec![1.0f32; b * r];
    let input = LossInput {
        logits: View::new(&logits, [b, r, c])?,
        targets: Targets::labels(&[0u8, 1, 2, 0]),
        attention: Some(View::new(&attention, [b, r])?),
    };
    let mixing = Mixing::dirichlet(1000, Alpha::PAPER).seed(7).step(0); // count step up as you train
    // loss.logits is dS (b, r, c): hand it to your autograd.
    let loss = cpu::loss(mixing, &input, &LossOptions::default(), Want::Gradients(1.0))?;
    assert!((loss.value - 3f32.ln()).abs() < 1e-5); // even logits: log c, whatever is mixed
    // end
    assert_shown(include_str!("readme.rs"), "cpu");
    let matrix = mix_matrix(&drawn(&mixing, b, r), &vec![1.0; b * r], [b, r, 1000]);
    let (value, d_logits) = self::loss(&vec![0.5; b * r * c], &[0, 1, 2, 0], &matrix, [b, r, 1000, c]);
    assert_near(&[loss.value.into()], &[value]);
    assert_near(&loss.logits.unwrap().iter().map(|&x| x.into()).collect::<Vec<f64>>(), &d_logits);
    Ok(())
}

#[test]
fn linear_head() -> Result<()> {
    // README
    use candle_core::{Device, IndexOp, Tensor, Var};
    use candle_nn::{Linear, Module};
    use multimix::{Alpha, AttentionOptions, LossOptions, Mixing, candle};

    let map = Tensor::randn(0f32, 1f32, (8, 16, 4, 4), &Device::Cpu)?; // your encoder's
    let weight = Var::randn(0f32, 1f32, (5, 16), &Device::Cpu)?;
    let linear = Linear::new(weight.as_tensor().clone(), None);
    let labels = Tensor::new(&[0u32, 1, 2, 3, 4, 0, 1, 2], &Device::Cpu)?;

    let features = candle::positions(&map)?; // (b, d, h, w) to (b, r, d)
    let attention = candle::attention(&features.detach(), None, &AttentionOptions::default())?;
    let logits = linear.forward(&features)?; // (b, r, c), unmixed
    let mixing = Mixing::dirichlet(1000, Alpha::PAPER).seed(7).step(0); // count step up as you train
    let loss = candle::loss(&logits, &labels, Some(&attention), &mixing, &LossOptions::default())?;
    let gradients = loss.backward()?; // trains the encoder, too

    // Image 3, row 1, column 2, class 4: position 1 * 4 + 2.
    let score = (map.i((3, .., 1, 2))? * weight.i(4)?)?.sum_all()?.to_scalar::<f32>()?;
    assert!((logits.i((3, 6, 4))?.to_scalar::<f32>()? - score).abs() < 1e-4);
    // end
    assert_shown(include_str!("readme.rs"), "linear_head");
    let [b, r, d, n, c] = [8, 16, 16, 1000, 5];
    let z = positions(&map);
    let s = self::linear(&z, &wide(weight.as_tensor()), d);
    assert_near(&wide(&logits), &s);
    let a = self::attention(&z, [r, d]);
    assert_near(&wide(&attention), &a);
    let matrix = mix_matrix(&drawn(&mixing, b, r), &a, [b, r, n]);
    let (value, d_logits) = self::loss(&s, &labels.to_vec1()?, &matrix, [b, r, n, c]);
    assert_near(&wide(&loss), &[value]);
    let mut d_weight = vec![0.0; c * d];
    for at in 0..b * r {
        (0..c * d).for_each(|x| d_weight[x] += d_logits[at * c + x / d] * z[at * d + x % d]);
    }
    assert_near(&wide(gradients.get(&weight).unwrap()), &d_weight);
    Ok(())
}

#[test]
fn any_head() -> Result<()> {
    // README
    use candle_core::{Device, Tensor, Var};
    use candle_nn::{Linear, Module, ops::log_softmax};
    use multimix::{Alpha, AttentionOptions, LossOptions, Mixing, candle};

    let loss_through = |head: &dyn Module, z: &Tensor, labels: &Tensor, a: &Tensor, mixing: &Mixing| {
        let (b, r, _) = z.dims3()?;
        let scores = head.forward(&candle::mix(z, Some(a), mixing)?)?; // (n, r, c)
        let targets = candle::mix_targets(labels, scores.dim(2)?, r, Some(a), mixing)?; // (n, r, c)
        let losses = (targets * log_softmax(&scores, 2)?)?.sum(2)?.neg()?.t()?; // (r, n)
        let mass = candle::weights(b, r, Some(a), mixing, z.device())?.mass; // s (r, n)
        let sums = mass.sum(1)?.maximum(f32::MIN_POSITIVE)?; // a position that nobody attends to counts 0
        ((losses * &mass)?.sum(1)? / sums)?.mean_all()
    };

    let features = Tensor::randn(0f32, 1f32, (8, 16, 32), &Device::Cpu)?; // (b, r, d)
    let labels = Tensor::new(&[0u32, 1, 2, 3, 4, 0, 1, 2], &Device::Cpu)?;
    let attention = candle::attention(&features, None, &AttentionOptions::default())?;
    let mixing = Mixing::dirichlet(1000, Alpha::PAPER).seed(7).step(0);
    let weight = Var::randn(0f32, 1f32, (5, 32), &Device::Cpu)?;
    let linear = Linear::new(weight.as_tensor().clone(), None);
    let loss = loss_through(&linear, &features, &labels, &attention, &mixing)?;

    // For a linear head it is what `loss` computes without the mixtures.
    let logits = linear.forward(&features)?;
    let fused = candle::loss(&logits, &labels, Some(&attention), &mixing, &LossOptions::default())?;
    assert!((loss.to_scalar::<f32>()? / fused.to_scalar::<f32>()? - 1.0).abs() < 1e-5);
    // end
    assert_shown(include_str!("readme.rs"), "any_head");
    let [b, r, d, n, c] = [8, 16, 32, 1000, 5];
    let (z, labels_) = (wide(&features), labels.to_vec1::<u32>()?);
    let matrix = mix_matrix(&drawn(&mixing, b, r), &self::attention(&z, [r, d]), [b, r, n]);
    let s = self::linear(&z, &wide(weight.as_tensor()), d);
    let (value, _) = self::loss(&s, &labels_, &matrix, [b, r, n, c]);
    assert_near(&wide(&loss), &[value]);
    let (loss, fused) = (loss.backward()?, fused.backward()?);
    assert_near(&wide(loss.get(&weight).unwrap()), &wide(fused.get(&weight).unwrap()));

    // A head that is not linear: the classifier on rectified mixtures.
    let relu = |x: &Tensor| linear.forward(&x.relu()?);
    let loss = loss_through(&candle_nn::func(relu), &features, &labels, &attention, &mixing)?;
    let rectified: Vec<f64> = mixed(&z, &matrix.0, [b, r, n]).iter().map(|x| x.max(0.0)).collect();
    let scores = self::linear(&rectified, &wide(weight.as_tensor()), d);
    let rows: Vec<f64> =
        (0..b * r * c).map(|at| f64::from(labels_[at / (r * c)] == (at % c) as u32)).collect();
    let targets = mixed(&rows, &matrix.0, [b, r, n]);
    let mut value = 0.0;
    for (at, loss) in cross_entropies(&scores, &targets, c).into_iter().enumerate() {
        let (k, j) = (at / r, at % r);
        let total: f64 = matrix.1[j * n..(j + 1) * n].iter().sum();
        value += matrix.1[j * n + k] / total / r as f64 * loss;
    }
    assert_near(&wide(&loss), &[value]);
    Ok(())
}

#[test]
fn input_mixup() -> Result<()> {
    // README
    use candle_core::{Device, Tensor};
    use candle_nn::{Linear, Module, ops::log_softmax};
    use multimix::{Alpha, Factor, Mixing, candle};

    let images = Tensor::randn(0f32, 1f32, (8, 3, 6, 6), &Device::Cpu)?;
    let labels = Tensor::new(&[0u32, 1, 2, 3, 4, 0, 1, 2], &Device::Cpu)?;
    let model = Linear::new(Tensor::randn(0f32, 0.1f32, (5, 108), &Device::Cpu)?, None); // your network

    let pairs = Mixing::pair(8, Alpha::Fixed(0.2), Factor::PerBatch).seed(7).step(0); // n = b
    let mixed = candle::mix(&images.reshape((8, 1, 108))?, None, &pairs)?.reshape(images.shape())?;
    let targets = candle::mix_targets(&labels, 5, 1, None, &pairs)?.squeeze(1)?; // (b, c)
    let scores = model.forward(&mixed.flatten_from(1)?)?;
    let loss = (&targets * log_softmax(&scores, 1)?)?.sum(1)?.mean_all()?.neg()?;

    // Every image is in two mixtures, with weights that sum to 1: the mean image stays what it was.
    let moved = (mixed.mean(0)? - images.mean(0)?)?.abs()?.max_all()?;
    assert!(moved.to_scalar::<f32>()? < 1e-5);
    // end
    assert_shown(include_str!("readme.rs"), "input_mixup");
    let (b, pixels, c) = (8, 108, 5);
    let lambda: Vec<f64> = drawn(&pairs, b, 1).into_iter().map(f64::from).collect();
    let plain = self::mixed(&wide(&images), &lambda, [b, 1, b]);
    assert_near(&wide(&mixed), &plain);
    let labels: Vec<u32> = labels.to_vec1()?;
    let rows: Vec<f64> = (0..b * c).map(|at| f64::from(labels[at / c] == (at % c) as u32)).collect();
    let plain_targets = self::mixed(&rows, &lambda, [b, 1, b]);
    assert_near(&wide(&targets), &plain_targets);
    let scores = self::linear(&plain, &wide(model.weight()), pixels);
    let value = cross_entropies(&scores, &plain_targets, c).iter().sum::<f64>() / b as f64;
    assert_near(&wide(&loss), &[value]);
    Ok(())
}
