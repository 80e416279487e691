//! The CUDA engine as a backend of the ops: on candle's context and stream, and nothing waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda::CudaDType;
use candle_core::{CudaDevice, CudaStorage, Result, Storage, bail};

use super::backend::{Backend, Classified, Columns, Gradients, LossAndGradients, LossCall, Targets};
use super::bridge::{Float, Operand};
use crate::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use crate::cuda::{
    AttentionInput, Classifier, DeviceTargets, DeviceView, DeviceViewMut, Engine, LossInput,
    MixBackwardOutputs, MixInput, MixedGradients, Queue, Upstream, WeightsInput,
};
use crate::element::{Dtype, Element};
use crate::problem::AttentionOptions;

/// Tensors on one of candle's CUDA devices.
pub(super) struct Cuda {
    engine: Engine,
    stream: Arc<CudaStream>,
    device: CudaDevice,
}

/// Gradients of an f16 loss are kept times this: far above what f16 rounds to zero, and far below what it cannot hold, since
/// without it they are at most 1 for targets that sum to 1.
const F16_SCALE: f32 = 4096.0;

impl Cuda {
    /// # Errors
    /// What [`Engine::new`] says of the device, of the driver, and of NVRTC.
    pub fn of(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        Ok(Self { engine: engine(stream.context())?, stream, device: device.clone() })
    }

    fn queue(&self) -> Result<Queue<'_>> {
        Ok(self.engine.on(&self.stream)?)
    }

    fn storage<T: CudaDType>(&self, slice: CudaSlice<T>) -> CudaStorage {
        CudaStorage::wrap_cuda_slice(slice, self.device.clone())
    }
}

/// The engine of a context object: one for the life of the process, so that every kernel is loaded once.
fn engine(context: &Arc<CudaContext>) -> Result<Engine> {
    static ENGINES: Mutex<Option<HashMap<usize, Engine>>> = Mutex::new(None);
    let mut engines = ENGINES.lock().unwrap_or_else(PoisonError::into_inner);
    let engines = engines.get_or_insert_default();
    // Two of candle's devices on one GPU share the driver's context, but not cudarc's, by which streams are
    // ordered. The engine keeps the object, whose address hence stays its own.
    let address = Arc::as_ptr(context) as usize;
    if let Some(engine) = engines.get(&address) {
        return Ok(engine.clone());
    }
    let engine = Engine::new(context)?;
    engines.insert(address, engine.clone());
    Ok(engine)
}

impl<'a> Operand<'a, CudaStorage> {
    /// The memory as a view, without a copy.
    fn view<T: CudaDType, const N: usize>(self) -> Result<DeviceView<'a, T, N>> {
        let layout = self.layout::<N>()?;
        let Some(memory) = self.storage.as_cuda_slice::<T>()?.try_slice(self.layout.start_offset()..) else {
            bail!("{}: {} begins behind the end of its memory", self.op, self.name)
        };
        Ok(DeviceView::from_memory(memory, layout)?)
    }
}

/// Attention and explicit weights.
type ColumnViews<'a> = (Option<DeviceView<'a, f32, 2>>, Option<DeviceView<'a, f32, 3>>);

impl<'a> Columns<'a, CudaStorage> {
    fn views(&self) -> Result<ColumnViews<'a>> {
        Ok((self.attention.map(Operand::view).transpose()?, self.weights.map(Operand::view).transpose()?))
    }

    fn mix_input<T: Float>(&self, features: Operand<'a, CudaStorage>) -> Result<MixInput<'a, T>> {
        let (attention, weights) = self.views()?;
        Ok(MixInput { features: features.view()?, targets: None, attention, weights })
    }
}

impl<'a> LossCall<'a, CudaStorage> {
    fn input<T: Float>(&self) -> Result<LossInput<'a, T>> {
        let (attention, weights) = self.columns.views()?;
        let targets = match &self.targets {
            Targets::Labels(labels) => DeviceTargets::Labels(labels.view()?),
            Targets::Soft(rows) => DeviceTargets::Soft(rows.view()?),
        };
        Ok(LossInput { logits: self.logits.view()?, targets, attention, weights })
    }
}

fn attention_input<'a, T: Float>(
    features: Operand<'a, CudaStorage>,
    classifier: Option<Classified<'a, CudaStorage>>,
) -> Result<AttentionInput<'a, T>> {
    let classifier = match classifier {
        Some(Classified { rows, labels }) => Some(Classifier { rows: rows.view()?, labels: labels.view()? }),
        None => None,
    };
    Ok(AttentionInput { features: features.view()?, classifier })
}

impl Backend for Cuda {
    type Storage = CudaStorage;
    const NAME: &'static str = "a CUDA device";

    fn storage(storage: &Storage) -> Option<&CudaStorage> {
        match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        }
    }

    fn into_candle(storage: CudaStorage) -> Storage {
        Storage::Cuda(storage)
    }

    fn attention<T: Float>(
        &self,
        features: Operand<'_, CudaStorage>,
        classifier: Option<Classified<'_, CudaStorage>>,
        options: &AttentionOptions,
    ) -> Result<CudaStorage> {
        let input = attention_input::<T>(features, classifier)?;
        Ok(self.storage(self.queue()?.attention_forward(&input, options)?))
    }

    fn attention_backward<T: Float>(
        &self,
        features: Operand<'_, CudaStorage>,
        classifier: Option<Classified<'_, CudaStorage>>,
        options: &AttentionOptions,
        upstream: Operand<'_, CudaStorage>,
    ) -> Result<Gradients<CudaStorage>> {
        let input = attention_input::<T>(features, classifier)?;
        let gradients = self.queue()?.attention_backward(&input, options, &upstream.view()?)?;
        let for_rows = gradients.classifier.map(|rows| self.storage(rows));
        Ok((self.storage(gradients.features), for_rows))
    }

    fn mix<T: Float>(
        &self,
        columns: &Columns<'_, CudaStorage>,
        features: Operand<'_, CudaStorage>,
    ) -> Result<CudaStorage> {
        let mixed = self.queue()?.mix_forward(columns.mixing, &columns.mix_input::<T>(features)?)?;
        Ok(self.storage(mixed.features))
    }

    fn mix_backward<T: Float>(
        &self,
        columns: &Columns<'_, CudaStorage>,
        features: Operand<'_, CudaStorage>,
        upstream: Operand<'_, CudaStorage>,
        wants_attention: bool,
    ) -> Result<Gradients<CudaStorage>> {
        let (op, mixing, queue) = (features.op, columns.mixing, self.queue()?);
        let input = columns.mix_input::<T>(features)?;
        let [b, r, d] = input.features.shape();
        let count = input.features.layout().count(op, "the gradient of the features")?;
        let mut for_features = queue.allocate::<T>(op, "the gradient of the features", count)?;
        let mut for_attention = match wants_attention {
            true => Some(queue.allocate::<f32>(op, "the gradient of attention", b * r)?),
            false => None,
        };
        let outputs = MixBackwardOutputs {
            features: Some(DeviceViewMut::new(&mut for_features, [b, r, d])?),
            targets: None,
            attention: for_attention.as_mut().map(|da| DeviceViewMut::new(da, [b, r])).transpose()?,
        };
        let bytes = queue.mix_backward_workspace_bytes(mixing, &input, &outputs)?;
        let mut workspace = queue.allocate::<u8>(op, "the workspace", bytes)?;
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes])?;
        let gradients = MixedGradients { features: upstream.view()?, targets: None };
        queue.mix_backward_into(mixing, &input, &gradients, outputs, workspace)?;
        Ok((self.storage(for_features), for_attention.map(|da| self.storage(da))))
    }

    fn loss<T: Float>(&self, call: &LossCall<'_, CudaStorage>) -> Result<CudaStorage> {
        let loss = self.queue()?.loss_forward(call.columns.mixing, &call.input::<T>()?, call.options)?;
        Ok(self.storage(loss.value))
    }

    fn loss_with_gradients<T: Float>(
        &self,
        call: &LossCall<'_, CudaStorage>,
    ) -> Result<LossAndGradients<CudaStorage>> {
        let scale = if <T as Element>::DTYPE == Dtype::F16 { F16_SCALE } else { 1.0 };
        let upstream = Upstream { factor: scale, scalar: None };
        let (mixing, input) = (call.columns.mixing, call.input::<T>()?);
        let (loss, gradients) =
            self.queue()?.loss_forward_backward(mixing, &input, call.options, &upstream)?;
        let for_attention = gradients.attention.map(|attention| self.storage(attention));
        let gradients = (self.storage(gradients.logits), for_attention);
        Ok(LossAndGradients { loss: self.storage(loss.value), gradients, scale })
    }

    fn weights(
        &self,
        columns: &Columns<'_, CudaStorage>,
        b: usize,
        r: usize,
    ) -> Result<(CudaStorage, CudaStorage)> {
        let (attention, weights) = columns.views()?;
        let input = WeightsInput { b, r, attention, weights };
        let (matrix, mass) = self.queue()?.weights::<f32>(columns.mixing, &input)?;
        Ok((self.storage(matrix), self.storage(mass)))
    }
}
