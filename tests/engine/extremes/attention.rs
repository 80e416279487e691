//! Attention of features whose scores f32 does not hold: what the reference makes of them in f64.

use half::bf16;
use multimix::reference::{self, Sizes};
use multimix::{AttentionInput, AttentionOptions, Classifier, Element, Labels, Normalise, Query, View, cpu};

use crate::support::measure::assert_held;

const SIZES: Sizes = Sizes { b: 2, r: 3, d: 2, c: 2, n: 1 };
/// Features (b, r, d) on a scale of one.
const FEATURES: [f32; 12] =
    [1.0, 0.5, -0.25, 0.75, 0.5, 0.5, /* second */ 0.25, -1.0, 1.0, 0.0, 0.5, -0.5];

fn options() -> [AttentionOptions; 4] {
    let all = [Query::Gap, Query::Cam].map(|query| {
        [Normalise::ReluL1, Normalise::Softmax].map(|normalise| AttentionOptions { query, normalise })
    });
    [all[0][0], all[0][1], all[1][0], all[1][1]]
}

fn agrees<T: Element>(features: &[T], rows: [f32; 4], options: &AttentionOptions) {
    let (b, r, d, c) = (SIZES.b, SIZES.r, SIZES.d, SIZES.c);
    let cam = options.query == Query::Cam;
    // W in the type of the features, in which these rows are exact or nearly so.
    let rows = rows.map(T::from_f32);
    let labels = Labels::from(&[1u32, 0]);
    let classifier = cam.then(|| Classifier { rows: View::new(&rows, [c, d]).unwrap(), labels });
    let input = AttentionInput { features: View::new(features, [b, r, d]).unwrap(), classifier };
    let maps = cpu::attention(&input, options).unwrap();
    let wide: Vec<f64> = features.iter().map(|z| f64::from(z.to_f32())).collect();
    let wide_rows = rows.map(|w| f64::from(w.to_f32()));
    let wide_classifier = cam.then_some(reference::Classifier { rows: &wide_rows, labels: &[1, 0] });
    let wanted = reference::attention(&SIZES, &wide, *options, wide_classifier).unwrap();
    for (given, wanted) in maps.iter().zip(&wanted.maps) {
        assert!((f64::from(*given) - wanted).abs() < 1e-6, "{options:?}: {maps:?} for {:?}", wanted);
    }

    let d_maps = [0.5f32, -1.0, 0.25, 1.0, 0.125, -0.5];
    let view = View::new(&d_maps, [b, r]).unwrap();
    let gradients = cpu::attention_backward(&input, options, &view).unwrap();
    let wide_d_maps = d_maps.map(f64::from);
    let wanted =
        reference::attention_backward(&SIZES, &wide, *options, wide_classifier, &wide_d_maps).unwrap();
    let about = format!("{options:?}");
    let tolerance = if T::DTYPE == multimix::Dtype::F32 { 1e-5 } else { 1e-2 };
    assert_held(&about, &gradients.features, &wanted.features, tolerance);
    if let (Some(given), Some(wanted)) = (gradients.classifier, wanted.classifier) {
        assert_held(&about, &given, &wanted, tolerance);
    }
}

#[test]
fn scores_past_both_ends_of_f32() {
    for options in &options() {
        for scale in [1.0f32, 1e20, 1e38, 1e-25, 1e-38] {
            let features = FEATURES.map(|z| z * scale);
            agrees(&features, [0.5, 1.0, -1.0, 0.25], options);
            agrees(&features, [5e18, 1e19, -1e19, 2.5e18], options);
        }
    }
}

#[test]
fn the_largest_bf16() {
    let features = FEATURES.map(|z| bf16::from_f32(z * bf16::MAX.to_f32()));
    for options in &options() {
        agrees(&features, [0.5, 1.0, -1.0, 0.25], options);
    }
}
