//! A virtual GPU.
