//! Libraries and their kernels.

use std::ffi::{c_char, c_int, c_void};

use super::module::{image_text, loading_context, print, text_of};
use crate::driver::abi::{In, Name, Out};
use crate::driver::context::current;
use crate::driver::device::{device, device_at};
use crate::driver::export;
use crate::driver::handle::Handle;
use crate::driver::library::{Kernel, Library, function_of};
use crate::driver::status::{Result, Status};

export! {
    /// A context must be current: the text is checked in it.
    fn cuLibraryLoadData(
        handle: Out<usize>,
        image: In<u8>,
        _jit_options: In<u32>,
        _jit_values: In<*mut c_void>,
        _jit_count: u32,
        _options: In<u32>,
        _values: In<*mut c_void>,
        _count: u32,
    ) {
        let context = loading_context(&handle)?;
        let loaded = image_text(&image)?.and_then(|ptx| Library::load(&context, &ptx));
        handle.set(loaded.map_err(print)?)
    }

    fn cuLibraryLoadFromFile(
        handle: Out<usize>,
        path: Name,
        _jit_options: In<u32>,
        _jit_values: In<*mut c_void>,
        _jit_count: u32,
        _options: In<u32>,
        _values: In<*mut c_void>,
        _count: u32,
    ) {
        let context = loading_context(&handle)?;
        let image = std::fs::read(path.get()?).map_err(|_| Status::FILE_NOT_FOUND)?;
        let loaded = text_of(&image).and_then(|ptx| Library::load(&context, ptx));
        handle.set(loaded.map_err(print)?)
    }

    fn cuLibraryUnload(library: Handle<Library>) {
        device()?;
        library.remove()?.unload();
        Ok(())
    }

    fn cuLibraryGetKernel(handle: Out<usize>, library: Handle<Library>, name: Name) {
        handle.check()?;
        let context = current()?;
        handle.set(library.get()?.kernel(&context, &name.get()?)?)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle<Library>) {
        let module = library.get()?.module_in(&current()?)?;
        count.set(module.program.kernel_names().len() as u32)
    }

    fn cuLibraryEnumerateKernels(handles: Out<usize>, count: u32, library: Handle<Library>) {
        let (context, library) = (current()?, library.get()?);
        let module = library.module_in(&context)?;
        let names = module.program.kernel_names();
        let kernels: Result<Vec<usize>> = names.iter().map(|name| library.kernel(&context, name)).collect();
        handles.set_slice(&kernels?, count as usize)
    }

    fn cuLibraryGetModule(module: Out<usize>, library: Handle<Library>) {
        module.check()?;
        module.set(library.get()?.module_in(&current()?)?.handle)
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: Handle<Library>, name: Name) {
        let context = current()?;
        let (base, size) = library.get()?.module_in(&context)?.global(&context, &name.get()?)?;
        address.set_if_wanted(base);
        bytes.set_if_wanted(size as usize);
        Ok(())
    }

    fn cuKernelGetFunction(function: Out<usize>, kernel: Handle<Kernel>) {
        function.check()?;
        function.set(kernel.get()?.function_in(&current()?)?)
    }

    fn cuKernelGetLibrary(library: Out<usize>, kernel: Handle<Kernel>) {
        device()?;
        library.set(kernel.get()?.library)
    }

    fn cuKernelGetName(name: Out<*const c_char>, kernel: Handle<Kernel>) {
        device()?;
        name.set(kernel.get()?.name.as_ptr())
    }

    fn cuKernelGetParamInfo(kernel: Handle<Kernel>, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        let function = function_of(&current()?, Handle::new(kernel.value()))?;
        let parameter = function.kernel.params.get(index).ok_or(Status::INVALID_VALUE)?;
        offset.set(parameter.offset as usize)?;
        bytes.set_if_wanted(parameter.size as usize);
        Ok(())
    }

    fn cuKernelGetAttribute(value: Out<c_int>, attribute: u32, kernel: Handle<Kernel>, ordinal: c_int) {
        device_at(ordinal)?;
        kernel.get()?;
        value.set(function_of(&current()?, Handle::new(kernel.value()))?.attribute(attribute)?)
    }

    fn cuKernelSetAttribute(attribute: u32, value: c_int, kernel: Handle<Kernel>, ordinal: c_int) {
        let device = device_at(ordinal)?;
        kernel.get()?;
        let function = function_of(&current()?, Handle::new(kernel.value()))?;
        function.set_attribute(attribute, value, device.config.architecture)
    }

    fn cuKernelSetCacheConfig(kernel: Handle<Kernel>, config: u32, ordinal: c_int) {
        device_at(ordinal)?;
        kernel.get()?;
        if config <= 3 { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }
}
