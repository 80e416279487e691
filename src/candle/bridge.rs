//! Between candle's tensors and the engines: types, memory with its layout, labels.

use candle_core::{DType, DeviceLocation, Layout, Result, StorageRef, Tensor, WithDType, bail};

use super::backend::Backend;
use crate::element::{Element, Scalar};
use crate::error::Error;
use crate::op::Labels;
use crate::view::View;

/// Features (b, r, d) of a feature map (b, d, h, w), r = h·w: contiguous, so a copy except of channels-last
/// maps.
///
/// The ops of this module would take a transposed view, but candle 0.11 multiplies one wrongly on the CPU,
/// without an error, where the other factor is repeated over the batch, as `candle_nn::Linear` repeats its
/// weight ([pull request 3758](https://github.com/huggingface/candle/pull/3758)). Call `.contiguous()?` on a
/// view of your own before a linear layer.
///
/// # Errors
/// When the map has not four dimensions.
pub fn positions(map: &Tensor) -> Result<Tensor> {
    MAP.expect("positions", map)?;
    let (b, d, h, w) = map.dims4()?;
    map.permute((0, 2, 3, 1))?.contiguous()?.reshape((b, h * w, d))
}

/// What errors call an argument, and the shape that it must have.
#[derive(Debug)]
pub(super) struct Argument {
    pub name: &'static str,
    rank: usize,
    shape: &'static str,
}

const MAP: Argument = Argument { name: "map", rank: 4, shape: "(b, d, h, w)" };
pub(super) const FEATURES: Argument = Argument {
    name: "features",
    rank: 3,
    shape: "(b, r, d), which candle::positions makes of a map (b, d, h, w)",
};
pub(super) const LOGITS: Argument = Argument { name: "logits", rank: 3, shape: "(b, r, c) or (b, c)" };
pub(super) const ATTENTION: Argument = Argument { name: "attention", rank: 2, shape: "(b, r)" };
pub(super) const WEIGHTS: Argument = Argument { name: "weights", rank: 3, shape: "(r, b, n) or (1, b, n)" };
pub(super) const CLASSIFIER: Argument = Argument { name: "the classifier", rank: 2, shape: "(c, d)" };
pub(super) const TARGETS: Argument =
    Argument { name: "targets", rank: 2, shape: "labels (b) or rows (b, c)" };
const LABELS: Argument = Argument { name: "labels", rank: 1, shape: "(b)" };

impl Argument {
    /// Refuses a tensor that no engine can read, and one of another rank.
    pub fn expect(&self, op: &'static str, tensor: &Tensor) -> Result<()> {
        let Self { name, rank, shape } = *self;
        check_location(op, name, tensor.device().location())?;
        if tensor.rank() == rank {
            return Ok(());
        }
        bail!("{op}: {name} has shape {:?}, but must be {shape}", tensor.dims())
    }

    /// The argument in f32, on the tape; no copy where it is in f32 already.
    pub fn to_f32(&self, op: &'static str, tensor: &Tensor) -> Result<Tensor> {
        self.to_float(op, tensor, DType::F32)
    }

    /// As [`Argument::to_f32`], in another type of float.
    pub fn to_float(&self, op: &'static str, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
        self.expect(op, tensor)?;
        match tensor.dtype() {
            DType::F32 | DType::F16 | DType::BF16 | DType::F64 => tensor.to_dtype(dtype),
            other => bail!("{op}: {} has type {other:?}, but must be f32, f16, bf16 or f64", self.name),
        }
    }
}

/// A type in which both candle and the engines store numbers.
pub(super) trait Stored: WithDType + Scalar + OnDevice {}
impl<T: WithDType + Scalar + OnDevice> Stored for T {}

/// Those of floats.
pub(super) trait Float: Stored + Element {}
impl<T: Stored + Element> Float for T {}

/// What [`Stored`] must be for the GPU, too.
#[cfg(feature = "candle-cuda")]
pub(super) use candle_core::cuda::CudaDType as OnDevice;

/// What [`Stored`] must be for the GPU, too: without it, nothing.
#[cfg(not(feature = "candle-cuda"))]
pub(super) trait OnDevice {}
#[cfg(not(feature = "candle-cuda"))]
impl<T> OnDevice for T {}

/// One argument of an op: memory of a backend with its layout, and what errors call it.
#[derive(Debug)]
pub(super) struct Operand<'a, S> {
    pub op: &'static str,
    pub name: &'static str,
    pub storage: &'a S,
    pub layout: &'a Layout,
}

impl<S> Clone for Operand<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Operand<'_, S> {}

impl<S> Operand<'_, S> {
    /// What is wrong with a view of it is wrong with an argument of the op.
    pub fn error(&self, error: Error) -> Error {
        Error { op: self.op, ..error }
    }

    /// The layout as views take it.
    pub fn layout<const N: usize>(&self) -> Result<crate::view::Layout<N>> {
        let (Ok(shape), Ok(strides)) = (self.layout.dims().try_into(), self.layout.stride().try_into())
        else {
            let Self { op, name, layout, .. } = self;
            bail!("{op}: {name} has shape {:?}, but must have {N} dimensions", layout.dims())
        };
        Ok(crate::view::Layout { shape, strides })
    }
}

/// A tensor whose memory is held for reading.
pub(super) struct Borrowed<'a> {
    op: &'static str,
    name: &'static str,
    dtype: DType,
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Borrowed<'a> {
    pub fn new(op: &'static str, name: &'static str, tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { op, name, dtype: tensor.dtype(), storage, layout }
    }

    /// Its memory, where it is that of the backend.
    pub fn operand<B: Backend>(&self) -> Result<Operand<'_, B::Storage>> {
        let Self { op, name, layout, .. } = *self;
        match B::storage(&self.storage) {
            Some(storage) => Ok(Operand { op, name, storage, layout }),
            None => bail!(
                "{op}: {name} is on {:?}, but the op runs on {}",
                self.storage.device().location(),
                B::NAME
            ),
        }
    }

    /// Its memory as a view.
    pub fn view<B: Backend, T: Stored, const N: usize>(&self) -> Result<View<'_, T, N, B::Memory>> {
        B::view(self.operand::<B>()?)
    }

    /// Class ids as they are.
    pub fn labels<B: Backend>(&self) -> Result<Labels<'_, B::Memory>> {
        Ok(match self.dtype {
            DType::U8 => self.view::<B, u8, 1>()?.into(),
            DType::I32 => self.view::<B, i32, 1>()?.into(),
            DType::U32 => self.view::<B, u32, 1>()?.into(),
            _ => self.view::<B, i64, 1>()?.into(),
        })
    }
}

fn check_location(op: &'static str, name: &'static str, location: DeviceLocation) -> Result<()> {
    match location {
        DeviceLocation::Cpu => Ok(()),
        DeviceLocation::Cuda { .. } if cfg!(feature = "candle-cuda") => Ok(()),
        DeviceLocation::Cuda { gpu_id } => {
            bail!("{op}: {name} is on CUDA device {gpu_id}: turn on multimix's feature `candle-cuda`")
        }
        other => bail!("{op}: {name} is on {other:?}, but this op runs on the CPU and on CUDA devices"),
    }
}

/// Whether targets are meant as class ids: what is neither those nor rows is refused as the one it resembles.
pub(super) fn are_labels(targets: &Tensor) -> bool {
    targets.rank() == 1 || !targets.dtype().is_float()
}

/// Class ids (b) of u8, i32, u32 or i64, checked for rank and type.
pub(super) fn labels(op: &'static str, tensor: &Tensor) -> Result<Tensor> {
    LABELS.expect(op, tensor)?;
    match tensor.dtype() {
        DType::U8 | DType::I32 | DType::U32 | DType::I64 => Ok(tensor.clone()),
        other => bail!("{op}: labels has type {other:?}, but must be u8, i32, u32 or i64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_other_devices_are_refused_with_what_to_do() {
        assert!(check_location("mix", "features", DeviceLocation::Cpu).is_ok());
        let cuda = check_location("mix", "features", DeviceLocation::Cuda { gpu_id: 1 });
        let text = cuda.err().map(|error| error.to_string());
        match text {
            Some(text) => {
                assert!(
                    text.contains("features is on CUDA device 1") && text.contains("`candle-cuda`"),
                    "{text}"
                )
            }
            None if cfg!(feature = "candle-cuda") => {}
            None => panic!("no engine was built for a CUDA device, and it was taken"),
        }
        let metal = check_location("mix", "features", DeviceLocation::Metal { gpu_id: 0 }).unwrap_err();
        assert!(metal.to_string().contains("runs on the CPU and on CUDA devices"), "{metal}");
    }
}
