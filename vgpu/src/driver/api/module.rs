//! Modules, their functions and variables.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::Arc;

use crate::driver::abi::{In, Name, Out};
use crate::driver::capture;
use crate::driver::context::{Context, current};
use crate::driver::export;
use crate::driver::handle::Handle;
use crate::driver::library::function_of;
use crate::driver::module::{Function, Module, Refusal, refuse_binary};
use crate::driver::status::{Result, Status};
use crate::driver::tracing;

export! {
    fn cuModuleLoad(handle: Out<usize>, path: Name) {
        let context = loading_context(&handle)?;
        let image = std::fs::read(Path::new(&path.get()?)).map_err(|_| Status::FILE_NOT_FOUND)?;
        let loaded = text_of(&image).and_then(|ptx| Module::load(&context, ptx));
        handle.set(loaded.map_err(print)?)
    }

    fn cuModuleLoadData(handle: Out<usize>, image: In<u8>) {
        let context = loading_context(&handle)?;
        handle.set(load_image(&context, &image)?.map_err(print)?)
    }

    fn cuModuleLoadDataEx(
        handle: Out<usize>,
        image: In<u8>,
        count: u32,
        options: In<u32>,
        values: Out<*mut c_void>,
    ) {
        let context = loading_context(&handle)?;
        let keys = options.list(count as usize)?;
        let loaded = load_image(&context, &image)?;
        let log = loaded.as_ref().err().map_or("", |refusal| &refusal.log);
        let logged = fill_logs(&keys, &values, log)?;
        handle.set(loaded.map_err(|refusal| if logged { refusal.status } else { print(refusal) })?)
    }

    fn cuModuleLoadFatBinary(handle: Out<usize>, image: In<u8>) {
        let context = loading_context(&handle)?;
        handle.set(load_image(&context, &image)?.map_err(print)?)
    }

    fn cuModuleUnload(handle: Handle<Module>) {
        let context = current()?;
        capture::forbid_unsafe_call()?;
        let module = handle.remove()?;
        // Its functions are unknown to whoever asks afterwards; a launch of them that has yet to begin is a
        // finding.
        module.unload(&context);
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: Out<u32>) {
        const EAGER: u32 = 1;
        mode.set(EAGER)
    }

    fn cuModuleGetFunction(handle: Out<usize>, module: Handle<Module>, name: Name) {
        current()?;
        handle.check()?;
        handle.set(module.get()?.function(&name.get()?)?)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle<Module>) {
        current()?;
        count.set(module.get()?.program.kernel_names().len() as u32)
    }

    fn cuModuleEnumerateFunctions(handles: Out<usize>, count: u32, module: Handle<Module>) {
        current()?;
        let module = module.get()?;
        let names = module.program.kernel_names();
        let functions: Result<Vec<usize>> = names.iter().map(|name| module.function(name)).collect();
        handles.set_slice(&functions?, count as usize)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: Handle<Module>, name: Name) {
        let context = current()?;
        if address.is_null() && bytes.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let (base, size) = module.get()?.global(&context, &name.get()?)?;
        address.set_if_wanted(base);
        bytes.set_if_wanted(size as usize);
        Ok(())
    }

    fn cuFuncGetModule(handle: Out<usize>, function: Handle<Function>) {
        handle.set(function_of(&current()?, function)?.module)
    }

    fn cuFuncGetName(name: Out<*const c_char>, function: Handle<Function>) {
        name.set(function_of(&current()?, function)?.name.as_ptr())
    }

    fn cuFuncGetParamInfo(function: Handle<Function>, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        let function = function_of(&current()?, function)?;
        let parameter = function.kernel.params.get(index).ok_or(Status::INVALID_VALUE)?;
        offset.set(parameter.offset as usize)?;
        bytes.set_if_wanted(parameter.size as usize);
        Ok(())
    }

    fn cuFuncGetAttribute(value: Out<c_int>, attribute: u32, function: Handle<Function>) {
        value.set(function_of(&current()?, function)?.attribute(attribute)?)
    }

    fn cuFuncSetAttribute(function: Handle<Function>, attribute: u32, value: c_int) {
        let context = current()?;
        function_of(&context, function)?.set_attribute(attribute, value, context.device.config.architecture)
    }

    fn cuFuncSetCacheConfig(function: Handle<Function>, config: u32) {
        function_of(&current()?, function)?;
        if config <= 3 { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }

    fn cuFuncSetSharedMemConfig(function: Handle<Function>, config: u32) {
        function_of(&current()?, function)?;
        if config <= 2 { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }

    fn cuFuncIsLoaded(state: Out<u32>, function: Handle<Function>) {
        const LOADED: u32 = 1;
        function_of(&current()?, function)?;
        state.set(LOADED)
    }

    fn cuFuncLoad(function: Handle<Function>) {
        function_of(&current()?, function).map(|_| ())
    }
}

/// The context to load into, after the checks that every way of loading begins with.
pub fn loading_context(handle: &Out<usize>) -> Result<Arc<Context>> {
    let context = current()?;
    handle.check()?;
    capture::forbid_unsafe_call()?;
    Ok(context)
}

/// Says on stderr why a module was refused: there is no log to say it in. Of machine code only with
/// `VGPU_TRACE`: a program that has PTX, too, offers that next, and nothing has failed.
pub fn print(refusal: Refusal) -> Status {
    if !refusal.machine_code || tracing() {
        eprintln!("vgpu: module refused: {}", refusal.log);
    }
    refusal.status
}

fn not_text() -> Refusal {
    Refusal::new(Status::INVALID_IMAGE, "the image is neither machine code nor PTX text")
}

/// Loads an image that ends with its own zero byte.
fn load_image(context: &Arc<Context>, image: &In<u8>) -> Result<std::result::Result<usize, Refusal>> {
    Ok(image_text(image)?.and_then(|ptx| Module::load(context, &ptx)))
}

/// The PTX text of an image that ends with its own zero byte.
pub fn image_text(image: &In<u8>) -> Result<std::result::Result<String, Refusal>> {
    image.get()?;
    // The zero byte of a text may stand anywhere, so no byte is read behind one.
    let mut first = [0; 4];
    for (index, byte) in first.iter_mut().enumerate() {
        // SAFETY: no zero byte came before, so that neither a text nor a binary has ended.
        *byte = unsafe { image.as_ptr().add(index).read() };
        if *byte == 0 {
            break;
        }
    }
    if let Err(refusal) = refuse_binary(first) {
        return Ok(Err(refusal));
    }
    // SAFETY: not machine code, so that the caller passed a zero-terminated text.
    let text = unsafe { CStr::from_ptr(image.as_ptr().cast()) };
    Ok(text_of(text.to_bytes()).map(str::to_owned))
}

/// The PTX text in an image, up to a zero byte if it has one.
pub fn text_of(image: &[u8]) -> std::result::Result<&str, Refusal> {
    if let Some(first) = image.first_chunk() {
        refuse_binary(*first)?;
    }
    let text = image.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| not_text())?;
    if text.trim().is_empty() { Err(not_text()) } else { Ok(text) }
}

/// `CUjit_option`.
const INFO_LOG: u32 = 3;
const INFO_LOG_BYTES: u32 = 4;
const ERROR_LOG: u32 = 5;
const ERROR_LOG_BYTES: u32 = 6;
const LAST_OPTION: u32 = 40;

/// Fills the log buffers that the options name, and sets their sizes to what was written. Options that steer
/// the real assembler have no effect. Gives whether there was a buffer for the errors.
fn fill_logs(keys: &[u32], values: &Out<*mut c_void>, error_log: &str) -> Result<bool> {
    if keys.iter().any(|&key| key > LAST_OPTION) {
        return Err(Status::INVALID_VALUE);
    }
    let given = values.list(keys.len())?;
    let find = |key: u32| keys.iter().position(|&asked| asked == key);
    for (buffer_key, size_key, text) in
        [(INFO_LOG, INFO_LOG_BYTES, ""), (ERROR_LOG, ERROR_LOG_BYTES, error_log)]
    {
        let Some(size_index) = find(size_key) else { continue };
        // The size comes in the value itself, in its low 32 bits, and goes out the same way.
        let room = given[size_index] as usize as u32 as usize;
        let mut written = 0;
        if let Some(buffer) = find(buffer_key).map(|index| given[index]).filter(|b| !b.is_null() && room > 0)
        {
            Out::from_raw(buffer.cast::<c_char>()).set_text(text, room)?;
            written = text.len().min(room - 1) + usize::from(!text.is_empty());
        }
        values.set_at(size_index, std::ptr::without_provenance_mut(written))?;
    }
    Ok(find(ERROR_LOG).is_some() && find(ERROR_LOG_BYTES).is_some())
}
