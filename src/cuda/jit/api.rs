//! The functions of an NVRTC library, bound at run time.
//!
//! Bound here and not through cudarc, whose loader panics where the library is missing, cannot be told a
//! path, and offers neither cubins nor virtual headers.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;

use libloading::Library;

type Program = *mut c_void;
type Sized = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Filled = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The entry points that the compiler needs.
pub(super) struct Api {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    arch_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    archs: unsafe extern "C" fn(*mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log: (Sized, Filled),
    ptx: (Sized, Filled),
    cubin: (Sized, Filled),
    /// Never unloaded: NVRTC keeps threads and thread-local state.
    _library: ManuallyDrop<Library>,
}

/// A source file and the headers it may include.
pub(super) struct Unit {
    pub name: CString,
    pub text: CString,
    pub headers: Vec<(CString, CString)>,
}

/// What a compilation gave, successful or not.
pub(super) struct Compiled {
    /// The error's name, or none on success.
    pub failure: Option<String>,
    pub log: String,
    /// Empty when the target is a virtual architecture.
    pub cubin: Vec<u8>,
    pub ptx: Vec<u8>,
}

impl Api {
    /// Loads the library at `path`, or the one that the loader knows by that name. The error says why not.
    pub fn load(path: &Path) -> Result<Self, String> {
        // SAFETY: NVRTC's initialisers have no preconditions; what else carries its name is the user's own
        // choice.
        let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the types are those of nvrtc.h, unchanged since CUDA 11.2.
                *unsafe { library.get($name) }.map_err(|error| error.to_string())?
            };
        }
        Ok(Self {
            version: symbol!(b"nvrtcVersion\0"),
            arch_count: symbol!(b"nvrtcGetNumSupportedArchs\0"),
            archs: symbol!(b"nvrtcGetSupportedArchs\0"),
            error_string: symbol!(b"nvrtcGetErrorString\0"),
            create: symbol!(b"nvrtcCreateProgram\0"),
            destroy: symbol!(b"nvrtcDestroyProgram\0"),
            compile: symbol!(b"nvrtcCompileProgram\0"),
            log: (symbol!(b"nvrtcGetProgramLogSize\0"), symbol!(b"nvrtcGetProgramLog\0")),
            ptx: (symbol!(b"nvrtcGetPTXSize\0"), symbol!(b"nvrtcGetPTX\0")),
            cubin: (symbol!(b"nvrtcGetCUBINSize\0"), symbol!(b"nvrtcGetCUBIN\0")),
            _library: ManuallyDrop::new(library),
        })
    }

    /// Major and minor version.
    pub fn version(&self) -> Result<(u32, u32), String> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are valid for one int.
        self.check(unsafe { (self.version)(&mut major, &mut minor) })?;
        Ok((major as u32, minor as u32))
    }

    /// Architectures that it compiles for, ascending: 80 for sm_80.
    pub fn archs(&self) -> Result<Vec<u32>, String> {
        let mut count = 0;
        // SAFETY: the pointer is valid for one int.
        self.check(unsafe { (self.arch_count)(&mut count) })?;
        let mut archs = vec![0 as c_int; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the vector holds as many ints as NVRTC just asked for.
        self.check(unsafe { (self.archs)(archs.as_mut_ptr()) })?;
        let mut archs: Vec<u32> = archs.into_iter().map(|arch| arch as u32).collect();
        archs.sort_unstable();
        Ok(archs)
    }

    /// Compiles; a failure to compile is in the result, an `Err` is a failure of NVRTC itself.
    pub fn compile(&self, unit: &Unit, options: &[CString]) -> Result<Compiled, String> {
        let program = self.create(unit)?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the program is alive; the options are NUL-terminated and outlive the call.
        let code = unsafe { (self.compile)(program.handle, options.len() as c_int, options.as_ptr()) };
        let log = String::from_utf8_lossy(&program.read(self.log)?).trim_end_matches(['\0', '\n']).to_owned();
        if let Err(failure) = self.check(code) {
            return Ok(Compiled { failure: Some(failure), log, cubin: vec![], ptx: vec![] });
        }
        let mut ptx = program.read(self.ptx)?;
        while ptx.last() == Some(&0) {
            ptx.pop();
        }
        Ok(Compiled { failure: None, log, cubin: program.read(self.cubin)?, ptx })
    }

    fn create(&self, unit: &Unit) -> Result<OwnedProgram<'_>, String> {
        let texts: Vec<_> = unit.headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let names: Vec<_> = unit.headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let mut handle = ptr::null_mut();
        // SAFETY: all strings are NUL-terminated; NVRTC copies them.
        self.check(unsafe {
            let (text, name) = (unit.text.as_ptr(), unit.name.as_ptr());
            (self.create)(&mut handle, text, name, texts.len() as c_int, texts.as_ptr(), names.as_ptr())
        })?;
        Ok(OwnedProgram { api: self, handle })
    }

    fn check(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC answers every code with a static string.
        let name = unsafe { CStr::from_ptr((self.error_string)(code)) };
        Err(name.to_string_lossy().into_owned())
    }
}

struct OwnedProgram<'a> {
    api: &'a Api,
    handle: Program,
}

impl OwnedProgram<'_> {
    fn read(&self, (size, fill): (Sized, Filled)) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the program is alive, the pointer valid.
        self.api.check(unsafe { size(self.handle, &mut bytes) })?;
        let mut data = vec![0u8; bytes];
        if bytes > 0 {
            // SAFETY: the vector has the size that NVRTC just asked for.
            self.api.check(unsafe { fill(self.handle, data.as_mut_ptr().cast()) })?;
        }
        Ok(data)
    }
}

impl Drop for OwnedProgram<'_> {
    fn drop(&mut self) {
        // SAFETY: created by this library and not yet destroyed. A failure would leak it, no more.
        unsafe { (self.api.destroy)(&mut self.handle) };
    }
}
