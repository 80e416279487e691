//! Where ops are called: an engine with the stream they go to.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};

use super::advice::driver_error;
use super::engine::Engine;
use super::view::DeviceView;
use crate::element::Element;
use crate::error::{Error, ErrorKind, Result};
use crate::problem::expect_shape;

/// A storage type on the device: `f32`, [`half::f16`] or [`half::bf16`].
pub trait DeviceElement: Element + DeviceRepr + ValidAsZeroBits {}
impl<T: Element + DeviceRepr + ValidAsZeroBits> DeviceElement for T {}

/// How products of f32 arrays are computed. 16-bit arrays always go through tensor cores, whose products are exact and summed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Fused multiply-adds in f32.
    #[default]
    Exact,
    /// Tensor cores, with operands rounded to 10 bits of mantissa. Needs compute capability 8.0.
    Tf32,
}

/// An engine with the caller's stream: ops are enqueued there, in order, and nothing waits for them.
///
/// ```no_run
/// use multimix::cuda::{self, Engine};
/// let engine = Engine::new(&cuda::open(0)?)?;
/// let stream = engine.context().default_stream();
/// let queue = engine.on(&stream)?;
/// # Ok::<(), multimix::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Queue<'a> {
    engine: &'a Engine,
    stream: &'a Arc<CudaStream>,
    seed_and_step: Option<DeviceView<'a, u64, 1>>,
    precision: Precision,
}

impl Engine {
    /// Ops on this stream.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) when the stream belongs to another context.
    pub fn on<'a>(&'a self, stream: &'a Arc<CudaStream>) -> Result<Queue<'a>> {
        self.check_context("cuda", "the stream", stream.context())?;
        Ok(Queue { engine: self, stream, seed_and_step: None, precision: Precision::Exact })
    }
}

impl<'a> Queue<'a> {
    /// Takes seed and step from two words of device memory, read when the kernels run, in place of those of
    /// [`Mixing`](crate::Mixing): a captured graph then draws anew at each replay.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`](crate::ErrorKind::Shape) unless there are two, [`ErrorKind::Device`](crate::ErrorKind::Device) in another context.
    pub fn seed_and_step(self, words: DeviceView<'a, u64, 1>) -> Result<Self> {
        expect_shape("cuda", "seed and step", words.shape(), [2])?;
        if words.layout().strides[0] != 1 {
            let what = "seed and step must lie side by side in device memory";
            return Err(Error::arguments("cuda", what));
        }
        self.engine.check_context("cuda", "the memory of seed and step", words.context())?;
        Ok(Self { seed_and_step: Some(words), ..self })
    }

    /// Chooses how products of f32 arrays are computed.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) for tf32 on a device without it.
    pub fn precision(self, precision: Precision) -> Result<Self> {
        let device = self.engine.device();
        if precision == Precision::Tf32 && !device.has_ampere_tensor_cores() {
            let what = format!("{} has no tf32: that needs compute capability 8.0", device.name);
            return Err(Error::device("cuda", what, "use Precision::Exact, or f16 arrays"));
        }
        Ok(Self { precision, ..self })
    }

    /// The engine.
    pub fn engine(&self) -> &'a Engine {
        self.engine
    }

    /// The stream.
    pub fn stream(&self) -> &'a Arc<CudaStream> {
        self.stream
    }

    pub(super) fn chosen_precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn words(&self) -> Option<&DeviceView<'a, u64, 1>> {
        self.seed_and_step.as_ref()
    }

    /// Memory of `count` elements that the op about to be enqueued fills.
    pub(crate) fn allocate<T: DeviceRepr>(
        &self,
        op: &'static str,
        name: &'static str,
        count: usize,
    ) -> Result<CudaSlice<T>> {
        // Nothing of length zero can be allocated everywhere.
        let count = count.max(1);
        let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
        let bytes = bytes
            .ok_or_else(|| Error::new(op, ErrorKind::TooLarge { name: name.into(), sizes: vec![count] }))?;
        // SAFETY: the caller has a kernel write all that is read of it.
        let memory = unsafe { self.stream.alloc::<T>(count) };
        memory.map_err(|error| driver_error(op, format!("allocating {bytes} bytes for {name}"), error))
    }
}
