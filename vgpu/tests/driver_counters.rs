//! The record of launches: by the C interface and by the environment.

mod driver;

use std::ffi::c_char;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use driver::*;

const NULL: CUstream = std::ptr::null_mut();

/// The record is the process's: the tests that look at it take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Launches `fill` on 48 words and `nothing`, in blocks of 32 threads.
fn two_launches() {
    let _session = Session::new();
    let (module, data) = (load(KERNELS), alloc(192));
    ok(launch(function(module, c"fill"), 2, 32, NULL, &[arg(&data), arg(&1_u32), arg(&48_u32)]));
    ok(launch(function(module, c"nothing"), 3, 32, NULL, &[]));
    // SAFETY: no pointers.
    ok(unsafe { cuCtxSynchronize() });
}

#[test]
fn launches_are_recorded_until_reset() {
    let _turn = turn();
    gpu().reset();
    assert!(gpu().launches().is_empty());
    two_launches();
    let launches = gpu().launches();
    let names: Vec<&str> = launches.iter().map(|launch| launch.kernel.as_str()).collect();
    assert_eq!(names, ["fill", "nothing"]);
    let fill = &launches[0];
    assert_eq!((fill.grid, fill.block), ([2, 1, 1], [32, 1, 1]));
    // 48 threads store 4 bytes each: one full warp (4 sectors), and half a warp (2 sectors).
    let stores = fill.global_stores;
    assert_eq!((stores.requests, stores.sectors, stores.bytes), (2, 6, 192));
    assert_eq!((stores.unique_sectors, stores.unique_bytes), (6, 192));
    assert_eq!(fill.global_loads.requests, 0);
    assert_eq!((fill.branches, fill.divergent_branches), (2, 1));
    assert!(fill.total_thread_instructions() > 48 * 10);

    two_launches();
    let again = gpu().launches();
    assert_eq!(again.len(), 4);
    assert_eq!(again[2], again[0], "the same launch counts the same");
    gpu().reset();
    assert!(gpu().launches().is_empty());
}

#[test]
fn the_record_is_cut_to_the_callers_buffer() {
    let _turn = turn();
    gpu().reset();
    type Text = unsafe extern "C" fn(*mut c_char, usize) -> usize;
    // SAFETY: the function has this type; the buffer has the room that is given with it.
    unsafe {
        let json = gpu().driver_function::<Text>(c"vgpu_counters_json").unwrap();
        let expected = b"{\"dropped\":0,\"launches\":[]}";
        assert_eq!(json(std::ptr::null_mut(), 0), expected.len());
        let mut buffer = [1_u8; 8];
        assert_eq!(json(buffer.as_mut_ptr().cast(), 8), expected.len());
        assert_eq!(&buffer, b"{\"dropp\0");
    }
}

#[test]
fn a_fault_is_kept_until_reset() {
    let _turn = turn();
    gpu().reset();
    assert_eq!(gpu().fault(), None);
    let _session = Session::new();
    ok(launch(function(load(KERNELS), c"stop"), 4, 32, NULL, &[]));
    // SAFETY: no pointers.
    assert_eq!(unsafe { cuCtxSynchronize() }, CUresult::CUDA_ERROR_LAUNCH_FAILED);
    let report = gpu().fault().unwrap();
    assert!(report.contains("stop") && report.contains("trap"), "{report}");
    assert!(gpu().launches().is_empty(), "a launch that ended by a fault has no counters");
    gpu().reset();
    assert_eq!(gpu().fault(), None);
}

/// Runs the test of two launches in a process with `VGPU_COUNTERS` set; gives its stderr.
fn run_with_counters(wish: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "launches_are_recorded_until_reset", "--nocapture"])
        .env("VGPU_COUNTERS", wish)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_environment_asks_for_a_line_for_each_launch() {
    let path: PathBuf = std::env::temp_dir().join(format!("vgpu-counters-{}.json", std::process::id()));
    run_with_counters(&format!("json:{}", path.display()));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = lines.iter().map(|line| line["kernel"].as_str().unwrap()).collect();
    assert_eq!(names, ["fill", "nothing", "fill", "nothing"]);
    assert_eq!(lines[0]["global_stores"]["sectors"], 6);
}

#[test]
fn the_environment_asks_for_a_table_at_the_end() {
    let table = run_with_counters("table");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let fill = rows.iter().find(|row| row.first() == Some(&"fill")).unwrap_or_else(|| panic!("{table}"));
    assert_eq!(fill[1], "2", "launches");
    assert!(rows.iter().any(|row| row.first() == Some(&"nothing")), "{table}");
    let complaint = run_with_counters("tabel");
    assert!(complaint.contains("VGPU_COUNTERS=tabel"), "{complaint}");
}
