//! What the loss does with one tile of columns: softmax, label terms and entropy, over a (c, columns) matrix
//! of mixed logits.

use crate::simd::{exp, log2};
use pulp::{Arch, Simd, WithSimd};
use std::f32::consts::LN_2;

/// A row-major tile: row y starts at `y * stride`; the first `width` values of a row count.
pub(super) struct Tile<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
    pub width: usize,
}

impl Tile<'_> {
    #[inline(always)]
    fn row(&self, y: usize) -> &[f32] {
        &self.values[y * self.stride..][..self.width]
    }

    #[inline(always)]
    fn row_mut(&mut self, y: usize) -> &mut [f32] {
        &mut self.values[y * self.stride..][..self.width]
    }
}

/// fit_k = Σ_i M̂_ik S̃[y_i, k], so that CE_k = lse_k − fit_k. With `negated`, also −S̃[y_i, k] for every
/// example i.
#[pulp::with_simd(label_fit = Arch::new())]
#[inline(always)]
pub(super) fn label_fit_simd<'a, S: Simd>(
    _: S,
    logits: &'a Tile<'a>,
    matrix: &'a [f32],
    labels: &'a [u32],
    fit: &'a mut [f32],
    negated: Option<&'a mut [f32]>,
) {
    let (stride, width, mut negated) = (logits.stride, logits.width, negated);
    let fit = &mut fit[..width];
    fit.fill(0.0);
    for (i, &label) in labels.iter().enumerate() {
        let (row, weights) = (logits.row(label as usize), &matrix[i * stride..][..width]);
        for ((f, m), s) in fit.iter_mut().zip(weights).zip(row) {
            *f = m.mul_add(*s, *f);
        }
        let Some(negated) = negated.as_deref_mut() else { continue };
        for (d, s) in negated[i * stride..][..width].iter_mut().zip(row) {
            *d = -s;
        }
    }
}

/// fit_k = Σ_y Ỹ_yk S̃_yk and the sum t_k = Σ_y Ỹ_yk, so that CE_k = t_k lse_k − fit_k.
#[pulp::with_simd(soft_fit = Arch::new())]
#[inline(always)]
pub(super) fn soft_fit_simd<'a, S: Simd>(
    _: S,
    logits: &'a Tile<'a>,
    targets: &'a Tile<'a>,
    classes: usize,
    fit: &'a mut [f32],
    sum: &'a mut [f32],
) {
    let (fit, sum) = (&mut fit[..logits.width], &mut sum[..logits.width]);
    fit.fill(0.0);
    sum.fill(0.0);
    for class in 0..classes {
        let (row, target) = (logits.row(class), targets.row(class));
        for (((f, t), s), sum) in fit.iter_mut().zip(target).zip(row).zip(sum.iter_mut()) {
            *f = t.mul_add(*s, *f);
            *sum += t;
        }
    }
}

/// Replaces S̃ by E = exp(S̃ − max); leaves lse_k = log Σ exp S̃ and the sums Σ E. S̃ and lse are in units of
/// `unit`.
pub(super) fn exponentials(logits: Tile<'_>, classes: usize, unit: f32, lse: &mut [f32], sum: &mut [f32]) {
    Arch::new().dispatch(Exponentials { logits, classes, unit, lse, sum });
}

struct Exponentials<'a> {
    logits: Tile<'a>,
    classes: usize,
    unit: f32,
    lse: &'a mut [f32],
    sum: &'a mut [f32],
}

impl WithSimd for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.unit == 1.0 { self.all_columns::<S, false>(simd) } else { self.all_columns::<S, true>(simd) }
    }
}

impl Exponentials<'_> {
    #[inline(always)]
    fn all_columns<S: Simd, const UNITS: bool>(mut self, simd: S) {
        const TOGETHER: usize = 4;
        let registers = self.logits.width / S::F32_LANES;
        let mut register = 0;
        while register + TOGETHER <= registers {
            self.columns::<S, TOGETHER, UNITS>(simd, register * S::F32_LANES);
            register += TOGETHER;
        }
        for rest in register..registers {
            self.columns::<S, 1, UNITS>(simd, rest * S::F32_LANES);
        }
    }

    /// R registers of columns at x; whether logits are in other units than 1.
    #[inline(always)]
    fn columns<S: Simd, const R: usize, const UNITS: bool>(&mut self, simd: S, x: usize) {
        let width = R * S::F32_LANES;
        // Not −∞, so that a column of masked classes alone comes to Σ E = 0.
        let mut max = [simd.splat_f32s(f32::MIN); R];
        for class in 0..self.classes {
            let (row, _) = S::as_simd_f32s(&self.logits.row(class)[x..x + width]);
            for lane in 0..R {
                max[lane] = simd.max_f32s(max[lane], row[lane]);
            }
        }
        let mut sum = [simd.splat_f32s(0.0); R];
        for class in 0..self.classes {
            let (row, _) = S::as_mut_simd_f32s(&mut self.logits.row_mut(class)[x..x + width]);
            for lane in 0..R {
                let mut below = simd.sub_f32s(row[lane], max[lane]);
                if UNITS {
                    below = simd.mul_f32s(below, simd.splat_f32s(self.unit));
                }
                row[lane] = exp(simd, below);
                sum[lane] = simd.add_f32s(sum[lane], row[lane]);
            }
        }
        let (lse, _) = S::as_mut_simd_f32s(&mut self.lse[x..x + width]);
        let (sums, _) = S::as_mut_simd_f32s(&mut self.sum[x..x + width]);
        for lane in 0..R {
            lse[lane] =
                simd.mul_add_f32s(log2(simd, sum[lane]), simd.splat_f32s(LN_2 / self.unit), max[lane]);
            sums[lane] = sum[lane];
        }
    }
}

/// Turns E into the gradient on the scale of the sums: row y_i loses M̂_ik Σ E_k for each example i.
#[pulp::with_simd(subtract_labels = Arch::new())]
#[inline(always)]
pub(super) fn subtract_labels_simd<'a, 't, S: Simd>(
    _: S,
    e: &'a mut Tile<'t>,
    matrix: &'a [f32],
    labels: &'a [u32],
    sum: &'a [f32],
) {
    let (stride, width) = (e.stride, e.width);
    for (i, &label) in labels.iter().enumerate() {
        let weights = &matrix[i * stride..][..width];
        for ((e, m), s) in e.row_mut(label as usize).iter_mut().zip(weights).zip(&sum[..width]) {
            *e = (-m).mul_add(*s, *e);
        }
    }
}

/// The same for soft targets with sums t_k: E t_k − Ỹ Σ E_k.
#[pulp::with_simd(subtract_targets = Arch::new())]
#[inline(always)]
pub(super) fn subtract_targets_simd<'a, 't, S: Simd>(
    _: S,
    e: &'a mut Tile<'t>,
    targets: &'a Tile<'a>,
    classes: usize,
    total: &'a [f32],
    sum: &'a [f32],
) {
    let width = e.width;
    for class in 0..classes {
        let columns = targets.row(class).iter().zip(&total[..width]).zip(&sum[..width]);
        for (e, ((y, t), s)) in e.row_mut(class).iter_mut().zip(columns) {
            *e = *e * t - y * s;
        }
    }
}

/// Multiplies column k of every row by `factor[k]`.
#[pulp::with_simd(scale_columns = Arch::new())]
#[inline(always)]
pub(super) fn scale_columns_simd<'a, 't, S: Simd>(
    _: S,
    tile: &'a mut Tile<'t>,
    rows: usize,
    factor: &'a [f32],
) {
    let width = tile.width;
    for row in 0..rows {
        for (x, f) in tile.row_mut(row).iter_mut().zip(&factor[..width]) {
            *x *= f;
        }
    }
}

/// The mixed targets Ỹ of labels: row y sums the rows of M̂ of the examples with that label; equation (8).
#[pulp::with_simd(mixed_labels = Arch::new())]
#[inline(always)]
pub(super) fn mixed_labels_simd<'a, 't, S: Simd>(
    _: S,
    targets: &'a mut Tile<'t>,
    classes: usize,
    matrix: &'a [f32],
    labels: &'a [u32],
) {
    let (stride, width) = (targets.stride, targets.width);
    for class in 0..classes {
        targets.row_mut(class).fill(0.0);
    }
    for (i, &label) in labels.iter().enumerate() {
        for (y, m) in targets.row_mut(label as usize).iter_mut().zip(&matrix[i * stride..][..width]) {
            *y += m;
        }
    }
}

/// H(Ỹ_k) = −Σ_y Ỹ_yk log Ỹ_yk, in nats.
#[pulp::with_simd(entropy = Arch::new())]
#[inline(always)]
pub(super) fn entropy_simd<'a, S: Simd>(simd: S, targets: &'a Tile<'a>, classes: usize, out: &'a mut [f32]) {
    // Below the smallest normal number y log y is nothing.
    let smallest = simd.splat_f32s(f32::MIN_POSITIVE);
    for x in (0..targets.width).step_by(S::F32_LANES) {
        let mut sum = simd.splat_f32s(0.0);
        for class in 0..classes {
            let y = S::as_simd_f32s(&targets.row(class)[x..x + S::F32_LANES]).0[0];
            sum = simd.mul_add_f32s(y, log2(simd, simd.max_f32s(y, smallest)), sum);
        }
        let (out, _) = S::as_mut_simd_f32s(&mut out[x..x + S::F32_LANES]);
        out[0] = simd.mul_f32s(sum, simd.splat_f32s(-LN_2));
    }
}
