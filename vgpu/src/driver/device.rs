//! The device: its attributes, memory and primary context.

use std::sync::{Arc, Mutex, OnceLock};

use super::allocation::Allocations;
use super::config::{self, DeviceConfig};
use super::context::{Context, in_callback};
use super::pool::Pool;
use super::status::{Result, Status};
use crate::exec;
use crate::memory::GlobalMemory;

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

/// The device, or `CUDA_ERROR_NOT_INITIALIZED` before `cuInit`. Host functions of streams may not call the
/// driver.
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
            // Overlap of copies and kernels, mapped host memory, concurrent kernels, unified addresses,
            // priorities, cached loads, managed memory (from both sides at once), preemption, cooperative
            // launch.
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
            // No textures, surfaces, peers, interprocess handles, clusters, virtual memory management,
            // registered host memory or memory operations of streams; not integrated, no ECC, default compute
            // mode, one board, NUMA unknown.
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
