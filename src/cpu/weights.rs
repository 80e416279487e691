//! The mix matrix on its own: Λ, or M̂ of equations (5) and (6), for inspection and for uses of one's own.

use super::attention_scale::ScaledAttention;
use super::slab::{Slab, Source, even_tiles, row_stride};
use super::workers::{self, Carve, Shared, for_each_item};
use super::{check_attention, check_weights, zeros, zeros_bytes};
use crate::error::Result;
use crate::problem::{Mixing, expect_shape};
use crate::sampler::panel::{PANEL, Panel};
use crate::view::{View, ViewMut};

const OP: &str = "weights";
/// Columns drawn at a time.
const TILE: usize = 256;

/// What the mix matrix is made for.
#[derive(Clone, Copy, Debug)]
pub struct WeightsInput<'a> {
    /// Examples in the mini-batch.
    pub b: usize,
    /// Spatial positions.
    pub r: usize,
    /// a (b, r) for M̂; none for Λ. A map of zeros: [`crate::Mixing::empty_maps`].
    pub attention: Option<View<'a, f32, 2>>,
    /// Λ (r, b, n) or (1, b, n) for [`crate::Generator::Explicit`].
    pub weights: Option<View<'a, f32, 3>>,
}

/// The mix matrix and the loss weights of its columns.
#[derive(Clone, Debug, PartialEq)]
pub struct MixMatrix {
    /// Λ or M̂ (r, b, n), contiguous; every column sums to 1.
    pub matrix: Vec<f32>,
    /// s (r, n): Σ_i a_i λ_ik on the scale of the caller's attention, 0 without mass; 1 without attention.
    pub mass: Vec<f32>,
}

/// Draws the mix matrix: Λ, or M̂ when attention is given.
///
/// # Errors
/// Sizes of 0 or whose product overflows, an α out of range, attention or weights that are negative or not finite.
///
/// ```
/// use multimix::cpu::{self, WeightsInput};
/// use multimix::{Alpha, Mixing};
/// let input = WeightsInput { b: 5, r: 2, attention: None, weights: None };
/// let lambda = cpu::weights(&Mixing::dirichlet(3, Alpha::PAPER).seed(1), &input)?.matrix;
/// let column: f32 = (0..5).map(|i| lambda[(1 * 5 + i) * 3 + 2]).sum(); // position 1, column 2
/// assert!((column - 1.0).abs() < 1e-6);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn weights(mixing: &Mixing, input: &WeightsInput<'_>) -> Result<MixMatrix> {
    let (b, r, n) = (input.b, input.r, mixing.n);
    validate(mixing, input)?;
    let mut matrix = zeros::<f32>(OP, "the mix matrix (r, b, n)", &[r, b, n])?;
    let mut mass = zeros::<f32>(OP, "the mass (r, n)", &[r, n])?;
    let mut workspace = zeros_bytes(OP, weights_workspace_bytes(mixing, input)?)?;
    let out = ViewMut::new(&mut matrix, [r, b, n])?;
    weights_into(mixing, input, out, Some(ViewMut::new(&mut mass, [r, n])?), &mut workspace)?;
    Ok(MixMatrix { matrix, mass })
}

/// Bytes of workspace that [`weights_into`] needs on the current rayon pool. Does not grow with n.
///
/// # Errors
/// As [`weights`].
pub fn weights_workspace_bytes(mixing: &Mixing, input: &WeightsInput<'_>) -> Result<usize> {
    validate(mixing, input)?;
    Ok(workers::bytes(words(mixing, input)))
}

fn words(mixing: &Mixing, input: &WeightsInput<'_>) -> usize {
    let attention = if input.attention.is_some() { ScaledAttention::words(input.b, input.r) } else { 0 };
    attention + workers::workers(items(mixing, input)) * scratch_words(input.b)
}

fn scratch_words(b: usize) -> usize {
    Panel::WORDS + Slab::words(b, row_stride(TILE), false)
}

/// One item for each panel of each position.
fn items(mixing: &Mixing, input: &WeightsInput<'_>) -> usize {
    input.r * mixing.n.div_ceil(PANEL)
}

fn validate(mixing: &Mixing, input: &WeightsInput<'_>) -> Result<()> {
    mixing.validate(OP, [input.b, input.r], input.weights.as_ref().map(|weights| weights.layout()))?;
    workers::check_countable(OP, input.b, input.r, 1)?;
    check_attention(OP, input.attention.as_ref(), input.b, input.r)?;
    check_weights(OP, input.weights.as_ref())
}

/// The mix matrix (r, b, n) and, where asked for, the mass (r, n), into the caller's memory.
///
/// # Errors
/// As [`weights`], and [`crate::Error::Workspace`] when the workspace is smaller than
/// [`weights_workspace_bytes`].
pub fn weights_into(
    mixing: &Mixing,
    input: &WeightsInput<'_>,
    mut matrix: ViewMut<'_, f32, 3>,
    mut mass: Option<ViewMut<'_, f32, 2>>,
    workspace: &mut [u8],
) -> Result<()> {
    validate(mixing, input)?;
    let (b, r, n) = (input.b, input.r, mixing.n);
    expect_shape(OP, "the mix matrix", matrix.shape(), [r, b, n])?;
    if let Some(mass) = &mass {
        expect_shape(OP, "the mass", mass.shape(), [r, n])?;
    }
    let mut carve = Carve::new(workers::words(OP, workspace, words(mixing, input))?);
    let attention = input
        .attention
        .as_ref()
        .map(|a| ScaledAttention::new(a, mixing.empty_maps, carve.words(ScaledAttention::words(b, r))));
    let source = Source::new(*mixing, b, attention, input.weights);
    let (matrix_layout, matrix) = (*matrix.layout(), Shared::new(matrix.data_mut()));
    let mass = mass.as_mut().map(|mass| (*mass.layout(), Shared::new(mass.data_mut())));
    let (panels, items) = (n.div_ceil(PANEL), items(mixing, input));
    for_each_item(items, workers::workers(items), carve.rest(), |item, scratch| {
        let (j, first) = (item / panels, item % panels * PANEL);
        let mut carve = Carve::new(scratch);
        let panel = source.panel(carve.words(Panel::WORDS), j, first, PANEL.min(n - first));
        let mut slab = Slab::new(&mut carve, b, row_stride(TILE), false);
        let width = even_tiles(panel.k().len(), TILE);
        for start in (0..panel.k().len()).step_by(width) {
            let count = width.min(panel.k().len() - start);
            slab.draw(&source, &panel, j, start, count);
            let ks = source.columns(&panel, start, count);
            for (i, row) in slab.matrix.chunks_exact(slab.stride).take(b).enumerate() {
                let at = matrix_layout.offset([j, i, 0]);
                for (k, &value) in ks.clone().zip(row) {
                    // SAFETY: the outputs are borrowed for the whole call; column k of position j belongs to this item.
                    unsafe { matrix.set(at + k * matrix_layout.strides[2], value) };
                }
            }
            let Some((layout, mass)) = &mass else { continue };
            let scale = source.attention.as_ref().map_or(1.0, |attention| attention.scale(j));
            for (k, &value) in ks.zip(&*slab.mass) {
                // SAFETY: as above.
                unsafe { mass.set(layout.offset([j, k]), value / scale) };
            }
        }
    });
    Ok(())
}
