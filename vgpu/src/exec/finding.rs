//! What an instruction may end with, before it is known which launch it belongs to.

use crate::fault::FaultKind;
use crate::program::code::Pc;

/// A finding inside a block.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) kind: FaultKind,
    pub(crate) message: String,
    /// Threads concerned, linear in the block.
    pub(crate) threads: Vec<u32>,
    pub(crate) address: Option<u64>,
    pub(crate) pc: Option<Pc>,
}

/// The result of a step.
pub(crate) type Step<T> = Result<T, Box<Finding>>;

impl Finding {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Box<Finding> {
        Box::new(Finding { kind, message: message.into(), threads: Vec::new(), address: None, pc: None })
    }

    pub(crate) fn thread(mut self: Box<Self>, thread: u32) -> Box<Finding> {
        if !self.threads.contains(&thread) {
            self.threads.push(thread);
        }
        self
    }

    /// The lanes of a warp under a mask.
    pub(crate) fn lanes(mut self: Box<Self>, warp: u32, mask: u32) -> Box<Finding> {
        self.threads.extend((0..32).filter(|lane| mask >> lane & 1 != 0).map(|lane| warp * 32 + lane));
        self
    }

    pub(crate) fn address(mut self: Box<Self>, address: u64) -> Box<Finding> {
        self.address = Some(address);
        self
    }

    pub(crate) fn at(mut self: Box<Self>, pc: Pc) -> Box<Finding> {
        self.pc.get_or_insert(pc);
        self
    }
}

/// Lanes of a mask, lowest first.
pub(crate) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        (rest != 0).then(|| {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            lane
        })
    })
}
