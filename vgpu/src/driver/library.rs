//! Libraries: modules that belong to no context, and are loaded into each on first use there.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex};

use super::context::Context;
use super::handle::{Handle, Registered, registered};
use super::module::{Function, Module, Refusal};
use super::status::{Result, Status};
use super::stream::lock;

/// `CUlibrary`.
pub struct Library {
    pub handle: usize,
    ptx: String,
    /// Handles of its modules, by those of their contexts.
    modules: Mutex<HashMap<usize, usize>>,
    /// Handles of its kernels, by name.
    kernels: Mutex<HashMap<String, usize>>,
}

registered!(Library);

/// `CUkernel`.
pub struct Kernel {
    pub library: usize,
    pub name: CString,
}

registered!(Kernel);

impl Library {
    /// Loads PTX text, and finds its mistakes, in `context`.
    pub fn load(context: &Arc<Context>, ptx: &str) -> std::result::Result<usize, Refusal> {
        let module = Module::load(context, ptx)?;
        let (handle, _) = Self::registry().insert_with(|handle| {
            Arc::new(Self {
                handle,
                ptx: ptx.to_owned(),
                modules: Mutex::new(HashMap::from([(context.handle, module)])),
                kernels: Mutex::default(),
            })
        });
        Ok(handle)
    }

    /// Its module in `context`.
    pub fn module_in(&self, context: &Arc<Context>) -> Result<Arc<Module>> {
        let mut modules = lock(&self.modules);
        let handle = match modules.get(&context.handle) {
            Some(&loaded) => loaded,
            None => {
                let loaded = Module::load(context, &self.ptx).map_err(|refusal| refusal.status)?;
                modules.insert(context.handle, loaded);
                loaded
            }
        };
        Handle::<Module>::new(handle).get()
    }

    /// `cuLibraryGetKernel`: the same handle every time.
    pub fn kernel(&self, context: &Arc<Context>, name: &str) -> Result<usize> {
        self.module_in(context)?.program.kernel(name).ok_or(Status::NOT_FOUND)?;
        let mut kernels = lock(&self.kernels);
        if let Some(&known) = kernels.get(name) {
            return Ok(known);
        }
        let text = CString::new(name).map_err(|_| Status::NOT_FOUND)?;
        let handle = Kernel::registry().insert(Arc::new(Kernel { library: self.handle, name: text }));
        kernels.insert(name.to_owned(), handle);
        Ok(handle)
    }

    /// `cuLibraryUnload`: its own handle is gone already; those of its kernels and modules go too.
    pub fn unload(&self) {
        for (_, kernel) in lock(&self.kernels).drain() {
            Kernel::registry().remove(kernel);
        }
        for (context, module) in lock(&self.modules).drain() {
            let module = Module::registry().remove(module);
            if let (Some(context), Some(module)) = (Context::registry().find(context), module) {
                module.unload(&context);
            }
        }
    }
}

impl Kernel {
    /// Its function in `context`.
    pub fn function_in(&self, context: &Arc<Context>) -> Result<usize> {
        let library = Handle::<Library>::new(self.library).get()?;
        let name = self.name.to_str().map_err(|_| Status::NOT_FOUND)?;
        library.module_in(context)?.function(name)
    }
}

/// What a `CUfunction` argument means: a function, or a kernel of a library in the current context.
pub fn function_of(context: &Arc<Context>, handle: Handle<Function>) -> Result<Arc<Function>> {
    match Kernel::registry().find(handle.value()) {
        Some(kernel) => Handle::<Function>::new(kernel.function_in(context)?).get(),
        None => handle.get(),
    }
}
