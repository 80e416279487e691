//! No public function of the engine panics, whatever shapes, strides, values, labels and workspaces it is
//! given: it works or says what is wrong. Sizes are small or astronomic: what lies between would only take
//! long.

use half::f16;
use multimix::sampler::{self, Domain, Gamma, Stream};
use multimix::{
    Alpha, AttentionBackwardCall, AttentionCall, AttentionInput, AttentionOptions, AttentionOutputs,
    Classifier, Columns, Element, EmptyMaps, Error, Factor, Generator, Labels, LossCall, LossInput,
    LossOptions, LossOutputs, MixBackwardCall, MixBackwardOutputs, MixCall, MixInput, MixOutputs, MixTargets,
    MixedGradients, Mixing, Normalise, Query, Reduction, ScaleCall, Targets, Upstream, View, ViewMut, Want,
    WeightsCall, WeightsInput, WeightsOutputs, cpu,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const CASES: u32 = 2000;

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(20_231_210),
        fixed => fixed,
    };
    ProptestConfig { cases: CASES, rng_seed, failure_persistence: None, ..default }
}

fn size() -> impl Strategy<Value = usize> {
    let huge = prop::sample::select(vec![(1 << 31) + 1, 1 << 40, 1 << 58, isize::MAX as usize, usize::MAX]);
    prop_oneof![1 => Just(0), 80 => 1..6usize, 4 => 60..70usize, 1 => huge]
}

fn value() -> impl Strategy<Value = f32> {
    let special = [
        0.0,
        -0.0,
        -1.0,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-45,
        1e3,
        1e-3,
        1e4,
    ];
    prop_oneof![20 => 0.0..2f32, 1 => prop::sample::select(special.to_vec())]
}

/// An argument's departures from what fits: another size along one axis, and strides of its own.
#[derive(Clone, Debug)]
struct Shape {
    other: Option<(usize, usize)>,
    strides: Option<[usize; 3]>,
}

impl Shape {
    fn of<const N: usize>(&self, fitting: [usize; N]) -> ([usize; N], Option<[usize; N]>) {
        let mut shape = fitting;
        if let Some((axis, size)) = self.other {
            shape[axis % N] = size;
        }
        (shape, self.strides.map(|strides| std::array::from_fn(|axis| strides[axis])))
    }

    fn view<'a, T, const N: usize>(
        &self,
        data: &'a [T],
        fitting: [usize; N],
    ) -> Result<View<'a, T, N>, Error> {
        let (shape, strides) = self.of(fitting);
        match strides {
            Some(strides) => View::with_strides(data, shape, strides),
            None => View::new(data, shape),
        }
    }

    fn view_mut<'a, T, const N: usize>(
        &self,
        data: &'a mut [T],
        fitting: [usize; N],
    ) -> Result<ViewMut<'a, T, N>, Error> {
        let (shape, strides) = self.of(fitting);
        match strides {
            Some(strides) => ViewMut::with_strides(data, shape, strides),
            None => ViewMut::new(data, shape),
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let stride =
        || prop_oneof![4 => 0..9usize, 1 => prop::sample::select(vec![1 << 20, 1 << 62, usize::MAX])];
    let (other, strides) = (
        prop::option::weighted(0.05, (0..3usize, size())),
        prop::option::weighted(0.1, [stride(), stride(), stride()]),
    );
    (other, strides).prop_map(|(other, strides)| Shape { other, strides })
}

/// Everything that calls are made from.
#[derive(Clone, Debug)]
struct Arguments {
    sizes: [usize; 5],
    shapes: Vec<Shape>,
    values: Vec<f32>,
    labels: IntegerLabels,
    columns: ColumnsFrom,
    mixing: Mixing,
    /// Attention, targets, classifier and outputs given; soft targets; detached.
    flags: [bool; 7],
    workspace: usize,
    upstream: f32,
}

/// The same labels in each type; `kind` is the one that calls are given.
#[derive(Clone, Debug)]
struct IntegerLabels {
    kind: usize,
    u8: Vec<u8>,
    i32: Vec<i32>,
    u32: Vec<u32>,
    i64: Vec<i64>,
}

impl IntegerLabels {
    /// The bits of large numbers are negative ones.
    fn new(kind: usize, labels: Vec<u32>) -> Self {
        Self {
            kind,
            u8: labels.iter().map(|&y| y as u8).collect(),
            i32: labels.iter().map(|&y| y as i32).collect(),
            i64: labels.iter().map(|&y| i64::from(y as i32) << (y >> 31 << 4)).collect(),
            u32: labels,
        }
    }

    fn given(&self, shape: &Shape) -> Result<Labels<'_>, Error> {
        let b = self.u32.len();
        Ok(match self.kind {
            0 => shape.view(&self.u8, [b])?.into(),
            1 => shape.view(&self.i32, [b])?.into(),
            2 => shape.view(&self.i64, [b])?.into(),
            _ => Labels::from(&self.u32),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ColumnsFrom {
    Mixing,
    /// The mixing, with seed and step of these in memory.
    Memory([u64; 2]),
    Weights,
}

fn columns_from() -> impl Strategy<Value = ColumnsFrom> {
    prop_oneof![
        2 => Just(ColumnsFrom::Mixing),
        1 => any::<[u64; 2]>().prop_map(ColumnsFrom::Memory),
        1 => Just(ColumnsFrom::Weights),
    ]
}

fn mixing(n: usize) -> impl Strategy<Value = Mixing> {
    let alpha = prop_oneof![
        value().prop_map(Alpha::Fixed),
        Just(Alpha::PAPER),
        (value(), value()).prop_map(|(lo, hi)| Alpha::Uniform { lo, hi })
    ];
    let generator = prop_oneof![
        2 => alpha.clone().prop_map(|alpha| Generator::Dirichlet { alpha }),
        1 => alpha.prop_map(|alpha| Generator::Pair { alpha, factor: Factor::PerColumn }),
    ];
    let empty_maps = prop::sample::select(vec![EmptyMaps::Uniform, EmptyMaps::LeaveOut]);
    (generator, any::<u64>(), any::<u64>(), empty_maps).prop_map(
        move |(generator, seed, step, empty_maps)| Mixing {
            generator,
            seed,
            step,
            empty_maps,
            ..Mixing::dirichlet(n, Alpha::PAPER)
        },
    )
}

fn arguments() -> impl Strategy<Value = Arguments> {
    [size(), size(), size(), size(), size()].prop_flat_map(|sizes| {
        let fitting = sizes[0].min(80);
        let labels = (
            vec(prop_oneof![40 => 0..3u32, 1 => any::<u32>()], 80),
            prop_oneof![20 => Just(fitting), 1 => 0..9usize],
        );
        let labels = (labels, 0..6usize).prop_map(|((mut labels, count), kind)| {
            labels.truncate(count);
            IntegerLabels::new(kind, labels)
        });
        let length = prop_oneof![9 => Just(20_000usize), 1 => 0..200usize];
        let values = (vec(value(), 97), length)
            .prop_map(|(values, length)| values.into_iter().cycle().take(length).collect::<Vec<f32>>());
        let workspace = prop_oneof![6 => Just(1usize << 22), 1 => 0..100_000usize];
        let columns = (columns_from(), mixing(sizes[4]));
        (vec(shape(), 18), values, labels, columns, any::<[bool; 7]>(), workspace, value()).prop_map(
            move |(shapes, values, labels, (columns, mixing), flags, workspace, upstream)| Arguments {
                sizes,
                shapes,
                values,
                labels,
                columns,
                mixing,
                flags,
                workspace,
                upstream,
            },
        )
    })
}

/// What became of calls: how many worked, how many were refused.
#[derive(Debug, Default)]
struct Outcomes {
    worked: usize,
    refused: usize,
}

impl Outcomes {
    fn add<T>(&mut self, result: Result<T, Error>) {
        match result {
            Ok(_) => self.worked += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                self.refused += 1;
            }
        }
    }
}

impl Arguments {
    fn targets(&self) -> Result<Targets<'_>, Error> {
        let [b, _, _, c, _] = self.sizes;
        Ok(match self.flags[4] {
            true => Targets::Soft(self.shapes[0].view(&self.values, [b, c])?),
            false => Targets::Labels(self.labels.given(&self.shapes[16])?),
        })
    }

    fn attention(&self) -> Result<Option<View<'_, f32, 2>>, Error> {
        let [b, r, ..] = self.sizes;
        self.flags[0].then(|| self.shapes[1].view(&self.values, [b, r])).transpose()
    }

    fn columns(&self) -> Result<Columns<'_>, Error> {
        let [b, r, _, _, n] = self.sizes;
        let positions = if self.flags[5] { 1 } else { r };
        Ok(match &self.columns {
            ColumnsFrom::Mixing => Columns::from(&self.mixing),
            ColumnsFrom::Memory(words) => Columns::drawn_from(&self.mixing, self.shapes[2].view(words, [2])?),
            ColumnsFrom::Weights => Columns::Given {
                weights: self.shapes[2].view(&self.values, [positions, b, n])?,
                empty_maps: self.mixing.empty_maps,
            },
        })
    }

    fn upstream(&self) -> Result<Upstream<'_>, Error> {
        let scalar = self.flags[5].then(|| self.shapes[17].view(&self.values, [1])).transpose()?;
        Ok(Upstream { factor: self.upstream, scalar })
    }

    fn loss<T: Element>(&self, stored: &[T], outcomes: &mut Outcomes) -> Result<(), Error> {
        let [b, r, _, c, n] = self.sizes;
        let input = LossInput {
            logits: self.shapes[3].view(stored, [b, r, c])?,
            targets: self.targets()?,
            attention: self.attention()?,
        };
        let columns = self.columns()?;
        let reduction = if self.flags[2] { Reduction::Mean } else { Reduction::AttentionWeighted };
        let options = LossOptions { reduction, detach_attention: self.flags[6], kl: self.flags[3] };
        outcomes.add(cpu::loss(columns, &input, &options, Want::Loss));
        outcomes.add(cpu::loss(columns, &input, &options, Want::Gradients(self.upstream)));
        outcomes.add(cpu::loss(columns, &input, &options, Want::GradientsInF32(self.upstream)));
        let mut logits = stored.to_vec();
        let [mut attention, mut ce, mut lse, mut wide] = [(); 4].map(|()| self.values.clone());
        let [mut loss, mut kl] = [[0f32]; 2];
        let outputs = LossOutputs {
            loss: self.flags[3].then(|| self.shapes[8].view_mut(&mut loss, [1])).transpose()?,
            kl: self.flags[4].then(|| self.shapes[9].view_mut(&mut kl, [1])).transpose()?,
            logits_f32: (!self.flags[0] && self.flags[5])
                .then(|| self.shapes[10].view_mut(&mut wide, [b, r, c]))
                .transpose()?,
            logits: self.flags[0].then(|| self.shapes[4].view_mut(&mut logits, [b, r, c])).transpose()?,
            attention: self.flags[1].then(|| self.shapes[5].view_mut(&mut attention, [b, r])).transpose()?,
            per_mixture: Some(self.shapes[6].view_mut(&mut ce, [r, n])?),
            log_sum_exp: Some(self.shapes[7].view_mut(&mut lse, [r, n])?),
        };
        let mut call = LossCall { columns, input, options, upstream: self.upstream()?, outputs };
        outcomes.add(cpu::loss_workspace(&call));
        outcomes.add(cpu::loss_into(&mut call, &mut vec![0; self.workspace]));
        Ok(())
    }

    fn mix<T: Element>(&self, stored: &[T], outcomes: &mut Outcomes) -> Result<(), Error> {
        let [b, r, d, c, n] = self.sizes;
        let targets = match self.flags[1] {
            true => Some(MixTargets { targets: self.targets()?, classes: c }),
            false => None,
        };
        let features = self.shapes[8].view(stored, [b, r, d])?;
        let (input, columns) =
            (MixInput { features, targets, attention: self.attention()? }, self.columns()?);
        outcomes.add(cpu::mix(columns, &input));
        let (mut mixed, mut mixed_targets) = (stored.to_vec(), self.values.clone());
        let outputs = MixOutputs {
            features: self.shapes[9].view_mut(&mut mixed, [n, r, d])?,
            targets: self.flags[6]
                .then(|| self.shapes[10].view_mut(&mut mixed_targets, [n, r, c]))
                .transpose()?,
        };
        let mut call = MixCall { columns, input, outputs };
        outcomes.add(cpu::mix_workspace(&call));
        let mut workspace = vec![0; self.workspace];
        outcomes.add(cpu::mix_into(&mut call, &mut workspace));
        let gradients = MixedGradients {
            features: self.shapes[11].view(stored, [n, r, d])?,
            targets: self.flags[5].then(|| self.shapes[12].view(&self.values, [n, r, c])).transpose()?,
        };
        outcomes.add(cpu::mix_backward(columns, &input, &gradients));
        let (mut d_features, mut d_targets) = (stored.to_vec(), self.values.clone());
        let outputs = MixBackwardOutputs {
            features: Some(self.shapes[13].view_mut(&mut d_features, [b, r, d])?),
            targets: self.flags[4].then(|| self.shapes[14].view_mut(&mut d_targets, [b, c])).transpose()?,
            attention: None,
        };
        let mut call = MixBackwardCall { columns, input, gradients, outputs };
        outcomes.add(cpu::mix_backward_workspace(&call));
        outcomes.add(cpu::mix_backward_into(&mut call, &mut workspace));
        Ok(())
    }

    fn weights_op(&self, outcomes: &mut Outcomes) -> Result<(), Error> {
        let [b, r, _, _, n] = self.sizes;
        let (input, columns) = (WeightsInput { b, r, attention: self.attention()? }, self.columns()?);
        outcomes.add(cpu::weights(columns, &input));
        let (mut matrix, mut mass) = (self.values.clone(), self.values.clone());
        let matrix = Some(self.shapes[15].view_mut(&mut matrix, [r, b, n])?);
        let mass = Some(self.shapes[14].view_mut(&mut mass, [r, n])?);
        let mut call = WeightsCall { columns, input, outputs: WeightsOutputs { matrix, mass } };
        outcomes.add(cpu::weights_workspace(&call));
        outcomes.add(cpu::weights_into(&mut call, &mut vec![0; self.workspace]));
        Ok(())
    }

    fn scale<T: Element>(&self, stored: &[T], outcomes: &mut Outcomes) -> Result<(), Error> {
        let [b, r, _, c, _] = self.sizes;
        let mut out = self.values.clone();
        outcomes.add(cpu::scale_into(&mut ScaleCall {
            gradient: self.shapes[3].view(stored, [b, r, c])?,
            upstream: self.upstream()?,
            out: self.shapes[4].view_mut(&mut out, [b, r, c])?,
        }));
        Ok(())
    }

    fn attention_ops<T: Element>(&self, stored: &[T], outcomes: &mut Outcomes) -> Result<(), Error> {
        let [b, r, d, c, _] = self.sizes;
        let query = if self.flags[0] { Query::Cam } else { Query::Gap };
        let normalise = if self.flags[1] { Normalise::ReluL1 } else { Normalise::Softmax };
        let options = AttentionOptions { query, normalise };
        let classifier = match self.flags[0] != (self.flags[2] && self.flags[3] && self.flags[4]) {
            true => {
                let (rows, labels) =
                    (self.shapes[3].view(stored, [c, d])?, self.labels.given(&self.shapes[16])?);
                Some(Classifier { rows, labels })
            }
            false => None,
        };
        let input = AttentionInput { features: self.shapes[8].view(stored, [b, r, d])?, classifier };
        outcomes.add(cpu::attention(&input, &options));
        let d_maps = self.shapes[9].view(&self.values, [b, r])?;
        outcomes.add(cpu::attention_backward(&input, &options, &d_maps));
        let (mut maps, mut d_features) = (self.values.clone(), stored.to_vec());
        let mut workspace = vec![0; self.workspace];
        let maps = self.shapes[10].view_mut(&mut maps, [b, r])?;
        let mut call = AttentionCall { input, options, maps };
        outcomes.add(cpu::attention_workspace(&call));
        outcomes.add(cpu::attention_into(&mut call, &mut workspace));
        let features = self.shapes[11].view_mut(&mut d_features, [b, r, d])?;
        let mut d_rows = stored.to_vec();
        let classifier = self.flags[6].then(|| self.shapes[12].view_mut(&mut d_rows, [c, d])).transpose()?;
        let outputs = AttentionOutputs { features, classifier };
        let mut call = AttentionBackwardCall { input, options, d_maps, outputs };
        outcomes.add(cpu::attention_backward_workspace(&call));
        outcomes.add(cpu::attention_backward_into(&mut call, &mut workspace));
        Ok(())
    }

    fn run<T: Element>(&self, outcomes: &mut Outcomes) {
        let stored: Vec<T> = self.values.iter().map(|&x| T::from_f32(x)).collect();
        let results = [
            self.loss(&stored, outcomes),
            self.mix(&stored, outcomes),
            self.weights_op(outcomes),
            self.scale(&stored, outcomes),
            self.attention_ops(&stored, outcomes),
        ];
        results.into_iter().for_each(|result| outcomes.add(result));
    }
}

#[test]
fn no_call_panics() {
    let outcomes = std::cell::RefCell::new(Outcomes::default());
    proptest!(config(), |(arguments in arguments(), half in any::<bool>())| {
        let outcomes = &mut outcomes.borrow_mut();
        if half { arguments.run::<f16>(outcomes) } else { arguments.run::<f32>(outcomes) }
    });
    let outcomes = outcomes.into_inner();
    println!("{outcomes:?}");
    assert!(outcomes.worked > CASES as usize && outcomes.refused > CASES as usize, "{outcomes:?}");
}

proptest! {
    #![proptest_config(config())]

    /// The sampler takes whatever number is given for α and gives some number back.
    #[test]
    fn no_draw_panics(alpha in value(), hi in value(), seed: u64, step: u64, index: [u32; 3], b in 0..300usize) {
        let stream = Stream::new(seed, step);
        let of = Alpha::Uniform { lo: alpha, hi };
        let gamma = Gamma::new(alpha, of);
        let [j, i, k] = index;
        let draw = gamma.draw(stream, Domain::Weight, j, i, k);
        gamma.draw_log2(stream, Domain::Weight, j, i, k);
        if (1e-3..=1e3).contains(&alpha) {
            prop_assert!((0.0..1e6).contains(&draw), "{draw} at {alpha}");
        }
        sampler::column_alpha(stream, of, j, k);
        sampler::factor(stream, Alpha::Fixed(alpha), Factor::PerColumn, k);
        prop_assert_eq!(sampler::partner(stream, b, k).len(), b);
        let mut column = [draw, alpha, hi];
        sampler::settle(&mut column, |_| alpha);
        sampler::column_sum(column);
    }
}
