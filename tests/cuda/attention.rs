//! Attention on the device against the reference: both queries, both normalisations, forward and backward, in
//! every type.

use half::{bf16, f16};
use multimix::reference::Sizes;
use multimix::{AttentionBackwardCall, AttentionCall, AttentionOutputs, Element, Normalise};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::support::device::{Device, SCHEDULES, device};
use crate::support::harness::Harness;
use crate::support::measure::{Rounding, check, check_at, floats};
use crate::support::problem::Problem;
use crate::support::tiles::{Outline, random, seed};
use crate::upload::{Output, Uploaded, scratch, whole};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    harness.test("f32", missing, || problems::<f32>(40));
    harness.test("f16", missing, || problems::<f16>(40));
    harness.test("bf16", missing, || problems::<bf16>(20));
}

fn problems<T: Rounding>(count: u64) {
    let device = device().unwrap();
    for number in 0..count {
        device.schedule(SCHEDULES[number as usize % SCHEDULES.len()]);
        compare::<T>(device, random("attention", number));
    }
    println!("{count} problems, seed {}", seed());
}

fn compare<T: Rounding>(device: &Device, mut rng: ChaCha8Rng) {
    let outline = Outline::draw(&mut rng);
    let sizes = Sizes { b: outline.sizes.b.min(20), r: rng.random_range(1..50), ..outline.sizes };
    let problem = Outline { sizes, ..outline }.fill::<T>(rng);
    let (Sizes { b, r, d, c, .. }, options) = (sizes, problem.attention_options);
    let (uploaded, rng) = (Uploaded::new(device, &problem), &mut problem.rng.clone());
    let queue = device.engine.on(&device.stream).unwrap();
    let mut maps = Output::<f32, 2>::contiguous(device, [b, r]);
    let mut call = AttentionCall { input: uploaded.attention_input(), options, maps: maps.view() };
    let workspace = &mut scratch(device, queue.attention_workspace(&mut call));
    queue.attention_into(&mut call, &mut whole(workspace)).unwrap();

    let mut d_features = Output::<T, 3>::new(device, rng, [b, r, d]);
    let mut d_rows = problem.is_cam().then(|| Output::<T, 2>::new(device, rng, [c, d]));
    let outputs =
        AttentionOutputs { features: d_features.view(), classifier: d_rows.as_mut().map(Output::view) };
    let (input, d_maps) = (uploaded.attention_input(), uploaded.d_attention());
    let mut call = AttentionBackwardCall { input, options, d_maps, outputs };
    let workspace = &mut scratch(device, queue.attention_backward_workspace(&mut call));
    queue.attention_backward_into(&mut call, &mut whole(workspace)).unwrap();

    // The plain implementation of the same precision is the CPU engine: f32 throughout.
    let (plain, plain_d) = (problem.attention_on_cpu(), problem.attention_backward_on_cpu());
    let (exact, exact_d) = problem.exact(vec![]).attend(options, &problem.d_attention.exact());
    let (about, unit) = (&problem.name, 4.0 * f32::UNIT);
    check(&format!("maps, {about}"), &maps.values(device), &plain, &exact.maps, unit);
    let given = floats(&d_features.values(device));
    check(&format!("dZ, {about}"), &given, &floats(&plain_d.features), &exact_d.features, T::UNIT + unit);
    assert_eq!(plain_d.classifier.is_some(), d_rows.is_some());
    if let (Some(given), Some(plain), Some(exact)) = (d_rows, plain_d.classifier, exact_d.classifier) {
        let given = floats(&given.values(device));
        check_at(
            &format!("dW, {about}"),
            &given,
            &floats(&plain),
            &exact,
            T::UNIT + unit,
            cancelling(&problem),
        );
    }
}

/// With one channel a class's weight w is a factor of all scores of a map, which their shares do not depend
/// on: its gradient is zero, and what is found is the roundings of terms up to 1 / w for each example.
fn cancelling<T: Element>(problem: &Problem<T>) -> f64 {
    if problem.sizes.d > 1 || problem.attention_options.normalise != Normalise::ReluL1 {
        return 0.0;
    }
    let of_class = |(class, w): (u32, &f64)| {
        problem.labels.iter().filter(|&&label| label == class).count() as f64 / w.abs()
    };
    (0..).zip(&problem.classifier.exact()).map(of_class).fold(0.0, f64::max)
}
