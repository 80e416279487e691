//! Random problems with values of every magnitude and masked classes: nothing panics, nothing is NaN, nothing is written beside the outputs,
//! and the loss has the same bits with gradients and without.

use candle_core::{DType, Device, Tensor, Var};
use half::{bf16, f16};
use multimix::cpu::{
    self, AttentionInput, Classifier, LossInput, LossOutputs, MixBackwardOutputs, MixInput, MixOutputs,
    MixTargets, MixedGradients, Targets, WeightsInput,
};
use multimix::{
    Alpha, AttentionOptions, Element, EmptyMaps, Factor, LossOptions, Mixing, Normalise, Query, Reduction,
    candle,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::values::Scale;
use crate::support::strided::Strided;

/// Arrays of one problem, in any memory order, with NaN in the gaps.
struct Problem<T> {
    /// b, r, d, c, n.
    sizes: [usize; 5],
    mixing: Mixing,
    features: Strided<T, 3>,
    logits: Strided<T, 3>,
    labels: Vec<u32>,
    soft: Option<Strided<f32, 2>>,
    attention: Option<Strided<f32, 2>>,
    weights: Option<Strided<f32, 3>>,
    classifier: Strided<f32, 2>,
    d_mixed: Strided<T, 3>,
    d_mixed_targets: Strided<f32, 3>,
    d_attention: Strided<f32, 2>,
    attention_options: AttentionOptions,
    options: LossOptions,
    upstream: f32,
}

fn array<T: Element, const N: usize>(
    rng: &mut ChaCha8Rng,
    shape: [usize; N],
    value: impl Fn(&mut ChaCha8Rng) -> T,
) -> Strided<T, N> {
    let values: Vec<T> = (0..shape.iter().product()).map(|_| value(rng)).collect();
    Strided::of(rng, shape, &values, T::from_f32(f32::NAN))
}

fn sizes(rng: &mut ChaCha8Rng) -> [usize; 5] {
    let long = |rng: &mut ChaCha8Rng, usual, most| match rng.random_bool(0.02) {
        true => rng.random_range(1..=most),
        false => rng.random_range(1..=usual),
    };
    [long(rng, 8, 140), long(rng, 4, 70), long(rng, 8, 60), long(rng, 6, 60), long(rng, 20, 700)]
}

fn mixing(rng: &mut ChaCha8Rng, n: usize) -> Mixing {
    let alpha = match rng.random_range(0..4) {
        0 => Alpha::PAPER,
        1 => Alpha::Uniform { lo: 1e-3, hi: 1e3 },
        _ => Alpha::Fixed([1e-3, 0.02, 0.5, 1.0, 1.7, 1e3][rng.random_range(0..6)]),
    };
    let mixing = match rng.random_range(0..4) {
        0 => Mixing::pair(n, alpha, Factor::PerBatch),
        1 => Mixing::pair(n, alpha, Factor::PerColumn),
        2 => Mixing::explicit(n),
        _ => Mixing::dirichlet(n, alpha),
    };
    let empty = if rng.random_bool(0.5) { EmptyMaps::Uniform } else { EmptyMaps::LeaveOut };
    mixing.seed(rng.random()).step(rng.random()).empty_maps(empty)
}

/// Weights of every magnitude, with zeros, and in each column at least one that is not.
fn weights(rng: &mut ChaCha8Rng, [positions, b, n]: [usize; 3]) -> Strided<f32, 3> {
    let (scale, zeros) = (Scale::random(rng), rng.random_range(0.0..1.0));
    let mut values: Vec<f32> = (0..positions * b * n)
        .map(|_| if rng.random_bool(zeros) { 0.0 } else { scale.positive(rng) })
        .collect();
    for (column, own) in (0..positions * n).zip((0..b).cycle()) {
        let at = (column / n * b + own) * n + column % n;
        values[at] = values[at].max(f32::from_bits(1));
    }
    Strided::of(rng, [positions, b, n], &values, f32::NAN)
}

/// Attention of every magnitude, with zeros and whole maps of them.
fn attention(rng: &mut ChaCha8Rng, [b, r]: [usize; 2]) -> Strided<f32, 2> {
    let (scale, zeros) = (Scale::random(rng), rng.random_range(0.0..0.7));
    let empty: Vec<bool> = (0..b).map(|_| rng.random_bool(0.1)).collect();
    let value = |at: usize, rng: &mut ChaCha8Rng| match empty[at / r] || rng.random_bool(zeros) {
        true => 0.0,
        false => scale.positive(rng),
    };
    let values: Vec<f32> = (0..b * r).map(|at| value(at, rng)).collect();
    Strided::of(rng, [b, r], &values, f32::NAN)
}

fn problem<T: Element>(rng: &mut ChaCha8Rng) -> Problem<T> {
    let sizes = sizes(rng);
    let [b, r, d, c, n] = sizes;
    let mixing = mixing(rng, n);
    let explicit = matches!(mixing.generator, multimix::Generator::Explicit);
    let positions = if rng.random_bool(0.3) { 1 } else { r };
    let masked = if rng.random_bool(0.3) { rng.random_range(0.0..0.6) } else { 0.0 };
    let scales: [Scale; 7] = std::array::from_fn(|_| Scale::random(rng));
    let logit = |rng: &mut ChaCha8Rng| match rng.random_bool(masked) {
        true => T::from_f32(f32::NEG_INFINITY),
        false => scales[0].value(rng),
    };
    // Sums of rows are bounded.
    let target = |rng: &mut ChaCha8Rng| {
        let value: f32 = scales[1].positive(rng);
        value.min(1e3)
    };
    Problem {
        sizes,
        mixing,
        logits: array(rng, [b, r, c], logit),
        features: array(rng, [b, r, d], |rng| scales[2].value(rng)),
        labels: (0..b).map(|_| rng.random_range(0..c as u32)).collect(),
        soft: rng.random_bool(0.4).then(|| array(rng, [b, c], target)),
        attention: rng.random_bool(0.7).then(|| attention(rng, [b, r])),
        weights: explicit.then(|| weights(rng, [positions, b, n])),
        classifier: array(rng, [c, d], |rng| scales[3].value(rng)),
        d_mixed: array(rng, [n, r, d], |rng| scales[4].value(rng)),
        d_mixed_targets: array(rng, [n, r, c], |rng| scales[5].value(rng)),
        d_attention: array(rng, [b, r], |rng| scales[6].value(rng)),
        attention_options: AttentionOptions {
            query: if rng.random_bool(0.5) { Query::Gap } else { Query::Cam },
            normalise: if rng.random_bool(0.5) { Normalise::ReluL1 } else { Normalise::Softmax },
        },
        options: LossOptions {
            reduction: if rng.random_bool(0.5) { Reduction::Mean } else { Reduction::AttentionWeighted },
            detach_attention: rng.random_bool(0.3),
            kl: rng.random_bool(0.5),
        },
        upstream: Scale::random(rng).value(rng),
    }
}

/// NaN everywhere, so that an element that is not written shows.
fn output<T: Element, const N: usize>(rng: &mut ChaCha8Rng, shape: [usize; N]) -> Strided<T, N> {
    Strided::empty(rng, shape, T::from_f32(f32::NAN))
}

fn check<T: Element, const N: usize>(name: &str, values: &Strided<T, N>) {
    values.assert_gaps_untouched(name);
    for (at, value) in values.floats().into_iter().enumerate() {
        assert!(!value.is_nan(), "{name}: element {at} is NaN or was not written");
    }
}

impl<T: Element> Problem<T> {
    fn targets(&self) -> Targets<'_> {
        self.soft.as_ref().map_or(Targets::Labels(&self.labels), |soft| Targets::Soft(soft.view()))
    }

    fn weights(&self, rng: &mut ChaCha8Rng) {
        let [b, r, _, _, n] = self.sizes;
        let input = WeightsInput {
            b,
            r,
            attention: self.attention.as_ref().map(Strided::view),
            weights: self.weights.as_ref().map(Strided::view),
        };
        let (mut matrix, mut mass) = (output::<f32, 3>(rng, [r, b, n]), output::<f32, 2>(rng, [r, n]));
        let mut workspace = vec![0xff; cpu::weights_workspace_bytes(&self.mixing, &input).unwrap()];
        let out = (matrix.view_mut(), Some(mass.view_mut()));
        cpu::weights_into(&self.mixing, &input, out.0, out.1, &mut workspace).unwrap();
        check("M̂", &matrix);
        check("s", &mass);
        let values = matrix.floats();
        for column in 0..r * n {
            let sum: f64 = (0..b).map(|i| f64::from(values[(column / n * b + i) * n + column % n])).sum();
            assert!((sum - 1.0).abs() < 1e-5, "column {column} sums to {sum}");
        }
    }

    fn attention(&self, rng: &mut ChaCha8Rng) {
        let ([b, r, d, c, _], options) = (self.sizes, &self.attention_options);
        let classifier = Classifier { rows: self.classifier.view(), labels: &self.labels };
        let cam = options.query == Query::Cam;
        let input = AttentionInput { features: self.features.view(), classifier: cam.then_some(classifier) };
        let mut maps = output::<f32, 2>(rng, [b, r]);
        let mut workspace = vec![0xff; cpu::attention_workspace_bytes(&input, options).unwrap()];
        cpu::attention_forward_into(&input, options, maps.view_mut(), &mut workspace).unwrap();
        check("attention", &maps);
        for map in maps.floats().chunks(r) {
            assert!((map.iter().sum::<f32>() - 1.0).abs() < 1e-5 && map.iter().all(|&a| a >= 0.0), "{map:?}");
        }
        let mut d_features = output::<T, 3>(rng, [b, r, d]);
        let mut d_rows = cam.then(|| output::<f32, 2>(rng, [c, d]));
        cpu::attention_backward_into(
            &input,
            options,
            &self.d_attention.view(),
            d_features.view_mut(),
            d_rows.as_mut().map(Strided::view_mut),
            &mut workspace,
        )
        .unwrap();
        check("dZ of attention", &d_features);
        d_rows.iter().for_each(|rows| check("dW", rows));
    }

    fn mix(&self, rng: &mut ChaCha8Rng) {
        let [b, r, d, c, n] = self.sizes;
        let input = MixInput {
            features: self.features.view(),
            targets: Some(MixTargets { targets: self.targets(), classes: c }),
            attention: self.attention.as_ref().map(Strided::view),
            weights: self.weights.as_ref().map(Strided::view),
        };
        let (mut mixed, mut targets) = (output::<T, 3>(rng, [n, r, d]), output::<f32, 3>(rng, [n, r, c]));
        let mut workspace = vec![0xff; cpu::mix_forward_workspace_bytes(&self.mixing, &input).unwrap()];
        let outputs = MixOutputs { features: mixed.view_mut(), targets: Some(targets.view_mut()) };
        cpu::mix_forward_into(&self.mixing, &input, outputs, &mut workspace).unwrap();
        check("Z̃", &mixed);
        check("Ỹ", &targets);
        assert!(mixed.floats().iter().all(|z| z.is_finite()), "a mixture of finite features is finite");
        let mut d_features = output::<T, 3>(rng, [b, r, d]);
        let mut d_targets = self.soft.as_ref().map(|_| output::<f32, 2>(rng, [b, c]));
        let mut d_attention = self.attention.as_ref().map(|_| output::<f32, 2>(rng, [b, r]));
        let outputs = MixBackwardOutputs {
            features: Some(d_features.view_mut()),
            targets: d_targets.as_mut().map(Strided::view_mut),
            attention: d_attention.as_mut().map(Strided::view_mut),
        };
        let bytes = cpu::mix_backward_workspace_bytes(&self.mixing, &input, &outputs).unwrap();
        let gradients =
            MixedGradients { features: self.d_mixed.view(), targets: Some(self.d_mixed_targets.view()) };
        cpu::mix_backward_into(&self.mixing, &input, &gradients, outputs, &mut vec![0xff; bytes]).unwrap();
        check("dZ", &d_features);
        d_targets.iter().for_each(|d| check("dY", d));
        d_attention.iter().for_each(|d| check("da of mixing", d));
    }

    fn loss(&self, rng: &mut ChaCha8Rng) {
        let [b, r, _, c, n] = self.sizes;
        let input = LossInput {
            logits: self.logits.view(),
            targets: self.targets(),
            attention: self.attention.as_ref().map(Strided::view),
            weights: self.weights.as_ref().map(Strided::view),
        };
        let wants = self.attention.is_some() && !self.options.detach_attention;
        let mut d_logits = output::<T, 3>(rng, [b, r, c]);
        let mut d_attention = wants.then(|| output::<f32, 2>(rng, [b, r]));
        let (mut ce, mut lse) = (output::<f32, 2>(rng, [r, n]), output::<f32, 2>(rng, [r, n]));
        let outputs = LossOutputs {
            logits: Some(d_logits.view_mut()),
            attention: d_attention.as_mut().map(Strided::view_mut),
            per_mixture: Some(ce.view_mut()),
            log_sum_exp: Some(lse.view_mut()),
        };
        let (mixing, options) = (&self.mixing, &self.options);
        let bytes = cpu::loss_workspace_bytes(mixing, &input, options, &outputs).unwrap();
        let mut workspace = vec![0xff; bytes];
        let with = cpu::loss_into(mixing, &input, options, self.upstream, outputs, &mut workspace).unwrap();
        check("dS", &d_logits);
        d_attention.iter().for_each(|d| check("da of the loss", d));
        check("CE", &ce);
        check("log-sum-exp", &lse);
        let alone = cpu::loss_forward(mixing, &input, options).unwrap();
        assert!(!with.value.is_nan() && !with.kl.is_some_and(f32::is_nan), "{with:?}");
        assert_eq!(with.value.to_bits(), alone.value.to_bits(), "with gradients and without");
        assert_eq!(with.kl.map(f32::to_bits), alone.kl.map(f32::to_bits), "with gradients and without");
    }

    fn run(&self, rng: &mut ChaCha8Rng) {
        self.weights(rng);
        self.attention(rng);
        self.mix(rng);
        self.loss(rng);
    }
}

/// The same problem as candle tensors of random memory order: every op, forward and backward.
fn through_candle(problem: &Problem<f32>, dtype: DType, rng: &mut ChaCha8Rng) -> candle_core::Result<()> {
    let [b, r, _, _, _] = problem.sizes;
    let mut tensor = |values: Vec<f32>, shape: &[usize]| -> candle_core::Result<Tensor> {
        // The first two axes swapped in memory, or not.
        let tensor = match rng.random_bool(0.5) && shape.len() > 1 {
            true => {
                let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
                tensor.transpose(0, 1)?.contiguous()?.transpose(0, 1)?
            }
            false => Tensor::from_vec(values, shape, &Device::Cpu)?,
        };
        Ok(tensor)
    };
    let largest = if dtype == DType::F16 { 65504.0 } else { f64::from(half::bf16::MAX.to_f32()) };
    let stored = |tensor: Tensor| -> candle_core::Result<Var> {
        // A conversion must not make finite values infinite; masks stay.
        let masked = tensor.eq(&Tensor::full(f32::NEG_INFINITY, tensor.shape(), &Device::Cpu)?)?;
        let bounded = tensor.clamp(-largest, largest)?;
        let tensor = if dtype == DType::F32 { tensor } else { masked.where_cond(&tensor, &bounded)? };
        Var::from_tensor(&tensor.to_dtype(dtype)?)
    };
    let features = stored(tensor(problem.features.floats(), &problem.features.layout.shape)?)?;
    let logits = stored(tensor(problem.logits.floats(), &problem.logits.layout.shape)?)?;
    let attention = match &problem.attention {
        Some(attention) => Some(Var::from_tensor(&tensor(attention.floats(), &[b, r])?)?),
        None => None,
    };
    let attention = attention.as_deref();
    let targets = match &problem.soft {
        Some(soft) => tensor(soft.floats(), &soft.layout.shape)?,
        None => Tensor::new(problem.labels.as_slice(), &Device::Cpu)?,
    };
    let weights = match &problem.weights {
        Some(weights) => Some(tensor(weights.floats(), &weights.layout.shape)?),
        None => None,
    };
    let draw = weights.as_ref().map_or(candle::Draw::Mixing(&problem.mixing), candle::Draw::Weights);
    let loss = candle::loss(&logits, &targets, attention, draw, &problem.options)?;
    no_nan("loss", &loss)?;
    let gradients = loss.backward()?;
    no_nan("dS", gradients.get(&logits).expect("logits are tracked"))?;
    if let Some(d_attention) = attention.and_then(|attention| gradients.get(attention)) {
        no_nan("da", d_attention)?;
    }
    let mixed = candle::mix(&features, attention, draw)?;
    no_nan("Z̃", &mixed)?;
    no_nan("dZ", mixed.backward()?.get(&features).expect("features are tracked"))?;
    let gap = AttentionOptions { query: Query::Gap, ..problem.attention_options };
    let maps = candle::attention(&features, None, &gap)?;
    no_nan("attention", &maps)?;
    no_nan("dZ of attention", maps.backward()?.get(&features).expect("features are tracked"))
}

fn no_nan(name: &str, tensor: &Tensor) -> candle_core::Result<()> {
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    assert!(!values.iter().any(|value| value.is_nan()), "{name}: {values:?}");
    Ok(())
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_finite_value_makes_a_nan() {
    let (seed, count) = (setting("MULTIMIX_TEST_SEED", 9), setting("MULTIMIX_PROBLEMS", 3_000));
    let mut run = 0;
    for index in 0..count {
        let mut rng = ChaCha8Rng::seed_from_u64(seed << 32 | index);
        let dtype = [DType::F32, DType::F16, DType::BF16][index as usize % 3];
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            match dtype {
                DType::F16 => problem::<f16>(&mut rng).run(&mut rng),
                DType::BF16 => problem::<bf16>(&mut rng).run(&mut rng),
                _ => problem::<f32>(&mut rng).run(&mut rng),
            }
            through_candle(&problem(&mut rng), dtype, &mut rng).unwrap();
        }));
        if let Err(panic) = attempt {
            eprintln!("problem {index} of seed {seed}");
            std::panic::resume_unwind(panic);
        }
        run += 1;
    }
    println!("{run} problems of seed {seed}, each on the CPU engine and through candle");
    assert_eq!(run, count);
}

/// A tensor of any rank, sizes, type and memory order.
fn any_tensor(rng: &mut ChaCha8Rng) -> candle_core::Result<Tensor> {
    let shape: Vec<usize> = (0..rng.random_range(0..6)).map(|_| rng.random_range(0..4)).collect();
    let count = shape.iter().product();
    let special = [0.0, 1.0, -1.0, 2.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX];
    let values: Vec<f32> = (0..count)
        .map(|_| match rng.random_bool(0.1) {
            true => special[rng.random_range(0..special.len())],
            false => rng.random_range(0.0..3.0f32).floor(),
        })
        .collect();
    let types =
        [DType::F32, DType::F32, DType::F16, DType::BF16, DType::F64, DType::U8, DType::U32, DType::I64];
    let tensor =
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(types[rng.random_range(0..types.len())])?;
    if tensor.rank() < 2 || rng.random_bool(0.5) {
        return Ok(tensor);
    }
    let (first, second) = (rng.random_range(0..tensor.rank()), rng.random_range(0..tensor.rank()));
    tensor.transpose(first, second)
}

/// Whatever tensors a candle op is given, it works or says what is wrong with which argument of which op.
#[test]
fn no_tensors_make_a_candle_op_panic() {
    let (seed, count) = (setting("MULTIMIX_TEST_SEED", 9), setting("MULTIMIX_PROBLEMS", 3_000));
    let mut refused = 0;
    for index in 0..count {
        let rng = &mut ChaCha8Rng::seed_from_u64(!seed << 32 | index);
        let [first, second, third, weights] = std::array::from_fn(|_| any_tensor(rng).unwrap());
        let n = [0, 1, 5][rng.random_range(0..3)];
        let mixing = mixing(rng, n);
        let attention = rng.random_bool(0.6).then_some(&third);
        let draw = match rng.random_bool(0.5) {
            true => candle::Draw::Mixing(&mixing),
            false => candle::Draw::Weights(&weights),
        };
        let sizes: [usize; 2] = std::array::from_fn(|_| rng.random_range(0..4));
        let options = AttentionOptions { query: Query::Cam, ..AttentionOptions::default() };
        let classifier = candle::Classifier { rows: &second, labels: &third };
        let results = [
            ("positions", candle::positions(&first)),
            ("attention", candle::attention(&first, None, &AttentionOptions::default())),
            ("attention", candle::attention(&first, Some(classifier), &options)),
            ("mix", candle::mix(&first, attention, draw)),
            ("mix", candle::mix_targets(&first, sizes[0], sizes[1], attention, draw)),
            ("loss", candle::loss(&first, &second, attention, draw, &LossOptions::default())),
            (
                "weights",
                candle::weights(sizes[0], sizes[1], attention, draw, &Device::Cpu).map(|drawn| drawn.mass),
            ),
        ];
        for (op, result) in results {
            let Err(error) = result else { continue };
            let text = error.to_string();
            assert!(text.starts_with(&format!("{op}: ")), "problem {index} of seed {seed}: {text}");
            refused += 1;
        }
    }
    println!("{count} problems of seed {seed}, {refused} calls refused");
    assert!(refused > 0);
}
