//! Gradients in another type than their inputs: dS in f32 of logits in 16 bits, and what scales a gradient
//! afterwards.

use half::{bf16, f16};
use multimix::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use multimix::reference::{self, LossInputs, Sizes};
use multimix::{
    Alpha, Element, ErrorKind, LossInput, LossOptions, Mixing, Reduction, ScaleCall, Targets, Upstream, View,
    ViewMut, Want, WeightsInput, cpu,
};
use rand::Rng;

use crate::support::device::device;
use crate::support::harness::{Harness, add};
use crate::support::measure::{Rounding, floats, wide};
use crate::support::strided::Strided;
use crate::support::tiles::random;
use crate::upload::{Input, Output};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    harness.test("wide_gradients_of_f16", missing, wide_gradients::<f16>);
    harness.test("wide_gradients_of_bf16", missing, wide_gradients::<bf16>);
    add!(harness, missing, wide_gradients_are_for_narrow_logits, scaling, a_captured_scale_sees_new_factors);
}

/// f32 gradients are nearer to the reference than 16 bits are, and round to what the kernel gives in 16 bits.
fn wide_gradients<T: Rounding>() {
    // One split, written directly, in one panel and two; many splits; columns that are stored first.
    for [b, r, c, n] in [[17, 140, 5, 20], [100, 40, 67, 70], [33, 2, 67, 200], [1100, 1, 5, 30]] {
        let device = device().unwrap();
        let queue = device.engine.on(&device.stream).unwrap();
        let sizes = Sizes { b, r, d: 1, c, n };
        let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(3);
        let options = LossOptions { reduction: Reduction::Mean, ..LossOptions::default() };
        let logits: Vec<T> = (0..b * r * c).map(|x| T::from_f32(5.0 * (x as f32 * 0.7).sin())).collect();
        let labels: Vec<u32> = (0..b as u32).map(|i| i * 7 % c as u32).collect();
        let (on_device, labels_on_device) = (device.upload(&logits), device.upload(&labels));
        let input = LossInput {
            logits: View::new(&on_device, [b, r, c]).unwrap(),
            targets: Targets::labels(View::new(&labels_on_device, [b]).unwrap()),
            attention: None,
        };
        let narrow = queue.loss(mixing, &input, &options, Want::Gradients(512.0)).unwrap();
        let wide_one = queue.loss(mixing, &input, &options, Want::GradientsInF32(512.0)).unwrap();
        assert!(narrow.logits_f32.is_none() && wide_one.logits.is_none());
        let narrow = floats(&device.download(&narrow.logits.unwrap()));
        let given = device.download(&wide_one.logits_f32.unwrap());
        for (at, (narrow, wide)) in narrow.iter().zip(&given).enumerate() {
            let rounded = T::from_f32(*wide).to_f32();
            assert_eq!(*narrow, rounded, "{wide:e} at {at} of {sizes:?}");
        }
        let lambda = cpu::weights(mixing, &WeightsInput { b, r, attention: None }).unwrap().matrix;
        let labels: Vec<usize> = labels.iter().map(|&y| y as usize).collect();
        let inputs = LossInputs {
            logits: &wide(&floats(&logits)),
            targets: reference::Targets::Labels(&labels),
            weights: &wide(&lambda),
            attention: None,
        };
        let exact = reference::loss_backward(&sizes, &inputs, options, 512.0).unwrap().logits;
        let largest = exact.iter().fold(0f64, |largest, x| largest.max(x.abs()));
        let error = |given: &[f32]| {
            let errors = given.iter().zip(&exact).map(|(given, exact)| (f64::from(*given) - exact).abs());
            errors.fold(0.0, f64::max) / largest
        };
        let (wide_error, narrow_error) = (error(&given), error(&narrow));
        println!("{sizes:?}: largest error {wide_error:.1e} in f32, {narrow_error:.1e} in 16 bits");
        // Operands of products are 16 bits in both.
        assert!(wide_error < 4.0 * T::UNIT && wide_error <= narrow_error * 1.01, "{sizes:?}: {wide_error:e}");
        assert!(given.iter().any(|x| T::from_f32(*x).to_f32() != *x), "f32 holds more than 16 bits do");
    }
}

/// Of f32 logits the gradient is in f32 anyway.
fn wide_gradients_are_for_narrow_logits() {
    let device = device().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    let (logits, labels) = (device.upload(&[0.5f32, -1.0, 2.0, 0.0]), device.upload(&[1u8, 0]));
    let input = LossInput {
        logits: View::new(&logits, [2, 1, 2]).unwrap(),
        targets: Targets::labels(View::new(&labels, [2]).unwrap()),
        attention: None,
    };
    let (mixing, options) = (Mixing::dirichlet(9, Alpha::PAPER), LossOptions::default());
    let run = |want: Want| queue.loss(mixing, &input, &options, want).unwrap();
    let (one, other) = (run(Want::Gradients(2.0)), run(Want::GradientsInF32(2.0)));
    assert!(other.logits_f32.is_none());
    assert_eq!(device.download(&one.logits.unwrap()), device.download(&other.logits.unwrap()));
}

/// All types to all types, in any layout: the CPU engine's bits.
fn scaling() {
    scale::<f32, f32>();
    scale::<f32, f16>();
    scale::<f32, bf16>();
    scale::<f16, f32>();
    scale::<f16, f16>();
    scale::<f16, bf16>();
    scale::<bf16, f32>();
    scale::<bf16, f16>();
    scale::<bf16, bf16>();
}

fn scale<T: Element, G: Element>() {
    let device = device().unwrap();
    let queue = device.engine.on(&device.stream).unwrap();
    for number in 0..8 {
        let rng = &mut random("scale", number);
        let shape = [rng.random_range(1..9), rng.random_range(1..9), rng.random_range(1..70)];
        let layout = crate::support::tiles::layout(rng, shape);
        let value = |_| T::from_f32(rng.random_range(-1.0..1.0));
        let array = Strided::in_layout(layout, T::from_f32(f32::NAN), value);
        let rng = &mut random("scale's output", number);
        let (factor, scalar) = (rng.random_range(-3.0f32..3.0), rng.random_range(-3.0f32..3.0));
        let (input, on_device) = (Input::new(device, &array), device.upload(&[scalar]));
        let mut output = Output::<G, 3>::new(device, rng, shape);
        let given = number.is_multiple_of(2);
        let scalar_view = given.then(|| View::new(&on_device, [1]).unwrap());
        queue
            .scale_into(&mut ScaleCall {
                gradient: input.view(),
                upstream: Upstream { factor, scalar: scalar_view },
                out: output.view(),
            })
            .unwrap();
        let times = if given { factor * scalar } else { factor };
        let wanted: Vec<G> = array.floats().iter().map(|x| G::from_f32(x * times)).collect();
        assert_eq!(output.values(device), wanted, "{shape:?}");

        let mut on_cpu = Strided::<G, 3>::contiguous(shape, |_| G::from_f32(f32::NAN));
        let scalar = [scalar];
        cpu::scale_into(&mut ScaleCall {
            gradient: array.view(),
            upstream: Upstream { factor, scalar: given.then(|| View::new(&scalar, [1]).unwrap()) },
            out: on_cpu.view_mut(),
        })
        .unwrap();
        assert_eq!(on_cpu.values(), wanted, "{shape:?} on the CPU");
    }
}

/// Compiled ahead and captured; another factor in device memory, another product. Where nothing is to be
/// done, nothing is; what overlaps is refused.
fn a_captured_scale_sees_new_factors() {
    let (device, fresh) = (device().unwrap(), device().unwrap().fresh_engine());
    let stream = device.context().new_stream().unwrap();
    let queue = fresh.on(&stream).unwrap();
    let gradient = device.upload(&[1.0f32, -2.0, 3.0]);
    let (mut scalar, mut out) = (device.upload(&[0f32]), device.upload(&[0f32; 3]));
    device.stream.synchronize().unwrap();
    let mut call = ScaleCall {
        gradient: View::new(&gradient, [1, 1, 3]).unwrap(),
        upstream: Upstream { factor: 2.0, scalar: Some(View::new(&scalar, [1]).unwrap()) },
        out: ViewMut::new(&mut out, [1, 1, 3]).unwrap(),
    };
    queue.scale_compile(&mut call).unwrap();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    queue.scale_into(&mut call).unwrap();
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().expect("a kernel was captured");
    for factor in [0.5f32, -1.0, 8.0] {
        stream.memcpy_htod(&[factor], &mut scalar).unwrap();
        graph.launch().unwrap();
        let given = stream.clone_dtoh(&out).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(given, [1.0, -2.0, 3.0].map(|x: f32| x * 2.0 * factor));
    }
    queue
        .scale_into(&mut ScaleCall::<f32, f32, _> {
            gradient: View::new(&gradient, [0, 1, 3]).unwrap(),
            upstream: 2.0.into(),
            out: ViewMut::new(&mut out, [0, 1, 3]).unwrap(),
        })
        .unwrap();
    let error = queue
        .scale_into(&mut ScaleCall::<f32, f32, _> {
            gradient: View::new(&gradient, [1, 1, 3]).unwrap(),
            upstream: 2.0.into(),
            out: ViewMut::new(&mut out, [1, 3, 1]).unwrap(),
        })
        .unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Shape { .. }) && error.op == "scale", "{error}");
}
