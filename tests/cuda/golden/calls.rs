//! The calls by the library's API: all of its use in this test. A call goes in, and bytes of each output come
//! out, or its launches.

use std::cell::RefCell;

use half::{bf16, f16};
use multimix::cuda::cudarc::driver::CudaSlice;
use multimix::cuda::{self, Bare, BareCall, Cuda, DeviceInfo, Precision, Queue};
use multimix::{
    Alpha, AttentionBackwardCall, AttentionCall, AttentionInput, AttentionOptions, AttentionOutputs,
    Classifier, Columns, EmptyMaps, Factor, Host, Layout, LossCall, LossInput, LossOptions, LossOutputs,
    Memory, MixBackwardCall, MixBackwardOutputs, MixCall, MixInput, MixOutputs, MixTargets, MixedGradients,
    Mixing, Normalise, Query, Reduction, Scalar, Targets, Upstream, View, ViewMut, WeightsCall, WeightsInput,
    WeightsOutputs, cpu,
};

use super::problem::{self, Draw, Element, Maps, Op, Problem, SEED, STEP};
use crate::support::device::Device;

/// Outputs by name, in memory order; what lies between elements is [`GAP`].
pub type Results = Vec<(&'static str, Vec<u8>)>;

/// What fills outputs before the call.
const GAP: f32 = -7.0;

/// Whether a device does what the call asks for.
pub fn runs_on(device: &DeviceInfo, problem: &Problem) -> bool {
    let mixes = matches!(problem.op, Op::MixForward | Op::MixBackward);
    let ampere = device.has_ampere_tensor_cores();
    match problem.element {
        Element::F32 | Element::F16 => true,
        Element::Tf32 => ampere,
        Element::Bf16 => ampere || !mixes,
    }
}

/// Runs the call on the device.
pub fn on_device(device: &Device, problem: &Problem) -> Results {
    let queue = device.engine.on(&device.stream).unwrap().precision(precision(problem)).unwrap();
    let place = OnDevice { device, queue };
    let results = match problem.element {
        Element::F32 | Element::Tf32 => run::<f32, _>(&place, problem),
        Element::F16 => run::<f16, _>(&place, problem),
        Element::Bf16 => run::<bf16, _>(&place, problem),
    };
    in_order(problem, results)
}

/// The launches of the call, without any device.
pub fn launches(device: &DeviceInfo, problem: &Problem) -> Vec<String> {
    let listed = Listed { device, precision: precision(problem), lines: RefCell::default() };
    match problem.element {
        Element::F32 | Element::Tf32 => run::<f32, _>(&listed, problem),
        Element::F16 => run::<f16, _>(&listed, problem),
        Element::Bf16 => run::<bf16, _>(&listed, problem),
    };
    listed.lines.into_inner()
}

/// Runs the call on the CPU; nothing where it would be another call's twin there.
pub fn on_cpu(problem: &Problem) -> Option<Results> {
    let only_f32 = matches!(problem.op, Op::Weights);
    let results = match problem.element {
        Element::Tf32 => return None,
        _ if problem.device_seed => return None,
        Element::F32 => run::<f32, _>(&OnCpu, problem),
        _ if only_f32 => return None,
        Element::F16 => run::<f16, _>(&OnCpu, problem),
        Element::Bf16 => run::<bf16, _>(&OnCpu, problem),
    };
    Some(in_order(problem, results))
}

/// What was asked for, and in that order.
fn in_order(problem: &Problem, mut results: Results) -> Results {
    results.retain(|(name, _)| problem.wants(name));
    results.sort_by_key(|(name, _)| problem.outputs.iter().position(|output| output == name));
    results
}

fn precision(problem: &Problem) -> Precision {
    if problem.element == Element::Tf32 { Precision::Tf32 } else { Precision::Exact }
}

/// How columns are drawn, where they are.
fn mixing(problem: &Problem) -> Option<Mixing> {
    let alpha = |low: f32, high| match low == high {
        true => Alpha::Fixed(low),
        false => Alpha::Uniform { lo: low, hi: high },
    };
    let n = problem.n;
    let mixing = match problem.draw {
        Draw::Dirichlet(low, high) => Mixing::dirichlet(n, alpha(low, high)),
        Draw::PairPerBatch => Mixing::pair(n, Alpha::PAPER, Factor::PerBatch),
        Draw::PairPerColumn => Mixing::pair(n, Alpha::PAPER, Factor::PerColumn),
        Draw::ExplicitShared | Draw::ExplicitEach => return None,
    };
    Some(mixing.empty_maps(empty_maps(problem)))
}

fn empty_maps(problem: &Problem) -> EmptyMaps {
    if problem.maps == Maps::EmptyLeftOut { EmptyMaps::LeaveOut } else { EmptyMaps::Uniform }
}

fn attention_options(problem: &Problem) -> AttentionOptions {
    AttentionOptions {
        query: if problem.classifier { Query::Cam } else { Query::Gap },
        normalise: if problem.softmax { Normalise::Softmax } else { Normalise::ReluL1 },
    }
}

fn loss_options(problem: &Problem) -> LossOptions {
    LossOptions {
        reduction: if problem.mean { Reduction::Mean } else { Reduction::AttentionWeighted },
        detach_attention: problem.detach,
        kl: problem.wants("kl"),
    }
}

/// The layouts of one call's arrays.
struct Layouts {
    features: Layout<3>,
    logits: Layout<3>,
    mixed: Layout<3>,
    mixed_targets: Layout<3>,
}

impl Layouts {
    fn new(problem: &Problem) -> Self {
        let layout = |(shape, strides)| Layout { shape, strides };
        Self {
            features: layout(problem.layout(problem.d)),
            logits: layout(problem.layout(problem.c)),
            mixed: layout(problem.mixed_layout(problem.d)),
            mixed_targets: Layout::contiguous([problem.n, problem.r, problem.c]),
        }
    }
}

fn reach<const N: usize>(layout: &Layout<N>) -> usize {
    layout.reach("golden", "layout").expect("small")
}

fn elements<T: multimix::Element>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_f32(value)).collect()
}

/// Where arrays lie, and what becomes of calls on them.
trait Place {
    type Memory: Memory;
    type Array<T: Scalar>;

    fn array<T: Scalar>(&self, values: Vec<T>) -> Self::Array<T>;
    fn values<T: Scalar>(&self, array: &Self::Array<T>) -> Vec<T>;
    fn view<'a, T: Scalar, const N: usize>(
        &self,
        array: &'a Self::Array<T>,
        layout: Layout<N>,
    ) -> View<'a, T, N, Self::Memory>;
    fn view_mut<'a, T: Scalar, const N: usize>(
        &self,
        array: &'a mut Self::Array<T>,
        layout: Layout<N>,
    ) -> ViewMut<'a, T, N, Self::Memory>;

    fn weights<T: multimix::Element>(&self, call: WeightsCall<'_, T, Self::Memory>);
    fn attention<T: multimix::Element>(&self, call: AttentionCall<'_, T, Self::Memory>);
    fn attention_backward<T: multimix::Element>(&self, call: AttentionBackwardCall<'_, T, Self::Memory>);
    fn mix<T: multimix::Element>(&self, call: MixCall<'_, T, Self::Memory>);
    fn mix_backward<T: multimix::Element>(&self, call: MixBackwardCall<'_, T, Self::Memory>);
    fn loss<T: multimix::Element>(&self, call: LossCall<'_, T, Self::Memory>);
}

/// On the device, from a stream's queue.
struct OnDevice<'a> {
    device: &'a Device,
    queue: Queue<'a>,
}

macro_rules! on_device {
    ($($op:ident, $call:ident, $into:ident, $workspace:ident;)*) => {
        $(fn $op<T: multimix::Element>(&self, mut call: $call<'_, T, Cuda>) {
            let bytes = self.queue.$workspace(&mut call).unwrap();
            let mut workspace = self.device.uninitialised::<u8>(bytes.max(1));
            self.queue.$into(&mut call, &mut ViewMut::new(&mut workspace, [bytes]).unwrap()).unwrap();
        })*
    };
}

impl Place for OnDevice<'_> {
    type Memory = Cuda;
    type Array<T: Scalar> = CudaSlice<T>;

    fn array<T: Scalar>(&self, values: Vec<T>) -> CudaSlice<T> {
        self.device.upload(&values)
    }

    fn values<T: Scalar>(&self, array: &CudaSlice<T>) -> Vec<T> {
        self.device.download(array)
    }

    fn view<'a, T: Scalar, const N: usize>(
        &self,
        array: &'a CudaSlice<T>,
        layout: Layout<N>,
    ) -> View<'a, T, N, Cuda> {
        View::from_layout(array, layout).unwrap()
    }

    fn view_mut<'a, T: Scalar, const N: usize>(
        &self,
        array: &'a mut CudaSlice<T>,
        layout: Layout<N>,
    ) -> ViewMut<'a, T, N, Cuda> {
        ViewMut::from_layout(array, layout).unwrap()
    }

    on_device! {
        weights, WeightsCall, weights_into, weights_workspace;
        attention, AttentionCall, attention_into, attention_workspace;
        attention_backward, AttentionBackwardCall, attention_backward_into, attention_backward_workspace;
        mix, MixCall, mix_into, mix_workspace;
        mix_backward, MixBackwardCall, mix_backward_into, mix_backward_workspace;
        loss, LossCall, loss_into, loss_workspace;
    }
}

/// On the CPU.
struct OnCpu;

macro_rules! on_cpu {
    ($($op:ident, $call:ident, $into:ident, $workspace:ident;)*) => {
        $(fn $op<T: multimix::Element>(&self, mut call: $call<'_, T>) {
            let mut workspace = vec![0; cpu::$workspace(&call).unwrap()];
            cpu::$into(&mut call, &mut workspace).unwrap();
        })*
    };
}

impl Place for OnCpu {
    type Memory = Host;
    type Array<T: Scalar> = Vec<T>;

    fn array<T: Scalar>(&self, values: Vec<T>) -> Vec<T> {
        values
    }

    fn values<T: Scalar>(&self, array: &Vec<T>) -> Vec<T> {
        array.clone()
    }

    fn view<'a, T: Scalar, const N: usize>(&self, array: &'a Vec<T>, layout: Layout<N>) -> View<'a, T, N> {
        View::from_layout(array, layout).unwrap()
    }

    fn view_mut<'a, T: Scalar, const N: usize>(
        &self,
        array: &'a mut Vec<T>,
        layout: Layout<N>,
    ) -> ViewMut<'a, T, N> {
        ViewMut::from_layout(array, layout).unwrap()
    }

    on_cpu! {
        weights, WeightsCall, weights_into, weights_workspace;
        attention, AttentionCall, attention_into, attention_workspace;
        attention_backward, AttentionBackwardCall, attention_backward_into, attention_backward_workspace;
        mix, MixCall, mix_into, mix_workspace;
        mix_backward, MixBackwardCall, mix_backward_into, mix_backward_workspace;
        loss, LossCall, loss_into, loss_workspace;
    }
}

/// Nowhere: launches are noted. There are no values.
struct Listed<'a> {
    device: &'a DeviceInfo,
    precision: Precision,
    lines: RefCell<Vec<String>>,
}

impl Listed<'_> {
    fn note(&self, call: &impl BareCall) {
        *self.lines.borrow_mut() = cuda::launches(self.device, self.precision, call).unwrap();
    }
}

macro_rules! listed {
    ($($op:ident, $call:ident;)*) => {
        $(fn $op<T: multimix::Element>(&self, call: $call<'_, T, Bare>) {
            self.note(&call);
        })*
    };
}

impl Place for Listed<'_> {
    type Memory = Bare;
    type Array<T: Scalar> = ();

    fn array<T: Scalar>(&self, _: Vec<T>) {}

    fn values<T: Scalar>(&self, (): &()) -> Vec<T> {
        vec![]
    }

    fn view<'a, T: Scalar, const N: usize>(&self, (): &'a (), layout: Layout<N>) -> View<'a, T, N, Bare> {
        View::at(0, layout)
    }

    fn view_mut<'a, T: Scalar, const N: usize>(
        &self,
        (): &'a mut (),
        layout: Layout<N>,
    ) -> ViewMut<'a, T, N, Bare> {
        ViewMut::at(0, layout)
    }

    listed! {
        weights, WeightsCall;
        attention, AttentionCall;
        attention_backward, AttentionBackwardCall;
        mix, MixCall;
        mix_backward, MixBackwardCall;
        loss, LossCall;
    }
}

fn run<T: multimix::Element, P: Place>(place: &P, problem: &Problem) -> Results {
    let call = Call::<T, P>::new(place, problem);
    match problem.op {
        Op::Weights => call.weights(),
        Op::Attention => call.attention(),
        Op::AttentionBackward => call.attention_backward(),
        Op::MixForward => call.mix_forward(),
        Op::MixBackward => call.mix_backward(),
        Op::Loss => call.loss(),
    }
}

/// A call's inputs at a place.
struct Call<'a, T: Scalar, P: Place> {
    place: &'a P,
    problem: &'a Problem,
    layouts: Layouts,
    features: P::Array<T>,
    logits: P::Array<T>,
    attention: Option<P::Array<f32>>,
    weights: Option<([usize; 3], P::Array<f32>)>,
    labels: P::Array<u32>,
    soft: P::Array<f32>,
    rows: P::Array<T>,
    seed_and_step: P::Array<u64>,
}

/// An output at a place.
struct Output<'a, T: Scalar, P: Place, const N: usize> {
    place: &'a P,
    name: &'static str,
    layout: Layout<N>,
    memory: P::Array<T>,
}

impl<T: Scalar, P: Place, const N: usize> Output<'_, T, P, N> {
    fn view(&mut self) -> ViewMut<'_, T, N, P::Memory> {
        self.place.view_mut(&mut self.memory, self.layout)
    }

    fn bytes(&self) -> (&'static str, Vec<u8>) {
        (self.name, bytemuck::cast_slice(&self.place.values(&self.memory)).to_vec())
    }
}

impl<'a, T: multimix::Element, P: Place> Call<'a, T, P> {
    fn new(place: &'a P, problem: &'a Problem) -> Self {
        let layouts = Layouts::new(problem);
        let features = problem.values("features", reach(&layouts.features));
        let rows = problem.values("classifier", problem.c * problem.d);
        Self {
            place,
            problem,
            features: place.array(elements(&features)),
            logits: place.array(elements(&problem.logits(reach(&layouts.logits)))),
            attention: problem.attention().map(|values| place.array(values)),
            weights: problem.weights().map(|(shape, values)| (shape, place.array(values))),
            labels: place.array(problem.labels()),
            soft: place.array(problem.soft()),
            rows: place.array(elements(&rows)),
            seed_and_step: place.array(vec![SEED, STEP]),
            layouts,
        }
    }

    fn output<U: multimix::Element, const N: usize>(
        &self,
        name: &'static str,
        layout: Layout<N>,
    ) -> Option<Output<'a, U, P, N>> {
        let place = self.place;
        let memory = || place.array(vec![U::from_f32(GAP); reach(&layout)]);
        self.problem.wants(name).then(|| Output { place, name, layout, memory: memory() })
    }

    fn whole<'s, U: Scalar, const N: usize>(
        &self,
        memory: &'s P::Array<U>,
        shape: [usize; N],
    ) -> View<'s, U, N, P::Memory> {
        self.place.view(memory, Layout::contiguous(shape))
    }

    fn columns(&self) -> Columns<'_, P::Memory> {
        if let Some((shape, weights)) = &self.weights {
            let weights = self.whole(weights, *shape);
            return Columns::Given { weights, empty_maps: empty_maps(self.problem) };
        }
        let mixing = mixing(self.problem).expect("there are no weights");
        match self.problem.device_seed {
            // Seed and step of the host are others where the device's are to be taken.
            true => Columns::drawn_from(&mixing.seed(1).step(2), self.whole(&self.seed_and_step, [2])),
            false => mixing.seed(SEED).step(STEP).into(),
        }
    }

    fn maps(&self) -> Option<View<'_, f32, 2, P::Memory>> {
        self.attention.as_ref().map(|maps| self.whole(maps, [self.problem.b, self.problem.r]))
    }

    fn targets(&self) -> Option<Targets<'_, P::Memory>> {
        let Problem { b, c, .. } = *self.problem;
        match self.problem.targets {
            problem::Targets::None => None,
            problem::Targets::Labels => Some(Targets::labels(self.whole(&self.labels, [b]))),
            problem::Targets::Soft => Some(Targets::Soft(self.whole(&self.soft, [b, c]))),
        }
    }

    fn weights(&self) -> Results {
        let Problem { b, r, n, .. } = *self.problem;
        let mut columns = self.output::<T, 3>("columns", Layout::contiguous([r, b, n]));
        let mut mass = self.output::<f32, 2>("mass", Layout::contiguous([r, n]));
        self.place.weights(WeightsCall {
            columns: self.columns(),
            input: WeightsInput { b, r, attention: self.maps() },
            outputs: WeightsOutputs {
                matrix: columns.as_mut().map(Output::view),
                mass: mass.as_mut().map(Output::view),
            },
        });
        [columns.map(|x| x.bytes()), mass.map(|x| x.bytes())].into_iter().flatten().collect()
    }

    fn attention_input(&self) -> AttentionInput<'_, T, P::Memory> {
        let Problem { b, c, d, .. } = *self.problem;
        let classifier = || Classifier {
            rows: self.whole(&self.rows, [c, d]),
            labels: self.whole(&self.labels, [b]).into(),
        };
        AttentionInput {
            features: self.place.view(&self.features, self.layouts.features),
            classifier: self.problem.classifier.then(classifier),
        }
    }

    fn attention(&self) -> Results {
        let Problem { b, r, .. } = *self.problem;
        let (input, options) = (self.attention_input(), attention_options(self.problem));
        let mut maps = self.output::<f32, 2>("maps", Layout::contiguous([b, r])).unwrap();
        self.place.attention(AttentionCall { input, options, maps: maps.view() });
        vec![maps.bytes()]
    }

    fn attention_backward(&self) -> Results {
        let Problem { b, r, c, d, classifier, .. } = *self.problem;
        let d_maps = self.place.array(self.problem.values("d_maps", b * r));
        let mut features = self.output::<T, 3>("d_features", self.layouts.features).unwrap();
        let d_rows = self.output::<T, 2>("d_classifier", Layout::contiguous([c, d]));
        let mut d_rows = d_rows.filter(|_| classifier);
        self.place.attention_backward(AttentionBackwardCall {
            input: self.attention_input(),
            options: attention_options(self.problem),
            d_maps: self.whole(&d_maps, [b, r]),
            outputs: AttentionOutputs {
                features: features.view(),
                classifier: d_rows.as_mut().map(Output::view),
            },
        });
        [Some(features.bytes()), d_rows.map(|x| x.bytes())].into_iter().flatten().collect()
    }

    fn mix_input(&self) -> MixInput<'_, T, P::Memory> {
        let classes = self.problem.c;
        MixInput {
            features: self.place.view(&self.features, self.layouts.features),
            targets: self.targets().map(|targets| MixTargets { targets, classes }),
            attention: self.maps(),
        }
    }

    fn mix_forward(&self) -> Results {
        let mut features = self.output::<T, 3>("features", self.layouts.mixed).unwrap();
        let mut targets = self.output::<f32, 3>("targets", self.layouts.mixed_targets);
        self.place.mix(MixCall {
            columns: self.columns(),
            input: self.mix_input(),
            outputs: MixOutputs { features: features.view(), targets: targets.as_mut().map(Output::view) },
        });
        [Some(features.bytes()), targets.map(|x| x.bytes())].into_iter().flatten().collect()
    }

    fn mix_backward(&self) -> Results {
        let Problem { b, r, c, n, .. } = *self.problem;
        let d_mixed = elements::<T>(&self.problem.values("d_mixed", reach(&self.layouts.mixed)));
        let d_mixed = self.place.array(d_mixed);
        let d_mixed_targets = self.place.array(self.problem.values("d_mixed_targets", n * r * c));
        let d_targets = || self.whole(&d_mixed_targets, [n, r, c]);
        let mut features = self.output::<T, 3>("d_features", self.layouts.features);
        let mut targets = self.output::<f32, 2>("d_targets", Layout::contiguous([b, c]));
        let mut attention = self.output::<f32, 2>("d_attention", Layout::contiguous([b, r]));
        self.place.mix_backward(MixBackwardCall {
            columns: self.columns(),
            input: self.mix_input(),
            gradients: MixedGradients {
                features: self.place.view(&d_mixed, self.layouts.mixed),
                targets: self.problem.wants("d_targets").then(d_targets),
            },
            outputs: MixBackwardOutputs {
                features: features.as_mut().map(Output::view),
                targets: targets.as_mut().map(Output::view),
                attention: attention.as_mut().map(Output::view),
            },
        });
        let rest = [targets, attention].map(|output| output.map(|x| x.bytes()));
        [features.map(|x| x.bytes())].into_iter().chain(rest).flatten().collect()
    }

    fn loss(&self) -> Results {
        let Problem { b, r, n, .. } = *self.problem;
        let scalar = self.problem.scalar.map(|scalar| self.place.array(vec![scalar]));
        let mut numbers = ["loss", "kl"].map(|name| self.output::<f32, 1>(name, Layout::contiguous([1])));
        let mut logits = self.output::<T, 3>("d_logits", self.layouts.logits);
        let mut attention = self.output::<f32, 2>("d_attention", Layout::contiguous([b, r]));
        let mut mixtures = ["per_mixture", "log_sum_exp"]
            .map(|name| self.output::<f32, 2>(name, Layout::contiguous([r, n])));
        let [loss, kl] = numbers.each_mut().map(|output| output.as_mut().map(Output::view));
        let [per_mixture, log_sum_exp] = mixtures.each_mut().map(|output| output.as_mut().map(Output::view));
        self.place.loss(LossCall {
            columns: self.columns(),
            input: LossInput {
                logits: self.place.view(&self.logits, self.layouts.logits),
                targets: self.targets().expect("the loss has targets"),
                attention: self.maps(),
            },
            options: loss_options(self.problem),
            upstream: Upstream {
                factor: self.problem.upstream,
                scalar: scalar.as_ref().map(|scalar| self.whole(scalar, [1])),
            },
            outputs: LossOutputs {
                loss,
                kl,
                logits: logits.as_mut().map(Output::view),
                logits_f32: None,
                attention: attention.as_mut().map(Output::view),
                per_mixture,
                log_sum_exp,
            },
        });
        let numbers = numbers.map(|output| output.map(|x| x.bytes()));
        let mixtures = mixtures.map(|output| output.map(|x| x.bytes()));
        let gradients = [logits.map(|x| x.bytes()), attention.map(|x| x.bytes())];
        numbers.into_iter().chain(gradients).chain(mixtures).flatten().collect()
    }
}
