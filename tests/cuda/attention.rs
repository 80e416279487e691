//! Attention on the device against the reference: both queries, both normalisations, forward and backward, in every type.

use half::{bf16, f16};
use multimix::cuda::{
    AttentionInput, AttentionOutputs, Classifier, DeviceElement, DeviceView, DeviceViewMut,
};
use multimix::reference::{self, Sizes};
use multimix::{AttentionOptions, Normalise, Query, View, cpu};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::array::{Input, Output, scratch};
use crate::support::device::{Device, SCHEDULES, device};
use crate::support::harness::Harness;
use crate::support::measure::{Rounding, check};
use crate::support::tiles::{Problem, random, seed};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    harness.test("f32", missing, || problems::<f32>(40));
    harness.test("f16", missing, || problems::<f16>(40));
    harness.test("bf16", missing, || problems::<bf16>(20));
}

fn problems<T: Rounding + DeviceElement + Default>(count: u64) {
    let device = device().unwrap();
    for number in 0..count {
        device.schedule(SCHEDULES[number as usize % SCHEDULES.len()]);
        compare::<T>(device, &mut random("attention", number));
    }
    println!("{count} problems, seed {}", seed());
}

fn compare<T: Rounding + DeviceElement + Default>(device: &Device, rng: &mut ChaCha8Rng) {
    let problem = Problem { r: rng.random_range(1..50), ..Problem::draw(rng) };
    let Problem { b, r, d, c, .. } = problem;
    let b = b.min(20);
    let problem = Problem { b, ..problem };
    let query = if rng.random_bool(0.5) { Query::Gap } else { Query::Cam };
    let normalise = if rng.random_bool(0.5) { Normalise::ReluL1 } else { Normalise::Softmax };
    let options = AttentionOptions { query, normalise };
    let features = Input::<T, 3>::uniform(device, rng, [b, r, d]);
    let rows = Input::<T, 2>::uniform(device, rng, [c, d]);
    let labels = problem.labels(rng);
    let device_labels = device.upload(&labels);
    let d_maps: Vec<f32> = (0..b * r).map(|_| rng.random_range(-1.0..1.0)).collect();

    let classifier = (query == Query::Cam).then(|| Classifier {
        rows: rows.on_device(),
        labels: DeviceView::new(&device_labels, [b]).unwrap(),
    });
    let input = AttentionInput { features: features.on_device(), classifier };
    let queue = device.engine.on(&device.stream).unwrap();
    let bytes = queue.attention_workspace_bytes(&input).unwrap();
    let mut maps = device.uninitialised::<f32>(b * r);
    let mut workspace = scratch(device, bytes);
    let view = DeviceViewMut::new(&mut maps, [b, r]).unwrap();
    let memory = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
    queue.attention_forward_into(&input, &options, view, memory).unwrap();

    let mut d_features = Output::<T, 3>::new(device, rng, [b, r, d]);
    let mut d_rows = (query == Query::Cam).then(|| Output::<T, 2>::new(device, rng, [c, d]));
    let d_maps_memory = device.upload(&d_maps);
    let d_view = DeviceView::new(&d_maps_memory, [b, r]).unwrap();
    let outputs =
        AttentionOutputs { features: d_features.view(), classifier: d_rows.as_mut().map(Output::view) };
    let mut workspace = scratch(device, bytes);
    let memory = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
    queue.attention_backward_into(&input, &options, &d_view, outputs, memory).unwrap();

    // The plain implementation of the same precision is the CPU engine: f32 throughout.
    let dense_rows = rows.dense();
    let plain_classifier = (query == Query::Cam)
        .then(|| cpu::Classifier { rows: View::new(&dense_rows, [c, d]).unwrap(), labels: &labels });
    let plain_input = cpu::AttentionInput { features: features.view(), classifier: plain_classifier };
    let plain = cpu::attention_forward(&plain_input, &options).unwrap();
    let plain_d =
        cpu::attention_backward(&plain_input, &options, &View::new(&d_maps, [b, r]).unwrap()).unwrap();

    let sizes = Sizes { b, r, d, c, n: 1 };
    let (wide_rows, wide_labels) = (rows.dense_f64(), labels.iter().map(|&y| y as usize).collect::<Vec<_>>());
    let classifier =
        (query == Query::Cam).then(|| reference::Classifier { rows: &wide_rows, labels: &wide_labels });
    let wide = features.dense_f64();
    let exact = reference::attention(&sizes, &wide, options, classifier).unwrap();
    let wide_d: Vec<f64> = d_maps.iter().copied().map(f64::from).collect();
    let exact_d = reference::attention_backward(&sizes, &wide, options, classifier, &wide_d).unwrap();

    let about = format!("{:?} of {problem:?}", options);
    let unit = 4.0 * f32::UNIT;
    check(&format!("maps, {about}"), &device.download(&maps), &plain, &exact.maps, unit);
    let plain_features: Vec<f32> = plain_d.features.iter().map(|x| x.to_f32()).collect();
    check(
        &format!("dZ, {about}"),
        &d_features.dense(device),
        &plain_features,
        &exact_d.features,
        T::UNIT + unit,
    );
    if let (Some(given), Some(plain), Some(exact)) = (d_rows, plain_d.classifier, exact_d.classifier) {
        check(&format!("dW, {about}"), &given.dense(device), &plain, &exact, T::UNIT + unit);
    }
}
