//! Where NVRTC is, for the tests that compile CUDA C++.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::env;
use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};

/// Cargo's target folder, found from the running test.
pub fn target_folder() -> PathBuf {
    let executable = env::current_exe().unwrap();
    let found = executable.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    found.expect("cargo marks its target folder").to_owned()
}

/// The folder of libnvrtc.so.12 that `cargo xtask nvrtc` filled, or of one on the library path.
pub fn folder() -> Option<PathBuf> {
    let fetched = target_folder().join("nvrtc/12.9.86/lib");
    let path = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    std::iter::once(fetched).chain(env::split_paths(&path)).find(|folder| holds_nvrtc(folder))
}

fn holds_nvrtc(folder: &Path) -> bool {
    folder.join("libnvrtc.so.12").is_file()
}

/// Opens NVRTC by its path, so that cudarc finds it by its name. Gives whether there is one.
pub fn preload() -> bool {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    let Some(folder) = folder() else { return false };
    // SAFETY: NVRTC's initialisers are its own; it is never closed.
    let library = unsafe { Library::open(Some(folder.join("libnvrtc.so.12")), RTLD_NOW | RTLD_LOCAL) };
    library.map(std::mem::forget).is_ok()
}

/// One NVRTC of those that `cargo xtask nvrtc` fetched.
pub struct Compiler {
    library: libloading::Library,
}

type Program = *mut std::ffi::c_void;

impl Compiler {
    /// Opens the one in `target/nvrtc/<version>`, if it is there.
    pub fn open(version: &str) -> Option<Compiler> {
        let major = version.split('.').next()?;
        let path = target_folder().join(format!("nvrtc/{version}/lib/libnvrtc.so.{major}"));
        // SAFETY: NVRTC's initialisers are its own.
        let library = path.is_file().then(|| unsafe { libloading::Library::new(path) })?;
        library.ok().map(|library| Compiler { library })
    }

    /// PTX of a source; the error is the compiler's log.
    pub fn compile(&self, source: &str, options: &[String]) -> Result<String, String> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        let text = |text: &str| CString::new(text).expect("no zero bytes");
        let (source, name) = (text(source), text("source.cu"));
        let options: Vec<CString> = options.iter().map(|option| text(option)).collect();
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the signatures are those of nvrtc.h; every pointer outlives its call.
        unsafe {
            let create = self.library.get::<Create>(b"nvrtcCreateProgram").expect("NVRTC has it");
            let none = std::ptr::null();
            assert_eq!(create(&mut program, source.as_ptr(), name.as_ptr(), 0, none, none), 0);
            let compile = self.library.get::<Compile>(b"nvrtcCompileProgram").expect("NVRTC has it");
            let compiled = compile(program, options.len() as c_int, options.as_ptr()) == 0;
            let text = self.text(program, if compiled { "PTX" } else { "ProgramLog" });
            self.library.get::<Destroy>(b"nvrtcDestroyProgram").expect("NVRTC has it")(&mut program);
            if compiled { Ok(text) } else { Err(text) }
        }
    }

    /// What `nvrtcGet<what>` gives of a program.
    ///
    /// # Safety
    /// `program` must be alive.
    unsafe fn text(&self, program: Program, what: &str) -> String {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        let mut size = 0;
        // SAFETY: the signatures are those of nvrtc.h, and the buffer is as long as NVRTC says that the text
        // is.
        unsafe {
            let function = format!("nvrtcGet{what}Size");
            assert_eq!(
                self.library.get::<Size>(function.as_bytes()).expect("NVRTC has it")(program, &mut size),
                0
            );
            let mut text = vec![0u8; size];
            let function = format!("nvrtcGet{what}");
            let get = self.library.get::<Get>(function.as_bytes()).expect("NVRTC has it");
            assert_eq!(get(program, text.as_mut_ptr().cast()), 0);
            String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(&text)).into_owned()
        }
    }
}
