//! Before and around `cuInit`: one test, since a process initialises the driver once.

mod driver;

use driver::*;

#[test]
fn nothing_works_before_cu_init_and_the_device_is_fixed_by_it() {
    let gpu = gpu();
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let (mut count, mut version) = (0, 0);
        let (mut context, mut address) = (std::ptr::null_mut(), 0);
        let uninitialised = CUresult::CUDA_ERROR_NOT_INITIALIZED;
        assert_eq!(cuDeviceGetCount(&mut count), uninitialised);
        assert_eq!(cuCtxGetCurrent(&mut context), uninitialised);
        assert_eq!(cuMemAlloc_v2(&mut address, 16), uninitialised);
        assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), uninitialised);
        ok(cuDriverGetVersion(&mut version));
        assert!(version >= 12090, "{version}");
        assert_eq!(cuInit(1), INVALID_VALUE);
    }

    assert_eq!(gpu.set("cc", "8.6"), Ok(()));
    assert_eq!(gpu.set("sms", "5"), Ok(()));
    assert_eq!(gpu.set("memory", "64M"), Ok(()));
    assert_eq!(gpu.set("cc", "3.0"), Err(1), "no such architecture");
    assert_eq!(gpu.set("colour", "red"), Err(1), "no such setting");
    // SAFETY: as above.
    unsafe {
        ok(cuInit(0));
        ok(cuInit(0));
        let attribute = |which| {
            let mut value = 0;
            ok(cuDeviceGetAttribute(&mut value, which, 0));
            value
        };
        assert_eq!(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 8);
        assert_eq!(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR), 6);
        assert_eq!(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 5);
        assert_eq!(
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
            99 << 10
        );
        let mut bytes = 0;
        ok(cuDeviceTotalMem_v2(&mut bytes, 0));
        assert_eq!(bytes, 64 << 20);
    }
    assert_eq!(gpu.set("cc", "8.0"), Err(401), "too late");
    assert_eq!(gpu.set("seed", "3"), Ok(()), "how kernels run may change at any time");

    let session = Session::new();
    // SAFETY: as above.
    unsafe {
        let mut address = 0;
        assert_eq!(cuMemAlloc_v2(&mut address, 65 << 20), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        ok(cuMemAlloc_v2(&mut address, 48 << 20));
        assert_eq!(cuMemAlloc_v2(&mut address, 48 << 20), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    }
    drop(session);
}
