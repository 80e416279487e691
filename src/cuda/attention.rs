//! Attention maps from features, and the gradient through them. Kernels: attention.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::CudaSlice;
use cudarc::driver::sys::{CUdeviceptr, CUstream};

use super::call::Call;
use super::device::DeviceInfo;
use super::engine::{Engine, Launch};
use super::matrix::fits_u32;
use super::queue::{DeviceElement, Queue};
use super::sampler::{element_bytes, element_name};
use super::variant::{Source, Variant};
use super::view::{DeviceView, DeviceViewMut, Footprint, RawView};
use super::workspace::{Carve, RawWorkspace};
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::problem::{AttentionOptions, Normalise, Query, at_least_one, expect_shape};
use crate::view::Layout;

const OP: &str = "attention";
const SOURCE: Source =
    Source { file: "attention.cu", kernels: &["attention_forward", "attention_backward", "attention_rows"] };
const THREADS: u32 = 256;

/// The classifier that CAM attention scores features with.
#[derive(Clone, Debug)]
pub struct Classifier<'a, T> {
    /// W (c, d): one row for each class, in the type of the features.
    pub rows: DeviceView<'a, T, 2>,
    /// The class of each example, (b), below c.
    pub labels: DeviceView<'a, u32, 1>,
}

/// What attention is computed from.
#[derive(Clone, Debug)]
pub struct AttentionInput<'a, T> {
    /// Z (b, r, d).
    pub features: DeviceView<'a, T, 3>,
    /// The classifier, for [`Query::Cam`] and only for it.
    pub classifier: Option<Classifier<'a, T>>,
}

/// The gradients of attention.
#[derive(Debug)]
pub struct AttentionGradients<T> {
    /// dZ (b, r, d), contiguous.
    pub features: CudaSlice<T>,
    /// dW (c, d), contiguous, with [`Query::Cam`].
    pub classifier: Option<CudaSlice<T>>,
}

/// Where [`Queue::attention_backward_into`] writes.
#[derive(Debug)]
pub struct AttentionOutputs<'a, T> {
    /// dZ (b, r, d).
    pub features: DeviceViewMut<'a, T, 3>,
    /// dW (c, d), or none; with [`Query::Cam`] only.
    pub classifier: Option<DeviceViewMut<'a, T, 2>>,
}

impl Queue<'_> {
    /// Attention maps a (b, r), contiguous: each sums to 1 over positions.
    ///
    /// # Errors
    /// As [`Queue::attention_forward_into`]; [`ErrorKind::Cuda`](crate::ErrorKind::Cuda) when memory does not suffice.
    pub fn attention_forward<T: DeviceElement>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
    ) -> Result<CudaSlice<f32>> {
        let [b, r, _] = input.features.shape();
        let count = Layout::contiguous([b, r]).count(OP, "attention")?;
        let mut maps = self.allocate::<f32>(OP, "attention", count)?;
        let bytes = self.attention_workspace_bytes(input)?;
        let mut workspace = self.allocate::<u8>(OP, "the workspace", bytes)?;
        let view = DeviceViewMut::new(&mut maps, [b, r])?;
        self.attention_forward_into(input, options, view, &mut DeviceViewMut::new(&mut workspace, [bytes])?)?;
        Ok(maps)
    }

    /// Bytes of workspace that both directions need.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge).
    pub fn attention_workspace_bytes<T: DeviceElement>(
        &self,
        input: &AttentionInput<'_, T>,
    ) -> Result<usize> {
        let mut carve = Carve::measure(OP);
        carve_scratch(&mut carve, input.features.shape(), input.classifier.is_some())?;
        Ok(carve.bytes())
    }

    /// Attention maps into the caller's memory, which must be contiguous. Neither allocates nor waits.
    ///
    /// # Errors
    /// Sizes of 0, shapes that do not fit together, a classifier with GAP or none with CAM, a workspace that is too small, buffers that
    /// overlap or lie in another context; errors from compiling, loading and launching.
    pub fn attention_forward_into<T: DeviceElement>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
        mut maps: DeviceViewMut<'_, f32, 2>,
        workspace: &mut DeviceViewMut<'_, u8, 1>,
    ) -> Result<()> {
        let mut call = Call::new(OP, self)?;
        let maps = call.writes("attention", &mut maps)?;
        let raw = RawAttention {
            workspace: call.scratch(workspace)?,
            ..RawAttention::new(&mut call, input, options, maps)?
        };
        // SAFETY: the views are borrowed for the call and lie in the engine's context; their lengths were checked when they were
        // made; `call` orders the launches with other uses of the memory.
        unsafe { attention(self.engine(), self.stream().cu_stream(), &raw) }
    }

    /// The gradient with respect to features, and to the classifier with CAM, from da (b, r).
    ///
    /// # Errors
    /// As [`Queue::attention_backward_into`]; [`ErrorKind::Cuda`](crate::ErrorKind::Cuda) when memory does not suffice.
    pub fn attention_backward<T: DeviceElement>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
        d_maps: &DeviceView<'_, f32, 2>,
    ) -> Result<AttentionGradients<T>> {
        let shape = input.features.shape();
        let count = input.features.layout().count(OP, "the gradient of the features")?;
        let mut features = self.allocate::<T>(OP, "the gradient of the features", count)?;
        let mut classifier = match &input.classifier {
            Some(given) => {
                let count = given.rows.layout().count(OP, "the gradient of the classifier")?;
                Some((self.allocate::<T>(OP, "the gradient of the classifier", count)?, given.rows.shape()))
            }
            None => None,
        };
        let bytes = self.attention_workspace_bytes(input)?;
        let mut workspace = self.allocate::<u8>(OP, "the workspace", bytes)?;
        let outputs = AttentionOutputs {
            features: DeviceViewMut::new(&mut features, shape)?,
            classifier: classifier
                .as_mut()
                .map(|(rows, shape)| DeviceViewMut::new(rows, *shape))
                .transpose()?,
        };
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes])?;
        self.attention_backward_into(input, options, d_maps, outputs, workspace)?;
        Ok(AttentionGradients { features, classifier: classifier.map(|(rows, _)| rows) })
    }

    /// The gradients into the caller's memory. da must be contiguous. Neither allocates nor waits.
    ///
    /// # Errors
    /// As [`Queue::attention_forward_into`].
    pub fn attention_backward_into<T: DeviceElement>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
        d_maps: &DeviceView<'_, f32, 2>,
        mut outputs: AttentionOutputs<'_, T>,
        workspace: &mut DeviceViewMut<'_, u8, 1>,
    ) -> Result<()> {
        let mut call = Call::new(OP, self)?;
        let d_maps = call.reads("the gradient of attention", d_maps)?;
        let raw = RawAttention {
            workspace: call.scratch(workspace)?,
            ..RawAttention::backward(&mut call, input, options, d_maps, &mut outputs)?
        };
        // SAFETY: as in `attention_forward_into`.
        unsafe { attention(self.engine(), self.stream().cu_stream(), &raw) }
    }

    /// Compiles what attention of such input needs: in the forward direction, or with `outputs` in the backward one.
    ///
    /// # Errors
    /// As [`Queue::attention_forward_into`].
    pub fn compile_attention<T: DeviceElement>(
        &self,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
        outputs: Option<&mut AttentionOutputs<'_, T>>,
    ) -> Result<()> {
        let mut call = Call::new(OP, self)?;
        let [b, r, _] = input.features.shape();
        let maps = RawView::contiguous(0, [b, r]);
        let raw = match outputs {
            None => RawAttention::new(&mut call, input, options, maps)?,
            Some(outputs) => RawAttention::backward(&mut call, input, options, maps, outputs)?,
        };
        compile_attention(self.engine(), &raw)
    }
}

/// A raw call, in either direction.
#[derive(Clone, Copy, Debug)]
pub struct RawAttention {
    /// Type of features, classifier and their gradients.
    pub dtype: Dtype,
    /// Query and normalisation.
    pub options: AttentionOptions,
    /// Z (b, r, d).
    pub features: RawView<3>,
    /// W (c, d), with CAM.
    pub rows: Option<RawView<2>>,
    /// (b) of u32, contiguous, with CAM.
    pub labels: Option<RawView<1>>,
    /// a (b, r) in f32, contiguous, written; or da, read, where gradients are asked for.
    pub maps: RawView<2>,
    /// dZ (b, r, d): where this is given, gradients are computed.
    pub d_features: Option<RawView<3>>,
    /// dW (c, d), with CAM.
    pub d_rows: Option<RawView<2>>,
    /// As many bytes as [`Queue::attention_workspace_bytes`] says.
    pub workspace: RawWorkspace,
}

/// Enqueues attention, or its gradient, on a stream of the engine's context.
///
/// # Errors
/// As [`Queue::attention_forward_into`].
///
/// # Safety
/// All views and the workspace name memory of the engine's context that is valid, for their reach, until the stream has run
/// the call, and nobody else writes inputs or touches outputs and workspace meanwhile.
pub unsafe fn attention(engine: &Engine, stream: CUstream, call: &RawAttention) -> Result<()> {
    call.check()?;
    let variant = call.variant();
    engine.prepare(OP, &[variant], Some(stream))?;
    let [b, _, d] = call.features.layout.shape;
    let mut carve = Carve::from(OP, call.workspace.pointer);
    let scratch = carve_scratch(&mut carve, call.features.layout.shape, call.rows.is_some())?;
    let kernel = if call.d_features.is_some() { "attention_backward" } else { "attention_forward" };
    let launch = Launch::new(OP, variant, kernel, &[b], THREADS)?;
    // SAFETY: the caller's promise; the parameters are those that the kernels declare.
    unsafe { engine.launch(OP, stream, &launch, &call.params(&scratch))? };
    let (Some(d_rows), Some(labels)) = (&call.d_rows, &call.labels) else { return Ok(()) };
    let c = d_rows.layout.shape[0];
    let launch = Launch::new(OP, variant, "attention_rows", &[c, d.div_ceil(THREADS as usize)], THREADS)?;
    let params = AttentionRowsParams {
        d_queries: scratch.d_queries,
        labels: labels.pointer,
        d_rows: d_rows.pointer,
        row: d_rows.stride(0),
        channel: d_rows.stride(1),
        b: b as u32,
        c: c as u32,
        d: d as u32,
        padding: 0,
    };
    // SAFETY: as above; it reads what the launch before wrote.
    unsafe { engine.launch(OP, stream, &launch, &params) }
}

/// Compiles what [`attention`] needs for a call. Of maps and workspace neither address nor size is looked at.
///
/// # Errors
/// [`ErrorKind::Nvrtc`](crate::ErrorKind::Nvrtc), [`ErrorKind::Cuda`](crate::ErrorKind::Cuda); as [`attention`] about query and classifier.
pub fn compile_attention(engine: &Engine, call: &RawAttention) -> Result<()> {
    call.check_classifier(&mut Footprint::new(OP))?;
    engine.prepare(OP, &[call.variant()], None)
}

impl RawAttention {
    /// Forward, but for the workspace.
    fn new<'s, T: DeviceElement>(
        call: &mut Call<'s>,
        input: &'s AttentionInput<'_, T>,
        options: &AttentionOptions,
        maps: RawView<2>,
    ) -> Result<Self> {
        let classifier = input.classifier.as_ref();
        Ok(Self {
            dtype: T::DTYPE,
            options: *options,
            features: call.reads("features", &input.features)?,
            rows: classifier.map(|given| call.reads("the classifier", &given.rows)).transpose()?,
            labels: classifier.map(|given| call.reads("labels", &given.labels)).transpose()?,
            maps,
            d_features: None,
            d_rows: None,
            workspace: RawWorkspace::EMPTY,
        })
    }

    /// Backward, but for the workspace.
    fn backward<'s, T: DeviceElement>(
        call: &mut Call<'s>,
        input: &'s AttentionInput<'_, T>,
        options: &AttentionOptions,
        d_maps: RawView<2>,
        outputs: &'s mut AttentionOutputs<'_, T>,
    ) -> Result<Self> {
        Ok(Self {
            d_features: Some(call.writes("the gradient of the features", &mut outputs.features)?),
            d_rows: call.may_write("the gradient of the classifier", &mut outputs.classifier)?,
            ..Self::new(call, input, options, d_maps)?
        })
    }

    fn check(&self) -> Result<()> {
        let mut footprint = Footprint::new(OP);
        let ([b, r, d], size) = (self.features.layout.shape, element_bytes(self.dtype));
        for (name, size) in [("b", b), ("r", r), ("d", d)] {
            at_least_one(OP, name, size)?;
            fits_u32(OP, name, size)?;
        }
        footprint.reads("features", &self.features, size)?;
        self.check_classifier(&mut footprint)?;
        expect_shape(OP, "attention", self.maps.layout.shape, [b, r])?;
        if self.maps.stride(1) > 1 || (b > 1 && self.maps.layout.strides[0] != r) {
            return Err(Error::arguments(OP, "attention and its gradient must be contiguous"));
        }
        match &self.d_features {
            None => footprint.writes("attention", &self.maps, 4)?,
            Some(view) => {
                footprint.reads("the gradient of attention", &self.maps, 4)?;
                expect_shape(OP, "the gradient of the features", view.layout.shape, [b, r, d])?;
                footprint.writes("the gradient of the features", view, size)?;
            }
        }
        if let Some(view) = &self.d_rows {
            let Some(rows) = &self.rows else {
                let what =
                    "the gradient of the classifier is asked for, but the query is Gap, which uses none";
                return Err(Error::arguments(OP, what));
            };
            expect_shape(OP, "the gradient of the classifier", view.layout.shape, rows.layout.shape)?;
            footprint.writes("the gradient of the classifier", view, size)?;
        }
        let mut carve = Carve::measure(OP);
        carve_scratch(&mut carve, self.features.layout.shape, self.rows.is_some())?;
        self.workspace.claim(OP, carve.bytes(), &mut footprint)
    }

    fn check_classifier(&self, footprint: &mut Footprint) -> Result<()> {
        let [b, _, d] = self.features.layout.shape;
        match (self.options.query, &self.rows, &self.labels) {
            (Query::Gap, None, None) => Ok(()),
            (Query::Gap, ..) => {
                Err(Error::arguments(OP, "a classifier was given, but the query is Gap, which uses none"))
            }
            (Query::Cam, Some(rows), Some(labels)) => {
                let [c, _] = rows.layout.shape;
                at_least_one(OP, "c", c)?;
                fits_u32(OP, "c", c)?;
                expect_shape(OP, "the classifier", rows.layout.shape, [c, d])?;
                expect_shape(OP, "labels", labels.layout.shape, [b])?;
                if labels.stride(0) > 1 {
                    return Err(Error::arguments(OP, "labels must lie side by side"));
                }
                footprint.reads("the classifier", rows, element_bytes(self.dtype))?;
                footprint.reads("labels", labels, 4)
            }
            (Query::Cam, ..) => Err(Error::arguments(OP, "the query is Cam, but no classifier was given")),
        }
    }

    fn variant(&self) -> Variant {
        let query = u32::from(self.options.query == Query::Cam);
        let normalise = u32::from(self.options.normalise == Normalise::Softmax);
        variant(self.dtype, query, normalise, self.layout())
    }

    /// Packs of 16 bytes where everything lies on such boundaries; else lanes go along what is contiguous.
    fn layout(&self) -> u32 {
        let size = element_bytes(self.dtype);
        let on_boundary = |pointer: u64, outer: &[i64], channel: i64| {
            channel == 1
                && pointer.is_multiple_of(16)
                && outer.iter().all(|stride| stride.wrapping_mul(size as i64) % 16 == 0)
        };
        let cube =
            |view: &RawView<3>| on_boundary(view.pointer, &[view.stride(0), view.stride(1)], view.stride(2));
        let rows = |view: &RawView<2>| on_boundary(view.pointer, &[view.stride(0)], view.stride(1));
        let packed = (self.features.layout.shape[2] * size).is_multiple_of(16)
            && cube(&self.features)
            && self.d_features.as_ref().is_none_or(cube)
            && self.rows.as_ref().is_none_or(rows)
            && self.d_rows.as_ref().is_none_or(rows);
        match (packed, self.features.stride(1)) {
            (true, _) => 0,
            (false, 1) => 2,
            (false, _) => 1,
        }
    }

    fn params(&self, scratch: &Scratch) -> AttentionParams {
        let [b, r, d] = self.features.layout.shape;
        let rows = self.rows.unwrap_or(RawView::contiguous(0, [1, 1]));
        let d_features = self.d_features.unwrap_or(RawView::contiguous(0, [1, 1, 1]));
        let backward = self.d_features.is_some();
        AttentionParams {
            features: self.features.pointer,
            example: self.features.stride(0),
            position: self.features.stride(1),
            channel: self.features.stride(2),
            rows: rows.pointer,
            row: rows.stride(0),
            row_channel: rows.stride(1),
            labels: self.labels.map_or(0, |labels| labels.pointer),
            maps: if backward { scratch.maps } else { self.maps.pointer },
            scores: scratch.scores,
            d_maps: if backward { self.maps.pointer } else { 0 },
            d_features: d_features.pointer,
            d_example: d_features.stride(0),
            d_position: d_features.stride(1),
            d_channel: d_features.stride(2),
            d_queries: scratch.d_queries,
            b: b as u32,
            r: r as u32,
            d: d as u32,
            c: rows.layout.shape[0] as u32,
        }
    }
}

fn variant(dtype: Dtype, query: u32, normalise: u32, layout: u32) -> Variant {
    Variant::new(SOURCE)
        .name("ELEMENT", element_name(dtype))
        .number("QUERY", query)
        .number("NORMALISE", normalise)
        .number("LAYOUT", layout)
}

/// All variants.
pub(super) fn variants(_: &DeviceInfo) -> impl Iterator<Item = Variant> {
    let maps = [(0, 0), (0, 1), (1, 0), (1, 1)];
    let layouts =
        maps.into_iter().flat_map(|(query, normalise)| [0, 1, 2].map(|layout| (query, normalise, layout)));
    layouts.flat_map(|(query, normalise, layout)| {
        Dtype::ALL.map(|dtype| variant(dtype, query, normalise, layout))
    })
}

struct Scratch {
    maps: CUdeviceptr,
    scores: CUdeviceptr,
    d_queries: CUdeviceptr,
}

fn carve_scratch(carve: &mut Carve, [b, r, d]: [usize; 3], classifier: bool) -> Result<Scratch> {
    Ok(Scratch {
        maps: carve.take::<f32>("maps", &[b, r])?,
        scores: carve.take::<f32>("scores", &[b, r])?,
        d_queries: if classifier { carve.take::<f32>("gradients of queries", &[b, d])? } else { 0 },
    })
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
    labels: CUdeviceptr,
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
const _: () = assert!(size_of::<AttentionParams>() == 144);

/// `AttentionRowsParams` of attention.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct AttentionRowsParams {
    d_queries: CUdeviceptr,
    labels: CUdeviceptr,
    d_rows: CUdeviceptr,
    row: i64,
    channel: i64,
    b: u32,
    c: u32,
    d: u32,
    padding: u32,
}
const _: () = assert!(size_of::<AttentionRowsParams>() == 56);
