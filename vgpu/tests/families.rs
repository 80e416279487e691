//! What NVRTC emits for every family of intrinsics and language features is known, for each architecture.
//!
//! `programs/families.cu` is compiled by NVRTC 12 and 13 for compute_75 to compute_90. Whether the results
//! are right is for the tests of single instructions; here no kernel may hold an instruction that the virtual
//! GPU does not have.

mod nvrtc;

use std::sync::Arc;
use vgpu::memory::GlobalMemory;
use vgpu::program::Module;

const SOURCE: &str = include_str!("programs/families.cu");
const ARCHITECTURES: [u32; 5] = [75, 80, 86, 89, 90];

fn check(version: &str) {
    let headers = nvrtc::target_folder().join("cuda/include");
    let (Some(compiler), true) = (nvrtc::Compiler::open(version), headers.join("cuda_fp8.h").is_file())
    else {
        println!("skipped: `cargo xtask nvrtc` and `cargo xtask toolkit` fetch NVRTC and the CUDA headers");
        return;
    };
    let memory = Arc::new(GlobalMemory::new(1 << 30).expect("address space"));
    let mut unknown = Vec::new();
    for architecture in ARCHITECTURES {
        let options =
            [format!("--gpu-architecture=compute_{architecture}"), format!("-I{}", headers.display())];
        let ptx =
            compiler.compile(SOURCE, &options).unwrap_or_else(|log| panic!("compute_{architecture}: {log}"));
        let module =
            Module::load(&ptx, &memory).unwrap_or_else(|error| panic!("compute_{architecture}: {error}"));
        let names = module.kernel_names();
        assert_eq!(names.len(), SOURCE.matches("\nALL ").count(), "compute_{architecture}: {names:?}");
        for name in names {
            let kernel = module.kernel(name).expect("the module has named it");
            let why = kernel
                .unsupported()
                .map(|why| format!("compute_{architecture} {name}: {}: {}", why.message, why.text));
            unknown.extend(why);
        }
    }
    assert!(unknown.is_empty(), "NVRTC {version}:\n{}", unknown.join("\n"));
}

#[test]
fn nvrtc_12() {
    check("12.9.86");
}

#[test]
fn nvrtc_13() {
    check("13.5.37");
}
