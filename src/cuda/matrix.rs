//! Matrices and targets as kernels take them: mirrors `Matrix` of stage.cuh.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::device::DeviceInfo;
use super::queue::Precision;
use super::view::{DeviceView, Footprint, RawView};
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::problem::{at_least_one, expect_shape};

/// `Matrix` of stage.cuh: rows by channels at each position.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Matrix {
    pub data: CUdeviceptr,
    pub row: i64,
    pub position: i64,
    pub channel: i64,
    pub channels: u32,
    pub aligned: u32,
}
const _: () = assert!(size_of::<Matrix>() == 40);

impl Matrix {
    /// None: no channels.
    pub const NONE: Self = Self { data: 0, row: 0, position: 0, channel: 1, channels: 0, aligned: 0 };

    /// A view (rows, positions, channels) of elements of `size` bytes.
    pub fn new(view: &RawView<3>, size: usize) -> Self {
        let [row, position, channel] = [0, 1, 2].map(|axis| view.stride(axis));
        let on_boundary = |bytes: i64| bytes % 16 == 0;
        let contiguous = channel == 1 || view.layout.shape[2] == 1;
        let strides = [row, position].map(|stride| on_boundary(stride.wrapping_mul(size as i64)));
        let aligned = contiguous && strides == [true; 2] && on_boundary(view.pointer as i64);
        let channels = view.layout.shape[2] as u32;
        Self { data: view.pointer, row, position, channel, channels, aligned: u32::from(aligned) }
    }

    /// A matrix (rows, channels), the same at all positions.
    pub fn flat(view: &RawView<2>, size: usize) -> Self {
        let ([rows, channels], [row, channel]) = (view.layout.shape, view.layout.strides);
        let layout = crate::view::Layout { shape: [rows, 1, channels], strides: [row, 0, channel] };
        Self::new(&RawView { pointer: view.pointer, layout }, size)
    }
}

/// What the examples are labelled with, in device memory.
#[derive(Clone, Debug)]
pub enum DeviceTargets<'a> {
    /// One class for each example, (b), each below c.
    Labels(DeviceView<'a, u32, 1>),
    /// One row over the classes for each example, Y (b, c); finite, not negative.
    Soft(DeviceView<'a, f32, 2>),
}

/// Labels or soft rows by pointer.
#[derive(Clone, Copy, Debug)]
pub enum RawTargets {
    /// (b) of u32.
    Labels(RawView<1>),
    /// (b, c) of f32.
    Soft(RawView<2>),
}

impl RawTargets {
    /// Checks shapes and notes the memory read.
    pub(super) fn check(
        &self,
        op: &'static str,
        b: usize,
        c: usize,
        footprint: &mut Footprint,
    ) -> Result<()> {
        at_least_one(op, "c", c)?;
        match self {
            RawTargets::Labels(labels) => {
                expect_shape(op, "labels", labels.layout.shape, [b])?;
                if b > 1 && labels.layout.strides[0] != 1 {
                    return Err(Error::arguments(op, "labels must lie side by side"));
                }
                footprint.reads("labels", labels, 4)
            }
            RawTargets::Soft(rows) => {
                expect_shape(op, "targets", rows.layout.shape, [b, c])?;
                footprint.reads("targets", rows, 4)
            }
        }
    }

    /// TARGETS of the kernels.
    pub(super) fn kind(&self) -> u32 {
        match self {
            RawTargets::Labels(_) => 1,
            RawTargets::Soft(_) => 2,
        }
    }

    /// The pointer to labels, or null; and the matrix of soft rows, which holds c in both cases.
    pub(super) fn params(targets: Option<&Self>, classes: usize) -> (CUdeviceptr, Matrix) {
        let none = Matrix { channels: classes as u32, ..Matrix::NONE };
        match targets {
            None => (0, Matrix::NONE),
            Some(RawTargets::Labels(labels)) => (labels.pointer, none),
            Some(RawTargets::Soft(rows)) => (0, Matrix::flat(rows, 4)),
        }
    }
}

/// MATH of the kernels: how elements of this type are multiplied.
pub(super) fn math(op: &'static str, device: &DeviceInfo, dtype: Dtype, precision: Precision) -> Result<u32> {
    match (dtype, precision) {
        (Dtype::Bf16, _) if !device.has_ampere_tensor_cores() => Err(Error::device(
            op,
            format!("{} has no bf16 arithmetic: that needs compute capability 8.0", device.name),
            "use f16 or f32 arrays",
        )),
        (Dtype::F32, Precision::Exact) => Ok(0),
        (Dtype::F32, Precision::Tf32) => Ok(1),
        (Dtype::F16 | Dtype::Bf16, _) => Ok(2),
    }
}

/// Element types with each MATH that [`math`] may give them on a device. A type it refuses is left out.
pub(super) fn all_math(op: &'static str, device: &DeviceInfo) -> impl Iterator<Item = (Dtype, u32)> {
    let pairs = [(Dtype::F32, Precision::Exact), (Dtype::F32, Precision::Tf32)]
        .into_iter()
        .chain([Dtype::F16, Dtype::Bf16].map(|dtype| (dtype, Precision::Exact)))
        .filter(|(_, precision)| *precision == Precision::Exact || device.has_ampere_tensor_cores());
    pairs.filter_map(move |(dtype, precision)| Some((dtype, math(op, device, dtype, precision).ok()?)))
}

/// Sizes that kernels hold in 32 bits.
pub(super) fn fits_u32(op: &'static str, name: &'static str, size: usize) -> Result<()> {
    if i32::try_from(size).is_err() {
        let rule = "at most 2^31 - 1 on a GPU";
        return Err(Error::value(op, name, size, rule));
    }
    Ok(())
}
