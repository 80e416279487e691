//! The checks that all ops share: shapes, alignment, and that what is written shares no memory with the rest.

use crate::error::{Error, ErrorKind, Result};
use crate::memory::Addressed;
use crate::problem::expect_shape;
use crate::view::{Layout, View, ViewMut};

/// A call of an op.
pub trait Call {
    /// What errors call it.
    const OP: &'static str;

    /// The one check, whatever the memory: options, sizes, shapes, alignment, overlap.
    fn check(&self, check: &mut Check) -> Result<()>;
}

/// Checks a call of host memory.
pub(crate) fn check_call<C: Call>(call: &C) -> Result<()> {
    call.check(&mut Check::new(C::OP))
}

/// The arguments of one call, looked at one by one.
#[derive(Debug)]
pub struct Check {
    op: &'static str,
    /// Whether the arguments have addresses.
    placed: bool,
    spans: [Option<Span>; 16],
}

/// Bytes of memory that one argument occupies, gaps included.
#[derive(Clone, Copy, Debug)]
struct Span {
    name: &'static str,
    begin: u64,
    end: u64,
    written: bool,
}

impl Check {
    pub fn new(op: &'static str) -> Self {
        Self { op, placed: true, spans: [None; 16] }
    }

    /// Of a call that is only described: what lies where does not matter.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub fn described(op: &'static str) -> Self {
        Self { placed: false, ..Self::new(op) }
    }

    /// An input of this shape.
    pub fn reads<T, const N: usize, M: Addressed>(
        &mut self,
        name: &'static str,
        view: &View<'_, T, N, M>,
        shape: [usize; N],
    ) -> Result<()> {
        expect_shape(self.op, name, view.layout.shape, shape)?;
        self.add::<T, N>(name, M::address(&view.data), &view.layout, false)
    }

    /// An output of this shape.
    pub fn writes<T, const N: usize, M: Addressed>(
        &mut self,
        name: &'static str,
        view: &ViewMut<'_, T, N, M>,
        shape: [usize; N],
    ) -> Result<()> {
        expect_shape(self.op, name, view.layout.shape, shape)?;
        view.layout.check_injective(self.op, name)?;
        self.add::<T, N>(name, M::address_mut(&view.data), &view.layout, true)
    }

    /// An output of this shape, if it is wanted.
    pub fn maybe_writes<T, const N: usize, M: Addressed>(
        &mut self,
        name: &'static str,
        view: &Option<ViewMut<'_, T, N, M>>,
        shape: [usize; N],
    ) -> Result<()> {
        view.as_ref().map_or(Ok(()), |view| self.writes(name, view, shape))
    }

    /// Adds memory of elements of `T`.
    pub fn add<T, const N: usize>(
        &mut self,
        name: &'static str,
        address: u64,
        layout: &Layout<N>,
        written: bool,
    ) -> Result<()> {
        let op = self.op;
        let size = size_of::<T>();
        if !self.placed {
            return layout.reach(op, name).map(|_| ());
        }
        if address == 0 || !address.is_multiple_of(size as u64) {
            let rule = "an address that is a multiple of the element's size";
            return Err(Error::value(op, name, format_args!("{address:#x}"), rule));
        }
        let sizes = || ErrorKind::TooLarge { name: name.into(), sizes: layout.shape.to_vec() };
        let bytes = layout.reach(op, name)?.checked_mul(size);
        let end = bytes.and_then(|bytes| address.checked_add(bytes as u64));
        let span = Span { name, begin: address, end: end.ok_or_else(|| Error::new(op, sizes()))?, written };
        for other in self.spans.iter().flatten() {
            if (span.written || other.written) && span.begin < other.end && other.begin < span.end {
                let (first, second) =
                    if span.written { (span.name, other.name) } else { (other.name, span.name) };
                return Err(Error::new(op, ErrorKind::Alias { first, second }));
            }
        }
        let free = self.spans.iter_mut().find(|slot| slot.is_none());
        *free.expect("no call has more than 16 arrays") = Some(span);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add<T>(
        check: &mut Check,
        name: &'static str,
        address: u64,
        shape: [usize; 2],
        written: bool,
    ) -> Result<()> {
        check.add::<T, 2>(name, address, &Layout::contiguous(shape), written)
    }

    #[test]
    fn shared_memory_is_refused_only_where_it_is_written() {
        let mut call = Check::new("op");
        add::<f32>(&mut call, "features", 256, [4, 4], false).unwrap();
        add::<f32>(&mut call, "attention", 256, [4, 4], false).unwrap();
        add::<f32>(&mut call, "mixed", 256 + 64, [4, 4], true).unwrap();
        let error = add::<f32>(&mut call, "targets", 256 + 64 + 60, [4, 4], true).unwrap_err();
        assert_eq!(error, Error::new("op", ErrorKind::Alias { first: "targets", second: "mixed" }));
        let error = add::<f32>(&mut call, "weights", 256 + 4, [4, 4], false).unwrap_err();
        assert_eq!(error, Error::new("op", ErrorKind::Alias { first: "mixed", second: "weights" }));
    }

    #[test]
    fn misaligned_and_far_memory_is_refused() {
        let mut call = Check::new("op");
        let misaligned = add::<f32>(&mut call, "features", 258, [1, 1], false).unwrap_err().to_string();
        assert!(misaligned.contains("features is 0x102"), "{misaligned}");
        assert!(add::<f32>(&mut call, "features", 0, [1, 1], false).is_err());
        let far = add::<f32>(&mut call, "far", u64::MAX - 7, [4, 1], false).unwrap_err();
        assert!(matches!(far.kind, ErrorKind::TooLarge { .. }), "{far}");
    }
}
