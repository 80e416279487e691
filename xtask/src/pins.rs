//! The releases this project fetches: what they are called, their hashes, and where they are put.

/// One set of wheels, unpacked together into one folder.
pub struct Pin {
    /// Shown in messages.
    pub name: &'static str,
    /// Folder below the target directory.
    pub folder: &'static str,
    /// A pip requirements file with a sha256 for each wheel (x86_64 and aarch64).
    pub requirements: &'static str,
    /// Files that must be there afterwards, relative to the folder.
    pub expected: &'static [&'static str],
}

/// Release that `cargo xtask test` compiles with unless told otherwise.
pub const DEFAULT_NVRTC: &str = "12.9.86";

/// NVRTC releases, oldest first: version and pin.
pub const NVRTC: [(&str, Pin); 2] = [
    (
        "12.9.86",
        Pin {
            name: "NVRTC 12.9.86",
            folder: "nvrtc/12.9.86",
            requirements: include_str!("../pins/nvrtc-12.9.86.txt"),
            expected: &["lib/libnvrtc.so.12", "lib/libnvrtc-builtins.so.12.9"],
        },
    ),
    (
        "13.5.37",
        Pin {
            name: "NVRTC 13.5.37",
            folder: "nvrtc/13.5.37",
            requirements: include_str!("../pins/nvrtc-13.5.37.txt"),
            expected: &["lib/libnvrtc.so.13", "lib/libnvrtc-builtins.so.13.5"],
        },
    ),
];

/// CUDA headers (runtime, crt, libcu++) for kernels that include them, and the binary tools.
pub const TOOLKIT: Pin = Pin {
    name: "CUDA headers and tools",
    folder: "cuda",
    requirements: include_str!("../pins/toolkit.txt"),
    expected: &[
        "include/cuda_fp16.h",
        "include/cuda_bf16.h",
        "include/crt/mma.h",
        "include/cuda/std/type_traits",
        "bin/ptxas",
        "bin/nvdisasm",
        "bin/cuobjdump",
    ],
};
