//! The sampler: its contract bit for bit, and its laws.

mod contract;
mod golden;
mod statistics;
