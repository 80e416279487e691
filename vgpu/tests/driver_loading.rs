//! Who gets the virtual driver: whoever asks for it, and nobody else.

use std::ffi::{CString, c_char};
use std::process::{Command, Output};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// Whether `dlopen("libcuda.so")` gives the virtual GPU here.
fn is_virtual() -> bool {
    // SAFETY: whichever driver is found, its initialisers are made to be run.
    let Ok(library) = (unsafe { Library::open(Some("libcuda.so"), RTLD_NOW | RTLD_LOCAL) }) else {
        return false;
    };
    // SAFETY: only looked up.
    unsafe { library.get::<unsafe extern "C" fn()>(b"vgpu_version\0") }.is_ok()
}

const STEP: &str = "VGPU_TEST_STEP";

/// Runs one of the steps below in a process of its own, as a process loads a driver once. It finds libraries
/// where cargo puts them and nowhere else: in particular not in the folder that `cargo xtask test` adds.
fn run(step: &str, variables: &[(&str, &str)]) -> bool {
    output(step, variables).status.success()
}

fn output(step: &str, variables: &[(&str, &str)]) -> Output {
    let executable = std::env::current_exe().unwrap();
    let mut command = Command::new(&executable);
    command.args(["--exact", "one_step"]).env(STEP, step).envs(variables.iter().copied());
    command.env("LD_LIBRARY_PATH", executable.parent().unwrap());
    command.output().unwrap()
}

/// Not a test by itself.
#[test]
fn one_step() {
    match std::env::var(STEP).as_deref() {
        Ok("without") => assert!(!is_virtual()),
        Ok("with") => {
            let gpu = vgpu::load().unwrap();
            assert!(is_virtual());
            assert!(gpu.launches().is_empty());
            vgpu::load().expect("twice is no harm");
        }
        Ok("missing") => {
            let error = vgpu::load().unwrap_err();
            assert!(matches!(error, vgpu::LoadError::NotFound(_)));
            assert!(error.to_string().contains("/no/such/libvgpu.so"), "{error}");
        }
        Ok("misconfigured") => {
            let gpu = vgpu::load().unwrap();
            // SAFETY: the function has this type.
            let init = unsafe { gpu.driver_function::<unsafe extern "C" fn(u32) -> u32>(c"cuInit") }.unwrap();
            // SAFETY: as above.
            assert_eq!(unsafe { init(0) }, 1);
        }
        Ok("machine code") => {
            let gpu = vgpu::load().unwrap();
            let image = CString::new(std::env::var(IMAGE).unwrap()).unwrap();
            // SAFETY: the functions have these types; the pointers are valid, the text ends with a zero byte.
            unsafe {
                let function = |name| gpu.driver_function::<unsafe extern "C" fn(u32) -> u32>(name).unwrap();
                assert_eq!(function(c"cuInit")(0), 0);
                type Create = unsafe extern "C" fn(*mut usize, u32, i32) -> u32;
                let (mut context, mut module) = (0, 0);
                assert_eq!(gpu.driver_function::<Create>(c"cuCtxCreate_v2").unwrap()(&mut context, 0, 0), 0);
                type Load = unsafe extern "C" fn(*mut usize, *const c_char) -> u32;
                let load = gpu.driver_function::<Load>(c"cuModuleLoadData").unwrap();
                assert_ne!(load(&mut module, image.as_ptr()), 0);
            }
        }
        _ => {}
    }
}

const IMAGE: &str = "VGPU_TEST_IMAGE";

/// A program that offers a cubin before its PTX has not failed, and its output does not look so.
#[test]
fn that_machine_code_is_refused_is_said_to_who_asks() {
    let said = |image: &str, trace: &str| {
        let output = output("machine code", &[(IMAGE, image), ("VGPU_TRACE", trace)]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        text.contains("vgpu: module refused")
    };
    assert!(!said("\x7fELF...", "0"));
    assert!(said("\x7fELF...", "1"));
    assert!(said(".version 99.0\n.target sm_80\n", "0"), "PTX that is refused is a failure");
}

#[test]
fn it_is_found_only_after_it_was_loaded() {
    assert!(run("without", &[]));
    assert!(run("with", &[]));
}

#[test]
fn a_missing_library_is_an_error_with_its_name() {
    assert!(run("missing", &[("VGPU_LIBRARY", "/no/such/libvgpu.so")]));
}

#[test]
fn a_wrong_setting_fails_initialisation() {
    assert!(run("misconfigured", &[("VGPU_CC", "6.1")]));
    assert!(run("misconfigured", &[("VGPU_CHECKS", "everything")]));
    assert!(run("misconfigured", &[("VGPU_MEMORY", "-4G")]));
}
