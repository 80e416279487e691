//! The architectures that the device can have: limits and rates.

/// Limits of a compute capability (CUDA C++ Programming Guide, "Technical Specifications per Compute
/// Capability"), and the size of a usual device that has it.
#[derive(Debug, PartialEq)]
pub(crate) struct Architecture {
    pub capability: (u32, u32),
    /// A usual device that has it: sizes and rates of a whole device are this one's.
    pub usual: &'static str,
    pub warps_per_sm: u32,
    pub blocks_per_sm: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_per_sm: u32,
    /// Shared memory that a block gets at most, after `cuFuncSetAttribute`.
    pub shared_per_block_optin: u32,
    /// Shared memory of a block that the system keeps for itself.
    pub shared_reserved: u32,
    /// Its multiprocessors.
    pub sm_count: u32,
    pub l2_bytes: u32,
    /// Width of its memory bus in bits, clock rates in kHz.
    pub bus_bits: u32,
    pub memory_clock_khz: u32,
    pub clock_khz: u32,
    /// Single- to double-precision throughput.
    pub f32_to_f64: u32,
    /// Lanes of a multiprocessor that make an f32 FMA, or integer operation, each clock ("Throughput of
    /// Native Arithmetic Instructions").
    pub f32_lanes: u32,
    pub integer_lanes: u32,
    /// Operations of a multiprocessor's tensor cores each clock, on dense 16-bit operands with sums in f32
    /// (from the peak in the device's data sheet); 0 where no figure for `mma` is known.
    pub tensor_flops: u32,
}

impl Architecture {
    #[rustfmt::skip]
    pub const ALL: [Self; 7] = [
        Self {
            usual: "T4",
            capability: (7, 5), warps_per_sm: 32, blocks_per_sm: 16, shared_per_sm: 64 << 10,
            shared_per_block_optin: 64 << 10, shared_reserved: 0, sm_count: 40, l2_bytes: 4 << 20, bus_bits: 256,
            memory_clock_khz: 5_001_000, clock_khz: 1_590_000, f32_to_f64: 32,
            f32_lanes: 64, integer_lanes: 64, tensor_flops: 1024,
        },
        Self {
            usual: "A100 SXM 80 GB",
            capability: (8, 0), warps_per_sm: 64, blocks_per_sm: 32, shared_per_sm: 164 << 10,
            shared_per_block_optin: 163 << 10, shared_reserved: 1 << 10, sm_count: 108, l2_bytes: 40 << 20,
            bus_bits: 5120, memory_clock_khz: 1_593_000, clock_khz: 1_410_000, f32_to_f64: 2,
            f32_lanes: 64, integer_lanes: 64, tensor_flops: 2048,
        },
        Self {
            usual: "RTX 3090",
            capability: (8, 6), warps_per_sm: 48, blocks_per_sm: 16, shared_per_sm: 100 << 10,
            shared_per_block_optin: 99 << 10, shared_reserved: 1 << 10, sm_count: 82, l2_bytes: 6 << 20,
            bus_bits: 384, memory_clock_khz: 9_751_000, clock_khz: 1_695_000, f32_to_f64: 32,
            f32_lanes: 128, integer_lanes: 64, tensor_flops: 512,
        },
        Self {
            usual: "RTX 4090",
            capability: (8, 9), warps_per_sm: 48, blocks_per_sm: 24, shared_per_sm: 100 << 10,
            shared_per_block_optin: 99 << 10, shared_reserved: 1 << 10, sm_count: 128, l2_bytes: 72 << 20,
            bus_bits: 384, memory_clock_khz: 10_501_000, clock_khz: 2_520_000, f32_to_f64: 64,
            f32_lanes: 128, integer_lanes: 64, tensor_flops: 512,
        },
        Self {
            usual: "H100 SXM",
            capability: (9, 0), warps_per_sm: 64, blocks_per_sm: 32, shared_per_sm: 228 << 10,
            shared_per_block_optin: 227 << 10, shared_reserved: 1 << 10, sm_count: 132, l2_bytes: 50 << 20,
            bus_bits: 5120, memory_clock_khz: 2_619_000, clock_khz: 1_980_000, f32_to_f64: 2,
            f32_lanes: 128, integer_lanes: 64, tensor_flops: 4096,
        },
        Self {
            usual: "B200",
            capability: (10, 0), warps_per_sm: 64, blocks_per_sm: 32, shared_per_sm: 228 << 10,
            shared_per_block_optin: 227 << 10, shared_reserved: 1 << 10, sm_count: 148, l2_bytes: 126 << 20,
            bus_bits: 8192, memory_clock_khz: 3_996_000, clock_khz: 1_965_000, f32_to_f64: 2,
            f32_lanes: 128, integer_lanes: 64, tensor_flops: 0,
        },
        Self {
            usual: "RTX 5090",
            capability: (12, 0), warps_per_sm: 48, blocks_per_sm: 24, shared_per_sm: 100 << 10,
            shared_per_block_optin: 99 << 10, shared_reserved: 1 << 10, sm_count: 170, l2_bytes: 96 << 20,
            bus_bits: 512, memory_clock_khz: 14_001_000, clock_khz: 2_407_000, f32_to_f64: 64,
            f32_lanes: 128, integer_lanes: 128, tensor_flops: 512,
        },
    ];

    pub fn find(capability: (u32, u32)) -> Option<&'static Self> {
        static ALL: [Architecture; 7] = Architecture::ALL;
        ALL.iter().find(|architecture| architecture.capability == capability)
    }

    /// 80 for compute capability 8.0, as in `sm_80`.
    pub fn sm(&self) -> u32 {
        self.capability.0 * 10 + self.capability.1
    }
}
