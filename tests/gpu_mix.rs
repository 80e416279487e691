//! Mixing on the device against the reference: features, targets and all gradients, in every type.

mod common;

use std::process::ExitCode;

use common::array::{Input, Output, scratch};
use common::device::{self, Device, SCHEDULES, device};
use common::error::{Rounding, check, round};
use common::harness::passes;
use common::problem::{Problem, random};
use half::{bf16, f16};
use multimix::cuda::{
    DeviceElement, DeviceTargets, DeviceView, DeviceViewMut, MixInput, MixOutputs, MixTargets, Precision,
};
use multimix::reference::{self, Sizes, Targets};
use multimix::{Element, cpu};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

fn main() -> ExitCode {
    device::run(|harness, missing| {
        let needs_ampere = || match device() {
            Ok(device) if !device.has_bf16() => Some("needs compute capability 8.0"),
            _ => missing,
        };
        harness.test("forward_f32", missing, passes(|| forward::<f32>(Precision::Exact, 40)));
        harness.test("forward_f16", missing, passes(|| forward::<f16>(Precision::Exact, 40)));
        harness.test("forward_tf32", needs_ampere(), passes(|| forward::<f32>(Precision::Tf32, 40)));
        harness.test("forward_bf16", needs_ampere(), passes(|| forward::<bf16>(Precision::Exact, 40)));
    })
}

/// The inputs of one problem, in both memories.
struct Case<T> {
    problem: Problem,
    features: Input<T, 3>,
    attention: Option<Input<f32, 2>>,
    weights: Option<Input<f32, 3>>,
    labels: Option<(Vec<u32>, multimix::cuda::cudarc::driver::CudaSlice<u32>)>,
    soft: Option<Input<f32, 2>>,
    /// M̂ (r, b, n), the same bits on every engine.
    matrix: Vec<f32>,
}

impl<T: DeviceElement + Default> Case<T> {
    fn draw(device: &Device, rng: &mut ChaCha8Rng) -> Self {
        let problem = Problem::draw(rng);
        let Problem { b, r, d, c, .. } = problem;
        let attention = problem.attention(rng).map(|given| Input::given(device, given));
        let weights = problem.weights(rng).map(|given| Input::given(device, given));
        let kind = rng.random_range(0..3);
        let labels = problem.labels(rng);
        let labels = (kind == 1).then(|| (labels.clone(), device.upload(&labels)));
        let soft = (kind == 2).then(|| Input::draw(device, rng, [b, c], |rng| rng.random_range(0.0..1.0)));
        let host = cpu::WeightsInput {
            b,
            r,
            attention: attention.as_ref().map(Input::view),
            weights: weights.as_ref().map(Input::view),
        };
        let matrix = cpu::weights(&problem.mixing, &host).unwrap().matrix;
        let features = Input::uniform(device, rng, [b, r, d]);
        Self { problem, features, attention, weights, labels, soft, matrix }
    }

    fn sizes(&self) -> Sizes {
        let Problem { b, r, d, c, mixing, .. } = self.problem;
        Sizes { b, r, d, c, n: mixing.n }
    }

    fn input(&self) -> MixInput<'_, T> {
        let (b, classes) = (self.problem.b, self.problem.c);
        let labels = self
            .labels
            .as_ref()
            .map(|(_, labels)| DeviceTargets::Labels(DeviceView::new(labels, [b]).unwrap()));
        let soft = self.soft.as_ref().map(|soft| DeviceTargets::Soft(soft.on_device()));
        MixInput {
            features: self.features.on_device(),
            targets: labels.or(soft).map(|targets| MixTargets { targets, classes }),
            attention: self.attention.as_ref().map(Input::on_device),
            weights: self.weights.as_ref().map(Input::on_device),
        }
    }

    /// Y (b, c) as rows, where there are targets.
    fn rows(&self) -> Option<Vec<f32>> {
        let c = self.problem.c;
        let one_hot = |labels: &Vec<u32>| {
            labels
                .iter()
                .flat_map(|&y| (0..c as u32).map(move |class| f32::from(u8::from(class == y))))
                .collect()
        };
        self.labels
            .as_ref()
            .map(|(labels, _)| one_hot(labels))
            .or_else(|| self.soft.as_ref().map(Input::dense))
    }
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

fn forward<T: Rounding + DeviceElement + Default>(precision: Precision, problems: u64) {
    let device = device().unwrap();
    for number in 0..problems {
        device.schedule(SCHEDULES[number as usize % SCHEDULES.len()]);
        let rng = &mut random("mix forward", number);
        forward_case(device, &Case::<T>::draw(device, rng), precision, rng);
    }
    println!("{problems} problems");
}

fn forward_case<T: Rounding + DeviceElement + Default>(
    device: &Device,
    case: &Case<T>,
    precision: Precision,
    rng: &mut ChaCha8Rng,
) {
    let (sizes, input, tf32) = (case.sizes(), case.input(), precision == Precision::Tf32);
    let (mut mixed, mut mixed_targets) =
        (Output::<T, 3>::new(device, rng, [sizes.n, sizes.r, sizes.d]), None);
    if input.targets.is_some() {
        mixed_targets = Some(Output::<f32, 3>::new(device, rng, [sizes.n, sizes.r, sizes.c]));
    }
    let queue = device.engine.on(&device.stream).unwrap().precision(precision).unwrap();
    let bytes = queue.mix_forward_workspace_bytes(&input).unwrap();
    let mut workspace = scratch(device, bytes);
    let outputs = MixOutputs { features: mixed.view(), targets: mixed_targets.as_mut().map(Output::view) };
    let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
    queue.mix_forward_into(&case.problem.mixing, &input, outputs, workspace).unwrap();

    let about = format!("{:?}", case.problem);
    let matrix: Vec<f64> = case.matrix.iter().copied().map(f64::from).collect();
    let features = case.features.dense();
    let exact = reference::mix_features(&sizes, &case.features.dense_f64(), &matrix).unwrap();
    let mut plain =
        plain_mix::<T>(&sizes, &case.matrix, |i, j, x| features[sizes.feature(i, j, x)], sizes.d, tf32);
    plain.iter_mut().for_each(|x| *x = T::from_f32(*x).to_f32());
    check(&format!("mixed features of {about}"), &mixed.dense(device), &plain, &exact, T::UNIT);
    if let (Some(mixed), Some(rows)) = (mixed_targets, case.rows()) {
        let exact_rows: Vec<f64> = rows.iter().copied().map(f64::from).collect();
        let exact = reference::mix_targets(&sizes, Targets::Soft(&exact_rows), &matrix).unwrap();
        let plain = plain_mix::<T>(&sizes, &case.matrix, |i, _, x| rows[i * sizes.c + x], sizes.c, tf32);
        check(&format!("mixed targets of {about}"), &mixed.dense(device), &plain, &exact, f32::UNIT);
    }
}
