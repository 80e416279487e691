//! Labels of every integer type, any stride, and of no class: a target of zeros in values and gradients.

use half::{bf16, f16};
use multimix::cuda::cudarc::driver::CudaSlice;
use multimix::cuda::{Cuda, Precision};
use multimix::{
    Alpha, AttentionInput, AttentionOptions, Classifier, Element, Labels, LossCall, LossInput, LossOptions,
    LossOutputs, MixInput, MixTargets, MixedGradients, Mixing, Normalise, Query, Reduction, Targets, View,
    ViewMut,
};

use crate::support::device::{device, lacks_ampere};
use crate::support::harness::{Harness, add};
use crate::support::measure::{Rounding, floats};
use crate::upload::{scratch, whole};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    let ampere = lacks_ampere(missing);
    harness.test("f32", missing, || problems::<f32>(Precision::Exact));
    harness.test("f16", missing, || problems::<f16>(Precision::Exact));
    harness.test("tf32", ampere, || problems::<f32>(Precision::Tf32));
    harness.test("bf16", ampere, || problems::<bf16>(Precision::Exact));
    add!(harness, missing, class_maps);
}

const R: usize = 2;
/// More than a tile of classes.
const C: usize = 70;
const D: usize = 9;

#[derive(Clone, Copy, Debug)]
enum Kind {
    U8,
    I32,
    U32,
    I64,
}

const KINDS: [Kind; 4] = [Kind::U8, Kind::I32, Kind::U32, Kind::I64];

/// Labels in device memory.
enum Memory {
    U8(CudaSlice<u8>),
    I32(CudaSlice<i32>),
    U32(CudaSlice<u32>),
    I64(CudaSlice<i64>),
}

struct Uploaded {
    memory: Memory,
    b: usize,
    stride: usize,
}

impl Uploaded {
    /// The values cut to the type, with a class between them where the stride is 2.
    fn new(values: &[i64], kind: Kind, stride: usize) -> Self {
        let device = device().unwrap();
        let apart: Vec<i64> =
            values.iter().flat_map(|&y| (0..stride).map(move |gap| if gap == 0 { y } else { 1 })).collect();
        let memory = match kind {
            Kind::U8 => Memory::U8(device.upload(&apart.iter().map(|&y| y as u8).collect::<Vec<_>>())),
            Kind::I32 => Memory::I32(device.upload(&apart.iter().map(|&y| y as i32).collect::<Vec<_>>())),
            Kind::U32 => Memory::U32(device.upload(&apart.iter().map(|&y| y as u32).collect::<Vec<_>>())),
            Kind::I64 => Memory::I64(device.upload(&apart)),
        };
        Self { memory, b: values.len(), stride }
    }

    fn view(&self) -> Labels<'_, Cuda> {
        let (shape, strides) = ([self.b], [self.stride]);
        match &self.memory {
            Memory::U8(at) => View::with_strides(at, shape, strides).unwrap().into(),
            Memory::I32(at) => View::with_strides(at, shape, strides).unwrap().into(),
            Memory::U32(at) => View::with_strides(at, shape, strides).unwrap().into(),
            Memory::I64(at) => View::with_strides(at, shape, strides).unwrap().into(),
        }
    }
}

/// What a type holds of labels that are none.
fn foreign(kind: Kind) -> Vec<i64> {
    let c = C as i64;
    match kind {
        Kind::U8 => vec![c, c + 1, 255],
        Kind::I32 => vec![c, c + 1, -1, i64::from(i32::MIN)],
        Kind::U32 => vec![c, c + 1, i64::from(u32::MAX)],
        Kind::I64 => vec![c, c + 1, -1, i64::MAX, 1 << 32, (1 << 32) + 3, i64::MIN],
    }
}

fn wave<T: Element>(count: usize, step: f32, size: f32) -> Vec<T> {
    (0..count).map(|x| T::from_f32(size * (x as f32 * step).sin())).collect()
}

/// Of how many examples; with attention and its gradients, for which all is computed in f32, or without.
#[derive(Clone, Copy, Debug)]
struct Case {
    b: usize,
    attention: bool,
    reduction: Reduction,
    precision: Precision,
}

type Results = Vec<(&'static str, Vec<f32>)>;

/// Everything that depends on targets.
fn run<T: Element>(targets: &Targets<'_, Cuda>, case: Case) -> Results {
    let (Case { b, attention, reduction, precision }, device) = (case, device().unwrap());
    let queue = device.engine.on(&device.stream).unwrap().precision(precision).unwrap();
    let n = if b > 1000 { 16 } else { 40 };
    let mixing = Mixing::dirichlet(n, Alpha::Uniform { lo: 0.05, hi: 2.0 }).seed(4).step(2);
    let maps = device.upload(&wave::<f32>(b * R, 0.9, 0.5).iter().map(|x| x + 0.6).collect::<Vec<_>>());
    let maps = || attention.then(|| View::new(&maps, [b, R]).unwrap());
    let mixed = if b < 1000 { mix::<T>(targets, case, &mixing, maps()) } else { vec![] };
    let logits = device.upload(&wave::<T>(b * R * C, 0.7, 5.0));
    let [mut value, mut kl] = [(); 2].map(|()| device.uninitialised::<f32>(1));
    let mut d_logits = device.uninitialised::<T>(b * R * C);
    let mut d_maps = device.uninitialised::<f32>(b * R);
    let mut losses = device.uninitialised::<f32>(R * n);
    let mut call = LossCall {
        columns: mixing.into(),
        input: LossInput {
            logits: View::new(&logits, [b, R, C]).unwrap(),
            targets: targets.reborrow(),
            attention: maps(),
        },
        options: LossOptions { reduction, detach_attention: !attention, kl: true },
        upstream: 8.0.into(),
        outputs: LossOutputs {
            loss: Some(ViewMut::new(&mut value, [1]).unwrap()),
            kl: Some(ViewMut::new(&mut kl, [1]).unwrap()),
            logits: Some(ViewMut::new(&mut d_logits, [b, R, C]).unwrap()),
            attention: attention.then(|| ViewMut::new(&mut d_maps, [b, R]).unwrap()),
            per_mixture: Some(ViewMut::new(&mut losses, [R, n]).unwrap()),
            ..LossOutputs::default()
        },
    };
    let workspace = &mut scratch(device, queue.loss_workspace(&mut call));
    queue.loss_into(&mut call, &mut whole(workspace)).unwrap();
    let mut results = vec![
        ("loss", device.download(&value)),
        ("kl", device.download(&kl)),
        ("losses", device.download(&losses)),
        ("dS", floats(&device.download(&d_logits))),
    ];
    if attention {
        results.push(("da", device.download(&d_maps)));
    }
    results.extend(mixed);
    for (name, values) in &results {
        assert!(values.iter().all(|x| x.is_finite()), "{name} is not finite");
    }
    results
}

fn mix<T: Element>(
    targets: &Targets<'_, Cuda>,
    Case { b, precision, .. }: Case,
    mixing: &Mixing,
    attention: Option<View<'_, f32, 2, Cuda>>,
) -> Results {
    let (device, n) = (device().unwrap(), mixing.n);
    let queue = device.engine.on(&device.stream).unwrap().precision(precision).unwrap();
    let features = device.upload(&wave::<T>(b * R * D, 0.3, 1.0));
    let input = MixInput {
        features: View::new(&features, [b, R, D]).unwrap(),
        targets: Some(MixTargets { targets: targets.reborrow(), classes: C }),
        attention: attention.as_ref().map(View::reborrow),
    };
    let mixed = queue.mix(mixing, &input).unwrap();
    let mut results = vec![("mixed targets", device.download(&mixed.targets.unwrap()))];
    let d_mixed = device.upload(&wave::<T>(n * R * D, 0.11, 1.0));
    let d_targets = device.upload(&wave::<f32>(n * R * C, 0.13, 1.0));
    let incoming = MixedGradients {
        features: View::new(&d_mixed, [n, R, D]).unwrap(),
        targets: Some(View::new(&d_targets, [n, R, C]).unwrap()),
    };
    let gradients = queue.mix_backward(mixing, &input, &incoming).unwrap();
    results.extend(gradients.attention.map(|gradient| ("da of mixing", device.download(&gradient))));
    results
}

fn problems<T: Rounding>(precision: Precision) {
    // One panel of examples, two, and more than a block draws.
    for (b, attention, reduction, kinds) in [
        (21, true, Reduction::AttentionWeighted, &KINDS[..]),
        (21, false, Reduction::Mean, &KINDS),
        (70, false, Reduction::Mean, &KINDS[..1]),
        (1100, false, Reduction::Mean, &KINDS[3..]),
    ] {
        let run =
            |targets: Targets<'_, Cuda>| run::<T>(&targets, Case { b, attention, reduction, precision });
        let good: Vec<i64> = (0..b as i64).map(|i| i * 7 % C as i64).collect();
        let wanted = run(Targets::Labels(Uploaded::new(&good, Kind::U32, 1).view()));
        for &kind in kinds {
            for stride in [1, 2] {
                let given = run(Targets::Labels(Uploaded::new(&good, kind, stride).view()));
                assert!(given == wanted, "{kind:?} at stride {stride}, b = {b}");
            }
        }
        for (&kind, every) in kinds.iter().flat_map(|kind| [(kind, 3), (kind, 1)]) {
            // Every third example has no class, or all of them.
            let none = foreign(kind);
            let bad = |i: usize| i.is_multiple_of(every);
            let values: Vec<i64> =
                (0..b).map(|i| if bad(i) { none[i / every % none.len()] } else { good[i] }).collect();
            let class = |i: usize| (!bad(i)).then(|| good[i] as usize);
            let row = |i: usize| (0..C).map(move |y| f32::from(u8::from(class(i) == Some(y))));
            let rows = device().unwrap().upload(&(0..b).flat_map(row).collect::<Vec<_>>());
            let wanted = run(Targets::Soft(View::new(&rows, [b, C]).unwrap()));
            let given = run(Targets::Labels(Uploaded::new(&values, kind, 2).view()));
            for ((name, given), (_, wanted)) in given.iter().zip(&wanted) {
                close::<T>(name, given, wanted, precision, &format!("{kind:?} every {every}, b = {b}"));
            }
        }
    }
}

/// Equal but for rounding; soft rows are multiplied with weights rounded to tf32, where labels add them up as
/// they are.
fn close<T: Rounding>(name: &str, given: &[f32], wanted: &[f32], precision: Precision, about: &str) {
    let largest = wanted.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let unit = f64::from(f32::EPSILON) * 32.0;
    let unit = match precision {
        Precision::Tf32 => 2e-3,
        _ if name == "dS" || name == "da of mixing" => unit + 4.0 * T::UNIT,
        _ => unit,
    };
    // Losses are differences of terms up to 9, and a total of nothing is one minus the weights of all, to
    // rounding.
    let least = if ["loss", "kl", "losses"].contains(&name) { 9.0 } else { 0.1 };
    let allowed = unit * f64::from(largest.max(least));
    for (at, (given, wanted)) in given.iter().zip(wanted).enumerate() {
        let apart = (f64::from(*given) - f64::from(*wanted)).abs();
        assert!(apart <= allowed, "{name} at {at}: {given:e} and not {wanted:e} +- {allowed:e}, {about}");
    }
}

/// CAM without a class: what a classifier with a row of zeros gives for it.
fn class_maps() {
    let device = device().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let (b, r) = (12, 6);
    let features = device.upload(&wave::<f32>(b * r * D, 0.37, 1.0));
    let d_maps = device.upload(&wave::<f32>(b * r, 0.61, 1.0));
    let mut rows = wave::<f32>(C * D, 0.19, 1.0);
    rows.extend([0.0; D]);
    let rows = device.upload(&rows);
    let run = |labels: &Uploaded, classes: usize, normalise: Normalise| {
        let input = AttentionInput {
            features: View::new(&features, [b, r, D]).unwrap(),
            classifier: Some(Classifier {
                rows: View::new(&rows, [classes, D]).unwrap(),
                labels: labels.view(),
            }),
        };
        let options = AttentionOptions { query: Query::Cam, normalise };
        let maps = device.download(&queue.attention(&input, &options).unwrap());
        let d_maps = View::new(&d_maps, [b, r]).unwrap();
        let gradients = queue.attention_backward(&input, &options, &d_maps).unwrap();
        let mut d_rows = device.download(&gradients.classifier.unwrap());
        d_rows.truncate(C * D);
        (maps, device.download(&gradients.features), d_rows)
    };
    for kind in KINDS {
        let none = foreign(kind);
        let with = |place: &dyn Fn(usize) -> i64| -> Vec<i64> {
            (0..b).map(|i| if i % 2 == 0 { place(i / 2) } else { i as i64 }).collect()
        };
        let (values, zero) = (with(&|at| none[at % none.len()]), with(&|_| C as i64));
        for normalise in [Normalise::ReluL1, Normalise::Softmax] {
            let given = run(&Uploaded::new(&values, kind, 2), C, normalise);
            let wanted = run(&Uploaded::new(&zero, Kind::U32, 1), C + 1, normalise);
            assert_eq!(given, wanted, "{kind:?} {normalise:?}");
            assert!(given.0[..r].iter().all(|a| (a * r as f32 - 1.0).abs() < 1e-6), "{:?}", &given.0[..r]);
            assert!(given.1[..r * D].iter().all(|&x| x == 0.0) || normalise == Normalise::Softmax);
        }
    }
}
