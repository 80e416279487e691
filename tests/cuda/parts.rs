//! Parts of a larger call, drawn apart, are what the whole is, bit for bit.

use multimix::{
    Alpha, Factor, LossCall, LossInput, LossOptions, LossOutputs, MixInput, Mixing, Targets, View, ViewMut,
    WeightsInput,
};

use crate::support::device::device;
use crate::support::harness::{Harness, add};
use crate::upload::{scratch, whole};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    add!(harness, missing, parts_are_the_whole);
}

const CLASSES: usize = 5;
const CHANNELS: usize = 7;

/// A range of positions and one of columns.
#[derive(Clone, Copy, Debug)]
struct Part {
    positions: [usize; 2],
    columns: [usize; 2],
}

/// M̂ (r, b, n), s (r, n), Z̃ (n, r, d) and CE (r, n) of a part, in this order of axes.
fn run(mixing: &Mixing, b: usize, part: Part) -> [Vec<f32>; 4] {
    let ([first_j, end_j], [first_k, end_k]) = (part.positions, part.columns);
    let (r, n) = (end_j - first_j, end_k - first_k);
    let mixing = &Mixing { n, ..*mixing }.first_position(first_j).first_column(first_k);
    // Every part's inputs are the whole's at its positions.
    let rows = |channels: usize, value: &dyn Fn(usize) -> f32| -> Vec<f32> {
        let places =
            (0..b).flat_map(|i| (first_j..end_j).flat_map(move |j| (0..channels).map(move |x| [i, j, x])));
        places.map(|[i, j, x]| value((i * 10 + j) * 10 + x)).collect()
    };
    let device = device().unwrap();
    let attention = device.upload(&rows(1, &|at| 1.1 + (at as f32).sin()));
    let features = device.upload(&rows(CHANNELS, &|at| (at as f32 * 0.3).sin()));
    let logits = device.upload(&rows(CLASSES, &|at| 4.0 * (at as f32 * 0.7).cos()));
    let labels = device.upload(&(0..b as u32).map(|i| i % CLASSES as u32).collect::<Vec<_>>());
    let attention = || Some(View::new(&attention, [b, r]).unwrap());
    let queue = device.engine.on(&device.stream).unwrap();
    let made = queue.weights::<f32>(mixing, &WeightsInput { b, r, attention: attention() }).unwrap();
    let features = View::new(&features, [b, r, CHANNELS]).unwrap();
    let input = MixInput { features, targets: None, attention: attention() };
    let mixed = queue.mix(mixing, &input).unwrap();
    let mut losses = device.uninitialised::<f32>(r * n);
    let mut call = LossCall {
        columns: mixing.into(),
        input: LossInput {
            logits: View::new(&logits, [b, r, CLASSES]).unwrap(),
            targets: Targets::labels(View::new(&labels, [b]).unwrap()),
            attention: attention(),
        },
        options: LossOptions::default(),
        upstream: 1.0.into(),
        outputs: LossOutputs {
            per_mixture: Some(ViewMut::new(&mut losses, [r, n]).unwrap()),
            ..LossOutputs::default()
        },
    };
    let workspace = &mut scratch(device, queue.loss_workspace(&mut call));
    queue.loss_into(&mut call, &mut whole(workspace)).unwrap();
    [&made.matrix, &made.mass, &mixed.features, &losses].map(|memory| device.download(memory))
}

fn parts_are_the_whole() {
    let dirichlet = |alpha| Mixing::dirichlet(0, alpha);
    let mixings = [
        dirichlet(Alpha::Fixed(1.0)),
        dirichlet(Alpha::Fixed(1.7)),
        dirichlet(Alpha::Fixed(0.02)), // settled columns
        dirichlet(Alpha::PAPER),
        Mixing::pair(0, Alpha::Fixed(0.3), Factor::PerBatch),
        Mixing::pair(0, Alpha::PAPER, Factor::PerBatch),
        Mixing::pair(0, Alpha::PAPER, Factor::PerColumn),
    ];
    for (b, columns) in [(13, [0, 17, 50, 67]), (1100, [0, 3, 20, 40])] {
        for mixing in mixings.into_iter().take(if b == 13 { 7 } else { 4 }) {
            let mixing = mixing.seed(3).step(9);
            let all = Part { positions: [0, 5], columns: [0, columns[3]] };
            let whole = run(&mixing, b, all);
            for (positions, columns) in
                [[0, 2], [2, 5]].into_iter().zip(columns.windows(2).map(|w| [w[0], w[1]]).skip(1))
            {
                let part = Part { positions, columns };
                compare(&run(&mixing, b, part), &whole, b, [part, all], &mixing);
            }
        }
    }
}

fn compare(given: &[Vec<f32>; 4], whole: &[Vec<f32>; 4], b: usize, [part, all]: [Part; 2], mixing: &Mixing) {
    let sizes = |part: Part| [part.positions, part.columns].map(|[first, end]| end - first);
    let ([rp, np], [r, n]) = (sizes(part), sizes(all));
    for (j, k) in (0..rp).flat_map(|j| (0..np).map(move |k| (j, k))) {
        let (at_j, at_k) = (part.positions[0] + j, part.columns[0] + k);
        let same = |which: usize, own: usize, all: usize| {
            assert_eq!(
                given[which][own].to_bits(),
                whole[which][all].to_bits(),
                "output {which} at {j}, {k} of {part:?}, b = {b}, {mixing:?}"
            );
        };
        (0..b).for_each(|i| same(0, (j * b + i) * np + k, (at_j * b + i) * n + at_k));
        same(1, j * np + k, at_j * n + at_k);
        (0..CHANNELS).for_each(|x| same(2, (k * rp + j) * CHANNELS + x, (at_k * r + at_j) * CHANNELS + x));
        same(3, j * np + k, at_j * n + at_k);
    }
}
