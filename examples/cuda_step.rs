//! One training step of Dense MultiMix on a GPU: draws, loss and gradient, checked against the f64 reference.
//!
//!     cargo run --release --example cuda_step            # on this machine's GPU
//!     cargo xtask run cargo run --example cuda_step      # on the virtual GPU

use multimix::cuda::{self, Engine};
use multimix::reference::{self, LossInputs, Sizes};
use multimix::{Alpha, LossInput, LossOptions, Mixing, Targets, View, Want, WeightsInput};

pub fn main() -> anyhow::Result<()> {
    // 8 images of 4 positions, 5 classes, 64 mixtures at each position.
    let (b, r, c, n) = (8, 4, 5, 64);
    let wave = |scale: f32| move |x: usize| (x as f32 * scale).sin();
    let logits: Vec<f32> = (0..b * r * c).map(wave(0.7)).collect();
    let attention: Vec<f32> = (0..b * r).map(wave(1.3)).map(|x| x.max(0.0)).collect();
    let labels: Vec<u32> = (0..b as u32).map(|i| i % c as u32).collect();

    // A framework has the context, the stream and the arrays already; its cudarc is ours (`cuda::cudarc`).
    let context = cuda::open(0)?;
    let stream = context.default_stream();
    let on_device =
        (stream.clone_htod(&logits)?, stream.clone_htod(&attention)?, stream.clone_htod(&labels)?);
    let input = LossInput {
        logits: View::new(&on_device.0, [b, r, c])?,
        targets: Targets::labels(View::new(&on_device.2, [b])?),
        attention: Some(View::new(&on_device.1, [b, r])?),
    };

    let engine = Engine::new(&context)?;
    let queue = engine.on(&stream)?;
    let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(7).step(42);
    let options = LossOptions::default();
    let loss = queue.loss(mixing, &input, &options, Want::Gradients(1.0))?;
    let drawn = queue.weights::<f32>(&mixing, &WeightsInput { b, r, attention: None })?.matrix;
    let gradient = loss.logits.ok_or_else(|| anyhow::anyhow!("gradients were asked for"))?;
    let (loss, gradient) = (stream.clone_dtoh(&loss.value)?[0], stream.clone_dtoh(&gradient)?);

    // The same from the equations: the weights that the GPU drew, in f64.
    let wide = |values: &[f32]| -> Vec<f64> { values.iter().copied().map(f64::from).collect() };
    let (logits, attention, weights) = (wide(&logits), wide(&attention), wide(&stream.clone_dtoh(&drawn)?));
    let labels: Vec<usize> = labels.iter().map(|&y| y as usize).collect();
    let inputs = LossInputs {
        logits: &logits,
        targets: reference::Targets::Labels(&labels),
        weights: &weights,
        attention: Some(&attention),
    };
    let sizes = Sizes { b, r, c, n, ..Sizes::default() };
    let expected = reference::loss(&sizes, &inputs, options)?.value;
    let exact = reference::loss_backward(&sizes, &inputs, options, 1.0)?.logits;
    let errors = gradient.iter().zip(&exact).map(|(given, exact)| (f64::from(*given) - exact).abs());
    let worst = errors.fold(0.0, f64::max);
    println!("{}: loss {loss:.6}, in f64 {expected:.6}", engine.device().name);
    println!("largest error of the gradient {worst:.1e}");
    anyhow::ensure!((f64::from(loss) - expected).abs() < 1e-5 && worst < 1e-6, "they differ");
    Ok(())
}
