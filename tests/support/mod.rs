//! What the four test binaries share: random problems in any memory order, a plain implementation to measure
//! errors against, and the measure; devices, NVRTC, and a harness that reports what it could not test.

#![allow(dead_code, unused_imports, unused_macros)] // Each binary uses its part.

pub mod alone;
pub mod device;
pub mod exact;
pub mod harness;
pub mod masked;
pub mod measure;
pub mod nvrtc;
pub mod on_cpu;
pub mod plain;
pub mod plain_attention;
pub mod problem;
pub mod raw;
pub mod real;
pub mod shown;
pub mod statistics;
pub mod strided;
pub mod tensors;
pub mod tiles;
pub mod usual;
