//! The gradient of attention, summed over the columns of a tile: da_i = Σ_k Λ_ik dM_ik.

use super::workers::WideSums;

/// A tile's columns, as the gradient of attention needs them.
///
/// With D = dM̂ on any scale and f_k what brings column k back from it, example i gets Σ_k over_mass_ik (D_ik
/// − Σ_l M̂_lk D_lk) f_k, where over_mass = Λ / s. A loss that weighs columns by s_k also needs Σ_k Λ_ik
/// (CE_k − around) and Σ_k Λ_ik: their difference is small beside them, as CE hardly varies, unless `around`
/// is near.
pub(crate) struct AttentionSums<'a> {
    pub d_matrix: &'a [f32],
    pub matrix: &'a [f32],
    pub over_mass: &'a [f32],
    pub factor: &'a [f32],
    /// (s, CE, around) where the loss weighs by s.
    pub weighted: Option<(&'a [f32], &'a [f32], f32)>,
    pub stride: usize,
    pub count: usize,
}

impl AttentionSums<'_> {
    /// Adds to `sums`: (b), or (3, b) when weighted. `dot` is scratch for one value per column.
    pub(crate) fn add_to(&self, b: usize, dot: &mut [f32], sums: &mut WideSums<'_>) {
        add(self, b, dot, sums);
    }
}

#[pulp::with_simd(add = pulp::Arch::new())]
#[inline(always)]
fn add_simd<'a, 'w, S: pulp::Simd>(
    _: S,
    tile: &'a AttentionSums<'a>,
    b: usize,
    dot: &'a mut [f32],
    sums: &'a mut WideSums<'w>,
) {
    let (stride, count) = (tile.stride, tile.count);
    let dot = &mut dot[..count];
    dot.fill(0.0);
    for i in 0..b {
        let rows = tile.matrix[i * stride..][..count].iter().zip(&tile.d_matrix[i * stride..][..count]);
        for (dot, (m, d)) in dot.iter_mut().zip(rows) {
            *dot = m.mul_add(*d, *dot);
        }
    }
    for i in 0..b {
        let over = &tile.over_mass[i * stride..][..count];
        let d = &tile.d_matrix[i * stride..][..count];
        let narrow = lane_sum(count, |k| over[k] * (d[k] - dot[k]) * tile.factor[k]);
        let wide = |k| f64::from(over[k]) * (f64::from(d[k]) - f64::from(dot[k])) * f64::from(tile.factor[k]);
        // Tiny attention makes Λ / s huge: where f32 cannot hold the terms, they are summed again.
        sums.add(i, if narrow.is_finite() { narrow.into() } else { (0..count).map(wide).sum() });
        let Some((mass, ce, around)) = tile.weighted else { continue };
        sums.add(b + i, lane_sum(count, |k| over[k] * mass[k] * (ce[k] - around)).into());
        sums.add(2 * b + i, lane_sum(count, |k| over[k] * mass[k]).into());
    }
}

/// Σ over 0..count in sixteen running sums, so that it vectorises; always in the same order.
#[inline(always)]
fn lane_sum(count: usize, value: impl Fn(usize) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let whole = count - count % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += value(start + lane);
        }
    }
    let rest: f32 = (whole..count).map(&value).sum();
    sums.iter().sum::<f32>() + rest
}
