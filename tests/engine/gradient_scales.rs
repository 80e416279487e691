//! How small and how large gradients get: what the documentation says of it.

use half::{bf16, f16};
use multimix::{
    Alpha, Device, Element, LossCall, LossInput, LossOptions, LossOutputs, MixInput, MixedGradients, Mixing,
    Reduction, Targets, View, ViewMut, Want, cpu,
};

use crate::support::measure::floats;
use crate::support::on_cpu::run_loss;
use crate::support::strided::Strided;
use crate::support::usual::usual;

/// b, r, c of a 7x7 map and 200 classes.
const SIZES: [usize; 3] = [128, 49, 200];

/// Loss and dS of logits that f16 holds.
fn gradients<T: Element>(upstream: f32) -> (f32, Vec<f32>) {
    let [b, r, c] = SIZES;
    let logits: Vec<T> =
        (0..b * r * c).map(|x| T::from_f32(f16::from_f32((x as f32 * 0.7).sin()).to_f32())).collect();
    let labels: Vec<u32> = (0..b as u32).collect();
    let input = LossInput {
        logits: View::new(&logits, SIZES).unwrap(),
        targets: Targets::labels(&labels),
        attention: None,
    };
    let mixing = Mixing::dirichlet(32, Alpha::PAPER).seed(1);
    let want = Want::Gradients(upstream);
    let loss = Device::Cpu.loss(mixing, &input, &LossOptions::default(), want).unwrap();
    (loss.value, loss.logits.unwrap().iter().map(|x| x.to_f32()).collect())
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0f32, |largest, x| largest.max(x.abs()))
}

#[test]
fn a_factor_keeps_the_digits_of_f16_gradients() {
    let (loss, exact) = gradients::<f32>(1.0);
    let lost = |upstream: f32| {
        let (given, half) = gradients::<f16>(upstream);
        assert!((given - loss).abs() < 1e-6 * loss, "the factor is not the loss's");
        let errors = half.iter().zip(&exact).map(|(half, exact)| half / upstream - exact);
        (largest(&half), largest(&errors.collect::<Vec<_>>()) / largest(&exact))
    };
    let (plain, plain_error) = lost(1.0);
    assert!(plain < f16::MIN_POSITIVE.to_f32(), "{plain} is not subnormal");
    let (_, scaled_error) = lost(4096.0);
    // Eleven digits: half a unit in the last place of the largest.
    assert!(scaled_error <= 2f32.powi(-11) && plain_error > scaled_error, "{plain_error}, {scaled_error}");
}

#[test]
fn gradients_of_attention_explode_at_small_alpha_but_under_the_default_reduction() {
    let (b, r, c, n) = (8, 4, 5, 1000);
    let logits: Vec<f32> = (0..b * r * c).map(|x| 3.0 * (x as f32 * 0.7).sin()).collect();
    let attention: Vec<f32> = (0..b * r).map(|x| (x as f32 * 1.3).sin().max(0.0)).collect();
    let labels: Vec<u32> = (0..b as u32).map(|i| i % 5).collect();
    let logits = View::new(&logits, [b, r, c]).unwrap();
    let attention = Some(View::new(&attention, [b, r]).unwrap());
    let input = LossInput { logits, targets: Targets::labels(&labels), attention };
    let upstream = vec![1.0 / (n * r) as f32; n * r * c];
    let upstream = MixedGradients { features: View::new(&upstream, [n, r, c]).unwrap(), targets: None };
    // Over 20 steps: of the loss under both reductions, and of mixing.
    let over_steps = |alpha, gradient: &dyn Fn(&Mixing) -> Option<Vec<f32>>| {
        let mixing = Mixing::dirichlet(n, Alpha::Fixed(alpha));
        (0..20).map(|step| largest(&gradient(&mixing.step(step)).unwrap())).fold(0f32, f32::max)
    };
    let of_loss = |alpha, reduction| {
        let options = LossOptions { reduction, detach_attention: false, ..LossOptions::default() };
        let gradient =
            |mixing: &Mixing| cpu::loss(mixing, &input, &options, Want::Gradients(1.0)).unwrap().attention;
        over_steps(alpha, &gradient)
    };
    let of_mixing = |alpha| {
        let input = MixInput { features: logits, targets: None, attention };
        over_steps(alpha, &|mixing| cpu::mix_backward(mixing, &input, &upstream).unwrap().attention)
    };
    assert!(of_loss(0.1, Reduction::AttentionWeighted) < 1.0);
    assert!(of_loss(0.5, Reduction::Mean) < 10.0 && of_loss(0.1, Reduction::Mean) > 1e11);
    assert!(of_mixing(0.5) < 50.0 && of_mixing(0.1) > 1e12);
}

/// dS of 16-bit logits in f32, of random problems: next to the reference, where that in the type of the
/// logits is rounded; and it is what is rounded.
fn check_in_f32<T: Element>(index: u64, unit: f64) {
    let problem = usual::<T>(51, index);
    let (columns, input, name) = (problem.columns(), problem.loss_input(), &problem.name);
    let (options, upstream) = (problem.options, problem.upstream);
    let own = cpu::loss(columns, &input, &options, Want::Gradients(upstream)).unwrap();
    let in_f32 = cpu::loss(columns, &input, &options, Want::GradientsInF32(upstream)).unwrap();
    assert!(own.logits_f32.is_none() && in_f32.logits.is_none(), "{name}");
    assert_eq!((own.value, own.kl, &own.attention), (in_f32.value, in_f32.kl, &in_f32.attention), "{name}");
    let (own, in_f32) = (own.logits.unwrap(), in_f32.logits_f32.unwrap());
    let bits = |values: &[T]| floats(values).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let rounded: Vec<T> = in_f32.iter().map(|&x| T::from_f32(x)).collect();
    assert_eq!(bits(&rounded), bits(&own), "{name}");

    let (_, exact) =
        problem.exact(problem.normalised()).loss(problem.soft.is_some(), options, upstream.into());
    // Of a single class all gradients are zero but for rounding.
    let least = 1e-2 * f64::from(upstream.abs()) / own.len() as f64;
    let largest = exact.logits.iter().fold(least, |largest, x| largest.max(x.abs()));
    let error = |values: &[f32]| {
        let errors = values.iter().zip(&exact.logits).map(|(x, exact)| (f64::from(*x) - exact).powi(2));
        (errors.sum::<f64>() / values.len() as f64).sqrt()
    };
    assert!(error(&in_f32) <= largest * unit / 50.0, "{} of {largest}: {name}", error(&in_f32));
    // With a value or two rounding may do nothing.
    if own.len() > 10 && largest > least {
        assert!(error(&floats(&own)) > 3.0 * error(&in_f32), "{name}");
    }

    let mut out = Strided::<f32, 3>::empty(&mut problem.rng.clone(), problem.logits.layout.shape, f32::NAN);
    let outputs = LossOutputs { logits_f32: Some(out.view_mut()), ..LossOutputs::default() };
    let (columns, input) = (columns.reborrow(), input.reborrow());
    run_loss(LossCall { columns, input, options, upstream: upstream.into(), outputs }).unwrap();
    assert_eq!(out.written("dS in f32"), in_f32, "{name}");
}

#[test]
fn gradients_in_f32_are_those_before_rounding() {
    for index in 0..40 {
        check_in_f32::<f16>(index, 2f64.powi(-11));
        check_in_f32::<bf16>(index, 2f64.powi(-8));
    }
}

/// Where f16 holds next to nothing of them.
#[test]
fn gradients_in_f32_do_not_vanish() {
    let (b, r, c) = (16, 7, 40);
    let logits: Vec<f16> = (0..b * r * c).map(|x| f16::from_f32(4.0 * (x as f32 * 0.7).sin())).collect();
    let labels: Vec<u8> = (0..b as u8).collect();
    let input = LossInput {
        logits: View::new(&logits, [b, r, c]).unwrap(),
        targets: Targets::labels(&labels),
        attention: None,
    };
    let mixing = Mixing::dirichlet(32, Alpha::PAPER).seed(1);
    let loss = |want| cpu::loss(mixing, &input, &LossOptions::default(), want).unwrap();
    let upstream = 2f32.powi(-20);
    let own = loss(Want::Gradients(upstream)).logits.unwrap();
    let lost = own.iter().filter(|x| x.to_f32() == 0.0).count();
    assert!(lost > own.len() / 2, "{lost} of {} are 0 in f16", own.len());
    let in_f32 = loss(Want::GradientsInF32(upstream)).logits_f32.unwrap();
    let whole = loss(Want::GradientsInF32(1.0)).logits_f32.unwrap();
    assert!(whole.iter().all(|&x| x != 0.0));
    // A power of two.
    assert!(in_f32.iter().zip(&whole).all(|(small, whole)| *small == whole * upstream));
}

#[test]
fn a_gradient_in_f32_is_for_logits_of_16_bits_in_place_of_the_other() {
    let problem = usual::<f32>(51, 1);
    let (columns, input, options) = (problem.columns(), problem.loss_input(), problem.options);
    let [own, in_f32] = [Want::Gradients(2.0), Want::GradientsInF32(2.0)]
        .map(|want| cpu::loss(columns, &input, &options, want).unwrap());
    assert!(own.logits.is_some() && in_f32.logits_f32.is_none());
    assert_eq!(own, in_f32);

    let says = |error: multimix::Error| {
        let rule =
            "a gradient in f32 goes in place of the one in the type of the logits, where that is not f32";
        assert_eq!(error.to_string(), format!("loss: {rule}"));
    };
    let shape = problem.logits.layout.shape;
    let mut wide = vec![0f32; shape.iter().product()];
    let outputs =
        LossOutputs { logits_f32: Some(ViewMut::new(&mut wide, shape).unwrap()), ..LossOutputs::default() };
    let (columns, input) = (columns.reborrow(), input.reborrow());
    let call = LossCall { columns, input, options, upstream: 1.0.into(), outputs };
    says(run_loss(call).unwrap_err());

    let problem = usual::<f16>(51, 4);
    let shape = problem.logits.layout.shape;
    let mut wide = vec![0f32; shape.iter().product()];
    let mut own = vec![f16::ZERO; wide.len()];
    let outputs = LossOutputs {
        logits: Some(ViewMut::new(&mut own, shape).unwrap()),
        logits_f32: Some(ViewMut::new(&mut wide, shape).unwrap()),
        ..LossOutputs::default()
    };
    let (columns, input, options) = (problem.columns(), problem.loss_input(), problem.options);
    let call = LossCall { columns, input, options, upstream: 1.0.into(), outputs };
    says(run_loss(call).unwrap_err());
}
