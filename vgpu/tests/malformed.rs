//! Malformed PTX gives an error or a finding, never a crash of the host.

mod kernel;

use kernel::Gpu;
use proptest::prelude::*;
use std::sync::OnceLock;
use vgpu::exec::{LaunchSpec, launch};
use vgpu::program::Module;

/// Real PTX. `VGPU_FUZZ_CORPUS` names a folder with more of it.
fn corpus() -> &'static [String] {
    static CORPUS: OnceLock<Vec<String>> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let own = [include_str!("programs/correct.ptx"), include_str!("programs/counted.ptx")];
        let folder = std::env::var_os("VGPU_FUZZ_CORPUS");
        let files =
            folder.iter().flat_map(|folder| std::fs::read_dir(folder).expect("the corpus is a folder"));
        let more = files.map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("a text"));
        own.into_iter().map(str::to_string).chain(more).collect()
    })
}

/// One text of the corpus.
fn text(which: usize) -> &'static str {
    &corpus()[which % corpus().len()]
}

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

/// Words of operands and opcodes that keep an instruction well-formed, mostly.
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "31",
    "32",
    "63",
    "64",
    "255",
    "65535",
    "2147483647",
    "4294967295",
    "-9223372036854775808",
];
const MODIFIERS: [&str; 48] = [
    "u8", "s8", "b8", "u16", "s16", "b16", "f16", "f16x2", "bf16", "bf16x2", "u32", "s32", "b32", "f32",
    "u64", "s64", "b64", "f64", "b128", "tf32", "pred", "global", "shared", "local", "param", "const", "v2",
    "v4", "wide", "hi", "lo", "rn", "rz", "rm", "rp", "rni", "rzi", "ftz", "sat", "sync", "aligned",
    "volatile", "relaxed", "acquire", "gpu", "cta", "x4", "trans",
];

/// Whether it separates the words of an instruction.
fn is_separator(c: char) -> bool {
    matches!(c, ' ' | '\t' | ',' | ';' | '[' | ']' | '{' | '}' | '(' | ')' | '+' | '@' | '!')
}

/// Kind of an operand: what comes before the digits of a register or a label.
fn kind_of(word: &str) -> &str {
    word.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_')
}

/// The instructions of a kernel by line, each cut into words and separators.
fn instructions(text: &str) -> Vec<Vec<String>> {
    let words = |line: &str| {
        let mut words: Vec<String> = vec![String::new()];
        for c in line.chars() {
            let separates = is_separator(c);
            if separates || words.last().is_some_and(|word| word.starts_with(is_separator)) {
                words.push(String::new());
            }
            words.last_mut().expect("there is one").push(c);
        }
        words
    };
    text.split_inclusive('\n').map(words).collect()
}

/// Changes instructions so that most of them still are some: their order, operands, numbers and types.
fn mutate_instructions(text: &str, edits: &[(usize, usize, usize, u8)]) -> String {
    let mut lines = instructions(text);
    let code: Vec<usize> = (0..lines.len())
        .filter(|&at| {
            lines[at].concat().trim_end().ends_with(';') && !lines[at].concat().trim().starts_with('.')
        })
        .collect();
    if code.is_empty() {
        return text.to_string();
    }
    let pool: Vec<String> =
        lines.iter().flatten().filter(|word| word.starts_with(['%', '$'])).cloned().collect();
    for &(line, word, with, how) in edits {
        let (line, other) = (code[line % code.len()], code[with % code.len()]);
        match how % 8 {
            0 => lines.swap(line, other),
            1 => lines[line] = lines[other].clone(),
            2 => lines[line].clear(),
            3 => lines[line].insert(0, format!("@%p{} ", word % 4)),
            _ => {
                let is_word =
                    |word: &str| word.starts_with(|c: char| c.is_ascii_alphanumeric() || "%$-".contains(c));
                let mut words: Vec<&mut String> =
                    lines[line].iter_mut().filter(|word| is_word(word)).collect();
                let count = words.len().max(1);
                let Some(word) = words.get_mut(word % count) else { continue };
                **word = replacement(word, &pool, with);
            }
        }
    }
    lines.concat().concat()
}

/// Another word of the same kind.
fn replacement(word: &str, pool: &[String], with: usize) -> String {
    if word.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        return NUMBERS[with % NUMBERS.len()].to_string();
    }
    if word.contains('.') && !word.starts_with('%') {
        let mut parts: Vec<&str> = word.split('.').collect();
        let at = 1 + with % (parts.len() - 1);
        parts[at] = MODIFIERS[with / 7 % MODIFIERS.len()];
        return parts.join(".");
    }
    let alike: Vec<&String> = pool.iter().filter(|other| kind_of(other) == kind_of(word)).collect();
    if alike.is_empty() { word.to_string() } else { alike[with % alike.len()].clone() }
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
        which in any::<usize>(),
        kernel in any::<usize>(),
        edits in prop::collection::vec(any::<(usize, usize, u8)>(), 1..12),
    ) {
        survive(&mutate(&kernel_of(text(which), kernel), &edits));
    }

    #[test]
    fn mutated_instructions(
        which in any::<usize>(),
        kernel in any::<usize>(),
        edits in prop::collection::vec(any::<(usize, usize, usize, u8)>(), 1..6),
    ) {
        survive(&mutate_instructions(&kernel_of(text(which), kernel), &edits));
    }

    #[test]
    fn damaged_bytes(which in any::<usize>(), kernel in any::<usize>(), damage in prop::collection::vec(any::<(usize, u8)>(), 1..8)) {
        let mut bytes = kernel_of(text(which), kernel).into_bytes();
        for (at, byte) in damage {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        survive(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn cut_texts(which in any::<usize>(), at in any::<usize>()) {
        let text = text(which);
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
/// The mutations of instructions are of use only while enough of them run.
#[test]
fn most_mutated_instructions_are_executed() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let edits = prop::collection::vec(any::<(usize, usize, usize, u8)>(), 1..6);
    let (mut loaded, all) = (0, 60);
    for index in 0..all {
        let edits = edits.new_tree(&mut runner).expect("a list of edits").current();
        let text = mutate_instructions(&kernel_of(text(index), index), &edits);
        let gpu = Gpu::new();
        let module = Module::load(&text, &gpu.memory);
        loaded += usize::from(module.is_ok_and(|module| {
            module
                .kernel_names()
                .iter()
                .all(|name| module.kernel(name).expect("the module has named it").unsupported().is_none())
        }));
    }
    println!("{loaded} of {all}");
    assert!(loaded > all / 2, "{loaded} of {all} mutated kernels can be executed");
}

/// Texts that ask for more than there is.
#[test]
fn greed_is_refused() {
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(200_000), close.repeat(200_000));
    let bodies = [
        nested("{", "}"),
        format!("mov.b32 %r1, {};", nested("{", "}")),
        format!("mov.b32 %r1, {};", nested("(", ")")),
        format!("mov.b32 %r1, {}1;", "-".repeat(200_000)),
        ".reg .b32 %q<2147483647>;".into(),
        ".reg .b32 %q<-5>;".into(),
        ".local .b8 big[17179869184]; mov.b64 %rd1, big;".into(),
        ".local .align 1073741824 .b8 odd[4]; mov.b64 %rd1, odd;".into(),
        ".shared .b8 big[4294967295]; mov.b64 %rd1, big;".into(),
        ".shared .align 2147483648 .b8 odd[4]; mov.b64 %rd1, odd;".into(),
        "alloca.u64 %rd1, -1;".into(),
        "tex.2d.v4.f32.f32 {%r1, %r1, %r1, %r1}, [%rd1, {%r1, %r1}];".into(),
        "again: bra again;".into(),
    ];
    for body in bodies {
        survive(&format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {{\n.reg .b32 %r<3>; .reg .b64 %rd<3>;\n{body}\nret;\n}}\n"
        ));
    }
    for global in ["[1099511627776]", "[4294967295][4294967295][4294967295]", "[4] = {1, 2, 3, 4, 5, 6, 7}"] {
        survive(&format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.global .b32 big{global};\n.entry k() {{ ret; }}\n"
        ));
    }
}

/// A texture, which nothing here executes, fails its own kernel and no other of the module.
#[test]
fn textures_fail_their_kernel_only() {
    let gpu = Gpu::new();
    let kernel = |name: &str, body: &str| {
        format!(".entry {name}() {{\n.reg .b32 %r<3>; .reg .b64 %rd<3>;\n{body}\nret;\n}}\n")
    };
    let text = [
        kernel::HEADER.to_string(),
        kernel("plain", ""),
        kernel("texture", "tex.2d.v4.f32.f32 {%r1, %r1, %r1, %r1}, [%rd1, {%r1, %r1}];"),
        kernel(
            "tensor",
            "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%rd1], [%rd2, {%r1}], [%rd1];",
        ),
    ];
    let module = Module::load(&text.concat(), &gpu.memory).expect("the module loads");
    let unsupported = |name: &str| module.kernel(name).expect("it is there").unsupported().cloned();
    assert_eq!(unsupported("plain"), None);
    for (name, opcode) in [("texture", "tex.2d"), ("tensor", "cp.async.bulk.tensor")] {
        let why = unsupported(name).expect(name);
        assert!(why.text.starts_with(opcode) && why.message.contains(opcode), "{why:?}");
    }
}
