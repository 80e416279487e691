//! What the virtual device is: its compute capability, size and features, from `VGPU_*` variables and
//! `vgpu_set`.
//!
//! The device's own properties are fixed by `cuInit`; how kernels are executed ([`Settings`]) may change at
//! any time and holds for the launches submitted afterwards.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::Settings;
use crate::architecture::Architecture;

/// Properties that `cuInit` fixes.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceConfig {
    /// `VGPU_CC`.
    pub architecture: &'static Architecture,
    /// `VGPU_SMS`: multiprocessors.
    pub sm_count: u32,
    /// `VGPU_MEMORY`: bytes of device memory.
    pub memory_bytes: u64,
    /// `VGPU_POOLS`: whether attribute 115 says that stream-ordered allocation works.
    pub pools: bool,
}

/// Everything that may be set.
#[derive(Clone, Debug)]
struct Config {
    compute_capability: (u32, u32),
    sm_count: Option<u32>,
    memory_bytes: u64,
    pools: bool,
    execution: Settings,
    /// `VGPU_DELAY`: microseconds that each piece of a stream's work waits at most before it begins.
    delay: u32,
}

const DEFAULT_MEMORY: u64 = 8 << 30;

impl Config {
    fn from_environment() -> Result<Self, String> {
        let mut config = Self {
            compute_capability: (8, 0),
            sm_count: None,
            memory_bytes: DEFAULT_MEMORY,
            pools: true,
            execution: Settings::from_variables(|name| std::env::var(name).ok())?,
            delay: 0,
        };
        if let Ok(value) = std::env::var("VGPU_DELAY") {
            config
                .set_execution("VGPU_DELAY", &value)
                .map_err(|problem| format!("VGPU_DELAY={value}: {problem}"))?;
        }
        for name in ["VGPU_CC", "VGPU_SMS", "VGPU_MEMORY", "VGPU_POOLS"] {
            if let Ok(value) = std::env::var(name) {
                config.set_device(name, &value).map_err(|problem| format!("{name}={value}: {problem}"))?;
            }
        }
        Ok(config)
    }

    /// Sets a property of the device; the error says what is wrong with the value.
    fn set_device(&mut self, name: &str, value: &str) -> Result<(), String> {
        let value = value.trim();
        match name {
            "VGPU_CC" => self.compute_capability = parse_capability(value)?,
            "VGPU_SMS" => {
                let count: u32 = value.parse().map_err(|_| "not a number".to_owned())?;
                if !(1..=1024).contains(&count) {
                    return Err("a device has 1 to 1024 multiprocessors".into());
                }
                self.sm_count = Some(count);
            }
            "VGPU_MEMORY" => self.memory_bytes = parse_bytes(value)?,
            "VGPU_POOLS" => self.pools = parse_switch(value)?,
            _ => return Err("no such setting".into()),
        }
        Ok(())
    }

    /// Sets what may change at any time, by the rules of [`Settings::from_variables`].
    fn set_execution(&mut self, name: &str, value: &str) -> Result<(), String> {
        let new = Settings::from_variables(|asked| (asked == name).then(|| value.to_owned()))?;
        let current = &mut self.execution;
        match name {
            "VGPU_CHECKS" => current.checks = new.checks,
            "VGPU_SEED" => current.seed = new.seed,
            "VGPU_NOISE" => current.noise = new.noise,
            "VGPU_THREADS" => current.threads = new.threads,
            "VGPU_DELAY" => {
                self.delay = value.trim().parse().map_err(|_| "a number of microseconds is needed")?
            }
            "VGPU_INSTRUCTION_LIMIT" => current.instruction_limit = new.instruction_limit,
            "VGPU_EXECUTE" => current.execute = new.execute,
            _ => return Err("no such setting".into()),
        }
        Ok(())
    }
}

/// `8.0`, `80` or `sm_80`, if it is an architecture that the virtual GPU knows.
fn parse_capability(value: &str) -> Result<(u32, u32), String> {
    let digits = value.strip_prefix("sm_").unwrap_or(value);
    let number: Option<u32> = match digits.split_once('.') {
        Some((major, minor)) if minor.len() == 1 => format!("{major}{minor}").parse().ok(),
        Some(_) => None,
        None => digits.parse().ok(),
    };
    let capability = number.map(|number| (number / 10, number % 10));
    capability.filter(|&cc| Architecture::find(cc).is_some()).ok_or_else(|| {
        let known: Vec<String> =
            Architecture::ALL.iter().map(|a| format!("{}.{}", a.capability.0, a.capability.1)).collect();
        format!("known compute capabilities are {}", known.join(", "))
    })
}

/// A number of bytes, with K, M or G for binary multiples.
fn parse_bytes(value: &str) -> Result<u64, String> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'K' | b'k') => (&value[..value.len() - 1], 10),
        Some(b'M' | b'm') => (&value[..value.len() - 1], 20),
        Some(b'G' | b'g') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|&bytes| (1 << 20..=1 << 40).contains(&bytes))
        .ok_or_else(|| "a size from 1M to 1024G is needed".into())
}

fn parse_switch(value: &str) -> Result<bool, String> {
    match value {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err("0 or 1 is needed".into()),
    }
}

/// `None` until the environment has been read; an error stays, for every later `cuInit`.
static CONFIG: RwLock<Option<Result<Config, String>>> = RwLock::new(None);
static FIXED: Mutex<bool> = Mutex::new(false);

fn with_config<T>(use_it: impl FnOnce(&mut Config) -> Result<T, String>) -> Result<T, String> {
    let mut config = CONFIG.write().unwrap_or_else(PoisonError::into_inner);
    match config.get_or_insert_with(Config::from_environment) {
        Ok(config) => use_it(config),
        Err(problem) => Err(problem.clone()),
    }
}

/// The device's properties. From now on `vgpu_set` refuses to change them.
pub fn fix_device() -> Result<DeviceConfig, String> {
    let device = with_config(|config| {
        let architecture = Architecture::find(config.compute_capability)
            .ok_or_else(|| format!("compute capability {:?} is unknown", config.compute_capability))?;
        Ok(DeviceConfig {
            architecture,
            sm_count: config.sm_count.unwrap_or(architecture.sm_count),
            memory_bytes: config.memory_bytes,
            pools: config.pools,
        })
    })?;
    *FIXED.lock().unwrap_or_else(PoisonError::into_inner) = true;
    Ok(device)
}

/// How launches submitted now are executed.
pub fn execution() -> Settings {
    with_config(|config| Ok(config.execution.clone())).unwrap_or_default()
}

/// How long the next piece of a stream's work waits before it begins: between half of `VGPU_DELAY` and the
/// whole.
pub fn delay() -> Duration {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (most, seed) = with_config(|config| Ok((config.delay, config.execution.seed))).unwrap_or_default();
    if most == 0 {
        return Duration::ZERO;
    }
    // SplitMix64: any sequence that is spread evenly will do.
    let mut mixed = (seed ^ NEXT.fetch_add(1, Ordering::Relaxed)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let half = u64::from(most.div_ceil(2));
    Duration::from_micros(half + (mixed >> 33) % (half + 1)).min(Duration::from_micros(most.into()))
}

/// Why [`set`] changed nothing.
#[derive(Debug, PartialEq)]
pub enum SetError {
    /// The value, or the name, is not one that exists.
    Invalid(String),
    /// A property of the device, and `cuInit` has been called.
    TooLate,
}

/// Sets `name` as the environment variable `VGPU_<NAME>` would have.
pub fn set(name: &str, value: &str) -> Result<(), SetError> {
    let variable = match name.strip_prefix("VGPU_") {
        Some(_) => name.to_owned(),
        None => format!("VGPU_{}", name.to_ascii_uppercase()),
    };
    let of_device = matches!(variable.as_str(), "VGPU_CC" | "VGPU_SMS" | "VGPU_MEMORY" | "VGPU_POOLS");
    if of_device && *FIXED.lock().unwrap_or_else(PoisonError::into_inner) {
        return Err(SetError::TooLate);
    }
    let done = with_config(|config| {
        if of_device { config.set_device(&variable, value) } else { config.set_execution(&variable, value) }
    });
    done.map_err(|problem| SetError::Invalid(format!("{variable}={value}: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_in_three_spellings() {
        assert_eq!(parse_capability("8.6"), Ok((8, 6)));
        assert_eq!(parse_capability("75"), Ok((7, 5)));
        assert_eq!(parse_capability("sm_120"), Ok((12, 0)));
        assert!(parse_capability("3.5").is_err());
        assert!(parse_capability("8.60").is_err());
        assert!(parse_capability("ampere").is_err());
    }

    #[test]
    fn sizes_are_read_with_their_unit_and_bounded() {
        assert_eq!(parse_bytes("512M"), Ok(512 << 20));
        assert_eq!(parse_bytes("2g"), Ok(2 << 30));
        assert_eq!(parse_bytes("1048576"), Ok(1 << 20));
        assert!(parse_bytes("1").is_err());
        assert!(parse_bytes("99999999999999999999G").is_err());
        assert!(parse_bytes("").is_err());
    }
}
