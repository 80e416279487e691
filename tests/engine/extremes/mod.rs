//! Values at the ends of what f32 holds, masked classes and empty attention maps: no NaN from finite input,
//! and the reference's result wherever one is to be had.
//!
//! `MULTIMIX_PROBLEMS` says how many random problems are tried, `MULTIMIX_TEST_SEED` which.

mod attention;
mod fuzz;
mod masks;
mod mixing;
mod values;
