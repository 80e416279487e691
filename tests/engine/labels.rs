//! Labels of every type of integer, at any stride: the same bits, and one error for what is no class.

use half::f16;
use multimix::{
    AttentionInput, AttentionOptions, Classifier, Columns, Element, Error, Labels, LossInput, LossOptions,
    MixInput, MixTargets, MixedGradients, Mixing, Normalise, Query, Reduction, Targets, View, Want, cpu,
};

use crate::support::measure::floats;
use crate::support::problem::Problem;
use crate::support::usual::usual;

/// Each label followed by two places that nothing may read.
fn spread<L: Copy>(labels: &[u32], convert: impl Fn(u32) -> L, gap: L) -> Vec<L> {
    labels.iter().flat_map(|&y| [convert(y), gap, gap]).collect()
}

fn view<L>(spread: &[L]) -> View<'_, L, 1> {
    View::with_strides(spread, [spread.len() / 3], [3]).unwrap()
}

/// All that labels go into, as bits.
fn run<T: Element>(problem: &Problem<T>, labels: &Labels<'_>) -> Vec<u32> {
    let (columns, c) = (problem.columns(), problem.sizes.c);
    let targets = Targets::Labels(labels.reborrow());
    let input = LossInput { targets: targets.reborrow(), ..problem.loss_input() };
    let options = LossOptions { reduction: Reduction::AttentionWeighted, detach_attention: false, kl: true };
    let loss = cpu::loss(columns, &input, &options, Want::Gradients(1.0)).unwrap();
    let input = MixInput { targets: Some(MixTargets { targets, classes: c }), ..problem.mix_input() };
    let mixed = cpu::mix(columns, &input).unwrap();
    let gradients = problem.mixed_gradients();
    let unmixed = cpu::mix_backward(columns, &input, &gradients).unwrap();
    let mut all = vec![
        vec![loss.value, loss.kl.unwrap()],
        floats(&loss.logits.unwrap()),
        loss.attention.unwrap_or_default(),
        floats(&mixed.features),
        mixed.targets.unwrap(),
        floats(&unmixed.features),
        unmixed.attention.unwrap_or_default(),
    ];
    for normalise in [Normalise::ReluL1, Normalise::Softmax] {
        let classifier = Classifier { rows: problem.classifier.view(), labels: labels.reborrow() };
        let input = AttentionInput { features: problem.features.view(), classifier: Some(classifier) };
        let options = AttentionOptions { query: Query::Cam, normalise };
        all.push(cpu::attention(&input, &options).unwrap());
        let gradients = cpu::attention_backward(&input, &options, &problem.d_attention.view()).unwrap();
        all.extend([floats(&gradients.features), floats(&gradients.classifier.unwrap())]);
    }
    all.into_iter().flatten().map(f32::to_bits).collect()
}

fn check<T: Element>(index: u64) {
    let problem = Problem { soft: None, mixes_targets: true, ..usual::<T>(31, index) };
    let labels = &problem.labels;
    let wanted = run(&problem, &Labels::from(labels));
    let gap = u32::MAX;
    let (u8s, u32s) = (spread(labels, |y| y as u8, u8::MAX), spread(labels, |y| y, gap));
    let (i32s, i64s) = (spread(labels, |y| y as i32, -1), spread(labels, i64::from, i64::MIN));
    let spread: [(&str, Labels<'_>); 4] = [
        ("u8", view(&u8s).into()),
        ("u32", view(&u32s).into()),
        ("i32", view(&i32s).into()),
        ("i64", view(&i64s).into()),
    ];
    for (name, labels) in spread {
        assert!(run(&problem, &labels) == wanted, "{name} at a stride of 3: {}", problem.name);
    }
    let u8s: Vec<u8> = labels.iter().map(|&y| y as u8).collect();
    let i32s: Vec<i32> = labels.iter().map(|&y| y as i32).collect();
    let i64s: Vec<i64> = labels.iter().map(|&y| i64::from(y)).collect();
    for labels in [Labels::from(&u8s), Labels::from(&i32s[..]), Labels::from(&i64s)] {
        assert!(run(&problem, &labels) == wanted, "{labels:?}: {}", problem.name);
    }
    // One label seen by all.
    let (one, all) = ([labels[0] as u8], vec![i64::from(labels[0]); labels.len()]);
    let one = View::with_strides(&one, [labels.len()], [0]).unwrap();
    assert!(run(&problem, &one.into()) == run(&problem, &Labels::from(&all)), "{}", problem.name);
}

#[test]
fn labels_of_all_types_and_strides_give_the_same_bits() {
    for index in 0..24 {
        match index % 4 {
            0 => check::<f16>(index),
            _ => check::<f32>(index),
        }
    }
}

#[test]
fn a_label_of_any_type_that_is_no_class_is_named() {
    const B: usize = 3;
    const C: usize = 6;
    let values = [0.5f32; B * 2 * C];
    let mixing = Mixing::dirichlet(4, multimix::Alpha::PAPER);
    let refused = |labels: Labels<'_>| -> [Error; 5] {
        let targets = Targets::Labels(labels.reborrow());
        let logits = View::new(&values, [B, 2, C]).unwrap();
        let input = LossInput { logits: logits.reborrow(), targets: targets.reborrow(), attention: None };
        let columns = || Columns::from(&mixing);
        let loss = cpu::loss(columns(), &input, &LossOptions::default(), Want::Gradients(1.0)).unwrap_err();
        let targets = Some(MixTargets { targets, classes: C });
        let input = MixInput { features: logits.reborrow(), targets, attention: None };
        let mix = cpu::mix(columns(), &input).unwrap_err();
        let d_mixed = [0f32; 4 * 2 * C];
        let features = View::new(&d_mixed, [4, 2, C]).unwrap();
        let gradients = MixedGradients { features, targets: None };
        let mix_backward = cpu::mix_backward(columns(), &input, &gradients).unwrap_err();
        let rows = View::new(&values[..C * C], [C, C]).unwrap();
        let classifier = Some(Classifier { rows, labels: labels.reborrow() });
        let input = AttentionInput { features: logits, classifier };
        let options = AttentionOptions { query: Query::Cam, ..AttentionOptions::default() };
        let attention = cpu::attention(&input, &options).unwrap_err();
        let d_maps = [0f32; B * 2];
        let d_maps = View::new(&d_maps, [B, 2]).unwrap();
        let attention_backward = cpu::attention_backward(&input, &options, &d_maps).unwrap_err();
        [loss, mix, mix_backward, attention, attention_backward]
    };
    let says = |labels: Labels<'_>, index: usize, given: i64| {
        let ops = ["loss", "mix", "mix", "attention", "attention"];
        for (op, error) in ops.into_iter().zip(refused(labels)) {
            let rule = "but there are 6 classes, counted from 0";
            assert_eq!(error.to_string(), format!("{op}: labels[{index}] is {given}, {rule}"));
        }
    };
    says(Labels::from(&[0u8, 5, 6]), 2, 6);
    says(Labels::from(&[255u8, 5, 1]), 0, 255);
    says(Labels::from(&[0i32, -1, 1]), 1, -1);
    says(Labels::from(&[0, i32::MIN, 1]), 1, i32::MIN.into());
    says(Labels::from(&[0, 1, i32::MAX]), 2, i32::MAX.into());
    says(Labels::from(&[0, 1, u32::MAX]), 2, u32::MAX.into());
    says(Labels::from(&[-7i64, 1, 2]), 0, -7);
    says(Labels::from(&[0, i64::MIN, 1]), 1, i64::MIN);
    says(Labels::from(&[0, i64::MAX, 1]), 1, i64::MAX);
    // Whose low word is a class.
    says(Labels::from(&[0, 1, 1i64 << 32]), 2, 1 << 32);
    // The index counts examples, not places.
    let spread = [0i32, 9, 9, 1, 9, 9, -2, 9, 9];
    says(view(&spread).into(), 2, -2);
}
