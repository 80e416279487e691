//! Problems in device memory, and outputs there.

use cudarc::driver::CudaSlice;
use multimix::cuda::{Cuda, cudarc};
use multimix::{
    AttentionInput, Classifier, Columns, Element, Layout, LossInput, MixInput, MixTargets, MixedGradients,
    Result, Targets, View, ViewMut, WeightsInput,
};
use rand_chacha::ChaCha8Rng;

use crate::support::device::Device;
use crate::support::problem::Problem;
use crate::support::strided::{Strided, unravel};
use crate::support::tiles::layout;

/// What fills the gaps of outputs: a kernel that writes there is seen.
const GAP: f32 = -7.0;

/// An input on the device.
pub struct Input<T, const N: usize> {
    layout: Layout<N>,
    memory: CudaSlice<T>,
}

impl<T: Element, const N: usize> Input<T, N> {
    pub fn new(device: &Device, array: &Strided<T, N>) -> Self {
        Self { layout: array.layout, memory: device.upload(array.memory()) }
    }

    pub fn view(&self) -> View<'_, T, N, Cuda> {
        View::from_layout(&self.memory, self.layout).unwrap()
    }
}

/// A problem's arrays on the device.
pub struct Uploaded<'p, T> {
    problem: &'p Problem<T>,
    features: Input<T, 3>,
    logits: Input<T, 3>,
    attention: Option<Input<f32, 2>>,
    weights: Option<Input<f32, 3>>,
    labels: CudaSlice<u32>,
    soft: Option<Input<f32, 2>>,
    classifier: Input<T, 2>,
    d_mixed: Input<T, 3>,
    d_mixed_targets: Option<Input<f32, 3>>,
    d_attention: Input<f32, 2>,
}

impl<'p, T: Element> Uploaded<'p, T> {
    pub fn new(device: &Device, problem: &'p Problem<T>) -> Self {
        Self {
            problem,
            features: Input::new(device, &problem.features),
            logits: Input::new(device, &problem.logits),
            attention: problem.attention.as_ref().map(|attention| Input::new(device, attention)),
            weights: problem.weights.as_ref().map(|weights| Input::new(device, weights)),
            labels: device.upload(&problem.labels),
            soft: problem.soft.as_ref().map(|soft| Input::new(device, soft)),
            classifier: Input::new(device, &problem.classifier),
            d_mixed: Input::new(device, &problem.d_mixed),
            d_mixed_targets: problem.d_mixed_targets.as_ref().map(|targets| Input::new(device, targets)),
            d_attention: Input::new(device, &problem.d_attention),
        }
    }

    /// Explicit weights where there are any, else what the mixing draws.
    pub fn columns(&self) -> Columns<'_, Cuda> {
        match &self.weights {
            Some(weights) => {
                Columns::Given { weights: weights.view(), empty_maps: self.problem.mixing.empty_maps }
            }
            None => Columns::from(&self.problem.mixing),
        }
    }

    fn labels(&self) -> View<'_, u32, 1, Cuda> {
        View::new(&self.labels, [self.problem.sizes.b]).unwrap()
    }

    fn targets(&self) -> Targets<'_, Cuda> {
        match &self.soft {
            Some(soft) => Targets::Soft(soft.view()),
            None => Targets::labels(self.labels()),
        }
    }

    pub fn weights_input(&self) -> WeightsInput<'_, Cuda> {
        WeightsInput {
            b: self.problem.sizes.b,
            r: self.problem.sizes.r,
            attention: self.attention.as_ref().map(Input::view),
        }
    }

    pub fn mix_input(&self) -> MixInput<'_, T, Cuda> {
        let targets = MixTargets { targets: self.targets(), classes: self.problem.sizes.c };
        MixInput {
            features: self.features.view(),
            targets: self.problem.mixes_targets.then_some(targets),
            attention: self.attention.as_ref().map(Input::view),
        }
    }

    pub fn mixed_gradients(&self) -> MixedGradients<'_, T, Cuda> {
        MixedGradients {
            features: self.d_mixed.view(),
            targets: self.d_mixed_targets.as_ref().map(Input::view),
        }
    }

    pub fn loss_input(&self) -> LossInput<'_, T, Cuda> {
        LossInput {
            logits: self.logits.view(),
            targets: self.targets(),
            attention: self.attention.as_ref().map(Input::view),
        }
    }

    pub fn attention_input(&self) -> AttentionInput<'_, T, Cuda> {
        let classifier = Classifier { rows: self.classifier.view(), labels: self.labels().into() };
        AttentionInput {
            features: self.features.view(),
            classifier: self.problem.is_cam().then_some(classifier),
        }
    }

    pub fn d_attention(&self) -> View<'_, f32, 2, Cuda> {
        self.d_attention.view()
    }
}

/// An output on the device.
pub struct Output<T, const N: usize> {
    layout: Layout<N>,
    memory: CudaSlice<T>,
}

impl<T: Element, const N: usize> Output<T, N> {
    pub fn new(device: &Device, rng: &mut ChaCha8Rng, shape: [usize; N]) -> Self {
        let layout = layout(rng, shape);
        let reach = layout.reach("test", "output").unwrap();
        Self { layout, memory: device.upload(&vec![T::from_f32(GAP); reach]) }
    }

    /// In row-major order, in memory that nobody has written.
    pub fn contiguous(device: &Device, shape: [usize; N]) -> Self {
        Self { layout: Layout::contiguous(shape), memory: device.uninitialised(shape.iter().product()) }
    }

    pub fn view(&mut self) -> ViewMut<'_, T, N, Cuda> {
        ViewMut::from_layout(&mut self.memory, self.layout).unwrap()
    }

    /// All elements in row-major order, after a check that nothing was written between them.
    pub fn values(&self, device: &Device) -> Vec<T> {
        let mut all = device.download(&self.memory);
        let places = (0..self.layout.shape.iter().product()).map(|at| unravel(at, self.layout.shape));
        let values = places
            .map(|index| std::mem::replace(&mut all[self.layout.offset(index)], T::from_f32(GAP)))
            .collect();
        assert!(all.iter().all(|x| x.to_f32() == GAP), "written between the elements of {:?}", self.layout);
        values
    }
}

/// Scratch memory that nobody has written.
pub fn scratch(device: &Device, bytes: Result<usize>) -> CudaSlice<u8> {
    device.uninitialised(bytes.unwrap().max(1))
}

/// All of it.
pub fn whole(scratch: &mut CudaSlice<u8>) -> ViewMut<'_, u8, 1, Cuda> {
    let bytes = scratch.len();
    ViewMut::new(scratch, [bytes]).unwrap()
}
