//! What is loaded into a context: for as long as the context lives, whatever becomes of the engines.

use std::ffi::CString;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use cudarc::driver::result::{function, module};
use cudarc::driver::sys::{CUfunc_st, CUfunction, CUfunction_attribute, CUmod_st};
use cudarc::driver::{CudaContext, DriverError};

use super::advice::driver_error;
use super::aside::Asides;
use super::device::DeviceInfo;
use super::image::{Choices, is_refusal};
use super::jit::{Compiler, Flights, Image, Program, Target, trace};
use super::variant::Variant;
use crate::error::{Error, Result};

/// The kernels of a context by one compiler, shared by all engines of the two.
///
/// Nothing here is ever unloaded: a captured graph, or a launch that waits in its stream, may name a function
/// after the last engine is gone. The driver frees modules with its context. Nothing here owns that, or
/// cudarc's context object, with which the list ends: who opens and drops a device over and over, while
/// others keep its primary context alive, leaves modules there each time.
#[derive(Debug)]
pub(super) struct Modules {
    pub device: DeviceInfo,
    pub compiler: Arc<Compiler>,
    target: Target,
    loaded: Flights<Variant, Arc<Loaded>>,
    /// Whether the driver takes machine code of this compiler at all, once a refusal makes one ask.
    takes_cubins: OnceLock<bool>,
    pub asides: Asides,
}

/// A variant in the context.
#[derive(Debug)]
pub(super) struct Loaded {
    pub variant: Variant,
    pub image: Arc<Image>,
    functions: Vec<(&'static str, Handle<CUfunc_st>)>,
}

/// A handle of the driver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle<T>(pub *mut T);

// SAFETY: the driver takes its handles from any thread, and nobody else looks behind them.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

impl Modules {
    /// Those of a context by a compiler: the same ones for as long as the context lives.
    pub fn of(context: &Arc<CudaContext>, device: DeviceInfo, compiler: Arc<Compiler>) -> Result<Arc<Self>> {
        static ALL: Mutex<Vec<(Weak<CudaContext>, Arc<Modules>)>> = Mutex::new(vec![]);
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(context, _)| context.strong_count() > 0);
        let known = all.iter().find(|(owner, modules)| {
            std::ptr::eq(owner.as_ptr(), Arc::as_ptr(context)) && Arc::ptr_eq(&modules.compiler, &compiler)
        });
        if let Some((_, known)) = known {
            return Ok(Arc::clone(known));
        }
        let target = Target::for_device(device.capability, compiler.nvrtc().archs())?;
        let (loaded, takes_cubins, asides) = (Flights::default(), OnceLock::new(), Asides::new(context)?);
        let modules = Arc::new(Self { device, compiler, target, loaded, takes_cubins, asides });
        all.push((Arc::downgrade(context), Arc::clone(&modules)));
        Ok(modules)
    }

    /// A variant, if it is loaded.
    pub fn get(&self, variant: &Variant) -> Option<Arc<Loaded>> {
        self.loaded.get(variant)
    }

    /// All that is loaded.
    pub fn loaded(&self) -> Vec<Arc<Loaded>> {
        self.loaded.values()
    }

    /// What to compile for: PTX alone, in half the time, for a driver that takes nothing else.
    pub fn target(&self) -> Target {
        if self.takes_cubins.get() == Some(&false) { self.target.as_virtual() } else { self.target }
    }

    /// A variant, loaded now if nobody has.
    pub fn get_or_load(
        &self,
        op: &'static str,
        context: &CudaContext,
        variant: Variant,
        target: Target,
    ) -> Result<Arc<Loaded>> {
        self.loaded.get_or_make(variant, || self.load(op, context, variant, target).map(Arc::new))
    }

    fn load(
        &self,
        op: &'static str,
        context: &CudaContext,
        variant: Variant,
        target: Target,
    ) -> Result<Loaded> {
        check_shared_memory(op, &self.device, &variant)?;
        let (begin, program) = (Instant::now(), variant.program());
        let call = format!("loading {variant}");
        let failed = |error| driver_error(op, &*call, error);
        // Threads that load for another begin without a context.
        context.bind_to_thread().map_err(failed)?;
        let (found, origin) = self.compiler.obtain(&program, target)?;
        let choices = Choices {
            renew: &|refused| self.compiler.renew(&program, target, refused),
            takes_cubins: &|| *self.takes_cubins.get_or_init(|| self.try_empty_kernel()),
            load: &load_data,
        };
        let (module, image, origin) = choices.load(found, origin).map_err(|why| why.into_error(op, &call))?;
        trace(|| format!("{op}: {variant}: {origin:?}, loaded after {:.1?}", begin.elapsed()));
        let mut functions = Vec::with_capacity(variant.source.kernels.len());
        for &kernel in variant.source.kernels {
            // No kernel's name holds a zero byte.
            let name = CString::new(kernel).unwrap_or_default();
            // SAFETY: the module has just been loaded into the context that is current.
            let function = unsafe { module::get_function(module.0, name) }.map_err(failed)?;
            if variant.shared_bytes > 48 << 10 {
                let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                let bytes = variant.shared_bytes as i32;
                // SAFETY: as above.
                unsafe { function::set_function_attribute(function, attribute, bytes) }.map_err(failed)?;
            }
            functions.push((kernel, Handle(function)));
        }
        Ok(Loaded { variant, image, functions })
    }

    /// Whether the driver takes the machine code of a kernel that does nothing. No file of the cache is
    /// asked.
    fn try_empty_kernel(&self) -> bool {
        let text = "extern \"C\" __global__ void empty() {}";
        let program = Program { name: "empty.cu".into(), text: text.into(), headers: &[], macros: vec![] };
        let Ok(image) = self.compiler.nvrtc().compile(&program, self.target) else { return true };
        let loaded = load_data(&image.cubin);
        if let Ok(module) = loaded {
            // SAFETY: loaded here, and nothing of it is used. What a failure leaves is small.
            let _ = unsafe { module::unload(module.0) };
        }
        let refused = loaded.is_err_and(is_refusal);
        trace(|| format!("jit: the driver takes {}", if refused { "PTX alone" } else { "machine code" }));
        !refused
    }
}

impl Loaded {
    /// A kernel of the variant, in the context that it was loaded into.
    pub fn function(&self, kernel: &str) -> Option<CUfunction> {
        self.functions.iter().find(|(name, _)| *name == kernel).map(|(_, function)| function.0)
    }
}

/// Loads machine code, or PTX with a zero byte at its end, into the current context.
fn load_data(image: &[u8]) -> std::result::Result<Handle<CUmod_st>, DriverError> {
    // SAFETY: an image that carries its own end, as far as the compiler or the cache's checksum can vouch for
    // it.
    unsafe { module::load_data(image.as_ptr().cast()) }.map(Handle)
}

/// Whether a block of the variant has room on the device.
fn check_shared_memory(op: &'static str, device: &DeviceInfo, variant: &Variant) -> Result<()> {
    let (given, wanted) = (device.shared_per_block, variant.shared_bytes);
    if wanted <= given {
        return Ok(());
    }
    Err(Error::device(
        op,
        format!("{variant} needs {wanted} bytes of shared memory a block, but {} has {given}", device.name),
        "use a device with more shared memory, or the CPU engine",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No device of compute capability 7.5 or later has less than 64 KiB, for which all kernels are made.
    #[test]
    fn a_device_with_little_shared_memory_is_refused_by_name() {
        let device = |kib: u32| DeviceInfo {
            name: "Small".into(),
            capability: 75,
            multiprocessors: 1,
            shared_per_block: kib << 10,
            shared_per_multiprocessor: kib << 10,
            driver_version: 12_000,
        };
        let all = |device: &DeviceInfo| -> Vec<Result<()>> {
            super::super::catalogue::all(device)
                .iter()
                .map(|variant| check_shared_memory("mix", device, variant))
                .collect()
        };
        assert!(all(&device(64)).iter().all(Result::is_ok));
        let refused: Vec<_> = all(&device(8)).into_iter().filter_map(Result::err).collect();
        let text = refused.first().expect("8 KiB do not suffice").to_string();
        assert!(text.contains("shared memory") && text.contains("Small has 8192"), "{text}");
        assert!(text.contains("use a device with more shared memory, or the CPU engine"), "{text}");
    }
}
