//! Mixing on the device against the reference: features, targets and all gradients, in every type.

use half::{bf16, f16};
use multimix::cuda::{
    DeviceElement, DeviceTargets, DeviceView, DeviceViewMut, MixBackwardOutputs, MixInput, MixOutputs,
    MixTargets, MixedGradients, Precision,
};
use multimix::reference::{self, Sizes, Targets};
use multimix::{Element, cpu};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::array::{Input, Output, scratch};
use crate::support::device::{Device, SCHEDULES, device, lacks_ampere};
use crate::support::harness::Harness;
use crate::support::measure::{Rounding, check, round};
use crate::support::tiles::{Problem, random, seed};

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
    println!("{problems} problems, seed {}", seed());
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

fn backward<T: Rounding + DeviceElement + Default>(precision: Precision, problems: u64) {
    let device = device().unwrap();
    for number in 0..problems {
        device.schedule(SCHEDULES[number as usize % SCHEDULES.len()]);
        let rng = &mut random("mix backward", number);
        backward_case(device, &Case::<T>::draw(device, rng), precision, rng);
    }
    println!("{problems} problems, seed {}", seed());
}

fn backward_case<T: Rounding + DeviceElement + Default>(
    device: &Device,
    case: &Case<T>,
    precision: Precision,
    rng: &mut ChaCha8Rng,
) {
    let (sizes, input, tf32) = (case.sizes(), case.input(), precision == Precision::Tf32);
    let Sizes { b, r, d, c, n } = sizes;
    let d_mixed = Input::<T, 3>::uniform(device, rng, [n, r, d]);
    let d_mixed_targets = input.targets.as_ref().map(|_| Input::<f32, 3>::uniform(device, rng, [n, r, c]));
    let mut d_features = Output::<T, 3>::new(device, rng, [b, r, d]);
    let mut d_targets = case.soft.as_ref().map(|_| Output::<f32, 2>::new(device, rng, [b, c]));
    let mut d_attention = case.attention.as_ref().map(|_| Output::<f32, 2>::new(device, rng, [b, r]));
    let queue = device.engine.on(&device.stream).unwrap().precision(precision).unwrap();
    let outputs = MixBackwardOutputs {
        features: Some(d_features.view()),
        targets: d_targets.as_mut().map(Output::view),
        attention: d_attention.as_mut().map(Output::view),
    };
    let mixing = &case.problem.mixing;
    let bytes = queue.mix_backward_workspace_bytes(mixing, &input, &outputs).unwrap();
    let mut workspace = scratch(device, bytes);
    let gradients = MixedGradients {
        features: d_mixed.on_device(),
        targets: d_mixed_targets.as_ref().map(Input::on_device),
    };
    let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
    queue.mix_backward_into(mixing, &input, &gradients, outputs, workspace).unwrap();

    let about = format!("{:?}", case.problem);
    let matrix: Vec<f64> = case.matrix.iter().copied().map(f64::from).collect();
    let (exact, _) =
        reference::mix_features_backward(&sizes, &case.features.dense_f64(), &matrix, &d_mixed.dense_f64())
            .unwrap();
    let incoming = d_mixed.dense();
    let plain: Vec<f32> = plain_gradient::<T>(&sizes, &case.matrix, &incoming, d, tf32);
    let plain: Vec<f32> = plain.into_iter().map(|x| T::from_f32(x).to_f32()).collect();
    check(&format!("dZ of {about}"), &d_features.dense(device), &plain, &exact, T::UNIT);

    if let (Some(given), Some(incoming), Some(rows)) = (&d_targets, &d_mixed_targets, case.rows()) {
        let rows: Vec<f64> = rows.into_iter().map(f64::from).collect();
        let (exact, _) =
            reference::mix_targets_backward(&sizes, Targets::Soft(&rows), &matrix, &incoming.dense_f64())
                .unwrap();
        let by_position = plain_gradient::<T>(&sizes, &case.matrix, &incoming.dense(), c, tf32);
        let mut plain = vec![0f32; b * c];
        for (at, x) in by_position.iter().enumerate() {
            plain[at / (r * c) * c + at % c] += x;
        }
        check(&format!("dY of {about}"), &given.dense(device), &plain, &exact, f32::UNIT);
    }
    if let Some(given) = &d_attention {
        check_attention(device, case, given, &d_mixed, d_mixed_targets.as_ref(), tf32, &about);
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
fn check_attention<T: Rounding + DeviceElement + Default>(
    device: &Device,
    case: &Case<T>,
    given: &Output<f32, 2>,
    d_mixed: &Input<T, 3>,
    d_mixed_targets: Option<&Input<f32, 3>>,
    tf32: bool,
    about: &str,
) {
    let Sizes { b, r, d, c, n } = case.sizes();
    let attention = case.attention.as_ref().expect("its gradient was asked for");
    let host = cpu::WeightsInput { b, r, attention: None, weights: case.weights.as_ref().map(Input::view) };
    let lambda = cpu::weights(&case.problem.mixing, &host).unwrap().matrix;
    let wide = |values: &[f32]| -> Vec<f64> { values.iter().copied().map(f64::from).collect() };
    let rows = case.rows().unwrap_or(vec![0.0; b * c]);
    let inputs = reference::MixInputs {
        features: &case.features.dense_f64(),
        targets: Targets::Soft(&wide(&rows)),
        weights: &wide(&lambda),
        attention: Some(&attention.dense_f64()),
    };
    let d_targets = d_mixed_targets.map(Input::dense_f64);
    let exact =
        reference::mix_backward(&case.sizes(), &inputs, &d_mixed.dense_f64(), d_targets.as_deref()).unwrap();
    let rounded =
        |values: Vec<f32>| -> Vec<f32> { values.into_iter().map(|x| round::<T>(x, tf32)).collect() };
    let (features, rows, incoming) =
        (rounded(case.features.dense()), rounded(rows), rounded(d_mixed.dense()));
    let incoming_targets = d_mixed_targets.map(|view| rounded(view.dense()));
    let view = |values| multimix::View::new(values, [b, c]).unwrap();
    let input = cpu::MixInput {
        features: multimix::View::new(&features, [b, r, d]).unwrap(),
        targets: d_mixed_targets
            .map(|_| cpu::MixTargets { targets: cpu::Targets::Soft(view(&rows)), classes: c }),
        attention: Some(attention.view()),
        weights: case.weights.as_ref().map(Input::view),
    };
    let gradients = cpu::MixedGradients {
        features: multimix::View::new(&incoming, [n, r, d]).unwrap(),
        targets: incoming_targets.as_ref().map(|rows| multimix::View::new(rows, [n, r, c]).unwrap()),
    };
    let plain =
        cpu::mix_backward(&case.problem.mixing, &input, &gradients).unwrap().attention.expect("given");
    let exact = exact.attention.expect("given");
    check(&format!("da of {about}"), &given.dense(device), &plain, &exact, 16.0 * f32::UNIT);
}
