//! Attention maps from features, and their gradient: u = GAP or CAM, score_j = uᵀ z_j, then ReLU + l1 or
//! softmax over positions.

use super::Cpu;
use super::attention_scale::power_of_two_to_one;
use super::pack::{finite, largest_magnitude, read_row, write_row};
use super::workers::{self, Carve, Shared, Word, for_each_item, share};
use crate::element::Element;
use crate::error::Result;
use crate::op::{
    ATTENTION as OP, AttentionBackwardCall, AttentionCall, AttentionGradients, AttentionInput, Engine,
    Labels, check_call,
};
use crate::problem::{AttentionOptions, Normalise, Query};
use crate::view::{Layout, View, ViewMut};
use pulp::{Arch, Simd};

/// Attention maps a (b, r): each sums to 1 over positions.
///
/// # Errors
/// Sizes of 0, shapes that do not fit together, a label that is not below c, a classifier with GAP or none
/// with CAM.
///
/// ```
/// use multimix::{AttentionInput, AttentionOptions, View, cpu};
/// let features = [1.0f32, 0.0, 3.0, 0.0]; // (b = 1, r = 2, d = 2)
/// let input = AttentionInput { features: View::new(&features, [1, 2, 2])?, classifier: None };
/// assert_eq!(cpu::attention(&input, &AttentionOptions::default())?, [0.25, 0.75]);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn attention<T: Element>(input: &AttentionInput<'_, T>, options: &AttentionOptions) -> Result<Vec<f32>> {
    Cpu.attention(input, options)
}

/// Bytes of workspace that [`attention_into`] needs on the current rayon pool.
///
/// # Errors
/// As [`attention()`].
pub fn attention_workspace<T: Element>(call: &AttentionCall<'_, T>) -> Result<usize> {
    check_call(call)?;
    words(&call.input).map(workers::bytes)
}

/// Attention into the caller's memory.
///
/// # Errors
/// As [`attention()`], and [`ErrorKind::Workspace`](crate::ErrorKind::Workspace) when the workspace is too
/// small.
pub fn attention_into<T: Element>(call: &mut AttentionCall<'_, T>, workspace: &mut [u8]) -> Result<()> {
    check_call(call)?;
    let AttentionCall { input, options, maps } = call;
    let scratch = workers::words(OP, workspace, words(input)?)?;
    let (b, (out, layout)) = (input.features.shape()[0], share(maps));
    for_each_item(b, workers::workers(b), scratch, |i, scratch| {
        attend(input, options, i, scratch, |j, a| {
            // SAFETY: the output is borrowed for the whole call; row i belongs to this item.
            unsafe { out.set(layout.offset([i, j]), a) };
        });
    });
    Ok(())
}

/// The gradients of Z, and with CAM of W, from that of attention, da (b, r).
///
/// # Errors
/// As [`attention()`].
pub fn attention_backward<T: Element>(
    input: &AttentionInput<'_, T>,
    options: &AttentionOptions,
    d_maps: &View<'_, f32, 2>,
) -> Result<AttentionGradients<T>> {
    Cpu.attention_backward(input, options, d_maps)
}

/// Bytes of workspace that [`attention_backward_into`] needs on the current rayon pool.
///
/// # Errors
/// As [`attention()`].
pub fn attention_backward_workspace<T: Element>(call: &AttentionBackwardCall<'_, T>) -> Result<usize> {
    check_call(call)?;
    words(&call.input).map(workers::bytes)
}

/// The gradients of attention into the caller's memory; that of the classifier (c, d) is overwritten.
///
/// # Errors
/// As [`attention()`], and [`ErrorKind::Workspace`](crate::ErrorKind::Workspace) when the workspace is too
/// small.
pub fn attention_backward_into<T: Element>(
    call: &mut AttentionBackwardCall<'_, T>,
    workspace: &mut [u8],
) -> Result<()> {
    check_call(call)?;
    let AttentionBackwardCall { input, options, d_maps, outputs } = call;
    let [b, _, d] = input.features.shape();
    let (queries, scratch) = workers::words(OP, workspace, words(input)?)?.split_at_mut(b * d);
    let queries: &mut [f32] = bytemuck::cast_slice_mut(queries);
    let shared_queries = Shared::new(queries);
    let (out, layout) = share(&mut outputs.features);
    for_each_item(b, workers::workers(b), scratch, |i, scratch| {
        // SAFETY: the queries outlive this call; row i belongs to this item.
        let d_query = unsafe { shared_queries.slice(i * d, d) };
        let gradient = ExampleGradient { d_maps, d_query, out, layout: &layout };
        differentiate(input, options, i, scratch, gradient);
    });
    if let (Some(out), Some(classifier)) = (&mut outputs.classifier, &input.classifier) {
        sum_by_label(out, &classifier.labels, queries, Carve::new(scratch).floats(d));
    }
    Ok(())
}

/// Words of workspace, after the checks that shapes do not settle.
fn words<T: Element>(input: &AttentionInput<'_, T>) -> Result<usize> {
    let [b, r, d] = input.features.shape();
    input.check_values()?;
    workers::check_countable(OP, b, r, d)?;
    Ok(b * d + workers::workers(b) * (2 * r * d + 2 * d + 3 * r))
}

/// The attention of example i, handed to `write` position by position.
#[pulp::with_simd(attend = Arch::new())]
#[inline(always)]
fn attend_simd<'a, 'i, S: Simd, T: Element, W: Fn(usize, f32)>(
    simd: S,
    input: &'a AttentionInput<'i, T>,
    options: &'a AttentionOptions,
    i: usize,
    scratch: &'a mut [Word],
    write: W,
) {
    let example = Example::score(simd, input, options, i, scratch);
    for (j, &a) in example.attention.iter().enumerate() {
        write(j, a);
    }
}

/// The gradients of example i.
#[pulp::with_simd(differentiate = Arch::new())]
#[inline(always)]
fn differentiate_simd<'a, 'i, S: Simd, T: Element>(
    simd: S,
    input: &'a AttentionInput<'i, T>,
    options: &'a AttentionOptions,
    i: usize,
    scratch: &'a mut [Word],
    gradient: ExampleGradient<'a, 'i, T>,
) {
    Example::score(simd, input, options, i, scratch).backward(options, i, gradient);
}

/// What the gradient of an example reads and where it goes. Example i of `out` is this thread's alone.
struct ExampleGradient<'a, 'i, T> {
    d_maps: &'a View<'i, f32, 2>,
    d_query: &'a mut [f32],
    out: Shared<T>,
    layout: &'a Layout<3>,
}

/// dW_y = Σ over the examples of class y of du_i, in order of i and in f32.
fn sum_by_label<T: Element>(
    out: &mut ViewMut<'_, T, 2>,
    labels: &Labels<'_>,
    queries: &[f32],
    sum: &mut [f32],
) {
    let [c, d] = out.shape();
    for class in 0..c {
        sum.fill(0.0);
        let queries = queries.chunks_exact(d).enumerate().filter(|(i, _)| labels.class(*i) == class);
        queries.for_each(|(_, query)| sum.iter_mut().zip(query).for_each(|(sum, value)| *sum += value));
        sum.iter().enumerate().for_each(|(channel, &value)| out.set([class, channel], T::from_f32(value)));
    }
}

/// One example at work: its features, query, scores and attention, in a worker's scratch.
struct Example<'s> {
    /// z_i (r, d).
    features: &'s mut [f32],
    /// u (d).
    query: &'s mut [f32],
    scores: &'s mut [f32],
    attention: &'s mut [f32],
    /// Powers of two that features and query are multiplied by, so that no score is infinite or subnormal
    /// that matters; mostly 1.
    scales: [f32; 2],
    /// Σ relu(score), or 0 where the map is uniform for want of a positive score.
    positive: f32,
    d_scores: &'s mut [f32],
    row: &'s mut [f32],
}

impl<'s> Example<'s> {
    #[inline(always)]
    fn score<S: Simd, T: Element>(
        simd: S,
        input: &AttentionInput<'_, T>,
        options: &AttentionOptions,
        i: usize,
        scratch: &'s mut [Word],
    ) -> Self {
        let [_, r, d] = input.features.shape();
        let mut carve = Carve::new(scratch);
        let (features, query) = (carve.floats(r * d), carve.floats(d));
        let [scores, attention, d_scores] = [(); 3].map(|_| carve.floats(r));
        read_example(&input.features, i, features);
        let feature_scale = moderate(features);
        let query_scale = match &input.classifier {
            Some(classifier) => {
                let label = classifier.labels.class(i);
                query
                    .iter_mut()
                    .enumerate()
                    .for_each(|(ch, u)| *u = classifier.rows.get([label, ch]).to_f32());
                moderate(query)
            }
            None => {
                query.fill(0.0);
                for z in features.chunks_exact(d) {
                    for (u, z) in query.iter_mut().zip(z) {
                        *u += z;
                    }
                }
                query.iter_mut().for_each(|u| *u /= r as f32);
                feature_scale
            }
        };
        for (score, z) in scores.iter_mut().zip(features.chunks_exact(d)) {
            *score = dot(simd, query, z);
        }
        let row = carve.floats(d);
        let scales = [feature_scale, query_scale];
        let mut example = Self { features, query, scores, attention, scales, positive: 0.0, d_scores, row };
        example.normalise(options.normalise);
        example
    }

    #[inline(always)]
    fn normalise(&mut self, normalise: Normalise) {
        let r = self.scores.len() as f32;
        match normalise {
            Normalise::ReluL1 => {
                self.positive = self.scores.iter().map(|&score| relu(score)).sum();
                let uniform = self.positive == 0.0;
                for (a, score) in self.attention.iter_mut().zip(&*self.scores) {
                    *a = if uniform { 1.0 / r } else { relu(*score) / self.positive };
                }
            }
            Normalise::Softmax => {
                let max = self.scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let unscale = self.scales.map(|scale| 1.0 / f64::from(scale));
                let below = |score: f32| f64::from(score - max) * unscale[0] * unscale[1];
                self.attention
                    .iter_mut()
                    .zip(&*self.scores)
                    .for_each(|(a, score)| *a = (below(*score) as f32).exp());
                let sum: f32 = self.attention.iter().sum();
                self.attention.iter_mut().for_each(|a| *a /= sum);
            }
        }
    }

    /// dscore from da, du = Σ_j dscore_j z_j, dz_j = dscore_j u (+ du / r with GAP); all of it on the scales,
    /// which results lose when they are written.
    #[inline(always)]
    fn backward<T: Element>(
        self,
        options: &AttentionOptions,
        i: usize,
        gradient: ExampleGradient<'_, '_, T>,
    ) {
        let ExampleGradient { d_maps, d_query, out, layout } = gradient;
        let (r, d) = (self.scores.len(), self.query.len());
        (0..r).for_each(|j| self.d_scores[j] = d_maps.get([i, j]));
        let d_scale = moderate(self.d_scores);
        let inner: f32 = self.attention.iter().zip(&*self.d_scores).map(|(a, da)| a * da).sum();
        for j in 0..r {
            let centred = self.d_scores[j] - inner;
            self.d_scores[j] = match options.normalise {
                Normalise::Softmax => self.attention[j] * centred,
                Normalise::ReluL1 if self.scores[j] > 0.0 => centred,
                // A NaN stays one.
                Normalise::ReluL1 => 0.0 * self.scores[j],
            };
        }
        let (to_features, to_query) = self.unscale(options.normalise, d_scale);
        d_query.fill(0.0);
        for (z, &ds) in self.features.chunks_exact(d).zip(&*self.d_scores) {
            for (du, z) in d_query.iter_mut().zip(z) {
                *du = ds.mul_add(*z, *du);
            }
        }
        let through_mean = if options.query == Query::Gap { 1.0 / r as f32 } else { 0.0 };
        for (j, &ds) in self.d_scores.iter().enumerate() {
            for (dz, (u, du)) in self.row.iter_mut().zip(self.query.iter().zip(&*d_query)) {
                *dz = ds.mul_add(*u, through_mean * du);
            }
            // SAFETY: the output is borrowed for the whole call; example i belongs to this thread.
            unsafe { write_row(self.row, to_features, out, layout, [i, j]) };
        }
        d_query.iter_mut().for_each(|du| *du = (*du * to_query).clamp(f32::MIN, f32::MAX));
    }

    /// What brings dZ and du back from the scales; dt = (da − Σ a da) / Σ relu(t) with ReLU + l1, whose
    /// division is done here.
    fn unscale(&self, normalise: Normalise, d_scale: f32) -> (f32, f32) {
        let [features, query] = self.scales.map(f64::from);
        let d_scale = f64::from(d_scale);
        let (to_features, to_query) = match normalise {
            Normalise::Softmax => (1.0 / (d_scale * query), 1.0 / (d_scale * features)),
            Normalise::ReluL1 if self.positive == 0.0 => (0.0, 0.0),
            Normalise::ReluL1 => {
                let positive = f64::from(self.positive) * d_scale;
                (features / positive, query / positive)
            }
        };
        (finite(to_features), finite(to_query))
    }
}

/// Values of this size, 2^-20 to 2^20, have products and sums that f32 holds.
const MODERATE: std::ops::RangeInclusive<f32> = 1.0 / (1 << 20) as f32..=(1 << 20) as f32;

/// Multiplies by the power of two that brings the largest magnitude into [1, 2), and returns it; by 1 where
/// that is moderate, zero or not finite.
#[inline(always)]
fn moderate(values: &mut [f32]) -> f32 {
    let largest = largest_magnitude(values);
    if MODERATE.contains(&largest) || largest == 0.0 || !largest.is_finite() {
        return 1.0;
    }
    let scale = power_of_two_to_one(largest);
    values.iter_mut().for_each(|x| *x *= scale);
    scale
}

/// Copies example i (r, d) as f32.
#[inline(always)]
fn read_example<T: Element>(features: &View<'_, T, 3>, i: usize, out: &mut [f32]) {
    let d = features.shape()[2];
    for (j, row) in out.chunks_exact_mut(d).enumerate() {
        read_row(features, [i, j], row);
    }
}

/// max(t, 0) that keeps a NaN.
#[inline(always)]
fn relu(score: f32) -> f32 {
    if score < 0.0 { 0.0 } else { score }
}

/// A dot product in four running sums for each lane, always in the same order on one machine.
#[inline(always)]
fn dot<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (S::as_simd_f32s(x), S::as_simd_f32s(y));
    let mut sums = [simd.splat_f32s(0.0); 4];
    let (x_four, x_single) = pulp::as_arrays::<4, _>(x);
    let (y_four, y_single) = pulp::as_arrays::<4, _>(y);
    for (x, y) in x_four.iter().zip(y_four) {
        for lane in 0..4 {
            sums[lane] = simd.mul_add_f32s(x[lane], y[lane], sums[lane]);
        }
    }
    for (x, y) in x_single.iter().zip(y_single) {
        sums[0] = simd.mul_add_f32s(*x, *y, sums[0]);
    }
    let sum = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    simd.reduce_sum_f32s(sum) + rest
}
