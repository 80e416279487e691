//! Bounds on the time of launches, from their counts: modelled, not measured.
//!
//! Each unit of a device is taken to do its part of the work at full rate on all multiprocessors, while
//! nothing waits; the slowest one's time is the bound. A launch comes near it where enough warps hide every
//! latency. The model is of the counts: PTX instructions stand for machine instructions, of which the
//! assembler makes fewer or more, and memory is taken to be cold, each sector that a launch touches going to
//! or coming from it once.
//!
//! ```
//! use vgpu::counters::{Counters, Traffic};
//! use vgpu::roofline::{Device, Unit};
//!
//! let mut copy = Counters::default();
//! copy.global_loads = Traffic { sectors: 1 << 20, unique_sectors: 1 << 20, ..Traffic::default() };
//! copy.global_stores = copy.global_loads;
//! let bound = Device::usual((8, 0)).unwrap().bound(&copy);
//! assert_eq!(bound.unit(), Unit::Memory); // 64 MiB at 2.04 TB/s
//! assert!((bound.seconds() - 32.9e-6).abs() < 0.1e-6);
//! ```

use crate::architecture::Architecture;
use crate::counters::{Class, Counters};

/// What may be the slowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Unit {
    /// Warp instructions: four a clock.
    Issue,
    /// f32 arithmetic.
    F32,
    /// Integer and logic arithmetic, comparisons.
    Integer,
    /// Approximate units: 16 lanes.
    Special,
    /// Matrix instructions; no time where the device's rate is not known.
    Tensor,
    /// Wavefronts of shared memory, one a clock, and sectors of global memory, four a clock: both pass the L1
    /// cache's data path.
    L1,
    /// Bytes of the device's memory.
    Memory,
}

impl Unit {
    /// Every unit, in the order of [`Bound`].
    pub const ALL: [Unit; 7] =
        [Unit::Issue, Unit::F32, Unit::Integer, Unit::Special, Unit::Tensor, Unit::L1, Unit::Memory];

    /// Name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Issue => "issue",
            Unit::F32 => "f32",
            Unit::Integer => "integer",
            Unit::Special => "special",
            Unit::Tensor => "tensor",
            Unit::L1 => "L1",
            Unit::Memory => "memory",
        }
    }
}

/// A device's rates.
#[derive(Clone, Copy, Debug)]
pub struct Device(&'static Architecture);

impl Device {
    /// A usual device of a compute capability that the virtual GPU knows: [`Device::name`] says which.
    pub fn usual(capability: (u32, u32)) -> Option<Self> {
        Architecture::find(capability).map(Self)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.0.usual
    }

    /// Bytes a second to and from its memory.
    pub fn memory_rate(&self) -> f64 {
        f64::from(self.0.bus_bits / 8) * 2e3 * f64::from(self.0.memory_clock_khz)
    }

    /// Operations of f32 a second, an FMA counting two.
    pub fn f32_rate(&self) -> f64 {
        2.0 * f64::from(self.0.f32_lanes) * self.clocks()
    }

    /// Operations a second of the tensor cores on 16 bits with sums in f32, where known.
    pub fn tensor_rate(&self) -> Option<f64> {
        (self.0.tensor_flops > 0).then(|| f64::from(self.0.tensor_flops) * self.clocks())
    }

    /// Clocks a second of all multiprocessors together.
    fn clocks(&self) -> f64 {
        1e3 * f64::from(self.0.clock_khz) * f64::from(self.0.sm_count)
    }

    /// The bound for a launch. Those of launches that follow one another add up.
    pub fn bound(&self, counters: &Counters) -> Bound {
        let warps = |classes: &[Class]| -> f64 {
            classes.iter().map(|&class| counters.warp_instructions[class as usize] as f64).sum()
        };
        // A warp takes 32 lanes, whether its threads are active or not.
        let lanes = |classes: &[Class], lanes: u32| 32.0 * warps(classes) / f64::from(lanes);
        let sectors = counters.global_loads.sectors + counters.global_stores.sectors;
        let wavefronts = counters.shared_loads.wavefronts + counters.shared_stores.wavefronts;
        let unique = counters.global_loads.unique_sectors + counters.global_stores.unique_sectors;
        let tensor = self.tensor_rate().map_or(0.0, |rate| counters.tensor_work as f64 / rate);
        let clocks = self.clocks();
        let mut seconds = [0.0; Unit::ALL.len()];
        seconds[Unit::Issue as usize] = counters.total_warp_instructions() as f64 / 4.0 / clocks;
        seconds[Unit::F32 as usize] = lanes(&[Class::F32], self.0.f32_lanes) / clocks;
        seconds[Unit::Integer as usize] =
            lanes(&[Class::Integer, Class::Compare], self.0.integer_lanes) / clocks;
        seconds[Unit::Special as usize] = lanes(&[Class::Special], 16) / clocks;
        seconds[Unit::Tensor as usize] = tensor;
        seconds[Unit::L1 as usize] = (wavefronts as f64 + sectors as f64 / 4.0) / clocks;
        seconds[Unit::Memory as usize] = 32.0 * unique as f64 / self.memory_rate();
        Bound { seconds }
    }
}

/// Seconds of each unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bound {
    /// In the order of [`Unit::ALL`].
    pub seconds: [f64; Unit::ALL.len()],
}

impl Bound {
    /// The slowest unit.
    pub fn unit(&self) -> Unit {
        let slower = |x: &Unit, y: &Unit| self.seconds[*x as usize].total_cmp(&self.seconds[*y as usize]);
        Unit::ALL.into_iter().max_by(slower).expect("there are units")
    }

    /// The slowest unit's time.
    pub fn seconds(&self) -> f64 {
        self.seconds[self.unit() as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Peaks of the data sheets, in TFLOP/s and TB/s.
    #[test]
    fn the_rates_are_those_of_the_data_sheets() {
        let sheets = [
            ((7, 5), 8.1, Some(65.0), 0.320),
            ((8, 0), 19.5, Some(312.0), 2.039),
            ((8, 6), 35.6, Some(71.0), 0.936),
            ((8, 9), 82.6, Some(165.2), 1.008),
            ((9, 0), 66.9, Some(1071.0), 3.352), // 989 TFLOP/s at the clock that tensor cores sustain
            ((12, 0), 104.8, Some(209.5), 1.792),
        ];
        for (capability, f32, tensor, memory) in sheets {
            let device = Device::usual(capability).unwrap();
            let near = |rate: f64, sheet: f64| (rate / 1e12 / sheet - 1.0).abs() < 0.01;
            assert!(near(device.f32_rate(), f32), "{}: {:e}", device.name(), device.f32_rate());
            assert!(near(device.memory_rate(), memory), "{}: {:e}", device.name(), device.memory_rate());
            assert!(near(device.tensor_rate().unwrap(), tensor.unwrap()), "{}", device.name());
        }
        assert_eq!(Device::usual((10, 0)).unwrap().tensor_rate(), None);
        assert!(Device::usual((5, 0)).is_none());
    }

    #[test]
    fn every_unit_can_be_the_slowest() {
        let device = Device::usual((8, 0)).unwrap();
        let of_class = |class: Class| {
            let mut counters = Counters::default();
            counters.warp_instructions[class as usize] = 1 << 20;
            counters
        };
        let mut shared = Counters::default();
        shared.shared_stores.wavefronts = 1 << 20;
        let cases = [
            (of_class(Class::Move), Unit::Issue),
            (of_class(Class::Compare), Unit::Integer),
            (of_class(Class::F32), Unit::F32),
            (of_class(Class::Special), Unit::Special),
            (Counters { tensor_work: 1 << 20, ..Counters::default() }, Unit::Tensor),
            (shared, Unit::L1),
        ];
        for (counters, unit) in cases {
            let bound = device.bound(&counters);
            assert_eq!(bound.unit(), unit);
            assert!(bound.seconds() > 0.0);
        }
        // 2^20 warps of 32 lanes, 64 of them a clock in each of 108 multiprocessors at 1.41 GHz.
        let seconds = device.bound(&of_class(Class::F32)).seconds();
        assert!((seconds * 108.0 * 1.41e9 / f64::from(1 << 19) - 1.0).abs() < 1e-12, "{seconds}");
    }
}
