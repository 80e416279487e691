//! One training step of Dense MultiMix on a GPU: draw, loss and gradient, checked against the f64 reference.
//!
//!     cargo run --release --example cuda_step            # on this machine's GPU
//!     cargo xtask run cargo run --example cuda_step      # on the virtual GPU

use multimix::cpu::{LossInput, Targets, WeightsInput};
use multimix::reference::{self, LossInputs, Sizes};
use multimix::{Alpha, Device, LossOptions, Mixing, View};

fn main() -> Result<(), multimix::Error> {
    // 8 images of 4 positions, 5 classes, 64 mixtures at each position.
    let (b, r, c, n) = (8, 4, 5, 64);
    let wave = |scale: f32| move |x: usize| (x as f32 * scale).sin();
    let logits: Vec<f32> = (0..b * r * c).map(wave(0.7)).collect();
    let attention: Vec<f32> = (0..b * r).map(wave(1.3)).map(|x| x.max(0.0)).collect();
    let labels: Vec<u32> = (0..b as u32).map(|i| i % c as u32).collect();

    let device = Device::cuda(0)?;
    let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(7).step(42);
    let input = LossInput {
        logits: View::new(&logits, [b, r, c])?,
        targets: Targets::Labels(&labels),
        attention: Some(View::new(&attention, [b, r])?),
        weights: None,
    };
    let options = LossOptions::default();
    let (loss, gradient) = device.loss_forward_backward(&mixing, &input, &options)?;
    println!("loss {:.6}", loss.value);

    // The same from the equations: the weights that the GPU drew, in f64.
    let drawn = device.weights(&mixing, &WeightsInput { b, r, attention: None, weights: None })?.matrix;
    let wide = |values: &[f32]| -> Vec<f64> { values.iter().copied().map(f64::from).collect() };
    let (logits, weights, attention) = (wide(&logits), wide(&drawn), wide(&attention));
    let labels: Vec<usize> = labels.iter().map(|&y| y as usize).collect();
    let inputs = LossInputs {
        logits: &logits,
        targets: reference::Targets::Labels(&labels),
        weights: &weights,
        attention: Some(&attention),
    };
    let sizes = Sizes { b, r, c, n, ..Sizes::default() };
    let expected = reference::loss(&sizes, &inputs, options)?;
    let expected_gradient = reference::loss_backward(&sizes, &inputs, options, 1.0)?.logits;
    let pairs = gradient.logits.iter().zip(&expected_gradient);
    let worst = pairs.map(|(given, exact)| (f64::from(*given) - exact).abs()).fold(0.0, f64::max);
    println!("reference {:.6}, largest error of the gradient {worst:.1e}", expected.value);
    assert!((f64::from(loss.value) - expected.value).abs() < 1e-5 && worst < 1e-6);
    Ok(())
}
