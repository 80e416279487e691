//! Every finding of the virtual GPU, provoked by a small kernel and reported with its code and place.

mod kernel;

use kernel::Arg::Ptr;
use kernel::{Gpu, HEADER};
use vgpu::Checks;
use vgpu::fault::{Fault, FaultKind};

/// A kernel over one pointer: `%tid` in `%r1`, the pointer in `%rd1`, and its element of that thread in
/// `%rd2`. The first line of `body` is line 16 of the text.
fn text(body: &str) -> String {
    format!(
        ".visible .entry k(\n .param .u64 p\n)\n{{\n.reg .pred %p<8>;\n.reg .b32 %r<16>;\n.reg .b64 %rd<16>;\n\
         .shared .align 16 .b8 s[1024];\nld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\n\
         mul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd2, %rd1, %rd3;\n{body}\nret;\n}}\n"
    )
}

const FIRST: u32 = 16;

fn fault(gpu: &Gpu, body: &str, threads: u32, pointer: u64) -> Fault {
    gpu.run_text(&text(body), threads, &[Ptr(pointer)]).expect_err("the kernel is wrong")
}

fn expect(fault: &Fault, kind: FaultKind, code: u32, line: u32) {
    assert_eq!((fault.kind, fault.code(), fault.ptx_line), (kind, code, line), "{fault}");
}

#[test]
fn one_byte_past_an_allocation() {
    let gpu = Gpu::new();
    let p = gpu.fresh(127);
    let f = fault(&gpu, "st.global.u32 [%rd2], %r1;", 32, p);
    expect(&f, FaultKind::IllegalAddress, 700, FIRST);
    assert_eq!((f.threads[0], f.address), ([31, 0, 0], Some(p + 124)), "{f}");
    assert_eq!(f.allocation.map(|a| (a.base, a.size)), Some((p, 127)));
    let q = gpu.fresh(127);
    assert!(gpu.run_text(&text("st.global.u32 [%rd2], %r1;"), 31, &[Ptr(q)]).is_ok());
    let f = fault(&gpu, "st.global.u8 [%rd1+127], %r1;", 1, q);
    expect(&f, FaultKind::IllegalAddress, 700, FIRST);
}

#[test]
fn below_an_allocation_null_and_freed() {
    let gpu = Gpu::new();
    let p = gpu.upload(&[1u32; 32]);
    expect(&fault(&gpu, "ld.global.u32 %r2, [%rd1+-4];", 1, p), FaultKind::IllegalAddress, 700, FIRST);
    let f = fault(&gpu, "ld.global.u32 %r2, [%rd1];", 1, 0);
    expect(&f, FaultKind::IllegalAddress, 700, FIRST);
    assert!(f.message.contains("null"), "{f}");
    gpu.memory.free(p).unwrap();
    let f = fault(&gpu, "ld.global.u32 %r2, [%rd2];", 32, p);
    expect(&f, FaultKind::IllegalAddress, 700, FIRST);
    assert!(f.message.contains("freed") && f.allocation.is_some_and(|a| a.freed), "{f}");
}

#[test]
fn misaligned_accesses() {
    let gpu = Gpu::new();
    let p = gpu.upload(&[1u32; 64]);
    expect(&fault(&gpu, "ld.global.u32 %r2, [%rd1+2];", 1, p), FaultKind::MisalignedAddress, 716, FIRST);
    let vector = "ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd1+8];";
    expect(&fault(&gpu, vector, 1, p), FaultKind::MisalignedAddress, 716, FIRST);
    let shared = "st.shared.u32 [s+2], %r1;";
    expect(&fault(&gpu, shared, 1, p), FaultKind::MisalignedAddress, 716, FIRST);
    let atomic = "red.global.add.u32 [%rd1+1], 1;";
    expect(&fault(&gpu, atomic, 1, p), FaultKind::MisalignedAddress, 716, FIRST);
}

#[test]
fn beyond_shared_memory_and_parameters() {
    let gpu = Gpu::new();
    let p = gpu.upload(&[1u32; 64]);
    let f = fault(&gpu, "mov.u32 %r2, s;\nst.shared.u32 [%r2+1024], %r1;", 1, p);
    expect(&f, FaultKind::IllegalAddress, 700, FIRST + 1);
    assert_eq!(f.allocation.map(|a| a.size), Some(1024));
    expect(&fault(&gpu, "ld.param.u64 %rd4, [p+8];", 1, p), FaultKind::IllegalAddress, 700, FIRST);
}

#[test]
fn traps() {
    let gpu = Gpu::new();
    let p = gpu.upload(&[1u32; 64]);
    let f = fault(&gpu, "setp.eq.u32 %p1, %r1, 7;\n@%p1 trap;", 32, p);
    expect(&f, FaultKind::Trap, 719, FIRST + 1);
    assert_eq!(f.threads, [[7, 0, 0]]);
    expect(&fault(&gpu, "brkpt;", 32, p), FaultKind::Trap, 719, FIRST);
}

#[test]
fn reads_of_what_nobody_wrote() {
    let gpu = Gpu::new();
    let p = gpu.fresh(256);
    let f = fault(&gpu, "ld.global.u32 %r2, [%rd2];", 32, p);
    expect(&f, FaultKind::Uninitialised, 719, FIRST);
    assert_eq!(f.address, Some(p));
    let f = fault(&gpu, "st.shared.u16 [s], %r1;\nld.shared.u32 %r2, [s];", 1, p);
    expect(&f, FaultKind::Uninitialised, 719, FIRST + 1);
    // A device copy of unwritten memory is unwritten, a memset writes.
    let q = gpu.fresh(256);
    gpu.memory.copy(q, p, 256).unwrap();
    expect(&fault(&gpu, "ld.global.u32 %r2, [%rd2];", 32, q), FaultKind::Uninitialised, 719, FIRST);
    gpu.memory.fill(q, &[0], 256).unwrap();
    assert!(gpu.run_text(&text("ld.global.u32 %r2, [%rd2];"), 32, &[Ptr(q)]).is_ok());
}

/// Writes s[tid], then reads s[tid ^ 32] behind `between`.
fn exchange(between: &str, distance: u32) -> String {
    format!(
        "mov.u32 %r2, s;\nshl.b32 %r3, %r1, 2;\nadd.u32 %r4, %r2, %r3;\nst.shared.u32 [%r4], %r1;\n{between}\n\
         xor.b32 %r5, %r3, {};\nadd.u32 %r6, %r2, %r5;\nld.shared.u32 %r7, [%r6];\nst.global.u32 [%rd2], %r7;",
        distance * 4
    )
}

#[test]
fn shared_races() {
    let gpu = Gpu::new();
    let p = gpu.fresh(256);
    // Without a barrier: with warps in either order some read comes after a write, or finds nothing.
    let f = fault(&gpu, &exchange("", 32), 64, p);
    assert!(matches!(f.kind, FaultKind::Race | FaultKind::Uninitialised) && f.code() == 719, "{f}");
    assert!(gpu.run_text(&text(&exchange("bar.sync 0;", 32)), 64, &[Ptr(p)]).is_ok());
    assert_eq!(gpu.download::<u32>(p, 64), (0..64).map(|i| i ^ 32).collect::<Vec<u32>>());
    // Lanes of one warp are no more ordered without bar.warp.sync.
    let f = fault(&gpu, &exchange("", 1), 32, p);
    expect(&f, FaultKind::Race, 719, FIRST + 7);
    assert_eq!(f.threads.len(), 2, "{f}");
    assert!(gpu.run_text(&text(&exchange("bar.warp.sync -1;", 1)), 32, &[Ptr(p)]).is_ok());
    // Two lanes write different values to one place; the same value is no conflict.
    expect(&fault(&gpu, "st.shared.u32 [s], %r1;", 32, p), FaultKind::Race, 719, FIRST);
    assert!(gpu.run_text(&text("mov.u32 %r2, 5;\nst.shared.u32 [s], %r2;"), 32, &[Ptr(p)]).is_ok());
}

#[test]
fn a_write_after_a_read_needs_a_barrier_too() {
    let gpu = Gpu::new();
    let p = gpu.fresh(512);
    let body = |between: &str| {
        format!(
            "setp.ne.u32 %p1, %r1, 0;\n@%p1 bra JOIN;\nst.shared.u32 [s], 1;\nJOIN:\nbar.sync 0;\n\
             ld.shared.u32 %r2, [s];\n{between}\nsetp.ne.u32 %p1, %r1, 40;\n@%p1 bra END;\nst.shared.u32 [s], %r1;\nEND:"
        )
    };
    let f = fault(&gpu, &body(""), 64, p);
    expect(&f, FaultKind::Race, 719, FIRST + 9);
    assert!(f.message.contains("write"), "{f}");
    assert!(gpu.run_text(&text(&body("bar.sync 0;")), 64, &[Ptr(p)]).is_ok());
}

#[test]
fn global_races() {
    let gpu = Gpu::new();
    let p = gpu.upload(&[0u32; 256]);
    // Threads of a block, of different blocks, and none where each has its own.
    expect(&fault(&gpu, "st.global.u32 [%rd1], %r1;", 64, p), FaultKind::Race, 719, FIRST);
    let module = gpu.load(&format!(
        "{HEADER}{}",
        text("mov.u32 %r2, %ctaid.x;\nadd.u32 %r2, %r2, 9;\nst.global.u32 [%rd2], %r2;")
    ));
    let f = gpu.run(&module, "k", [2, 1, 1], [32, 1, 1], &[Ptr(p)]).expect_err("blocks write the same words");
    expect(&f, FaultKind::Race, 719, FIRST + 2);
    let own = "ld.global.u32 %r2, [%rd2];\nadd.u32 %r2, %r2, 1;\nst.global.u32 [%rd2], %r2;";
    assert!(gpu.run_text(&text(own), 64, &[Ptr(p)]).is_ok());
    // A read of what another block writes, in either order.
    let read = text(
        "mov.u32 %r2, %ctaid.x;\nsetp.eq.u32 %p1, %r2, 0;\n@%p1 st.global.u32 [%rd1], 7;\n@!%p1 ld.global.u32 %r3, [%rd1];",
    );
    let read = format!("{HEADER}{read}")
        .replace("7;", "%r2;")
        .replace("%ctaid.x;", "%ctaid.x;\nadd.u32 %r4, %r2, 77;")
        .replace("[%rd1], %r2", "[%rd1], %r4");
    for seed in 0..4 {
        let mut gpu = Gpu::new();
        gpu.settings.seed = seed;
        let p = gpu.upload(&[0u32; 4]);
        let f = gpu.run(&gpu.load(&read), "k", [2, 1, 1], [1, 1, 1], &[Ptr(p)]).expect_err("race");
        assert_eq!(f.kind, FaultKind::Race, "seed {seed}: {f}");
    }
    // Atomics do not race with each other, but with plain accesses.
    assert!(gpu.run_text(&text("red.global.add.u32 [%rd1], 1;"), 64, &[Ptr(p)]).is_ok());
    let mixed = "red.global.add.u32 [%rd1], 1;\nsetp.eq.u32 %p1, %r1, 40;\n@%p1 st.global.u32 [%rd1], 1234;";
    expect(&fault(&gpu, mixed, 64, p), FaultKind::Race, 719, FIRST + 2);
}

#[test]
fn neighbouring_halves_of_a_word_do_not_race() {
    let gpu = Gpu::new();
    let p = gpu.fresh(256);
    let halves = "mul.wide.u32 %rd4, %r1, 2;\nadd.s64 %rd5, %rd1, %rd4;\nst.global.u16 [%rd5], %r1;\nld.global.u16 %r2, [%rd5];\n\
                  mov.u32 %r3, s;\nshl.b32 %r4, %r1, 1;\nadd.u32 %r5, %r3, %r4;\nst.shared.u16 [%r5], %r1;\nld.shared.u16 %r6, [%r5];";
    if let Err(f) = gpu.run_text(&text(halves), 64, &[Ptr(p)]) {
        panic!("{f}");
    }
}

/// Addresses of a thread's own element and of its neighbour's, of `bytes` each and `shift` elements on, in
/// global memory at `%rd5` and `%rd6` and in shared memory at `%r5` and `%r6`: 10 lines.
fn elements(bytes: u32, shift: u32) -> String {
    format!(
        "add.u32 %r7, %r1, {shift};\nxor.b32 %r8, %r1, 1;\nadd.u32 %r8, %r8, {shift};\n\
         mul.wide.u32 %rd5, %r7, {bytes};\nadd.s64 %rd5, %rd1, %rd5;\nmul.wide.u32 %rd6, %r8, {bytes};\nadd.s64 %rd6, %rd1, %rd6;\n\
         mov.u32 %r3, s;\nmad.lo.u32 %r5, %r7, {bytes}, %r3;\nmad.lo.u32 %r6, %r8, {bytes}, %r3;\n"
    )
}

#[test]
fn parts_of_a_word_race_each_for_itself() {
    let gpu = Gpu::new();
    let p = gpu.upload(&[0u32; 128]);
    let ok = |body: String| {
        if let Err(fault) = gpu.run_text(&text(&body), 64, &[Ptr(p)]) {
            panic!("{body}\n{fault}");
        }
    };
    for (ty, bytes) in [("u16", 2), ("u8", 1)] {
        for shift in [0, 1] {
            let body = |what: &str| elements(bytes, shift) + &what.replace("TY", ty);
            // What a neighbour writes, read or overwritten, wants a barrier; each thread's own element does
            // not.
            for (space, own, other) in [("global", "%rd5", "%rd6"), ("shared", "%r5", "%r6")] {
                let run = |between: &str, then: &str| {
                    body(&format!("st.{space}.TY [{own}], %r1;\n{between}\n{then}"))
                };
                let reads = format!("ld.{space}.TY %r9, [{other}];");
                let writes = format!("add.u32 %r9, %r1, 100;\nst.{space}.TY [{other}], %r9;");
                let mine =
                    format!("ld.{space}.TY %r9, [{own}];\nadd.u32 %r9, %r9, 1;\nst.{space}.TY [{own}], %r9;");
                for (then, lines) in [(&reads, 12), (&writes, 13)] {
                    expect(&fault(&gpu, &run("", then), 64, p), FaultKind::Race, 719, FIRST + lines);
                    ok(run("bar.sync 0;", then));
                }
                ok(run("", &mine));
                ok(run("bar.sync 0;", &mine));
                // A read of the thread's own, and a neighbour that overwrites it.
                let read = format!("bar.sync 0;\nld.{space}.TY %r10, [{own}];");
                if shift == 0 || space == "global" {
                    expect(&fault(&gpu, &run(&read, &writes), 64, p), FaultKind::Race, 719, FIRST + 14);
                }
                ok(run(&format!("{read}\nbar.sync 0;"), &writes));
            }
        }
    }
}

#[test]
fn parts_of_a_word_race_between_blocks() {
    // Two blocks write a half each, a third reads the first half, or both as a word.
    let halves = |then: &str| {
        format!(
            "{HEADER}{}",
            text(&format!(
                "mov.u32 %r2, %ctaid.x;\nmul.wide.u32 %rd5, %r2, 2;\nadd.s64 %rd5, %rd1, %rd5;\nadd.u32 %r3, %r2, 7;\n\
                 setp.lt.u32 %p1, %r2, 2;\n@%p1 st.global.u16 [%rd5], %r3;\n{then}"
            ))
        )
    };
    for seed in 0..6 {
        let mut gpu = Gpu::new();
        gpu.settings.seed = seed;
        gpu.settings.threads = 1;
        let p = gpu.upload(&[0u32; 4]);
        let run = |then: &str| {
            gpu.run(&gpu.load(&halves(then)), "k", [3, 1, 1], [1, 1, 1], &[Ptr(p)]).map_err(Box::new)
        };
        for then in [
            "@!%p1 ld.global.u16 %r4, [%rd1];",
            "@!%p1 ld.global.u16 %r4, [%rd1+2];",
            "@!%p1 ld.global.u32 %r4, [%rd1];",
        ] {
            let fault = run(then).expect_err("the third block reads what the others write");
            assert_eq!(fault.kind, FaultKind::Race, "seed {seed}: {fault}");
        }
        assert!(run("@!%p1 ld.global.u32 %r4, [%rd1+4];").is_ok());
    }
}

#[test]
fn divergent_barriers() {
    let gpu = Gpu::new();
    let p = gpu.fresh(256);
    let half = "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra SKIP;\nbar.sync 0;\nSKIP:\nbar.sync 1;";
    let f = fault(&gpu, half, 32, p);
    assert_eq!((f.kind, f.code()), (FaultKind::Barrier, 719), "{f}");
    expect(
        &fault(&gpu, "setp.lt.u32 %p1, %r1, 16;\n@%p1 bar.sync 0;", 32, p),
        FaultKind::Barrier,
        719,
        FIRST + 1,
    );
}

#[test]
fn barriers_that_never_complete() {
    let gpu = Gpu::new();
    let p = gpu.fresh(256);
    let f = fault(&gpu, "bar.sync 0, 64;", 32, p);
    expect(&f, FaultKind::Barrier, 719, FIRST);
    assert!(f.message.contains("32 of 64"), "{f}");
    // A whole warp leaves before the others' barrier.
    let leaves = "setp.lt.u32 %p1, %r1, 32;\n@%p1 ret;\nbar.sync 0;";
    let f = fault(&gpu, leaves, 64, p);
    expect(&f, FaultKind::Barrier, 719, FIRST + 2);
    assert!(f.message.contains("exited"), "{f}");
    // Two warps wait at different barriers.
    let apart = "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra LOW;\nbar.sync 1;\nret;\nLOW:\nbar.sync 2;";
    assert_eq!(fault(&gpu, apart, 64, p).kind, FaultKind::Barrier);
    for wrong in ["bar.sync 16;", "bar.sync 0, 33;", "bar.arrive 0, 0;"] {
        expect(&fault(&gpu, wrong, 32, p), FaultKind::Barrier, 719, FIRST);
    }
}

#[test]
fn collectives_with_wrong_lanes() {
    let gpu = Gpu::new();
    let p = gpu.fresh(256);
    let f = fault(&gpu, "shfl.sync.down.b32 %r2, %r1, 1, 31, 0xffff;", 32, p);
    expect(&f, FaultKind::Collective, 719, FIRST);
    assert_eq!(f.threads, [[16, 0, 0]], "{f}");
    // Lanes of the mask that never come.
    let missing = "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra SKIP;\nvote.sync.ballot.b32 %r2, %p1, -1;\nbra END;\nSKIP:\ntrap;\nEND:";
    assert!(matches!(fault(&gpu, missing, 32, p).kind, FaultKind::Trap));
    let missing = missing.replace("trap;", "bar.sync 0;");
    let f = fault(&gpu, &missing, 32, p);
    assert_eq!((f.kind, f.code()), (FaultKind::Collective, 719), "{f}");
    // Threads may wait for each other at different bar.warp.syncs, though not with different masks.
    let apart = "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra SKIP;\nbar.warp.sync -1;\nbra END;\nSKIP:\nbar.warp.sync -1;\nEND:";
    assert!(gpu.run_text(&text(apart), 32, &[Ptr(p)]).is_ok());
    let f = fault(&gpu, &apart.replacen("-1", "0x7fffffff", 1), 32, p);
    assert_eq!((f.kind, f.code()), (FaultKind::Collective, 719), "{f}");
    // A source lane outside the mask, or that does not exist.
    let outside =
        "setp.ge.u32 %p1, %r1, 16;\n@%p1 bra END;\nshfl.sync.idx.b32 %r2, %r1, 20, 31, 0xffff;\nEND:";
    expect(&fault(&gpu, outside, 32, p), FaultKind::Collective, 719, FIRST + 2);
    let absent = "shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;";
    expect(&fault(&gpu, absent, 20, p), FaultKind::Collective, 719, FIRST);
    // Half a warp multiplies matrices.
    let mma =
        "setp.ge.u32 %p1, %r1, 16;\n@%p1 bra END;\nmovmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1;\nEND:";
    expect(&fault(&gpu, mma, 32, p), FaultKind::Collective, 719, FIRST + 2);
    // Lanes that have exited are not waited for.
    let rest = "setp.ge.u32 %p1, %r1, 16;\n@%p1 ret;\nshfl.sync.bfly.b32 %r2, %r1, 8, 31, -1;\nst.global.u32 [%rd2], %r2;";
    assert!(gpu.run_text(&text(rest), 32, &[Ptr(p)]).is_ok());
}

#[test]
fn asynchronous_copies_read_too_soon() {
    let gpu = Gpu::new();
    let p = gpu.upload(&[7u32; 32]);
    let copy = |wait: &str| {
        format!(
            "mov.u32 %r2, s;\nshl.b32 %r3, %r1, 2;\nadd.u32 %r4, %r2, %r3;\ncp.async.ca.shared.global [%r4], [%rd2], 4;\n\
             cp.async.commit_group;\n{wait}\nld.shared.u32 %r5, [%r4];"
        )
    };
    let f = fault(&gpu, &copy(""), 32, p);
    expect(&f, FaultKind::AsyncCopy, 719, FIRST + 6);
    let f = fault(&gpu, &copy("cp.async.wait_group 1;"), 32, p);
    expect(&f, FaultKind::AsyncCopy, 719, FIRST + 6);
    assert!(gpu.run_text(&text(&copy("cp.async.wait_group 0;")), 32, &[Ptr(p)]).is_ok());
    assert!(gpu.run_text(&text(&copy("cp.async.wait_all;")), 32, &[Ptr(p)]).is_ok());
    // Waited for by the thread that copied, read by another without a barrier.
    let other = copy("cp.async.wait_all;\nxor.b32 %r4, %r4, 4;");
    expect(&fault(&gpu, &other, 32, p), FaultKind::Race, 719, FIRST + 7);
    let barrier = copy("cp.async.wait_all;\nxor.b32 %r4, %r4, 4;\nbar.sync 0;");
    assert!(gpu.run_text(&text(&barrier), 32, &[Ptr(p)]).is_ok());
}

#[test]
fn zero_fill_of_asynchronous_copies() {
    let gpu = Gpu::new();
    let p = gpu.upload(&[0x1122_3344u32; 32]);
    let body = "shl.b32 %r3, %r1, 2;\nmov.u32 %r2, s;\nadd.u32 %r4, %r2, %r3;\nand.b32 %r6, %r1, 3;\n\
                cp.async.ca.shared.global [%r4], [%rd2], 4, %r6;\ncp.async.wait_all;\nld.shared.u32 %r5, [%r4];\nst.global.u32 [%rd2], %r5;";
    gpu.run_text(&text(body), 32, &[Ptr(p)]).unwrap();
    let expected: Vec<u32> = (0..32).map(|i| [0, 0x44, 0x3344, 0x22_3344][i % 4]).collect();
    assert_eq!(gpu.download::<u32>(p, 32), expected);
}

#[test]
fn unknown_instructions_fail_their_kernel_only() {
    let gpu = Gpu::new();
    let good = text("st.global.u32 [%rd2], %r1;");
    let bad = text("frobnicate.u32 %r2, %r1;").replace("entry k(", "entry bad(");
    let module = gpu.load(&format!("{HEADER}{good}{bad}"));
    let p = gpu.fresh(128);
    assert!(gpu.run(&module, "k", [1; 3], [32, 1, 1], &[Ptr(p)]).is_ok());
    let f = gpu.run(&module, "bad", [1; 3], [32, 1, 1], &[Ptr(p)]).expect_err("frobnicate");
    assert_eq!((f.kind, f.code(), f.ptx_line), (FaultKind::UnsupportedInstruction, 218, FIRST + 15), "{f}");
    assert!(f.message.contains("frobnicate.u32"), "{f}");
}

#[test]
fn reports_name_the_place() {
    let gpu = Gpu::new();
    let body = format!("{}.file 1 \"dir/kernel.cu\"\n", text(".loc 1 42 7\nst.global.u32 [%rd1+4096], %r1;"));
    let module = gpu.load(&format!("{HEADER}{body}"));
    let p = gpu.fresh(64);
    let f = gpu.run(&module, "k", [1, 3, 2], [1, 2, 4], &[Ptr(p)]).expect_err("out of bounds");
    assert_eq!((f.kernel.as_str(), f.grid, f.block), ("k", [1, 3, 2], [1, 2, 4]));
    let loc = f.loc.clone().expect("the module has line information");
    assert_eq!((loc.file.as_str(), loc.line), ("dir/kernel.cu", 42));
    let report = f.to_string();
    for part in ["kernel k", "block (1, 2, 4)", "st.global.u32 [%rd1+4096]", "dir/kernel.cu:42", "64 bytes"] {
        assert!(report.contains(part), "{part} in {report}");
    }
}

#[test]
fn checks_can_be_switched_off() {
    let gpu = Gpu::without_checks();
    let p = gpu.fresh(256);
    for body in ["st.shared.u32 [s], %r1;", "ld.global.u32 %r2, [%rd2];", "st.global.u32 [%rd1], %r1;"] {
        assert!(gpu.run_text(&text(body), 64, &[Ptr(p)]).is_ok(), "{body}");
    }
    expect(&fault(&gpu, "ld.global.u32 %r2, [%rd1+512];", 1, p), FaultKind::IllegalAddress, 700, FIRST);
    let mut gpu = Gpu::new();
    gpu.settings.checks = Checks { shared_races: false, ..Checks::ALL };
    let p = gpu.fresh(256);
    assert!(gpu.run_text(&text("st.shared.u32 [s], %r1;"), 64, &[Ptr(p)]).is_ok());
}

#[test]
fn endless_loops_meet_the_instruction_limit() {
    let mut gpu = Gpu::new();
    gpu.settings.instruction_limit = Some(1_000_000);
    let p = gpu.fresh(256);
    let f = fault(&gpu, "AGAIN:\nbra AGAIN;", 32, p);
    assert_eq!((f.kind, f.code()), (FaultKind::Timeout, 702));
}
