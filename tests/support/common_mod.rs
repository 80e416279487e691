//! What the tests of the CUDA engine share: NVRTC and devices to test on, and a harness that reports what it could not test.
//!
//! Tests that need what a machine lacks are reported as ignored, with the reason, never as passed.

#![allow(dead_code)] // Every test binary uses its own part.

pub mod array;
pub mod calls;
pub mod device;
pub mod error;
pub mod harness;
pub mod nvrtc;
pub mod problem;

pub use device::Device;
pub use harness::Harness;
