//! Loads PTX and launches kernels without the driver, for tests of the engine.

#![allow(dead_code)] // Each test binary uses its own part.
#![allow(clippy::result_large_err)] // A fault says much, and ends the test.

use std::sync::Arc;
use vgpu::counters::Counters;
use vgpu::exec::{Device, LaunchSpec, launch};
use vgpu::fault::Fault;
use vgpu::memory::GlobalMemory;
use vgpu::program::Module;
use vgpu::{Checks, Settings};

/// First lines of every inline PTX text: three of them.
pub const HEADER: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// A kernel argument.
#[derive(Clone, Copy)]
pub enum Arg {
    Ptr(u64),
    I32(i32),
}

pub struct Gpu {
    pub memory: Arc<GlobalMemory>,
    pub device: Device,
    pub settings: Settings,
    pub cooperative: bool,
}

impl Gpu {
    pub fn new() -> Gpu {
        let memory = Arc::new(GlobalMemory::new(64 << 20).unwrap());
        // No test runs for long: one that hangs shall say so.
        let settings = Settings { instruction_limit: Some(50_000_000), ..Settings::default() };
        Gpu { memory, device: Device::default(), settings, cooperative: false }
    }

    pub fn without_checks() -> Gpu {
        let mut gpu = Gpu::new();
        gpu.settings.checks = Checks::NONE;
        gpu
    }

    pub fn load(&self, ptx: &str) -> Module {
        Module::load(ptx, &self.memory).unwrap()
    }

    /// Device memory that holds the words.
    pub fn upload<T: Word>(&self, words: &[T]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.bytes()).collect();
        let address = self.memory.alloc(bytes.len() as u64).unwrap();
        self.memory.write(address, &bytes).unwrap();
        address
    }

    /// Device memory that nobody has written.
    pub fn fresh(&self, bytes: u64) -> u64 {
        self.memory.alloc(bytes).unwrap()
    }

    pub fn download<T: Word>(&self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * 4];
        self.memory.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|b| T::from_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    pub fn run(
        &self,
        module: &Module,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        args: &[Arg],
    ) -> Result<Counters, Fault> {
        let kernel = module.kernel(name).unwrap_or_else(|| panic!("no kernel {name}"));
        assert_eq!(kernel.params.len(), args.len(), "arguments of {name}");
        let mut params = vec![0; kernel.param_bytes as usize];
        for (param, arg) in kernel.params.iter().zip(args) {
            let bytes = match *arg {
                Arg::Ptr(address) => address.to_le_bytes().to_vec(),
                Arg::I32(value) => value.to_le_bytes().to_vec(),
            };
            params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        launch(&LaunchSpec {
            kernel: &kernel,
            memory: &self.memory,
            device: &self.device,
            grid,
            block,
            dynamic_shared: 0,
            params: &params,
            cooperative: self.cooperative,
            settings: &self.settings,
        })
    }

    /// Runs a text with one kernel `k` of `threads` threads in one block.
    pub fn run_text(&self, body: &str, threads: u32, args: &[Arg]) -> Result<Counters, Fault> {
        self.run(&self.load(&format!("{HEADER}{body}")), "k", [1; 3], [threads, 1, 1], args)
    }
}

/// Four bytes.
pub trait Word: Copy {
    fn bytes(self) -> [u8; 4];
    fn from_bytes(bytes: [u8; 4]) -> Self;
}

macro_rules! words {
    ($($t:ty)*) => {$(
        impl Word for $t {
            fn bytes(self) -> [u8; 4] {
                self.to_le_bytes()
            }
            fn from_bytes(bytes: [u8; 4]) -> Self {
                <$t>::from_le_bytes(bytes)
            }
        }
    )*};
}

words!(u32 i32 f32);
