//! The gradient of attention, summed over the columns of a tile; DESIGN: da_i = Σ_k Λ_ik dM_ik.

use pulp::Arch;

/// A tile's columns, as the gradient of attention needs them.
///
/// With D = dM̂ on any scale and f_k what brings column k back from it, example i gets Σ_k over_mass_ik (D_ik − Σ_l M̂_lk D_lk) f_k, where
/// over_mass = Λ / s. A loss that weighs columns by s_k also needs Σ_k Λ_ik CE_k and Σ_k Λ_ik.
pub(crate) struct AttentionSums<'a> {
    pub d_matrix: &'a [f32],
    pub matrix: &'a [f32],
    pub over_mass: &'a [f32],
    pub factor: &'a [f32],
    /// (s, CE) where the loss weighs by s.
    pub weighted: Option<(&'a [f32], &'a [f32])>,
    pub stride: usize,
    pub count: usize,
}

impl AttentionSums<'_> {
    /// Adds to `sums`: (b), or (3, b) when weighted. `dot` is scratch for one value per column.
    pub(crate) fn add_to(&self, b: usize, dot: &mut [f32], sums: &mut [f32]) {
        let (stride, count) = (self.stride, self.count);
        let (main, rest) = sums.split_at_mut(b);
        let dot = &mut dot[..count];
        Arch::new().dispatch(|| {
            dot.fill(0.0);
            for i in 0..b {
                let rows =
                    self.matrix[i * stride..][..count].iter().zip(&self.d_matrix[i * stride..][..count]);
                dot.iter_mut().zip(rows).for_each(|(dot, (m, d))| *dot = m.mul_add(*d, *dot));
            }
            for i in 0..b {
                let over = &self.over_mass[i * stride..][..count];
                let d = &self.d_matrix[i * stride..][..count];
                main[i] += lane_sum(count, |k| over[k] * (d[k] - dot[k]) * self.factor[k]);
                let Some((mass, ce)) = self.weighted else { continue };
                let (with_ce, alone) = rest.split_at_mut(b);
                with_ce[i] += lane_sum(count, |k| over[k] * mass[k] * ce[k]);
                alone[i] += lane_sum(count, |k| over[k] * mass[k]);
            }
        });
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
