//! A stand-in until `benches/counters.rs` names `tests/support`.

#[path = "../support/mod.rs"]
mod support;

pub use support::{device, nvrtc};
