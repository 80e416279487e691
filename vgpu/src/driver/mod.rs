//! The CUDA driver API: what the shared library exports.
//!
//! | part | modules |
//! |---|---|
//! | the exported functions, by subject | [`api`] |
//! | C types, status codes, handles | [`abi`], [`status`], [`handle`] |
//! | the device and its settings | [`device`], [`config`], [`occupancy`] |
//! | contexts, memory, modules | [`context`], [`allocation`], [`pool`], [`module`], [`library`] |
//! | asynchronous work | [`stream`], [`event`], [`work`], [`launch`], [`capture`], [`graph`] |
//! | the record of launches | [`counters`] |
//!
//! An exported function is written with [`export!`], which gives it its C name, keeps a panic from crossing
//! the C interface, and enters it into the table that `cuGetProcAddress` reads. Its arguments are checked,
//! its work is done by the modules beneath, and its [`Status`](status::Status) is returned.

mod abi;
mod allocation;
mod api;
mod capture;
mod config;
mod context;
mod counters;
mod device;
mod event;
mod graph;
mod handle;
mod launch;
mod library;
mod module;
mod occupancy;
mod pool;
mod status;
mod stream;
mod work;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use status::{Result, Status};

/// An exported function: its C name and where it is.
struct Symbol {
    name: &'static str,
    address: *const (),
}

// SAFETY: the address of a function, which never changes and is not read through.
unsafe impl Sync for Symbol {}

/// Runs the body of an exported function and gives its `CUresult`.
fn guard(name: &'static str, body: impl FnOnce() -> Result) -> u32 {
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(Status(code))) => code,
        Err(_) => {
            eprintln!("vgpu: internal error in {name} (the panic above)");
            Status::UNKNOWN.0
        }
    };
    if tracing() {
        let known = status::describe(code).map_or("?".into(), |(name, _)| name.to_string_lossy());
        eprintln!("vgpu: {name} -> {known}");
    }
    code
}

/// Whether `VGPU_TRACE=1` asks for a line on stderr for every call.
fn tracing() -> bool {
    static TRACING: OnceLock<bool> = OnceLock::new();
    *TRACING.get_or_init(|| std::env::var("VGPU_TRACE").is_ok_and(|wish| wish == "1"))
}

/// Defines exported functions, and `SYMBOLS`, the list of them.
macro_rules! export {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $type),*) -> u32 {
                $crate::driver::guard(stringify!($name), move || $body)
            }
        )*

        pub(in crate::driver) static SYMBOLS: &[$crate::driver::Symbol] = &[
            $($crate::driver::Symbol { name: stringify!($name), address: $name as *const () }),*
        ];
    };
}
use export;
