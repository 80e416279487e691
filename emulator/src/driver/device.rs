//! The device: limits of its architecture, device attributes, memory and primary context.

use std::sync::{Arc, Mutex, OnceLock};

use super::allocation::Allocations;
use super::config::{self, DeviceConfig};
use super::context::{Context, in_callback};
use super::pool::Pool;
use super::status::{Result, Status};
use crate::exec;
use crate::memory::GlobalMemory;

/// Limits of a compute capability (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"), and
/// the size of a usual device that has it.
#[derive(Debug, PartialEq)]
pub struct Architecture {
    pub capability: (u32, u32),
    pub warps_per_sm: u32,
    pub blocks_per_sm: u32,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_per_sm: u32,
    /// Shared memory that a block gets at most, after `cuFuncSetAttribute`.
    pub shared_per_block_optin: u32,
    /// Shared memory of a block that the system keeps for itself.
    pub shared_reserved: u32,
    /// Multiprocessors of the device that the defaults follow.
    pub sm_count: u32,
    pub l2_bytes: u32,
    /// Width of its memory bus in bits, clock rates in kHz.
    pub bus_bits: u32,
    pub memory_clock_khz: u32,
    pub clock_khz: u32,
    /// Single- to double-precision throughput.
    pub f32_to_f64: u32,
}

impl Architecture {
    #[rustfmt::skip]
    pub const ALL: [Self; 7] = [
        Self { // T4
            capability: (7, 5), warps_per_sm: 32, blocks_per_sm: 16, shared_per_sm: 64 << 10,
            shared_per_block_optin: 64 << 10, shared_reserved: 0, sm_count: 40, l2_bytes: 4 << 20, bus_bits: 256,
            memory_clock_khz: 5_001_000, clock_khz: 1_590_000, f32_to_f64: 32,
        },
        Self { // A100 SXM 80 GB
            capability: (8, 0), warps_per_sm: 64, blocks_per_sm: 32, shared_per_sm: 164 << 10,
            shared_per_block_optin: 163 << 10, shared_reserved: 1 << 10, sm_count: 108, l2_bytes: 40 << 20,
            bus_bits: 5120, memory_clock_khz: 1_593_000, clock_khz: 1_410_000, f32_to_f64: 2,
        },
        Self { // RTX 3090
            capability: (8, 6), warps_per_sm: 48, blocks_per_sm: 16, shared_per_sm: 100 << 10,
            shared_per_block_optin: 99 << 10, shared_reserved: 1 << 10, sm_count: 82, l2_bytes: 6 << 20,
            bus_bits: 384, memory_clock_khz: 9_751_000, clock_khz: 1_695_000, f32_to_f64: 32,
        },
        Self { // RTX 4090
            capability: (8, 9), warps_per_sm: 48, blocks_per_sm: 24, shared_per_sm: 100 << 10,
            shared_per_block_optin: 99 << 10, shared_reserved: 1 << 10, sm_count: 128, l2_bytes: 72 << 20,
            bus_bits: 384, memory_clock_khz: 10_501_000, clock_khz: 2_520_000, f32_to_f64: 64,
        },
        Self { // H100 SXM
            capability: (9, 0), warps_per_sm: 64, blocks_per_sm: 32, shared_per_sm: 228 << 10,
            shared_per_block_optin: 227 << 10, shared_reserved: 1 << 10, sm_count: 132, l2_bytes: 50 << 20,
            bus_bits: 5120, memory_clock_khz: 2_619_000, clock_khz: 1_980_000, f32_to_f64: 2,
        },
        Self { // B200
            capability: (10, 0), warps_per_sm: 64, blocks_per_sm: 32, shared_per_sm: 228 << 10,
            shared_per_block_optin: 227 << 10, shared_reserved: 1 << 10, sm_count: 148, l2_bytes: 126 << 20,
            bus_bits: 8192, memory_clock_khz: 3_996_000, clock_khz: 1_965_000, f32_to_f64: 2,
        },
        Self { // RTX 5090
            capability: (12, 0), warps_per_sm: 48, blocks_per_sm: 24, shared_per_sm: 100 << 10,
            shared_per_block_optin: 99 << 10, shared_reserved: 1 << 10, sm_count: 170, l2_bytes: 96 << 20,
            bus_bits: 512, memory_clock_khz: 14_001_000, clock_khz: 2_407_000, f32_to_f64: 64,
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

/// Shared memory of a block without an opt-in.
pub const SHARED_PER_BLOCK: u32 = 48 << 10;
pub const THREADS_PER_BLOCK: u32 = 1024;
pub const BLOCK_LIMITS: [u32; 3] = [1024, 1024, 64];
pub const GRID_LIMITS: [u32; 3] = [i32::MAX as u32, 65535, 65535];
pub const WARP: u32 = 32;
pub const REGISTERS_PER_SM: u32 = 64 << 10;
pub const CONSTANT_BYTES: u32 = 64 << 10;

/// The one device of the process.
pub struct Device {
    pub config: DeviceConfig,
    pub exec: exec::Device,
    pub memory: Arc<GlobalMemory>,
    pub allocations: Allocations,
    pub default_pool: Arc<Pool>,
    pub current_pool: Mutex<Arc<Pool>>,
    pub primary: Mutex<Primary>,
}

/// The primary context and how often it is retained.
#[derive(Default)]
pub struct Primary {
    pub context: Option<Arc<Context>>,
    pub retained: u32,
    pub flags: u32,
}

static DEVICE: OnceLock<Arc<Device>> = OnceLock::new();

/// `cuInit`: reads the configuration and creates the device, once.
pub fn initialise() -> Result {
    if DEVICE.get().is_some() {
        return Ok(());
    }
    let config = config::fix_device().map_err(|problem| {
        eprintln!("vgpu: {problem}");
        Status::INVALID_VALUE
    })?;
    let memory = GlobalMemory::new(config.memory_bytes).map_err(|error| {
        eprintln!("vgpu: no address space for {} bytes of device memory: {error}", config.memory_bytes);
        Status::OUT_OF_MEMORY
    })?;
    DEVICE.get_or_init(|| Arc::new(Device::new(config, memory)));
    Ok(())
}

/// The device, or `CUDA_ERROR_NOT_INITIALIZED` before `cuInit`. Host functions of streams may not call the driver.
pub fn device() -> Result<&'static Arc<Device>> {
    if in_callback() {
        return Err(Status::NOT_PERMITTED);
    }
    DEVICE.get().ok_or(Status::NOT_INITIALIZED)
}

/// The device of ordinal `ordinal`: there is only 0.
pub fn device_at(ordinal: i32) -> Result<&'static Arc<Device>> {
    let device = device()?;
    if ordinal == 0 { Ok(device) } else { Err(Status::INVALID_DEVICE) }
}

impl Device {
    fn new(config: DeviceConfig, memory: GlobalMemory) -> Self {
        let default_pool = Pool::of_device();
        Self {
            exec: exec::Device {
                compute_capability: config.architecture.capability,
                sm_count: config.sm_count,
            },
            memory: Arc::new(memory),
            allocations: Allocations::default(),
            current_pool: Mutex::new(default_pool.clone()),
            default_pool,
            primary: Mutex::default(),
            config,
        }
    }

    /// Says what it is, so that nobody takes it for hardware.
    pub fn name(&self) -> String {
        format!("vgpu (virtual GPU, PTX on the CPU), sm_{}", self.config.architecture.sm())
    }

    /// Stable for a configuration: "vgpu", the architecture, and the version of this crate.
    pub fn uuid(&self) -> [u8; 16] {
        let mut uuid = *b"vgpu-virtual-000";
        let sm = format!("{:03}", self.config.architecture.sm());
        uuid[13..].copy_from_slice(&sm.as_bytes()[..3]);
        uuid
    }

    /// Value of a device attribute, by its number in `CUdevice_attribute`.
    pub fn attribute(&self, attribute: u32) -> Result<i32> {
        let arch = self.config.architecture;
        let is = i32::from;
        let value = match attribute {
            1 => THREADS_PER_BLOCK as i32,
            2..=4 => BLOCK_LIMITS[attribute as usize - 2] as i32,
            5..=7 => GRID_LIMITS[attribute as usize - 5] as i32,
            8 => SHARED_PER_BLOCK as i32,
            9 => CONSTANT_BYTES as i32,
            10 => WARP as i32,
            11 => i32::MAX,
            12 | 82 => REGISTERS_PER_SM as i32,
            13 => arch.clock_khz as i32,
            16 => self.config.sm_count as i32,
            36 => arch.memory_clock_khz as i32,
            37 => arch.bus_bits as i32,
            38 => arch.l2_bytes as i32,
            39 => (arch.warps_per_sm * WARP) as i32,
            40 => 2,
            // Overlap of copies and kernels, mapped host memory, concurrent kernels, unified addresses, priorities,
            // cached loads, managed memory (from both sides at once), preemption, cooperative launch.
            15 | 19 | 31 | 41 | 78 | 79 | 80 | 83 | 89 | 90 | 95 => 1,
            75 => arch.capability.0 as i32,
            76 => arch.capability.1 as i32,
            81 => arch.shared_per_sm as i32,
            87 => arch.f32_to_f64 as i32,
            97 => arch.shared_per_block_optin as i32,
            106 => arch.blocks_per_sm as i32,
            111 => arch.shared_reserved as i32,
            115 => is(self.config.pools),
            34 => 1, // PCI device: some programs take bus 0, device 0 for "none"
            // No textures, surfaces, peers, interprocess handles, clusters, virtual memory management, registered
            // host memory or memory operations of streams; not integrated, no ECC, default compute mode, one board, NUMA unknown.
            14
            | 17
            | 18
            | 20..=30
            | 32
            | 33
            | 35
            | 42..=74
            | 77
            | 84..=86
            | 88
            | 91..=94
            | 96
            | 98..=105
            | 107..=110
            | 112..=114
            | 116..=130
            | 132..=133
            | 135..=143 => 0,
            131 | 134 => -1,
            _ => return Err(Status::INVALID_VALUE),
        };
        Ok(value)
    }
}
