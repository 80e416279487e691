//! Random problems with values of every magnitude and masked classes: nothing panics, nothing is NaN, nothing
//! is written beside the outputs, and the loss has the same bits with gradients and without.

use candle_core::{DType, Device, Tensor, Var};
use half::{bf16, f16};
use multimix::reference::Sizes;
use multimix::{
    Alpha, AttentionOptions, Element, EmptyMaps, Factor, LossOptions, Mixing, Normalise, Query, Reduction,
    Want, candle, cpu,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::values::Scale;
use crate::support::problem::Problem;
use crate::support::strided::Strided;
use crate::support::tiles::setting;

fn array<T: Element, const N: usize>(
    rng: &mut ChaCha8Rng,
    shape: [usize; N],
    value: impl Fn(&mut ChaCha8Rng) -> T,
) -> Strided<T, N> {
    let values: Vec<T> = (0..shape.iter().product()).map(|_| value(rng)).collect();
    Strided::of(rng, shape, &values, T::from_f32(f32::NAN))
}

fn sizes(rng: &mut ChaCha8Rng) -> Sizes {
    let long = |rng: &mut ChaCha8Rng, usual, most| match rng.random_bool(0.02) {
        true => rng.random_range(1..=most),
        false => rng.random_range(1..=usual),
    };
    Sizes {
        b: long(rng, 8, 140),
        r: long(rng, 4, 70),
        d: long(rng, 8, 60),
        c: long(rng, 6, 60),
        n: long(rng, 20, 700),
    }
}

/// How columns are drawn, and whether there are explicit weights in their place.
fn mixing(rng: &mut ChaCha8Rng, n: usize) -> (Mixing, bool) {
    let alpha = match rng.random_range(0..4) {
        0 => Alpha::PAPER,
        1 => Alpha::Uniform { lo: 1e-3, hi: 1e3 },
        _ => Alpha::Fixed([1e-3, 0.02, 0.5, 1.0, 1.7, 1e3][rng.random_range(0..6)]),
    };
    let kind = rng.random_range(0..4);
    let mixing = match kind {
        0 => Mixing::pair(n, alpha, Factor::PerBatch),
        1 => Mixing::pair(n, alpha, Factor::PerColumn),
        _ => Mixing::dirichlet(n, alpha),
    };
    let empty = if rng.random_bool(0.5) { EmptyMaps::Uniform } else { EmptyMaps::LeaveOut };
    (mixing.seed(rng.random()).step(rng.random()).empty_maps(empty), kind == 2)
}

/// Weights of every magnitude, with zeros, and in each column at least one that is not.
fn draw_weights(rng: &mut ChaCha8Rng, [positions, b, n]: [usize; 3]) -> Strided<f32, 3> {
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
fn draw_attention(rng: &mut ChaCha8Rng, [b, r]: [usize; 2]) -> Strided<f32, 2> {
    let (scale, zeros) = (Scale::random(rng), rng.random_range(0.0..0.7));
    let empty: Vec<bool> = (0..b).map(|_| rng.random_bool(0.1)).collect();
    let value = |at: usize, rng: &mut ChaCha8Rng| match empty[at / r] || rng.random_bool(zeros) {
        true => 0.0,
        false => scale.positive(rng),
    };
    let values: Vec<f32> = (0..b * r).map(|at| value(at, rng)).collect();
    Strided::of(rng, [b, r], &values, f32::NAN)
}

fn problem<T: Element>(mut own: ChaCha8Rng) -> Problem<T> {
    let rng = &mut own;
    let sizes = sizes(rng);
    let Sizes { b, r, d, c, n } = sizes;
    let (mixing, explicit) = mixing(rng, n);
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
        name: format!("{sizes:?}, {mixing:?}, explicit {explicit}"),
        sizes,
        mixing,
        logits: array(rng, [b, r, c], logit),
        features: array(rng, [b, r, d], |rng| scales[2].value(rng)),
        labels: (0..b).map(|_| rng.random_range(0..c as u32)).collect(),
        soft: rng.random_bool(0.4).then(|| array(rng, [b, c], target)),
        mixes_targets: true,
        attention: rng.random_bool(0.7).then(|| draw_attention(rng, [b, r])),
        weights: explicit.then(|| draw_weights(rng, [positions, b, n])),
        classifier: array(rng, [c, d], |rng| scales[3].value(rng)),
        d_mixed: array(rng, [n, r, d], |rng| scales[4].value(rng)),
        d_mixed_targets: Some(array(rng, [n, r, c], |rng| scales[5].value(rng))),
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
        rng: own,
    }
}

fn check<T: Element>(name: &str, values: &[T]) {
    for (at, value) in values.iter().enumerate() {
        assert!(!value.to_f32().is_nan(), "{name}: element {at} is NaN or was not written");
    }
}

fn run<T: Element>(problem: &Problem<T>) {
    weights(problem);
    attention(problem);
    mix(problem);
    loss(problem);
}

fn weights<T: Element>(problem: &Problem<T>) {
    let (Sizes { b, r, n, .. }, given) = (problem.sizes, problem.weights_on_cpu());
    check("M̂", &given.matrix);
    check("s", &given.mass);
    for column in 0..r * n {
        let weight = |i| f64::from(given.matrix[(column / n * b + i) * n + column % n]);
        let sum: f64 = (0..b).map(weight).sum();
        assert!((sum - 1.0).abs() < 1e-5, "column {column} sums to {sum}");
    }
}

fn attention<T: Element>(problem: &Problem<T>) {
    let maps = problem.attention_on_cpu();
    check("attention", &maps);
    for map in maps.chunks(problem.sizes.r) {
        assert!((map.iter().sum::<f32>() - 1.0).abs() < 1e-5 && map.iter().all(|&a| a >= 0.0), "{map:?}");
    }
    let gradients = problem.attention_backward_on_cpu();
    check("dZ of attention", &gradients.features);
    check("dW", &gradients.classifier.unwrap_or_default());
}

fn mix<T: Element>(problem: &Problem<T>) {
    let mixed = problem.mix_on_cpu();
    check("Z̃", &mixed.features);
    check("Ỹ", &mixed.targets.unwrap());
    assert!(mixed.features.iter().all(|z| z.to_f32().is_finite()), "a mixture of finite features is finite");
    let gradients = problem.mix_backward_on_cpu();
    check("dZ", &gradients.features);
    check("dY", &gradients.targets.unwrap_or_default());
    check("da of mixing", &gradients.attention.unwrap_or_default());
}

fn loss<T: Element>(problem: &Problem<T>) {
    let with = problem.loss_on_cpu();
    check("loss, KL", &[with.value, with.kl.unwrap_or_default()]);
    check("dS", &with.logits);
    check("da of the loss", &with.attention.unwrap_or_default());
    check("CE", &with.per_mixture);
    check("log-sum-exp", &with.log_sum_exp);
    let (columns, input) = (problem.columns(), problem.loss_input());
    let alone = cpu::loss(columns, &input, &problem.options, Want::Loss).unwrap();
    assert_eq!(with.value.to_bits(), alone.value.to_bits(), "with gradients and without");
    assert_eq!(with.kl.map(f32::to_bits), alone.kl.map(f32::to_bits), "with gradients and without");
}

/// The same problem as candle tensors of random memory order: every op, forward and backward.
fn through_candle(problem: &Problem<f32>, dtype: DType, rng: &mut ChaCha8Rng) -> candle_core::Result<()> {
    let Sizes { b, r, .. } = problem.sizes;
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
    let draw = match &weights {
        Some(weights) => candle::Draw::Weights(weights, problem.mixing.empty_maps),
        None => candle::Draw::Mixing(&problem.mixing),
    };
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

#[test]
fn no_finite_value_makes_a_nan() {
    let (seed, count) = (setting("MULTIMIX_TEST_SEED", 9), setting("MULTIMIX_PROBLEMS", 3_000));
    let mut done = 0;
    for index in 0..count {
        let mut rng = ChaCha8Rng::seed_from_u64(seed << 32 | index);
        let engine = rng.clone();
        rng.set_stream(1);
        let dtype = [DType::F32, DType::F16, DType::BF16][index as usize % 3];
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            match dtype {
                DType::F16 => run(&problem::<f16>(engine)),
                DType::BF16 => run(&problem::<bf16>(engine)),
                _ => run(&problem::<f32>(engine)),
            }
            through_candle(&problem(rng.clone()), dtype, &mut rng).unwrap();
        }));
        if let Err(panic) = attempt {
            eprintln!("problem {index} of seed {seed}");
            std::panic::resume_unwind(panic);
        }
        done += 1;
    }
    println!("{done} problems of seed {seed}, each on the CPU engine and through candle");
    assert_eq!(done, count);
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
        let (mixing, _) = mixing(rng, n);
        let attention = rng.random_bool(0.6).then_some(&third);
        let draw = match rng.random_bool(0.5) {
            true => candle::Draw::Mixing(&mixing),
            false => candle::Draw::Weights(&weights, mixing.empty_maps),
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
