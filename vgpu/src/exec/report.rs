//! Findings as reports: what a block knows, with the places in the PTX and the source.

use super::LaunchSpec;
use super::block::BlockState;
use super::finding::Finding;
use super::launch::Launch;
use crate::fault::{Fault, FaultKind, SourceLocation};
use crate::memory::Allocation;
use crate::program::Unsupported;

/// The report of a finding.
pub(super) fn fault(launch: &Launch<'_>, block: &BlockState<'_>, finding: Finding) -> Fault {
    let spec = launch.spec;
    let inst = finding.pc.map(|pc| &launch.code.instructions[pc as usize]);
    let (line, loc) = inst.map_or((0, 0), |inst| (inst.line, inst.loc));
    let [bx, by, _] = spec.block;
    let triple = |thread: u32| [thread % bx, thread / bx % by, thread / bx / by];
    let shared = finding.address.is_some_and(|address| address < u64::from(u32::MAX));
    let null =
        finding.kind == FaultKind::IllegalAddress && finding.address.is_some_and(|address| address < 4096);
    let allocation = finding.address.and_then(|address| match shared {
        // Offsets in shared memory: the block's is the allocation.
        true if !null || address_is_shared(inst) => {
            Some(Allocation { base: 0, size: launch.shared_bytes.into(), freed: false })
        }
        true => None,
        false => spec.memory.nearest(address),
    });
    Fault {
        kind: finding.kind,
        kernel: spec.kernel.name.clone(),
        grid: spec.grid,
        block: spec.block,
        block_idx: block.index,
        threads: finding.threads.iter().map(|&thread| triple(thread)).collect(),
        ptx_line: line,
        ptx_text: text_of(&launch.code.text, line),
        loc: location(launch, loc),
        address: finding.address,
        allocation,
        message: finding.message,
    }
}

fn address_is_shared(inst: Option<&crate::program::code::Inst>) -> bool {
    use crate::program::code::{Op, Space};
    match inst.map(|inst| &inst.op) {
        Some(Op::Load(access) | Op::Store(access)) => access.space == Space::Shared,
        Some(Op::Atomic(atomic)) => atomic.space == Space::Shared,
        Some(Op::Tiles(_) | Op::CopyAsync(_)) => true,
        _ => false,
    }
}

fn text_of(text: &str, line: u32) -> String {
    match line {
        0 => String::new(),
        line => text.lines().nth(line as usize - 1).unwrap_or("").trim().to_string(),
    }
}

fn location(launch: &Launch<'_>, loc: u32) -> Option<SourceLocation> {
    let &(file, line) = launch.code.locations.get(loc as usize).filter(|_| loc != 0)?;
    Some(SourceLocation { file: launch.code.files.get(&file)?.clone(), line })
}

/// The report of a kernel that cannot be executed.
pub(super) fn unsupported(spec: &LaunchSpec<'_>, why: &Unsupported) -> Fault {
    let fault = at_launch(spec, FaultKind::UnsupportedInstruction, why.message.clone());
    Fault { ptx_line: why.line, ptx_text: why.text.clone(), ..fault }
}

/// The report of a launch that did not begin.
pub(super) fn at_launch(spec: &LaunchSpec<'_>, kind: FaultKind, message: String) -> Fault {
    Fault {
        kind,
        kernel: spec.kernel.name.clone(),
        grid: spec.grid,
        block: spec.block,
        block_idx: [0; 3],
        threads: Vec::new(),
        ptx_line: 0,
        ptx_text: String::new(),
        loc: None,
        address: None,
        allocation: None,
        message,
    }
}
