//! Malformed PTX gives an error or a finding, never a crash of the host.

mod kernel;

use kernel::Gpu;
use proptest::prelude::*;
use vgpu::exec::{LaunchSpec, launch};
use vgpu::program::Module;

const CORPUS: [&str; 2] = [include_str!("programs/correct.ptx"), include_str!("programs/counted.ptx")];

/// Loads the text and launches every kernel of it with small parameters: any outcome will do, but a panic.
fn survive(text: &str) {
    let mut gpu = Gpu::new();
    gpu.settings.instruction_limit = Some(20_000);
    gpu.settings.threads = 1;
    let Ok(module) = Module::load(text, &gpu.memory) else { return };
    let buffer = gpu.upload(&[1u32; 4096]);
    for name in module.kernel_names() {
        let kernel = module.kernel(name).expect("the module has named it");
        let mut params = vec![0; kernel.param_bytes as usize];
        for word in params.chunks_exact_mut(8) {
            word.copy_from_slice(&buffer.to_le_bytes());
        }
        // A driver refuses more than a device has.
        if kernel.static_shared > 227 << 10 {
            continue;
        }
        let outcome = launch(&LaunchSpec {
            kernel: &kernel,
            memory: &gpu.memory,
            device: &gpu.device,
            grid: [2, 1, 1],
            block: [40, 1, 1],
            dynamic_shared: 0,
            params: &params,
            cooperative: false,
            settings: &gpu.settings,
        });
        if let Err(fault) = outcome {
            assert!(fault.code() != 0 && !fault.to_string().is_empty());
        }
    }
}

/// Words that mutations put in place of others.
const WORDS: [&str; 24] = [
    "0",
    "-1",
    "4294967295",
    "18446744073709551615",
    "0x7fffffff",
    "0f7FC00000",
    "%r1",
    "%rd1",
    "%p1",
    "{",
    "}",
    "[",
    "]",
    ".b8",
    ".v4",
    ".u64",
    ".f32",
    "bar.sync",
    "ret",
    "@%p1",
    ";",
    ",",
    ".reg .b32 %q<9>;",
    ".shared .b8 z[];",
];

/// Swaps, drops, doubles or replaces tokens of a text.
fn mutate(text: &str, edits: &[(usize, usize, u8)]) -> String {
    let mut tokens: Vec<&str> = text.split_inclusive([' ', '\t', '\n', ',', ';']).collect();
    for &(at, with, how) in edits {
        let len = tokens.len();
        let (at, other) = (at % len, with % len);
        match how % 5 {
            0 => tokens.swap(at, other),
            1 => tokens[at] = "",
            2 => tokens[at] = tokens[other],
            3 => tokens[at] = WORDS[with % WORDS.len()],
            _ => tokens.insert(at, tokens[other]),
        }
    }
    tokens.concat()
}

/// One kernel of a text, with the module's head: mutations then meet what runs.
fn kernel_of(text: &str, index: usize) -> String {
    let head = &text[..text.find(".visible .entry").unwrap_or(0)];
    let kernels: Vec<usize> = text.match_indices(".visible .entry").map(|(at, _)| at).collect();
    let from = kernels[index % kernels.len()];
    let to = kernels.get(index % kernels.len() + 1).copied().unwrap_or(text.len());
    format!("{head}{}", &text[from..to])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_kernels(
        which in 0usize..CORPUS.len(),
        kernel in any::<usize>(),
        edits in prop::collection::vec(any::<(usize, usize, u8)>(), 1..12),
    ) {
        survive(&mutate(&kernel_of(CORPUS[which], kernel), &edits));
    }

    #[test]
    fn damaged_bytes(which in 0usize..CORPUS.len(), kernel in any::<usize>(), damage in prop::collection::vec(any::<(usize, u8)>(), 1..8)) {
        let mut bytes = kernel_of(CORPUS[which], kernel).into_bytes();
        for (at, byte) in damage {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        survive(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn cut_texts(which in 0usize..CORPUS.len(), at in any::<usize>()) {
        let text = CORPUS[which];
        survive(&text[..at % text.len()]);
    }
}

/// `VGPU_FUZZ_CASES` runs for longer than a test should.
fn cases() -> u32 {
    std::env::var("VGPU_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

#[test]
fn errors_name_their_line() {
    let gpu = Gpu::new();
    for (text, line) in [
        ("", 1),
        ("garbage", 1),
        (".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {\n  mov.u32 ;;; %r1\n", 6),
        (".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {\n  ret\n}", 6),
        (".version 8.0\n.target sm_80\n.address_size 32\n", 3),
        (".version 8.0\n.global .b32 x = y;\n", 2),
    ] {
        let error = Module::load(text, &gpu.memory).expect_err(text);
        assert_eq!(error.line, line, "{text}: {error}");
    }
}
