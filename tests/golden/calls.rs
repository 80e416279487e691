//! The calls by the library's API: all of its use in this test. A call goes in, and bytes of each output come out.

use half::{bf16, f16};
use multimix::cuda::cudarc::driver::{CudaSlice, DeviceRepr};
use multimix::cuda::{self, DeviceElement, DeviceTargets, DeviceView, DeviceViewMut, Precision};
use multimix::{
    Alpha, AttentionOptions, EmptyMaps, Factor, Layout, LossOptions, Mixing, Normalise, Query, Reduction,
    View, ViewMut, cpu,
};

use super::common::Device;
use super::problem::{Draw, Element, Maps, Op, Problem, SEED, STEP, Targets};

/// Outputs by name, in memory order; what lies between elements is [`GAP`].
pub type Results = Vec<(&'static str, Vec<u8>)>;

/// What fills outputs before the call.
const GAP: f32 = -7.0;

/// Whether the device does what the call asks for.
pub fn runs_on(device: &Device, problem: &Problem) -> bool {
    let mixes = matches!(problem.op, Op::MixForward | Op::MixBackward);
    match problem.element {
        Element::F32 | Element::F16 => true,
        Element::Tf32 => device.has_bf16(),
        Element::Bf16 => device.has_bf16() || !mixes,
    }
}

/// Runs the call on the device.
pub fn on_device(device: &Device, problem: &Problem) -> Results {
    let results = match problem.element {
        Element::F32 | Element::Tf32 => OnDevice::<f32>::new(device, problem).run(),
        Element::F16 => OnDevice::<f16>::new(device, problem).run(),
        Element::Bf16 => OnDevice::<bf16>::new(device, problem).run(),
    };
    in_order(problem, results)
}

/// Runs the call on the CPU; nothing where it would be another call's twin there.
pub fn on_cpu(problem: &Problem) -> Option<Results> {
    let only_f32 = matches!(problem.op, Op::Weights);
    let results = match problem.element {
        Element::Tf32 => return None,
        _ if problem.device_seed => return None,
        Element::F32 => OnCpu::<f32>::new(problem).run(),
        _ if only_f32 => return None,
        Element::F16 => OnCpu::<f16>::new(problem).run(),
        Element::Bf16 => OnCpu::<bf16>::new(problem).run(),
    };
    Some(in_order(problem, results))
}

/// What was asked for, and in that order.
fn in_order(problem: &Problem, mut results: Results) -> Results {
    results.retain(|(name, _)| problem.wants(name));
    results.sort_by_key(|(name, _)| problem.outputs.iter().position(|output| output == name));
    results
}

fn mixing(problem: &Problem) -> Mixing {
    let alpha = |low: f32, high| match low == high {
        true => Alpha::Fixed(low),
        false => Alpha::Uniform { lo: low, hi: high },
    };
    let n = problem.n;
    let mixing = match problem.draw {
        Draw::Dirichlet(low, high) => Mixing::dirichlet(n, alpha(low, high)),
        Draw::PairPerBatch => Mixing::pair(n, Alpha::PAPER, Factor::PerBatch),
        Draw::PairPerColumn => Mixing::pair(n, Alpha::PAPER, Factor::PerColumn),
        Draw::ExplicitShared | Draw::ExplicitEach => Mixing::explicit(n),
    };
    let empty = if problem.maps == Maps::EmptyLeftOut { EmptyMaps::LeaveOut } else { EmptyMaps::Uniform };
    mixing.seed(SEED).step(STEP).empty_maps(empty)
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

fn bytes<T: multimix::Element>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// A call on the device.
struct OnDevice<'a, T> {
    device: &'a Device,
    problem: &'a Problem,
    layouts: Layouts,
    features: CudaSlice<T>,
    logits: CudaSlice<T>,
    attention: Option<CudaSlice<f32>>,
    weights: Option<([usize; 3], CudaSlice<f32>)>,
    labels: CudaSlice<u32>,
    soft: CudaSlice<f32>,
    seed_and_step: CudaSlice<u64>,
}

/// An output in device memory.
struct Output<T, const N: usize> {
    name: &'static str,
    layout: Layout<N>,
    memory: CudaSlice<T>,
}

impl<T: DeviceElement + Default, const N: usize> Output<T, N> {
    fn view(&mut self) -> DeviceViewMut<'_, T, N> {
        DeviceViewMut::from_layout(&mut self.memory, self.layout).unwrap()
    }

    fn bytes(&self, device: &Device) -> (&'static str, Vec<u8>) {
        (self.name, bytes(&device.download(&self.memory)))
    }
}

fn scratch(device: &Device, bytes: usize) -> CudaSlice<u8> {
    device.uninitialised(bytes.max(1))
}

fn whole<T: DeviceRepr, const N: usize>(memory: &CudaSlice<T>, shape: [usize; N]) -> DeviceView<'_, T, N> {
    DeviceView::new(memory, shape).unwrap()
}

impl<'a, T: DeviceElement + Default> OnDevice<'a, T> {
    fn new(device: &'a Device, problem: &'a Problem) -> Self {
        let layouts = Layouts::new(problem);
        Self {
            device,
            problem,
            features: device.upload(&elements(&problem.values("features", reach(&layouts.features)))),
            logits: device.upload(&elements(&problem.logits(reach(&layouts.logits)))),
            attention: problem.attention().map(|values| device.upload(&values)),
            weights: problem.weights().map(|(shape, values)| (shape, device.upload(&values))),
            labels: device.upload(&problem.labels()),
            soft: device.upload(&problem.soft()),
            seed_and_step: device.upload(&[SEED, STEP]),
            layouts,
        }
    }

    fn run(&self) -> Results {
        match self.problem.op {
            Op::Weights => self.weights(),
            Op::Attention => self.attention(),
            Op::AttentionBackward => self.attention_backward(),
            Op::MixForward => self.mix_forward(),
            Op::MixBackward => self.mix_backward(),
            Op::Loss => self.loss(),
        }
    }

    fn queue(&self) -> cuda::Queue<'_> {
        let tf32 = self.problem.element == Element::Tf32;
        let queue = self.device.engine.on(&self.device.stream).unwrap();
        let queue = queue.precision(if tf32 { Precision::Tf32 } else { Precision::Exact }).unwrap();
        match self.problem.device_seed {
            true => queue.seed_and_step(whole(&self.seed_and_step, [2])).unwrap(),
            false => queue,
        }
    }

    /// Seed and step of the host are others where the device's are to be taken.
    fn mixing(&self) -> Mixing {
        let mixing = mixing(self.problem);
        if self.problem.device_seed { mixing.seed(1).step(2) } else { mixing }
    }

    fn output<U: DeviceElement, const N: usize>(
        &self,
        name: &'static str,
        layout: Layout<N>,
    ) -> Option<Output<U, N>> {
        let memory = || self.device.upload(&vec![U::from_f32(GAP); reach(&layout)]);
        self.problem.wants(name).then(|| Output { name, layout, memory: memory() })
    }

    fn maps(&self) -> Option<DeviceView<'_, f32, 2>> {
        self.attention.as_ref().map(|maps| whole(maps, [self.problem.b, self.problem.r]))
    }

    fn explicit(&self) -> Option<DeviceView<'_, f32, 3>> {
        self.weights.as_ref().map(|(shape, weights)| whole(weights, *shape))
    }

    fn targets(&self) -> Option<DeviceTargets<'_>> {
        let Problem { b, c, .. } = *self.problem;
        match self.problem.targets {
            Targets::None => None,
            Targets::Labels => Some(DeviceTargets::Labels(whole(&self.labels, [b]))),
            Targets::Soft => Some(DeviceTargets::Soft(whole(&self.soft, [b, c]))),
        }
    }

    fn weights(&self) -> Results {
        let Problem { b, r, n, .. } = *self.problem;
        let input = cuda::WeightsInput { b, r, attention: self.maps(), weights: self.explicit() };
        let mut columns = self.output::<T, 3>("columns", Layout::contiguous([r, b, n]));
        let mut mass = self.output::<f32, 2>("mass", Layout::contiguous([r, n]));
        let mut output = cuda::WeightsOutput {
            columns: columns.as_mut().map(Output::view),
            mass: mass.as_mut().map(Output::view),
        };
        let bytes = cuda::weights_workspace_bytes(b, r, input.attention.is_some()).unwrap();
        let mut workspace = scratch(self.device, bytes);
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
        self.queue().weights_into(&self.mixing(), &input, &mut output, workspace).unwrap();
        [columns.map(|x| x.bytes(self.device)), mass.map(|x| x.bytes(self.device))]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The classifier of CAM.
    fn rows(&self) -> CudaSlice<T> {
        self.device.upload(&elements(&self.problem.values("classifier", self.problem.c * self.problem.d)))
    }

    fn attention_input<'s>(&'s self, rows: &'s CudaSlice<T>) -> cuda::AttentionInput<'s, T> {
        let Problem { b, c, d, .. } = *self.problem;
        cuda::AttentionInput {
            features: DeviceView::from_layout(&self.features, self.layouts.features).unwrap(),
            classifier: self
                .problem
                .classifier
                .then(|| cuda::Classifier { rows: whole(rows, [c, d]), labels: whole(&self.labels, [b]) }),
        }
    }

    fn attention(&self) -> Results {
        let Problem { b, r, .. } = *self.problem;
        let (rows, options, queue) = (self.rows(), attention_options(self.problem), self.queue());
        let input = self.attention_input(&rows);
        let mut maps = self.output::<f32, 2>("maps", Layout::contiguous([b, r])).unwrap();
        let bytes = queue.attention_workspace_bytes(&input).unwrap();
        let mut workspace = scratch(self.device, bytes);
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
        queue.attention_forward_into(&input, &options, maps.view(), workspace).unwrap();
        vec![maps.bytes(self.device)]
    }

    fn attention_backward(&self) -> Results {
        let Problem { b, r, c, d, classifier, .. } = *self.problem;
        let (rows, options, queue) = (self.rows(), attention_options(self.problem), self.queue());
        let input = self.attention_input(&rows);
        let d_maps = self.device.upload(&self.problem.values("d_maps", b * r));
        let mut features = self.output::<T, 3>("d_features", self.layouts.features).unwrap();
        let d_rows = self.output::<T, 2>("d_classifier", Layout::contiguous([c, d]));
        let mut d_rows = d_rows.filter(|_| classifier);
        let outputs = cuda::AttentionOutputs {
            features: features.view(),
            classifier: d_rows.as_mut().map(Output::view),
        };
        let bytes = queue.attention_workspace_bytes(&input).unwrap();
        let mut workspace = scratch(self.device, bytes);
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
        queue.attention_backward_into(&input, &options, &whole(&d_maps, [b, r]), outputs, workspace).unwrap();
        let d_rows = d_rows.map(|x| x.bytes(self.device));
        [Some(features.bytes(self.device)), d_rows].into_iter().flatten().collect()
    }

    fn mix_input(&self) -> cuda::MixInput<'_, T> {
        let classes = self.problem.c;
        cuda::MixInput {
            features: DeviceView::from_layout(&self.features, self.layouts.features).unwrap(),
            targets: self.targets().map(|targets| cuda::MixTargets { targets, classes }),
            attention: self.maps(),
            weights: self.explicit(),
        }
    }

    fn mix_forward(&self) -> Results {
        let (input, queue) = (self.mix_input(), self.queue());
        let mut features = self.output::<T, 3>("features", self.layouts.mixed).unwrap();
        let mut targets = self.output::<f32, 3>("targets", self.layouts.mixed_targets);
        let outputs =
            cuda::MixOutputs { features: features.view(), targets: targets.as_mut().map(Output::view) };
        let bytes = queue.mix_forward_workspace_bytes(&input).unwrap();
        let mut workspace = scratch(self.device, bytes);
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
        queue.mix_forward_into(&self.mixing(), &input, outputs, workspace).unwrap();
        let targets = targets.map(|x| x.bytes(self.device));
        [Some(features.bytes(self.device)), targets].into_iter().flatten().collect()
    }

    fn mix_backward(&self) -> Results {
        let Problem { b, r, c, n, .. } = *self.problem;
        let (input, queue, mixing) = (self.mix_input(), self.queue(), self.mixing());
        let d_mixed = self.problem.values("d_mixed", reach(&self.layouts.mixed));
        let d_mixed = self.device.upload(&elements::<T>(&d_mixed));
        let d_mixed_targets = self.device.upload(&self.problem.values("d_mixed_targets", n * r * c));
        let gradients = cuda::MixedGradients {
            features: DeviceView::from_layout(&d_mixed, self.layouts.mixed).unwrap(),
            targets: self.problem.wants("d_targets").then(|| whole(&d_mixed_targets, [n, r, c])),
        };
        let mut features = self.output::<T, 3>("d_features", self.layouts.features);
        let mut targets = self.output::<f32, 2>("d_targets", Layout::contiguous([b, c]));
        let mut attention = self.output::<f32, 2>("d_attention", Layout::contiguous([b, r]));
        let outputs = cuda::MixBackwardOutputs {
            features: features.as_mut().map(Output::view),
            targets: targets.as_mut().map(Output::view),
            attention: attention.as_mut().map(Output::view),
        };
        let bytes = queue.mix_backward_workspace_bytes(&mixing, &input, &outputs).unwrap();
        let mut workspace = scratch(self.device, bytes);
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
        queue.mix_backward_into(&mixing, &input, &gradients, outputs, workspace).unwrap();
        let features = features.map(|x| x.bytes(self.device));
        let rest = [targets, attention].map(|output| output.map(|x| x.bytes(self.device)));
        [features].into_iter().chain(rest).flatten().collect()
    }

    fn loss(&self) -> Results {
        let Problem { b, r, n, .. } = *self.problem;
        let (queue, mixing, options) = (self.queue(), self.mixing(), loss_options(self.problem));
        let input = cuda::LossInput {
            logits: DeviceView::from_layout(&self.logits, self.layouts.logits).unwrap(),
            targets: self.targets().expect("the loss has targets"),
            attention: self.maps(),
            weights: self.explicit(),
        };
        let scalar = self.problem.scalar.map(|scalar| self.device.upload(&[scalar]));
        let upstream = cuda::Upstream {
            factor: self.problem.upstream,
            scalar: scalar.as_ref().map(|scalar| whole(scalar, [1])),
        };
        let mut numbers = ["loss", "kl"].map(|name| self.output::<f32, 1>(name, Layout::contiguous([1])));
        let mut logits = self.output::<T, 3>("d_logits", self.layouts.logits);
        let mut attention = self.output::<f32, 2>("d_attention", Layout::contiguous([b, r]));
        let mut mixtures = ["per_mixture", "log_sum_exp"]
            .map(|name| self.output::<f32, 2>(name, Layout::contiguous([r, n])));
        let [loss, kl] = numbers.each_mut().map(|output| output.as_mut().map(Output::view));
        let [per_mixture, log_sum_exp] = mixtures.each_mut().map(|output| output.as_mut().map(Output::view));
        let outputs = cuda::LossOutputs {
            loss,
            kl,
            logits: logits.as_mut().map(Output::view),
            attention: attention.as_mut().map(Output::view),
            per_mixture,
            log_sum_exp,
        };
        let bytes = queue.loss_workspace_bytes(&mixing, &input, &options, &outputs).unwrap();
        let mut workspace = scratch(self.device, bytes);
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
        queue.loss_into(&mixing, &input, &options, &upstream, outputs, workspace).unwrap();
        let numbers = numbers.map(|output| output.map(|x| x.bytes(self.device)));
        let mixtures = mixtures.map(|output| output.map(|x| x.bytes(self.device)));
        let logits = logits.map(|x| x.bytes(self.device));
        let attention = attention.map(|x| x.bytes(self.device));
        numbers.into_iter().chain([logits, attention]).chain(mixtures).flatten().collect()
    }
}

/// A call on the CPU.
struct OnCpu<'a, T> {
    problem: &'a Problem,
    layouts: Layouts,
    features: Vec<T>,
    logits: Vec<T>,
    attention: Option<Vec<f32>>,
    weights: Option<([usize; 3], Vec<f32>)>,
    labels: Vec<u32>,
    soft: Vec<f32>,
}

/// An output in host memory.
struct Array<T, const N: usize> {
    name: &'static str,
    layout: Layout<N>,
    memory: Vec<T>,
}

impl<T: multimix::Element, const N: usize> Array<T, N> {
    fn new(name: &'static str, layout: Layout<N>) -> Self {
        Self { name, layout, memory: vec![T::from_f32(GAP); reach(&layout)] }
    }

    fn view(&mut self) -> ViewMut<'_, T, N> {
        ViewMut::from_layout(&mut self.memory, self.layout).unwrap()
    }

    fn bytes(&self) -> (&'static str, Vec<u8>) {
        (self.name, bytes(&self.memory))
    }
}

impl<'a, T: multimix::Element> OnCpu<'a, T> {
    fn new(problem: &'a Problem) -> Self {
        let layouts = Layouts::new(problem);
        Self {
            problem,
            features: elements(&problem.values("features", reach(&layouts.features))),
            logits: elements(&problem.logits(reach(&layouts.logits))),
            attention: problem.attention(),
            weights: problem.weights(),
            labels: problem.labels(),
            soft: problem.soft(),
            layouts,
        }
    }

    fn run(&self) -> Results {
        match self.problem.op {
            Op::Weights => self.weights(),
            Op::Attention => self.attention(),
            Op::AttentionBackward => self.attention_backward(),
            Op::MixForward => self.mix_forward(),
            Op::MixBackward => self.mix_backward(),
            Op::Loss => self.loss(),
        }
    }

    fn output<U: multimix::Element, const N: usize>(
        &self,
        name: &'static str,
        layout: Layout<N>,
    ) -> Option<Array<U, N>> {
        self.problem.wants(name).then(|| Array::new(name, layout))
    }

    fn maps(&self) -> Option<View<'_, f32, 2>> {
        self.attention.as_ref().map(|maps| View::new(maps, [self.problem.b, self.problem.r]).unwrap())
    }

    fn explicit(&self) -> Option<View<'_, f32, 3>> {
        self.weights.as_ref().map(|(shape, weights)| View::new(weights, *shape).unwrap())
    }

    fn targets(&self) -> Option<cpu::Targets<'_>> {
        let soft = || View::new(&self.soft, [self.problem.b, self.problem.c]).unwrap();
        match self.problem.targets {
            Targets::None => None,
            Targets::Labels => Some(cpu::Targets::Labels(&self.labels)),
            Targets::Soft => Some(cpu::Targets::Soft(soft())),
        }
    }

    /// Columns are always made here.
    fn weights(&self) -> Results {
        let Problem { b, r, n, .. } = *self.problem;
        let mixing = mixing(self.problem);
        let input = cpu::WeightsInput { b, r, attention: self.maps(), weights: self.explicit() };
        let mut columns = Array::<f32, 3>::new("columns", Layout::contiguous([r, b, n]));
        let mut mass = self.output::<f32, 2>("mass", Layout::contiguous([r, n]));
        let mut workspace = vec![0; cpu::weights_workspace_bytes(&mixing, &input).unwrap()];
        let mass_view = mass.as_mut().map(Array::view);
        cpu::weights_into(&mixing, &input, columns.view(), mass_view, &mut workspace).unwrap();
        [Some(columns.bytes()), mass.map(|x| x.bytes())].into_iter().flatten().collect()
    }

    fn rows(&self) -> Vec<f32> {
        self.problem.values("classifier", self.problem.c * self.problem.d)
    }

    fn attention_input<'s>(&'s self, rows: &'s [f32]) -> cpu::AttentionInput<'s, T> {
        let shape = [self.problem.c, self.problem.d];
        cpu::AttentionInput {
            features: View::from_layout(&self.features, self.layouts.features).unwrap(),
            classifier: self
                .problem
                .classifier
                .then(|| cpu::Classifier { rows: View::new(rows, shape).unwrap(), labels: &self.labels }),
        }
    }

    fn attention(&self) -> Results {
        let Problem { b, r, .. } = *self.problem;
        let (rows, options) = (self.rows(), attention_options(self.problem));
        let input = self.attention_input(&rows);
        let mut maps = Array::<f32, 2>::new("maps", Layout::contiguous([b, r]));
        let mut workspace = vec![0; cpu::attention_workspace_bytes(&input, &options).unwrap()];
        cpu::attention_forward_into(&input, &options, maps.view(), &mut workspace).unwrap();
        vec![maps.bytes()]
    }

    fn attention_backward(&self) -> Results {
        let Problem { b, r, c, d, classifier, .. } = *self.problem;
        let (rows, options) = (self.rows(), attention_options(self.problem));
        let (input, d_maps) = (self.attention_input(&rows), self.problem.values("d_maps", b * r));
        let d_maps = View::new(&d_maps, [b, r]).unwrap();
        let mut features = Array::<T, 3>::new("d_features", self.layouts.features);
        let d_rows = self.output::<f32, 2>("d_classifier", Layout::contiguous([c, d]));
        let mut d_rows = d_rows.filter(|_| classifier);
        let mut workspace = vec![0; cpu::attention_workspace_bytes(&input, &options).unwrap()];
        let d_rows_view = d_rows.as_mut().map(Array::view);
        cpu::attention_backward_into(&input, &options, &d_maps, features.view(), d_rows_view, &mut workspace)
            .unwrap();
        [Some(features.bytes()), d_rows.map(|x| x.bytes())].into_iter().flatten().collect()
    }

    fn mix_input(&self) -> cpu::MixInput<'_, T> {
        let classes = self.problem.c;
        cpu::MixInput {
            features: View::from_layout(&self.features, self.layouts.features).unwrap(),
            targets: self.targets().map(|targets| cpu::MixTargets { targets, classes }),
            attention: self.maps(),
            weights: self.explicit(),
        }
    }

    fn mix_forward(&self) -> Results {
        let (input, mixing) = (self.mix_input(), mixing(self.problem));
        let mut features = Array::<T, 3>::new("features", self.layouts.mixed);
        let mut targets = self.output::<f32, 3>("targets", self.layouts.mixed_targets);
        let outputs =
            cpu::MixOutputs { features: features.view(), targets: targets.as_mut().map(Array::view) };
        let mut workspace = vec![0; cpu::mix_forward_workspace_bytes(&mixing, &input).unwrap()];
        cpu::mix_forward_into(&mixing, &input, outputs, &mut workspace).unwrap();
        [Some(features.bytes()), targets.map(|x| x.bytes())].into_iter().flatten().collect()
    }

    fn mix_backward(&self) -> Results {
        let Problem { b, r, c, n, .. } = *self.problem;
        let (input, mixing) = (self.mix_input(), mixing(self.problem));
        let d_mixed = elements::<T>(&self.problem.values("d_mixed", reach(&self.layouts.mixed)));
        let d_mixed_targets = self.problem.values("d_mixed_targets", n * r * c);
        let d_targets = || View::new(&d_mixed_targets, [n, r, c]).unwrap();
        let gradients = cpu::MixedGradients {
            features: View::from_layout(&d_mixed, self.layouts.mixed).unwrap(),
            targets: self.problem.wants("d_targets").then(d_targets),
        };
        let mut features = self.output::<T, 3>("d_features", self.layouts.features);
        let mut targets = self.output::<f32, 2>("d_targets", Layout::contiguous([b, c]));
        let mut attention = self.output::<f32, 2>("d_attention", Layout::contiguous([b, r]));
        let outputs = cpu::MixBackwardOutputs {
            features: features.as_mut().map(Array::view),
            targets: targets.as_mut().map(Array::view),
            attention: attention.as_mut().map(Array::view),
        };
        let mut workspace = vec![0; cpu::mix_backward_workspace_bytes(&mixing, &input, &outputs).unwrap()];
        cpu::mix_backward_into(&mixing, &input, &gradients, outputs, &mut workspace).unwrap();
        let rest = [targets, attention].map(|output| output.map(|x| x.bytes()));
        [features.map(|x| x.bytes())].into_iter().chain(rest).flatten().collect()
    }

    fn loss(&self) -> Results {
        let Problem { b, r, n, .. } = *self.problem;
        let (mixing, options) = (mixing(self.problem), loss_options(self.problem));
        let input = cpu::LossInput {
            logits: View::from_layout(&self.logits, self.layouts.logits).unwrap(),
            targets: self.targets().expect("the loss has targets"),
            attention: self.maps(),
            weights: self.explicit(),
        };
        let mut logits = self.output::<T, 3>("d_logits", self.layouts.logits);
        let mut attention = self.output::<f32, 2>("d_attention", Layout::contiguous([b, r]));
        let mut mixtures = ["per_mixture", "log_sum_exp"]
            .map(|name| self.output::<f32, 2>(name, Layout::contiguous([r, n])));
        let [per_mixture, log_sum_exp] = mixtures.each_mut().map(|output| output.as_mut().map(Array::view));
        let outputs = cpu::LossOutputs {
            logits: logits.as_mut().map(Array::view),
            attention: attention.as_mut().map(Array::view),
            per_mixture,
            log_sum_exp,
        };
        let bytes = cpu::loss_workspace_bytes(&mixing, &input, &options, &outputs).unwrap();
        let (mut workspace, upstream) =
            (vec![0; bytes], self.problem.upstream * self.problem.scalar.unwrap_or(1.0));
        let loss = cpu::loss_into(&mixing, &input, &options, upstream, outputs, &mut workspace).unwrap();
        let numbers = [("loss", Some(loss.value)), ("kl", loss.kl)];
        let numbers = numbers.map(|(name, value)| value.map(|value| (name, self::bytes(&[value]))));
        let mixtures = mixtures.map(|output| output.map(|x| x.bytes()));
        let gradients = [logits.map(|x| x.bytes()), attention.map(|x| x.bytes())];
        numbers.into_iter().chain(gradients).chain(mixtures).flatten().collect()
    }
}
