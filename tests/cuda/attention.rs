//! Attention on the device against the reference: both queries, both normalisations, forward and backward, in every type.

use half::{bf16, f16};
use multimix::cuda::{AttentionOutputs, DeviceElement};
use multimix::reference::Sizes;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::support::device::{Device, SCHEDULES, device};
use crate::support::harness::Harness;
use crate::support::measure::{Rounding, check, floats};
use crate::support::tiles::{Outline, random, seed};
use crate::upload::{Output, Uploaded, scratch, whole};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    harness.test("f32", missing, || problems::<f32>(40));
    harness.test("f16", missing, || problems::<f16>(40));
    harness.test("bf16", missing, || problems::<bf16>(20));
}

fn problems<T: Rounding + DeviceElement + Default>(count: u64) {
    let device = device().unwrap();
    for number in 0..count {
        device.schedule(SCHEDULES[number as usize % SCHEDULES.len()]);
        compare::<T>(device, random("attention", number));
    }
    println!("{count} problems, seed {}", seed());
}

fn compare<T: Rounding + DeviceElement + Default>(device: &Device, mut rng: ChaCha8Rng) {
    let outline = Outline::draw(&mut rng);
    let sizes = Sizes { b: outline.sizes.b.min(20), r: rng.random_range(1..50), ..outline.sizes };
    let problem = Outline { sizes, ..outline }.fill::<T>(rng);
    let (Sizes { b, r, d, c, .. }, options) = (sizes, problem.attention_options);
    let (uploaded, rng) = (Uploaded::new(device, &problem), &mut problem.rng.clone());
    let input = uploaded.attention_input();
    let queue = device.engine.on(&device.stream).unwrap();
    let mut maps = Output::<f32, 2>::contiguous(device, [b, r]);
    let workspace = &mut scratch(device, queue.attention_workspace_bytes(&input));
    queue.attention_forward_into(&input, &options, maps.view(), &mut whole(workspace)).unwrap();

    let mut d_features = Output::<T, 3>::new(device, rng, [b, r, d]);
    let mut d_rows = problem.is_cam().then(|| Output::<T, 2>::new(device, rng, [c, d]));
    let outputs =
        AttentionOutputs { features: d_features.view(), classifier: d_rows.as_mut().map(Output::view) };
    let (workspace, d_maps) =
        (&mut scratch(device, queue.attention_workspace_bytes(&input)), uploaded.d_attention());
    queue.attention_backward_into(&input, &options, &d_maps, outputs, &mut whole(workspace)).unwrap();

    // The plain implementation of the same precision is the CPU engine: f32 throughout.
    let (plain, plain_d) = (problem.attention_on_cpu(), problem.attention_backward_on_cpu());
    let (exact, exact_d) = problem.exact(vec![]).attend(options, &problem.d_attention.exact());
    let (about, unit) = (&problem.name, 4.0 * f32::UNIT);
    check(&format!("maps, {about}"), &maps.values(device), &plain, &exact.maps, unit);
    let given = floats(&d_features.values(device));
    check(&format!("dZ, {about}"), &given, &floats(&plain_d.features), &exact_d.features, T::UNIT + unit);
    assert_eq!(plain_d.classifier.is_some(), d_rows.is_some());
    if let (Some(given), Some(plain), Some(exact)) = (d_rows, plain_d.classifier, exact_d.classifier) {
        check(&format!("dW, {about}"), &floats(&given.values(device)), &plain, &exact, T::UNIT + unit);
    }
}
