//! Attention made ready for mixing: maps without mass settled, position by position, on a scale where no
//! product is subnormal.

use super::workers::Word;
use crate::problem::EmptyMaps;
use crate::view::View;

/// Scaled attention by position, a′ (r, b), with the power of two of each position.
///
/// a′_ij = a_ij · 2^e_j, with e_j such that the largest a′ of the position lies in [1, 2). Neither M̂ nor the
/// weighted loss sees the scale.
pub(crate) struct ScaledAttention<'w> {
    values: &'w [f32],
    scales: &'w [f32],
    b: usize,
}

impl<'w> ScaledAttention<'w> {
    /// Words of workspace.
    pub(crate) fn words(attention: &View<'_, f32, 2>) -> usize {
        let [b, r] = attention.shape();
        (b + 1).saturating_mul(r)
    }

    /// Reads attention (b, r).
    pub(crate) fn new(attention: &View<'_, f32, 2>, empty: EmptyMaps, workspace: &'w mut [Word]) -> Self {
        let [b, r] = attention.shape();
        let settled = if empty == EmptyMaps::Uniform { 1.0 / r as f32 } else { 0.0 };
        let (values, scales) = bytemuck::cast_slice_mut::<Word, f32>(workspace).split_at_mut(b * r);
        for i in 0..b {
            let empty = (0..r).all(|j| attention.get([i, j]) == 0.0);
            for j in 0..r {
                values[j * b + i] = if empty { settled } else { attention.get([i, j]) };
            }
        }
        for (position, scale) in values.chunks_exact_mut(b).zip(scales.iter_mut()) {
            let largest = position.iter().copied().fold(0f32, f32::max);
            *scale = if largest > 0.0 { power_of_two_to_one(largest) } else { 1.0 };
            position.iter_mut().for_each(|a| *a *= *scale);
        }
        Self { values, scales, b }
    }

    /// a′ of position j (b).
    pub(crate) fn position(&self, j: usize) -> &'w [f32] {
        &self.values[j * self.b..][..self.b]
    }

    /// 2^e_j.
    pub(crate) fn scale(&self, j: usize) -> f32 {
        self.scales[j]
    }
}

/// The power of two that brings a positive number into [1, 2) (a subnormal number: as near as 2^127 does).
pub(crate) fn power_of_two_to_one(x: f32) -> f32 {
    let exponent = x.to_bits() >> 23;
    // 2^(127 - exponent): its own exponent field is 254 - exponent, or below the smallest normal number for
    // exponent 254.
    if exponent == 254 { f32::from_bits(1 << 22) } else { f32::from_bits((254 - exponent) << 23) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_bring_the_largest_value_to_one() {
        for x in [1.0f32, 1.999, 2.0, 3e-38, 1.2e-38, f32::MAX, 0.3, 7e20] {
            let scaled = x * power_of_two_to_one(x);
            assert!((1.0..2.0).contains(&scaled), "{x:e} -> {scaled:e}");
        }
        assert!(1e-40f32 * power_of_two_to_one(1e-40) > 1e-3);
    }

    #[test]
    fn an_example_without_attention_is_uniform_or_left_out() {
        let attention = [0.0, 0.0, 0.5, 0.25];
        let view = View::new(&attention, [2, 2]).unwrap();
        let mut workspace = vec![0; ScaledAttention::words(&view)];
        let scaled = ScaledAttention::new(&view, EmptyMaps::Uniform, &mut workspace);
        assert_eq!((scaled.position(0), scaled.scale(0)), (&[1.0, 1.0][..], 2.0));
        assert_eq!((scaled.position(1), scaled.scale(1)), (&[1.0, 0.5][..], 2.0));
        let scaled = ScaledAttention::new(&view, EmptyMaps::LeaveOut, &mut workspace);
        assert_eq!((scaled.position(0), scaled.scale(0)), (&[0.0, 1.0][..], 2.0));
    }
}
