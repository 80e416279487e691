//! The end of a call of the loss: items summed in order, scaled, written.

use super::plan::{Plan, SUM_WORDS, Sums};
use crate::cpu::pack::{finite, write_position};
use crate::cpu::slab::Source;
use crate::cpu::workers::{Shared, WideSums, Word};
use crate::element::Element;
use crate::op::LossInput;
use crate::problem::Reduction;
use crate::view::{Layout, View};
use rayon::prelude::*;

/// What is left to do when all items are done.
pub(super) struct Finish<'a> {
    pub plan: &'a Plan,
    pub source: &'a Source<'a>,
    pub results: &'a mut [Word],
    pub upstream: f32,
}

/// A gradient on its way out.
pub(super) type Output<T, const N: usize> = Option<(Shared<T>, Layout<N>)>;

/// Where dS goes: in the type of the logits, or in f32.
pub(super) struct LogitGradient<T> {
    pub own: Output<T, 3>,
    pub wide: Output<f32, 3>,
}

impl<T: Element> LogitGradient<T> {
    /// Writes dS^j (b, c), times `scale`.
    ///
    /// # Safety
    /// As [`write_position`].
    pub unsafe fn write(&self, values: &[f32], scale: f32, j: usize) {
        if let Some((out, layout)) = &self.own {
            // SAFETY: the caller's promise.
            unsafe { write_position(values, scale, *out, layout, j) };
        }
        if let Some((out, layout)) = &self.wide {
            // SAFETY: the caller's promise.
            unsafe { write_position(values, scale, *out, layout, j) };
        }
    }
}

impl Finish<'_> {
    /// The loss, and KL where it is asked for.
    pub fn loss(&self) -> (f32, f32) {
        let (mut value, mut kl) = (0.0, 0.0);
        for position in self.results.chunks_exact(self.plan.splits * self.plan.item_words()) {
            let sums = position_sums(self.plan, position);
            let share = self.plan.position_share(sums.mass);
            value += share * sums.loss;
            kl += share * (sums.loss - sums.entropy);
        }
        (value as f32, kl as f32)
    }

    /// Sums each position's items and writes da, and dS unless the items wrote it themselves.
    pub fn gradients<T: Element>(
        &mut self,
        input: &LossInput<'_, T>,
        logits: &LogitGradient<T>,
        attention: Output<f32, 2>,
    ) {
        let plan = self.plan;
        let (item, splits) = (plan.item_words(), plan.splits);
        if item == SUM_WORDS {
            return;
        }
        let (source, upstream) = (self.source, self.upstream);
        self.results.par_chunks_exact_mut(splits * item).enumerate().for_each(|(j, position)| {
            let sums = position_sums(plan, position);
            let scale = plan.position_share(sums.mass) * f64::from(upstream);
            let (total, rest) = position.split_at_mut(item);
            let wide = plan.attention_sum_words();
            let (attention_sums, d_logits) = total[SUM_WORDS..].split_at_mut(wide);
            let mut attention_sums = WideSums(attention_sums);
            let d_logits: &mut [f32] = bytemuck::cast_slice_mut(d_logits);
            for next in rest.chunks_exact_mut(item) {
                let (next_attention, next) = next[SUM_WORDS..].split_at_mut(wide);
                attention_sums.add_all(next_attention);
                d_logits.iter_mut().zip(bytemuck::cast_slice(next)).for_each(|(sum, value)| *sum += value);
            }
            if !d_logits.is_empty() {
                // SAFETY: the outputs are borrowed for the whole call and this closure alone writes position
                // j.
                unsafe { logits.write(d_logits, finite(scale), j) };
            }
            if let (Some((out, layout)), Some(given)) = (&attention, &input.attention) {
                let power = source.attention.as_ref().map_or(1.0, |attention| attention.scale(j));
                let gradient = AttentionGradient { plan, given: given.reborrow(), power, scale, sums };
                for i in 0..plan.b {
                    // SAFETY: as above.
                    unsafe { out.set(layout.offset([i, j]), gradient.of(i, &attention_sums)) };
                }
            }
        });
    }
}

fn position_sums(plan: &Plan, position: &[Word]) -> Sums {
    position.chunks_exact(plan.item_words()).map(Sums::load).fold(Sums::default(), Sums::plus)
}

struct AttentionGradient<'a> {
    plan: &'a Plan,
    given: View<'a, f32, 2>,
    /// 2^e of the position's attention.
    power: f32,
    scale: f64,
    sums: Sums,
}

impl AttentionGradient<'_> {
    /// da_i = scale 2^e (Σ_k (Λ_ik / s_k) (dM̂_ik − Σ_l M̂_lk dM̂_lk) + Σ_k Λ_ik (CE_k − around) − (L_j −
    /// around) Σ_k Λ_ik), the last two when the reduction weighs by s.
    fn of(&self, i: usize, sums: &WideSums<'_>) -> f32 {
        // A map without mass is no variable; nor does a loss that is infinite have a slope.
        if (0..self.plan.r).all(|j| self.given.get([i, j]) == 0.0) || self.sums.loss.is_infinite() {
            return 0.0;
        }
        let b = self.plan.b;
        let mut sum = sums.get(i);
        if self.plan.reduction == Reduction::AttentionWeighted && self.sums.mass > 0.0 {
            let loss = self.sums.loss / self.sums.mass / self.sums.unit - self.sums.around;
            sum += sums.get(b + i) - loss * sums.get(2 * b + i);
        }
        (self.scale * sum * self.sums.unit * f64::from(self.power)) as f32
    }
}
