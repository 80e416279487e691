//! The mix matrix on its own: Λ, or M̂ of equations (5) and (6), for inspection and for uses of one's own.

use super::Cpu;
use super::slab::{Slab, Source, even_tiles, row_stride};
use super::workers::{self, Carve, for_each_item, share};
use crate::element::Element;
use crate::error::Result;
use crate::op::{Columns, Engine, MixMatrix, Reborrow, WEIGHTS as OP, WeightsCall, WeightsInput, check_call};
use crate::sampler::panel::{PANEL, Panel};

/// Columns drawn at a time.
const TILE: usize = 256;

/// Draws the mix matrix: Λ, or M̂ when attention is given.
///
/// # Errors
/// Sizes of 0 or whose product overflows, an α out of range, attention or weights that are negative or not
/// finite.
///
/// ```
/// use multimix::{Alpha, Mixing, WeightsInput, cpu};
/// let input = WeightsInput { b: 5, r: 2, attention: None };
/// let lambda = cpu::weights(&Mixing::dirichlet(3, Alpha::PAPER).seed(1), &input)?.matrix;
/// let column: f32 = (0..5).map(|i| lambda[(1 * 5 + i) * 3 + 2]).sum(); // position 1, column 2
/// assert!((column - 1.0).abs() < 1e-6);
/// # Ok::<(), multimix::Error>(())
/// ```
pub fn weights<'a>(columns: impl Into<Columns<'a>>, input: &WeightsInput<'_>) -> Result<MixMatrix> {
    Cpu.weights(&columns.into(), input)
}

/// Bytes of workspace that [`weights_into`] needs on the current rayon pool.
///
/// # Errors
/// As [`weights()`].
pub fn weights_workspace<T: Element>(call: &WeightsCall<'_, T>) -> Result<usize> {
    check(call)?;
    Ok(workers::bytes(words(call)))
}

fn words<T>(call: &WeightsCall<'_, T>) -> usize {
    let scratch = Panel::WORDS + Slab::words(call.input.b, row_stride(TILE), false);
    Source::words(&call.input.attention) + workers::workers(items(call)) * scratch
}

/// One item for each panel of each position.
fn items<T>(call: &WeightsCall<'_, T>) -> usize {
    call.input.r * call.columns.n().div_ceil(PANEL)
}

fn check<T: Element>(call: &WeightsCall<'_, T>) -> Result<()> {
    check_call(call)?;
    call.columns.check_values(OP, &call.input.attention)?;
    workers::check_countable(OP, call.input.b, call.input.r, 1)
}

/// The mix matrix (r, b, n), the mass (r, n), or both into the caller's memory.
///
/// # Errors
/// As [`weights()`], and [`ErrorKind::Workspace`](crate::ErrorKind::Workspace) when the workspace is smaller
/// than [`weights_workspace`] says.
pub fn weights_into<T: Element>(call: &mut WeightsCall<'_, T>, workspace: &mut [u8]) -> Result<()> {
    check(call)?;
    let mut carve = Carve::new(workers::words(OP, workspace, words(call))?);
    let (items, mut call) = (items(call), call.map(&mut Reborrow)?);
    let (b, n) = (call.input.b, call.columns.n());
    let source = Source::new(&call.columns, b, &call.input.attention, &mut carve);
    let (matrix, mass) = (call.outputs.matrix.as_mut().map(share), call.outputs.mass.as_mut().map(share));
    let panels = n.div_ceil(PANEL);
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
                let Some((matrix, layout)) = &matrix else { break };
                let at = layout.offset([j, i, 0]);
                for (k, &value) in ks.clone().zip(row) {
                    // SAFETY: the outputs are borrowed for the whole call; column k of position j belongs to
                    // this item.
                    unsafe { matrix.set(at + k * layout.strides[2], T::from_f32(value)) };
                }
            }
            let Some((mass, layout)) = &mass else { continue };
            let scale = source.attention.as_ref().map_or(1.0, |attention| attention.scale(j));
            for (k, &value) in ks.zip(&*slab.mass) {
                // SAFETY: as above.
                unsafe { mass.set(layout.offset([j, k]), value / scale) };
            }
        }
    });
    Ok(())
}
