//! Modules and their functions.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::allocation;
use super::context::Context;
use super::device::{SHARED_PER_BLOCK, THREADS_PER_BLOCK};
use super::handle::{Registered, registered};
use super::status::{Result, Status};
use super::stream::lock;
use crate::architecture::Architecture;
use crate::program::{self, Kernel};

/// The newest PTX that is accepted: what NVRTC 13.5 emits, for the driver version that is reported.
pub const NEWEST_PTX: (u32, u32) = (9, 5);

/// `CUmodule`.
pub struct Module {
    pub handle: usize,
    pub context: Weak<Context>,
    pub program: Arc<program::Module>,
    functions: Mutex<HashMap<String, usize>>,
    /// Addresses of the variables that were asked for.
    variables: Mutex<Vec<u64>>,
}

registered!(Module);

/// `CUfunction`.
pub struct Function {
    pub context: Weak<Context>,
    /// Handle of its module.
    pub module: usize,
    pub name: CString,
    pub kernel: Arc<Kernel>,
    /// Held, not read: the module's variables live as long as a launch that runs.
    _program: Arc<program::Module>,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
    pub max_dynamic_shared: AtomicU32,
    pub carveout: AtomicU32,
    pub non_portable_cluster: AtomicBool,
    pub cluster_policy: AtomicU32,
}

registered!(Function);

/// Why a module was refused, with what the JIT's error log says about it.
pub struct Refusal {
    pub status: Status,
    pub log: String,
    /// Whether the image is machine code: any GPU of another architecture refuses that, too.
    pub machine_code: bool,
}

impl Refusal {
    pub fn new(status: Status, log: impl Into<String>) -> Self {
        Self { status, log: log.into(), machine_code: false }
    }
}

const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
const FATBIN_MAGIC: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();
/// `fatBinaryHeader` is sometimes wrapped in a structure with this magic.
const FATBIN_WRAPPER_MAGIC: [u8; 4] = 0x4662_43b1_u32.to_le_bytes();

/// Refuses machine code, by its first bytes: there is no CPU here that executes it.
pub fn refuse_binary(first: [u8; 4]) -> std::result::Result<(), Refusal> {
    let kind = match first {
        ELF_MAGIC => "a cubin",
        FATBIN_MAGIC | FATBIN_WRAPPER_MAGIC => "a fat binary",
        _ => return Ok(()),
    };
    let log = format!("the image is {kind}; the virtual GPU executes PTX only");
    Err(Refusal { machine_code: true, ..Refusal::new(Status::NO_BINARY_FOR_GPU, log) })
}

impl Module {
    /// Loads PTX text into `context`.
    pub fn load(context: &Arc<Context>, ptx: &str) -> std::result::Result<usize, Refusal> {
        check_directives(ptx, context.device.config.architecture)?;
        let device = &context.device;
        let program = program::Module::load(ptx, &device.memory)
            .map_err(|error| Refusal::new(Status::INVALID_PTX, error.to_string()))?;
        let (handle, _) = Self::registry().insert_with(|handle| {
            Arc::new(Self {
                handle,
                context: Arc::downgrade(context),
                program: Arc::new(program),
                functions: Mutex::default(),
                variables: Mutex::default(),
            })
        });
        Ok(handle)
    }

    /// `cuModuleGetFunction`: the same handle every time.
    pub fn function(&self, name: &str) -> Result<usize> {
        let mut functions = lock(&self.functions);
        if let Some(&known) = functions.get(name) {
            return Ok(known);
        }
        let kernel = self.program.kernel(name).ok_or(Status::NOT_FOUND)?;
        let function = Function {
            context: self.context.clone(),
            module: self.handle,
            name: CString::new(name).map_err(|_| Status::NOT_FOUND)?,
            max_dynamic_shared: AtomicU32::new(SHARED_PER_BLOCK.saturating_sub(kernel.static_shared)),
            kernel,
            _program: self.program.clone(),
            carveout: AtomicU32::new(u32::MAX),
            non_portable_cluster: AtomicBool::new(false),
            cluster_policy: AtomicU32::new(0),
        };
        let handle = Function::registry().insert(Arc::new(function));
        functions.insert(name.to_owned(), handle);
        Ok(handle)
    }

    /// Address and size of a variable, which from now on is known as an allocation to copies and memsets.
    pub fn global(&self, context: &Arc<Context>, name: &str) -> Result<(u64, u64)> {
        let (address, bytes) = self.program.global(name).ok_or(Status::NOT_FOUND)?;
        if context.device.allocations.at(address).is_none() {
            context.device.allocations.insert(address, bytes, allocation::Kind::Module, context);
            lock(&self.variables).push(address);
        }
        Ok((address, bytes))
    }

    /// Forgets the handles of the module's functions and its variables; the module's own handle is gone
    /// already.
    pub fn unload(&self, context: &Context) {
        for (_, handle) in lock(&self.functions).drain() {
            Function::registry().remove(handle);
        }
        for address in lock(&self.variables).drain(..) {
            context.device.allocations.remove(address);
        }
    }
}

/// Refuses PTX of a version or for a target that this device's driver would not take.
fn check_directives(ptx: &str, architecture: &Architecture) -> std::result::Result<(), Refusal> {
    let version = directive(ptx, ".version").and_then(parse_version);
    if let Some((major, minor)) = version.filter(|&version| version > NEWEST_PTX) {
        let (newest, newest_minor) = NEWEST_PTX;
        let log =
            format!("PTX version {major}.{minor} is newer than {newest}.{newest_minor}, the newest known");
        return Err(Refusal::new(Status::UNSUPPORTED_PTX_VERSION, log));
    }
    let Some(target) = directive(ptx, ".target") else { return Ok(()) };
    let Some(name) = target.split(',').next().map(str::trim) else { return Ok(()) };
    let (sm, suffix) = parse_target(name).unwrap_or((0, ""));
    let own = architecture.sm();
    let runs = match suffix {
        "a" => sm == own,                        // features of one architecture
        "f" => sm / 10 == own / 10 && sm <= own, // features of a family
        _ => sm <= own,
    };
    if runs {
        return Ok(());
    }
    let log = format!("the module's .target {name} does not run on this device, which is sm_{own}");
    Err(Refusal::new(Status::NO_BINARY_FOR_GPU, log))
}

/// What follows a directive on its line, outside comments.
fn directive<'a>(ptx: &'a str, name: &str) -> Option<&'a str> {
    let lines = ptx.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    lines
        .filter_map(|line| line.strip_prefix(name))
        .find(|rest| rest.starts_with(char::is_whitespace))
        .map(str::trim)
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `sm_90a` is 90 and `a`.
fn parse_target(name: &str) -> Option<(u32, &str)> {
    let number = name.strip_prefix("sm_")?;
    let suffix = number.trim_start_matches(|c: char| c.is_ascii_digit());
    Some((number[..number.len() - suffix.len()].parse().ok()?, suffix))
}

impl Function {
    /// Whether its module is gone, and its code with it.
    pub fn is_unloaded(&self) -> bool {
        Module::registry().find(self.module).is_none()
    }

    /// Threads that a block of it may have.
    pub fn max_threads(&self) -> u32 {
        self.kernel.max_threads.map_or(THREADS_PER_BLOCK, |limit| limit.min(THREADS_PER_BLOCK))
    }

    /// Registers per thread, as an occupancy calculation takes them: those declared, up to what a thread can
    /// have.
    pub fn registers(&self) -> u32 {
        self.kernel.registers.clamp(1, 255)
    }

    /// `cuFuncGetAttribute`.
    pub fn attribute(&self, attribute: u32) -> Result<i32> {
        let (major, minor) = self.kernel.ptx_version;
        let value = match attribute {
            0 => self.max_threads(),
            1 => self.kernel.static_shared,
            2 => self.kernel.const_bytes,
            3 => self.kernel.local_bytes,
            4 => self.registers(),
            5 => major * 10 + minor,
            6 => self.context.upgrade().ok_or(Status::INVALID_HANDLE)?.device.config.architecture.sm(),
            7 => 0,
            8 => self.max_dynamic_shared.load(Ordering::Relaxed),
            9 => self.carveout.load(Ordering::Relaxed),
            10..=13 => 0,
            14 => u32::from(self.non_portable_cluster.load(Ordering::Relaxed)),
            15 => self.cluster_policy.load(Ordering::Relaxed),
            _ => return Err(Status::INVALID_VALUE),
        };
        Ok(value as i32)
    }

    /// `cuFuncSetAttribute`.
    pub fn set_attribute(&self, attribute: u32, value: i32, architecture: &Architecture) -> Result {
        let invalid = Status::INVALID_VALUE;
        match attribute {
            8 => {
                let bytes = u32::try_from(value).map_err(|_| invalid)?;
                let room = architecture.shared_per_block_optin.saturating_sub(self.kernel.static_shared);
                if bytes > room {
                    return Err(invalid);
                }
                self.max_dynamic_shared.store(bytes, Ordering::Relaxed);
            }
            9 if (-1..=100).contains(&value) => self.carveout.store(value as u32, Ordering::Relaxed),
            14 if (0..=1).contains(&value) => self.non_portable_cluster.store(value == 1, Ordering::Relaxed),
            15 if (0..=2).contains(&value) => self.cluster_policy.store(value as u32, Ordering::Relaxed),
            _ => return Err(invalid),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ptx: &str, capability: (u32, u32)) -> u32 {
        let architecture = Architecture::find(capability).unwrap();
        check_directives(ptx, architecture).map_or_else(|refusal| refusal.status.0, |()| 0)
    }

    #[test]
    fn targets_run_on_their_architecture_and_newer_ones() {
        let ptx =
            |target: &str| format!("// .target sm_99\n.version 8.8\n.target {target}, texmode_independent\n");
        assert_eq!(check(&ptx("sm_80"), (8, 0)), 0);
        assert_eq!(check(&ptx("sm_75"), (8, 0)), 0);
        assert_eq!(check(&ptx("sm_86"), (8, 0)), Status::NO_BINARY_FOR_GPU.0);
        assert_eq!(check(&ptx("sm_90a"), (9, 0)), 0);
        assert_eq!(check(&ptx("sm_90a"), (10, 0)), Status::NO_BINARY_FOR_GPU.0);
        assert_eq!(check(&ptx("sm_100f"), (10, 0)), 0);
        assert_eq!(check(&ptx("sm_100f"), (12, 0)), Status::NO_BINARY_FOR_GPU.0);
    }

    #[test]
    fn newer_ptx_versions_are_refused() {
        assert_eq!(check(".version 9.5\n.target sm_75\n", (8, 0)), 0);
        assert_eq!(check(".version 9.6\n.target sm_75\n", (8, 0)), Status::UNSUPPORTED_PTX_VERSION.0);
        assert_eq!(check(".version 10.0\n.target sm_75\n", (8, 0)), Status::UNSUPPORTED_PTX_VERSION.0);
    }

    #[test]
    fn machine_code_is_recognised_by_its_magic() {
        assert!(refuse_binary(*b"\x7fELF").is_err());
        assert!(refuse_binary([0x50, 0xed, 0x55, 0xba]).is_err());
        assert!(refuse_binary(*b"//\n.").is_ok());
    }
}
