//! A gradient times a factor in device memory. Kernel: scale.cu.

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUdeviceptr;

use super::memory::Bare;
use super::plan::{Params, Planned, Sink};
use super::split::Factors;
use super::variant::{self, Variant};
use crate::element::Element;
use crate::error::Result;
use crate::op::{SCALE, ScaleCall};

impl<T: Element, G: Element> Planned for ScaleCall<'_, T, G, Bare> {
    fn plan(&self, sink: &mut Sink<'_>) -> Result<()> {
        let (gradient, out) = (&self.gradient, self.out.as_read());
        let shape = gradient.shape();
        let [x, y, z] = shape;
        sink.fit(&[("the first size", x), ("the second size", y), ("the third size", z)])?;
        let variant = Variant::new(variant::SCALE).element("ELEMENT", T::DTYPE).element("OUT", G::DTYPE);
        let kernel = sink.kernel(variant);
        let count = gradient.layout.count(SCALE, "the gradient")?;
        if !sink.begin()? || count == 0 {
            return Ok(());
        }
        let Factors { upstream, factor, .. } = Factors::new(0, &self.upstream);
        let params = ScaleParams {
            gradient: gradient.data,
            strides: [0, 1, 2].map(|axis| gradient.stride(axis)),
            out: out.data,
            out_strides: [0, 1, 2].map(|axis| out.stride(axis)),
            upstream,
            factor,
            shape: shape.map(|size| size as u32),
        };
        sink.step(kernel, &[count.div_ceil(256)], 256, &params)
    }
}

/// `ScaleParams` of scale.cu.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct ScaleParams {
    gradient: CUdeviceptr,
    strides: [i64; 3],
    out: CUdeviceptr,
    out_strides: [i64; 3],
    upstream: CUdeviceptr,
    factor: f32,
    shape: [u32; 3],
}

impl Params for ScaleParams {
    const KERNEL: &'static str = "scale";
}
