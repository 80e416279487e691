//! Counters against counts made by hand.

mod kernel;

use kernel::Arg::{I32, Ptr};
use kernel::{Arg, Gpu};
use vgpu::counters::{Class, Counters};

const PROGRAMS: &str = include_str!("programs/counted.ptx");

fn count(gpu: &Gpu, name: &str, grid: [u32; 3], block: [u32; 3], args: &[Arg]) -> Counters {
    gpu.run(&gpu.load(PROGRAMS), name, grid, block, args).unwrap_or_else(|fault| panic!("{fault}"))
}

#[test]
fn copy() {
    let gpu = Gpu::new();
    let (x, y) = (gpu.upload(&[1f32; 1024]), gpu.fresh(4096));
    let c = count(&gpu, "copy", [4, 1, 1], [256, 1, 1], &[Ptr(x), Ptr(y)]);
    for traffic in [c.global_loads, c.global_stores] {
        // 32 warps, 128 bytes each: four sectors.
        assert_eq!((traffic.requests, traffic.sectors, traffic.bytes), (32, 128, 4096));
        assert_eq!((traffic.unique_sectors, traffic.unique_bytes), (128, 4096));
    }
    assert_eq!(c.warp_instructions[Class::Global as usize], 64);
    assert_eq!(c.thread_instructions[Class::Global as usize], 2048);
    assert_eq!((c.branches, c.divergent_branches, c.barriers, c.flops), (0, 0, 0, 0));
    assert_eq!(c.branch_efficiency(), 1.0);
}

#[test]
fn copy_of_vectors() {
    let gpu = Gpu::new();
    let (x, y) = (gpu.upload(&[1f32; 1024]), gpu.fresh(4096));
    let c = count(&gpu, "copy_vector", [1, 1, 1], [256, 1, 1], &[Ptr(x), Ptr(y)]);
    for traffic in [c.global_loads, c.global_stores] {
        // 8 warps, 512 bytes each: sixteen sectors.
        assert_eq!((traffic.requests, traffic.sectors, traffic.bytes), (8, 128, 4096));
        assert_eq!((traffic.unique_sectors, traffic.unique_bytes), (128, 4096));
    }
}

#[test]
fn strided_copy() {
    let gpu = Gpu::new();
    let (x, y) = (gpu.upload(&[1f32; 2048]), gpu.fresh(1024));
    let c = count(&gpu, "copy_strided", [1, 1, 1], [256, 1, 1], &[Ptr(x), Ptr(y)]);
    // Each thread's float is alone in its sector: 4 of 32 bytes are used.
    let loads = c.global_loads;
    assert_eq!((loads.requests, loads.sectors, loads.bytes), (8, 256, 1024));
    assert_eq!((loads.unique_sectors, loads.unique_bytes), (256, 1024));
    assert_eq!((c.global_stores.sectors, c.global_stores.unique_bytes), (32, 1024));
}

fn transpose(name: &str) -> Counters {
    let gpu = Gpu::new();
    let n = 64;
    let values: Vec<f32> = (0..n * n).map(|i| i as f32).collect();
    let (x, y) = (gpu.upload(&values), gpu.fresh((n * n * 4) as u64));
    let c = count(&gpu, name, [2, 2, 1], [32, 32, 1], &[Ptr(x), Ptr(y), I32(n as i32)]);
    let result: Vec<f32> = gpu.download(y, n * n);
    assert!((0..n * n).all(|i| result[i] == values[i % n * n + i / n]));
    // Four blocks of 32 warps.
    assert_eq!((c.shared_stores.requests, c.shared_stores.wavefronts), (128, 128));
    assert_eq!((c.shared_loads.requests, c.shared_loads.ideal_wavefronts), (128, 128));
    assert_eq!((c.global_loads.sectors, c.global_stores.sectors), (512, 512));
    assert_eq!(c.barriers, 128);
    c
}

#[test]
fn transpose_with_bank_conflicts() {
    // A column of the tile lies in one bank: 32 passes for each of 128 loads.
    assert_eq!(transpose("transpose").shared_loads.wavefronts, 128 * 32);
}

#[test]
fn transpose_with_padding() {
    let c = transpose("transpose_padded");
    assert_eq!(c.shared_loads.wavefronts, 128);
    assert_eq!(c.shared_bytes, 32 * 33 * 4);
}

#[test]
fn matrix_product() {
    let gpu = Gpu::new();
    let k = 48;
    let value = |i: usize| half::f16::from_f32((i % 7) as f32 - 3.0);
    let pack = |len: usize| -> Vec<u32> {
        let bits = |i: usize| u32::from(value(i).to_bits());
        (0..len / 2).map(|i| bits(2 * i) | bits(2 * i + 1) << 16).collect()
    };
    let (a, b, c) = (gpu.upload(&pack(16 * k)), gpu.upload(&pack(8 * k)), gpu.fresh(16 * 8 * 4));
    let counters = count(&gpu, "gemm_mma", [1; 3], [32, 1, 1], &[Ptr(a), Ptr(b), Ptr(c), I32(k as i32)]);
    let result: Vec<f32> = gpu.download(c, 128);
    for i in 0..16 {
        for j in 0..8 {
            let expected: f32 = (0..k).map(|l| value(i * k + l).to_f32() * value(j * k + l).to_f32()).sum();
            assert_eq!(result[i * 8 + j], expected, "({i}, {j})");
        }
    }
    // Three steps along k, each one product of 16 x 8 x 16.
    assert_eq!(counters.warp_instructions[Class::Tensor as usize], 3);
    assert_eq!(counters.tensor_flops, 3 * 2 * 16 * 8 * 16);
    assert_eq!(counters.tensor_work, counters.tensor_flops);
    assert_eq!(counters.flops, 0);
    // Six words per lane are stored; rows of A and B are 32 bytes, so that words 0 to 31 fill the banks once.
    assert_eq!((counters.shared_stores.requests, counters.shared_stores.wavefronts), (18, 18));
    // Four tiles and two; rows 32 bytes apart: rows r and r + 4 share their banks.
    assert_eq!((counters.shared_loads.requests, counters.shared_loads.ideal_wavefronts), (6, 18));
    assert_eq!(counters.shared_loads.wavefronts, 36);
    assert_eq!(counters.shared_loads.bytes, 3 * 6 * 128);
}

#[test]
fn branches_and_atomics() {
    let gpu = Gpu::new();
    let values: Vec<i32> = (0..64).map(|i| if i < 32 { i % 2 * 5 } else { 1 }).collect();
    let (x, y) = (gpu.upload(&values), gpu.upload(&[0i32, -1]));
    let c = count(&gpu, "branches", [1; 3], [64, 1, 1], &[Ptr(x), Ptr(y)]);
    assert_eq!(gpu.download::<i32>(y, 2), [16 * 5 + 32, 30]);
    // The first warp goes both ways, the second does not.
    assert_eq!((c.branches, c.divergent_branches, c.global_atomics), (2, 1, 64));
    assert_eq!(c.branch_efficiency(), 0.5);
}

#[test]
fn counts_do_not_depend_on_threads_or_order() {
    let mut seen: Option<Counters> = None;
    for (threads, seed) in [(1, 0), (2, 1), (4, 2), (3, 99)] {
        let mut gpu = Gpu::new();
        gpu.settings.threads = threads;
        gpu.settings.seed = seed;
        let (x, y) = (gpu.upload(&[2f32; 64 * 64]), gpu.fresh(64 * 64 * 4));
        let c = count(&gpu, "transpose", [2, 2, 1], [32, 32, 1], &[Ptr(x), Ptr(y), I32(64)]);
        assert_eq!(seen.get_or_insert(c.clone()), &c, "{threads} threads, seed {seed}");
    }
}
