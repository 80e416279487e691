//! Parameter structs stand twice: in the kernels, and in Rust. Both texts are read, and names, order, offsets
//! and sizes compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A field: its name, its type as a word (`*` for any pointer), how many of it.
#[derive(Clone, Debug)]
struct Field {
    name: String,
    kind: String,
    count: usize,
}

type Structs = BTreeMap<String, Vec<Field>>;

/// Size and alignment of a type.
fn measure(structs: &Structs, kind: &str) -> (usize, usize) {
    match kind {
        "u32" | "i32" | "f32" => (4, 4),
        "u64" | "i64" | "*" => (8, 8),
        _ => {
            let fields = structs.get(kind).unwrap_or_else(|| panic!("{kind} is no struct that was read"));
            let (_, end, align) = layout(structs, fields);
            (end.next_multiple_of(align), align)
        }
    }
}

/// The offset of each field, where the last ends, and the alignment: the rules of C, and of `repr(C)`.
fn layout(structs: &Structs, fields: &[Field]) -> (Vec<usize>, usize, usize) {
    let (mut offsets, mut end, mut align) = (vec![], 0usize, 1);
    for field in fields {
        let (size, own) = measure(structs, &field.kind);
        offsets.push(end.next_multiple_of(own));
        end = end.next_multiple_of(own) + size * field.count;
        align = align.max(own);
    }
    (offsets, end, align)
}

fn texts(folder: &str, endings: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let wanted = |file: &&std::path::PathBuf| endings.iter().any(|end| file.to_string_lossy().ends_with(end));
    files.iter().filter(wanted).map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// The bodies of structs that begin with `opening`, by name.
fn bodies<'t>(text: &'t str, opening: &str) -> Vec<(&'t str, &'t str)> {
    let starts = text.match_indices(opening).map(|(at, _)| &text[at + opening.len()..]);
    let parse = |rest: &'t str| {
        let (name, rest) = rest.split_once('{')?;
        let name = name.trim().split('<').next()?;
        let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric());
        plain.then_some((name, rest.split_once("\n}")?.0))
    };
    starts.filter_map(parse).collect()
}

fn without_comments(body: &str) -> String {
    body.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// `repr(C)` structs of src/cuda.
fn of_rust() -> Structs {
    let text = texts("src/cuda", &[".rs"]).replace("pub(super) ", "").replace("pub ", "");
    let mut structs = Structs::new();
    for (name, body) in bodies(&text, "#[repr(C)]\nstruct ") {
        let body = without_comments(body);
        let lines = body.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once(": "));
        let field = |(name, kind): (&str, &str)| {
            let array = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')?.split_once("; "));
            let (kind, count) = array.map_or((kind, 1), |(kind, count)| (kind, count.parse().unwrap()));
            let kind = if kind == "CUdeviceptr" { "*" } else { kind };
            Field { name: name.into(), kind: kind.into(), count }
        };
        structs.insert(name.into(), lines.map(field).collect());
    }
    structs
}

/// Structs of kernels/, but for members that are functions.
fn of_kernels(names: &[&String]) -> Structs {
    let text = texts("kernels", &[".cu", ".cuh"]);
    let mut structs = Structs::new();
    for (name, body) in bodies(&text, "struct ") {
        if !names.iter().any(|wanted| *wanted == name) {
            continue;
        }
        let body = without_comments(body);
        let declarations = body.split(';').map(str::trim).filter(|declaration| !declaration.is_empty());
        let fields = declarations.take_while(|declaration| !declaration.contains('(')).flat_map(declared);
        let known = structs.insert(name.to_owned(), fields.collect::<Vec<_>>());
        assert!(known.is_none(), "struct {name} stands twice in kernels/");
    }
    structs
}

/// `const float *a, *b` or `Matrix<const float> a` or `u32 shape[3]`.
fn declared(declaration: &str) -> Vec<Field> {
    let words = declaration.replace("const ", "").replace("unsigned ", "");
    let (kind, names) = words.split_once(' ').unwrap_or_else(|| panic!("{declaration:?} declares nothing"));
    let kind = match kind.split('<').next().unwrap() {
        "float" => "f32",
        kind => kind,
    };
    let field = |name: &str| {
        let name = name.trim();
        let (bare, count) = match name.split_once('[') {
            Some((bare, count)) => (bare, count.trim_end_matches(']').parse().unwrap()),
            None => (name, 1),
        };
        let kind = if bare.starts_with('*') { "*" } else { kind };
        Field { name: bare.trim_start_matches('*').into(), kind: kind.into(), count }
    };
    names.split(',').map(field).collect()
}

/// What `static_assert(sizeof(X) == N` says in kernels/, which the compiler checks.
fn asserted() -> BTreeMap<String, usize> {
    let text = texts("kernels", &[".cu", ".cuh"]);
    let parse = |rest: &str| {
        let (name, rest) = rest.split_once(") == ")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((name.to_owned(), digits.parse().ok()?))
    };
    let found = text.match_indices("static_assert(sizeof(").map(|(at, opening)| &text[at + opening.len()..]);
    found.filter_map(parse).collect()
}

/// The struct that each kernel takes, by the kernels' own texts.
fn taken() -> BTreeMap<String, String> {
    let text = texts("kernels", &[".cu"]);
    let opening = "(const __grid_constant__ ";
    let parse = |at: usize| {
        let kernel = text[..at].rsplit([' ', '\n']).next()?.to_owned();
        Some((kernel, text[at + opening.len()..].split(' ').next()?.to_owned()))
    };
    text.match_indices(opening).filter_map(|(at, _)| parse(at)).collect()
}

/// The struct that the host launches each kernel with; for one that wraps another, that one.
fn launched() -> BTreeMap<String, String> {
    let text = texts("src/cuda", &[".rs"]);
    let parse = |(at, opening): (usize, &str)| {
        let (name, rest) = text[at + opening.len()..].split_once(" {")?;
        let kernel = rest.split_once("const KERNEL: &'static str = \"")?.1.split_once('"')?.0;
        let inner = text.split_once(&format!("struct {name}(")).map(|(_, rest)| rest);
        let name = inner.and_then(|rest| rest.split_once(')')).map_or(name, |(inner, _)| inner);
        Some((kernel.to_owned(), name.to_owned()))
    };
    text.match_indices("impl Params for ").filter_map(parse).collect()
}

/// Every kernel is launched with the struct that it takes.
pub fn kernels_are_launched_with_what_they_take() {
    let taken = taken();
    assert!(taken.len() >= 19, "only {} kernels were found", taken.len());
    assert_eq!(launched(), taken);
}

/// Every parameter struct of src/cuda is that of the same name in kernels/.
pub fn parameter_structs_are_those_of_the_kernels() {
    let ours = of_rust();
    let theirs = of_kernels(&ours.keys().collect::<Vec<_>>());
    let asserted = asserted();
    assert!(ours.len() >= 15, "only {} structs were found in src/cuda", ours.len());
    for (name, fields) in &ours {
        let kernel = theirs.get(name).unwrap_or_else(|| panic!("{name} is in no kernel"));
        let names = |fields: &[Field]| fields.iter().map(|field| field.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(fields), names(kernel), "the fields of {name}, in order");
        for (ours, theirs) in fields.iter().zip(kernel) {
            assert_eq!(ours.count, theirs.count, "{name}::{}", ours.name);
            assert_eq!(ours.kind, theirs.kind, "the type of {name}::{}", ours.name);
        }
        let ((mine, end, align), (other, ..)) = (layout(&ours, fields), layout(&theirs, kernel));
        assert_eq!(mine, other, "the offsets of {name}");
        assert_eq!(end, end.next_multiple_of(align), "{name} ends in padding that has no name");
        // What is a part of others counts in theirs.
        let compiled = asserted.get(name).copied().or((!name.ends_with("Params")).then_some(end));
        assert_eq!(Some(end), compiled, "the size of {name}, as the kernel asserts it");
    }
    println!("{} parameter structs, {} fields", ours.len(), ours.values().map(Vec::len).sum::<usize>());
}
