//! Attention maps from features, and the gradient through them. Kernels: attention.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::matrix::Labels;
use super::memory::Bare;
use super::plan::{Kernel, Params, Planned, Sink};
use super::variant::{self, Variant};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::op::{ATTENTION, AttentionBackwardCall, AttentionCall, AttentionInput};
use crate::problem::{AttentionOptions, Normalise, Query};
use crate::view::{Layout, View};

const THREADS: u32 = 256;

impl<T: Element> Planned for AttentionCall<'_, T, Bare> {
    fn check_strides(&self) -> Result<()> {
        check_contiguous(&self.maps.as_read())
    }

    fn plan(&self, sink: &mut Sink<'_>) -> Result<()> {
        let pass = Pass::new(sink, &self.input, &self.options, &[])?;
        let kernel = sink.kernel::<AttentionForwardParams>(pass.variant);
        if !sink.begin()? {
            return Ok(());
        }
        let params = AttentionParams { maps: self.maps.data, ..pass.params };
        sink.step(kernel, &[params.b as usize], THREADS, &AttentionForwardParams(params))
    }
}

impl<T: Element> Planned for AttentionBackwardCall<'_, T, Bare> {
    fn check_strides(&self) -> Result<()> {
        check_contiguous(&self.d_maps)
    }

    fn plan(&self, sink: &mut Sink<'_>) -> Result<()> {
        let d_features = self.outputs.features.as_read();
        let d_rows = self.outputs.classifier.as_ref().map(|rows| rows.as_read());
        let mut aligned = vec![on_boundary(&d_features)];
        aligned.extend(d_rows.as_ref().map(on_boundary));
        let pass = Pass::new(sink, &self.input, &self.options, &aligned)?;
        let kernel = sink.kernel::<AttentionBackwardParams>(pass.variant);
        let rows = d_rows.map(|rows| (rows, sink.kernel::<AttentionRowsParams>(pass.variant)));
        if !sink.begin()? {
            return Ok(());
        }
        let params = AttentionParams {
            d_maps: self.d_maps.data,
            d_features: d_features.data,
            d_example: d_features.stride(0),
            d_position: d_features.stride(1),
            d_channel: d_features.stride(2),
            ..pass.params
        };
        sink.step(kernel, &[params.b as usize], THREADS, &AttentionBackwardParams(params))?;
        rows.map_or(Ok(()), |(rows, kernel)| sum_rows(sink, kernel, &params, &rows))
    }
}

/// dW, from the gradients of queries that backward left.
fn sum_rows<T>(
    sink: &mut Sink<'_>,
    kernel: Kernel<AttentionRowsParams>,
    params: &AttentionParams,
    rows: &View<'_, T, 2, Bare>,
) -> Result<()> {
    let &AttentionParams { d_queries, labels, b, c, d, .. } = params;
    let (d_rows, row, channel) = (rows.data, rows.stride(0), rows.stride(1));
    let params = AttentionRowsParams { d_queries, labels, d_rows, row, channel, b, c, d, padding: 0 };
    sink.step(kernel, &[c as usize, d.div_ceil(THREADS) as usize], THREADS, &params)
}

/// What both directions share: the variant, and the parameters but for where results go.
struct Pass {
    variant: Variant,
    params: AttentionParams,
}

impl Pass {
    /// `aligned`: whether each output lies on 16-byte boundaries.
    fn new<T: Element>(
        sink: &mut Sink<'_>,
        input: &AttentionInput<'_, T, Bare>,
        options: &AttentionOptions,
        aligned: &[bool],
    ) -> Result<Self> {
        let (features, classifier) = (&input.features, input.classifier.as_ref());
        let [b, r, d] = features.shape();
        let rows =
            classifier.map_or(View::at(0, Layout::contiguous([1; 2])), |classifier| classifier.rows.clone());
        let [c, _] = rows.shape();
        sink.fit(&[("b", b), ("r", r), ("d", d), ("c", c)])?;
        // Packs of 16 bytes where everything lies on such boundaries; else lanes go along what is contiguous.
        let packed = (d * size_of::<T>()).is_multiple_of(16)
            && on_boundary(features)
            && classifier.is_none_or(|classifier| on_boundary(&classifier.rows))
            && aligned.iter().all(|&aligned| aligned);
        let layout = match (packed, features.stride(1)) {
            (true, _) => 0,
            (false, 1) => 2,
            (false, _) => 1,
        };
        let variant = Variant::new(variant::ATTENTION)
            .element("ELEMENT", T::DTYPE)
            .number("QUERY", u32::from(options.query == Query::Cam))
            .number("NORMALISE", u32::from(options.normalise == Normalise::Softmax))
            .number("LAYOUT", layout);
        let params = AttentionParams {
            features: features.data,
            example: features.stride(0),
            position: features.stride(1),
            channel: features.stride(2),
            rows: rows.data,
            row: rows.stride(0),
            row_channel: rows.stride(1),
            labels: classifier.map_or(Labels::zeroed(), |classifier| Labels::new(&classifier.labels, c)),
            maps: sink.part::<f32>("maps", &[b, r])?,
            scores: sink.part::<f32>("scores", &[b, r])?,
            d_queries: match classifier {
                Some(_) => sink.part::<f32>("gradients of queries", &[b, d])?,
                None => 0,
            },
            b: b as u32,
            r: r as u32,
            d: d as u32,
            c: c as u32,
            ..AttentionParams::zeroed()
        };
        Ok(Self { variant, params })
    }
}

/// Whether rows of channels begin on 16-byte boundaries.
fn on_boundary<T, const N: usize>(view: &View<'_, T, N, Bare>) -> bool {
    let outer = (0..N - 1).all(|axis| view.stride(axis).wrapping_mul(size_of::<T>() as i64) % 16 == 0);
    view.stride(N - 1) == 1 && view.data.is_multiple_of(16) && outer
}

fn check_contiguous(maps: &View<'_, f32, 2, Bare>) -> Result<()> {
    let [b, r] = maps.shape();
    if maps.stride(1) > 1 || (b > 1 && maps.layout.strides[0] != r) {
        return Err(Error::arguments(ATTENTION, "attention and its gradient must be contiguous"));
    }
    Ok(())
}

/// `AttentionParams` of attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct AttentionParams {
    features: CUdeviceptr,
    example: i64,
    position: i64,
    channel: i64,
    rows: CUdeviceptr,
    row: i64,
    row_channel: i64,
    labels: Labels,
    maps: CUdeviceptr,
    scores: CUdeviceptr,
    d_maps: CUdeviceptr,
    d_features: CUdeviceptr,
    d_example: i64,
    d_position: i64,
    d_channel: i64,
    d_queries: CUdeviceptr,
    b: u32,
    r: u32,
    d: u32,
    c: u32,
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
struct AttentionForwardParams(AttentionParams);

impl Params for AttentionForwardParams {
    const KERNEL: &'static str = "attention_forward";
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
struct AttentionBackwardParams(AttentionParams);

impl Params for AttentionBackwardParams {
    const KERNEL: &'static str = "attention_backward";
}

/// `AttentionRowsParams` of attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct AttentionRowsParams {
    d_queries: CUdeviceptr,
    labels: Labels,
    d_rows: CUdeviceptr,
    row: i64,
    channel: i64,
    b: u32,
    c: u32,
    d: u32,
    padding: u32,
}

impl Params for AttentionRowsParams {
    const KERNEL: &'static str = "attention_rows";
}
