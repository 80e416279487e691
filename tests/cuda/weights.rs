//! The sampler on the device: the same bits as the CPU engine's, for all generators, any α, layout, tile and
//! schedule.

use std::sync::Arc;

use multimix::cuda::Engine;
use multimix::cuda::jit::{Cache, Compiler, Nvrtc};
use multimix::reference::Sizes;
use multimix::{Alpha, Mixing, View, WeightsCall, WeightsInput, WeightsOutputs, cpu};

use crate::support::device::{Device, SCHEDULES, device};
use crate::support::harness::{Harness, add};
use crate::support::nvrtc;
use crate::support::problem::Problem;
use crate::support::tiles::{Outline, random, seed, tiles};
use crate::upload::{Output, Uploaded, scratch, whole};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    add!(
        harness,
        missing,
        masses_are_on_the_callers_scale,
        every_release_of_nvrtc_gives_the_same_bits,
        random_problems_agree_bit_for_bit,
        many_examples_agree_bit_for_bit,
        every_alpha_agrees_bit_for_bit,
    );
}

/// Runs one problem on both engines and compares all bits.
fn compare(device: &Device, problem: &Problem<f32>) {
    let (Sizes { b, r, n, .. }, about) = (problem.sizes, &problem.name);
    let (uploaded, rng) = (Uploaded::new(device, problem), &mut problem.rng.clone());
    let mut columns = Output::<f32, 3>::new(device, rng, [r, b, n]);
    let mut mass = Output::<f32, 2>::contiguous(device, [r, n]);
    let outputs = WeightsOutputs { matrix: Some(columns.view()), mass: Some(mass.view()) };
    let mut call = WeightsCall { columns: uploaded.columns(), input: uploaded.weights_input(), outputs };
    let queue = device.engine.on(&device.stream).unwrap();
    let workspace = &mut scratch(device, queue.weights_workspace(&mut call));
    queue.weights_into(&mut call, &mut whole(workspace)).unwrap();

    let expected = problem.weights_on_cpu();
    let [columns, mass] = [columns.values(device), mass.values(device)];
    for (what, given, wanted) in [("weight", columns, expected.matrix), ("mass", mass, expected.mass)] {
        assert_eq!(given.len(), wanted.len());
        for (at, (given, wanted)) in given.iter().zip(&wanted).enumerate() {
            let same = given.to_bits() == wanted.to_bits();
            assert!(same, "{what} {at} is {given:e} and not {wanted:e}: {about}");
        }
    }
}

fn random_problems_agree_bit_for_bit() {
    let device = device().unwrap();
    for number in 0..120 {
        device.schedule(SCHEDULES[number as usize % SCHEDULES.len()]);
        compare(device, &tiles("weights", number));
    }
    println!("120 problems, seed {}", seed());
}

/// More examples than a panel holds, and than shared memory does.
fn many_examples_agree_bit_for_bit() {
    for (number, b) in (0u64..).zip([193, 257, 512, 700, 1031, 2500]) {
        let mixing = Mixing::dirichlet(19, Alpha::Uniform { lo: 0.05, hi: 2.0 }).seed(number);
        let sizes = Sizes { b, n: 19, ..Sizes::default() };
        let outline = Outline { sizes, mixing, explicit: false, attention: number.is_multiple_of(2) };
        compare(device().unwrap(), &outline.fill(random("many", number)));
    }
}

fn every_alpha_agrees_bit_for_bit() {
    let fixed = [1e-3, 0.05, 0.5, 1.0, 1.7, 2.0, 50.0, 1e3].map(Alpha::Fixed);
    let ranges = [Alpha::PAPER, Alpha::Uniform { lo: 1e-3, hi: 1e3 }, Alpha::Uniform { lo: 1.0, hi: 2.0 }];
    for (number, alpha) in (0..).zip(fixed.into_iter().chain(ranges)) {
        let mixing = Mixing::dirichlet(100, alpha).seed(3).step(number);
        let sizes = Sizes { b: 128, r: 2, n: 100, ..Sizes::default() };
        let outline = Outline { sizes, mixing, explicit: false, attention: false };
        compare(device().unwrap(), &outline.fill(random("alpha", number)));
    }
}

/// Attention of any magnitude: the same bits on both engines, and s = sum a lambda.
fn masses_are_on_the_callers_scale() {
    let device = device().unwrap();
    let (b, r, n) = (37, 3, 50);
    let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(11);
    let lambda = cpu::weights(mixing, &WeightsInput { b, r, attention: None }).unwrap().matrix;
    for factor in [1e-30f32, 1.0, 1e30] {
        let attention: Vec<f32> = (0..b * r).map(|x| factor * (1.0 + (x as f32).sin())).collect();
        let view = Some(View::new(&attention, [b, r]).unwrap());
        let host = cpu::weights(mixing, &WeightsInput { b, r, attention: view }).unwrap();
        let memory = device.upload(&attention);
        let input = WeightsInput { b, r, attention: Some(View::new(&memory, [b, r]).unwrap()) };
        let queue = device.engine.on(&device.stream).unwrap();
        let mass = device.download(&queue.weights::<f32>(&mixing, &input).unwrap().mass);
        assert_eq!(mass, host.mass, "attention times {factor:e}");
        for (at, given) in mass.iter().enumerate() {
            let (j, k) = (at / n, at % n);
            let terms =
                (0..b).map(|i| f64::from(attention[i * r + j]) * f64::from(lambda[(j * b + i) * n + k]));
            let wanted: f64 = terms.sum();
            assert!(
                (f64::from(*given) / wanted - 1.0).abs() < 1e-5,
                "{given:e} is not {wanted:e}, {factor:e}"
            );
        }
    }
}

fn every_release_of_nvrtc_gives_the_same_bits() {
    let device = device().unwrap();
    let mixing = Mixing::dirichlet(33, Alpha::PAPER).seed(5);
    let expected = cpu::weights(mixing, &WeightsInput { b: 70, r: 2, attention: None }).unwrap();
    for library in nvrtc::fetched() {
        let compiler = Arc::new(Compiler::new(Nvrtc::open(&library).unwrap(), Cache::disabled()));
        let (major, minor) = compiler.nvrtc().version();
        let engine = Engine::with_compiler(device.context(), compiler).unwrap();
        let input = WeightsInput { b: 70, r: 2, attention: None };
        let drawn = engine.on(&device.stream).unwrap().weights::<f32>(&mixing, &input).unwrap().matrix;
        assert_eq!(device.download(&drawn), expected.matrix, "NVRTC {major}.{minor}");
        assert!(engine.compiler().compilations() > 0);
        println!("NVRTC {major}.{minor}");
    }
}
