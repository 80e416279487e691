//! Who gets the virtual driver: whoever asks for it, and nobody else.

use std::process::Command;

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

/// Runs one of the steps below in a process of its own, as a process loads a driver once. It finds libraries where cargo
/// puts them and nowhere else: in particular not in the folder that `cargo xtask test` adds.
fn run(step: &str, variables: &[(&str, &str)]) -> bool {
    let executable = std::env::current_exe().unwrap();
    let mut command = Command::new(&executable);
    command.args(["--exact", "one_step"]).env(STEP, step).envs(variables.iter().copied());
    command.env("LD_LIBRARY_PATH", executable.parent().unwrap());
    command.status().unwrap().success()
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
        _ => {}
    }
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
