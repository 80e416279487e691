//! The same bits on every run and for every order of blocks and warps, for all ops.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::{Command, ExitCode};

use multimix::reference::Sizes;
use multimix::{Alpha, AttentionOptions, LossInput, LossOptions, MixInput, Mixing, View, Want, WeightsInput};

use crate::support::device::{Device, SCHEDULES, device};
use crate::support::harness::{Harness, add};
use crate::support::strided::Strided;
use crate::support::tiles::{Outline, random};
use crate::upload::Uploaded;

/// Several blocks in each dimension, and splits.
const SIZES: Sizes = Sizes { b: 70, r: 3, d: 130, c: 67, n: 200 };

/// Set for a child that prints what it gets in place of testing it.
const PRINT: &str = "MULTIMIX_TEST_PRINTS_BITS";

/// In a child of this test: does what it is there for.
pub fn print_as_child() -> Option<ExitCode> {
    std::env::var_os(PRINT)?;
    println!("{}", summary(&run(device().unwrap())));
    Some(ExitCode::SUCCESS)
}

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    add!(harness, missing, every_schedule_gives_the_same_bits);
    let has_settings = match device() {
        Ok(device) if device.virtual_gpu.is_none() => Some("a real GPU has the multiprocessors it has"),
        _ => missing,
    };
    add!(harness, has_settings, small_and_large_devices_give_the_same_bits);
}

/// Everything that the ops give, as bits.
fn run(device: &Device) -> Vec<(&'static str, Vec<u32>)> {
    let Sizes { b, r, c, n, .. } = SIZES;
    let mixing = Mixing::dirichlet(n, Alpha::Uniform { lo: 0.05, hi: 2.0 }).seed(1).step(2);
    let outline = Outline { sizes: SIZES, mixing, explicit: false, attention: false };
    let mut problem = outline.fill::<f32>(random("determinism", 0));
    problem.soft = Some(Strided::contiguous([b, c], |at| (at as f32).sin().abs()));
    (problem.mixes_targets, problem.attention_options) = (true, AttentionOptions::default());
    problem.d_mixed_targets = Some(Strided::contiguous([n, r, c], |at| (at as f32 * 0.7).cos()));
    let uploaded = Uploaded::new(device, &problem);
    let queue = device.engine.on(&device.stream).unwrap();
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
    let mut results = vec![];

    let (input, options) = (uploaded.attention_input(), AttentionOptions::default());
    let maps = queue.attention(&input, &options).unwrap();
    let attention = || Some(View::new(&maps, [b, r]).unwrap());
    results.push(("attention", bits(device.download(&maps))));
    let gradient = queue.attention_backward(&input, &options, &attention().unwrap()).unwrap();
    results.push(("attention's gradient", bits(device.download(&gradient.features))));

    let input = WeightsInput { b, r, attention: attention() };
    let made = queue.weights::<f32>(&mixing, &input).unwrap();
    results.push(("matrix", bits(device.download(&made.matrix))));
    results.push(("mass", bits(device.download(&made.mass))));

    let input = MixInput { attention: attention(), ..uploaded.mix_input() };
    let mixed = queue.mix(mixing, &input).unwrap();
    results.push(("mixed features", bits(device.download(&mixed.features))));
    results.push(("mixed targets", bits(device.download(&mixed.targets.unwrap()))));
    let gradients = queue.mix_backward(mixing, &input, &uploaded.mixed_gradients()).unwrap();
    results.push(("dZ", bits(device.download(&gradients.features))));
    results.push(("dY", bits(device.download(&gradients.targets.unwrap()))));
    results.push(("da of mixing", bits(device.download(&gradients.attention.unwrap()))));

    let input = LossInput { attention: attention(), ..uploaded.loss_input() };
    let options = LossOptions { detach_attention: false, kl: true, ..LossOptions::default() };
    let loss = queue.loss(mixing, &input, &options, Want::Gradients(1.0)).unwrap();
    results.push(("loss", bits(device.download(&loss.value))));
    results.push(("kl", bits(device.download(&loss.kl.unwrap()))));
    results.push(("dS", bits(device.download(&loss.logits.unwrap()))));
    results.push(("da", bits(device.download(&loss.attention.unwrap()))));
    results
}

fn every_schedule_gives_the_same_bits() {
    let device = device().unwrap();
    device.schedule(SCHEDULES[0]);
    let first = run(device);
    for seed in SCHEDULES.into_iter().chain([7, 11]) {
        device.schedule(seed);
        for ((name, wanted), (_, given)) in first.iter().zip(&run(device)) {
            let differs = wanted.iter().zip(given).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{name} differs at this place under schedule {seed}");
        }
    }
}

/// One line for each result: its name and a hash of its bits.
fn summary(results: &[(&str, Vec<u32>)]) -> String {
    let hash = |bits: &[u32]| {
        let mut hasher = DefaultHasher::new();
        bits.hash(&mut hasher);
        hasher.finish()
    };
    results.iter().map(|(name, bits)| format!("{name}: {:016x}\n", hash(bits))).collect()
}

/// What the choosers make of a device with few or many multiprocessors changes no bit.
fn small_and_large_devices_give_the_same_bits() {
    let here = summary(&run(device().unwrap()));
    for multiprocessors in ["1", "6", "200"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.env(PRINT, "1").env("VGPU_SMS", multiprocessors).output().unwrap();
        let there = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(there.contains(&here), "with {multiprocessors} multiprocessors\n{there}\nand here\n{here}");
    }
}
