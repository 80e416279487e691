//! Between candle's tensors and this crate's views: dtypes, strides, labels.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, WithDType, bail};
use half::bf16;

use crate::element::Element;
use crate::error::Error;
use crate::view::View;

/// Features (b, r, d) of a feature map (b, d, h, w), r = h·w, without a copy where the memory order allows it: NCHW and
/// channels-last do.
///
/// # Errors
/// When the map has not four dimensions.
pub fn positions(map: &Tensor) -> Result<Tensor> {
    let (b, d, h, w) = map.dims4()?;
    let channels_last = map.permute((0, 2, 3, 1))?;
    if channels_last.is_contiguous() {
        return channels_last.reshape((b, h * w, d));
    }
    map.reshape((b, d, h * w))?.transpose(1, 2)
}

/// A type in which both candle and the engines store floats.
pub(super) trait Float: WithDType + Element {}
impl Float for f32 {}
impl Float for half::f16 {}
impl Float for bf16 {}

/// A tensor's memory as a view, without a copy.
pub(super) fn view<'a, T: Float, const N: usize>(
    op: &'static str,
    name: &'static str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<View<'a, T, N>> {
    let values = &storage.as_slice::<T>()?[layout.start_offset()..];
    let (Ok(shape), Ok(strides)) = (layout.dims().try_into(), layout.stride().try_into()) else {
        bail!("{op}: {name} has shape {:?}, but must have {N} dimensions", layout.dims())
    };
    Ok(View::with_strides(values, shape, strides)?)
}

/// Calls `read` with a view of a tensor on the CPU.
pub(super) fn with_view<T: Float, const N: usize, R>(
    op: &'static str,
    name: &'static str,
    tensor: &Tensor,
    read: impl FnOnce(View<'_, T, N>) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("{op}: {name} is not on the CPU") };
    read(view(op, name, storage, layout)?)
}

/// As [`with_view`], for a tensor that may be absent.
pub(super) fn with_optional_view<const N: usize, R>(
    op: &'static str,
    name: &'static str,
    tensor: Option<&Tensor>,
    read: impl FnOnce(Option<View<'_, f32, N>>) -> Result<R>,
) -> Result<R> {
    match tensor {
        Some(tensor) => with_view(op, name, tensor, |view| read(Some(view))),
        None => read(None),
    }
}

/// Refuses a tensor that the CPU engine cannot read.
pub(super) fn expect_cpu(op: &'static str, name: &'static str, tensor: &Tensor) -> Result<()> {
    match tensor.device() {
        Device::Cpu => Ok(()),
        device => bail!("{op}: {name} is on {:?}, but this op runs on the CPU so far", device.location()),
    }
}

/// Attention, soft targets and explicit weights in f32; a tracked conversion, and none where they are f32 already.
pub(super) fn to_f32(op: &'static str, name: &'static str, tensor: &Tensor) -> Result<Tensor> {
    expect_cpu(op, name, tensor)?;
    if !tensor.dtype().is_float() {
        bail!("{op}: {name} has type {:?}, but must be a float", tensor.dtype());
    }
    tensor.to_dtype(DType::F32)
}

/// Class ids from a tensor (b) of u8, u32 or i64.
pub(super) fn labels(op: &'static str, tensor: &Tensor) -> Result<Vec<u32>> {
    expect_cpu(op, "labels", tensor)?;
    match tensor.dtype() {
        DType::U32 => tensor.to_vec1(),
        DType::U8 => Ok(tensor.to_vec1::<u8>()?.into_iter().map(u32::from).collect()),
        DType::I64 => {
            tensor.to_vec1::<i64>()?.into_iter().enumerate().map(|(i, y)| label(op, i, y)).collect()
        }
        other => bail!("{op}: labels have type {other:?}, but must be u8, u32 or i64"),
    }
}

fn label(op: &'static str, index: usize, value: i64) -> Result<u32> {
    u32::try_from(value).map_err(|_| {
        let (name, rule) = (format!("labels[{index}]"), "a class from 0 to 2^32 - 1");
        Error::Value { op, name, given: value.to_string(), rule }.into()
    })
}

/// The upstream gradient of a scalar.
pub(super) fn scalar(gradient: &Tensor) -> Result<f32> {
    gradient.to_dtype(DType::F32)?.to_scalar()
}
