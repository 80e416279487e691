//! The run-time compiler: single flight, the disk cache and what may happen to it, errors with the compiler's
//! words.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use multimix::ErrorKind;
use multimix::cuda::jit::{Cache, Compiler, Nvrtc, Program, SearchPath, Target};
use tempfile::TempDir;

use crate::support::harness::{Harness, add};
use crate::support::nvrtc::any;

const TARGET: Target = Target::Real(80);
/// Set for the processes that tests start: the cache's folder.
const CHILD: &str = "MULTIMIX_TEST_CACHE_CHILD";

pub fn add(harness: &mut Harness, missing: Option<&str>) {
    add!(
        harness,
        missing,
        eight_threads_compile_once,
        four_processes_share_a_cold_cache,
        a_truncated_file_is_compiled_anew,
        the_parts_of_another_are_left_alone,
        what_others_may_write_is_not_believed,
        folders_are_made_for_the_user_alone,
        a_folder_that_cannot_be_written_is_survived,
        without_a_cache_the_memory_serves,
        an_error_shows_the_log_line_by_line,
        headers_keep_their_lines,
        a_virtual_target_gives_ptx_alone,
        a_second_process_loads_no_compiler,
        a_warm_start_takes_milliseconds,
    );
    add!(harness, None, no_compiler_is_an_error_with_advice);
}

fn program(constant: u32) -> Program {
    let text = r#"extern "C" __global__ void scale(float* x) { x[threadIdx.x] *= CONSTANT; }"#;
    let macros = vec![("CONSTANT", format!("{constant}.0f"))];
    Program { name: "scale.cu".into(), text: text.into(), headers: &[], macros }
}

fn nvrtc() -> Nvrtc {
    Nvrtc::open(&any().expect("checked in main")).unwrap()
}

fn compiler(folder: &Path) -> Compiler {
    Compiler::new(nvrtc(), Cache::in_folder(folder))
}

fn image_files(folder: &Path) -> Vec<PathBuf> {
    let version = folder.join(env!("CARGO_PKG_VERSION"));
    let entries = std::fs::read_dir(version).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|file| file.extension().is_some_and(|extension| extension == "image")).collect()
}

fn eight_threads_compile_once() {
    let folder = TempDir::new().unwrap();
    let compiler = compiler(folder.path());
    let images: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| compiler.image(&program(3), TARGET).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(compiler.compilations(), 1);
    assert!(images.iter().all(|image| image.cubin == images[0].cubin));
    assert_eq!(&images[0].cubin[..4], b"\x7fELF");
    assert_eq!(image_files(folder.path()).len(), 1);
    let resources = images[0].resources();
    assert_eq!((resources.len(), resources[0].kernel.as_str()), (1, "scale"));
    assert!(resources[0].registers > 0 && resources[0].is_clean());
}

/// In a child of these tests: compiles four programs in four threads and says how often the compiler ran.
pub fn compile_as_child() -> Option<ExitCode> {
    let compiler = compiler(Path::new(&std::env::var_os(CHILD)?));
    std::thread::scope(|scope| {
        for constant in 0..4 {
            let compiler = &compiler;
            scope.spawn(move || compiler.image(&program(constant), TARGET).unwrap());
        }
    });
    println!("compilations {}", compiler.compilations());
    Some(ExitCode::SUCCESS)
}

fn four_processes_share_a_cold_cache() {
    let folder = TempDir::new().unwrap();
    let start = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(CHILD, folder.path()).stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| start()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let count: u32 = text.trim().strip_prefix("compilations ").expect(&text).parse().unwrap();
        assert!(count <= 4, "{count} compilations of 4 programs in one process");
    }
    let files = image_files(folder.path());
    assert_eq!(files.len(), 4, "{files:?}");
    let leftovers = std::fs::read_dir(folder.path().join(env!("CARGO_PKG_VERSION"))).unwrap();
    let parts =
        leftovers.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "part"));
    assert_eq!(parts.count(), 0);
    let fifth = compiler(folder.path());
    for constant in 0..4 {
        let cached = fifth.image(&program(constant), TARGET).unwrap();
        let fresh = nvrtc().compile(&program(constant), TARGET).unwrap();
        assert!(*cached == fresh, "what was cached for {constant} is not what the compiler gives");
    }
    assert_eq!(fifth.compilations(), 0);
}

fn a_truncated_file_is_compiled_anew() {
    let folder = TempDir::new().unwrap();
    let whole = compiler(folder.path()).image(&program(5), TARGET).unwrap();
    let file = image_files(folder.path()).remove(0);
    let contents = std::fs::read(&file).unwrap();
    for damaged in [&contents[..contents.len() / 2], &[][..], &vec![0xff; contents.len()][..]] {
        std::fs::write(&file, damaged).unwrap();
        let compiler = compiler(folder.path());
        let image = compiler.image(&program(5), TARGET).unwrap();
        assert_eq!(compiler.compilations(), 1);
        assert!(image == whole, "compiled anew to something else");
        let next = self::compiler(folder.path());
        next.image(&program(5), TARGET).unwrap();
        assert_eq!(next.compilations(), 0, "the damaged file was replaced");
    }
}

/// Two containers on one volume have the same process ids, and may be about to write the same.
fn the_parts_of_another_are_left_alone() {
    let folder = TempDir::new().unwrap();
    compiler(folder.path()).image(&program(11), TARGET).unwrap();
    let version = folder.path().join(env!("CARGO_PKG_VERSION"));
    let others: Vec<_> =
        (0..64).map(|count| version.join(format!(".{}-{count}.part", std::process::id()))).collect();
    others.iter().for_each(|part| std::fs::write(part, b"half an image").unwrap());
    compiler(folder.path()).image(&program(12), TARGET).unwrap();
    assert_eq!(image_files(folder.path()).len(), 2, "what was compiled is kept");
    assert!(others.iter().all(|part| std::fs::read(part).is_ok_and(|text| text == b"half an image")));
}

/// What is in the cache runs on the GPU.
#[cfg(unix)]
fn what_others_may_write_is_not_believed() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{PermissionsExt, chown};
    let root = TempDir::new().unwrap();
    let folder = root.path().join("cache");
    compiler(&folder).image(&program(13), TARGET).unwrap();
    let version = folder.join(env!("CARGO_PKG_VERSION"));
    let file = image_files(&folder).remove(0);
    let compilations = || {
        let compiler = compiler(&folder);
        compiler.image(&program(13), TARGET).unwrap();
        compiler.compilations()
    };
    for (place, own, foreign) in [(&folder, 0o700, 0o770), (&version, 0o755, 0o777), (&file, 0o644, 0o664)] {
        let before = std::fs::read(&file).unwrap();
        set_permissions(place, Permissions::from_mode(own)).unwrap();
        assert_eq!(compilations(), 0, "{} is the user's own", place.display());
        set_permissions(place, Permissions::from_mode(foreign)).unwrap();
        assert_eq!(compilations(), 1, "{} may be written by others", place.display());
        assert_eq!(std::fs::read(&file).unwrap(), before);
        if place.is_dir() {
            set_permissions(place, Permissions::from_mode(own)).unwrap();
        }
    }
    assert_eq!(compilations(), 0, "a bad file in a good folder was replaced");
    for place in [&folder, &version, &file] {
        // Only root can give a file away.
        if chown(place, Some(54_321), None).is_ok() {
            assert_eq!(compilations(), 1, "{} belongs to somebody else", place.display());
            chown(place, Some(0), None).unwrap();
        }
    }
    set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let told = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, &folder)
        .env("MULTIMIX_TRACE", "1")
        .output();
    let told = String::from_utf8(told.unwrap().stderr).unwrap();
    assert!(told.contains("cache") && told.contains("may be written by others"), "{told}");
    assert!(told.lines().filter(|line| line.contains("may be written")).count() <= 1, "{told}");
}

#[cfg(not(unix))]
fn what_others_may_write_is_not_believed() {}

#[cfg(unix)]
fn folders_are_made_for_the_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let root = TempDir::new().unwrap();
    let folder = root.path().join("not/yet/there");
    compiler(&folder).image(&program(14), TARGET).unwrap();
    for made in [&folder, &folder.join(env!("CARGO_PKG_VERSION")), &root.path().join("not")] {
        let mode = std::fs::metadata(made).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has {mode:o}", made.display());
    }
    let file = image_files(&folder).remove(0);
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o022, 0);
}

#[cfg(not(unix))]
fn folders_are_made_for_the_user_alone() {}

/// A file in the folder's place: no user, not even root, can write below it.
fn a_folder_that_cannot_be_written_is_survived() {
    let root = TempDir::new().unwrap();
    let blocked = root.path().join("file");
    std::fs::write(&blocked, b"").unwrap();
    in_memory_only(&blocked);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let folder = root.path().join("read-only");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o555)).unwrap();
        let is_root = std::fs::write(folder.join("probe"), b"").is_ok();
        if !is_root {
            in_memory_only(&folder);
        }
    }
}

fn in_memory_only(folder: &Path) {
    let compiler = compiler(folder);
    let first = compiler.image(&program(6), TARGET).unwrap();
    let second = compiler.image(&program(6), TARGET).unwrap();
    assert!(first == second);
    assert_eq!(compiler.compilations(), 1);
}

fn without_a_cache_the_memory_serves() {
    let compiler = Compiler::new(nvrtc(), Cache::disabled());
    for _ in 0..3 {
        compiler.image(&program(7), TARGET).unwrap();
    }
    assert_eq!(compiler.compilations(), 1);
}

fn an_error_shows_the_log_line_by_line() {
    let wrong =
        Program { text: "extern \"C\" __global__ void k() {\n  int x = y;\n}\n".into(), ..program(1) };
    let compiler = Compiler::new(nvrtc(), Cache::disabled());
    let error = compiler.image(&wrong, TARGET).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error.kind, ErrorKind::Nvrtc { .. }), "{text}");
    assert!(text.contains("\nscale.cu(2): error: identifier \"y\" is undefined\n"), "{text}");
    assert!(text.contains("sm_80") && !text.contains("\\n"), "{text}");
    let nul = Program { text: "a\0b".into(), ..program(1) };
    assert!(compiler.image(&nul, TARGET).unwrap_err().to_string().contains("NUL"));
    let old = compiler.image(&program(1), Target::Real(20)).unwrap_err().to_string();
    assert!(old.contains("sm_20") && old.contains("invalid value for --gpu-architecture"), "{old}");
}

fn headers_keep_their_lines() {
    use multimix::cuda::jit::Header;
    const HEADERS: &[Header] = &[Header { name: "part.cuh", text: "\n\nint wrong = ;\n" }];
    let text = "#include \"part.cuh\"\n";
    let program = Program { text: text.into(), headers: HEADERS, ..program(1) };
    let error = nvrtc().compile(&program, TARGET).unwrap_err().to_string();
    assert!(error.contains("part.cuh(3): error"), "{error}");
}

fn a_virtual_target_gives_ptx_alone() {
    let image = nvrtc().compile(&program(2), Target::Virtual(80)).unwrap();
    assert!(image.cubin.is_empty() && image.resources().is_empty());
    assert!(image.ptx.starts_with(b"//") && !image.ptx.contains(&0), "text, without its terminator");
    assert!(String::from_utf8(image.ptx).unwrap().contains(".target sm_80"));
}

fn a_second_process_loads_no_compiler() {
    let folder = TempDir::new().unwrap();
    let cache = || Cache::in_folder(folder.path());
    let search = SearchPath { only: any(), ..SearchPath::default() };
    if !search.only.as_ref().is_some_and(|library| library.is_absolute()) {
        return; // Known to the loader by name alone: there is no file to remember.
    }
    let first = Compiler::new(Nvrtc::find(&search, None, &cache()).unwrap(), cache());
    first.image(&program(8), TARGET).unwrap();
    assert!(first.nvrtc().is_loaded());
    let second = Compiler::new(Nvrtc::find(&search, None, &cache()).unwrap(), cache());
    assert_eq!(second.nvrtc().version(), first.nvrtc().version());
    second.image(&program(8), TARGET).unwrap();
    assert!(!second.nvrtc().is_loaded());
    second.image(&program(9), TARGET).unwrap();
    assert!(second.nvrtc().is_loaded());
}

fn a_warm_start_takes_milliseconds() {
    let folder = TempDir::new().unwrap();
    compiler(folder.path()).image(&program(10), TARGET).unwrap();
    let warm = compiler(folder.path());
    let best = (0..5).map(|_| {
        let start = Instant::now();
        warm.cache().file(&program(10).key(TARGET, warm.nvrtc().version())).unwrap();
        Compiler::new(nvrtc(), Cache::in_folder(folder.path())).image(&program(10), TARGET).unwrap();
        start.elapsed()
    });
    let best = best.min().unwrap();
    assert!(best.as_millis() < 50, "{best:?} to take a kernel from the disk cache");
}

fn no_compiler_is_an_error_with_advice() {
    let nothing = Nvrtc::find(&SearchPath::default(), None, &Cache::disabled()).unwrap_err().to_string();
    assert!(nothing.contains("no NVRTC") && nothing.contains("pip install nvidia-cuda-nvrtc"), "{nothing}");
    let only = Some(PathBuf::from("/nonexistent/libnvrtc.so"));
    let search = SearchPath { only, ..SearchPath::default() };
    let named = Nvrtc::find(&search, None, &Cache::disabled()).unwrap_err().to_string();
    assert!(named.contains("/nonexistent/libnvrtc.so") && named.contains("MULTIMIX_NVRTC"), "{named}");
    let folder = TempDir::new().unwrap();
    let fake = folder.path().join("libnvrtc.so.12");
    std::fs::write(&fake, b"not a library").unwrap();
    let fake = Nvrtc::open(&fake).unwrap_err().to_string();
    assert!(fake.contains("no usable NVRTC library"), "{fake}");
}
