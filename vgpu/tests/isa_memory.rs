//! `ld`, `ldu`, `st` in every space and width, their vectors, hints and orders, generic addresses, 128-bit
//! accesses and atomics, and memory of the stack.

mod isa;
mod kernel;

use isa::*;
use kernel::{Arg::Ptr, Gpu, HEADER};
use vgpu::Settings;

/// Eight bytes of the thread's own in each space, at `%cell`: declarations, and how to name the place.
const CELLS: [(&str, &str); 6] = [
    ("global", "mov.b64 %cell, %from;"),
    (
        "shared",
        ".shared .align 32 .b8 cells[1024]; mov.b64 %cell, cells; mul.wide.u32 %lane8, %lane, 32; add.u64 %cell, %cell, %lane8;",
    ),
    ("local", ".local .align 32 .b8 cells[32]; mov.b64 %cell, cells;"),
    // Generic addresses of the same.
    ("", "mov.b64 %cell, %from;"),
    (
        "",
        ".shared .align 32 .b8 cells[1024]; mov.b64 %cell, cells; mul.wide.u32 %lane8, %lane, 32; add.u64 %cell, %cell, %lane8; cvta.shared.u64 %cell, %cell;",
    ),
    ("", ".local .align 32 .b8 cells[32]; mov.b64 %cell, cells; cvta.local.u64 %cell, %cell;"),
];

/// Runs `body` over `%cell` in every space; `SPACE` in it is replaced, by nothing for generic addresses.
fn everywhere(signature: &str, body: &str, rows: &[Vec<u64>], expected: impl Fn(&[u64]) -> Vec<u64>) {
    for (space, place) in CELLS {
        let dotted = if space.is_empty() { String::new() } else { format!(".{space}") };
        let text = format!(
            ".reg .b64 %cell, %lane8; .reg .b32 %lane; mov.u32 %lane, %laneid; {place}\n {}",
            body.replace("SPACE", &dotted)
        );
        for (row, seen) in rows.iter().zip(run(signature, &text, rows)) {
            assert_eq!(seen, expected(row), "{text}\n  of {row:x?}");
        }
    }
}

const WORDS: [u64; 6] =
    [0, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0x8080_8080_8080_8080, 0x7f7f_7fff_7fff_ffff, u64::MAX];

/// The low `bits` of a word, sign-extended or not.
fn extended(word: u64, bits: u32, signed: bool) -> u64 {
    let shift = 64 - bits;
    if signed { ((word << shift) as i64 >> shift) as u64 } else { word << shift >> shift }
}

#[test]
fn narrow_loads_extend_to_their_register() {
    let rows = singles(&WORDS);
    for (ty, bits) in [("8", 8), ("16", 16), ("32", 32), ("64", 64)] {
        for (kind, signed) in [("u", false), ("s", true), ("b", false)] {
            for (register, width) in [("b16", 16), ("b32", 32), ("b64", 64)] {
                if bits > width || bits == 64 && width != 64 {
                    continue;
                }
                let body = format!("stSPACE.b64 [%cell], %a0; ldSPACE.{kind}{ty} %d0, [%cell];");
                let keep = u64::MAX >> (64 - width);
                everywhere(&format!("b64 -> {register}"), &body, &rows, |row| {
                    vec![extended(row[0], bits, signed) & keep]
                });
            }
        }
    }
}

#[test]
fn narrow_stores_leave_their_neighbours() {
    for (ty, bits) in [("b8", 8), ("u8", 8), ("s16", 16), ("b16", 16), ("u32", 32), ("f32", 32)] {
        for at in (0..8).step_by(bits / 8) {
            let register = if bits == 32 { "b32" } else { "b64" };
            let value = if ty == "f32" { "b32" } else { register };
            let body = format!(
                "stSPACE.b64 [%cell], %a0; stSPACE.{ty} [%cell+{at}], %a1; ldSPACE.b64 %d0, [%cell];"
            );
            let rows: Vec<Vec<u64>> = pairs(
                &WORDS,
                &[0, 0x1122_3344, 0x99aa_bbcc, u64::MAX >> (if value == "b32" { 32 } else { 0 })],
            );
            everywhere(&format!("b64 {value} -> b64"), &body, &rows, |row| {
                let mask = (u64::MAX >> (64 - bits)) << (8 * at);
                vec![row[0] & !mask | row[1] << (8 * at) & mask]
            });
        }
    }
}

#[test]
fn vectors_have_their_first_element_lowest() {
    let rows = pairs(&WORDS, &WORDS);
    let split = |words: &[u64], bits: usize| -> Vec<u64> {
        let all = u128::from(words[1]) << 64 | u128::from(words[0]);
        (0..128 / bits).map(|i| (all >> (i * bits)) as u64 & (u64::MAX >> (64 - bits))).collect()
    };
    for (count, bits) in [(2, 8), (4, 8), (2, 16), (4, 16), (2, 32), (4, 32), (2, 64)] {
        let register = if bits == 64 { "b64" } else { "b32" };
        let list = |name: &str| (0..count).map(|i| format!("%{name}{i}")).collect::<Vec<_>>().join(", ");
        let body = format!(
            "stSPACE.v2.b64 [%cell], {{%a0, %a1}}; ldSPACE.v{count}.u{bits} {{{}}}, [%cell];",
            list("d")
        );
        let signature = format!("b64 b64 -> {}", format!("{register} ").repeat(count));
        everywhere(&signature, &body, &rows, |row| split(row, bits)[..count].to_vec());

        // The same the other way, over bytes that were something else.
        let inputs = format!("{}-> b64 b64", format!("{register} ").repeat(count));
        let body = format!(
            "stSPACE.v2.b64 [%cell], {{-1, -1}}; stSPACE.v{count}.b{bits} [%cell], {{{}}}; ldSPACE.v2.b64 {{%d0, %d1}}, [%cell];",
            list("a")
        );
        // The cell of the global space is the operands themselves: they must be as long as two words.
        let rows: Vec<Vec<u64>> = (0..20u64)
            .map(|i| (0..count as u64).map(|k| (i * 0x0193_7a5b + k * 0x55) & 0xffff_ffff).collect())
            .collect();
        everywhere(&inputs, &body, &rows, |row| {
            let mut all = u128::MAX;
            for (k, value) in row.iter().enumerate() {
                let mask = u128::from(u64::MAX >> (64 - bits)) << (k * bits);
                all = all & !mask | u128::from(*value) << (k * bits) & mask;
            }
            vec![all as u64, (all >> 64) as u64]
        });
    }
    // Elements that nobody wants.
    let body = "stSPACE.v2.b64 [%cell], {%a0, %a1}; ldSPACE.v4.b32 {_, %d0, _, %d1}, [%cell];";
    everywhere("b64 b64 -> b32 b32", body, &rows, |row| vec![row[0] >> 32, row[1] >> 32]);
}

#[test]
fn vectors_of_32_bytes_in_global_memory() {
    // Of sm_100, which alone has them; the engine takes them on every device.
    let rows: Vec<Vec<u64>> =
        (0..40u64).map(|i| (0..4).map(|k| i * 0x1234_5678_9abc + k).collect()).collect();
    let body = ".reg .b32 %x<8>;\n\
        ld.global.v8.b32 {%x0, %x1, %x2, %x3, %x4, %x5, %x6, %x7}, [%from];\n\
        st.global.v8.b32 [%from], {%x7, %x6, %x5, %x4, %x3, %x2, %x1, %x0};\n\
        ld.global.v4.b64 {%d0, %d1, %d2, %d3}, [%from];";
    for (row, seen) in
        rows.iter().zip(run_unjudged(&Settings::default(), "b64 b64 b64 b64 -> b64 b64 b64 b64", body, &rows))
    {
        let expected: Vec<u64> = row.iter().rev().map(|word| word.rotate_left(32)).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn hints_and_orders_change_no_value() {
    let loads = [
        "ld.global.ca",
        "ld.global.cg",
        "ld.global.cs",
        "ld.global.lu",
        "ld.global.cv",
        "ld.global.nc",
        "ld.global.ca.nc",
        "ldu.global",
        "ld.weak.global",
        "ld.volatile.global",
        "ld.relaxed.cta.global",
        "ld.relaxed.gpu.global",
        "ld.relaxed.sys.global",
        "ld.acquire.cta.global",
        "ld.acquire.gpu.global",
        "ld.acquire.sys.global",
        "ld.relaxed.gpu",
        "ld.acquire.cluster",
        "ld.volatile",
        "ld.global.L1::evict_last",
        "ld.global.L1::no_allocate",
        "ld.global.nc.L1::evict_first.L2::128B",
        "ld.global.L2::64B",
        "ld.mmio.relaxed.sys.global",
    ];
    let stores = [
        "st.global.wb",
        "st.global.cg",
        "st.global.cs",
        "st.global.wt",
        "st.weak.global",
        "st.volatile.global",
        "st.relaxed.cta.global",
        "st.relaxed.gpu.global",
        "st.relaxed.sys.global",
        "st.release.cta.global",
        "st.release.gpu.global",
        "st.release.sys",
        "st.volatile",
        "st.global.L1::no_allocate",
        "st.mmio.relaxed.sys.global",
    ];
    let rows = singles(&INTS32);
    for load in loads {
        check("b32 -> b32", &format!("{load}.b32 %d0, [%from];"), &rows, |row| row[0]);
    }
    for store in stores {
        let body = format!("{store}.b32 [%from], %a0; ld.global.b32 %d0, [%from]; st.global.b32 [%from], 0;");
        check("b32 -> b32", &body, &rows, |row| row[0]);
    }
    let policy = ".reg .b64 %policy; createpolicy.fractional.L2::evict_last.b64 %policy, 1.0;\n";
    let hinted = "ld.global.L2::cache_hint.b32 %d0, [%from], %policy; st.global.L2::cache_hint.b32 [%from], %d0, %policy;";
    check("b32 -> b32", &format!("{policy}{hinted}"), &rows, |row| row[0]);
}

#[test]
fn orders_of_shared_memory() {
    let rows = singles(&INTS32);
    let cell = ".shared .b32 cells[32]; .reg .b32 %at, %lane; mov.u32 %at, cells; mov.u32 %lane, %laneid;\n\
        mad.lo.u32 %at, %lane, 4, %at;\n";
    for (store, load) in [
        ("st.volatile.shared", "ld.volatile.shared"),
        ("st.relaxed.cta.shared", "ld.relaxed.cta.shared"),
        ("st.release.cta.shared", "ld.acquire.cta.shared"),
        ("st.weak.shared", "ld.weak.shared"),
        ("st.shared::cta", "ld.shared::cta"),
    ] {
        check("b32 -> b32", &format!("{cell}{store}.b32 [%at], %a0; {load}.b32 %d0, [%at];"), &rows, |row| {
            row[0]
        });
    }
}

#[test]
fn addresses_of_every_form() {
    let gpu = Gpu::new();
    let text = ".const .align 8 .b32 table[6] = {10, 20, 30, 40, 50, 60};\n\
        .global .align 4 .b8 bytes[4] = {1, 2, 3, 4};\n\
        .visible .entry k(.param .u64 out, .param .u64 unused)\n{\n\
        .shared .align 8 .b32 cells[4]; .local .align 8 .b32 own[4];\n\
        .reg .b64 %out, %p, %q; .reg .b32 %x<16>; .reg .b32 %s;\n\
        ld.param.u64 %out, [out];\n\
        ld.const.u32 %x0, [table+8];\n\
        mov.u64 %p, table; ld.const.u32 %x1, [%p+20]; add.u64 %p, %p, 16; ld.const.u32 %x2, [%p+-12];\n\
        cvta.const.u64 %q, %p; ld.u32 %x3, [%q];\n\
        ld.global.u8 %x4, [bytes+3];\n\
        st.shared.u32 [cells+4], 77; mov.u32 %s, cells; ld.shared.u32 %x5, [%s+4];\n\
        st.local.u32 [own+12], 88; ld.local.u32 %x6, [own+12];\n\
        mov.b64 %p, out; ld.param.u64 %q, [%p]; sub.u64 %q, %q, %out; cvt.u32.u64 %x7, %q;\n\
        cvta.param.u64 %p, %p; ld.u64 %q, [%p]; sub.u64 %q, %q, %out; cvt.u32.u64 %x8, %q;\n\
        ld.const.v2.u32 {%x9, %x10}, [table+16];\n\
        st.global.v4.u32 [%out], {%x0, %x1, %x2, %x3};\n\
        st.global.v4.u32 [%out+16], {%x4, %x5, %x6, %x7};\n\
        st.global.u32 [%out+32], %x8; st.global.v2.u32 [%out+40], {%x9, %x10};\n ret;\n}\n";
    let out = gpu.upload(&[9u32; 12]);
    gpu.run_text(text, 1, &[Ptr(out), Ptr(0)]).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(gpu.download::<u32>(out, 12), [30, 60, 20, 50, 4, 77, 88, 0, 0, 9, 50, 60]);
}

#[test]
fn words_of_128_bits() {
    let rows: Vec<Vec<u64>> = pairs(&WORDS, &WORDS);
    let body = ".reg .b128 %w; mov.b128 %w, {%a1, %a0}; stSPACE.b128 [%cell], %w; ldSPACE.v2.b64 {%d0, %d1}, [%cell];";
    everywhere("b64 b64 -> b64 b64", body, &rows, |row| vec![row[1], row[0]]);
    let body = ".reg .b128 %w; stSPACE.v2.b64 [%cell], {%a0, %a1}; ldSPACE.b128 %w, [%cell]; mov.b128 {%d1, %d0}, %w;";
    everywhere("b64 b64 -> b64 b64", body, &rows, |row| vec![row[1], row[0]]);
}

#[test]
fn atomics_of_128_bits() {
    let rows: Vec<Vec<u64>> = pairs(&WORDS[..4], &WORDS[..4]);
    let exchange = "mov.b128 %new, {%a1, %a0}; atomSPACE.relaxed.gpu.exch.b128 %old, [%cell], %new;";
    let hit = "mov.b128 %old, {%a0, %a1}; mov.b128 %new, {%a1, %a0}; atomSPACE.acq_rel.gpu.cas.b128 %old, [%cell], %old, %new;";
    let miss = "mov.b128 %new, {%a0, 77}; atomSPACE.cas.b128 %old, [%cell], %new, %new;";
    for (body, swaps) in [(exchange, true), (hit, true), (miss, false)] {
        let text = format!(
            ".reg .b128 %old, %new; stSPACE.v2.b64 [%cell], {{%a0, %a1}};\n {body}\n\
             mov.b128 {{%d0, %d1}}, %old; ldSPACE.v2.b64 {{%d2, %d3}}, [%cell];"
        );
        for (space, place) in
            CELLS.iter().filter(|(space, place)| *space != "local" && !place.contains(".local"))
        {
            let dotted = if space.is_empty() { String::new() } else { format!(".{space}") };
            let text = format!(
                ".reg .b64 %cell, %lane8; .reg .b32 %lane; mov.u32 %lane, %laneid; {place}\n {}",
                text.replace("SPACE", &dotted)
            );
            for (row, seen) in rows.iter().zip(run("b64 b64 -> b64 b64 b64 b64", &text, &rows)) {
                let after = if swaps { [row[1], row[0]] } else { [row[0], row[1]] };
                assert_eq!(seen, [row[0], row[1], after[0], after[1]], "{text}\n  of {row:x?}");
            }
        }
    }
}

#[test]
fn contended_atomics_of_128_bits_lose_nothing() {
    // Every thread adds one to both halves by compare and swap: halves that differ would have been torn.
    let text = ".visible .entry k(.param .u64 cell)\n{\n\
        .reg .b64 %p, %a, %b, %c, %d; .reg .b128 %seen, %new, %old; .reg .pred %again, %other;\n\
        ld.param.u64 %p, [cell];\n\
        ld.relaxed.gpu.global.b128 %seen, [%p];\nretry:\n\
        mov.b128 {%a, %b}, %seen; add.u64 %c, %a, 1; add.u64 %d, %b, 1; mov.b128 %new, {%c, %d};\n\
        atom.global.relaxed.gpu.cas.b128 %old, [%p], %seen, %new;\n\
        mov.b128 {%c, %d}, %old; mov.b128 %seen, %old;\n\
        setp.ne.u64 %again, %a, %c; setp.ne.u64 %other, %b, %d; or.pred %again, %again, %other;\n\
        @%again bra retry;\n ret;\n}\n";
    let mut gpu = Gpu::new();
    gpu.settings.threads = 4;
    let module = gpu.load(&format!("{}{text}", HEADER.replace("sm_80", "sm_90").replace("8.0", "8.4")));
    let cell = gpu.upload(&[0u32, 0, 0, 0]);
    gpu.run(&module, "k", [40, 1, 1], [96, 1, 1], &[Ptr(cell)]).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(gpu.download::<u32>(cell, 4), [40 * 96, 0, 40 * 96, 0]);
}

#[test]
fn memory_taken_from_the_stack() {
    // Each thread takes 8 bytes for each number up to its own, in a loop that gives back what the last round
    // took.
    let text = ".visible .entry k(.param .u64 out)\n{\n\
        .reg .b64 %out, %p, %q, %h, %size, %at; .reg .b32 %n, %i, %sum, %x; .reg .pred %p1;\n\
        ld.param.u64 %out, [out]; mov.u32 %n, %tid.x; mul.wide.u32 %at, %n, 8; add.u64 %out, %out, %at;\n\
        mov.u32 %sum, 0; mov.u32 %i, 0; alloca.u64 %q, 16, 32; st.local.u32 [%q], %n;\n\
        and.b64 %at, %q, 31; cvt.u32.u64 %x, %at; st.global.u32 [%out+4], %x;\nround:\n\
        stacksave.u64 %h;\n\
        add.u32 %x, %i, 1; mul.wide.u32 %size, %x, 1024; alloca.u64 %p, %size;\n\
        st.local.u32 [%p], %i; add.u64 %at, %p, %size; st.local.u32 [%at+-4], %n;\n\
        ld.local.u32 %x, [%p]; add.u32 %sum, %sum, %x; ld.local.u32 %x, [%at+-4]; add.u32 %sum, %sum, %x;\n\
        stackrestore.u64 %h;\n\
        add.u32 %i, %i, 1; setp.le.u32 %p1, %i, %n; @%p1 bra round;\n\
        ld.local.u32 %x, [%q]; add.u32 %sum, %sum, %x; st.global.u32 [%out], %sum;\n ret;\n}\n";
    let gpu = Gpu::new();
    let out = gpu.fresh(64 * 8);
    gpu.run_text(text, 64, &[Ptr(out)]).unwrap_or_else(|fault| panic!("{fault}"));
    let expected: Vec<u32> = (0..64).flat_map(|n| [(0..=n).map(|i| i + n).sum::<u32>() + n, 0]).collect();
    assert_eq!(gpu.download::<u32>(out, 128), expected);
}

#[test]
fn stacks_of_diverged_calls() {
    // Odd threads call a function that takes memory and calls itself; even threads take memory meanwhile.
    let text = ".func (.param .b32 result) deep(.param .b32 n)\n{\n\
        .reg .b64 %p; .reg .b32 %n, %m, %x; .reg .pred %p1;\n\
        ld.param.u32 %n, [n]; alloca.u64 %p, 64; st.local.u32 [%p+60], %n; mov.u32 %x, 0;\n\
        setp.eq.u32 %p1, %n, 0; @%p1 bra done; sub.u32 %m, %n, 1;\n\
        { .param .b32 a; .param .b32 r; st.param.b32 [a], %m; call (r), deep, (a); ld.param.b32 %x, [r]; }\n\
        done: ld.local.u32 %n, [%p+60]; add.u32 %x, %x, %n; st.param.b32 [result], %x; ret;\n}\n\
        .visible .entry k(.param .u64 out)\n{\n\
        .reg .b64 %out, %p, %q, %at; .reg .b32 %n, %x, %y; .reg .pred %p1;\n\
        ld.param.u64 %out, [out]; mov.u32 %n, %tid.x; mul.wide.u32 %at, %n, 4; add.u64 %out, %out, %at;\n\
        and.b32 %x, %n, 1; setp.eq.u32 %p1, %x, 0; @%p1 bra even;\n\
        alloca.u64 %q, 8; st.local.u32 [%q], %n;\n\
        { .param .b32 a; .param .b32 r; st.param.b32 [a], %n; call (r), deep, (a); ld.param.b32 %x, [r]; }\n\
        bra.uni join;\n\
        even: alloca.u64 %q, 400; st.local.u32 [%q], %n; alloca.u64 %p, 400; st.local.u32 [%p], 1000; ld.local.u32 %x, [%p];\n\
        join: ld.local.u32 %y, [%q]; add.u32 %x, %x, %y; st.global.u32 [%out], %x;\n ret;\n}\n";
    let gpu = Gpu::new();
    let out = gpu.fresh(64 * 4);
    gpu.run_text(text, 64, &[Ptr(out)]).unwrap_or_else(|fault| panic!("{fault}"));
    let expected: Vec<u32> =
        (0..64).map(|n| if n % 2 == 1 { (0..=n).sum::<u32>() + n } else { 1000 + n }).collect();
    assert_eq!(gpu.download::<u32>(out, 64), expected);
}

#[test]
fn a_stack_has_an_end() {
    let text = ".visible .entry k()\n{\n.reg .b64 %p; again: alloca.u64 %p, 4096; bra again;\n}\n";
    let fault = Gpu::new().run_text(text, 32, &[]).expect_err("the stack is finite");
    assert_eq!(fault.code(), 719);
    assert!(fault.message.contains("alloca of 4096 bytes"), "{fault}");
    let text = text.replace("4096", "-1");
    assert_eq!(Gpu::new().run_text(&text, 32, &[]).expect_err("as before").code(), 719);
}

#[test]
fn threads_that_take_no_part_may_hold_any_address() {
    let text = ".visible .entry k(.param .u64 out)\n{\n\
        .local .align 8 .b32 own[4]; .shared .align 8 .b32 cells[4];\n\
        .reg .b64 %p, %q; .reg .b32 %l, %s; .reg .pred %first;\n\
        ld.param.u64 %p, [out]; mov.u32 %l, %laneid; setp.eq.u32 %first, %l, 0;\n\
        mov.b64 %q, own; @!%first mov.b64 %q, 0xfffffffffffffff3; mov.b32 %s, cells; @!%first mov.b32 %s, 0xfffffff3;\n\
        @!%first mov.b64 %p, 0xfffffffffffffff3;\n\
        @%first st.local.v2.u32 [%q], {7, 8}; @%first ld.local.v2.u32 {%l, _}, [%q];\n\
        @%first st.shared.u32 [%s], %l; @%first atom.shared.add.u32 %l, [%s], 1; @%first ld.shared.u32 %l, [%s];\n\
        @%first st.global.u32 [%p], %l; @%first red.global.add.u32 [%p], 1;\n ret;\n}\n";
    let gpu = Gpu::new();
    let out = gpu.fresh(4);
    gpu.run_text(text, 32, &[Ptr(out)]).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(gpu.download::<u32>(out, 1), [9]);
}
