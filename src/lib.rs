//! multimix
