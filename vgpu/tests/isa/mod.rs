//! Runs single instructions on the virtual GPU: one thread per row of operands.
//!
//! An instruction is given as PTX text over `%a0, %a1, ...` (operands) and `%d0, %d1, ...` (results), whose
//! widths the signature names. Expectations belong to the tests; nothing here knows any instruction.

#![allow(dead_code, reason = "each test crate uses a part")]

pub mod host;

use std::fmt::Write;
use std::sync::Arc;
use vgpu::exec::{Device, LaunchSpec, launch};
use vgpu::memory::GlobalMemory;
use vgpu::program::Module;
use vgpu::{Checks, Settings};

/// Width of an operand register, or a predicate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    B16,
    B32,
    B64,
    Pred,
}

impl Width {
    fn parse(name: &str) -> Width {
        match name {
            "b16" => Width::B16,
            "b32" => Width::B32,
            "b64" => Width::B64,
            "pred" => Width::Pred,
            other => panic!("`{other}` is no register width"),
        }
    }

    fn register(self, name: &str) -> String {
        let ty = match self {
            Width::B16 => ".b16",
            Width::B32 => ".b32",
            Width::B64 => ".b64",
            Width::Pred => ".pred",
        };
        format!("  .reg {ty} {name};\n")
    }

    /// Fills a register from the 64-bit `%word`.
    fn fill(self, name: &str) -> String {
        match self {
            Width::B16 => format!("  cvt.u16.u64 {name}, %word;\n"),
            Width::B32 => format!("  cvt.u32.u64 {name}, %word;\n"),
            Width::B64 => format!("  mov.b64 {name}, %word;\n"),
            Width::Pred => format!("  setp.ne.u64 {name}, %word, 0;\n"),
        }
    }

    /// Widens a register into `%word`.
    fn drain(self, name: &str) -> String {
        match self {
            Width::B16 => format!("  cvt.u64.u16 %word, {name};\n"),
            Width::B32 => format!("  cvt.u64.u32 %word, {name};\n"),
            Width::B64 => format!("  mov.b64 %word, {name};\n"),
            Width::Pred => format!("  selp.u64 %word, 1, 0, {name};\n"),
        }
    }
}

fn kernel_text(inputs: &[Width], outputs: &[Width], body: &str) -> String {
    let mut text = String::from(
        ".version 8.8\n.target sm_90\n.address_size 64\n\
         .visible .entry test(.param .u64 in, .param .u64 out)\n{\n\
         \x20 .reg .b64 %word, %from, %to, %row;\n  .reg .b32 %thread, %block, %width;\n",
    );
    for (name, widths) in [("%a", inputs), ("%d", outputs)] {
        for (i, width) in widths.iter().enumerate() {
            text += &width.register(&format!("{name}{i}"));
        }
    }
    text += "  mov.u32 %thread, %tid.x;\n  mov.u32 %block, %ctaid.x;\n  mov.u32 %width, %ntid.x;\n\
             \x20 mad.lo.u32 %thread, %block, %width, %thread;\n  cvt.u64.u32 %row, %thread;\n\
             \x20 ld.param.u64 %from, [in];\n  ld.param.u64 %to, [out];\n";
    writeln!(text, "  mad.lo.u64 %from, %row, {}, %from;", 8 * inputs.len()).unwrap();
    writeln!(text, "  mad.lo.u64 %to, %row, {}, %to;", 8 * outputs.len()).unwrap();
    for (i, width) in inputs.iter().enumerate() {
        writeln!(text, "  ld.global.u64 %word, [%from+{}];", 8 * i).unwrap();
        text += &width.fill(&format!("%a{i}"));
    }
    writeln!(text, "  {body}").unwrap();
    for (i, width) in outputs.iter().enumerate() {
        text += &width.drain(&format!("%d{i}"));
        writeln!(text, "  st.global.u64 [%to+{}], %word;", 8 * i).unwrap();
    }
    text + "  ret;\n}\n"
}

/// Executes `body` once per row: `signature` is `"b32 b32 -> b32"`, a row holds a number per operand. Gives
/// the results of each row. Blocks are whole warps; the last one is filled up with copies of the last row.
pub fn run(signature: &str, body: &str, rows: &[Vec<u64>]) -> Vec<Vec<u64>> {
    run_with(&Settings { checks: Checks::ALL, ..Settings::default() }, signature, body, rows)
}

/// [`run`] under other settings.
pub fn run_with(settings: &Settings, signature: &str, body: &str, rows: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let (inputs, outputs) = widths(signature);
    assemble(&kernel_text(&inputs, &outputs, body));
    run_unjudged(settings, signature, body, rows)
}

fn widths(signature: &str) -> (Vec<Width>, Vec<Width>) {
    let (inputs, outputs) = signature.split_once("->").expect("a signature has an arrow");
    let widths = |list: &str| list.split_whitespace().map(Width::parse).collect();
    (widths(inputs), widths(outputs))
}

/// [`run_with`] for instructions of a newer architecture than the one that [`assemble`] asks for.
pub fn run_unjudged(settings: &Settings, signature: &str, body: &str, rows: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let (inputs, outputs) = widths(signature);
    let text = kernel_text(&inputs, &outputs, body);
    let memory = Arc::new(GlobalMemory::new(1 << 30).expect("address space"));
    let module = Module::load(&text, &memory).unwrap_or_else(|error| panic!("{body}: {error}\n{text}"));
    let kernel = module.kernel("test").expect("the entry is there");

    let threads = rows.len().next_multiple_of(32);
    let last = rows.last().expect("at least one row");
    let words: Vec<u64> =
        rows.iter().chain(std::iter::repeat_n(last, threads - rows.len())).flatten().copied().collect();
    assert_eq!(words.len(), threads * inputs.len(), "rows of {} operands", inputs.len());
    // An instruction without operands still gets an address.
    let from = memory.alloc((8 * words.len()).max(8) as u64).expect("memory");
    let to = memory.alloc((8 * threads * outputs.len()) as u64).expect("memory");
    memory.write(from, bytes(&words).as_slice()).expect("inputs fit");
    let params: Vec<u8> = [from, to].into_iter().flat_map(u64::to_le_bytes).collect();
    let spec = LaunchSpec {
        kernel: &kernel,
        memory: &memory,
        device: &Device { compute_capability: (9, 0), ..Device::default() },
        grid: [(threads / 32) as u32, 1, 1],
        block: [32, 1, 1],
        dynamic_shared: 0,
        params: &params,
        cooperative: false,
        settings,
    };
    launch(&spec).unwrap_or_else(|fault| panic!("{body}\n{fault}"));
    let mut result = vec![0; 8 * threads * outputs.len()];
    memory.read(to, &mut result).expect("outputs were written");
    let words: Vec<u64> = result.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect();
    words.chunks_exact(outputs.len()).take(rows.len()).map(<[u64]>::to_vec).collect()
}

/// Has NVIDIA's assembler judge the PTX too, where `VGPU_TEST_PTXAS` names it: the tests then speak the ISA's
/// language and not a dialect of the emulator's.
fn assemble(text: &str) {
    let Some(ptxas) = std::env::var_os("VGPU_TEST_PTXAS") else { return };
    let path = std::env::temp_dir().join(format!(
        "vgpu-isa-{}-{:?}.ptx",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&path, text).expect("temporary files can be written");
    let run =
        std::process::Command::new(ptxas).args(["-arch=sm_90", "-O0", "-o", "/dev/null"]).arg(&path).output();
    std::fs::remove_file(&path).expect("the file was written");
    let run = run.expect("VGPU_TEST_PTXAS names ptxas");
    assert!(run.status.success(), "ptxas refuses:\n{text}\n{}", String::from_utf8_lossy(&run.stderr));
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Runs an instruction with one result on every row and compares with `expected` of the row.
pub fn check(signature: &str, body: &str, rows: &[Vec<u64>], expected: impl Fn(&[u64]) -> u64) {
    for (row, result) in rows.iter().zip(run(signature, body, rows)) {
        let (expected, seen) = (expected(row), result[0]);
        assert_eq!(seen, expected, "{body}\n  operands {row:x?}: {seen:#x}, expected {expected:#x}");
    }
}

/// All pairs of two lists.
pub fn pairs(a: &[u64], b: &[u64]) -> Vec<Vec<u64>> {
    a.iter().flat_map(|&x| b.iter().map(move |&y| vec![x, y])).collect()
}

/// All triples of three lists.
pub fn triples(a: &[u64], b: &[u64], c: &[u64]) -> Vec<Vec<u64>> {
    pairs(a, b).into_iter().flat_map(|row| c.iter().map(move |&z| [row.clone(), vec![z]].concat())).collect()
}

/// A row per number.
pub fn singles(a: &[u64]) -> Vec<Vec<u64>> {
    a.iter().map(|&x| vec![x]).collect()
}

/// Edges of 32-bit integers and a few numbers between.
pub const INTS32: [u64; 14] = [
    0,
    1,
    2,
    7,
    31,
    32,
    255,
    0x8000,
    0x0001_2345,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xdead_beef,
    0xffff_ffff,
];

/// Edges of 64-bit integers and a few numbers between.
pub const INTS64: [u64; 12] = [
    0,
    1,
    3,
    0xffff_ffff,
    0x1_0000_0000,
    0x0123_4567_89ab_cdef,
    i64::MAX as u64,
    1 << 63,
    (1 << 63) + 1,
    0xdead_beef_cafe_f00d,
    u64::MAX - 1,
    u64::MAX,
];

/// Edges of 16-bit integers.
pub const INTS16: [u64; 9] = [0, 1, 5, 0xff, 0x1234, 0x7fff, 0x8000, 0x8001, 0xffff];

/// Single-precision edges: zeros, subnormals, the smallest normals, one and its neighbours, huge, infinite,
/// NaN.
pub const FLOATS: [u64; 22] = [
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x8080_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x3f7f_ffff,
    0x3f00_0000,
    0x3eaa_aaab,
    0x4049_0fdb,
    0xc2f6_e979,
    0x4b80_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffa0_0001,
];

/// Double-precision edges.
pub const DOUBLES: [u64; 16] = [
    0,
    1 << 63,
    1,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x3ff0_0000_0000_0001,
    0x3fb9_9999_9999_999a,
    0x4009_21fb_5444_2d18,
    0xc05e_dd2f_1a9f_be77,
    0x7fef_ffff_ffff_ffff,
    0xffef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0042,
];

/// The number as a float.
pub fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// The number as a double.
pub fn f64_of(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// Bits of a single-precision result; the ISA leaves the NaN open, the virtual GPU gives 0x7fffffff.
pub fn f32_bits(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
}
