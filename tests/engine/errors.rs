//! Bad input gives a typed error whose message names the op, the argument, the value and the rule; never a
//! panic.

use multimix::{
    Alpha, AttentionInput, AttentionOptions, Classifier, Columns, Error, ErrorKind, Factor, Labels, Layout,
    Loss, LossCall, LossInput, LossOptions, LossOutputs, MixBackwardCall, MixBackwardOutputs, MixCall,
    MixInput, MixOutputs, MixTargets, MixedGradients, Mixing, Normalise, Query, Targets, View, ViewMut, Want,
    WeightsCall, WeightsInput, WeightsOutputs, cpu,
};

/// The sizes of the problem that each test spoils in one place.
const B: usize = 4;
const R: usize = 3;
const D: usize = 5;
const C: usize = 6;
const N: usize = 7;

/// Arrays of a sound problem.
struct Data {
    features: Vec<f32>,
    logits: Vec<f32>,
    attention: Vec<f32>,
    labels: Vec<u32>,
    soft: Vec<f32>,
    weights: Vec<f32>,
}

impl Data {
    fn new() -> Self {
        Self {
            features: vec![0.5; B * R * D],
            logits: vec![0.5; B * R * C],
            attention: vec![0.25; B * R],
            labels: vec![1; B],
            soft: vec![0.5; B * C],
            weights: vec![1.0; R * B * N],
        }
    }

    fn loss(&self) -> LossInput<'_, f32> {
        LossInput {
            logits: View::new(&self.logits, [B, R, C]).unwrap(),
            targets: Targets::labels(&self.labels),
            attention: Some(View::new(&self.attention, [B, R]).unwrap()),
        }
    }

    fn mix(&self) -> MixInput<'_, f32> {
        MixInput {
            features: View::new(&self.features, [B, R, D]).unwrap(),
            targets: Some(MixTargets { targets: Targets::labels(&self.labels), classes: C }),
            attention: Some(View::new(&self.attention, [B, R]).unwrap()),
        }
    }

    fn explicit(&self) -> View<'_, f32, 3> {
        View::new(&self.weights, [R, B, N]).unwrap()
    }

    fn loss_call<'a>(&'a self, outputs: LossOutputs<'a, f32>) -> LossCall<'a, f32> {
        let (input, options) = (self.loss(), LossOptions::default());
        LossCall { columns: mixing().into(), input, options, upstream: 1.0.into(), outputs }
    }
}

fn mixing() -> Mixing {
    Mixing::dirichlet(N, Alpha::PAPER)
}

#[track_caller]
fn assert_says<T: std::fmt::Debug>(result: Result<T, Error>, message: &str) {
    assert_eq!(result.unwrap_err().to_string(), message);
}

fn loss<'a>(columns: impl Into<Columns<'a>>, input: &LossInput<'_, f32>) -> Result<Loss<f32>, Error> {
    cpu::loss(columns, input, &LossOptions::default(), Want::Loss)
}

#[test]
fn the_sound_problem_is_accepted() {
    let data = Data::new();
    loss(mixing(), &data.loss()).unwrap();
    cpu::mix(mixing(), &data.mix()).unwrap();
    loss(data.explicit(), &data.loss()).unwrap();
}

#[test]
fn views_refuse_slices_that_do_not_hold_them() {
    let data = [0f32; 10];
    let short = "holds 10 elements, but its shape and strides reach 12";
    assert_says(View::new(&data, [3, 4]), &format!("view: {} {short}", view_of(line!())));
    let (far, line) = (View::with_strides(&data, [2, 2], [9, 2]), line!());
    assert_says(far, &format!("view: {} {short}", view_of(line)));
    let (large, line) = (View::new(&data, [usize::MAX, 2]), line!());
    let message = "= [18446744073709551615, 2] has more elements than can be addressed";
    assert_says(large, &format!("view: {} {message}", view_of(line)));
    let (far, line) = (View::with_strides(&data, [2, 2], [usize::MAX, 1]), line!());
    let message =
        "with shape [2, 2] and strides [18446744073709551615, 1] reaches further than can be addressed";
    assert_says(far, &format!("view: {} {message}", view_of(line)));
    let mut data = [0f32; 10];
    let (overlapping, line) = (ViewMut::with_strides(&mut data, [3, 3], [2, 1]), line!());
    let message = "with shape [3, 3] and strides [2, 1] maps two elements to one place";
    assert_says(overlapping, &format!("view: {} {message}", view_of(line)));
    let (repeated, line) = (ViewMut::with_strides(&mut data, [2, 3], [0, 1]), line!());
    let message = "with shape [2, 3] and strides [0, 1] maps two elements to one place";
    assert_says(repeated, &format!("view: {} {message}", view_of(line)));
}

/// What an error calls a view without a name: the line of this file that made it.
fn view_of(line: u32) -> String {
    format!("the view made at {}:{line}", file!())
}

#[test]
fn a_view_is_called_by_its_name_or_by_the_line_of_its_caller() {
    fn named<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.op, "view");
        match error.kind {
            ErrorKind::Length { name, .. } | ErrorKind::Overlap { name, .. } => name.into_owned(),
            kind => panic!("{kind}"),
        }
    }
    let (mut data, layout) = ([0f32; 5], Layout::contiguous([2, 3]));
    assert_eq!(named(View::new(&data, [2, 3])), view_of(line!()));
    assert_eq!(named(View::new(&data[1..], [5])), view_of(line!()));
    assert_eq!(named(View::new(&data.to_vec(), [6])), view_of(line!()));
    assert_eq!(named(View::with_strides(&data, [2], [5])), view_of(line!()));
    assert_eq!(named(View::from_layout(&data, layout)), view_of(line!()));
    assert_eq!(named(ViewMut::new(&mut data, [2, 3])), view_of(line!()));
    assert_eq!(named(ViewMut::with_strides(&mut data, [2], [0])), view_of(line!()));
    assert_eq!(named(ViewMut::from_layout(&mut data, layout)), view_of(line!()));
    // A name that is known takes the place of the line, for reading and for writing.
    assert_eq!(named(View::named("logits", &data, layout)), "logits");
    assert_eq!(named(View::named(format!("input {}", 3), &data, layout)), "input 3");
    assert_eq!(named(ViewMut::named("maps", &mut data, layout)), "maps");
    let once = Layout { shape: [2], strides: [0] };
    assert_eq!(named(ViewMut::named("maps", &mut data, once)), "maps");
    let message = "view: logits holds 5 elements, but its shape and strides reach 6";
    assert_says(View::named("logits", &data, layout), message);
}

#[test]
fn concentrations_out_of_range_are_named() {
    let data = Data::new();
    let with = |alpha| loss(Mixing::dirichlet(N, alpha), &data.loss());
    assert_says(with(Alpha::Fixed(0.0)), "loss: alpha is 0, but must be between 1e-3 and 1e3");
    assert_says(with(Alpha::Fixed(-1.5)), "loss: alpha is -1.5, but must be between 1e-3 and 1e3");
    assert_says(with(Alpha::Fixed(f32::NAN)), "loss: alpha is NaN, but must be between 1e-3 and 1e3");
    assert_says(with(Alpha::Fixed(f32::INFINITY)), "loss: alpha is inf, but must be between 1e-3 and 1e3");
    let range = |lo, hi| with(Alpha::Uniform { lo, hi });
    assert_says(range(0.0, 1.0), "loss: alpha's low end is 0, but must be between 1e-3 and 1e3");
    assert_says(range(0.5, 2000.0), "loss: alpha's high end is 2000, but must be between 1e-3 and 1e3");
    assert_says(range(2.0, 0.5), "loss: alpha is from 2 to 0.5, but must be a range with lo <= hi");
    let pair = Mixing::pair(N, Alpha::Fixed(1e4), Factor::PerBatch);
    assert_says(cpu::mix(pair, &data.mix()), "mix: alpha is 10000, but must be between 1e-3 and 1e3");
}

#[test]
fn empty_and_overflowing_sizes_are_named() {
    let data = Data::new();
    assert_says(
        loss(Mixing::dirichlet(0, Alpha::PAPER), &data.loss()),
        "loss: n is 0, but must be at least 1",
    );
    let weights = |b, r, n| {
        let input = WeightsInput { b, r, attention: None };
        cpu::weights(Mixing::dirichlet(n, Alpha::PAPER), &input)
    };
    assert_says(weights(0, 1, 1), "weights: b is 0, but must be at least 1");
    assert_says(weights(1, 0, 1), "weights: r is 0, but must be at least 1");
    let large = 1 << 31;
    assert_says(
        weights(large, large, large),
        "weights: the mix matrix (r, b, n) = [2147483648, 2147483648, 2147483648] has more elements than can be addressed",
    );
    assert_says(
        weights(large + 1, 1, 1),
        "weights: b is 2147483649, but must be at most 2^31, since it indexes the random numbers",
    );
    let empty = LossInput { logits: View::new(&data.logits, [B, R, 0]).unwrap(), ..data.loss() };
    assert_says(loss(mixing(), &empty), "loss: c is 0, but must be at least 1");
    let empty = MixInput { features: View::new(&data.features, [B, R, 0]).unwrap(), ..data.mix() };
    assert_says(cpu::mix(mixing(), &empty), "mix: d is 0, but must be at least 1");
    let empty = AttentionInput { features: View::new(&data.features, [0, R, D]).unwrap(), classifier: None };
    let attention = cpu::attention(&empty, &AttentionOptions::default());
    assert_says(attention, "attention: b is 0, but must be at least 1");
}

#[test]
fn outputs_too_large_for_memory_are_errors() {
    // One value seen 2^58 times: the input is sound, its gradient would not fit.
    let value = [0.5f32];
    let c = 1 << 58;
    let logits = View::with_strides(&value, [2, 1, c], [0; 3]).unwrap();
    let input = LossInput { logits, targets: Targets::labels(&[0u32, 1]), attention: None };
    let gradient = cpu::loss(mixing(), &input, &LossOptions::default(), Want::Gradients(1.0));
    assert_says(
        gradient,
        "loss: the gradient of the logits takes 2305843009213693952 bytes of memory, which are not there",
    );
    assert!(matches!(loss(mixing(), &input), Err(Error { kind: ErrorKind::TooLarge { .. }, .. })));
    let features = View::with_strides(&value, [2, 1, c], [0; 3]).unwrap();
    let input = MixInput { features, targets: None, attention: None };
    let message =
        "mix: the mixed features (n, r, d) takes 8070450532247928832 bytes of memory, which are not there";
    assert_says(cpu::mix(mixing(), &input), message);
    let attention = AttentionInput { features, classifier: None };
    let maps = cpu::attention(&attention, &AttentionOptions::default());
    assert!(matches!(maps, Err(Error { kind: ErrorKind::TooLarge { .. }, .. })));
}

#[test]
fn attention_that_is_negative_or_not_finite_is_named() {
    for (value, text) in [(-0.5, "-0.5"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut data = Data::new();
        data.attention[2 * R + 1] = value;
        let message = |op| format!("{op}: attention[2, 1] is {text}, but must be finite and not negative");
        assert_says(loss(mixing(), &data.loss()), &message("loss"));
        assert_says(cpu::mix(mixing(), &data.mix()), &message("mix"));
        let attention = Some(View::new(&data.attention, [B, R]).unwrap());
        let input = WeightsInput { b: B, r: R, attention };
        assert_says(cpu::weights(mixing(), &input), &message("weights"));
    }
    let data = Data::new();
    let swapped = View::new(&data.attention, [R, B]).unwrap();
    let input = LossInput { attention: Some(swapped), ..data.loss() };
    let message = "loss: attention has shape [3, 4], but the other arguments ask for [4, 3]";
    assert_says(loss(mixing(), &input), message);
}

#[test]
fn labels_and_targets_that_do_not_fit_are_named() {
    let mut data = Data::new();
    data.labels[3] = C as u32;
    let message = |op| format!("{op}: labels[3] is 6, but there are 6 classes, counted from 0");
    assert_says(loss(mixing(), &data.loss()), &message("loss"));
    assert_says(cpu::mix(mixing(), &data.mix()), &message("mix"));
    let features = View::new(&data.features, [B, R, D]).unwrap();
    let rows = View::new(&data.logits, [C, D]).unwrap();
    let options = AttentionOptions { query: Query::Cam, normalise: Normalise::ReluL1 };
    let cam = |labels: Labels<'_>| {
        let classifier = Some(Classifier { rows: rows.reborrow(), labels: labels.reborrow() });
        let input = AttentionInput { features: features.reborrow(), classifier };
        cpu::attention(&input, &options)
    };
    assert_says(cam(Labels::from(&data.labels)), &message("attention"));
    let message = "attention: labels has shape [3], but the other arguments ask for [4]";
    assert_says(cam(Labels::from(&[0u32, 1, 2])), message);
    let input = LossInput { targets: Targets::labels(&[0u32, 1]), ..data.loss() };
    let message = "loss: labels has shape [2], but the other arguments ask for [4]";
    assert_says(loss(mixing(), &input), message);
    data.soft[C + 2] = -1.0;
    let soft = View::new(&data.soft, [B, C]).unwrap();
    let input = LossInput { targets: Targets::Soft(soft), ..data.loss() };
    let message = "loss: targets[1, 2] is -1, but must be finite and not negative";
    assert_says(loss(mixing(), &input), message);
    let soft = View::new(&data.soft, [C, B]).unwrap();
    let input = LossInput { targets: Targets::Soft(soft), ..data.loss() };
    let message = "loss: targets has shape [6, 4], but the other arguments ask for [4, 6]";
    assert_says(loss(mixing(), &input), message);
}

#[test]
fn explicit_weights_that_do_not_fit_are_named() {
    let mut data = Data::new();
    let of_shape = |shape| loss(View::new(&data.weights, shape).unwrap(), &data.loss());
    let message = "loss: weights has shape [2, 4, 7], but the other arguments ask for [3, 4, 7]";
    assert_says(of_shape([R - 1, B, N]), message);
    let message = "loss: weights has shape [3, 3, 7], but the other arguments ask for [3, 4, 7]";
    assert_says(of_shape([R, B - 1, N]), message);
    assert_says(of_shape([R, B, 0]), "loss: n is 0, but must be at least 1");
    of_shape([1, B, N]).unwrap();
    data.weights[(2 * B + 1) * N + 4] = -2.0;
    let message = "loss: weights[2, 1, 4] is -2, but must be finite and not negative";
    assert_says(loss(data.explicit(), &data.loss()), message);
    data.weights.fill(1.0);
    (0..B).for_each(|i| data.weights[(B + i) * N + 5] = 0.0);
    let message = "loss: weights[1, :, 5] is all zero, but must be a column with a positive sum";
    assert_says(loss(data.explicit(), &data.loss()), message);
}

/// Explicit weights of any scale are normalised: their sums neither overflow nor vanish.
#[test]
fn explicit_weights_of_extreme_scale_are_normalised() {
    for scale in [1e-45f32, 1e-39, 1e-30, 1e30, f32::MAX] {
        let weights = vec![scale; R * B * N];
        let given = View::new(&weights, [R, B, N]).unwrap();
        let matrix = cpu::weights(given, &WeightsInput { b: B, r: R, attention: None }).unwrap().matrix;
        assert!(matrix.iter().all(|&m| m == 0.25), "{scale:e}: {:?}", &matrix[..3]);
    }
}

/// Data are not looked through: a NaN shows in what is computed from it, and only there.
#[test]
fn a_nan_among_the_features_shows_in_the_map_of_its_example() {
    let mut data = Data::new();
    data.features[(2 * R + 1) * D] = f32::NAN;
    let features = View::new(&data.features, [B, R, D]).unwrap();
    for normalise in [Normalise::ReluL1, Normalise::Softmax] {
        let options = AttentionOptions { query: Query::Gap, normalise };
        let maps = cpu::attention(&AttentionInput { features, classifier: None }, &options).unwrap();
        for (i, map) in maps.chunks_exact(R).enumerate() {
            assert!(map.iter().all(|a| a.is_nan() == (i == 2)), "{normalise:?}, example {i}: {map:?}");
        }
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let data = Data::new();
    let (mut logits, mut attention) = (vec![0f32; B * R * C], vec![0f32; B * R]);
    let mut run = |options: LossOptions, input: &LossInput<'_, f32>| {
        let outputs = LossOutputs {
            logits: Some(ViewMut::new(&mut logits, [B, R, C]).unwrap()),
            attention: Some(ViewMut::new(&mut attention, [B, R]).unwrap()),
            ..LossOutputs::default()
        };
        let (columns, input) = (mixing().into(), input.reborrow());
        let mut call = LossCall { columns, input, options, upstream: 1.0.into(), outputs };
        cpu::loss_into(&mut call, &mut [0; 1 << 20])
    };
    let message = "loss: a gradient of attention is asked for, but attention is detached or not given";
    assert_says(run(LossOptions::default(), &data.loss()), message);
    let attached = LossOptions { detach_attention: false, ..LossOptions::default() };
    assert_says(run(attached, &LossInput { attention: None, ..data.loss() }), message);
    run(attached, &data.loss()).unwrap();
    let features = View::new(&data.features, [B, R, D]).unwrap();
    let rows = View::new(&data.logits, [C, D]).unwrap();
    let classifier = Some(Classifier { rows, labels: Labels::from(&data.labels) });
    let gap = AttentionOptions::default();
    let with = AttentionInput { features, classifier };
    let message = "attention: a classifier was given, but the query is Gap, which uses none";
    assert_says(cpu::attention(&with, &gap), message);
    let cam = AttentionOptions { query: Query::Cam, ..gap };
    let without = AttentionInput { features, classifier: None };
    assert_says(cpu::attention(&without, &cam), "attention: the query is Cam, but no classifier was given");
}

#[test]
fn weights_that_nobody_asks_for_are_refused() {
    let outputs = WeightsOutputs::<f32> { matrix: None, mass: None };
    let input = WeightsInput { b: B, r: R, attention: None };
    let call = WeightsCall { columns: mixing().into(), input, outputs };
    assert_says(cpu::weights_workspace(&call), "weights: neither the mix matrix nor the mass is asked for");
}

#[test]
fn outputs_and_gradients_of_another_shape_are_named() {
    let data = Data::new();
    let mut wrong = vec![0f32; 1000];
    let outputs = LossOutputs {
        per_mixture: Some(ViewMut::new(&mut wrong, [N, R]).unwrap()),
        ..LossOutputs::default()
    };
    let result = cpu::loss_into(&mut data.loss_call(outputs), &mut []);
    let message = "loss: the losses of mixtures has shape [7, 3], but the other arguments ask for [3, 7]";
    assert_says(result, message);
    let outputs = MixOutputs { features: ViewMut::new(&mut wrong, [N, D, R]).unwrap(), targets: None };
    let mut call = MixCall { columns: mixing().into(), input: data.mix(), outputs };
    let result = cpu::mix_into(&mut call, &mut []);
    let message = "mix: the mixed features has shape [7, 5, 3], but the other arguments ask for [7, 3, 5]";
    assert_says(result, message);
    let d_mixed = vec![0f32; N * R * D];
    let gradients = MixedGradients { features: View::new(&d_mixed, [R, N, D]).unwrap(), targets: None };
    let message = "mix: the gradient of the mixed features has shape [3, 7, 5], but the other arguments ask for [7, 3, 5]";
    assert_says(cpu::mix_backward(mixing(), &data.mix(), &gradients), message);
    let gradients = MixedGradients { features: View::new(&d_mixed, [N, R, D]).unwrap(), targets: None };
    let outputs = MixBackwardOutputs {
        features: None,
        targets: Some(ViewMut::new(&mut wrong, [B, C]).unwrap()),
        attention: None,
    };
    let mut call = MixBackwardCall { columns: mixing().into(), input: data.mix(), gradients, outputs };
    let result = cpu::mix_backward_into(&mut call, &mut []);
    let message = "mix: the gradient of targets needs soft targets and the gradient of the mixed ones";
    assert_says(result, message);
    let mut call = data.loss_call(LossOutputs::default());
    let wanted = cpu::loss_workspace(&call).unwrap();
    let result = cpu::loss_into(&mut call, &mut [0; 9]);
    assert_says(result, &format!("loss: the workspace holds 9 bytes, but the call takes {wanted}"));
}

#[test]
fn an_error_can_be_shown_whatever_its_numbers() {
    for classes in [0, 1, usize::MAX] {
        let error = ErrorKind::Label { index: usize::MAX, given: i64::MIN, classes };
        assert!(error.to_string().contains(&format!("there are {classes} classes")), "{error}");
    }
}

#[test]
fn the_place_of_an_index_outside_of_a_layout_is_no_panic() {
    let far = Layout { shape: [3, 3], strides: [usize::MAX, 1] };
    assert_eq!(far.offset([2, 2]), 0); // 2 (2^64 - 1) + 2, in 64 bits
    assert_eq!(Layout::contiguous([3, 4]).offset([usize::MAX, usize::MAX]), usize::MAX - 4);
    assert_eq!(Layout::contiguous([3, 4]).offset([2, 1]), 9);
    let extremes = [0, 1, 2, 1 << 31, 1 << 32, 1 << 63, usize::MAX];
    for [a, b, c] in extremes.iter().flat_map(|&a| extremes.map(|b| extremes.map(|c| [a, b, c]))).flatten() {
        for layout in [Layout { shape: [a, b, c], strides: [c, a, b] }, Layout::contiguous([a, b, c])] {
            let _ = (layout.offset([b, c, a]), layout.is_injective());
            let _ = (layout.count("op", "x"), layout.reach("op", "x"));
        }
    }
}
