//! The loss on the device against the reference: values, optional outputs and both gradients, in every type and reduction.

use half::{bf16, f16};
use multimix::cuda::cudarc::driver::CudaSlice;
use multimix::cuda::{
    DeviceElement, DeviceTargets, DeviceView, DeviceViewMut, LossInput, LossOutputs, Precision, Upstream,
};
use multimix::reference::{self, Sizes, Targets};
use multimix::{Alpha, Generator, LossOptions, Mixing, Reduction, ViewMut, cpu};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::array::{Input, Output, scratch};
use crate::support::device::{Device, SCHEDULES, device, lacks_ampere};
use crate::support::harness::{Harness, add};
use crate::support::measure::{Rounding, check_at, round};
use crate::support::tiles::{Problem, random, seed};

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
    let input = LossInput {
        logits: DeviceView::new(&logits, [4, 3, 5]).unwrap(),
        targets: DeviceTargets::Labels(DeviceView::new(&labels, [4]).unwrap()),
        attention: None,
        weights: None,
    };
    let run = |upstream: Upstream<'_>| {
        let (mixing, options) = (Mixing::dirichlet(40, Alpha::PAPER), LossOptions::default());
        let (loss, gradients) = queue.loss_forward_backward(&mixing, &input, &options, &upstream).unwrap();
        (device.download(&loss.value), device.download(&gradients.logits))
    };
    let (loss, gradient) = run(Upstream::default());
    assert!(gradient.iter().any(|&x| x.abs() > 1e-3));
    let scalar = Some(DeviceView::new(&scalar, [1]).unwrap());
    for (upstream, factor) in
        [(Upstream { factor: 1024.0, scalar: None }, 1024.0), (Upstream { factor: 64.0, scalar }, -16.0)]
    {
        let wanted = gradient.iter().map(|x| x * factor).collect();
        assert_eq!(run(upstream), (loss.clone(), wanted));
    }
}

/// The inputs of one problem, in both memories.
struct Case<T> {
    problem: Problem,
    options: LossOptions,
    upstream: f32,
    logits: Input<T, 3>,
    attention: Option<Input<f32, 2>>,
    weights: Option<Input<f32, 3>>,
    labels: (Vec<u32>, CudaSlice<u32>),
    soft: Option<Input<f32, 2>>,
}

/// What one engine gives, in row-major order.
struct Answer {
    value: f32,
    kl: Option<f32>,
    logits: Vec<f32>,
    attention: Option<Vec<f32>>,
    per_mixture: Vec<f32>,
    log_sum_exp: Vec<f32>,
}

impl<T: Rounding + DeviceElement + Default> Case<T> {
    fn draw(device: &Device, rng: &mut ChaCha8Rng) -> Self {
        let problem = Problem::draw(rng);
        Self::of(device, rng, problem)
    }

    fn of(device: &Device, rng: &mut ChaCha8Rng, problem: Problem) -> Self {
        let attention = problem.attention(rng).map(|given| Input::given(device, given));
        let weights = problem.weights(rng).map(|given| Input::given(device, given));
        let reduction = if rng.random_bool(0.5) { Reduction::Mean } else { Reduction::AttentionWeighted };
        let detach_attention = attention.is_none() || rng.random_bool(0.5);
        let options = LossOptions { reduction, detach_attention, kl: rng.random_bool(0.5) };
        let labels = problem.labels(rng);
        let Problem { b, r, c, .. } = problem;
        let soft =
            rng.random_bool(0.4).then(|| Input::draw(device, rng, [b, c], |rng| rng.random_range(0.0..1.0)));
        Self {
            problem,
            options,
            upstream: *[1.0, -0.5, 64.0].get(rng.random_range(0..3)).unwrap_or(&1.0),
            logits: Input::draw(device, rng, [b, r, c], |rng| rng.random_range(-6.0..6.0)),
            attention,
            weights,
            labels: (labels.clone(), device.upload(&labels)),
            soft,
        }
    }

    fn sizes(&self) -> Sizes {
        let Problem { b, r, d, c, mixing, .. } = self.problem;
        Sizes { b, r, d, c, n: mixing.n }
    }

    fn wants_attention(&self) -> bool {
        !self.options.detach_attention
    }

    fn on_device(&self, device: &Device, precision: Precision, rng: &mut ChaCha8Rng) -> Answer {
        let Sizes { b, r, c, n, .. } = self.sizes();
        let targets = match &self.soft {
            Some(soft) => DeviceTargets::Soft(soft.on_device()),
            None => DeviceTargets::Labels(DeviceView::new(&self.labels.1, [b]).unwrap()),
        };
        let input = LossInput {
            logits: self.logits.on_device(),
            targets,
            attention: self.attention.as_ref().map(Input::on_device),
            weights: self.weights.as_ref().map(Input::on_device),
        };
        let mut value = Output::<f32, 1>::new(device, rng, [1]);
        let mut kl = self.options.kl.then(|| Output::<f32, 1>::new(device, rng, [1]));
        let mut logits = Output::<T, 3>::new(device, rng, [b, r, c]);
        let mut attention = self.wants_attention().then(|| Output::<f32, 2>::new(device, rng, [b, r]));
        let mut per_mixture = Output::<f32, 2>::new(device, rng, [r, n]);
        let mut log_sum_exp = Output::<f32, 2>::new(device, rng, [r, n]);
        let outputs = LossOutputs {
            loss: Some(value.view()),
            kl: kl.as_mut().map(Output::view),
            logits: Some(logits.view()),
            attention: attention.as_mut().map(Output::view),
            per_mixture: Some(per_mixture.view()),
            log_sum_exp: Some(log_sum_exp.view()),
        };
        let queue = device.engine.on(&device.stream).unwrap().precision(precision).unwrap();
        let mixing = &self.problem.mixing;
        let bytes = queue.loss_workspace_bytes(mixing, &input, &self.options, &outputs).unwrap();
        let mut workspace = scratch(device, bytes);
        let workspace = &mut DeviceViewMut::new(&mut workspace, [bytes]).unwrap();
        let upstream = Upstream { factor: self.upstream, scalar: None };
        queue.loss_into(mixing, &input, &self.options, &upstream, outputs, workspace).unwrap();
        Answer {
            value: value.dense(device)[0],
            kl: kl.map(|kl| kl.dense(device)[0]),
            logits: logits.dense(device),
            attention: attention.map(|attention| attention.dense(device)),
            per_mixture: per_mixture.dense(device),
            log_sum_exp: log_sum_exp.dense(device),
        }
    }

    /// The CPU engine: all arithmetic in f32.
    fn on_cpu(&self) -> Answer {
        let Sizes { b, r, c, n, .. } = self.sizes();
        let input = cpu::LossInput {
            logits: self.logits.view(),
            targets: match &self.soft {
                Some(soft) => cpu::Targets::Soft(soft.view()),
                None => cpu::Targets::Labels(&self.labels.0),
            },
            attention: self.attention.as_ref().map(Input::view),
            weights: self.weights.as_ref().map(Input::view),
        };
        let mut logits = vec![T::default(); b * r * c];
        let mut attention = vec![0f32; b * r];
        let (mut per_mixture, mut log_sum_exp) = (vec![0f32; n * r], vec![0f32; n * r]);
        let outputs = cpu::LossOutputs {
            logits: Some(ViewMut::new(&mut logits, [b, r, c]).unwrap()),
            attention: self.wants_attention().then(|| ViewMut::new(&mut attention, [b, r]).unwrap()),
            per_mixture: Some(ViewMut::new(&mut per_mixture, [r, n]).unwrap()),
            log_sum_exp: Some(ViewMut::new(&mut log_sum_exp, [r, n]).unwrap()),
        };
        let mixing = &self.problem.mixing;
        let bytes = cpu::loss_workspace_bytes(mixing, &input, &self.options, &outputs).unwrap();
        let mut workspace = vec![0u8; bytes];
        let loss =
            cpu::loss_into(mixing, &input, &self.options, self.upstream, outputs, &mut workspace).unwrap();
        Answer {
            value: loss.value,
            kl: loss.kl,
            logits: logits.iter().map(|x| x.to_f32()).collect(),
            attention: self.wants_attention().then_some(attention),
            per_mixture,
            log_sum_exp,
        }
    }

    /// Λ, the same bits on every engine, or the explicit weights.
    fn lambda(&self) -> Vec<f64> {
        let Sizes { b, r, .. } = self.sizes();
        let input =
            cpu::WeightsInput { b, r, attention: None, weights: self.weights.as_ref().map(Input::view) };
        cpu::weights(&self.problem.mixing, &input).unwrap().matrix.into_iter().map(f64::from).collect()
    }

    fn rows(&self) -> Vec<f64> {
        let c = self.problem.c as u32;
        let one_hot = |&y: &u32| (0..c).map(move |class| f64::from(u8::from(class == y)));
        match &self.soft {
            Some(soft) => soft.dense_f64(),
            None => self.labels.0.iter().flat_map(one_hot).collect(),
        }
    }
}

/// Losses and dS by plain loops over M̂, with operands of products rounded as the device's are.
fn plain<T: Rounding + DeviceElement + Default>(
    case: &Case<T>,
    sizes: &Sizes,
    lambda: &[f64],
    attention: Option<&[f64]>,
    tf32: bool,
) -> (Vec<f32>, Vec<f32>) {
    let mix = reference::mix_matrix(sizes, lambda, attention).unwrap();
    let shares = reference::shares(sizes, &mix.mass, case.options.reduction);
    let shares =
        if attention.is_some() { shares } else { reference::shares(sizes, &mix.mass, Reduction::Mean) }
            .unwrap();
    let (rows, logits) = (case.rows(), case.logits.dense());
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
            let t = mixed(&|i, y| rows[sizes.target(i, y)] as f32);
            let largest = s.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let log_sum = largest + s.iter().map(|x| (x - largest).exp()).sum::<f32>().ln();
            let total: f32 = t.iter().sum();
            losses[sizes.mixture(j, k)] = s.iter().zip(&t).map(|(s, t)| t * (log_sum - s)).sum();
            let share = shares[sizes.mixture(j, k)] as f32;
            for y in 0..sizes.c {
                // On a scale where 16 bits hold it.
                let g = round(1024.0 * (total * (s[y] - log_sum).exp() - t[y])) / 1024.0;
                for i in 0..sizes.b {
                    gradient[sizes.logit(i, j, y)] += m(j, i, k) * g * share * case.upstream;
                }
            }
        }
    }
    gradient.iter_mut().for_each(|x| *x = T::from_f32(*x).to_f32());
    (losses, gradient)
}

fn problems<T: Rounding + DeviceElement + Default>(precision: Precision, count: u64) {
    let device = device().unwrap();
    for number in 0..count {
        device.schedule(SCHEDULES[number as usize % SCHEDULES.len()]);
        let rng = &mut random("loss", number);
        let case = Case::<T>::draw(device, rng);
        compare(device, &case, precision, rng);
    }
    println!("{count} problems, seed {}", seed());
}

fn compare<T: Rounding + DeviceElement + Default>(
    device: &Device,
    case: &Case<T>,
    precision: Precision,
    rng: &mut ChaCha8Rng,
) {
    let (sizes, lambda, rows) = (case.sizes(), case.lambda(), case.rows());
    let attention = case.attention.as_ref().map(Input::dense_f64);
    let logits = case.logits.dense_f64();
    let inputs = reference::LossInputs {
        logits: &logits,
        targets: Targets::Soft(&rows),
        weights: &lambda,
        attention: attention.as_deref(),
    };
    let exact = reference::loss(&sizes, &inputs, case.options).unwrap();
    let exact_gradient =
        reference::loss_backward(&sizes, &inputs, case.options, f64::from(case.upstream)).unwrap();
    let (given, cpu) = (case.on_device(device, precision, rng), case.on_cpu());
    let about = format!("{:?} {:?} upstream {}", case.problem, case.options, case.upstream);

    // The gradient of attention has everything computed in f32; so has bf16 where tensor cores do not take it.
    let is_f32 = (T::UNIT == f32::UNIT && precision == Precision::Exact)
        || case.wants_attention()
        || (T::UNIT == bf16::UNIT && !device.has_bf16());
    let (plain_losses, plain_gradient) = match is_f32 {
        true => (cpu.per_mixture.clone(), cpu.logits.clone()),
        false => plain(case, &sizes, &lambda, attention.as_deref(), precision == Precision::Tf32),
    };
    let losses = &exact.cross_entropy;
    // A loss is the difference of a log-sum-exp and a logit, up to 6 and more, times what the target sums to; a residual is that of
    // a probability and a target. Where they cancel, their roundings stay.
    let total = rows.chunks(sizes.c).map(|row| row.iter().sum::<f64>()).fold(0.0, f64::max);
    let terms = total * (6.0 + (sizes.c as f64).ln());
    let upstream = f64::from(case.upstream.abs());
    let over_columns = |weigh: &dyn Fn(usize) -> f64| {
        let position = |j: usize| (0..sizes.n).map(|k| weigh(sizes.mixture(j, k))).sum::<f64>();
        (0..sizes.r).map(position).fold(0.0, f64::max) * upstream * terms
    };
    let logit_terms = over_columns(&|at| exact.shares[at]);
    // da is a difference of expectations over classes, with three exponentials in it that are good to four roundings each.
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
        &given.logits,
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
        let rng = &mut random("many", number as u64);
        let drawn = Problem::draw(rng);
        let mixing = multimix::Mixing {
            n,
            generator: Generator::Dirichlet { alpha: multimix::Alpha::PAPER },
            ..drawn.mixing
        };
        let problem = Problem { b, r: 1, d: 1, c: 5, mixing, attention: number != 1 };
        let case = Case::<f32>::of(device, rng, problem);
        compare(device, &case, Precision::Exact, rng);
    }
}
