//! The sampler on the device: the same bits as the CPU engine's, for all generators, any α, layout, tile and schedule.

mod common;

use std::process::ExitCode;

use common::device::{Device, SCHEDULES, device};
use common::harness::passes;
use common::problem::{Problem, layout, random, reach, seed};
use common::{Harness, device};
use multimix::cpu;
use multimix::cuda::{DeviceView, DeviceViewMut, WeightsInput, WeightsOutput, weights_workspace_bytes};
use multimix::{Alpha, Mixing, View};

fn main() -> ExitCode {
    device::run(|harness: &mut Harness, missing| {
        let tests: [(&str, fn()); 3] = [
            ("random_problems_agree_bit_for_bit", random_problems_agree_bit_for_bit),
            ("many_examples_agree_bit_for_bit", many_examples_agree_bit_for_bit),
            ("every_alpha_agrees_bit_for_bit", every_alpha_agrees_bit_for_bit),
        ];
        for (name, test) in tests {
            harness.test(name, missing, passes(test));
        }
    })
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
    // The CPU engine keeps masses on the scale of the position, a power of two away from the caller's.
    let scales = position_scales(host.attention.as_ref(), r);
    for (index, (given, wanted)) in mass.iter().zip(&expected.mass).enumerate() {
        let wanted = wanted / scales[index / n];
        assert_eq!(
            given.to_bits(),
            wanted.to_bits(),
            "mass {given:e}, not {wanted:e}, at {index} of {problem:?}"
        );
    }
}

/// The power of two that brings the largest attention of each position into [1, 2), an all-zero map being uniform.
fn position_scales(attention: Option<&View<'_, f32, 2>>, r: usize) -> Vec<f32> {
    let Some(attention) = attention else { return vec![1.0; r] };
    let b = attention.shape()[0];
    let settled = |i, j| {
        let empty = (0..r).all(|other| attention.get([i, other]) == 0.0);
        if empty { 1.0 / r as f32 } else { attention.get([i, j]) }
    };
    let largest = |j| (0..b).map(|i| settled(i, j)).fold(0f32, f32::max);
    (0..r).map(|j| if largest(j) > 0.0 { (-largest(j).log2().floor()).exp2() } else { 1.0 }).collect()
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
