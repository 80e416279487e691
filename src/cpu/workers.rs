//! Independent items spread over threads, each thread with a part of the workspace of its own.

use crate::error::{Error, ErrorKind, Result};
use crate::view::{Layout, ViewMut};
use rayon::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Workspace is handed out in words, so that floats and indices can share it.
pub(crate) type Word = u32;

/// How many workers a call would use in the current pool.
pub(crate) fn workers(items: usize) -> usize {
    rayon::current_num_threads().min(items).max(1)
}

/// The words of a byte workspace, after alignment; an error where it is smaller than [`bytes`] asks for,
/// however it is aligned.
pub(crate) fn words<'w>(op: &'static str, workspace: &'w mut [u8], wanted: usize) -> Result<&'w mut [Word]> {
    let given = workspace.len();
    if given < bytes(wanted) {
        return Err(Error::new(op, ErrorKind::Workspace { given, wanted: bytes(wanted) }));
    }
    let (_, words, _) = bytemuck::pod_align_to_mut::<u8, Word>(workspace);
    Ok(&mut words[..wanted])
}

/// Bytes that hold so many words wherever they start.
pub(crate) fn bytes(words: usize) -> usize {
    words.saturating_mul(size_of::<Word>()).saturating_add(size_of::<Word>() - 1)
}

/// Refuses sizes so large that the words of a workspace could not be counted. `width` stands for d, c or
/// their sum.
///
/// A call takes fewer than 2^8 words for each (b, width) and worker, and than 2^8 for each (b, r, width):
/// 2^22 leaves room for 2^14 workers.
pub(crate) fn check_countable(op: &'static str, b: usize, r: usize, width: usize) -> Result<()> {
    let factors = [b.max(64), r.max(64), width.max(8), 1 << 22];
    let product = factors.into_iter().try_fold(1usize, |product, factor| product.checked_mul(factor));
    match product.filter(|&words| isize::try_from(words).is_ok()) {
        Some(_) => Ok(()),
        None => Err(Error::new(
            op,
            ErrorKind::TooLarge { name: "the workspace for (b, r, width)".into(), sizes: vec![b, r, width] },
        )),
    }
}

/// Calls `work(item, scratch)` once for every item. `scratch` is split evenly over `workers`; what an item
/// computes must not depend on what its scratch held before.
pub(crate) fn for_each_item(
    items: usize,
    workers: usize,
    scratch: &mut [Word],
    work: impl Fn(usize, &mut [Word]) + Sync,
) {
    let next = AtomicUsize::new(0);
    let share = scratch.len() / workers;
    let run = |scratch: &mut [Word]| {
        loop {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                break;
            }
            work(item, scratch);
        }
    };
    if workers == 1 || share == 0 {
        return run(scratch);
    }
    scratch.par_chunks_exact_mut(share).take(workers).for_each(run);
}

/// A buffer that several threads write, each its own elements.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    pointer: *mut T,
    len: usize,
}

// SAFETY: a `Shared` is a pointer with a length; whoever dereferences it promises that no two threads touch
// one element.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    pub(crate) fn new(values: &mut [T]) -> Self {
        Self { pointer: values.as_mut_ptr(), len: values.len() }
    }

    /// # Safety
    /// The buffer must still be borrowed by the caller of [`Shared::new`], and no other thread may touch
    /// these elements.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice<'a>(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "slice outside of a shared buffer");
        // SAFETY: inside of the buffer by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }

    /// # Safety
    /// As [`Shared::slice`].
    #[inline(always)]
    pub(crate) unsafe fn set(&self, at: usize, value: T) {
        assert!(at < self.len, "index outside of a shared buffer");
        // SAFETY: inside of the buffer by the assertion; exclusive by the caller's promise.
        unsafe { self.pointer.add(at).write(value) }
    }
}

/// An output as a buffer that threads may share, with its layout.
pub(crate) fn share<T: Copy, const N: usize>(view: &mut ViewMut<'_, T, N>) -> (Shared<T>, Layout<N>) {
    let layout = *view.layout();
    (Shared::new(view.data_mut()), layout)
}

/// Sums in f64, which lie in words.
pub(crate) struct WideSums<'a>(pub &'a mut [Word]);

impl WideSums<'_> {
    /// Words of so many sums.
    pub(crate) const fn words(count: usize) -> usize {
        2 * count
    }

    pub(crate) fn get(&self, at: usize) -> f64 {
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(&self.0[2 * at..2 * at + 2]))
    }

    pub(crate) fn add(&mut self, at: usize, value: f64) {
        let sum = self.get(at) + value;
        bytemuck::cast_slice_mut::<Word, u8>(&mut self.0[2 * at..2 * at + 2])
            .copy_from_slice(&sum.to_ne_bytes());
    }

    /// Adds the sums of as many words.
    pub(crate) fn add_all(&mut self, other: &mut [Word]) {
        let other = WideSums(other);
        (0..self.0.len() / 2).for_each(|at| self.add(at, other.get(at)));
    }
}

/// Takes slices off the front of a scratch buffer.
pub(crate) struct Carve<'a>(&'a mut [Word]);

impl<'a> Carve<'a> {
    pub(crate) fn new(scratch: &'a mut [Word]) -> Self {
        Self(scratch)
    }

    pub(crate) fn words(&mut self, count: usize) -> &'a mut [Word] {
        let (front, rest) = std::mem::take(&mut self.0).split_at_mut(count);
        self.0 = rest;
        front
    }

    pub(crate) fn floats(&mut self, count: usize) -> &'a mut [f32] {
        bytemuck::cast_slice_mut(self.words(count))
    }

    /// The rest.
    pub(crate) fn rest(self) -> &'a mut [Word] {
        self.0
    }
}
