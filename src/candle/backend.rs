//! What the ops ask of an engine, wherever the tensors are. A backend reads candle's storage and gives candle's storage.

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{Result, Shape, Storage, Tensor};

use super::bridge::{Float, Operand};
use crate::problem::{AttentionOptions, LossOptions, Mixing};

/// Where columns come from: attention (b, r) and explicit weights (r or 1, b, n), both in f32.
pub(super) struct Columns<'a, S> {
    pub mixing: &'a Mixing,
    pub attention: Option<Operand<'a, S>>,
    pub weights: Option<Operand<'a, S>>,
}

/// W (c, d), in f32 on the CPU and in the type of the features on CUDA, and y (b) in u32, contiguous.
pub(super) struct Classified<'a, S> {
    pub rows: Operand<'a, S>,
    pub labels: Operand<'a, S>,
}

/// What the examples are labelled with.
pub(super) enum Targets<'a, S> {
    /// (b) of u32, contiguous.
    Labels(Operand<'a, S>),
    /// (b, c) of f32.
    Soft(Operand<'a, S>),
}

/// What a loss is computed from.
pub(super) struct LossCall<'a, S> {
    pub columns: Columns<'a, S>,
    /// S (b, r, c).
    pub logits: Operand<'a, S>,
    pub targets: Targets<'a, S>,
    pub options: &'a LossOptions,
}

/// Gradients for an op's first argument, and for its second where they are wanted.
pub(super) type Gradients<S> = (S, Option<S>);

/// A loss with its gradients.
pub(super) struct LossAndGradients<S> {
    pub loss: S,
    /// dS (b, r, c), and da (b, r) where attention is given and not detached; both times `scale`.
    pub gradients: Gradients<S>,
    /// A power of two.
    pub scale: f32,
}

/// An engine over one kind of candle's storage. All results are contiguous. `T` is the type of features or logits.
pub(super) trait Backend: Sized {
    type Storage: BackendStorage;

    /// What errors call it.
    const NAME: &'static str;

    /// A tensor's memory, where it is this backend's.
    fn storage(storage: &Storage) -> Option<&Self::Storage>;

    fn into_candle(storage: Self::Storage) -> Storage;

    /// A tensor that nothing is known of upstream.
    fn tensor(storage: Self::Storage, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(Self::into_candle(storage), shape, BackpropOp::none(), false)
    }

    /// a (b, r) in f32.
    fn attention<T: Float>(
        &self,
        features: Operand<'_, Self::Storage>,
        classifier: Option<Classified<'_, Self::Storage>>,
        options: &AttentionOptions,
    ) -> Result<Self::Storage>;

    /// dZ (b, r, d), and dW (c, d) where there is a classifier, from da (b, r), which is contiguous.
    fn attention_backward<T: Float>(
        &self,
        features: Operand<'_, Self::Storage>,
        classifier: Option<Classified<'_, Self::Storage>>,
        options: &AttentionOptions,
        upstream: Operand<'_, Self::Storage>,
    ) -> Result<Gradients<Self::Storage>>;

    /// Z̃ (n, r, d).
    fn mix<T: Float>(
        &self,
        columns: &Columns<'_, Self::Storage>,
        features: Operand<'_, Self::Storage>,
    ) -> Result<Self::Storage>;

    /// dZ (b, r, d), and da (b, r) where it is wanted, from dZ̃ (n, r, d).
    fn mix_backward<T: Float>(
        &self,
        columns: &Columns<'_, Self::Storage>,
        features: Operand<'_, Self::Storage>,
        upstream: Operand<'_, Self::Storage>,
        wants_attention: bool,
    ) -> Result<Gradients<Self::Storage>>;

    /// One number, in f32.
    fn loss<T: Float>(&self, call: &LossCall<'_, Self::Storage>) -> Result<Self::Storage>;

    /// As [`Backend::loss`], with gradients over the same draws.
    fn loss_with_gradients<T: Float>(
        &self,
        call: &LossCall<'_, Self::Storage>,
    ) -> Result<LossAndGradients<Self::Storage>>;

    /// The mix matrix (r, b, n) and the mass (r, n) in f32.
    fn weights(
        &self,
        columns: &Columns<'_, Self::Storage>,
        b: usize,
        r: usize,
    ) -> Result<(Self::Storage, Self::Storage)>;
}
