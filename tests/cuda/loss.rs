//! The loss on the device against the reference: values, optional outputs and both gradients, in every type
//! and reduction.

use half::{bf16, f16};
use multimix::cuda::Precision;
use multimix::cuda::cudarc::driver::CudaSlice;
use multimix::reference::{self, Sizes};
use multimix::{
    Alpha, Element, LossCall, LossInput, LossOptions, LossOutputs, Mixing, Reduction, Targets, Upstream,
    View, ViewMut,
};

use crate::support::device::{Device, SCHEDULES, device, lacks_ampere};
use crate::support::exact::Exact;
use crate::support::harness::{Harness, add};
use crate::support::measure::{Rounding, check_at, floats, round};
use crate::support::on_cpu::Loss;
use crate::support::problem::Problem;
use crate::support::tiles::{Outline, random, seed, tiles};
use crate::upload::{Output, Uploaded, scratch, whole};

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    let ampere = lacks_ampere(missing);
    harness.test("f32", missing, || problems::<f32>(Precision::Exact, 40));
    harness.test("f16", missing, || problems::<f16>(Precision::Exact, 40));
    harness.test("tf32", ampere, || problems::<f32>(Precision::Tf32, 30));
    harness.test("bf16", missing, || problems::<bf16>(Precision::Exact, 30));
    add!(harness, missing, gradients_carry_the_upstream, many_columns_and_examples);
}

/// A factor of the host and one in device memory, both powers of two: exact.
fn gradients_carry_the_upstream() {
    let device = device().unwrap();
    let logits: Vec<f32> = (0..4 * 3 * 5).map(|x| (x as f32 * 0.7).sin()).collect();
    let (logits, labels) = (device.upload(&logits), device.upload(&[0u32, 1, 2, 4]));
    let (scalar, queue) = (device.upload(&[-0.25f32]), device.engine.on(&device.stream).unwrap());
    let run = |factor: f32, scalar: Option<&CudaSlice<f32>>| {
        let [mut value, mut gradient] = [1, 4 * 3 * 5].map(|count| device.uninitialised::<f32>(count));
        let mut call = LossCall {
            columns: Mixing::dirichlet(40, Alpha::PAPER).into(),
            input: LossInput {
                logits: View::new(&logits, [4, 3, 5]).unwrap(),
                targets: Targets::labels(View::new(&labels, [4]).unwrap()),
                attention: None,
            },
            options: LossOptions::default(),
            upstream: Upstream { factor, scalar: scalar.map(|scalar| View::new(scalar, [1]).unwrap()) },
            outputs: LossOutputs {
                loss: Some(ViewMut::new(&mut value, [1]).unwrap()),
                logits: Some(ViewMut::new(&mut gradient, [4, 3, 5]).unwrap()),
                ..LossOutputs::default()
            },
        };
        let workspace = &mut scratch(device, queue.loss_workspace(&mut call));
        queue.loss_into(&mut call, &mut whole(workspace)).unwrap();
        (device.download(&value), device.download(&gradient))
    };
    let (loss, gradient) = run(1.0, None);
    assert!(gradient.iter().any(|&x| x.abs() > 1e-3));
    for (own, scalar, factor) in [(1024.0, None, 1024.0), (64.0, Some(&scalar), -16.0)] {
        let wanted = gradient.iter().map(|x| x * factor).collect();
        assert_eq!(run(own, scalar), (loss.clone(), wanted));
    }
}

/// The loss with all that it may give.
pub fn on_device<T: Element>(device: &Device, problem: &Problem<T>, precision: Precision) -> Loss<T> {
    let (Sizes { b, r, c, n, .. }, options) = (problem.sizes, problem.options);
    let (uploaded, rng) = (Uploaded::new(device, problem), &mut problem.rng.clone());
    let mut value = Output::<f32, 1>::new(device, rng, [1]);
    let mut kl = options.kl.then(|| Output::<f32, 1>::new(device, rng, [1]));
    let mut logits = Output::<T, 3>::new(device, rng, [b, r, c]);
    let mut attention = problem.attends().then(|| Output::<f32, 2>::new(device, rng, [b, r]));
    let mut per_mixture = Output::<f32, 2>::new(device, rng, [r, n]);
    let mut log_sum_exp = Output::<f32, 2>::new(device, rng, [r, n]);
    let outputs = LossOutputs {
        loss: Some(value.view()),
        kl: kl.as_mut().map(Output::view),
        logits: Some(logits.view()),
        logits_f32: None,
        attention: attention.as_mut().map(Output::view),
        per_mixture: Some(per_mixture.view()),
        log_sum_exp: Some(log_sum_exp.view()),
    };
    let queue = device.engine.on(&device.stream).unwrap().precision(precision).unwrap();
    let (columns, input) = (uploaded.columns(), uploaded.loss_input());
    let mut call = LossCall { columns, input, options, upstream: problem.upstream.into(), outputs };
    let workspace = &mut scratch(device, queue.loss_workspace(&mut call));
    queue.loss_into(&mut call, &mut whole(workspace)).unwrap();
    Loss {
        value: value.values(device)[0],
        kl: kl.map(|kl| kl.values(device)[0]),
        logits: logits.values(device),
        attention: attention.map(|attention| attention.values(device)),
        per_mixture: per_mixture.values(device),
        log_sum_exp: log_sum_exp.values(device),
    }
}

/// Losses and dS by plain loops over M̂, with operands of products rounded as the device's are.
fn plain<T: Rounding>(problem: &Problem<T>, given: &Exact, tf32: bool) -> (Vec<f32>, Vec<f32>) {
    let sizes = &problem.sizes;
    let mix = reference::mix_matrix(sizes, &given.weights, given.attention()).unwrap();
    let reduction = if given.attention().is_some() { problem.options.reduction } else { Reduction::Mean };
    let shares = reference::shares(sizes, &mix.mass, reduction).unwrap();
    let (rows, logits) = (problem.rows(), problem.logits.floats());
    let round = |x: f32| round::<T>(x, tf32);
    let m = |j, i, k| round(mix.matrix[sizes.weight(j, i, k)] as f32);
    let mut losses = vec![0f32; sizes.n * sizes.r];
    let mut gradient = vec![0f32; sizes.b * sizes.r * sizes.c];
    for j in 0..sizes.r {
        for k in 0..sizes.n {
            let mixed = |value: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
                (0..sizes.c).map(|y| (0..sizes.b).map(|i| m(j, i, k) * round(value(i, y))).sum()).collect()
            };
            let s = mixed(&|i, y| logits[sizes.logit(i, j, y)]);
            let t = mixed(&|i, y| rows[sizes.target(i, y)]);
            let largest = s.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let log_sum = largest + s.iter().map(|x| (x - largest).exp()).sum::<f32>().ln();
            let total: f32 = t.iter().sum();
            losses[sizes.mixture(j, k)] = s.iter().zip(&t).map(|(s, t)| t * (log_sum - s)).sum();
            let share = shares[sizes.mixture(j, k)] as f32;
            for y in 0..sizes.c {
                // On a scale where 16 bits hold it.
                let g = round(1024.0 * (total * (s[y] - log_sum).exp() - t[y])) / 1024.0;
                for i in 0..sizes.b {
                    gradient[sizes.logit(i, j, y)] += m(j, i, k) * g * share * problem.upstream;
                }
            }
        }
    }
    (losses, gradient.into_iter().map(|x| T::from_f32(x).to_f32()).collect())
}

fn problems<T: Rounding>(precision: Precision, count: u64) {
    let device = device().unwrap();
    for number in 0..count {
        device.schedule(SCHEDULES[number as usize % SCHEDULES.len()]);
        compare(device, &tiles::<T>("loss", number), precision);
    }
    println!("{count} problems, seed {}", seed());
}

fn compare<T: Rounding>(device: &Device, problem: &Problem<T>, precision: Precision) {
    let (sizes, about, inputs) = (problem.sizes, &problem.name, problem.exact(problem.rounded()));
    let (exact, exact_gradient) = inputs.loss(true, problem.options, f64::from(problem.upstream));
    let (given, cpu) = (on_device(device, problem, precision), problem.loss_on_cpu());

    // The gradient of attention has everything computed in f32; so has bf16 where tensor cores do not take
    // it.
    let is_f32 = (T::UNIT == f32::UNIT && precision == Precision::Exact)
        || problem.attends()
        || (T::UNIT == bf16::UNIT && !device.has_bf16());
    let (plain_losses, plain_gradient) = match is_f32 {
        true => (cpu.per_mixture, floats(&cpu.logits)),
        false => plain(problem, &inputs, precision == Precision::Tf32),
    };
    let losses = &exact.cross_entropy;
    // A loss is the difference of a log-sum-exp and a logit, up to 6 and more, times what the target sums to;
    // a residual is that of a probability and a target. Where they cancel, their roundings stay.
    let total = inputs.soft.chunks(sizes.c).map(|row| row.iter().sum::<f64>()).fold(0.0, f64::max);
    let terms = total * (6.0 + (sizes.c as f64).ln());
    let upstream = f64::from(problem.upstream.abs());
    let over_columns = |weigh: &dyn Fn(usize) -> f64| {
        let position = |j: usize| (0..sizes.n).map(|k| weigh(sizes.mixture(j, k))).sum::<f64>();
        (0..sizes.r).map(position).fold(0.0, f64::max) * upstream * terms
    };
    let logit_terms = over_columns(&|at| exact.shares[at]);
    // da is a difference of expectations over classes, with three exponentials in it that are good to four
    // roundings each.
    let attention_terms = 3.0
        * over_columns(&|at| match exact.mix.mass[at] > 0.0 {
            true => exact.shares[at] / exact.mix.mass[at],
            false => 0.0,
        });
    let unit = 4.0 * f32::UNIT;
    check_at(&format!("losses of {about}"), &given.per_mixture, &plain_losses, losses, unit, terms);
    let spread: f64 =
        plain_losses.iter().zip(losses).map(|(p, e)| (f64::from(*p) - e).abs()).fold(0.0, f64::max);
    let near = |what: &str, given: f32, exact: f64, more: f64| {
        let allowed = 2.0 * spread + unit * (terms + exact.abs()) + more;
        assert!(
            (f64::from(given) - exact).abs() <= allowed,
            "{what}: {given} and not {exact} +- {allowed:e}, {about}"
        );
    };
    near("loss", given.value, exact.value, 0.0);
    if let Some(kl) = given.kl {
        // Rounded weights move Ỹ by one unit roundoff, and its entropy by that times Σ Ỹ (1 + |log Ỹ|).
        let unit = if is_f32 { 0.0 } else { T::UNIT.max(f16::UNIT) };
        let entropy = exact.entropy.iter().fold(0f64, |largest, h| largest.max(h.abs()));
        near("kl", kl, exact.kl, unit * (total + entropy));
    }
    let gradient = &exact_gradient.logits;
    check_at(
        &format!("dS of {about}"),
        &floats(&given.logits),
        &plain_gradient,
        gradient,
        T::UNIT + unit,
        logit_terms,
    );
    if let (Some(given), Some(cpu), Some(exact)) =
        (&given.attention, &cpu.attention, &exact_gradient.attention)
    {
        check_at(&format!("da of {about}"), given, cpu, exact, unit, attention_terms);
    }
    assert_eq!(given.log_sum_exp.len(), sizes.n * sizes.r);
    assert!(given.log_sum_exp.iter().all(|x| x.is_finite()), "log-sum-exp of {about}");
}

/// More columns than a chunk has, more examples than a block draws.
fn many_columns_and_examples() {
    let device = device().unwrap();
    for (number, (b, n)) in [(5, 2100), (600, 40), (1100, 1030)].into_iter().enumerate() {
        let (mixing, sizes) = (Mixing::dirichlet(n, Alpha::PAPER), Sizes { b, r: 1, d: 1, c: 5, n });
        let outline =
            Outline { sizes, mixing: mixing.seed(number as u64), explicit: false, attention: number != 1 };
        compare(device, &outline.fill::<f32>(random("many", number as u64)), Precision::Exact);
    }
}
