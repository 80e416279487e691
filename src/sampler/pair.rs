//! Pair mixing, equations (1) and (2): the factor λ and the permutation Π.

use super::{Domain, Gamma, Stream, column_alpha};
use crate::problem::{Alpha, Factor};

/// The weights (λ, 1 − λ) of column k, with λ ~ Beta(α, α), as unnormalised gammas.
///
/// Normalised they are a Dirichlet column over two examples. The same at all positions; with
/// [`Factor::PerBatch`] the same for all k.
pub fn factor(stream: Stream, alpha: Alpha, factor: Factor, k: u32) -> [f32; 2] {
    let k = if factor == Factor::PerBatch { 0 } else { k };
    let gamma = Gamma::new(column_alpha(stream, alpha, 0, k), alpha);
    let mut draws = [0, 1].map(|i| gamma.draw(stream, Domain::Factor, 0, i, k));
    super::settle(&mut draws, |i| gamma.draw_log2(stream, Domain::Factor, 0, i as u32, k));
    draws
}

/// The permutation that columns round·b .. (round + 1)·b mix with: `partner[i]` is the example that example i
/// is mixed with.
///
/// Every example draws a word; its partner is the rank of that word, ties to the lower index first.
pub fn partner(stream: Stream, b: usize, round: u32) -> Vec<u32> {
    let word = |i: u32| stream.block(Domain::Permutation, round, i / 4, 0, 0)[i as usize % 4];
    let mut order: Vec<(u32, u32)> = (0..b as u32).map(|i| (word(i), i)).collect();
    order.sort_unstable();
    let mut rank = vec![0; b];
    for (place, &(_, i)) in order.iter().enumerate() {
        rank[i as usize] = place as u32;
    }
    rank
}

/// The two weights of a column that sum to one: each gamma times the reciprocal of their sum.
pub fn normalised(gammas: [f32; 2]) -> [f32; 2] {
    let inverse = 1.0 / (gammas[0] + gammas[1]);
    gammas.map(|g| g * inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_are_a_permutation() {
        for b in [1, 2, 3, 17, 128] {
            let mut seen = partner(Stream::new(1, 2), b, 3);
            seen.sort_unstable();
            assert_eq!(seen, (0..b as u32).collect::<Vec<_>>());
        }
        assert_ne!(partner(Stream::new(1, 2), 128, 0), partner(Stream::new(1, 2), 128, 1));
    }

    #[test]
    fn a_factor_for_the_batch_is_the_same_for_all_columns() {
        let stream = Stream::new(5, 6);
        let draw = |f, k| factor(stream, Alpha::Fixed(0.4), f, k);
        assert_eq!(draw(Factor::PerBatch, 3), draw(Factor::PerBatch, 9));
        assert_ne!(draw(Factor::PerColumn, 3), draw(Factor::PerColumn, 9));
        let [a, b] = normalised(factor(stream, Alpha::Fixed(1e-3), Factor::PerColumn, 0));
        assert!((a + b - 1.0).abs() < 1e-6);
    }
}
