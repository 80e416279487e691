//! What is shown of the CUDA engine: the example of a step as it stands in `examples/`, which checks itself
//! against the reference, and the README's snippet.

#[path = "../../examples/cuda_step.rs"]
mod cuda_step;

use multimix::cpu::{LossInput, Targets};
use multimix::{Alpha, Device, LossOptions, Mixing, View};

use crate::support::harness::{Harness, add};
use crate::support::shown::assert_shown;

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    harness.test("cuda_step", missing, cuda_step::main);
    add!(harness, missing, readme, one_api_over_both_engines);
}

fn readme() -> anyhow::Result<()> {
    // README
    use multimix::cuda::{self, DeviceTargets, DeviceView, Engine, LossInput, Upstream};
    use multimix::{Alpha, LossOptions, Mixing};

    let context = cuda::open(0)?; // or your framework's: cudarc 0.19, `cuda::cudarc`
    let stream = context.default_stream();
    let (b, r, c) = (16, 4, 10);
    let logits = stream.clone_htod(&vec![0.5f32; b * r * c])?;
    let labels = stream.clone_htod(&vec![3u32; b])?;
    let engine = Engine::new(&context)?; // keep it: it holds the compiled kernels
    let input = LossInput {
        logits: DeviceView::new(&logits, [b, r, c])?, // any strides: DeviceView::with_strides
        targets: DeviceTargets::Labels(DeviceView::new(&labels, [b])?),
        attention: None,
        weights: None,
    };
    let mixing = Mixing::dirichlet(1000, Alpha::PAPER).seed(7).step(0);
    let (options, upstream) = (LossOptions::default(), Upstream::default());
    // gradients.logits is dS (b, r, c), in device memory.
    let (loss, gradients) =
        engine.on(&stream)?.loss_forward_backward(&mixing, &input, &options, &upstream)?;
    let loss = stream.clone_dtoh(&loss.value)?[0]; // this waits; nothing before it did
    assert!((loss - 10f32.ln()).abs() < 1e-5); // even logits: log c, whatever is mixed
    // end
    assert_shown(include_str!("example.rs"), "readme");
    // Summed over the examples: softmax minus target, 1 / r of it at each position.
    let d_logits = stream.clone_dtoh(&gradients.logits)?;
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
        targets: Targets::Labels(&[0, 1, 2, 3, 4, 0]),
        attention: None,
        weights: None,
    };
    let (mixing, options) = (Mixing::dirichlet(50, Alpha::PAPER).seed(3), LossOptions::default());
    let run = |device: &Device| device.loss_forward_backward(&mixing, &input, &options, -64.0);
    let (given, wanted) = (run(&Device::cuda(0)?)?, run(&Device::Cpu)?);
    anyhow::ensure!((given.0.value - wanted.0.value).abs() < 1e-5 * wanted.0.value);
    let largest = |x: &mut dyn Iterator<Item = f32>| x.fold(0f32, |largest, x| largest.max(x.abs()));
    let size = largest(&mut wanted.1.logits.iter().copied());
    let error = largest(&mut given.1.logits.iter().zip(&wanted.1.logits).map(|(x, y)| x - y));
    anyhow::ensure!(size > 0.1 && error < 1e-5 * size, "{error} of {size}");
    Ok(())
}
