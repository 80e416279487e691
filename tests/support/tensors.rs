//! Tensors of reproducible values and a comparison, for tests of the candle ops.

use candle_core::{DType, Device, Result, Shape, Tensor};

/// Values in [-1, 1), different for every seed.
pub fn tensor(shape: impl Into<Shape>, seed: u64) -> Result<Tensor> {
    let shape = shape.into();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.elem_count()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Labels (b) that use every class.
pub fn labels(b: usize, classes: usize) -> Result<Tensor> {
    Tensor::from_iter((0..b).map(|i| (i * 3 % classes) as u32), &Device::Cpu)
}

/// Fails where the largest difference passes `tolerance` times the largest value (or 1, for smaller values).
pub fn assert_close(given: &Tensor, wanted: &Tensor, tolerance: f32) -> Result<()> {
    assert_eq!(given.dims(), wanted.dims());
    let largest = |x: &Tensor| x.to_dtype(DType::F32)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
    let given = given.to_dtype(DType::F32)?;
    let wanted = wanted.to_dtype(DType::F32)?;
    let difference = largest(&(&given - &wanted)?)?;
    assert!(difference <= tolerance * largest(&wanted)?.max(1.0), "{given}\nbut wanted\n{wanted}");
    Ok(())
}
