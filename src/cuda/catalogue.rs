//! All kernels that an engine may ask for: plans are made of calls of every kind, and list what they would
//! launch.

use std::collections::HashSet;

use super::device::DeviceInfo;
use super::jit::Program;
use super::memory::Bare;
use super::plan::{Planned, Sink};
use super::queue::{BareCall, Precision};
use super::split::CHUNK;
use super::tile::Tile;
use super::variant::Variant;
use crate::element::{Dtype, Element};
use crate::error::{ErrorKind, Result};
use crate::op::{
    AttentionBackwardCall, AttentionCall, AttentionInput, AttentionOutputs, Classifier, Columns, LossCall,
    LossInput, LossOutputs, MixBackwardCall, MixBackwardOutputs, MixCall, MixInput, MixOutputs, MixTargets,
    MixedGradients, ScaleCall, Targets, WeightsCall, WeightsInput, WeightsOutputs,
};
use crate::problem::{Alpha, AttentionOptions, Factor, Generator, LossOptions, Mixing, Normalise, Query};
use crate::view::{Layout, View, ViewMut};

/// One compilation of a file of kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelVariant {
    /// The file's name without its ending: the op or a part of it.
    pub source: &'static str,
    /// The macros that make the variant, name and value.
    pub macros: Vec<(&'static str, String)>,
    /// What the compiler gets.
    pub program: Program,
    /// Dynamic shared memory of a block, in bytes.
    pub dynamic_shared_bytes: u32,
}

/// Every variant that an [`Engine`](super::Engine) on such a device may compile, each once, whatever the
/// shapes and options of calls: some thousands. To look over what ptxas makes of them, or to fill a
/// [`Cache`](super::jit::Cache) that is shipped.
pub fn kernel_variants(device: &DeviceInfo) -> Vec<KernelVariant> {
    all(device).into_iter().map(KernelVariant::from).collect()
}

/// The launches of a call on such a device, a line each, in order: op, kernel, variant, grid, block and
/// dynamic shared memory. To see what a call costs, or to look over what a change of it does; no device is
/// needed. Of the call's memory only layouts are looked at, and whether it begins on a boundary of 16 bytes:
/// views may be [`View::at`] address 0.
///
/// ```
/// use multimix::cuda::{self, Bare, DeviceInfo, Precision};
/// use multimix::{Alpha, Layout, Mixing, MixCall, MixInput, MixOutputs, View, ViewMut};
/// let device = DeviceInfo {
///     name: "A100".into(),
///     capability: 80,
///     multiprocessors: 108,
///     shared_per_block: 163 << 10,
///     shared_per_multiprocessor: 164 << 10,
///     driver_version: 12_040,
/// };
/// let call = MixCall::<f32, Bare> {
///     columns: Mixing::dirichlet(1000, Alpha::PAPER).into(),
///     input: MixInput {
///         features: View::at(0, Layout::contiguous([128, 49, 512])),
///         targets: None,
///         attention: None,
///     },
///     outputs: MixOutputs { features: ViewMut::at(0, Layout::contiguous([1000, 49, 512])), targets: None },
/// };
/// let launches = cuda::launches(&device, Precision::Tf32, &call)?;
/// assert!(launches.iter().any(|line| line.starts_with("mix: mix_forward of mix_forward ELEMENT=float ")));
/// # Ok::<(), multimix::Error>(())
/// ```
///
/// # Errors
/// Those of the call itself, save of memory that overlaps or is not there.
pub fn launches(device: &DeviceInfo, precision: Precision, call: &impl BareCall) -> Result<Vec<String>> {
    precision.check(device)?;
    Sink::list(device, precision, call).map(|(_, lines)| lines)
}

impl From<Variant> for KernelVariant {
    fn from(variant: Variant) -> Self {
        Self {
            source: variant.source.file.trim_end_matches(".cu"),
            macros: variant.macros(),
            program: variant.program(),
            dynamic_shared_bytes: variant.shared_bytes,
        }
    }
}

pub(super) fn all(device: &DeviceInfo) -> Vec<Variant> {
    let mut catalogue = Catalogue { device, seen: HashSet::new(), variants: vec![] };
    catalogue.add_calls_of::<f32>();
    catalogue.add_calls_of::<half::f16>();
    catalogue.add_calls_of::<half::bf16>();
    catalogue.variants
}

struct Catalogue<'d> {
    device: &'d DeviceInfo,
    seen: HashSet<Variant>,
    variants: Vec<Variant>,
}

/// A generator of each kind that kernels tell apart, and explicit weights.
fn columns(b: usize) -> Vec<Columns<'static, Bare>> {
    let dirichlet = [Alpha::Fixed(1.0), Alpha::Fixed(2.0), Alpha::Fixed(0.5), Alpha::PAPER];
    let dirichlet = dirichlet.map(|alpha| Generator::Dirichlet { alpha });
    let pair = Generator::Pair { alpha: Alpha::PAPER, factor: Factor::PerColumn };
    let drawn = dirichlet.into_iter().chain([pair]);
    let drawn =
        drawn.map(|generator| Columns::from(Mixing { generator, ..Mixing::dirichlet(1, Alpha::PAPER) }));
    drawn.chain([Columns::from(array([1, b, 1]))]).collect()
}

fn array<T, const N: usize>(shape: [usize; N]) -> View<'static, T, N, Bare> {
    View::at(0, Layout::contiguous(shape))
}

fn out<T, const N: usize>(shape: [usize; N]) -> ViewMut<'static, T, N, Bare> {
    ViewMut::at(0, Layout::contiguous(shape))
}

impl Catalogue<'_> {
    /// Calls that the device refuses are left out.
    fn add<C: Planned>(&mut self, precision: Precision, call: &C) {
        let variants = match Sink::list(self.device, precision, call) {
            Ok((variants, _)) => variants,
            Err(error) => {
                debug_assert!(matches!(error.kind, ErrorKind::Device { .. }), "{error}");
                return;
            }
        };
        self.variants.extend(variants.into_iter().filter(|variant| self.seen.insert(*variant)));
    }

    fn add_calls_of<T: Element>(&mut self) {
        self.add_attention::<T>();
        let tf32 = T::DTYPE == Dtype::F32 && self.device.has_ampere_tensor_cores();
        for precision in [Precision::Exact].into_iter().chain(tf32.then_some(Precision::Tf32)) {
            for b in Tile::batches() {
                for columns in columns(b) {
                    self.add_weights::<T>(precision, b, &columns);
                    self.add_mix::<T>(precision, b, &columns);
                    self.add_loss::<T>(precision, b, &columns);
                }
            }
        }
        self.add_sums::<T>();
        self.add_scale::<T, f32>();
        self.add_scale::<T, half::f16>();
        self.add_scale::<T, half::bf16>();
    }

    /// More columns than a chunk: gradients come in slices.
    fn add_sums<T: Element>(&mut self) {
        let targets = Targets::labels(array::<u32, 1>([1]));
        self.add(
            Precision::Exact,
            &LossCall::<T, Bare> {
                columns: Mixing::dirichlet(CHUNK + 1, Alpha::PAPER).into(),
                input: LossInput { logits: array([1; 3]), targets, attention: None },
                options: LossOptions::default(),
                upstream: 1.0.into(),
                outputs: LossOutputs { logits: Some(out([1; 3])), ..LossOutputs::default() },
            },
        );
    }

    fn add_scale<T: Element, G: Element>(&mut self) {
        let call =
            ScaleCall::<T, G, Bare> { gradient: array([1; 3]), upstream: 1.0.into(), out: out([1; 3]) };
        self.add(Precision::Exact, &call);
    }

    fn add_weights<T: Element>(&mut self, precision: Precision, b: usize, columns: &Columns<'static, Bare>) {
        self.add(
            precision,
            &WeightsCall::<T, Bare> {
                columns: columns.clone(),
                input: WeightsInput { b, r: 1, attention: Some(array([b, 1])) },
                outputs: WeightsOutputs { matrix: Some(out([1, b, 1])), mass: None },
            },
        );
    }

    fn add_attention<T: Element>(&mut self) {
        // Packed, contiguous along channels, contiguous along positions.
        let layouts = [
            Layout::contiguous([2, 2, 16]),
            Layout::contiguous([2, 2, 3]),
            Layout { shape: [2, 2, 3], strides: [6, 1, 2] },
        ];
        for (query, normalise) in [Query::Gap, Query::Cam]
            .into_iter()
            .flat_map(|query| [Normalise::ReluL1, Normalise::Softmax].map(|normalise| (query, normalise)))
        {
            for layout in layouts {
                let classifier = (query == Query::Cam).then(|| Classifier {
                    rows: array([2, layout.shape[2]]),
                    labels: array::<u32, 1>([2]).into(),
                });
                let input = AttentionInput::<T, Bare> { features: View::at(0, layout), classifier };
                let options = AttentionOptions { query, normalise };
                let outputs = AttentionOutputs { features: ViewMut::at(0, layout), classifier: None };
                self.add(
                    Precision::Exact,
                    &AttentionCall { input: input.clone(), options, maps: out([2, 2]) },
                );
                let d_maps = array([2, 2]);
                self.add(Precision::Exact, &AttentionBackwardCall { input, options, d_maps, outputs });
            }
        }
    }

    fn add_mix<T: Element>(&mut self, precision: Precision, b: usize, columns: &Columns<'static, Bare>) {
        let targets = MixTargets { targets: Targets::Soft(array([b, 1])), classes: 1 };
        // Channels apart, so that they are packed.
        let features = View::at(0, Layout { shape: [b, 1, 2], strides: [2, 2, 2] });
        let input = MixInput::<T, Bare> { features, targets: Some(targets), attention: Some(array([b, 1])) };
        self.add(
            precision,
            &MixCall {
                columns: columns.clone(),
                input: input.clone(),
                outputs: MixOutputs { features: out([1, 1, 2]), targets: None },
            },
        );
        self.add(
            precision,
            &MixBackwardCall {
                columns: columns.clone(),
                input,
                gradients: MixedGradients { features: array([1, 1, 2]), targets: Some(array([1, 1, 1])) },
                outputs: MixBackwardOutputs {
                    features: Some(out([b, 1, 2])),
                    targets: Some(out([b, 1])),
                    attention: Some(out([b, 1])),
                },
            },
        );
    }

    fn add_loss<T: Element>(&mut self, precision: Precision, b: usize, columns: &Columns<'static, Bare>) {
        let targets = [Targets::labels(array::<u32, 1>([b])), Targets::Soft(array([b, 1]))];
        for targets in targets {
            let input = LossInput { logits: array([b, 1, 1]), targets, attention: Some(array([b, 1])) };
            let options = LossOptions { detach_attention: false, ..LossOptions::default() };
            // None, dS in either type, and da, for which everything is taken in f32.
            for wanted in 0..4 {
                if wanted == 2 && T::DTYPE == Dtype::F32 {
                    continue;
                }
                self.add(
                    precision,
                    &LossCall::<T, Bare> {
                        columns: columns.clone(),
                        input: input.clone(),
                        options,
                        upstream: 1.0.into(),
                        outputs: LossOutputs {
                            logits: (wanted == 1 || wanted == 3).then(|| out([b, 1, 1])),
                            logits_f32: (wanted == 2).then(|| out([b, 1, 1])),
                            attention: (wanted == 3).then(|| out([b, 1])),
                            ..LossOutputs::default()
                        },
                    },
                );
            }
        }
    }
}
