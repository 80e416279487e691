//! Device memory: global allocations with guards and initialisation bits, and the shadows of the race
//! detector.

mod arena;
mod global;
mod plane;

pub(crate) use arena::Arena;
pub use global::{Allocation, GlobalMemory, MemoryError};
