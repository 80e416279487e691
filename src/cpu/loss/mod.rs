//! The classification loss on mixed logits and targets, forward and backward; equations (5) to (8), never
//! forming Z̃, S̃ or Ỹ whole.
//!
//! A linear classifier commutes with mixing, so S̃^j = S^j M̂^j holds the logits of the mixed features. Work
//! is cut into items (a position and a range of its columns), items into panels, panels into tiles that stay
//! in cache. A tile is drawn, normalised, its logits mixed (one product), its loss and E = exp(S̃ − max)
//! taken; for the gradient, with G_k = q_k (softmax(S̃_k) − Ỹ_k), one more product adds G M̂ᵀ to the item's
//! dS. How a call is cut depends on the sizes alone, and items are summed in order: the same bits for any
//! number of threads.

mod finish;
mod item;
mod masks;
mod plan;
mod tile;

use super::Cpu;
use super::pack::{finite, read_labels};
use super::slab::Source;
use super::workers::{self, Carve, Shared, for_each_item, share};
use crate::element::Element;
use crate::error::Result;
use crate::op::{Columns, Engine, LOSS as OP, Loss, LossCall, LossInput, Reborrow, Want, check_call};
use crate::problem::LossOptions;
use crate::sampler::panel::Panel;
use finish::{Finish, LogitGradient};
use item::{ItemRun, MixtureOutputs};
use plan::Plan;

/// The loss and, in one pass over the same draws, whatever gradients are wanted: those of a factor times the
/// loss, with respect to the logits and, where it is not detached, attention.
///
/// Scale f16 gradients up by the factor, and down again once they are in f32: a gradient shrinks as 1 /
/// (b·r), and at b = 128, r = 49 and 200 classes even the largest lies below 6e-5, where f16 begins to lose
/// digits. A power of two costs no digits.
///
/// # Errors
/// Shapes that do not fit together, labels that are not below c, attention or weights that are negative or
/// not finite, an α out of range, sizes of 0 or whose product overflows: an [`Error`](crate::Error) that
/// names the value.
///
/// ```
/// use multimix::{LossInput, LossOptions, Targets, View, Want, cpu};
/// let logits = [2.0f32, -1.0, 0.5, 0.0, 1.0, -2.0]; // (b = 2, r = 1, c = 3)
/// let input = LossInput {
///     logits: View::new(&logits, [2, 1, 3])?,
///     targets: Targets::labels(&[0u8, 2]),
///     attention: None,
/// };
/// // Both examples all but alone in a mixture each: the loss is their mean cross-entropy.
/// let weights = [1.0f32, 1e-9, 1e-9, 1.0]; // (r or 1, b = 2, n = 2)
/// let weights = View::new(&weights, [1, 2, 2])?;
/// let loss = cpu::loss(weights, &input, &LossOptions::default(), Want::Gradients(1.0))?;
/// let log_sum_exp = |s: &[f32]| s.iter().map(|s| s.exp()).sum::<f32>().ln();
/// let mean = (log_sum_exp(&logits[..3]) - 2.0 + log_sum_exp(&logits[3..]) + 2.0) / 2.0;
/// assert!((loss.value - mean).abs() < 1e-6);
/// // dS of the first logit: half of softmax - 1.
/// let softmax = (2.0 - log_sum_exp(&logits[..3])).exp();
/// assert!((loss.logits.unwrap()[0] - (softmax - 1.0) / 2.0).abs() < 1e-6);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn loss<'a, T: Element>(
    columns: impl Into<Columns<'a>>,
    input: &LossInput<'_, T>,
    options: &LossOptions,
    want: Want,
) -> Result<Loss<T>> {
    Cpu.loss(&columns.into(), input, options, want)
}

/// Bytes of workspace that [`loss_into`] needs on the current rayon pool.
///
/// # Errors
/// As [`loss()`].
pub fn loss_workspace<T: Element>(call: &LossCall<'_, T>) -> Result<usize> {
    check(call)?;
    Ok(workers::bytes(Plan::new(call).words()))
}

fn check<T: Element>(call: &LossCall<'_, T>) -> Result<()> {
    let [b, r, c] = call.input.logits.shape();
    check_call(call)?;
    call.input.check_values(&call.columns)?;
    workers::check_countable(OP, b, r, c)
}

/// The loss and whatever the outputs ask for, on the caller's memory.
///
/// # Errors
/// As [`loss()`], and [`ErrorKind::Workspace`](crate::ErrorKind::Workspace) when the workspace is smaller
/// than [`loss_workspace`] says.
pub fn loss_into<T: Element>(call: &mut LossCall<'_, T>, workspace: &mut [u8]) -> Result<()> {
    check(call)?;
    let plan = &Plan::new(call);
    let mut carve = Carve::new(workers::words(OP, workspace, plan.words())?);
    let LossCall { columns, input, upstream, mut outputs, .. } = call.map(&mut Reborrow)?;
    let source = Source::new(&columns, plan.b, &input.attention, &mut carve);
    let labels = read_labels(&input.targets, &mut carve, plan.b);
    let results = carve.words(plan.items() * plan.item_words());
    let mixtures = MixtureOutputs {
        ce: outputs.per_mixture.as_mut().map(share),
        lse: outputs.log_sum_exp.as_mut().map(share),
    };
    let logits = LogitGradient {
        own: outputs.logits.as_mut().map(share),
        wide: outputs.logits_f32.as_mut().map(share),
    };
    let (upstream, shared) = (upstream.value(), Shared::new(results));
    for_each_item(plan.items(), plan.workers, carve.rest(), |item, scratch| {
        // SAFETY: results outlive this call, and each item writes its own.
        let result = unsafe { shared.slice(item * plan.item_words(), plan.item_words()) };
        let (panel, scratch) = scratch.split_at_mut(Panel::WORDS);
        let mut item = ItemRun::new(plan, &source, &input, labels, item, scratch, result);
        let sums = item.run(panel, &mixtures);
        if plan.writes_directly() {
            let scale = finite(plan.position_share(sums.mass) * f64::from(upstream));
            // SAFETY: the outputs are borrowed for this whole call; the item is its whole position.
            unsafe { logits.write(item.d_logits, scale, item.j) };
        }
    });
    let mut finish = Finish { plan, source: &source, results, upstream };
    finish.gradients(&input, &logits, outputs.attention.as_mut().map(share));
    let (value, kl) = finish.loss();
    for (out, value) in [(&mut outputs.loss, value), (&mut outputs.kl, kl)] {
        if let Some(out) = out {
            out.set([0], value);
        }
    }
    Ok(())
}
