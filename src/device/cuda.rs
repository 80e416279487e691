//! The GPU side of [`Device`](super::Device): uploads, calls the CUDA engine, downloads.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};

use crate::cpu::{self, check_attention, check_weights};
use crate::cuda::{self, DeviceElement, DeviceTargets, DeviceView, Engine, Queue, Upstream};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::problem::{AttentionOptions, LossOptions, Mixing, Query, check_label};
use crate::view::{Layout, View};

/// A GPU with its engine and a stream.
#[derive(Clone, Debug)]
pub struct CudaDevice {
    engine: Engine,
    stream: Arc<CudaStream>,
}

impl CudaDevice {
    pub(super) fn new(ordinal: usize) -> Result<Self> {
        let engine = Engine::new(&cuda::open(ordinal)?)?;
        let stream = engine.context().default_stream();
        Ok(Self { engine, stream })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The stream that calls go to.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    fn queue(&self) -> Result<Queue<'_>> {
        self.engine.on(&self.stream)
    }

    fn upload<T: Element + DeviceRepr, const N: usize>(&self, view: &View<'_, T, N>) -> Result<Upload<T, N>> {
        let reach = view.layout().reach("upload", "data")?;
        self.upload_slice(&view.data()[..reach]).map(|memory| Upload { memory, layout: *view.layout() })
    }

    fn upload_slice<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>> {
        self.stream
            .clone_htod(values)
            .map_err(|error| cuda::driver_error("upload", "copying to the device", error))
    }

    /// Waits for the stream, and with it for whatever went wrong on the device.
    fn download<T: Element + DeviceRepr>(&self, memory: &CudaSlice<T>, count: usize) -> Result<Vec<T>> {
        let failed =
            |error| cuda::driver_error("download", "running the kernels and copying their results", error);
        let mut values = vec![T::from_f32(0.0); memory.len()];
        self.stream.memcpy_dtoh(memory, &mut values).map_err(failed)?;
        self.stream.synchronize().map_err(failed)?;
        values.truncate(count);
        Ok(values)
    }

    fn upload_targets(
        &self,
        op: &'static str,
        targets: &cpu::Targets<'_>,
        b: usize,
        c: usize,
    ) -> Result<Targets> {
        targets.validate(op, b, c)?;
        match targets {
            cpu::Targets::Labels(labels) => self.upload_slice(labels).map(Targets::Labels),
            cpu::Targets::Soft(rows) => self.upload(rows).map(Targets::Soft),
        }
    }

    pub(super) fn weights(&self, mixing: &Mixing, input: &cpu::WeightsInput<'_>) -> Result<cpu::MixMatrix> {
        let columns = self.upload_columns(
            "weights",
            [input.b, input.r],
            input.attention.as_ref(),
            input.weights.as_ref(),
        )?;
        let input = cuda::WeightsInput {
            b: input.b,
            r: input.r,
            attention: view(&columns.attention)?,
            weights: view(&columns.weights)?,
        };
        let (matrix, mass) = self.queue()?.weights::<f32>(mixing, &input)?;
        let matrix = self.download(&matrix, input.r * input.b * mixing.n)?;
        Ok(cpu::MixMatrix { matrix, mass: self.download(&mass, input.r * mixing.n)? })
    }

    pub(super) fn attention_forward<T: DeviceElement>(
        &self,
        input: &cpu::AttentionInput<'_, T>,
        options: &AttentionOptions,
    ) -> Result<Vec<f32>> {
        let upload = AttentionUpload::new(self, input, options)?;
        let [b, r, _] = input.features.shape();
        let maps = self.queue()?.attention_forward(&upload.input()?, options)?;
        self.download(&maps, b * r)
    }

    pub(super) fn attention_backward<T: DeviceElement>(
        &self,
        input: &cpu::AttentionInput<'_, T>,
        options: &AttentionOptions,
        d_attention: &View<'_, f32, 2>,
    ) -> Result<cpu::AttentionGradients<T>> {
        let upload = AttentionUpload::new(self, input, options)?;
        let dense = contiguous(d_attention)?;
        let d_maps = self.upload_slice(&dense)?;
        let d_maps = DeviceView::new(&d_maps, d_attention.shape())?;
        let gradients = self.queue()?.attention_backward(&upload.input()?, options, &d_maps)?;
        let features = self.download(&gradients.features, input.features.shape().iter().product())?;
        let classifier = match (&gradients.classifier, &input.classifier) {
            (Some(rows), Some(classifier)) => {
                let rows = self.download(rows, classifier.rows.shape().iter().product())?;
                Some(rows.into_iter().map(T::to_f32).collect())
            }
            _ => None,
        };
        Ok(cpu::AttentionGradients { features, classifier })
    }

    pub(super) fn mix_forward<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &cpu::MixInput<'_, T>,
    ) -> Result<cpu::Mixed<T>> {
        let upload = MixUpload::new(self, input)?;
        let mixed = self.queue()?.mix_forward(mixing, &upload.input()?)?;
        let [_, r, d] = input.features.shape();
        let targets = match (&mixed.targets, &input.targets) {
            (Some(memory), Some(targets)) => Some(self.download(memory, mixing.n * r * targets.classes)?),
            _ => None,
        };
        Ok(cpu::Mixed { features: self.download(&mixed.features, mixing.n * r * d)?, targets })
    }

    pub(super) fn mix_backward<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &cpu::MixInput<'_, T>,
        gradients: &cpu::MixedGradients<'_, T>,
    ) -> Result<cpu::MixGradients<T>> {
        let upload = MixUpload::new(self, input)?;
        let features = self.upload(&gradients.features)?;
        let targets = gradients.targets.as_ref().map(|targets| self.upload(targets)).transpose()?;
        let gradients = cuda::MixedGradients { features: features.view()?, targets: view(&targets)? };
        let given = self.queue()?.mix_backward(mixing, &upload.input()?, &gradients)?;
        let [b, r, d] = input.features.shape();
        let targets = match (&given.targets, &input.targets) {
            (Some(memory), Some(targets)) => Some(self.download(memory, b * targets.classes)?),
            _ => None,
        };
        let attention = given.attention.as_ref().map(|memory| self.download(memory, b * r)).transpose()?;
        Ok(cpu::MixGradients { features: self.download(&given.features, b * r * d)?, targets, attention })
    }

    pub(super) fn loss_forward<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &cpu::LossInput<'_, T>,
        options: &LossOptions,
    ) -> Result<cpu::Loss> {
        let upload = LossUpload::new(self, input)?;
        let loss = self.queue()?.loss_forward(mixing, &upload.input()?, options)?;
        self.download_loss(&loss)
    }

    pub(super) fn loss_forward_backward<T: DeviceElement>(
        &self,
        mixing: &Mixing,
        input: &cpu::LossInput<'_, T>,
        options: &LossOptions,
        upstream: f32,
    ) -> Result<(cpu::Loss, cpu::LossGradients<T>)> {
        let upload = LossUpload::new(self, input)?;
        let upstream = Upstream { factor: upstream, scalar: None };
        let (loss, gradients) =
            self.queue()?.loss_forward_backward(mixing, &upload.input()?, options, &upstream)?;
        let [b, r, c] = input.logits.shape();
        let attention =
            gradients.attention.as_ref().map(|memory| self.download(memory, b * r)).transpose()?;
        let logits = self.download(&gradients.logits, b * r * c)?;
        Ok((self.download_loss(&loss)?, cpu::LossGradients { logits, attention }))
    }

    fn download_loss(&self, loss: &cuda::Loss) -> Result<cpu::Loss> {
        let number = |memory| self.download::<f32>(memory, 1).map(|numbers| numbers[0]);
        Ok(cpu::Loss { value: number(&loss.value)?, kl: loss.kl.as_ref().map(number).transpose()? })
    }

    fn upload_columns(
        &self,
        op: &'static str,
        [b, r]: [usize; 2],
        attention: Option<&View<'_, f32, 2>>,
        weights: Option<&View<'_, f32, 3>>,
    ) -> Result<Columns> {
        check_attention(op, attention, b, r)?;
        check_weights(op, weights)?;
        Ok(Columns {
            attention: attention.map(|attention| self.upload(attention)).transpose()?,
            weights: weights.map(|weights| self.upload(weights)).transpose()?,
        })
    }
}

/// A copy of a view in device memory.
struct Upload<T, const N: usize> {
    memory: CudaSlice<T>,
    layout: Layout<N>,
}

impl<T, const N: usize> Upload<T, N> {
    fn view(&self) -> Result<DeviceView<'_, T, N>> {
        DeviceView::from_layout(&self.memory, self.layout)
    }
}

fn view<T, const N: usize>(upload: &Option<Upload<T, N>>) -> Result<Option<DeviceView<'_, T, N>>> {
    upload.as_ref().map(Upload::view).transpose()
}

/// Row-major copy.
fn contiguous(view: &View<'_, f32, 2>) -> Result<Vec<f32>> {
    let [rows, columns] = view.shape();
    view.layout().count("attention", "the gradient of attention")?;
    Ok((0..rows).flat_map(|row| (0..columns).map(move |column| view.get([row, column]))).collect())
}

struct Columns {
    attention: Option<Upload<f32, 2>>,
    weights: Option<Upload<f32, 3>>,
}

enum Targets {
    Labels(CudaSlice<u32>),
    Soft(Upload<f32, 2>),
}

impl Targets {
    fn view(&self) -> Result<DeviceTargets<'_>> {
        match self {
            Targets::Labels(labels) => DeviceView::new(labels, [labels.len()]).map(DeviceTargets::Labels),
            Targets::Soft(rows) => rows.view().map(DeviceTargets::Soft),
        }
    }
}

struct LossUpload<T> {
    logits: Upload<T, 3>,
    targets: Targets,
    columns: Columns,
}

impl<T: DeviceElement> LossUpload<T> {
    fn new(device: &CudaDevice, input: &cpu::LossInput<'_, T>) -> Result<Self> {
        let [b, r, c] = input.logits.shape();
        Ok(Self {
            targets: device.upload_targets("loss", &input.targets, b, c)?,
            columns: device.upload_columns(
                "loss",
                [b, r],
                input.attention.as_ref(),
                input.weights.as_ref(),
            )?,
            logits: device.upload(&input.logits)?,
        })
    }

    fn input(&self) -> Result<cuda::LossInput<'_, T>> {
        Ok(cuda::LossInput {
            logits: self.logits.view()?,
            targets: self.targets.view()?,
            attention: view(&self.columns.attention)?,
            weights: view(&self.columns.weights)?,
        })
    }
}

struct MixUpload<T> {
    features: Upload<T, 3>,
    targets: Option<(Targets, usize)>,
    columns: Columns,
}

impl<T: DeviceElement> MixUpload<T> {
    fn new(device: &CudaDevice, input: &cpu::MixInput<'_, T>) -> Result<Self> {
        let [b, r, _] = input.features.shape();
        let targets = match &input.targets {
            Some(given) => {
                Some((device.upload_targets("mix", &given.targets, b, given.classes)?, given.classes))
            }
            None => None,
        };
        Ok(Self {
            targets,
            columns: device.upload_columns(
                "mix",
                [b, r],
                input.attention.as_ref(),
                input.weights.as_ref(),
            )?,
            features: device.upload(&input.features)?,
        })
    }

    fn input(&self) -> Result<cuda::MixInput<'_, T>> {
        let targets = match &self.targets {
            Some((targets, classes)) => {
                Some(cuda::MixTargets { targets: targets.view()?, classes: *classes })
            }
            None => None,
        };
        Ok(cuda::MixInput {
            features: self.features.view()?,
            targets,
            attention: view(&self.columns.attention)?,
            weights: view(&self.columns.weights)?,
        })
    }
}

struct AttentionUpload<T> {
    features: Upload<T, 3>,
    /// W in the type of the features, and labels.
    classifier: Option<(Upload<T, 2>, CudaSlice<u32>)>,
}

impl<T: DeviceElement> AttentionUpload<T> {
    fn new(
        device: &CudaDevice,
        input: &cpu::AttentionInput<'_, T>,
        options: &AttentionOptions,
    ) -> Result<Self> {
        let features = device.upload(&input.features)?;
        let Some(given) = &input.classifier else { return Ok(Self { features, classifier: None }) };
        let [c, d] = given.rows.shape();
        if options.query == Query::Gap {
            let what = "a classifier was given, but the query is Gap, which uses none";
            return Err(Error::arguments("attention", what));
        }
        given.labels.iter().enumerate().try_for_each(|(i, &y)| check_label("attention", i, y.into(), c))?;
        let rows: Vec<T> = contiguous(&given.rows)?.into_iter().map(T::from_f32).collect();
        let rows = Upload { memory: device.upload_slice(&rows)?, layout: Layout::contiguous([c, d]) };
        Ok(Self { features, classifier: Some((rows, device.upload_slice(given.labels)?)) })
    }

    fn input(&self) -> Result<cuda::AttentionInput<'_, T>> {
        let classifier = match &self.classifier {
            Some((rows, labels)) => Some(cuda::Classifier {
                rows: rows.view()?,
                labels: DeviceView::new(labels, [labels.len()])?,
            }),
            None => None,
        };
        Ok(cuda::AttentionInput { features: self.features.view()?, classifier })
    }
}
