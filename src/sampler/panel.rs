//! A panel: up to 1024 neighbouring columns of one position, ordered so that SIMD registers hold one kind
//! each.

use super::gamma::{Gamma, Method, column_alpha};
use super::tile::{Columns, LANES, Rows};
use super::{Domain, Stream, tile};
use crate::problem::Alpha;

/// Columns of a panel. A multiple of every register width; the constants of a panel stay in the first-level
/// cache.
pub(crate) const PANEL: usize = 1024;

/// The columns of a panel with the constants of their distributions, boosted ones (α < 1) first.
pub(crate) struct Panel<'w> {
    stream: Stream,
    alpha: Alpha,
    j: u32,
    k: &'w mut [u32],
    d: &'w mut [f32],
    c: &'w mut [f32],
    inverse_alpha: &'w mut [f32],
    log2_d: &'w mut [f32],
    boosted: usize,
    count: usize,
}

impl<'w> Panel<'w> {
    /// Words of scratch that a panel needs.
    pub(crate) const WORDS: usize = 5 * PANEL;

    /// Prepares columns `first .. first + count` of position j; `count` is at most [`PANEL`].
    pub(crate) fn new(
        scratch: &'w mut [u32],
        stream: Stream,
        alpha: Alpha,
        j: u32,
        first: u32,
        count: usize,
    ) -> Self {
        assert!(count <= PANEL && scratch.len() >= Self::WORDS);
        let (k, rest) = scratch.split_at_mut(PANEL);
        let (d, rest) = bytemuck::cast_slice_mut::<u32, f32>(rest).split_at_mut(PANEL);
        let (c, rest) = rest.split_at_mut(PANEL);
        let (inverse_alpha, rest) = rest.split_at_mut(PANEL);
        let log2_d = &mut rest[..PANEL];
        let mut panel = Self { stream, alpha, j, k, d, c, inverse_alpha, log2_d, boosted: 0, count };
        // In the machine's own registers: a fused multiply-add is one instruction there, a call elsewhere.
        order(&mut panel, first);
        panel
    }

    /// Boosted columns fill the front in order of k, the others follow in order of k; padding repeats the
    /// last.
    #[inline(always)]
    fn order(&mut self, first: u32) {
        let alphas =
            |panel: &Self, x: usize| column_alpha(panel.stream, panel.alpha, panel.j, first + x as u32);
        // The constants of column x wait at x in `inverse_alpha` until the number of boosted columns is
        // known.
        for x in 0..self.count {
            self.inverse_alpha[x] = alphas(self, x);
        }
        let is_boosted = |alpha: f32| Method::new(alpha, self.alpha) == Method::Boosted;
        self.boosted = self.inverse_alpha[..self.count].iter().filter(|&&alpha| is_boosted(alpha)).count();
        let (mut front, mut back) = (0, self.boosted);
        for x in 0..self.count {
            let place = if is_boosted(self.inverse_alpha[x]) { &mut front } else { &mut back };
            self.k[*place] = first + x as u32;
            self.d[*place] = self.inverse_alpha[x];
            *place += 1;
        }
        for place in 0..self.count.next_multiple_of(LANES).min(PANEL) {
            let source = place.min(self.count - 1);
            if place < self.count {
                let gamma = Gamma::new(self.d[place], self.alpha);
                (self.d[place], self.c[place]) = (gamma.d, gamma.c);
                (self.inverse_alpha[place], self.log2_d[place]) = (gamma.inverse_alpha, gamma.log2_d);
                continue;
            }
            self.k[place] = self.k[source];
            (self.d[place], self.c[place]) = (self.d[source], self.c[source]);
            (self.inverse_alpha[place], self.log2_d[place]) =
                (self.inverse_alpha[source], self.log2_d[source]);
        }
    }

    /// Which column each place holds: place x is column `k()[x]`.
    pub(crate) fn k(&self) -> &[u32] {
        &self.k[..self.count]
    }

    /// Draws the columns at places `start .. start + count` for all examples; `start` is a multiple of
    /// [`LANES`]. Rows are written up to `count` rounded up to [`LANES`].
    pub(crate) fn fill(&self, domain: Domain, start: usize, count: usize, out: Rows<'_>) {
        tile::fill(self.stream, domain, self.j, self.columns(start, count), out);
    }

    fn columns(&self, start: usize, count: usize) -> Columns<'_> {
        let range = start..start + count.next_multiple_of(LANES);
        Columns {
            k: &self.k[range.clone()],
            d: &self.d[range.clone()],
            c: &self.c[range.clone()],
            inverse_alpha: &self.inverse_alpha[range.clone()],
            log2_d: &self.log2_d[range.clone()],
            boosted: self.boosted_in(range),
            exponential: self.alpha == Alpha::Fixed(1.0),
        }
    }

    /// Boosted places of a range. Padding repeats the last column, so it counts as boosted when that is.
    fn boosted_in(&self, range: std::ops::Range<usize>) -> usize {
        let boosted = if self.boosted == self.count { PANEL } else { self.boosted };
        boosted.clamp(range.start, range.end) - range.start
    }

    /// log₂ of the draw of example i in place x.
    pub(crate) fn draw_log2(&self, domain: Domain, i: u32, x: usize) -> f32 {
        let alpha = column_alpha(self.stream, self.alpha, self.j, self.k[x]);
        Gamma::new(alpha, self.alpha).draw_log2(self.stream, domain, self.j, i, self.k[x])
    }
}

#[pulp::with_simd(order = pulp::Arch::new())]
#[inline(always)]
fn order_simd<'a, 'w, S: pulp::Simd>(_: S, panel: &'a mut Panel<'w>, first: u32) {
    panel.order(first);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    fn compare(alpha: Alpha, b: usize, count: usize, seed: u64, j: u32) -> usize {
        let stream = Stream::new(seed, 3);
        let mut scratch = vec![0u32; Panel::WORDS];
        let panel = Panel::new(&mut scratch, stream, alpha, j, 7, count);
        let width = count.next_multiple_of(LANES) + LANES;
        let (mut simd, mut lane) = (vec![f32::NAN; b * width], vec![f32::NAN; b * width]);
        panel.fill(Domain::Weight, 0, count, Rows { values: &mut simd, stride: width, b });
        let rows = Rows { values: &mut lane, stride: width, b };
        tile::fill_scalar(stream, Domain::Weight, j, panel.columns(0, count), rows);
        for i in 0..b {
            for (x, &k) in panel.k().iter().enumerate() {
                let gamma = Gamma::new(column_alpha(stream, alpha, j, k), alpha);
                let wanted = gamma.draw(stream, Domain::Weight, j, i as u32, k);
                let (simd, lane) = (simd[i * width + x], lane[i * width + x]);
                let same = simd.to_bits() == wanted.to_bits() && lane.to_bits() == wanted.to_bits();
                assert!(
                    same,
                    "alpha {alpha:?} j {j} i {i} k {k}: simd {simd:e}, lane {lane:e}, scalar {wanted:e}"
                );
            }
        }
        b * count
    }

    #[test]
    fn registers_draw_what_the_definition_draws() {
        let alphas = [1e-3, 0.05, 0.5, 1.0, 1.7, 2.0, 50.0, 1e3].map(Alpha::Fixed);
        let ranges =
            [Alpha::PAPER, Alpha::Uniform { lo: 1e-3, hi: 1e3 }, Alpha::Uniform { lo: 0.9, hi: 1.1 }];
        let mut draws = 0;
        for (seed, alpha) in alphas.into_iter().chain(ranges).enumerate() {
            for (b, count) in [(1, 1), (2, 16), (33, 17), (128, 100), (7, PANEL), (64, 1000)] {
                draws += compare(alpha, b, count, seed as u64, 5);
            }
        }
        assert!(draws > 900_000, "{draws}");
    }

    /// Ten million draws, or as many as `MULTIMIX_DRAWS` says.
    #[test]
    fn registers_draw_what_the_definition_draws_at_length() {
        let wanted: usize = match std::env::var("MULTIMIX_DRAWS") {
            Ok(count) => count.parse().expect("MULTIMIX_DRAWS is not a number"),
            Err(_) => 10_000_000,
        };
        let alphas = [0.05, 0.5, 1.0, 1.7, 2.0, 50.0].map(Alpha::Fixed).into_iter().chain([Alpha::PAPER]);
        let alphas: Vec<Alpha> = alphas.collect();
        let (b, count) = (128, 1000);
        let panels = wanted.div_ceil(alphas.len() * b * count);
        let start = std::time::Instant::now();
        let draws: usize = (0..alphas.len() * panels)
            .into_par_iter()
            .map(|at| compare(alphas[at % alphas.len()], b, count, 77, (at / alphas.len()) as u32))
            .sum();
        println!("{draws} draws compared in {:.1?}", start.elapsed());
        assert!(draws >= wanted);
    }

    #[test]
    fn a_panel_holds_each_column_once_and_boosted_ones_first() {
        let mut scratch = vec![0u32; Panel::WORDS];
        let panel = Panel::new(&mut scratch, Stream::new(1, 1), Alpha::PAPER, 2, 100, 999);
        let mut seen = panel.k().to_vec();
        seen.sort_unstable();
        assert_eq!(seen, (100..1099).collect::<Vec<_>>());
        let boosted = |k: u32| column_alpha(panel.stream, panel.alpha, 2, k) < 1.0;
        assert!(panel.k()[..panel.boosted].iter().all(|&k| boosted(k)));
        assert!(panel.k()[panel.boosted..].iter().all(|&k| !boosted(k)));
        assert!((250..420).contains(&panel.boosted), "a third of U[0.5, 2] lies below 1: {}", panel.boosted);
    }
}
