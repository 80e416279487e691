//! The CPU engine as a backend of the ops.

use candle_core::{CpuStorage, Result, Storage};

use super::backend::Backend;
use super::bridge::{Operand, Stored};
use crate::memory::Host;
use crate::op::Engine;
use crate::view::View;

/// Tensors in host memory.
pub(super) struct Cpu;

impl Backend for Cpu {
    type Memory = Host;
    type Storage = CpuStorage;
    const NAME: &'static str = "the CPU";

    fn engine(&self) -> Result<impl Engine<Memory = Host>> {
        Ok(crate::cpu::Cpu)
    }

    fn storage(storage: &Storage) -> Option<&CpuStorage> {
        match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        }
    }

    fn view<'a, T: Stored, const N: usize>(operand: Operand<'a, CpuStorage>) -> Result<View<'a, T, N>> {
        let values = &operand.storage.as_slice::<T>()?[operand.layout.start_offset()..];
        let view = View::named(operand.name, values, operand.layout()?);
        Ok(view.map_err(|error| operand.error(error))?)
    }

    fn keep<T: Stored>(&self, array: Vec<T>) -> CpuStorage {
        T::to_cpu_storage_owned(array)
    }

    fn keep_number(&self, number: f32) -> CpuStorage {
        CpuStorage::F32(vec![number])
    }

    fn into_candle(storage: CpuStorage) -> Storage {
        Storage::Cpu(storage)
    }
}
