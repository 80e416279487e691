//! Gradients in f16 are kept from vanishing by a factor from upstream.

use half::f16;
use multimix::cpu::{LossGradients, LossInput, Targets};
use multimix::device::Storage;
use multimix::{Alpha, Device, LossOptions, Mixing, View};

/// b, r, c of a 7x7 map and 200 classes.
const SIZES: [usize; 3] = [128, 49, 200];

/// Loss and dS of logits that f16 holds.
fn gradients<T: Storage>(upstream: f32) -> (f32, Vec<f32>) {
    let [b, r, c] = SIZES;
    let logits: Vec<T> =
        (0..b * r * c).map(|x| T::from_f32(f16::from_f32((x as f32 * 0.7).sin()).to_f32())).collect();
    let labels: Vec<u32> = (0..b as u32).collect();
    let input = LossInput {
        logits: View::new(&logits, SIZES).unwrap(),
        targets: Targets::Labels(&labels),
        attention: None,
        weights: None,
    };
    let mixing = Mixing::dirichlet(32, Alpha::PAPER).seed(1);
    let (loss, LossGradients { logits, .. }) =
        Device::Cpu.loss_forward_backward(&mixing, &input, &LossOptions::default(), upstream).unwrap();
    (loss.value, logits.iter().map(|x| x.to_f32()).collect())
}

#[test]
fn a_factor_keeps_the_digits_of_f16_gradients() {
    let largest = |x: &[f32]| x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
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
