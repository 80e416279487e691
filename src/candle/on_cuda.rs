//! The CUDA engine as a backend of the ops: on candle's context and stream, and nothing waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CudaDevice, CudaStorage, Result, Storage, bail};

use super::backend::Backend;
use super::bridge::{Operand, Stored};
use crate::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use crate::cuda::{self, Engine};
use crate::op;
use crate::view::View;

/// Tensors on one of candle's CUDA devices.
pub(super) struct Cuda {
    engine: Engine,
    stream: Arc<CudaStream>,
    device: CudaDevice,
}

impl Cuda {
    /// # Errors
    /// What [`Engine::new`] says of the device, of the driver, and of NVRTC.
    pub fn of(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        Ok(Self { engine: engine(stream.context())?, stream, device: device.clone() })
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

impl Backend for Cuda {
    type Memory = cuda::Cuda;
    type Storage = CudaStorage;
    const NAME: &'static str = "a CUDA device";

    fn engine(&self) -> Result<impl op::Engine<Memory = cuda::Cuda>> {
        Ok(self.engine.on(&self.stream)?)
    }

    fn storage(storage: &Storage) -> Option<&CudaStorage> {
        match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        }
    }

    fn view<'a, T: Stored, const N: usize>(
        operand: Operand<'a, CudaStorage>,
    ) -> Result<View<'a, T, N, cuda::Cuda>> {
        let slice = operand.storage.as_cuda_slice::<T>()?;
        let Some(memory) = slice.try_slice(operand.layout.start_offset()..) else {
            bail!("{}: {} begins behind the end of its memory", operand.op, operand.name)
        };
        let view = View::named(operand.name, memory, operand.layout()?);
        Ok(view.map_err(|error| operand.error(error))?)
    }

    fn keep<T: Stored>(&self, array: CudaSlice<T>) -> CudaStorage {
        CudaStorage::wrap_cuda_slice(array, self.device.clone())
    }

    fn keep_number(&self, number: CudaSlice<f32>) -> CudaStorage {
        self.keep(number)
    }

    fn into_candle(storage: CudaStorage) -> Storage {
        Storage::Cuda(storage)
    }
}
