//! Scratch memory, divided.

use cudarc::driver::sys::CUdeviceptr;

use super::view::{Footprint, RawView};
use crate::error::{Error, ErrorKind, Result};

/// Parts begin on boundaries of this many bytes, and so must the workspace: what the driver's allocators give.
pub(super) const ALIGNMENT: u64 = 256;

/// Hands out parts of a workspace from its start. With address zero it only adds up.
#[derive(Debug)]
pub(super) struct Carve {
    op: &'static str,
    base: CUdeviceptr,
    used: u64,
}

impl Carve {
    /// Adds up what parts need.
    pub fn measure(op: &'static str) -> Self {
        Self { op, base: 0, used: 0 }
    }

    /// Hands out parts of memory at `base`.
    pub fn from(op: &'static str, base: CUdeviceptr) -> Self {
        Self { op, base, used: 0 }
    }

    /// The address of a part for the product of `sizes` elements of `T`.
    pub fn take<T>(&mut self, name: &'static str, sizes: &[usize]) -> Result<CUdeviceptr> {
        let too_large =
            || Error::new(self.op, ErrorKind::TooLarge { name: name.into(), sizes: sizes.to_vec() });
        let count = sizes
            .iter()
            .try_fold(size_of::<T>(), |product, &size| product.checked_mul(size))
            .ok_or_else(too_large)?;
        let at = self.used;
        let end = at.checked_add(count as u64).and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
        self.used = end.filter(|&end| end <= isize::MAX as u64).ok_or_else(too_large)?;
        Ok(self.base.wrapping_add(at))
    }

    /// Bytes handed out.
    pub fn bytes(&self) -> usize {
        self.used as usize
    }
}

/// Scratch memory of a raw call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawWorkspace {
    /// Its address, a multiple of 256. Not looked at where no bytes are needed.
    pub pointer: CUdeviceptr,
    /// Its size.
    pub bytes: usize,
}

impl From<RawView<1>> for RawWorkspace {
    fn from(bytes: RawView<1>) -> Self {
        Self { pointer: bytes.pointer, bytes: bytes.layout.shape[0] }
    }
}

impl RawWorkspace {
    /// No memory, for ops that need none.
    pub const EMPTY: Self = Self { pointer: 0, bytes: 0 };

    /// Checks that it has `wanted` bytes, which the call writes.
    pub(super) fn claim(self, op: &'static str, wanted: usize, footprint: &mut Footprint) -> Result<()> {
        if self.bytes < wanted {
            return Err(Error::new(op, ErrorKind::Workspace { given: self.bytes, wanted }));
        }
        if wanted == 0 {
            return Ok(());
        }
        if self.pointer == 0 || !self.pointer.is_multiple_of(ALIGNMENT) {
            let given = format!("{:#x}", self.pointer);
            let rule = "a device address that is a multiple of 256, as allocators give it";
            return Err(Error::value(op, "the workspace's address", given, rule));
        }
        footprint.writes("the workspace", &RawView::contiguous(self.pointer, [wanted]), 1)
    }
}
