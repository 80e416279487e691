//! How small and how large gradients get: what the documentation says of it.

use half::f16;
use multimix::{
    Alpha, Device, Element, LossInput, LossOptions, MixInput, MixedGradients, Mixing, Reduction, Targets,
    View, Want, cpu,
};

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
    let loss = Device::Cpu.loss(&mixing, &input, &LossOptions::default(), want).unwrap();
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
