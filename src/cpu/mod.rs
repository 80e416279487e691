//! The CPU engine: f32, threads and SIMD, the same algorithms as the CUDA kernels.
//!
//!
//! Works on strided [views](crate::View) of f32, f16 or bf16; arithmetic and sums are in f32. Runs on the
//! threads of the current rayon pool; results have the same bits for any number of threads. Nothing of size n
//! is kept: columns are drawn, normalised, used and forgotten a tile at a time. Each op comes as an
//! allocating call and as an `_into` call on the caller's outputs and workspace, whose size in bytes a
//! `_workspace` function tells; it does not grow with n. What a call reads and writes is described in
//! [`mod@crate::op`].
//!
//! | op | forward | backward |
//! |---|---|---|
//! | Λ or M̂ | [`weights()`] | |
//! | attention from features | [`attention()`] | [`attention_backward`] |
//! | mixed features and targets, equations (7), (8) | [`mix()`] | [`mix_backward`] |
//! | the loss on mixed logits and targets | [`loss()`] | the same, with [`Want::Gradients`](crate::Want) |
//! | a gradient times a factor | | [`scale_into`] |
//!
//! # Special values
//!
//! - **A logit of −∞ masks a class**: its probability is 0 in every mixture in which the example has weight,
//!   and a target on it makes the loss infinite. An example of weight 0 masks nothing. A position whose loss
//!   is infinite gives attention no gradient, and masked classes take no part in it.
//! - **An attention map of zeros** becomes 1/r everywhere, or leaves its example out:
//!   [`Mixing::empty_maps`](crate::Mixing::empty_maps) says which. It gets no gradient either way. A column
//!   whose examples all have attention 0 mixes by Λ alone and has loss weight 0.
//! - **Finite values give no NaN**, however large or small. Mixed features never pass the largest feature;
//!   scores, sums and losses are taken on scales that f32 holds, and a result past its range is infinite.
//!   Soft targets of the loss sum to at most 1e6 for each example.
//! - NaN, and infinite features or a logit of +∞, make every mixture NaN that they go into, with all that is
//!   computed from it.

mod attention;
mod attention_scale;
mod attention_sums;
mod loss;
mod matmul;
mod mix;
mod pack;
mod scale;
mod slab;
mod weights;
mod workers;

pub use attention::{
    attention, attention_backward, attention_backward_into, attention_backward_workspace, attention_into,
    attention_workspace,
};
pub use loss::{loss, loss_into, loss_workspace};
pub use mix::{mix, mix_backward, mix_backward_into, mix_backward_workspace, mix_into, mix_workspace};
pub use scale::scale_into;
pub use weights::{weights, weights_into, weights_workspace};

use crate::element::{Element, Scalar};
use crate::error::Result;
use crate::memory::{Host, zeros};
use crate::op::{self, Engine};
use crate::op::{AttentionBackwardCall, AttentionCall, LossCall, MixBackwardCall, MixCall, WeightsCall};

/// What the allocating calls run on.
pub(crate) struct Cpu;

impl Engine for Cpu {
    type Memory = Host;

    fn array<T: Scalar>(&self, op: &'static str, name: &'static str, shape: &[usize]) -> Result<Vec<T>> {
        zeros(op, name, shape)
    }

    fn number(&self, _: &'static str, _: &'static str) -> Result<f32> {
        Ok(0.0)
    }

    fn run_weights<T: Element>(&self, call: &mut WeightsCall<'_, T>) -> Result<()> {
        weights_into(call, &mut zeros(op::WEIGHTS, "the workspace", &[weights_workspace(call)?])?)
    }

    fn run_attention<T: Element>(&self, call: &mut AttentionCall<'_, T>) -> Result<()> {
        attention_into(call, &mut zeros(op::ATTENTION, "the workspace", &[attention_workspace(call)?])?)
    }

    fn run_attention_backward<T: Element>(&self, call: &mut AttentionBackwardCall<'_, T>) -> Result<()> {
        attention_backward_into(
            call,
            &mut zeros(op::ATTENTION, "the workspace", &[attention_backward_workspace(call)?])?,
        )
    }

    fn run_mix<T: Element>(&self, call: &mut MixCall<'_, T>) -> Result<()> {
        mix_into(call, &mut zeros(op::MIX, "the workspace", &[mix_workspace(call)?])?)
    }

    fn run_mix_backward<T: Element>(&self, call: &mut MixBackwardCall<'_, T>) -> Result<()> {
        mix_backward_into(call, &mut zeros(op::MIX, "the workspace", &[mix_backward_workspace(call)?])?)
    }

    fn run_loss<T: Element>(&self, call: &mut LossCall<'_, T>) -> Result<()> {
        loss_into(call, &mut zeros(op::LOSS, "the workspace", &[loss_workspace(call)?])?)
    }
}
