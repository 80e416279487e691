//! Mixing on the device against the reference: features, targets and all gradients, in every type.

use half::{bf16, f16};
use multimix::cuda::Precision;
use multimix::reference::{self, Sizes, Targets};
use multimix::{Element, MixBackwardCall, MixBackwardOutputs, MixCall, MixOutputs};

use crate::support::device::{Device, SCHEDULES, device, lacks_ampere};
use crate::support::harness::Harness;
use crate::support::measure::{Rounding, check, floats, round, wide};
use crate::support::problem::Problem;
use crate::support::strided::Strided;
use crate::support::tiles::{seed, tiles};
use crate::upload::{Output, Uploaded, scratch, whole};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    let ampere = lacks_ampere(missing);
    harness.test("forward_f32", missing, || forward::<f32>(Precision::Exact, 40));
    harness.test("forward_f16", missing, || forward::<f16>(Precision::Exact, 40));
    harness.test("forward_tf32", ampere, || forward::<f32>(Precision::Tf32, 40));
    harness.test("forward_bf16", ampere, || forward::<bf16>(Precision::Exact, 40));
    harness.test("backward_f32", missing, || backward::<f32>(Precision::Exact, 30));
    harness.test("backward_f16", missing, || backward::<f16>(Precision::Exact, 30));
    harness.test("backward_tf32", ampere, || backward::<f32>(Precision::Tf32, 20));
    harness.test("backward_bf16", ampere, || backward::<bf16>(Precision::Exact, 20));
}

/// M̂ᵀ X by plain loops, with operands rounded as the device's products take them: (n, r, channels).
fn plain_mix<T: Element>(
    sizes: &Sizes,
    matrix: &[f32],
    rows: impl Fn(usize, usize, usize) -> f32,
    channels: usize,
    tf32: bool,
) -> Vec<f32> {
    let mut mixed = vec![0f32; sizes.n * sizes.r * channels];
    for k in 0..sizes.n {
        for j in 0..sizes.r {
            let out = &mut mixed[(k * sizes.r + j) * channels..][..channels];
            for i in 0..sizes.b {
                let m = round::<T>(matrix[sizes.weight(j, i, k)], tf32);
                out.iter_mut().enumerate().for_each(|(x, sum)| *sum += m * round::<T>(rows(i, j, x), tf32));
            }
        }
    }
    mixed
}

fn forward<T: Rounding>(precision: Precision, problems: u64) {
    each(problems, |device, number| forward_case(device, &tiles::<T>("mix forward", number), precision));
}

fn backward<T: Rounding>(precision: Precision, problems: u64) {
    each(problems, |device, number| backward_case(device, &tiles::<T>("mix backward", number), precision));
}

fn each(problems: u64, run: impl Fn(&Device, u64)) {
    let device = device().unwrap();
    for number in 0..problems {
        device.schedule(SCHEDULES[number as usize % SCHEDULES.len()]);
        run(device, number);
    }
    println!("{problems} problems, seed {}", seed());
}

fn forward_case<T: Rounding>(device: &Device, problem: &Problem<T>, precision: Precision) {
    let (sizes, about, tf32) = (problem.sizes, &problem.name, precision == Precision::Tf32);
    let Sizes { r, d, c, n, .. } = sizes;
    let (uploaded, rng) = (Uploaded::new(device, problem), &mut problem.rng.clone());
    let mut mixed = Output::<T, 3>::new(device, rng, [n, r, d]);
    let mut mixed_targets = problem.mixes_targets.then(|| Output::<f32, 3>::new(device, rng, [n, r, c]));
    let queue = device.engine.on(&device.stream).unwrap().precision(precision).unwrap();
    let outputs = MixOutputs { features: mixed.view(), targets: mixed_targets.as_mut().map(Output::view) };
    let mut call = MixCall { columns: uploaded.columns(), input: uploaded.mix_input(), outputs };
    let workspace = &mut scratch(device, queue.mix_workspace(&mut call));
    queue.mix_into(&mut call, &mut whole(workspace)).unwrap();

    // M̂ has the same bits on every engine.
    let matrix = problem.weights_on_cpu().matrix;
    let features = problem.features.floats();
    let exact = reference::mix_features(&sizes, &wide(&features), &wide(&matrix)).unwrap();
    let plain = plain_mix::<T>(&sizes, &matrix, |i, j, x| features[sizes.feature(i, j, x)], d, tf32);
    let (given, plain) = (floats(&mixed.values(device)), stored::<T>(plain));
    check(&format!("mixed features of {about}"), &given, &plain, &exact, T::UNIT);
    if let Some(mixed) = mixed_targets {
        let rows = problem.rows();
        let exact = reference::mix_targets(&sizes, Targets::Soft(&wide(&rows)), &wide(&matrix)).unwrap();
        let plain = plain_mix::<T>(&sizes, &matrix, |i, _, x| rows[i * c + x], c, tf32);
        check(&format!("mixed targets of {about}"), &mixed.values(device), &plain, &exact, f32::UNIT);
    }
}

/// As values of the storage type.
fn stored<T: Element>(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|x| T::from_f32(x).to_f32()).collect()
}

fn backward_case<T: Rounding>(device: &Device, problem: &Problem<T>, precision: Precision) {
    let (sizes, about, tf32) = (problem.sizes, &problem.name, precision == Precision::Tf32);
    let Sizes { b, r, d, c, .. } = sizes;
    let (uploaded, rng) = (Uploaded::new(device, problem), &mut problem.rng.clone());
    let has_rows = problem.mixes_targets && problem.soft.is_some();
    let mut d_features = Output::<T, 3>::new(device, rng, [b, r, d]);
    let mut d_targets = has_rows.then(|| Output::<f32, 2>::new(device, rng, [b, c]));
    let mut d_attention = problem.attention.as_ref().map(|_| Output::<f32, 2>::new(device, rng, [b, r]));
    let queue = device.engine.on(&device.stream).unwrap().precision(precision).unwrap();
    let outputs = MixBackwardOutputs {
        features: Some(d_features.view()),
        targets: d_targets.as_mut().map(Output::view),
        attention: d_attention.as_mut().map(Output::view),
    };
    let (columns, gradients) = (uploaded.columns(), uploaded.mixed_gradients());
    let mut call = MixBackwardCall { columns, input: uploaded.mix_input(), gradients, outputs };
    let workspace = &mut scratch(device, queue.mix_backward_workspace(&mut call));
    queue.mix_backward_into(&mut call, &mut whole(workspace)).unwrap();

    let matrix = problem.weights_on_cpu().matrix;
    let (features, incoming) = (problem.features.exact(), problem.d_mixed.floats());
    let (exact, _) =
        reference::mix_features_backward(&sizes, &features, &wide(&matrix), &wide(&incoming)).unwrap();
    let plain = stored::<T>(plain_gradient::<T>(&sizes, &matrix, &incoming, d, tf32));
    check(&format!("dZ of {about}"), &floats(&d_features.values(device)), &plain, &exact, T::UNIT);

    if let (Some(given), Some(incoming)) = (&d_targets, &problem.d_mixed_targets) {
        let (rows, incoming) = (wide(&problem.rows()), incoming.floats());
        let targets = Targets::Soft(&rows);
        let (exact, _) =
            reference::mix_targets_backward(&sizes, targets, &wide(&matrix), &wide(&incoming)).unwrap();
        let by_position = plain_gradient::<T>(&sizes, &matrix, &incoming, c, tf32);
        let mut plain = vec![0f32; b * c];
        for (at, x) in by_position.iter().enumerate() {
            plain[at / (r * c) * c + at % c] += x;
        }
        check(&format!("dY of {about}"), &given.values(device), &plain, &exact, f32::UNIT);
    }
    if let Some(given) = &d_attention {
        check_attention(problem, &given.values(device), tf32);
    }
}

/// M̂ G by plain loops, with operands rounded as the device's products take them: (b, r, channels).
fn plain_gradient<T: Element>(
    sizes: &Sizes,
    matrix: &[f32],
    incoming: &[f32],
    channels: usize,
    tf32: bool,
) -> Vec<f32> {
    let mut gradient = vec![0f32; sizes.b * sizes.r * channels];
    for i in 0..sizes.b {
        for j in 0..sizes.r {
            let out = &mut gradient[(i * sizes.r + j) * channels..][..channels];
            for k in 0..sizes.n {
                let m = round::<T>(matrix[sizes.weight(j, i, k)], tf32);
                let row = &incoming[(k * sizes.r + j) * channels..][..channels];
                out.iter_mut().zip(row).for_each(|(sum, g)| *sum += m * round::<T>(*g, tf32));
            }
        }
    }
    gradient
}

/// da against the reference; the plain implementation is the CPU engine on rounded operands.
fn check_attention<T: Element>(problem: &Problem<T>, given: &[f32], tf32: bool) {
    let Problem { sizes, mixing, ref name, .. } = *problem;
    let (exact, d_targets) =
        (problem.exact(problem.rounded()), problem.d_mixed_targets.as_ref().map(Strided::exact));
    let (inputs, d_mixed) = (exact.mix_inputs(true), problem.d_mixed.exact());
    let exact = reference::mix_backward(&sizes, &inputs, &d_mixed, d_targets.as_deref()).unwrap();
    let (rounded, rows) = (|x| round::<T>(x, tf32), problem.rows());
    let plain = Problem::<f32> {
        features: problem.features.map(rounded),
        soft: Some(Strided::contiguous([sizes.b, sizes.c], |at| rounded(rows[at]))),
        mixes_targets: problem.mixes_targets,
        attention: problem.attention.clone(),
        weights: problem.weights.clone(),
        d_mixed: problem.d_mixed.map(rounded),
        d_mixed_targets: problem.d_mixed_targets.as_ref().map(|targets| targets.map(rounded)),
        ..Problem::blank(name.clone(), sizes, mixing, problem.rng.clone())
    };
    let (plain, exact) = (plain.mix_backward_on_cpu().attention.unwrap(), exact.attention.unwrap());
    check(&format!("da of {name}"), given, &plain, &exact, 16.0 * f32::UNIT);
}
