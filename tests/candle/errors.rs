//! What the candle ops refuse: every error names the op, the argument, what was given and the rule, and none
//! is candle's own.

use candle_core::{DType, Device, Result, Tensor};
use multimix::candle::{self, Classifier};
use multimix::{Alpha, AttentionOptions, LossOptions, Mixing, Normalise, Query};

use crate::support::tensors::{labels, tensor};

const B: usize = 6;
const R: usize = 4;
const C: usize = 5;

fn mixing() -> Mixing {
    Mixing::dirichlet(33, Alpha::PAPER).seed(1).step(2)
}

fn loss(logits: &Tensor, attention: Option<&Tensor>) -> Result<Tensor> {
    candle::loss(logits, &labels(B, C)?, attention, &mixing(), &LossOptions::default())
}

/// The op's error must name what was given.
fn assert_refused<T: std::fmt::Debug>(result: Result<T>, words: &[&str]) {
    let message = result.expect_err("bad input must be refused").to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn bad_labels_are_named() -> Result<()> {
    let logits = tensor((3, C), 1)?;
    let with = |labels: Tensor| candle::loss(&logits, &labels, None, &mixing(), &LossOptions::default());
    assert_refused(with(Tensor::new(&[0u32, 5, 1], &Device::Cpu)?), &["labels[1] is 5", "5 classes"]);
    assert_refused(with(Tensor::new(&[0i64, 1, -1], &Device::Cpu)?), &["labels[2] is -1"]);
    assert_refused(with(Tensor::new(&[0u32, 1], &Device::Cpu)?), &["[2]", "[3]"]);
    assert_refused(with(Tensor::new(&[0f32, 1.0, 2.0], &Device::Cpu)?), &["F32", "u8, i32, u32 or i64"]);
    assert_refused(with(tensor((3, C, 1), 1)?), &["[3, 5, 1]"]);
    Ok(())
}

#[test]
fn bad_attention_is_named() -> Result<()> {
    let logits = tensor((B, R, C), 1)?;
    assert_refused(
        loss(&logits, Some(&Tensor::ones((B, R + 1), DType::F32, &Device::Cpu)?)),
        &["[6, 5]", "[6, 4]"],
    );
    assert_refused(
        loss(&logits, Some(&Tensor::ones(B * R, DType::F32, &Device::Cpu)?)),
        &["attention", "[24]"],
    );
    let negative = Tensor::ones((B, R), DType::F32, &Device::Cpu)?.neg()?;
    assert_refused(loss(&logits, Some(&negative)), &["attention[0, 0] is -1"]);
    assert_refused(candle::mix(&logits, Some(&negative), &mixing()), &["attention[0, 0] is -1"]);
    let nan = (negative * f64::NAN)?;
    assert_refused(loss(&logits, Some(&nan)), &["attention[0, 0] is NaN"]);
    Ok(())
}

#[test]
fn bad_mixing_and_types_are_named() -> Result<()> {
    let (logits, labels) = (tensor((B, R, C), 1)?, labels(B, C)?);
    let options = LossOptions::default();
    let with = |mixing: Mixing| candle::loss(&logits, &labels, None, &mixing, &options);
    assert_refused(with(Mixing::dirichlet(0, Alpha::PAPER)), &["n is 0"]);
    assert_refused(with(Mixing::dirichlet(3, Alpha::Fixed(0.0))), &["alpha is 0"]);
    let weights = tensor((2, B, 3), 1)?.abs()?;
    assert_refused(candle::loss(&logits, &labels, None, &weights, &options), &["[2, 6, 3]", "[4, 6, 3]"]);
    let double = logits.to_dtype(DType::F64)?;
    assert_refused(candle::loss(&double, &labels, None, &mixing(), &options), &["F64"]);
    assert_refused(candle::mix(&double, None, &mixing()), &["F64"]);
    assert_refused(candle::attention(&double, None, &AttentionOptions::default()), &["F64"]);
    assert_refused(
        candle::weights(0, 1, None, &Mixing::dirichlet(3, Alpha::PAPER), &Device::Cpu),
        &["b is 0"],
    );
    Ok(())
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

/// The whole message, without the backtrace that candle adds where `RUST_BACKTRACE` asks for it.
#[track_caller]
fn assert_says<T: std::fmt::Debug>(result: Result<T>, message: &str) {
    assert_eq!(result.expect_err(message).to_string().lines().next(), Some(message));
}

#[test]
fn ranks_are_told_by_argument() -> Result<()> {
    let (mixing, options, good) = (mixing(), LossOptions::default(), zeros(&[B, R, C]));
    let labels = labels(B, C)?;
    assert_says(candle::positions(&good), "positions: map has shape [6, 4, 5], but must be (b, d, h, w)");
    let map = zeros(&[B, C, 2, 2]);
    let hint = "must be (b, r, d), which candle::positions makes of a map (b, d, h, w)";
    let message = |op| format!("{op}: features has shape [6, 5, 2, 2], but {hint}");
    assert_says(candle::mix(&map, None, &mixing), &message("mix"));
    assert_says(candle::attention(&map, None, &AttentionOptions::default()), &message("attention"));
    let message = "loss: logits has shape [6, 5, 2, 2], but must be (b, r, c) or (b, c)";
    assert_says(candle::loss(&map, &labels, None, &mixing, &options), message);
    let message = "loss: labels has shape [6, 1], but must be (b)";
    assert_says(candle::loss(&good, &labels.unsqueeze(1)?, None, &mixing, &options), message);
    let message = "loss: targets has shape [6, 5, 1], but must be labels (b) or rows (b, c)";
    assert_says(candle::loss(&good, &zeros(&[B, C, 1]), None, &mixing, &options), message);
    let message = "loss: labels has type F32, but must be u8, i32, u32 or i64";
    assert_says(candle::loss(&good, &zeros(&[B]), None, &mixing, &options), message);
    let message = "mix: labels has shape [6, 1], but must be (b)";
    assert_says(candle::mix_targets(&labels.unsqueeze(1)?, C, R, None, &mixing), message);
    let message = "mix: targets has shape [6, 5, 1], but must be labels (b) or rows (b, c)";
    assert_says(candle::mix_targets(&zeros(&[B, C, 1]), C, R, None, &mixing), message);
    let message = "mix: targets has shape [6, 5], but the other arguments ask for [6, 9]";
    assert_says(candle::mix_targets(&zeros(&[B, C]), 9, R, None, &mixing), message);
    let rows = zeros(&[C]);
    let cam = AttentionOptions { query: Query::Cam, normalise: Normalise::ReluL1 };
    let classifier = Some(Classifier { rows: &rows, labels: &labels });
    let message = "attention: the classifier has shape [5], but must be (c, d)";
    assert_says(candle::attention(&good, classifier, &cam), message);
    Ok(())
}

#[test]
fn ranks_of_attention_and_weights_are_told_by_every_op() -> Result<()> {
    let (mixing, options, good, labels) =
        (mixing(), LossOptions::default(), zeros(&[B, R, C]), labels(B, C)?);
    let [flat, cube] = [zeros(&[B * R]), zeros(&[B, R, 1])];
    for (given, shape) in [(&flat, "[24]"), (&cube, "[6, 4, 1]")] {
        let message = |op| format!("{op}: attention has shape {shape}, but must be (b, r)");
        assert_says(loss(&good, Some(given)), &message("loss"));
        assert_says(candle::mix(&good, Some(given), &mixing), &message("mix"));
        assert_says(candle::mix_targets(&labels, C, R, Some(given), &mixing), &message("mix"));
        assert_says(candle::weights(B, R, Some(given), &mixing, &Device::Cpu), &message("weights"));
    }
    let weights = zeros(&[B, 33]);
    let message = |op| format!("{op}: weights has shape [6, 33], but must be (r, b, n) or (1, b, n)");
    assert_says(candle::loss(&good, &labels, None, &weights, &options), &message("loss"));
    assert_says(candle::mix(&good, None, &weights), &message("mix"));
    assert_says(candle::mix_targets(&labels, C, R, None, &weights), &message("mix"));
    assert_says(candle::weights(B, R, None, &weights, &Device::Cpu), &message("weights"));
    Ok(())
}

#[test]
fn types_are_told_by_argument() -> Result<()> {
    let (mixing, options, good, labels) =
        (mixing(), LossOptions::default(), zeros(&[B, R, C]), labels(B, C)?);
    let ints = good.to_dtype(DType::U32)?;
    let message = |op, name| format!("{op}: {name} has type U32, but must be f32, f16 or bf16");
    assert_says(loss(&ints, None), &message("loss", "logits"));
    assert_says(candle::mix(&ints, None, &mixing), &message("mix", "features"));
    let attention = candle::attention(&ints, None, &AttentionOptions::default());
    assert_says(attention, &message("attention", "features"));
    let message = |op, name| format!("{op}: {name} has type U8, but must be f32, f16, bf16 or f64");
    let ones = Tensor::ones((B, R), DType::U8, &Device::Cpu)?;
    assert_says(loss(&good, Some(&ones)), &message("loss", "attention"));
    assert_says(candle::mix(&good, Some(&ones), &mixing), &message("mix", "attention"));
    let weights = Tensor::ones((R, B, 2), DType::U8, &Device::Cpu)?;
    assert_says(candle::loss(&good, &labels, None, &weights, &options), &message("loss", "weights"));
    let weights = candle::weights(B, R, None, &weights, &Device::Cpu);
    assert_says(weights, &message("weights", "weights"));
    let rows = Tensor::ones((C, C), DType::U8, &Device::Cpu)?;
    let cam = AttentionOptions { query: Query::Cam, normalise: Normalise::Softmax };
    let attention = candle::attention(&good, Some(Classifier { rows: &rows, labels: &labels }), &cam);
    assert_says(attention, &message("attention", "the classifier"));
    // Types that candle can make, but not convert.
    for dtype in [DType::F8E8M0, DType::F4, DType::F6E2M3, DType::I16] {
        let Ok(odd) = Tensor::zeros((B, R), dtype, &Device::Cpu) else { continue };
        let message = format!("mix: attention has type {dtype:?}, but must be f32, f16, bf16 or f64");
        assert_says(candle::mix(&good, Some(&odd), &mixing), &message);
        let message = format!("mix: labels has type {dtype:?}, but must be u8, i32, u32 or i64");
        if let (Ok(odd), DType::I16) = (odd.flatten_all(), dtype) {
            assert_says(candle::mix_targets(&odd, C, R, None, &mixing), &message);
        }
    }
    Ok(())
}

#[test]
fn sizes_that_do_not_fit_are_told_by_argument() -> Result<()> {
    let (mixing, good, labels) = (mixing(), zeros(&[B, R, C]), labels(B, C)?);
    let fits =
        |given: &str, wanted: &str| format!("has shape {given}, but the other arguments ask for {wanted}");
    let wide = zeros(&[B, R + 1]);
    assert_says(loss(&good, Some(&wide)), &format!("loss: attention {}", fits("[6, 5]", "[6, 4]")));
    let mixed = candle::mix(&good, Some(&wide), &mixing);
    assert_says(mixed, &format!("mix: attention {}", fits("[6, 5]", "[6, 4]")));
    let mixed = candle::mix_targets(&labels, C, R, Some(&wide), &mixing);
    assert_says(mixed, &format!("mix: attention {}", fits("[6, 5]", "[6, 4]")));
    let weights = candle::weights(B, R, Some(&wide), &mixing, &Device::Cpu);
    assert_says(weights, &format!("weights: attention {}", fits("[6, 5]", "[6, 4]")));
    let rows = zeros(&[C, C + 1]);
    let cam = AttentionOptions { query: Query::Cam, normalise: Normalise::Softmax };
    let attention = candle::attention(&good, Some(Classifier { rows: &rows, labels: &labels }), &cam);
    assert_refused(attention, &["attention: ", "classifier", "[5, 6]", "[5, 5]"]);
    for shape in [[0, R, C], [B, 0, C], [B, R, 0]] {
        let empty = zeros(&shape);
        assert_refused(candle::mix(&empty, None, &mixing), &["mix: ", " is 0, but must be at least 1"]);
        assert_refused(loss(&empty, None), &["loss: "]);
        let attention = candle::attention(&empty, None, &AttentionOptions::default());
        assert_refused(attention, &["attention: ", " is 0, but must be at least 1"]);
    }
    Ok(())
}

#[test]
fn sizes_of_nothing_and_of_too_much_are_errors() -> Result<()> {
    let (mixing, labels, label) = (mixing(), labels(B, C)?, Tensor::new(&[0u32], &Device::Cpu)?);
    let message = "mix: c is 0, but must be at least 1";
    assert_says(candle::mix_targets(&label, 0, 1, None, &mixing), message);
    assert_says(candle::mix_targets(&zeros(&[B, 0]), 0, 1, None, &mixing), message);
    assert_says(candle::mix_targets(&label, 1, 0, None, &mixing), "mix: r is 0, but must be at least 1");
    let mut many = mixing;
    for (classes, positions, n) in [
        (usize::MAX, 1, 3),
        (1 << 57, 1, 3),
        (C, usize::MAX, 3),
        (C, 1 << 31, 1 << 31),
        (usize::MAX, usize::MAX, usize::MAX),
        (C, 1, usize::MAX),
    ] {
        many.n = n;
        assert_refused(candle::mix_targets(&labels, classes, positions, None, &many), &["mix: "]);
        let soft = zeros(&[B, C]);
        assert_refused(candle::mix_targets(&soft, classes, positions, None, &many), &["mix: "]);
        let weights = candle::weights(classes, positions, None, &many, &Device::Cpu);
        assert_refused(weights.and_then(|_| candle::mix(&soft, None, &many)), &[": "]);
    }
    Ok(())
}
