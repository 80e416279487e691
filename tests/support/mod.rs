//! What the tests of the engines share: random problems in any memory order, a plain implementation to measure errors against,
//! and the measure.

#![allow(dead_code)] // each test binary uses its part

pub mod masked;
pub mod measure;
pub mod plain;
pub mod plain_attention;
pub mod problem;
pub mod raw;
pub mod real;
pub mod strided;
