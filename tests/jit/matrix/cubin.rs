//! What can be said of machine code without a device: that it's an image for the architecture asked for, with
//! all kernels of the source, and that it uses and takes what ptxas reports and the source declares.

use multimix::cuda::jit::{Image, Program, Resources};
use object::elf::EM_CUDA;
use object::read::elf::{ElfFile64, ElfSection64, FileHeader, SectionHeader};
use object::{LittleEndian, Object, ObjectSection};

type Elf<'a> = ElfFile64<'a, LittleEndian>;

/// Panics with what is wrong; returns the number of kernels.
pub fn check(image: &Image, program: &Program, arch: u32) -> usize {
    let elf = Elf::parse(&image.cubin[..]).expect("an ELF file of 64 bits");
    let header = elf.elf_header();
    assert_eq!(header.e_machine(LittleEndian), EM_CUDA);
    // Version 8 of the ABI, of newer releases and targets, has the flags in another order.
    let shift = if header.e_ident().abi_version >= 8 { 8 } else { 0 };
    assert_eq!(header.e_flags(LittleEndian).0 >> shift & 0xff, arch, "the architecture in the flags");
    let (reported, declared) = (image.resources(), declared(program));
    let mut names: Vec<&str> = reported.iter().map(|kernel| &*kernel.kernel).collect();
    let mut wanted: Vec<&str> = declared.iter().map(|(kernel, _)| &**kernel).collect();
    names.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(names, wanted, "the kernels of the report and those of the source");
    for (kernel, parameter_bytes) in &declared {
        let said = reported.iter().find(|said| said.kernel == *kernel).expect("compared above");
        check_kernel(&elf, said, arch, *parameter_bytes);
    }
    declared.len()
}

fn check_kernel(elf: &Elf<'_>, said: &Resources, arch: u32, parameter_bytes: u32) {
    let kernel = &said.kernel;
    let code = section(elf, ".text", kernel).unwrap_or_else(|| panic!("no code of {kernel}"));
    assert!(code.size() > 0 && code.data().is_ok_and(|code| code.iter().any(|&byte| byte != 0)), "{kernel}");
    // From Hopper on a block's share holds a KiB that the system keeps to itself, and that ptxas does not
    // report.
    let kept = if arch >= 90 { 1024 } else { 0 };
    let shared = section(elf, ".nv.shared", kernel).map_or(0, |section| section.size() - kept);
    assert_eq!(shared, u64::from(said.shared_bytes), "static shared memory of {kernel}");

    let symbol = code.elf_section_header().sh_info(LittleEndian) & 0x00ff_ffff;
    let of_all = elf.section_by_name(".nv.info").expect("attributes of all kernels");
    let registers = attributes(of_all.data().unwrap()).into_iter().find_map(|(code, value)| {
        let words: Vec<u32> =
            value.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
        (code == REGISTERS && words[0] == symbol).then(|| words[1])
    });
    assert_eq!(registers, Some(said.registers), "registers of {kernel}");

    let own = section(elf, ".nv.info", kernel).unwrap_or_else(|| panic!("no attributes of {kernel}"));
    let size = attributes(own.data().unwrap()).into_iter().find(|(code, _)| *code == PARAMETER_BYTES);
    let size = size.map(|(_, value)| u32::from(u16::from_le_bytes([value[0], value[1]])));
    assert_eq!(size, Some(parameter_bytes), "bytes of parameters of {kernel}");
}

fn section<'a, 'f>(elf: &'f Elf<'a>, kind: &str, kernel: &str) -> Option<ElfSection64<'a, 'f, LittleEndian>> {
    elf.section_by_name(&format!("{kind}.{kernel}"))
}

/// `EIATTR_REGCOUNT`: a kernel's symbol and its registers.
const REGISTERS: u8 = 0x2f;
/// `EIATTR_CBANK_PARAM_SIZE`.
const PARAMETER_BYTES: u8 = 0x19;

/// Code and value of each attribute: a byte of form, one of code, then two of value; or their number of
/// bytes, and these.
fn attributes(mut data: &[u8]) -> Vec<(u8, &[u8])> {
    const SIZED: u8 = 4;
    let mut all = vec![];
    while let [form, code, low, high, rest @ ..] = data {
        let bytes = if *form == SIZED { usize::from(u16::from_le_bytes([*low, *high])) } else { 0 };
        let value = if *form == SIZED { &rest[..bytes] } else { &data[2..4] };
        all.push((*code, value));
        data = &rest[bytes..];
    }
    all
}

/// The kernels of a source, each with the size that it asserts of its one parameter, which the host mirrors.
fn declared(program: &Program) -> Vec<(String, u32)> {
    let texts = || program.headers.iter().map(|header| header.text).chain([&*program.text]);
    let size_of = |structure: &str| {
        let assertion = format!("static_assert(sizeof({structure}) == ");
        let rest = texts().find_map(|text| text.split(&assertion).nth(1));
        let digits = rest.and_then(|rest| rest.split(',').next());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{structure} asserts no size"))
    };
    let kernels = program.text.lines().filter(|line| line.contains("__global__"));
    let parts = kernels.map(|line| line.split_once("(const __grid_constant__ ").expect("one parameter"));
    parts
        .map(|(head, tail)| {
            let name = head.rsplit(' ').next().unwrap_or_default();
            (name.to_owned(), size_of(tail.split(' ').next().unwrap_or_default()))
        })
        .collect()
}
