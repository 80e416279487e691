//! The exported functions, by subject. Their documentation is NVIDIA's; comments here tell what differs.

#![allow(non_snake_case, reason = "the names are cuda.h's")]

mod context;
mod device;
mod event;
mod external;
mod general;
mod graph;
mod launch;
mod library;
mod memory;
mod module;
mod occupancy;
mod own;
mod pool;
mod stream;
mod transfer;

use super::Symbol;

/// Every exported function.
fn symbols() -> impl Iterator<Item = &'static Symbol> {
    [
        general::SYMBOLS,
        device::SYMBOLS,
        context::SYMBOLS,
        module::SYMBOLS,
        library::SYMBOLS,
        memory::SYMBOLS,
        transfer::SYMBOLS,
        pool::SYMBOLS,
        stream::SYMBOLS,
        event::SYMBOLS,
        launch::SYMBOLS,
        occupancy::SYMBOLS,
        graph::SYMBOLS,
        external::SYMBOLS,
    ]
    .into_iter()
    .flatten()
}
