//! The GPU side of [`Device`](super::Device): uploads, calls the CUDA engine, downloads.

use std::convert::Infallible;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use crate::cuda::{self, Cuda, Engine, Queue, driver_error};
use crate::element::{Element, Scalar};
use crate::error::Result;
use crate::memory::{Host, Memory, sealed::Sealed};
use crate::op::{
    ATTENTION, AttentionGradients, AttentionInput, Columns, Loss, LossInput, MixGradients, MixInput,
    MixMatrix, Mixed, MixedGradients, Read, WEIGHTS, Want, WeightsInput,
};
use crate::problem::{AttentionOptions, LossOptions};
use crate::view::View;

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

    /// Waits for the stream, and with it for whatever went wrong on the device.
    fn download<T: Scalar>(&self, memory: &CudaSlice<T>) -> Result<Vec<T>> {
        let failed = |error| driver_error("download", "running the kernels and copying their results", error);
        let values = self.stream.clone_dtoh(memory).map_err(failed)?;
        self.stream.synchronize().map_err(failed)?;
        Ok(values)
    }

    fn maybe_download<T: Scalar>(&self, memory: &Option<CudaSlice<T>>) -> Result<Option<Vec<T>>> {
        memory.as_ref().map(|memory| self.download(memory)).transpose()
    }

    pub(super) fn weights(&self, columns: &Columns<'_>, input: &WeightsInput<'_>) -> Result<MixMatrix> {
        columns.check_values(WEIGHTS, &input.attention)?;
        let mut upload = Upload(&self.stream);
        let (columns, input) = (columns.map(&mut upload)?, input.map(&mut upload)?);
        let made: MixMatrix<f32, Cuda> =
            self.queue()?.weights(&columns.map(&mut Lend)?, &input.map(&mut Lend)?)?;
        Ok(MixMatrix { matrix: self.download(&made.matrix)?, mass: self.download(&made.mass)? })
    }

    pub(super) fn attention<T: Element>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
    ) -> Result<Vec<f32>> {
        input.check_values()?;
        let input = input.map(&mut Upload(&self.stream))?;
        self.download(&self.queue()?.attention(&input.map(&mut Lend)?, options)?)
    }

    pub(super) fn attention_backward<T: Element>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
        d_maps: &View<'_, f32, 2>,
    ) -> Result<AttentionGradients<T>> {
        input.check_values()?;
        let mut upload = Upload(&self.stream);
        let input = input.map(&mut upload)?;
        let [rows, columns] = d_maps.shape();
        d_maps.layout().count(ATTENTION, "the gradient of attention")?;
        let row = |row| (0..columns).map(move |column| d_maps.get([row, column]));
        let contiguous: Vec<f32> = (0..rows).flat_map(row).collect();
        let d_maps = View::new(&contiguous, [rows, columns])?;
        let d_maps = upload.read("the gradient of attention", &d_maps)?;
        let d_maps = Lend.read("the gradient of attention", &d_maps)?;
        let made = self.queue()?.attention_backward(&input.map(&mut Lend)?, options, &d_maps)?;
        Ok(AttentionGradients {
            features: self.download(&made.features)?,
            classifier: self.maybe_download(&made.classifier)?,
        })
    }

    pub(super) fn mix<T: Element>(&self, columns: &Columns<'_>, input: &MixInput<'_, T>) -> Result<Mixed<T>> {
        input.check_values(columns)?;
        let mut upload = Upload(&self.stream);
        let (columns, input) = (columns.map(&mut upload)?, input.map(&mut upload)?);
        let made = self.queue()?.mix(&columns.map(&mut Lend)?, &input.map(&mut Lend)?)?;
        Ok(Mixed { features: self.download(&made.features)?, targets: self.maybe_download(&made.targets)? })
    }

    pub(super) fn mix_backward<T: Element>(
        &self,
        columns: &Columns<'_>,
        input: &MixInput<'_, T>,
        gradients: &MixedGradients<'_, T>,
    ) -> Result<MixGradients<T>> {
        input.check_values(columns)?;
        let mut upload = Upload(&self.stream);
        let (columns, input) = (columns.map(&mut upload)?, input.map(&mut upload)?);
        let gradients = gradients.map(&mut upload)?;
        let (columns, input) = (columns.map(&mut Lend)?, input.map(&mut Lend)?);
        let made = self.queue()?.mix_backward(&columns, &input, &gradients.map(&mut Lend)?)?;
        Ok(MixGradients {
            features: self.download(&made.features)?,
            targets: self.maybe_download(&made.targets)?,
            attention: self.maybe_download(&made.attention)?,
        })
    }

    pub(super) fn loss<T: Element>(
        &self,
        columns: &Columns<'_>,
        input: &LossInput<'_, T>,
        options: &LossOptions,
        want: Want,
    ) -> Result<Loss<T>> {
        input.check_values(columns)?;
        let mut upload = Upload(&self.stream);
        let (columns, input) = (columns.map(&mut upload)?, input.map(&mut upload)?);
        let made = self.queue()?.loss(&columns.map(&mut Lend)?, &input.map(&mut Lend)?, options, want)?;
        Ok(Loss {
            value: self.download(&made.value)?[0],
            kl: self.maybe_download(&made.kl)?.map(|kl| kl[0]),
            logits: self.maybe_download(&made.logits)?,
            logits_f32: self.maybe_download(&made.logits_f32)?,
            attention: self.maybe_download(&made.attention)?,
        })
    }
}

/// Copies of host arrays, in device memory.
#[derive(Clone, Copy, Debug)]
enum Uploaded {}

impl Sealed for Uploaded {}

impl Memory for Uploaded {
    type Ref<'a, T: 'a> = Arc<CudaSlice<T>>;
    type Mut<'a, T: 'a> = Infallible;
    type Owned<T> = Infallible;
    type Number = Infallible;

    fn copy<'a, T: 'a>(data: &Arc<CudaSlice<T>>) -> Arc<CudaSlice<T>> {
        Arc::clone(data)
    }

    fn reborrow<T>(data: &Arc<CudaSlice<T>>) -> Arc<CudaSlice<T>> {
        Arc::clone(data)
    }

    fn reborrow_mut<T>(data: &mut Infallible) -> Infallible {
        *data
    }

    fn borrow_owned<T>(array: &mut Infallible) -> Infallible {
        *array
    }

    fn borrow_number(number: &mut Infallible) -> Infallible {
        *number
    }
}

/// Copies views to the device.
struct Upload<'d>(&'d Arc<CudaStream>);

impl<'s> Read<'s, Host, Uploaded> for Upload<'_> {
    fn read<T: Scalar, const D: usize>(
        &mut self,
        name: &'static str,
        view: &'s View<'_, T, D>,
    ) -> Result<View<'s, T, D, Uploaded>> {
        let reach = view.layout().reach("upload", name)?;
        let copied = self.0.clone_htod(&view.data()[..reach]);
        let copied =
            copied.map_err(|error| driver_error("upload", format!("copying {name} to the device"), error))?;
        Ok(View { data: Arc::new(copied), layout: *view.layout() })
    }
}

/// Lends the copies to a call.
struct Lend;

impl<'s> Read<'s, Uploaded, Cuda> for Lend {
    fn read<T: Scalar, const D: usize>(
        &mut self,
        name: &'static str,
        view: &'s View<'_, T, D, Uploaded>,
    ) -> Result<View<'s, T, D, Cuda>> {
        View::named(name, &*view.data, *view.layout())
    }
}
