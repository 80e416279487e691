//! The classification loss on mixed logits and targets, forward and backward; equations (5) to (8), never forming Z̃, S̃ or Ỹ whole.
//!
//! A linear classifier commutes with mixing, so S̃^j = S^j M̂^j holds the logits of the mixed features. Work is cut into items (a position and
//! a range of its columns), items into panels, panels into tiles that stay in cache. A tile is drawn, normalised, its logits mixed (one product), its loss
//! and E = exp(S̃ − max) taken; for the gradient, with G_k = q_k (softmax(S̃_k) − Ỹ_k), one more product adds G M̂ᵀ to the item's dS.
//! How a call is cut depends on the sizes alone, and items are summed in order: the same bits for any number of threads.

mod finish;
mod item;
mod masks;
mod plan;
mod tile;

use super::attention_scale::ScaledAttention;
use super::pack::finite;
use super::slab::Source;
use super::workers::{self, Carve, Shared, Word, for_each_item};
use super::{LossInput, Targets, check_attention, check_weights, zeros, zeros_bytes};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::problem::{LossOptions, Mixing, at_least_one, expect_shape};
use crate::sampler::panel::Panel;
use crate::view::{Layout, ViewMut};
use finish::Finish;
use item::{ItemRun, MixtureOutputs};
use plan::Plan;

const OP: &str = "loss";

/// The loss of a call, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// The reduced cross-entropy.
    pub value: f32,
    /// The reduced KL = CE − H(Ỹ), when [`LossOptions::kl`] asks for it.
    pub kl: Option<f32>,
}

/// The gradients of a loss.
#[derive(Clone, Debug, PartialEq)]
pub struct LossGradients<T> {
    /// dS (b, r, c), contiguous, in the type of the logits.
    pub logits: Vec<T>,
    /// da (b, r), contiguous, when attention was given and is not detached.
    pub attention: Option<Vec<f32>>,
}

/// Where [`loss_into`] writes; what is `None` is not computed.
#[derive(Debug)]
pub struct LossOutputs<'a, T> {
    /// dS (b, r, c).
    pub logits: Option<ViewMut<'a, T, 3>>,
    /// da (b, r); needs attention that is not detached.
    pub attention: Option<ViewMut<'a, f32, 2>>,
    /// CE of each mixture, (r, n).
    pub per_mixture: Option<ViewMut<'a, f32, 2>>,
    /// log Σ exp S̃ of each mixture, (r, n).
    pub log_sum_exp: Option<ViewMut<'a, f32, 2>>,
}

impl<T> Default for LossOutputs<'_, T> {
    fn default() -> Self {
        Self { logits: None, attention: None, per_mixture: None, log_sum_exp: None }
    }
}

/// The loss alone.
///
/// # Errors
/// Shapes that do not fit together, labels that are not below c, attention or weights that are negative or not finite, an α out of range, sizes of 0 or
/// whose product overflows: an [`Error`] that names the value.
///
/// ```
/// use multimix::cpu::{self, LossInput, Targets};
/// use multimix::{Alpha, LossOptions, Mixing, View};
/// let (b, r, c) = (4, 1, 3);
/// let logits = vec![0.0f32; b * r * c];
/// let input = LossInput {
///     logits: View::new(&logits, [b, r, c])?,
///     targets: Targets::Labels(&[0, 1, 2, 0]),
///     attention: None,
///     weights: None,
/// };
/// let loss = cpu::loss_forward(&Mixing::dirichlet(100, Alpha::PAPER), &input, &LossOptions::default())?;
/// assert!((loss.value - 3f32.ln()).abs() < 1e-5); // even logits: log c, whatever is mixed
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn loss_forward<T: Element>(
    mixing: &Mixing,
    input: &LossInput<'_, T>,
    options: &LossOptions,
) -> Result<Loss> {
    let mut workspace =
        zeros_bytes(OP, loss_workspace_bytes(mixing, input, options, &LossOutputs::default())?)?;
    loss_into(mixing, input, options, 1.0, LossOutputs::default(), &mut workspace)
}

/// The gradient of `upstream` times the loss, with respect to the logits and, where it is not detached, attention.
///
/// # Errors
/// As [`loss_forward`].
pub fn loss_backward<T: Element>(
    mixing: &Mixing,
    input: &LossInput<'_, T>,
    options: &LossOptions,
    upstream: f32,
) -> Result<LossGradients<T>> {
    Ok(loss_forward_backward(mixing, input, options, upstream)?.1)
}

/// The loss and the gradient of `upstream` times the loss in one pass over the same draws: the cheapest way
/// to train.
///
/// Scale f16 gradients up by `upstream`, and down again once they are in f32: a gradient shrinks as 1 /
/// (b·r), and at b = 128, r = 49 and 200 classes even the largest lies below 6e-5, where f16 begins to lose
/// digits. A power of two costs no digits.
///
/// # Errors
/// As [`loss_forward`].
///
/// ```
/// use multimix::cpu::{self, LossInput, Targets};
/// use multimix::{LossOptions, Mixing, View};
/// let logits = [2.0f32, -1.0, 0.5, 0.0, 1.0, -2.0]; // (b = 2, r = 1, c = 3)
/// let input = LossInput {
///     logits: View::new(&logits, [2, 1, 3])?,
///     targets: Targets::Labels(&[0, 2]),
///     attention: None,
///     weights: None,
/// };
/// // Both examples all but alone in a mixture each: the loss is their mean cross-entropy.
/// let weights = [1.0f32, 1e-9, 1e-9, 1.0]; // (r or 1, b = 2, n = 2)
/// let input = LossInput { weights: Some(View::new(&weights, [1, 2, 2])?), ..input };
/// let (mixing, options) = (Mixing::explicit(2), LossOptions::default());
/// let (loss, gradients) = cpu::loss_forward_backward(&mixing, &input, &options, 1.0)?;
/// let log_sum_exp = |s: &[f32]| s.iter().map(|s| s.exp()).sum::<f32>().ln();
/// let mean = (log_sum_exp(&logits[..3]) - 2.0 + log_sum_exp(&logits[3..]) + 2.0) / 2.0;
/// assert!((loss.value - mean).abs() < 1e-6);
/// // dS of the first logit: half of softmax - 1.
/// let softmax = (2.0 - log_sum_exp(&logits[..3])).exp();
/// assert!((gradients.logits[0] - (softmax - 1.0) / 2.0).abs() < 1e-6);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn loss_forward_backward<T: Element>(
    mixing: &Mixing,
    input: &LossInput<'_, T>,
    options: &LossOptions,
    upstream: f32,
) -> Result<(Loss, LossGradients<T>)> {
    let [b, r, c] = input.logits.shape();
    let wants_attention = input.attention.is_some() && !options.detach_attention;
    let mut logits = zeros::<T>(OP, "the gradient of the logits", &[b, r, c])?;
    let mut attention = match wants_attention {
        true => Some(zeros::<f32>(OP, "the gradient of attention", &[b, r])?),
        false => None,
    };
    let outputs = LossOutputs {
        logits: Some(ViewMut::new(&mut logits, [b, r, c])?),
        attention: attention.as_mut().map(|da| ViewMut::new(da, [b, r])).transpose()?,
        ..LossOutputs::default()
    };
    let mut workspace = zeros_bytes(OP, loss_workspace_bytes(mixing, input, options, &outputs)?)?;
    let loss = loss_into(mixing, input, options, upstream, outputs, &mut workspace)?;
    Ok((loss, LossGradients { logits, attention }))
}

/// Bytes of workspace that [`loss_into`] needs for these arguments on the current rayon pool. Does not grow with n.
///
/// # Errors
/// As [`loss_forward`].
pub fn loss_workspace_bytes<T: Element>(
    mixing: &Mixing,
    input: &LossInput<'_, T>,
    options: &LossOptions,
    outputs: &LossOutputs<'_, T>,
) -> Result<usize> {
    validate(mixing, input, options, outputs)?;
    Ok(workers::bytes(Plan::new(mixing, input, options, outputs).words()))
}

/// The loss and whatever `outputs` asks for, on the caller's memory: gradients are those of `upstream` times the loss.
///
/// # Errors
/// As [`loss_forward`], and [`Error::Workspace`] when the workspace is smaller than [`loss_workspace_bytes`].
pub fn loss_into<T: Element>(
    mixing: &Mixing,
    input: &LossInput<'_, T>,
    options: &LossOptions,
    upstream: f32,
    outputs: LossOutputs<'_, T>,
    workspace: &mut [u8],
) -> Result<Loss> {
    validate(mixing, input, options, &outputs)?;
    let plan = Plan::new(mixing, input, options, &outputs);
    let workspace = workers::words(OP, workspace, plan.words())?;
    Ok(run(&plan, mixing, input, upstream, outputs, workspace))
}

fn validate<T: Element>(
    mixing: &Mixing,
    input: &LossInput<'_, T>,
    options: &LossOptions,
    outputs: &LossOutputs<'_, T>,
) -> Result<()> {
    let [b, r, c] = input.logits.shape();
    at_least_one(OP, "c", c)?;
    mixing.validate(OP, [b, r], input.weights.as_ref().map(|weights| weights.layout()))?;
    Layout::contiguous([mixing.n, r, c]).count(OP, "the mixed logits (n, r, c)")?;
    workers::check_countable(OP, b, r, c)?;
    input.targets.validate(OP, b, c)?;
    check_target_sums(&input.targets)?;
    check_attention(OP, input.attention.as_ref(), b, r)?;
    check_weights(OP, input.weights.as_ref())?;
    if let Some(logits) = &outputs.logits {
        expect_shape(OP, "the gradient of the logits", logits.shape(), [b, r, c])?;
    }
    if let Some(attention) = &outputs.attention {
        expect_shape(OP, "the gradient of attention", attention.shape(), [b, r])?;
        if input.attention.is_none() || options.detach_attention {
            let what = "a gradient of attention is asked for, but attention is detached or not given";
            return Err(Error::Arguments { op: OP, what });
        }
    }
    for (name, mixtures) in [("per_mixture", &outputs.per_mixture), ("log_sum_exp", &outputs.log_sum_exp)] {
        if let Some(mixtures) = mixtures {
            expect_shape(OP, name, mixtures.shape(), [r, mixing.n])?;
        }
    }
    Ok(())
}

/// Soft targets are near distributions; sums of arbitrary size would pass what f32 holds.
fn check_target_sums(targets: &Targets<'_>) -> Result<()> {
    let Targets::Soft(rows) = targets else { return Ok(()) };
    let [b, c] = rows.shape();
    for i in 0..b {
        let sum: f64 = (0..c).map(|class| f64::from(rows.get([i, class]))).sum();
        if sum > LARGEST_TARGET_SUM {
            let (name, given) = (format!("the sum of targets[{i}, :]"), sum.to_string());
            return Err(Error::Value { op: OP, name, given, rule: "at most 1e6" });
        }
    }
    Ok(())
}

/// What the targets of an example may sum to.
const LARGEST_TARGET_SUM: f64 = 1e6;

fn run<T: Element>(
    plan: &Plan,
    mixing: &Mixing,
    input: &LossInput<'_, T>,
    upstream: f32,
    outputs: LossOutputs<'_, T>,
    workspace: &mut [Word],
) -> Loss {
    let mut carve = Carve::new(workspace);
    let attention_words = carve.words(plan.attention_words());
    let attention = input
        .attention
        .as_ref()
        .map(|attention| ScaledAttention::new(attention, mixing.empty_maps, attention_words));
    let source = Source::new(*mixing, plan.b, attention, input.weights);
    let results = carve.words(plan.items() * plan.item_words());
    let LossOutputs { mut logits, mut attention, mut per_mixture, mut log_sum_exp } = outputs;
    let mixtures =
        MixtureOutputs { ce: per_mixture.as_mut().map(share), lse: log_sum_exp.as_mut().map(share) };
    let logits = logits.as_mut().map(share);
    let shared = Shared::new(results);
    for_each_item(plan.items(), plan.workers, carve.rest(), |item, scratch| {
        // SAFETY: results outlive this call, and each item writes its own.
        let result = unsafe { shared.slice(item * plan.item_words(), plan.item_words()) };
        let (panel, scratch) = scratch.split_at_mut(Panel::WORDS);
        let mut item = ItemRun::new(plan, &source, input, item, scratch, result);
        let sums = item.run(panel, &mixtures);
        if let (Some((out, layout)), true) = (&logits, plan.writes_directly()) {
            let scale = finite(plan.position_share(sums.mass) * f64::from(upstream));
            // SAFETY: the output is borrowed for this whole call; the item is its whole position.
            unsafe { item.write(scale, *out, layout) };
        }
    });
    let mut finish = Finish { plan, source: &source, results, upstream };
    finish.gradients(input, logits, attention.as_mut().map(share));
    finish.loss()
}

/// An output as a buffer that threads may share, with its layout.
fn share<T: Copy, const N: usize>(view: &mut ViewMut<'_, T, N>) -> (Shared<T>, Layout<N>) {
    let layout = *view.layout();
    (Shared::new(view.data_mut()), layout)
}
