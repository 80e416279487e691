//! Matrices and labels as kernels take them.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::memory::Bare;
use crate::op;
use crate::view::{Layout, View, ViewMut};

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

impl Matrix {
    /// None: no channels.
    pub const NONE: Self = Self { data: 0, row: 0, position: 0, channel: 1, channels: 0, aligned: 0 };

    /// A view (rows, positions, channels).
    pub fn new<T>(view: &View<'_, T, 3, Bare>) -> Self {
        let [row, position, channel] = [0, 1, 2].map(|axis| view.stride(axis));
        let on_boundary = |bytes: i64| bytes % 16 == 0;
        let contiguous = channel == 1 || view.layout.shape[2] == 1;
        let strides = [row, position].map(|stride| on_boundary(stride.wrapping_mul(size_of::<T>() as i64)));
        let aligned = contiguous && strides == [true; 2] && on_boundary(view.data as i64);
        let channels = view.layout.shape[2] as u32;
        Self { data: view.data, row, position, channel, channels, aligned: u32::from(aligned) }
    }

    /// A view that is written.
    pub fn out<T: 'static>(view: &ViewMut<'_, T, 3, Bare>) -> Self {
        Self::new(&view.as_read())
    }
}

/// A matrix (rows, channels), the same at all positions.
pub(super) fn flat<T: 'static>(view: &View<'_, T, 2, Bare>) -> View<'static, T, 3, Bare> {
    let ([rows, channels], [row, channel]) = (view.layout.shape, view.layout.strides);
    View::at(view.data, Layout { shape: [rows, 1, channels], strides: [row, 0, channel] })
}

/// `Labels` of labels.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Labels {
    data: CUdeviceptr,
    stride: i64,
    kind: u32,
    classes: u32,
}

impl Labels {
    pub fn new(labels: &op::Labels<'_, Bare>, classes: usize) -> Self {
        let (data, stride, kind) = match labels {
            op::Labels::U8(view) => (view.data, view.stride(0), 0),
            op::Labels::I32(view) => (view.data, view.stride(0), 1),
            op::Labels::U32(view) => (view.data, view.stride(0), 2),
            op::Labels::I64(view) => (view.data, view.stride(0), 3),
        };
        Self { data, stride, kind, classes: classes as u32 }
    }
}

/// TARGETS of the loss's kernels.
pub(super) fn target_kind(targets: &op::Targets<'_, Bare>) -> u32 {
    if targets.are_soft() { 2 } else { 1 }
}

/// Labels, and the matrix of soft rows, which holds c in both cases; nothing of either without targets.
pub(super) fn target_params(targets: Option<&op::Targets<'_, Bare>>, classes: usize) -> (Labels, Matrix) {
    let none = Matrix { channels: classes as u32, ..Matrix::NONE };
    match targets {
        None => (Labels::zeroed(), Matrix::NONE),
        Some(op::Targets::Labels(labels)) => (Labels::new(labels, classes), none),
        Some(op::Targets::Soft(rows)) => (Labels::zeroed(), Matrix::new(&flat(rows))),
    }
}
