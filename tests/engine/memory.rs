//! How much memory calls take, by an allocator that counts: the loss does not grow with n, `_into` calls live
//! on their workspace, and the workspace they ask for is what they need.
//!
//! The counters are the whole process's, so each test has a process to itself.
//!
//! The routine sizes are small. `MULTIMIX_MEMORY_FULL=1` runs the loss at b = 128, r = 16, c = 100 with a
//! million mixtures.

use multimix::{
    Alpha, AttentionBackwardCall, AttentionCall, AttentionInput, AttentionOptions, AttentionOutputs, Error,
    ErrorKind, LossCall, LossInput, LossOptions, LossOutputs, MixBackwardCall, MixBackwardOutputs, MixCall,
    MixInput, MixOutputs, MixedGradients, Mixing, Targets, View, ViewMut, Want, WeightsCall, WeightsInput,
    WeightsOutputs, cpu,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::support::alone::alone;

/// Bytes held now, and the most that were.
static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held beyond what was held before.
fn peak_of<R>(work: impl FnOnce() -> R) -> (R, usize) {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (result, PEAK.load(Ordering::Relaxed) - before)
}

/// The peak of the loss with both gradients at n mixtures, on two threads.
fn peak_of_loss([b, r, c]: [usize; 3], n: usize) -> usize {
    let value = |at: usize| (at as f32 * 0.37).sin();
    let logits: Vec<f32> = (0..b * r * c).map(value).collect();
    let attention: Vec<f32> = (0..b * r).map(|at| value(at).abs()).collect();
    let labels: Vec<u32> = (0..b as u32).map(|i| i % c as u32).collect();
    let input = LossInput {
        logits: View::new(&logits, [b, r, c]).unwrap(),
        targets: Targets::labels(&labels),
        attention: Some(View::new(&attention, [b, r]).unwrap()),
    };
    let options = LossOptions { detach_attention: false, ..LossOptions::default() };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let run = |n| {
        let mixing = Mixing::dirichlet(n, Alpha::PAPER).seed(1);
        pool.install(|| cpu::loss(mixing, &input, &options, Want::Gradients(1.0)).unwrap())
    };
    run(n.min(20_000)); // what threads and the product's library allocate once
    let start = Instant::now();
    let (loss, peak) = peak_of(|| run(n));
    assert!(loss.value.is_finite() && loss.logits.unwrap().iter().all(|x| x.is_finite()));
    println!(
        "b {b}, r {r}, c {c}, n {n}: {peak} bytes at most, {:.2?}, loss {}",
        start.elapsed(),
        loss.value
    );
    peak
}

fn assert_constant_memory(sizes: [usize; 3], few: usize) {
    let (small, large) = (peak_of_loss(sizes, few), peak_of_loss(sizes, 1_000_000));
    let growth = large as f64 / small as f64;
    assert!(growth <= 1.1, "{large} bytes with a million mixtures, {small} with {few}");
}

#[test]
fn a_million_mixtures_take_no_more_memory_than_some_thousand() {
    alone("memory::a_million_mixtures_take_no_more_memory_than_some_thousand", || {
        // Tiles and the items of a position reach their full sizes at some hundred mixtures for a large
        // problem, later for a small one.
        assert_constant_memory([16, 2, 10], 20_000);
        if std::env::var_os("MULTIMIX_MEMORY_FULL").is_some() {
            assert_constant_memory([128, 16, 100], 1000);
        }
    });
}

const THREADS: usize = 3;
/// What a call may allocate beside its workspace: the bookkeeping of threads, scratch of single columns, and
/// for each thread what the product's library packs operands into, which caches bound and not the problem.
const BOOKKEEPING: usize = (64 + THREADS * 128) * 1024;

/// Runs a call with exactly the workspace it asks for, and with one byte less.
fn check_workspace(name: &str, wanted: usize, mut call: impl FnMut(&mut [u8]) -> Result<(), Error>) {
    // Not aligned: a workspace may begin anywhere.
    let mut memory = vec![0xa5u8; wanted + 1];
    call(&mut memory[1..]).unwrap();
    let (result, peak) = peak_of(|| call(&mut memory[1..]));
    result.unwrap();
    assert!(peak <= BOOKKEEPING, "{name} allocated {peak} bytes beside its workspace of {wanted}");
    assert_eq!(memory[0], 0xa5, "{name} wrote before its workspace");
    let mut short = vec![0u8; wanted - 1];
    let error = call(&mut short).unwrap_err();
    let ErrorKind::Workspace { given, wanted: asked } = error.kind else { panic!("{name}: {error}") };
    assert_eq!((given, asked), (wanted - 1, wanted), "{name}");
    call(&mut []).unwrap_err();
}

const SIZES: [usize; 5] = [40, 6, 24, 10, 700]; // b, r, d, c, n

#[test]
fn into_calls_live_on_the_workspace_they_ask_for() {
    alone("memory::into_calls_live_on_the_workspace_they_ask_for", || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().unwrap();
        pool.install(|| {
            loss_workspace();
            mix_workspace();
            weights_workspace();
            attention_workspace();
        });
    });
}

fn loss_workspace() {
    let [b, r, _, c, n] = SIZES;
    let (logits, attention, labels) = (vec![0.5f32; b * r * c], vec![0.25f32; b * r], vec![3u32; b]);
    let input = LossInput {
        logits: View::new(&logits, [b, r, c]).unwrap(),
        targets: Targets::labels(&labels),
        attention: Some(View::new(&attention, [b, r]).unwrap()),
    };
    let options = LossOptions { detach_attention: false, kl: true, ..LossOptions::default() };
    let mixing = Mixing::dirichlet(n, Alpha::PAPER);
    let (mut d_logits, mut d_attention) = (vec![0f32; b * r * c], vec![0f32; b * r]);
    let [mut loss, mut kl] = [[0f32]; 2];
    let outputs = LossOutputs {
        loss: Some(ViewMut::new(&mut loss, [1]).unwrap()),
        kl: Some(ViewMut::new(&mut kl, [1]).unwrap()),
        logits: Some(ViewMut::new(&mut d_logits, [b, r, c]).unwrap()),
        attention: Some(ViewMut::new(&mut d_attention, [b, r]).unwrap()),
        ..LossOutputs::default()
    };
    let mut call = LossCall { columns: mixing.into(), input, options, upstream: 1.0.into(), outputs };
    let wanted = cpu::loss_workspace(&call).unwrap();
    check_workspace("loss_into", wanted, |workspace| cpu::loss_into(&mut call, workspace));
}

fn mix_workspace() {
    let [b, r, d, _, n] = SIZES;
    let (features, attention, d_mixed) =
        (vec![0.5f32; b * r * d], vec![0.25f32; b * r], vec![1f32; n * r * d]);
    let input = MixInput {
        features: View::new(&features, [b, r, d]).unwrap(),
        targets: None,
        attention: Some(View::new(&attention, [b, r]).unwrap()),
    };
    let columns = Mixing::dirichlet(n, Alpha::Fixed(0.7)).into();
    let mut mixed = vec![0f32; n * r * d];
    let outputs = MixOutputs { features: ViewMut::new(&mut mixed, [n, r, d]).unwrap(), targets: None };
    let mut call = MixCall { columns, input, outputs };
    let wanted = cpu::mix_workspace(&call).unwrap();
    check_workspace("mix_into", wanted, |workspace| cpu::mix_into(&mut call, workspace));
    let (mut d_features, mut d_attention) = (vec![0f32; b * r * d], vec![0f32; b * r]);
    let gradients = MixedGradients { features: View::new(&d_mixed, [n, r, d]).unwrap(), targets: None };
    let outputs = MixBackwardOutputs {
        features: Some(ViewMut::new(&mut d_features, [b, r, d]).unwrap()),
        targets: None,
        attention: Some(ViewMut::new(&mut d_attention, [b, r]).unwrap()),
    };
    let mut call = MixBackwardCall { columns, input, gradients, outputs };
    let wanted = cpu::mix_backward_workspace(&call).unwrap();
    check_workspace("mix_backward_into", wanted, |workspace| cpu::mix_backward_into(&mut call, workspace));
}

fn weights_workspace() {
    let [b, r, _, _, n] = SIZES;
    let attention = vec![0.25f32; b * r];
    let input = WeightsInput { b, r, attention: Some(View::new(&attention, [b, r]).unwrap()) };
    let mut matrix = vec![0f32; r * b * n];
    let matrix = Some(ViewMut::new(&mut matrix, [r, b, n]).unwrap());
    let columns = Mixing::dirichlet(n, Alpha::PAPER).into();
    let mut call = WeightsCall { columns, input, outputs: WeightsOutputs { matrix, mass: None } };
    let wanted = cpu::weights_workspace(&call).unwrap();
    check_workspace("weights_into", wanted, |workspace| cpu::weights_into(&mut call, workspace));
}

fn attention_workspace() {
    let [b, r, d, ..] = SIZES;
    let (features, d_maps) = (vec![0.5f32; b * r * d], vec![0.25f32; b * r]);
    let input = AttentionInput { features: View::new(&features, [b, r, d]).unwrap(), classifier: None };
    let options = AttentionOptions::default();
    let (mut maps, mut d_features) = (vec![0f32; b * r], vec![0f32; b * r * d]);
    let mut call = AttentionCall { input, options, maps: ViewMut::new(&mut maps, [b, r]).unwrap() };
    let wanted = cpu::attention_workspace(&call).unwrap();
    check_workspace("attention_into", wanted, |workspace| cpu::attention_into(&mut call, workspace));
    let features = ViewMut::new(&mut d_features, [b, r, d]).unwrap();
    let outputs = AttentionOutputs { features, classifier: None };
    let d_maps = View::new(&d_maps, [b, r]).unwrap();
    let mut call = AttentionBackwardCall { input, options, d_maps, outputs };
    let wanted = cpu::attention_backward_workspace(&call).unwrap();
    check_workspace("attention_backward_into", wanted, |workspace| {
        cpu::attention_backward_into(&mut call, workspace)
    });
}
