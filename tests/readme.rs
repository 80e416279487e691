//! The README's snippets, run and judged by plain f64 loops. The lines between `// README` and `// end` of a function stand in the
//! README as they stand here.

#![cfg(feature = "candle")]
#![allow(clippy::needless_range_loop)] // loops run over indices as the equations do

use anyhow::Result;
use candle_core::{DType, Tensor};

/// Fails where a snippet of this file is not in the README.
fn assert_shown(function: &str) {
    let code = |text: &str| -> String {
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
    };
    let source = include_str!("readme.rs").split(&format!("fn {function}(")).nth(1).unwrap();
    let snippet = source.split("// README\n").nth(1).and_then(|rest| rest.split("// end\n").next()).unwrap();
    assert!(snippet.lines().count() > 4, "no snippet in {function}");
    let readme = include_str!("../README.md").split("```").skip(1).step_by(2).map(code);
    assert!(readme.into_iter().any(|shown| shown.contains(&code(snippet))), "not in the README:\n{snippet}");
}

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
    let input = multimix::cpu::WeightsInput { b, r, attention: None, weights: None };
    multimix::cpu::weights(mixing, &input).unwrap().matrix
}

#[test]
fn the_loss_of_candle_tensors() -> Result<()> {
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
    let gradients = loss.backward()?; // draws nothing: the loss has computed them
    // end
    // assert_shown("the_loss_of_candle_tensors");
    let _ = logits.i(0)?;
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
