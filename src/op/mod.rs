//! What each op reads and writes, over any [`Memory`]: one description for the CPU engine, the CUDA engine
//! and bare pointers.
//!
//! | op | call | reads | writes |
//! |---|---|---|---|
//! | Λ or M̂ | [`WeightsCall`] | [`WeightsInput`] | [`WeightsOutputs`] |
//! | attention from features | [`AttentionCall`] | [`AttentionInput`] | a (b, r) |
//! | its gradient | [`AttentionBackwardCall`] | the same, and da | [`AttentionGradients`] |
//! | mixed features and targets | [`MixCall`] | [`MixInput`] | [`MixOutputs`] |
//! | their gradients | [`MixBackwardCall`] | the same, and [`MixedGradients`] | [`MixGradients`] |
//! | the loss, with gradients | [`LossCall`] | [`LossInput`] | [`LossOutputs`] |
//! | a gradient times a factor | [`ScaleCall`] | a gradient | a gradient |
//!
//! A call is checked here, once and with one wording, by `check`; `map` carries its views to another memory
//! under the names that errors know them by.

mod attention;
mod check;
mod columns;
mod engine;
mod loss;
mod mix;
mod place;
mod scale;
mod targets;
mod weights;

pub use attention::{
    AttentionBackwardCall, AttentionCall, AttentionGradients, AttentionInput, AttentionOutputs, Classifier,
};
pub use columns::Columns;
pub use loss::{Loss, LossCall, LossInput, LossOutputs, Upstream, Want};
pub use mix::{
    MixBackwardCall, MixBackwardOutputs, MixCall, MixGradients, MixInput, MixOutputs, MixTargets, Mixed,
    MixedGradients,
};
pub use scale::ScaleCall;
pub use targets::{Labels, Targets};
pub use weights::{MixMatrix, WeightsCall, WeightsInput, WeightsOutputs};

pub(crate) use check::{Call, Check, check_call};
pub(crate) use engine::Engine;
pub(crate) use place::{Read, Reborrow, Write};
#[allow(unused_imports)] // what only the CUDA engine asks for
pub(crate) use {
    attention::OP as ATTENTION, loss::OP as LOSS, mix::OP as MIX, scale::OP as SCALE, weights::OP as WEIGHTS,
};

use crate::element::Element;
use crate::memory::Memory;

/// A shorter borrow of what has a `map`.
macro_rules! reborrow {
    ($($name:ident $(<$T:ident>)?),*) => {
        $(impl<$($T: Element,)? M: Memory> $name<'_, $($T,)? M> {
            /// The same for a shorter time: a call has one lifetime for all that it reads and writes.
            pub fn reborrow(&self) -> $name<'_, $($T,)? M> {
                self.map(&mut Reborrow).expect("a shorter borrow is always there")
            }
        })*
    };
}
reborrow!(
    Columns,
    Labels,
    Targets,
    Upstream,
    WeightsInput,
    AttentionInput<T>,
    MixInput<T>,
    MixedGradients<T>,
    LossInput<T>
);
