//! The sampler on the device: the same bits as the CPU engine's, for all generators, any α, layout, tile and schedule.

use std::sync::Arc;

use multimix::cpu;
use multimix::cuda::jit::{Cache, Compiler, Nvrtc};
use multimix::cuda::{
    DeviceView, DeviceViewMut, Engine, WeightsInput, WeightsOutput, weights_workspace_bytes,
};
use multimix::{Alpha, Mixing, View};

use crate::support::device::{Device, SCHEDULES, device};
use crate::support::harness::{Harness, add};
use crate::support::nvrtc;
use crate::support::tiles::{Problem, layout, random, reach, seed};

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
fn compare(device: &Device, problem: &Problem, name: &str, number: u64) {
    let rng = &mut random(name, number);
    let (b, r, n) = (problem.b, problem.r, problem.mixing.n);
    let (attention, weights) = (problem.attention(rng), problem.weights(rng));
    let host = cpu::WeightsInput {
        b,
        r,
        attention: attention.as_ref().map(|(data, layout)| View::from_layout(data, *layout).unwrap()),
        weights: weights.as_ref().map(|(data, layout)| View::from_layout(data, *layout).unwrap()),
    };
    let expected = cpu::weights(&problem.mixing, &host).unwrap();

    let on_device = |data: &[f32]| device.upload(data);
    let attention_memory = attention.as_ref().map(|(data, _)| on_device(data));
    let weights_memory = weights.as_ref().map(|(data, _)| on_device(data));
    let input = WeightsInput {
        b,
        r,
        attention: attention_memory
            .as_ref()
            .map(|m| DeviceView::from_layout(m, attention.as_ref().unwrap().1).unwrap()),
        weights: weights_memory
            .as_ref()
            .map(|m| DeviceView::from_layout(m, weights.as_ref().unwrap().1).unwrap()),
    };
    let out = layout(rng, [r, b, n]);
    let (mut columns, mut mass) =
        (device.upload(&vec![-7.0f32; reach(&out)]), device.uninitialised::<f32>(r * n));
    let bytes = weights_workspace_bytes(b, r, attention.is_some()).unwrap();
    let mut workspace = device.uninitialised::<u8>(bytes.max(1));
    let mut output = WeightsOutput {
        columns: Some(DeviceViewMut::from_layout(&mut columns, out).unwrap()),
        mass: Some(DeviceViewMut::new(&mut mass, [r, n]).unwrap()),
    };
    let queue = device.engine.on(&device.stream).unwrap();
    let scratch = &mut DeviceViewMut::new(&mut workspace, [bytes.max(1)]).unwrap();
    queue.weights_into(&problem.mixing, &input, &mut output, scratch).unwrap();

    let (columns, mass) = (device.download(&columns), device.download(&mass));
    let place = |index: usize| [index / n / b, index / n % b, index % n];
    for (index, wanted) in expected.matrix.iter().enumerate() {
        let given = columns[out.offset(place(index))];
        assert_eq!(
            given.to_bits(),
            wanted.to_bits(),
            "{given} and not {wanted} at {:?} of {problem:?}",
            place(index)
        );
    }
    assert_eq!(
        columns.iter().filter(|&&x| x == -7.0).count(),
        reach(&out) - r * b * n,
        "gaps of {problem:?}"
    );
    for (index, (given, wanted)) in mass.iter().zip(&expected.mass).enumerate() {
        assert_eq!(
            given.to_bits(),
            wanted.to_bits(),
            "mass {given:e}, not {wanted:e}, at {index} of {problem:?}"
        );
    }
}

fn random_problems_agree_bit_for_bit() {
    let device = device().unwrap();
    for number in 0..120 {
        device.schedule(SCHEDULES[number as usize % SCHEDULES.len()]);
        let problem = Problem::draw(&mut random("weights", number));
        compare(device, &problem, "weights", number);
    }
    println!("120 problems, seed {}", seed());
}

/// More examples than a panel holds, and than shared memory does.
fn many_examples_agree_bit_for_bit() {
    let device = device().unwrap();
    for (number, b) in [193, 257, 512, 700, 1031, 2500].into_iter().enumerate() {
        let mixing = Mixing::dirichlet(19, Alpha::Uniform { lo: 0.05, hi: 2.0 }).seed(number as u64);
        let problem = Problem { b, r: 1, d: 1, c: 1, mixing, attention: number % 2 == 0 };
        compare(device, &problem, "many", number as u64);
    }
}

fn every_alpha_agrees_bit_for_bit() {
    let device = device().unwrap();
    let fixed = [1e-3, 0.05, 0.5, 1.0, 1.7, 2.0, 50.0, 1e3].map(Alpha::Fixed);
    let ranges = [Alpha::PAPER, Alpha::Uniform { lo: 1e-3, hi: 1e3 }, Alpha::Uniform { lo: 1.0, hi: 2.0 }];
    for (number, alpha) in fixed.into_iter().chain(ranges).enumerate() {
        let mixing = Mixing::dirichlet(100, alpha).seed(3).step(number as u64);
        let problem = Problem { b: 128, r: 2, d: 1, c: 1, mixing, attention: false };
        compare(device, &problem, "alpha", number as u64);
    }
}

/// Attention of any magnitude: the same bits on both engines, and s = sum a lambda.
fn masses_are_on_the_callers_scale() {
    let device = device().unwrap();
    let (b, r, n) = (37, 3, 50);
    let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(11);
    let lambda = cpu::WeightsInput { b, r, attention: None, weights: None };
    let lambda = cpu::weights(&mixing, &lambda).unwrap().matrix;
    for factor in [1e-30f32, 1.0, 1e30] {
        let attention: Vec<f32> = (0..b * r).map(|x| factor * (1.0 + (x as f32).sin())).collect();
        let view = Some(View::new(&attention, [b, r]).unwrap());
        let host =
            cpu::weights(&mixing, &cpu::WeightsInput { b, r, attention: view, weights: None }).unwrap();
        let memory = device.upload(&attention);
        let input =
            WeightsInput { b, r, attention: Some(DeviceView::new(&memory, [b, r]).unwrap()), weights: None };
        let queue = device.engine.on(&device.stream).unwrap();
        let mass = device.download(&queue.weights::<f32>(&mixing, &input).unwrap().1);
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
    let expected =
        cpu::weights(&mixing, &cpu::WeightsInput { b: 70, r: 2, attention: None, weights: None }).unwrap();
    for library in nvrtc::fetched() {
        let compiler = Arc::new(Compiler::new(Nvrtc::open(&library).unwrap(), Cache::disabled()));
        let (major, minor) = compiler.nvrtc().version();
        let engine = Engine::with_compiler(device.context(), compiler).unwrap();
        let input = WeightsInput { b: 70, r: 2, attention: None, weights: None };
        let drawn = engine.on(&device.stream).unwrap().weights::<f32>(&mixing, &input).unwrap().0;
        assert_eq!(device.download(&drawn), expected.matrix, "NVRTC {major}.{minor}");
        assert!(engine.compiler().compilations() > 0);
        println!("NVRTC {major}.{minor}");
    }
}
