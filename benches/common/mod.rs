//! What the benches share: the shapes, the machine's limits, timing, and the memory that a call takes.
//!
//! Times are medians with the 20th and 80th percentile beside them. The machine's rates are measured between
//! the timed calls, in the same run, so that a floor and its op see the same machine.
#![allow(dead_code)]

use rayon::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Sizes of a problem: b examples, d channels, r positions, n mixtures, c classes.
#[derive(Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    pub b: usize,
    pub d: usize,
    pub r: usize,
    pub n: usize,
    pub c: usize,
}

/// CIFAR-100, TinyImageNet with a 7x7 map, ImageNet with a small transformer, and a small one.
pub const SHAPES: [Shape; 4] = [
    Shape { name: "A", b: 128, d: 512, r: 16, n: 1000, c: 100 },
    Shape { name: "B", b: 128, d: 512, r: 49, n: 1000, c: 200 },
    Shape { name: "C", b: 64, d: 384, r: 196, n: 256, c: 1000 },
    Shape { name: "S", b: 32, d: 64, r: 16, n: 128, c: 10 },
];

/// What an op must at least do.
#[derive(Clone, Copy)]
pub struct Work {
    /// Floating-point operations of its matrix products.
    pub flops: f64,
    /// Bytes read and written once.
    pub bytes: f64,
    /// Gamma draws.
    pub draws: f64,
}

/// Times `run`, alternating with the machine's own rates, and prints one line.
pub fn report<R>(op: &str, shape: &Shape, work: Work, mut run: impl FnMut() -> R) {
    drop(run()); // warm-up: first touch of the caches and of the threads
    let memory = peak_of(|| drop(run()));
    let (mut times, mut sgemm, mut copy) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    while times.len() < 7 || (start.elapsed().as_secs_f64() < 1.5 && times.len() < 200) {
        if times.len() % 8 == 0 {
            sgemm.push(sgemm_rate());
            copy.push(copy_rate());
        }
        times.push(time(|| drop(run())));
    }
    let (sgemm, copy) = (percentile(&mut sgemm, 0.5), percentile(&mut copy, 0.5));
    let (products, traffic) = (work.flops / sgemm, work.bytes / copy);
    let [low, median, high] = [0.2, 0.5, 0.8].map(|p| percentile(&mut times, p));
    println!(
        "{:<22} {} | {:8.2} ms ({:.2}, {:.2}) | floor {:7.2} ms = {:6.2} products at {:4.0} GFLOP/s + {:5.2} bytes at {:4.1} GB/s | {:4.1} x | {:5.2} ns per draw and thread | {:6.1} MB extra",
        op,
        shape.name,
        median * 1e3,
        low * 1e3,
        high * 1e3,
        (products + traffic) * 1e3,
        products * 1e3,
        sgemm / 1e9,
        traffic * 1e3,
        copy / 1e9,
        median / (products + traffic),
        if work.draws > 0.0 { median / work.draws * 1e9 * rayon::current_num_threads() as f64 } else { 0.0 },
        memory as f64 / 1e6,
    );
}

/// Seconds that a call takes.
pub fn time(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// The value below which a share `p` of the values lies.
pub fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * p).round() as usize]
}

/// Flops per second of single-precision products of 2048³, rows spread over all threads.
pub fn sgemm_rate() -> f64 {
    const N: usize = 2048;
    let (left, right) = (vec![0.5f32; N * N], vec![0.25f32; N * N]);
    let mut out = vec![0f32; N * N];
    let rows = N / rayon::current_num_threads().min(N);
    let seconds = time(|| {
        out.par_chunks_mut(rows * N).zip(left.par_chunks(rows * N)).for_each(|(out, left)| {
            // SAFETY: row-major matrices of (len / N, N), (len / N, N) and (N, N) elements.
            unsafe {
                gemm::gemm(
                    left.len() / N,
                    N,
                    N,
                    out.as_mut_ptr(),
                    1,
                    N as isize,
                    false,
                    left.as_ptr(),
                    1,
                    N as isize,
                    right.as_ptr(),
                    1,
                    N as isize,
                    0.0f32,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        });
    });
    2.0 * (N * N * N) as f64 / seconds
}

/// Bytes per second of copying 64 MB, read and written counted, on all threads.
pub fn copy_rate() -> f64 {
    const BYTES: usize = 64 << 20;
    let (source, mut target) = (vec![1u8; BYTES], vec![2u8; BYTES]);
    let share = BYTES / rayon::current_num_threads();
    let seconds = time(|| {
        target
            .par_chunks_mut(share)
            .zip(source.par_chunks(share))
            .for_each(|(to, from)| to.copy_from_slice(from));
    });
    2.0 * BYTES as f64 / seconds
}

/// Values in [−1, 1], always the same.
pub fn values(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Attention: values in [0, 1].
pub fn attention(shape: &Shape) -> Vec<f32> {
    values(shape.b * shape.r).into_iter().map(f32::abs).collect()
}

/// One label for each example.
pub fn labels(shape: &Shape) -> Vec<u32> {
    (0..shape.b).map(|i| (i * 7 % shape.c) as u32).collect()
}

/// Bytes allocated at most while `run` ran, beyond what was allocated before.
pub fn peak_of(run: impl FnOnce()) -> usize {
    let before = ALLOCATED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    run();
    PEAK.load(Ordering::Relaxed) - before
}

/// Allocations so far.
pub fn allocations() -> usize {
    COUNT.load(Ordering::Relaxed)
}

static COUNT: AtomicUsize = AtomicUsize::new(0);
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator with a count of what is out.
pub struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn grow(bytes: usize) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let now = ALLOCATED.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
