//! Opening devices without a panic, and what the engine needs to know of one.

use std::mem::forget;
use std::sync::{Arc, OnceLock};

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::advice::driver_error;
use crate::error::{Error, Result};

const OP: &str = "cuda";
/// CUDA 12.0: the first whose drivers load what a supported NVRTC compiles.
const OLDEST_DRIVER: i32 = 12_000;
/// Turing: the first with the tensor-core instructions and the integer units that the kernels use.
const OLDEST_DEVICE: u32 = 75;

/// What the engine knows of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device's name.
    pub name: String,
    /// Compute capability: 80 for 8.0.
    pub capability: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that a block may ask for.
    pub shared_per_block: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// CUDA version of the driver: 12040 for 12.4.
    pub driver_version: i32,
}

/// The primary context of a device, as [`CudaContext::new`] gives it, but with an error where that panics.
///
/// # Errors
/// [`ErrorKind::Device`](crate::ErrorKind::Device) without a driver, with one that is too old, or without
/// that device.
pub fn open(ordinal: usize) -> Result<Arc<CudaContext>> {
    check_driver(driver_version()?)?;
    let count = CudaContext::device_count().map_err(|error| driver_error(OP, "counting devices", error))?;
    if usize::try_from(count).is_ok_and(|count| ordinal >= count) {
        let what = format!("there is no device {ordinal}: the driver shows {count}");
        return Err(Error::device(OP, what, "see `nvidia-smi -L` and CUDA_VISIBLE_DEVICES"));
    }
    CudaContext::new(ordinal).map_err(|error| driver_error(OP, format!("opening device {ordinal}"), error))
}

impl DeviceInfo {
    /// Asks the driver, and refuses devices that cannot run the kernels.
    pub(super) fn of(context: &Arc<CudaContext>) -> Result<Self> {
        let driver_version = driver_version()?;
        check_driver(driver_version)?;
        let attribute = |attribute| {
            let value = context.attribute(attribute);
            value
                .map(|value| value as u32)
                .map_err(|error| driver_error(OP, "asking for the device's limits", error))
        };
        let info = Self {
            name: context.name().map_err(|error| driver_error(OP, "asking for the device's name", error))?,
            capability: 10 * attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
                + attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            shared_per_multiprocessor: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?,
            driver_version,
        };
        info.check()?;
        Ok(info)
    }

    /// Major CUDA version of the driver.
    pub(super) fn driver_major(&self) -> u32 {
        (self.driver_version / 1000) as u32
    }

    /// Whether tensor cores take bf16 and tf32.
    pub fn has_ampere_tensor_cores(&self) -> bool {
        self.capability >= 80
    }

    fn check(&self) -> Result<()> {
        if self.capability < OLDEST_DEVICE {
            let (major, minor) = (self.capability / 10, self.capability % 10);
            return Err(Error::device(
                OP,
                format!("{} has compute capability {major}.{minor}, but 7.5 or newer is needed", self.name),
                "use a device of the Turing generation or later, or the CPU engine",
            ));
        }
        Ok(())
    }
}

fn check_driver(version: i32) -> Result<()> {
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(Error::device(
            OP,
            format!("the driver supports CUDA {major}.{minor}, but 12.0 or newer is needed"),
            "update the NVIDIA driver to release 525 or later",
        ));
    }
    Ok(())
}

fn driver_version() -> Result<i32> {
    find_driver()?;
    let mut version = 0;
    // SAFETY: the driver is there, and the pointer is valid for one int.
    let status = unsafe { sys::cuDriverGetVersion(&mut version) };
    status.result().map_err(|error| driver_error(OP, "asking for the driver's version", error))?;
    Ok(version)
}

/// Whether a CUDA driver can be loaded. cudarc panics where none can, so nothing of it is called before this.
fn find_driver() -> Result<()> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    if *FOUND.get_or_init(|| any_loads(DRIVER_NAMES)) { Ok(()) } else { Err(no_driver()) }
}

/// Names that cudarc tries, too.
const DRIVER_NAMES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };

fn any_loads(names: &[&str]) -> bool {
    names.iter().any(|&name| {
        // SAFETY: the driver's initialisers have no preconditions.
        let library = unsafe { libloading::Library::new(name) };
        library.map(forget).is_ok() // Kept open: the driver is about to be used.
    })
}

fn no_driver() -> Error {
    Error::device(
        OP,
        format!("no CUDA driver ({}) can be loaded", DRIVER_NAMES.join(" or ")),
        "install the NVIDIA driver, release 525 or later, or use the CPU engine",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_is_an_error_that_says_what_to_install() {
        assert!(!any_loads(&["libno-such-driver.so", "libno-such-driver.so.1"]));
        let error = no_driver().to_string();
        assert!(error.contains("install the NVIDIA driver"), "{error}");
    }

    #[test]
    fn an_old_driver_is_refused_by_version() {
        assert!(check_driver(12_000).is_ok() && check_driver(13_050).is_ok());
        let error = check_driver(11_080).unwrap_err().to_string();
        assert!(error.contains("CUDA 11.8") && error.contains("update the NVIDIA driver"), "{error}");
    }

    #[test]
    fn an_old_device_is_refused_by_name() {
        let info = |capability| DeviceInfo {
            name: "Tesla V100".into(),
            capability,
            multiprocessors: 80,
            shared_per_block: 98304,
            shared_per_multiprocessor: 98304,
            driver_version: 12_040,
        };
        assert!(info(75).check().is_ok());
        let error = info(70).check().unwrap_err().to_string();
        assert!(
            error.contains("Tesla V100 has compute capability 7.0") && error.contains("CPU engine"),
            "{error}"
        );
    }
}
