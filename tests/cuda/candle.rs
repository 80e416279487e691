//! The candle ops on CUDA tensors against themselves on CPU tensors: the draws are the same bits, so that
//! values and gradients must agree. Reported as ignored where candle can make no CUDA device.

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use multimix::candle::{self, Classifier};
use multimix::cuda::{self, Engine};
use multimix::{Alpha, AttentionOptions, Factor, LossOptions, Mixing, Normalise, Query, Reduction};

use crate::support::harness::{Harness, add};
use crate::support::tensors::{assert_close, labels, tensor};

const B: usize = 6;
const R: usize = 3;
const D: usize = 5;
const C: usize = 4;
const N: usize = 33;

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    let lacking = missing.map(str::to_owned).or_else(|| prepare().err());
    add!(
        harness,
        lacking.as_deref(),
        losses_and_their_gradients,
        targets_of_all_types,
        mixing_and_its_gradients,
        mixed_targets_and_weights,
        attention_and_its_gradients,
        all_memory_orders,
        loss_scaling_in_f16,
        tensors_on_two_devices_are_refused,
    );
}

/// Whether the engine and candle can use the device; else why not.
fn prepare() -> std::result::Result<(), String> {
    let context = cuda::open(0).map_err(|error| error.to_string())?;
    Engine::new(&context).map_err(|error| error.to_string())?;
    Device::new_cuda(0).map_err(|error| error.to_string())?;
    Ok(())
}

/// Types with the tolerance of an op in them; bf16 where the device has it.
fn dtypes() -> Result<Vec<(DType, f32)>> {
    let all = [(DType::F32, 1e-5), (DType::F16, 4e-3), (DType::BF16, 3e-2)];
    let bf16 = Engine::new(&cuda::open(0)?)?.device().has_ampere_tensor_cores();
    Ok(all.into_iter().filter(|&(dtype, _)| bf16 || dtype != DType::BF16).collect())
}

/// Runs the same on both devices: what comes out must agree, in units of its largest value.
fn assert_agree(tolerance: f32, run: impl Fn(&Device) -> Result<Vec<Tensor>>) -> Result<()> {
    let (wanted, given) = (run(&Device::Cpu)?, run(&Device::new_cuda(0)?)?);
    assert_eq!(wanted.len(), given.len());
    for (wanted, given) in wanted.iter().zip(&given) {
        assert!(given.device().is_cuda());
        assert_eq!(given.dtype(), wanted.dtype());
        let wanted = wanted.to_dtype(DType::F32)?;
        let given = given.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let largest = wanted.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        assert!(largest > 0.0, "zeros agree with everything");
        assert_close(&(given / f64::from(largest))?, &(wanted / f64::from(largest))?, tolerance)?;
    }
    Ok(())
}

fn var(values: Tensor, dtype: DType, device: &Device) -> Result<Var> {
    Var::from_tensor(&values.to_dtype(dtype)?.to_device(device)?)
}

/// A variable a (b, r), positive.
fn attention(device: &Device) -> Result<Var> {
    var((tensor((B, R), 5)?.abs()? + 0.05)?, DType::F32, device)
}

/// Λ (r, b, n), to be normalised.
fn explicit_weights(device: &Device) -> Result<Tensor> {
    tensor((R, B, N), 11)?.abs()?.to_device(device)
}

fn mixings() -> [Mixing; 2] {
    let (alpha, fixed) = (Alpha::PAPER, Alpha::Fixed(0.4));
    [Mixing::dirichlet(N, alpha).seed(5).step(2), Mixing::pair(N, fixed, Factor::PerColumn).seed(5)]
}

fn gradients(of: &Tensor, variables: &[&Var]) -> Result<Vec<Tensor>> {
    let gradients = of.backward()?;
    Ok(variables.iter().map(|variable| gradients.get(variable).expect("tracked").clone()).collect())
}

fn losses_and_their_gradients() -> Result<()> {
    for (dtype, tolerance) in dtypes()? {
        for (reduction, mixing) in [Reduction::Mean, Reduction::AttentionWeighted].into_iter().zip(mixings())
        {
            assert_agree(tolerance, |device| {
                let (logits, a) = (var((tensor((B, R, C), 1)? * 3.0)?, dtype, device)?, attention(device)?);
                let labels = labels(B, C)?.to_device(device)?;
                let options = LossOptions { reduction, detach_attention: false, ..LossOptions::default() };
                let loss = candle::loss(&logits, &labels, Some(&a), &mixing, &options)?;
                let mut results = gradients(&(&loss * 2.5)?, &[&logits, &a])?;
                let untracked =
                    candle::loss(&logits.detach(), &labels, Some(&a.detach()), &mixing, &options)?;
                results.extend([loss, untracked]);
                Ok(results)
            })?;
        }
    }
    Ok(())
}

fn targets_of_all_types() -> Result<()> {
    let rows = (tensor((B, C), 3)?.abs()? / C as f64)?;
    for dtype in [DType::U8, DType::U32, DType::I64, DType::F32, DType::F16] {
        assert_agree(1e-5, |device| {
            let targets = if dtype.is_float() { rows.clone() } else { labels(B, C)? };
            let targets = targets.to_dtype(dtype)?.to_device(device)?;
            let logits = var(tensor((B, C), 1)?, DType::F32, device)?;
            let loss = candle::loss(&logits, &targets, None, &mixings()[0], &LossOptions::default())?;
            let mut results = gradients(&loss, &[&logits])?;
            results.push(loss);
            Ok(results)
        })?;
    }
    Ok(())
}

fn mixing_and_its_gradients() -> Result<()> {
    for (dtype, tolerance) in dtypes()? {
        assert_agree(tolerance, |device| {
            let (features, a) = (var(tensor((B, R, D), 2)?, dtype, device)?, attention(device)?);
            let upstream = tensor((N, R, D), 3)?.to_dtype(dtype)?.to_device(device)?;
            let mixed = candle::mix(&features, Some(&a), &explicit_weights(device)?)?;
            let mut results = gradients(&(&mixed * &upstream)?, &[&features, &a])?;
            results.push(mixed);
            results.push(candle::mix(&features, None, &mixings()[1])?);
            Ok(results)
        })?;
    }
    Ok(())
}

fn mixed_targets_and_weights() -> Result<()> {
    for mixing in mixings() {
        assert_agree(1e-6, |device| {
            let (a, labels) = (attention(device)?, labels(B, C)?.to_device(device)?);
            let mut results = vec![candle::mix_targets(&labels, C, R, Some(&a), &mixing)?];
            for drawn in [
                candle::weights(B, R, Some(&a), &mixing, device)?,
                candle::weights(B, R, None, &mixing, device)?,
                candle::weights(B, R, None, &explicit_weights(device)?, device)?,
            ] {
                results.extend([drawn.matrix, drawn.mass]);
            }
            Ok(results)
        })?;
    }
    Ok(())
}

fn attention_and_its_gradients() -> Result<()> {
    for (dtype, tolerance) in dtypes()? {
        for query in [Query::Gap, Query::Cam] {
            for normalise in [Normalise::ReluL1, Normalise::Softmax] {
                assert_agree(tolerance, |device| {
                    let features = var((tensor((B, R, D), 2)? + 0.3)?, dtype, device)?;
                    let rows = var((tensor((C, D), 4)? + 0.3)?, dtype, device)?;
                    let (labels, cam) = (labels(B, C)?.to_device(device)?, query == Query::Cam);
                    let classifier = cam.then_some(Classifier { rows: &rows, labels: &labels });
                    let maps =
                        candle::attention(&features, classifier, &AttentionOptions { query, normalise })?;
                    let weighted = (&maps * tensor((B, R), 8)?.to_device(device)?)?;
                    let variables: &[&Var] = if cam { &[&features, &rows] } else { &[&features] };
                    let mut results = gradients(&weighted, variables)?;
                    results.push(maps);
                    Ok(results)
                })?;
            }
        }
    }
    Ok(())
}

/// Transposed, and cut out of something larger: views that begin inside of their memory.
fn all_memory_orders() -> Result<()> {
    assert_agree(1e-5, |device| {
        let transposed = tensor((B, D, R), 1)?.to_device(device)?.transpose(1, 2)?;
        let larger = tensor((B + 3, R + 5, D + 4), 2)?.to_device(device)?;
        let narrowed = larger.narrow(0, 1, B)?.narrow(1, 2, R)?.narrow(2, 3, D)?;
        let labels = labels(B + 2, D)?.to_device(device)?.narrow(0, 2, B)?;
        let a = (tensor((R, B), 5)?.abs()? + 0.05)?.to_device(device)?.t()?;
        let mut results = Vec::new();
        for x in [transposed, narrowed] {
            results.push(candle::mix(&x, Some(&a), &mixings()[0])?);
            results.push(candle::loss(&x, &labels, Some(&a), &mixings()[0], &LossOptions::default())?);
            results.push(candle::attention(&x, None, &AttentionOptions::default())?);
        }
        Ok(results)
    })
}

/// Gradients near 1e-8, which f16 holds only when scaled.
fn loss_scaling_in_f16() -> Result<()> {
    assert_agree(1e-2, |device| {
        let logits = Tensor::new(&[[18f32, 0.0], [18.0, 0.0]], &Device::Cpu)?;
        let logits = var(logits, DType::F16, device)?;
        let labels = Tensor::new(&[0u32, 0], device)?;
        let loss = candle::loss(&logits, &labels, None, &mixings()[0], &LossOptions::default())?;
        let gradient = gradients(&(loss * 65536.0)?, &[&logits])?.remove(0);
        // Of the other class: that of the label is the rounding error of 1 - 1.
        Ok(vec![gradient.i((.., 1))?])
    })
}

fn tensors_on_two_devices_are_refused() -> Result<()> {
    let device = Device::new_cuda(0)?;
    let (logits, labels) = (tensor((B, C), 1)?.to_device(&device)?, labels(B, C)?);
    let error = candle::loss(&logits, &labels, None, &mixings()[0], &LossOptions::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("targets is on Cpu") && text.contains("a CUDA device"), "{text}");
    let maps = attention(&Device::Cpu)?;
    let error =
        candle::mix(&tensor((B, R, D), 2)?.to_device(&device)?, Some(&maps), &mixings()[0]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("mix: attention is on Cpu, but features on Cuda"), "{text}");
    // The device is as usable as before.
    let mixed = candle::mix(&logits.unsqueeze(1)?, None, &mixings()[0])?;
    assert_eq!(mixed.i(0)?.dims(), [1, C]);
    Ok(())
}
