//! An engine over one kind of candle's storage: it reads tensors as views, and keeps what ops return as
//! tensors.

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{Result, Shape, Storage, Tensor};

use super::bridge::{Operand, Stored};
use crate::memory::Memory;
use crate::op::Engine;
use crate::view::View;

/// An array that an engine returns.
type Owned<B, T> = <<B as Backend>::Memory as Memory>::Owned<T>;

/// An engine over one kind of candle's storage.
pub(super) trait Backend: Sized {
    type Memory: Memory;
    type Storage: BackendStorage + 'static;

    /// What errors call it.
    const NAME: &'static str;

    fn engine(&self) -> Result<impl Engine<Memory = Self::Memory>>;

    /// A tensor's memory, where it is this backend's.
    fn storage(storage: &Storage) -> Option<&Self::Storage>;

    /// The memory as a view, without a copy.
    fn view<'a, T: Stored, const N: usize>(
        operand: Operand<'a, Self::Storage>,
    ) -> Result<View<'a, T, N, Self::Memory>>;

    fn keep<T: Stored>(&self, array: Owned<Self, T>) -> Self::Storage;
    fn keep_number(&self, number: <Self::Memory as Memory>::Number) -> Self::Storage;
    fn into_candle(storage: Self::Storage) -> Storage;

    /// A tensor that nothing is known of upstream.
    fn tensor<T: Stored>(&self, array: Owned<Self, T>, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(Self::into_candle(self.keep(array)), shape, BackpropOp::none(), false)
    }
}
