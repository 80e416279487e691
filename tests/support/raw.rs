//! Columns of Λ before they are normalised, by the scalar definitions of the sampler's contract.

use multimix::reference::Sizes;
use multimix::sampler::{Domain, Gamma, Stream, column_alpha, factor, partner, settle};
use multimix::{Generator, Mixing};

/// Raw weights (r, b, n): those given, or what the mixing draws.
pub fn raw_weights(sizes: &Sizes, mixing: &Mixing, explicit: Option<&[f32]>) -> Vec<f32> {
    let Sizes { b, r, n, .. } = *sizes;
    if let Some(explicit) = explicit {
        return explicit.to_vec();
    }
    let mut raw = vec![0.0; r * b * n];
    for j in 0..r {
        for k in 0..n {
            for (i, g) in column(mixing, b, j, k).into_iter().enumerate() {
                raw[sizes.weight(j, i, k)] = g;
            }
        }
    }
    raw
}

/// Column k of position j, counted from where the mixing's call begins, (b).
fn column(mixing: &Mixing, b: usize, j: usize, k: usize) -> Vec<f32> {
    let stream = Stream::new(mixing.seed, mixing.step);
    let (j, k) = (mixing.first_position + j, mixing.first_column + k);
    let (j, column) = (j as u32, k as u32);
    match mixing.generator {
        Generator::Dirichlet { alpha } => {
            let gamma = Gamma::new(column_alpha(stream, alpha, j, column), alpha);
            let mut draws: Vec<f32> =
                (0..b as u32).map(|i| gamma.draw(stream, Domain::Weight, j, i, column)).collect();
            settle(&mut draws, |i| gamma.draw_log2(stream, Domain::Weight, j, i as u32, column));
            draws
        }
        Generator::Pair { alpha, factor: kind } => {
            let [own, other] = factor(stream, alpha, kind, column);
            let mut draws = vec![0.0; b];
            draws[k % b] = own;
            let partner = partner(stream, b, (k / b) as u32)[k % b] as usize;
            // An example that is its own partner has all the weight, whatever the two draws.
            draws[partner] = if partner == k % b { 1.0 } else { other };
            draws
        }
    }
}
