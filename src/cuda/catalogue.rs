//! All kernels that an engine may ask for: the choosers of every op, run over all that they distinguish.

use std::collections::HashSet;

use super::device::DeviceInfo;
use super::jit::Program;
use super::variant::Variant;
use super::{
    attention, loss_backward, loss_backward_attention, loss_forward, mix_attention, mix_backward_plan,
    mix_forward, sampler, weights,
};

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

/// Every variant that an [`Engine`](super::Engine) on such a device may compile, each once, whatever the shapes and options of calls:
/// some thousands. To look over what ptxas makes of them, or to fill a [`Cache`](super::jit::Cache) that is shipped.
pub fn kernel_variants(device: &DeviceInfo) -> Vec<KernelVariant> {
    all(device).into_iter().map(KernelVariant::from).collect()
}

/// Whether a device's variants include this one.
pub(super) fn contains(device: &DeviceInfo, variant: &Variant) -> bool {
    all(device).contains(variant)
}

pub(super) fn all(device: &DeviceInfo) -> Vec<Variant> {
    let mut seen = HashSet::new();
    let variants = sampler::variants(device)
        .chain(attention::variants(device))
        .chain(weights::variants(device))
        .chain(mix_forward::variants(device))
        .chain(mix_backward_plan::variants(device))
        .chain(mix_attention::variants(device))
        .chain(loss_forward::variants(device))
        .chain(loss_backward::variants(device))
        .chain(loss_backward_attention::variants(device));
    variants.filter(|variant| seen.insert(*variant)).collect()
}

impl From<Variant> for KernelVariant {
    fn from(variant: Variant) -> Self {
        let program = variant.program();
        Self {
            source: variant.source.file.trim_end_matches(".cu"),
            macros: program.macros.clone(),
            program,
            dynamic_shared_bytes: variant.shared_bytes,
        }
    }
}
