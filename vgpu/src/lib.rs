//! A virtual GPU: executes PTX on the CPU, strictly.
//!
//! [`program::Module`] loads PTX text, [`exec::launch`] runs a kernel of it on [`memory::GlobalMemory`]; the
//! driver API over them is what the shared library exports.

mod architecture;
pub mod arith;
pub mod counters;
mod driver;
pub mod exec;
pub mod fault;
mod load;
pub mod memory;
pub mod program;
pub mod ptx;
pub mod roofline;
pub mod settings;

pub use load::{LoadError, VirtualGpu, library_path, load, load_from};
pub use settings::{Checks, Settings};
