//! A slab of the mix matrix: some columns of M̂ at one position, drawn (or read), settled and normalised;
//! equations (5) and (6).

use super::attention_scale::{ScaledAttention, power_of_two_to_one};
use super::workers::{Carve, Word};
use crate::op::Columns;
use crate::problem::{Alpha, Generator};
use crate::sampler::panel::{PANEL, Panel};
use crate::sampler::tile::{LANES, Rows};
use crate::sampler::{Domain, MASSLESS_BELOW, SETTLE_BELOW, Stream, column_sum, pair};
use crate::view::View;
use pulp::{Arch, Simd, WithSimd};

/// Explicit columns whose largest weight lies in this range, 2^-60 to 2^60, are taken as they are.
const MODERATE: (f32, f32) = (1.0 / (1u64 << 60) as f32, (1u64 << 60) as f32);

/// Where columns come from, for a whole call.
pub(crate) struct Source<'a> {
    columns: Columns<'a>,
    stream: Stream,
    /// Where positions and columns are counted from.
    first: [usize; 2],
    b: usize,
    pub attention: Option<ScaledAttention<'a>>,
}

impl<'a> Source<'a> {
    /// Words of workspace.
    pub(crate) fn words(attention: &Option<View<'_, f32, 2>>) -> usize {
        attention.as_ref().map_or(0, ScaledAttention::words)
    }

    pub(crate) fn new(
        columns: &Columns<'a>,
        b: usize,
        attention: &Option<View<'_, f32, 2>>,
        carve: &mut Carve<'a>,
    ) -> Self {
        let (stream, first) = match columns {
            Columns::Drawn { mixing, seed_and_step } => {
                let words = seed_and_step.map(|words| [words.get([0]), words.get([1])]);
                let [seed, step] = words.unwrap_or([mixing.seed, mixing.step]);
                (Stream::new(seed, step), [mixing.first_position, mixing.first_column])
            }
            Columns::Given { .. } => (Stream::new(0, 0), [0; 2]),
        };
        let scaled =
            |a| ScaledAttention::new(a, columns.empty_maps(), carve.words(ScaledAttention::words(a)));
        let attention = attention.as_ref().map(scaled);
        Self { columns: *columns, stream, first, b, attention }
    }

    fn generator(&self) -> Option<Generator> {
        match &self.columns {
            Columns::Drawn { mixing, .. } => Some(mixing.generator),
            Columns::Given { .. } => None,
        }
    }

    /// α of the Dirichlet generator; for the others any value, their panels only number the columns.
    fn panel_alpha(&self) -> Alpha {
        match self.generator() {
            Some(Generator::Dirichlet { alpha }) => alpha,
            _ => Alpha::Fixed(1.0),
        }
    }

    /// Columns `first .. first + count` of this call's position j, ready to be drawn.
    pub(crate) fn panel<'w>(
        &self,
        scratch: &'w mut [Word],
        j: usize,
        first: usize,
        count: usize,
    ) -> Panel<'w> {
        let (j, first) = (self.first[0] + j, self.first[1] + first);
        Panel::new(scratch, self.stream, self.panel_alpha(), j as u32, first as u32, count)
    }

    /// Which of this call's columns a panel's places `start .. start + count` hold.
    pub(crate) fn columns<'p>(
        &self,
        panel: &'p Panel<'_>,
        start: usize,
        count: usize,
    ) -> impl Iterator<Item = usize> + Clone + use<'p> {
        let [_, first] = self.first;
        panel.k()[start..start + count].iter().map(move |&k| k as usize - first)
    }
}

/// The distance between rows of a tile of so many columns: a multiple of the register width, and an odd one,
/// so that a column's rows spread over all sets of the cache.
pub(crate) fn row_stride(columns: usize) -> usize {
    columns.div_ceil(LANES) * LANES + if columns.div_ceil(LANES).is_multiple_of(2) { LANES } else { 0 }
}

/// How a panel of `count` columns is cut into tiles of at most `tile`: so many, each so wide (a multiple of
/// the register width).
pub(crate) fn even_tiles(count: usize, tile: usize) -> usize {
    count.div_ceil(count.div_ceil(tile)).next_multiple_of(LANES).min(PANEL)
}

/// Columns of M̂ for one position and a range of a panel. Row i holds example i, column x the panel's place
/// `start + x`.
pub(crate) struct Slab<'w> {
    /// M̂, row-major (b, stride). Columns past `count` hold no meaning.
    pub matrix: &'w mut [f32],
    /// Λ_ik / s_k = M̂_ik / a′_i, which the gradient of attention needs; zero in columns without mass.
    pub over_mass: Option<&'w mut [f32]>,
    /// s_k = Σ a′_i λ_ik, or 1 without attention.
    pub mass: &'w mut [f32],
    total: &'w mut [f32],
    inverse: &'w mut [f32],
    pub stride: usize,
    pub count: usize,
}

impl<'w> Slab<'w> {
    /// Words for b examples and rows `stride` apart.
    pub(crate) fn words(b: usize, stride: usize, over_mass: bool) -> usize {
        let matrices = if over_mass { 2 } else { 1 };
        b.saturating_mul(stride).saturating_mul(matrices).saturating_add(3 * stride)
    }

    pub(crate) fn new(carve: &mut Carve<'w>, b: usize, stride: usize, over_mass: bool) -> Self {
        Self {
            matrix: carve.floats(b * stride),
            over_mass: over_mass.then(|| carve.floats(b * stride)),
            mass: carve.floats(stride),
            total: carve.floats(stride),
            inverse: carve.floats(stride),
            stride,
            count: 0,
        }
    }

    /// Draws and normalises the panel's places `start .. start + count` at position j.
    pub(crate) fn draw(
        &mut self,
        source: &Source<'_>,
        panel: &Panel<'_>,
        j: usize,
        start: usize,
        count: usize,
    ) {
        self.count = count;
        let b = source.b;
        match source.generator() {
            Some(Generator::Dirichlet { .. }) => {
                let rows = Rows { values: self.matrix, stride: self.stride, b };
                panel.fill(Domain::Weight, start, count, rows);
            }
            Some(Generator::Pair { alpha, factor }) => {
                self.clear(b);
                let ks = &panel.k()[start..start + count];
                let draw = |k| pair::normalised(pair::factor(source.stream, alpha, factor, k));
                self.fill_pairs(source, ks, draw);
            }
            None => {
                self.clear(b);
                self.copy_given(source, j, source.columns(panel, start, count));
            }
        }
        let attention = source.attention.as_ref().map(|attention| attention.position(j));
        self.sum(b, attention);
        if let Some(Generator::Dirichlet { .. }) = source.generator() {
            self.settle(b, attention, panel, start);
        }
        self.normalise(b, attention);
    }

    fn clear(&mut self, b: usize) {
        for row in self.matrix.chunks_exact_mut(self.stride).take(b) {
            row[..self.count.next_multiple_of(LANES)].fill(0.0);
        }
    }

    /// Equations (1), (2): column k mixes example k mod b with its partner in the permutation of round k / b.
    fn fill_pairs(&mut self, source: &Source<'_>, ks: &[u32], draw: impl Fn(u32) -> [f32; 2]) {
        let b = source.b;
        let (mut round, mut partners) = (u32::MAX, Vec::new());
        for (x, &k) in ks.iter().enumerate() {
            let own = k as usize % b;
            if round != (k as usize / b) as u32 || partners.is_empty() {
                round = (k as usize / b) as u32;
                partners = pair::partner(source.stream, b, round);
            }
            let [lambda, rest] = draw(k);
            self.matrix[own * self.stride + x] = lambda;
            self.matrix[partners[own] as usize * self.stride + x] += rest;
        }
    }

    fn copy_given(&mut self, source: &Source<'_>, j: usize, ks: impl Iterator<Item = usize> + Clone) {
        let Columns::Given { weights, .. } = &source.columns else { return };
        let j = if weights.shape()[0] == 1 { 0 } else { j };
        for (i, row) in self.matrix.chunks_exact_mut(self.stride).take(source.b).enumerate() {
            row.iter_mut().zip(ks.clone()).for_each(|(m, k)| *m = weights.get([j, i, k]));
        }
        self.moderate(source.b);
    }

    /// Scales columns whose largest weight is so large or so small that their sums or the reciprocals might
    /// not be finite: by a power of two, which weights do not see.
    fn moderate(&mut self, b: usize) {
        for x in 0..self.count {
            let largest = (0..b).map(|i| self.matrix[i * self.stride + x]).fold(0f32, f32::max);
            if largest == 0.0 || (MODERATE.0..=MODERATE.1).contains(&largest) {
                continue;
            }
            let scale = power_of_two_to_one(largest);
            (0..b).for_each(|i| self.matrix[i * self.stride + x] *= scale);
        }
    }

    /// Σ g and Σ a′ g of every column, in the contract's order.
    fn sum(&mut self, b: usize, attention: Option<&[f32]>) {
        let width = self.count.next_multiple_of(LANES);
        let Self { matrix, mass, total, stride, .. } = self;
        Arch::new().dispatch(Sums { matrix, stride: *stride, b, width, attention, total, mass });
    }

    /// Draws columns anew in log space whose draws all but vanish.
    fn settle(&mut self, b: usize, attention: Option<&[f32]>, panel: &Panel<'_>, start: usize) {
        for x in 0..self.count {
            if self.total[x] >= SETTLE_BELOW {
                continue;
            }
            let mut column: Vec<f32> = (0..b).map(|i| self.matrix[i * self.stride + x]).collect();
            crate::sampler::settle(&mut column, |i| panel.draw_log2(Domain::Weight, i as u32, start + x));
            self.total[x] = column_sum(column.iter().copied());
            self.mass[x] = match attention {
                Some(a) => column_sum(column.iter().zip(a).map(|(g, a)| a * g)),
                None => self.total[x],
            };
            column.iter().enumerate().for_each(|(i, &g)| self.matrix[i * self.stride + x] = g);
        }
    }

    /// M̂_ik = (a′_i g_ik) / Σ a′ g, or g_ik / Σ g in a column without mass.
    fn normalise(&mut self, b: usize, attention: Option<&[f32]>) {
        let width = self.count.next_multiple_of(LANES);
        let mut massless = false;
        for x in 0..width {
            let (total, mass) = (self.total[x], self.mass[x]);
            let has_mass = attention.is_none() || mass >= MASSLESS_BELOW;
            massless |= !has_mass && x < self.count;
            let sum = if has_mass { mass } else { total };
            // An explicit column of zeros stays zero.
            self.inverse[x] = if sum > 0.0 { 1.0 / sum } else { 0.0 };
            self.mass[x] = match attention {
                None => 1.0,
                Some(_) if has_mass => (mass / total).max(f32::MIN_POSITIVE),
                Some(_) => 0.0,
            };
        }
        for i in 0..b {
            let row = &mut self.matrix[i * self.stride..][..width];
            let (inverse, mass) = (&self.inverse[..width], &self.mass[..width]);
            if let Some(over) = self.over_mass.as_deref_mut() {
                divide_row(&mut over[i * self.stride..][..width], row, inverse, mass);
            }
            scale_row(row, attention.map_or(1.0, |a| a[i]), inverse, massless.then_some(mass));
        }
    }
}

/// g / Σ a′ g, or 0 in a column without mass; at most the largest number, since zero times infinity were NaN.
#[pulp::with_simd(divide_row = Arch::new())]
#[inline(always)]
fn divide_row_simd<'a, S: Simd>(
    _: S,
    out: &'a mut [f32],
    row: &'a [f32],
    inverse: &'a [f32],
    mass: &'a [f32],
) {
    for (out, ((g, inverse), &s)) in out.iter_mut().zip(row.iter().zip(inverse).zip(mass)) {
        *out = if s > 0.0 { (g * inverse).min(f32::MAX) } else { 0.0 };
    }
}

/// (a g) / Σ a′ g in place, without a where the column has no mass (looked at only when `mass` is given).
#[pulp::with_simd(scale_row = Arch::new())]
#[inline(always)]
fn scale_row_simd<'a, S: Simd>(
    _: S,
    row: &'a mut [f32],
    a: f32,
    inverse: &'a [f32],
    mass: Option<&'a [f32]>,
) {
    match mass {
        None => {
            for (m, inverse) in row.iter_mut().zip(inverse) {
                *m = (a * *m) * inverse;
            }
        }
        Some(mass) => {
            for (m, (inverse, &s)) in row.iter_mut().zip(inverse.iter().zip(mass)) {
                *m = (if s > 0.0 { a * *m } else { *m }) * inverse;
            }
        }
    }
}

struct Sums<'a> {
    matrix: &'a [f32],
    stride: usize,
    b: usize,
    width: usize,
    attention: Option<&'a [f32]>,
    total: &'a mut [f32],
    mass: &'a mut [f32],
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { matrix, stride, b, width, attention, total, mass } = self;
        let zero = simd.splat_f32s(0.0);
        for x in (0..width).step_by(S::F32_LANES) {
            let (mut sums, mut first) = ([zero; 2], true);
            for run in (0..b).step_by(crate::sampler::CHUNK) {
                let mut parts = [[zero; 4]; 2];
                for i in run..b.min(run + crate::sampler::CHUNK) {
                    let part = ((i - run) / 2) % 4;
                    let g = S::as_simd_f32s(&matrix[i * stride + x..][..S::F32_LANES]).0[0];
                    parts[0][part] = simd.add_f32s(parts[0][part], g);
                    if let Some(a) = attention {
                        let weighted = simd.mul_f32s(simd.splat_f32s(a[i]), g);
                        parts[1][part] = simd.add_f32s(parts[1][part], weighted);
                    }
                }
                for (sum, p) in sums.iter_mut().zip(&parts) {
                    let run = simd.add_f32s(simd.add_f32s(p[0], p[1]), simd.add_f32s(p[2], p[3]));
                    *sum = if first { run } else { simd.add_f32s(*sum, run) };
                }
                first = false;
            }
            S::as_mut_simd_f32s(&mut total[x..][..S::F32_LANES]).0[0] = sums[0];
            let mass_sum = if attention.is_some() { sums[1] } else { sums[0] };
            S::as_mut_simd_f32s(&mut mass[x..][..S::F32_LANES]).0[0] = mass_sum;
        }
    }
}
