//! Programs that synchronise correctly: right results, and no findings, in every schedule.

mod kernel;

use kernel::Arg::{I32, Ptr};
use kernel::Gpu;
use vgpu::counters::Counters;
use vgpu::fault::Fault;

const PROGRAMS: &str = include_str!("programs/correct.ptx");

fn ok(result: Result<Counters, Fault>) -> Counters {
    result.unwrap_or_else(|fault| panic!("{fault}"))
}

/// Several orders of blocks and warps, with the checks and without: results must not depend on either.
fn schedules() -> impl Iterator<Item = Gpu> {
    (0..10).map(|index| {
        let mut gpu = if index < 6 { Gpu::new() } else { Gpu::without_checks() };
        gpu.settings.seed = index % 6;
        gpu.settings.threads = 1 + index as usize % 3;
        gpu
    })
}

#[test]
fn double_buffered_gemm() {
    let n = 96;
    let a: Vec<f32> = (0..n * n).map(|i| (i * 7 % 13) as f32).collect();
    let b: Vec<f32> = (0..n * n).map(|i| (i * 5 % 11) as f32).collect();
    for gpu in schedules() {
        let module = gpu.load(PROGRAMS);
        let (pa, pb, pc) = (gpu.upload(&a), gpu.upload(&b), gpu.fresh((n * n * 4) as u64));
        ok(gpu.run(
            &module,
            "gemm_cp_async",
            [3, 3, 1],
            [256, 1, 1],
            &[Ptr(pa), Ptr(pb), Ptr(pc), I32(n as i32)],
        ));
        let c: Vec<f32> = gpu.download(pc, n * n);
        for i in 0..n {
            for j in 0..n {
                let expected: f32 = (0..n).map(|k| a[i * n + k] * b[k * n + j]).sum();
                assert_eq!(c[i * n + j], expected, "({i}, {j})");
            }
        }
    }
}

#[test]
fn specialised_warps_with_named_barriers() {
    for gpu in schedules() {
        let rounds = 9;
        let x: Vec<f32> = (0..rounds * 32).map(|i| i as f32).collect();
        let (px, out) = (gpu.upload(&x), gpu.fresh(4));
        ok(gpu.run(
            &gpu.load(PROGRAMS),
            "reduce_specialised",
            [1; 3],
            [64, 1, 1],
            &[Ptr(px), Ptr(out), I32(rounds)],
        ));
        assert_eq!(gpu.download::<f32>(out, 1)[0], x.iter().sum::<f32>());
    }
}

#[test]
fn last_block_and_grid_barrier() {
    for mut gpu in schedules() {
        let module = gpu.load(PROGRAMS);
        let x = gpu.upload(&[1f32; 50 * 32]);
        let (partial, out, count) = (gpu.fresh(200), gpu.fresh(4), gpu.upload(&[0u32]));
        let args = [Ptr(x), Ptr(partial), Ptr(out), Ptr(count)];
        ok(gpu.run(&module, "reduce_last_block", [50, 1, 1], [32, 1, 1], &args));
        assert_eq!(gpu.download::<f32>(out, 1), [1600.0]);
        gpu.cooperative = true;
        let (x, y, count) = (gpu.fresh(20 * 64 * 4), gpu.fresh(20 * 64 * 4), gpu.upload(&[0u32]));
        ok(gpu.run(&module, "grid_barrier", [20, 1, 1], [64, 1, 1], &[Ptr(x), Ptr(y), Ptr(count)]));
        let expected: Vec<i32> = (0..20 * 64).map(|i| (i + 64) % (20 * 64) * 3).collect();
        assert_eq!(gpu.download::<i32>(y, 20 * 64), expected);
    }
}

#[test]
fn lanes_of_a_warp_make_progress_one_by_one() {
    for gpu in schedules() {
        let (lock, value) = (gpu.upload(&[0i32]), gpu.upload(&[0i32]));
        ok(gpu.run(&gpu.load(PROGRAMS), "spin_lock", [2, 1, 1], [64, 1, 1], &[Ptr(lock), Ptr(value)]));
        assert_eq!(gpu.download::<i32>(value, 1), [128]);
    }
}

#[test]
fn calls() {
    let gpu = Gpu::new();
    let module = gpu.load(PROGRAMS);
    let out = gpu.fresh(64 * 4);
    ok(gpu.run(&module, "recursion", [1; 3], [64, 1, 1], &[Ptr(out)]));
    let fibonacci = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    assert_eq!(gpu.download::<i32>(out, 64), (0..64).map(|i| fibonacci[i % 12]).collect::<Vec<i32>>());
    ok(gpu.run(&module, "indirect", [1; 3], [64, 1, 1], &[Ptr(out)]));
    assert_eq!(
        gpu.download::<i32>(out, 64),
        (0..64).map(|i| [i + 1, i * 2, i - 7][i as usize % 3]).collect::<Vec<i32>>()
    );
    let x = gpu.upload(&[3, 1, 4, 1, 5, 9, 2, 6, 5]);
    ok(gpu.run(&module, "by_value", [1; 3], [32, 1, 1], &[Ptr(x), Ptr(out)]));
    let digits = [3, 1, 4, 1, 5, 9, 2, 6, 5];
    let expected: Vec<i32> = (0..32).map(|i| digits[digits[i % 9] % 9] as i32 * (i as i32 + 1)).collect();
    assert_eq!(gpu.download::<i32>(out, 32), expected);
}

#[test]
fn divergence() {
    let gpu = Gpu::new();
    let module = gpu.load(PROGRAMS);
    let values: Vec<i32> = (0..64).map(|i| i * 3 % 9).collect();
    let (x, out) = (gpu.upload(&values), gpu.fresh(256));
    ok(gpu.run(&module, "switches", [1; 3], [64, 1, 1], &[Ptr(x), Ptr(out)]));
    let case = |i: i32, v: i32| match v {
        0 => 10 + i,
        1 => i * i,
        2 => -i,
        3 => i ^ 5,
        4 => 77,
        5 => i / 3,
        6 => i % 7,
        _ => 1000,
    };
    let expected: Vec<i32> = values.iter().enumerate().map(|(i, &v)| case(i as i32, v)).collect();
    assert_eq!(gpu.download::<i32>(out, 64), expected);
    let values: Vec<i32> = (0..32).map(|i| i * 7 % 23).collect();
    let x = gpu.upload(&values);
    ok(gpu.run(&module, "nested", [1; 3], [32, 1, 1], &[Ptr(x), Ptr(out)]));
    let total: i32 = values.iter().map(|&v| nested(v)).sum();
    assert_eq!(gpu.download::<i32>(out, 32), [total; 32]);
}

fn nested(v: i32) -> i32 {
    let mut s = 0;
    for k in 0..v % 5 {
        if k % 2 == 1 {
            if v & 1 == 0 {
                continue;
            }
            s += k;
        } else if v == 13 {
            break;
        }
        s += v;
    }
    s
}

#[test]
fn assertions_report_what_failed() {
    let gpu = Gpu::new();
    let mut values = [0; 32];
    values[9] = 5;
    let x = gpu.upload(&values);
    let fault =
        gpu.run(&gpu.load(PROGRAMS), "asserts", [1; 3], [32, 1, 1], &[Ptr(x)]).expect_err("x[9] is 5");
    assert_eq!((fault.code(), fault.threads[0]), (710, [9, 0, 0]), "{fault}");
    assert!(fault.message.contains("file.cu:12") && fault.message.contains("x != 5"), "{fault}");
}

#[test]
fn clocks_advance_with_the_instructions() {
    let gpu = Gpu::new();
    let body = ".visible .entry k(.param .u64 p)\n{\n.reg .b64 %rd<8>;\n.reg .b32 %r<4>;\nld.param.u64 %rd1, [p];\n\
        mov.u64 %rd2, %clock64;\nmov.u32 %r1, 1;\nadd.u32 %r1, %r1, 1;\nmov.u64 %rd3, %clock64;\n\
        sub.u64 %rd4, %rd3, %rd2;\ncvt.u32.u64 %r2, %rd4;\nst.global.u32 [%rd1], %r2;\nret;\n}\n";
    let out = gpu.fresh(4);
    ok(gpu.run_text(body, 1, &[Ptr(out)]));
    assert_eq!(gpu.download::<u32>(out, 1), [3]);
}

/// A warp diverges and meets again in every round of a loop that outlasts the slices in which warps are run.
/// Wherever a slice ends, also with the later half's arrival, they meet.
#[test]
fn halves_of_a_warp_meet_across_slices() {
    let gpu = Gpu::new();
    for before in 0..16 {
        let text = MEETS.replace("SHIFT", &"add.u32 lane, lane, 0;\n".repeat(before));
        ok(gpu.run(&gpu.load(&text), "meets", [1; 3], [32, 1, 1], &[I32(20_000)]));
    }
}

const MEETS: &str = "
    .version 7.0
    .target sm_80
    .address_size 64
    .visible .entry meets(.param .u32 rounds) {
        .reg .pred p, q;
        .reg .b32 lane, rest;
        mov.u32 lane, %laneid;
        ld.param.u32 rest, [rounds];
        setp.lt.u32 p, lane, 7;
        SHIFT
    round:
        bar.warp.sync -1;
        sub.u32 rest, rest, 1;
        setp.eq.u32 q, rest, 0;
        @q ret;
        @p bra round;
        add.u32 lane, lane, 1;
        bra round;
    }";

/// Threads that come late to a matrix instruction, or to a barrier of their warp, are waited for.
#[test]
fn latecomers_are_waited_for() {
    let text = |body: &str| {
        format!(
            ".visible .entry k(.param .u64 out)\n{{\n.reg .b64 %out, %at; .reg .b32 %l, %t, %i, %d; .reg .pred %p;\n\
             ld.param.u64 %out, [out]; mov.u32 %l, %laneid; mov.u32 %t, %tid.x; mov.u32 %i, 0;\n\
             setp.lt.u32 %p, %l, 8; @!%p bra join;\n\
             late: add.u32 %i, %i, 1; setp.lt.u32 %p, %i, 20000; @%p bra late;\n\
             join: {body}\n\
             mul.wide.u32 %at, %t, 4; add.u64 %out, %out, %at; st.global.u32 [%out], %d;\nret;\n}}\n"
        )
    };
    // Lane n holds row n / 4 of a matrix, columns 2 * (n % 4) and the next: its number and 0.
    let transposed = |n: u32| {
        let (i, j) = (n / 4, 2 * (n % 4));
        if i % 2 == 0 { (4 * j + i / 2) | (4 * (j + 1) + i / 2) << 16 } else { 0 }
    };
    for gpu in schedules() {
        let out = gpu.fresh(96 * 4);
        ok(gpu.run_text(&text("movmatrix.sync.aligned.m8n8.trans.b16 %d, %l;"), 32, &[Ptr(out)]));
        assert_eq!(gpu.download::<u32>(out, 32), (0..32).map(transposed).collect::<Vec<_>>());
        // The last warp is not full and counts as if it were.
        ok(gpu.run_text(&text("setp.eq.u32 %p, %l, 3; bar.red.popc.u32 %d, 1, 96, %p;"), 75, &[Ptr(out)]));
        assert_eq!(gpu.download::<u32>(out, 75), [3; 75]);
    }
}
