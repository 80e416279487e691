//! Masked classes, empty attention maps and values at the ends of f32 on the device: the reference's results.

use half::{bf16, f16};
use multimix::cuda::Precision;
use multimix::reference::{self, MixInputs, Sizes};
use multimix::{
    Alpha, AttentionInput, AttentionOptions, Classifier, Dtype, Element, EmptyMaps, Factor, Generator,
    MixInput, MixedGradients, Mixing, Normalise, Query, View, WeightsInput, cpu,
};

use crate::loss;
use crate::support::device::{Device, SCHEDULES, device, lacks_ampere};
use crate::support::harness::{Harness, add};
use crate::support::masked::{masked, masked_of};
use crate::support::measure::{assert_close, assert_held, wide};
use crate::support::problem::Problem;
use crate::support::raw::raw_weights;

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    let ampere = lacks_ampere(missing);
    harness.test("masked_classes_in_tf32", ampere, || masked_problems::<f32>(Precision::Tf32, 24, 5e-3));
    harness.test("masked_classes_in_f32", missing, || masked_problems::<f32>(Precision::Exact, 60, 3e-5));
    harness.test("masked_classes_in_f16", missing, || masked_problems::<f16>(Precision::Exact, 24, 6e-3));
    harness.test("masked_classes_in_bf16", missing, || masked_problems::<bf16>(Precision::Exact, 24, 5e-2));
    add!(
        harness,
        missing,
        masked_classes_of_more_examples_than_a_block_draws,
        attention_of_features_past_both_ends_of_f32,
        gradients_of_tiny_attention,
        an_example_without_attention_is_uniform_or_left_out,
    );
}

/// Random masked problems under several schedules.
fn masked_problems<T: Element>(precision: Precision, count: u64, tolerance: f64) {
    let device = device().unwrap();
    let (mut infinite, mut compared) = (0, 0);
    for index in 0..count {
        let problem = masked::<T>(index);
        // Weights that f16 rounds to zero mask nothing there.
        let dirichlet =
            problem.weights.is_none() && matches!(problem.mixing.generator, Generator::Dirichlet { .. });
        if T::DTYPE == Dtype::F16 && dirichlet && index.is_multiple_of(3) {
            continue;
        }
        device.schedule(SCHEDULES[index as usize % SCHEDULES.len()]);
        infinite += u32::from(compare(device, &problem, precision, tolerance));
        compared += 1;
    }
    println!("{compared} masked problems, the loss of {infinite} infinite");
    assert!(infinite > 0 && infinite < compared, "{infinite} of {compared}");
}

/// Columns that are stored before they are multiplied; mostly zero in the fourth problem.
fn masked_classes_of_more_examples_than_a_block_draws() {
    let device = device().unwrap();
    for (index, b) in [(3, 600), (2, 600), (7, 130)] {
        let sizes = Sizes { b, r: 1, d: 1, c: 5, n: 20 };
        compare(device, &masked_of::<f32>(index, sizes), Precision::Exact, 3e-5);
        compare(device, &masked_of::<f16>(index, sizes), Precision::Exact, 6e-3);
    }
}

/// Whether the loss is infinite.
fn compare<T: Element>(device: &Device, problem: &Problem<T>, precision: Precision, tolerance: f64) -> bool {
    let is_infinite = problem.exact_loss().0.value.is_infinite();
    problem.assert_close_loss(&loss::on_device(device, problem, precision), tolerance);
    is_infinite
}

fn attention_of_features_past_both_ends_of_f32() {
    let device = device().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let sizes = Sizes { b: 2, r: 3, d: 8, c: 2, n: 1 };
    let Sizes { b, r, d, c, .. } = sizes;
    let labels = device.upload(&[1u32, 0]);
    let rows: Vec<f32> = (0..c * d).map(|x| (x as f32 * 0.9).cos()).collect();
    let device_rows = device.upload(&rows);
    let d_maps: Vec<f32> = (0..b * r).map(|x| (x as f32 * 1.7).sin()).collect();
    let device_d_maps = device.upload(&d_maps);
    for scale in [1f32, 1e20, 1e37, 1e-25, 1e-38] {
        let features: Vec<f32> = (0..b * r * d).map(|x| (x as f32 * 1.3).sin() * scale).collect();
        let memory = device.upload(&features);
        for (query, normalise) in [
            (Query::Gap, Normalise::ReluL1),
            (Query::Gap, Normalise::Softmax),
            (Query::Cam, Normalise::ReluL1),
            (Query::Cam, Normalise::Softmax),
        ] {
            let cam = query == Query::Cam;
            let options = AttentionOptions { query, normalise };
            let input = AttentionInput {
                features: View::new(&memory, [b, r, d]).unwrap(),
                classifier: cam.then(|| Classifier {
                    rows: View::new(&device_rows, [c, d]).unwrap(),
                    labels: View::new(&labels, [b]).unwrap().into(),
                }),
            };
            let maps = queue.attention(&input, &options).unwrap();
            let gradient = View::new(&device_d_maps, [b, r]).unwrap();
            let gradients = queue.attention_backward(&input, &options, &gradient).unwrap();
            let wide_rows = wide(&rows);
            let classifier = cam.then_some(reference::Classifier { rows: &wide_rows, labels: &[1, 0] });
            let wide_features = wide(&features);
            let wanted = reference::attention(&sizes, &wide_features, options, classifier).unwrap();
            let name = format!("{options:?} of features near {scale:e}");
            assert_close(&name, &device.download(&maps), &wanted.maps, 1e-5);
            let wanted =
                reference::attention_backward(&sizes, &wide_features, options, classifier, &wide(&d_maps))
                    .unwrap();
            assert_held(
                &format!("dZ, {name}"),
                &device.download(&gradients.features),
                &wanted.features,
                1e-4,
            );
            if let (Some(given), Some(wanted)) = (gradients.classifier, wanted.classifier) {
                assert_held(&format!("dW, {name}"), &device.download(&given), &wanted, 1e-4);
            }
        }
    }
}

/// Pairs of which both have next to no attention: 1 / s is 1e35.
fn gradients_of_tiny_attention() {
    let device = device().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let sizes = Sizes { b: 4, r: 1, d: 3, c: 1, n: 64 };
    let mixing = Mixing::pair(64, Alpha::PAPER, Factor::PerColumn).seed(5);
    let features: Vec<f32> = (0..12).map(|x| (x as f32 * 1.3).sin()).collect();
    let attention = [1e-38f32, 1e-38, 1e-3, 1e-38];
    let (device_features, device_attention) = (device.upload(&features), device.upload(&attention));
    for scale in [1e-3f32, 1.0, 1e3, 1e6] {
        let d_mixed: Vec<f32> = (0..192).map(|x| (x as f32 * 0.7).cos() * scale).collect();
        let device_d_mixed = device.upload(&d_mixed);
        let input = MixInput {
            features: View::new(&device_features, [4, 1, 3]).unwrap(),
            targets: None,
            attention: Some(View::new(&device_attention, [4, 1]).unwrap()),
        };
        let gradients =
            MixedGradients { features: View::new(&device_d_mixed, [64, 1, 3]).unwrap(), targets: None };
        let given = queue.mix_backward(mixing, &input, &gradients).unwrap().attention.unwrap();
        let inputs = MixInputs {
            features: &wide(&features),
            targets: reference::Targets::Labels(&[0; 4]),
            weights: &reference::normalise_weights(&sizes, &wide(&raw_weights(&sizes, &mixing, None)))
                .unwrap(),
            attention: Some(&wide(&attention)),
        };
        let wanted = reference::mix_backward(&sizes, &inputs, &wide(&d_mixed), None).unwrap();
        assert_held("da", &device.download(&given), &wanted.attention.unwrap(), 1e-4);
    }
}

/// The same bits as on the CPU, under both rules.
fn an_example_without_attention_is_uniform_or_left_out() {
    let device = device().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let attention = [0.5f32, 0.0, 0.0, 0.0, 0.25, 1.0];
    let memory = device.upload(&attention);
    let mut matrices = vec![];
    for empty_maps in [EmptyMaps::Uniform, EmptyMaps::LeaveOut] {
        let mixing = Mixing::dirichlet(20, Alpha::PAPER).seed(8).empty_maps(empty_maps);
        let input = WeightsInput { b: 3, r: 2, attention: Some(View::new(&memory, [3, 2]).unwrap()) };
        let given = queue.weights::<f32>(&mixing, &input).unwrap();
        let view = View::new(&attention, [3, 2]).unwrap();
        let input = WeightsInput { b: 3, r: 2, attention: Some(view) };
        let wanted = cpu::weights(mixing, &input).unwrap();
        assert_eq!(device.download(&given.matrix), wanted.matrix);
        assert_eq!(device.download(&given.mass), wanted.mass);
        matrices.push(wanted.matrix);
    }
    // (r, b, n): the second example is out at both positions, and in by default.
    let of_second = |matrix: &[f32], j: usize| matrix[(j * 3 + 1) * 20..][..20].to_vec();
    for j in 0..2 {
        assert_eq!(of_second(&matrices[1], j), [0.0; 20]);
        assert!(of_second(&matrices[0], j).iter().all(|&m| m > 0.0));
    }
}
