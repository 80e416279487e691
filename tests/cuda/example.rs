//! What is shown of the CUDA engine: the example of a step as it stands in `examples/`, which checks itself
//! against the reference, and the README's snippet.

#[path = "../../examples/cuda_step.rs"]
mod cuda_step;

use multimix::{Alpha, Device, LossInput, LossOptions, Mixing, Targets, View, Want};

use crate::support::harness::{Harness, add};
use crate::support::shown::assert_shown;

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    harness.test("cuda_step", missing, cuda_step::main);
    add!(harness, missing, readme, one_api_over_both_engines);
}

fn readme() -> anyhow::Result<()> {
    // README
    use multimix::cuda::{self, Engine};
    use multimix::{Alpha, LossInput, LossOptions, Mixing, Targets, View, Want};

    let context = cuda::open(0)?; // or your framework's: cudarc 0.19, `cuda::cudarc`
    let stream = context.default_stream();
    let (b, r, c) = (16, 4, 10);
    let logits = stream.clone_htod(&vec![0.5f32; b * r * c])?;
    let labels = stream.clone_htod(&vec![3u32; b])?;
    let engine = Engine::new(&context)?; // keep it: it holds the compiled kernels
    let input = LossInput {
        logits: View::new(&logits, [b, r, c])?, // any strides: View::with_strides
        targets: Targets::labels(View::new(&labels, [b])?),
        attention: None,
    };
    let mixing = Mixing::dirichlet(1000, Alpha::PAPER).seed(7).step(0);
    let queue = engine.on(&stream)?;
    let loss = queue.loss(mixing, &input, &LossOptions::default(), Want::Gradients(1.0))?;
    let d_logits = loss.logits.unwrap(); // dS (b, r, c), in device memory
    let loss = stream.clone_dtoh(&loss.value)?[0]; // this waits; nothing before it did
    assert!((loss - 10f32.ln()).abs() < 1e-5); // even logits: log c, whatever is mixed
    // end
    assert_shown(include_str!("example.rs"), "readme");
    // Summed over the examples: softmax minus target, 1 / r of it at each position.
    let d_logits = stream.clone_dtoh(&d_logits)?;
    for j in 0..r {
        for x in 0..c {
            let sum: f32 = (0..b).map(|i| d_logits[(i * r + j) * c + x]).sum();
            let wanted = (0.1 - if x == 3 { 1.0 } else { 0.0 }) / r as f32;
            anyhow::ensure!((sum - wanted).abs() < 1e-6, "{sum}, not {wanted}");
        }
    }
    Ok(())
}

fn one_api_over_both_engines() -> anyhow::Result<()> {
    let (b, r, c) = (6, 3, 5);
    let logits: Vec<f32> = (0..b * r * c).map(|x| (x as f32 * 0.7).sin()).collect();
    let input = LossInput {
        logits: View::new(&logits, [b, r, c])?,
        targets: Targets::labels(&[0u32, 1, 2, 3, 4, 0]),
        attention: None,
    };
    let (mixing, options) = (Mixing::dirichlet(50, Alpha::PAPER).seed(3), LossOptions::default());
    let run = |device: &Device| device.loss(mixing, &input, &options, Want::Gradients(-64.0));
    let (given, wanted) = (run(&Device::cuda(0)?)?, run(&Device::Cpu)?);
    anyhow::ensure!((given.value - wanted.value).abs() < 1e-5 * wanted.value);
    let largest = |x: &mut dyn Iterator<Item = f32>| x.fold(0f32, |largest, x| largest.max(x.abs()));
    let (given, wanted) = (given.logits.unwrap(), wanted.logits.unwrap());
    let size = largest(&mut wanted.iter().copied());
    let error = largest(&mut given.iter().zip(&wanted).map(|(x, y)| x - y));
    anyhow::ensure!(size > 0.1 && error < 1e-5 * size, "{error} of {size}");
    Ok(())
}
