//! Ten million draws on the device, bit for bit the CPU engine's, through two launches of different shape.

use multimix::{Alpha, Mixing, WeightsInput, cpu};

use crate::support::device::{Device, device};
use crate::support::harness::{Harness, add};

/// Examples, positions and columns of the launch that is compared with the CPU, and what the second launch
/// draws of it.
const SIZES: [usize; 3] = [128, 4, 2800];
const FEWER: [usize; 2] = [1, 601];

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    add!(harness, missing, ten_million_draws_agree_bit_for_bit);
}

fn ten_million_draws_agree_bit_for_bit() {
    let device = device().unwrap();
    let fixed = [0.05, 0.5, 1.0, 1.7, 2.0, 50.0].map(Alpha::Fixed);
    let mut draws = 0;
    for (step, alpha) in fixed.into_iter().chain([Alpha::PAPER]).enumerate() {
        draws += compare(device, alpha, step as u64);
    }
    assert!(draws >= 10_000_000, "{draws} draws");
    println!("{draws} draws");
}

/// Compares the columns of one α, and gives how many weights were drawn for it.
fn compare(device: &Device, alpha: Alpha, step: u64) -> usize {
    let [b, r, n] = SIZES;
    let mixing = Mixing::dirichlet(n, alpha).seed(17).step(step);
    let expected = cpu::weights(mixing, &WeightsInput { b, r, attention: None }).unwrap().matrix;
    let given = weights(device, &mixing, r);
    for (at, (given, wanted)) in given.iter().zip(&expected).enumerate() {
        let (j, i, k) = (at / n / b, at / n % b, at % n);
        assert_eq!(given.to_bits(), wanted.to_bits(), "{alpha:?}, position {j}, example {i}, column {k}");
    }
    let [fewer_r, fewer_n] = FEWER;
    let fewer = weights(device, &Mixing { n: fewer_n, ..mixing }, fewer_r);
    // Columns of one draw of Λ do not depend on how many others there are.
    for (at, weight) in fewer.iter().enumerate() {
        let same = given[at / fewer_n * n + at % fewer_n];
        assert_eq!(weight.to_bits(), same.to_bits(), "{alpha:?}, second launch, weight {at}");
    }
    given.len()
}

fn weights(device: &Device, mixing: &Mixing, r: usize) -> Vec<f32> {
    let input = WeightsInput { b: SIZES[0], r, attention: None };
    let queue = device.engine.on(&device.stream).unwrap();
    let columns = queue.weights::<f32>(mixing, &input).unwrap().matrix;
    let columns = device.download(&columns);
    assert_eq!(columns.len(), SIZES[0] * r * mixing.n);
    columns
}
