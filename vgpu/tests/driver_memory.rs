//! Allocation, copies, memsets, pinned and managed memory, pools, pointers.

mod driver;

use std::ffi::c_void;

use driver::*;

#[test]
fn allocations_are_checked() {
    let _session = Session::new();
    // SAFETY: every pointer is valid for its function; wrong addresses are what is tested.
    unsafe {
        let mut address = 0;
        assert_eq!(cuMemAlloc_v2(&mut address, 0), INVALID_VALUE);
        assert_eq!(cuMemAlloc_v2(std::ptr::null_mut(), 16), INVALID_VALUE);
        assert_eq!(cuMemAlloc_v2(&mut address, usize::MAX), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        ok(cuMemAlloc_v2(&mut address, 100));
        assert_eq!(address % 256, 0);
        assert_eq!(cuMemFree_v2(address + 4), INVALID_VALUE, "not the base");
        ok(cuMemFree_v2(address));
        assert_eq!(cuMemFree_v2(address), INVALID_VALUE, "freed already");
        ok(cuMemFree_v2(0));
    }
}

#[test]
fn memory_information_follows_allocations() {
    let _session = Session::new();
    let used = || {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both pointers are valid.
        ok(unsafe { cuMemGetInfo_v2(&mut free, &mut total) });
        total - free
    };
    // Other tests allocate meanwhile: this much only this one does.
    let large = 1 << 30;
    let before = used();
    let address = alloc(large);
    assert!(used() + (large / 2) > before + large);
    // SAFETY: allocated above.
    ok(unsafe { cuMemFree_v2(address) });
    assert!(used() < before + large / 2);
}

#[test]
fn copies_go_all_ways_and_stay_in_bounds() {
    let _session = Session::new();
    let values: Vec<u32> = (0..100).collect();
    let (from, to) = (upload(&values), alloc(400));
    // SAFETY: host memory is as long as each copy; wrong device ranges are what is tested.
    unsafe {
        ok(cuMemcpyDtoD_v2(to + 40, from, 360));
        assert_eq!(download(to + 40, 90), values[..90]);
        ok(cuMemcpy(to, from, 400));
        assert_eq!(download(to, 100), values);

        let mut host = vec![0_u8; 404];
        let pointer = host.as_mut_ptr().cast::<c_void>();
        assert_eq!(cuMemcpyDtoH_v2(pointer, from, 401), INVALID_VALUE, "one byte past the end");
        assert_eq!(cuMemcpyDtoH_v2(pointer, from + 396, 8), INVALID_VALUE);
        assert_eq!(cuMemcpyHtoD_v2(to + 400, pointer, 1), INVALID_VALUE);
        assert_eq!(cuMemcpyHtoD_v2(0, pointer, 4), INVALID_VALUE);
        assert_eq!(cuMemcpyHtoD_v2(to, std::ptr::null(), 4), INVALID_VALUE);
        assert_eq!(cuMemcpyDtoD_v2(to, from, 401), INVALID_VALUE);
        ok(cuMemcpyDtoH_v2(pointer, from, 0));
        ok(cuMemFree_v2(from));
        assert_eq!(cuMemcpyDtoH_v2(pointer, from, 4), INVALID_VALUE, "freed");
        assert_eq!(host, vec![0; 404], "nothing was copied by a refused call");
    }
}

#[test]
fn rectangles_are_copied_by_pitch() {
    let _session = Session::new();
    let source: Vec<u32> = (0..12).collect();
    let address = alloc(64);
    // SAFETY: host memory is as long as each copy.
    unsafe {
        ok(cuMemsetD32_v2(address, 99, 16));
        let mut copy = CUDA_MEMCPY2D {
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
            srcHost: source.as_ptr().cast(),
            srcDevice: 0,
            srcArray: std::ptr::null_mut(),
            srcPitch: 16,
            srcXInBytes: 4,
            srcY: 1,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: std::ptr::null_mut(),
            dstDevice: address,
            dstArray: std::ptr::null_mut(),
            dstPitch: 32,
            dstXInBytes: 0,
            dstY: 0,
            WidthInBytes: 8,
            Height: 2,
        };
        ok(cuMemcpy2D_v2(&copy));
        let expected = [5, 6, 99, 99, 99, 99, 99, 99, 9, 10, 99, 99, 99, 99, 99, 99];
        assert_eq!(download(address, 16), expected);

        copy.WidthInBytes = 16;
        assert_eq!(cuMemcpy2D_v2(&copy), INVALID_VALUE, "x + width is more than the pitch");
        copy.WidthInBytes = 8;
        copy.Height = 3;
        copy.srcY = 0;
        assert_eq!(cuMemcpy2D_v2(&copy), INVALID_VALUE, "the third row leaves the allocation");
        copy.dstMemoryType = CUmemorytype::CU_MEMORYTYPE_ARRAY;
        assert_eq!(cuMemcpy2D_v2(&copy), NOT_SUPPORTED);
    }
}

#[test]
fn memsets_write_each_width_and_want_alignment() {
    let _session = Session::new();
    let address = alloc(16);
    // SAFETY: wrong ranges are what is tested.
    unsafe {
        ok(cuMemsetD8_v2(address, 0xab, 16));
        assert_eq!(download(address, 4), [0xabab_abab; 4]);
        ok(cuMemsetD16_v2(address + 2, 0x1234, 3));
        assert_eq!(download(address, 4), [0x1234_abab, 0x1234_1234, 0xabab_abab, 0xabab_abab]);
        ok(cuMemsetD32_v2(address + 12, 5, 1));
        assert_eq!(download(address, 4)[3], 5);
        assert_eq!(cuMemsetD16_v2(address + 1, 0, 1), INVALID_VALUE);
        assert_eq!(cuMemsetD32_v2(address + 2, 0, 1), INVALID_VALUE);
        assert_eq!(cuMemsetD8_v2(address, 0, 17), INVALID_VALUE);
        assert_eq!(cuMemsetD32_v2(address, 0, usize::MAX), INVALID_VALUE);
        ok(cuMemsetD8_v2(address, 0, 0));
        ok(cuMemsetD2D8_v2(address, 8, 1, 2, 2));
        assert_eq!(download(address, 4), [0x1234_0101, 0x1234_1234, 0xabab_0101, 5]);
        assert_eq!(cuMemsetD2D8_v2(address, 1, 1, 2, 2), INVALID_VALUE, "rows overlap");
    }
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs_and_pageable_memory_when_it_is_asked_for() {
    let _session = Session::new();
    let (stream, address) = (stream(NON_BLOCKING), alloc(8));
    // SAFETY: both host ranges live until the stream is done with them.
    unsafe {
        let mut pinned = std::ptr::null_mut();
        ok(cuMemHostAlloc(&mut pinned, 4, 0));
        let pinned = pinned.cast::<u32>();
        let mut pageable = 1_u32;
        pinned.write(1);
        let gate = Gate::close(stream);
        ok(cuMemcpyHtoDAsync_v2(address, pinned.cast(), 4, stream));
        ok(cuMemcpyHtoDAsync_v2(address + 4, (&raw const pageable).cast(), 4, stream));
        pinned.write(2);
        pageable = 2;
        gate.open();
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(address, 2), [2, 1]);
        assert_eq!(pageable, 2);
        assert_eq!(cuMemFree_v2(pinned as CUdeviceptr), INVALID_VALUE, "freed by another function");
        ok(cuMemFreeHost(pinned.cast()));
        assert_eq!(cuMemFreeHost(pinned.cast()), INVALID_VALUE);
    }
}

#[test]
fn a_copy_to_pinned_memory_returns_before_it_is_done() {
    let _session = Session::new();
    let (stream, address) = (stream(NON_BLOCKING), upload(&[41]));
    // SAFETY: pinned memory lives until the session's end.
    unsafe {
        let mut pinned = std::ptr::null_mut();
        ok(cuMemAllocHost_v2(&mut pinned, 4));
        let pinned = pinned.cast::<u32>();
        pinned.write(0);
        let gate = Gate::close(stream);
        ok(cuMemcpyDtoHAsync_v2(pinned.cast(), address, 4, stream));
        assert_eq!(pinned.read_volatile(), 0);
        gate.open();
        ok(cuStreamSynchronize(stream));
        assert_eq!(pinned.read_volatile(), 41);
    }
}

#[test]
fn kernels_use_pinned_and_managed_memory_in_place() {
    let _session = Session::new();
    let step = function(load(KERNELS), c"step");
    // SAFETY: both are memory of the host's, used by the host while no kernel runs.
    unsafe {
        let (mut pinned, mut managed, mut mapped) = (std::ptr::null_mut(), 0, 0);
        ok(cuMemHostAlloc(&mut pinned, 128, 2));
        ok(cuMemHostGetDevicePointer_v2(&mut mapped, pinned, 0));
        ok(cuMemAllocManaged(&mut managed, 128, 1));
        for address in [mapped, managed] {
            let host = std::slice::from_raw_parts_mut(address as *mut u32, 32);
            host.iter_mut().zip(0..).for_each(|(word, value)| *word = value);
            ok(launch(step, 1, 32, std::ptr::null_mut(), &[arg(&address)]));
            ok(cuCtxSynchronize());
            assert!(host.iter().zip(0..).all(|(&word, value)| word == 3 * value + 1), "{host:?}");
        }
        ok(cuMemFree_v2(managed));
        assert_eq!(cuMemAllocManaged(&mut managed, 128, 3), INVALID_VALUE);
    }
}

#[test]
fn pointers_tell_what_they_are() {
    let session = Session::new();
    let address = alloc(100);
    let attribute = |which, address| {
        let mut value = 0_u64;
        // SAFETY: room for the longest value.
        let code = unsafe { cuPointerGetAttribute((&raw mut value).cast(), which, address) };
        (code, value)
    };
    use CUpointer_attribute as Which;
    let context = session.context as u64;
    assert_eq!(attribute(Which::CU_POINTER_ATTRIBUTE_CONTEXT, address + 99), (OK, context));
    assert_eq!(attribute(Which::CU_POINTER_ATTRIBUTE_RANGE_SIZE, address + 7), (OK, 100));
    assert_eq!(attribute(Which::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, address + 7), (OK, address));
    assert_eq!(attribute(Which::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address), (OK, 2));
    assert_eq!(attribute(Which::CU_POINTER_ATTRIBUTE_HOST_POINTER, address).0, INVALID_VALUE);
    assert_eq!(attribute(Which::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address + 100).0, INVALID_VALUE);
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let (mut base, mut bytes) = (0, 0);
        ok(cuMemGetAddressRange_v2(&mut base, &mut bytes, address + 50));
        assert_eq!((base, bytes), (address, 100));
        let mut kinds = [Which::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, Which::CU_POINTER_ATTRIBUTE_IS_MANAGED];
        let (mut memory_type, mut managed) = (9_u32, 9_u8);
        let mut places: [*mut c_void; 2] = [(&raw mut memory_type).cast(), (&raw mut managed).cast()];
        let stranger = (&raw const places) as CUdeviceptr;
        ok(cuPointerGetAttributes(2, kinds.as_mut_ptr(), places.as_mut_ptr(), stranger));
        assert_eq!((memory_type, managed), (0, 0));
    }
}

#[test]
fn stream_ordered_memory_is_freed_in_its_turn() {
    let _session = Session::new();
    let (stream, mut address) = (stream(NON_BLOCKING), 0);
    // SAFETY: every pointer is valid for its function.
    unsafe {
        assert_eq!(cuMemAllocAsync(&mut address, 0, stream), INVALID_VALUE);
        ok(cuMemAllocAsync(&mut address, 64, stream));
        let gate = Gate::close(stream);
        ok(cuMemsetD32Async(address, 3, 16, stream));
        let copy = alloc(64);
        ok(cuMemcpyDtoDAsync_v2(copy, address, 64, stream));
        ok(cuMemFreeAsync(address, stream));
        assert_eq!(cuMemFreeAsync(address, stream), INVALID_VALUE, "freed already");
        assert_eq!(cuMemsetD32Async(address, 3, 16, stream), INVALID_VALUE);
        gate.open();
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(copy, 16), [3; 16]);
    }
}

#[test]
fn pools_count_what_is_in_use() {
    let _session = Session::new();
    // SAFETY: every pointer is valid for its function, the structure is plain data.
    unsafe {
        let mut properties: CUmemPoolProps = std::mem::zeroed();
        properties.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.maxSize = 1000;
        let (mut pool, mut address, stream) = (std::ptr::null_mut(), 0, stream(NON_BLOCKING));
        ok(cuMemPoolCreate(&mut pool, &properties));
        let used = |which| {
            let mut bytes = 0_u64;
            ok(cuMemPoolGetAttribute(pool, which, (&raw mut bytes).cast()));
            bytes
        };
        ok(cuMemAllocFromPoolAsync(&mut address, 600, pool, stream));
        assert_eq!(used(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 600);
        let mut other = 0;
        let full = cuMemAllocFromPoolAsync(&mut other, 600, pool, stream);
        assert_eq!(full, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        ok(cuMemFreeAsync(address, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(used(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
        assert_eq!(used(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH), 600);
        let mut threshold = 1_u64 << 20;
        let which = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        ok(cuMemPoolSetAttribute(pool, which, (&raw mut threshold).cast()));
        assert_eq!(used(which), 1 << 20);
        ok(cuMemPoolDestroy(pool));
        assert_eq!(cuMemPoolDestroy(pool), INVALID_HANDLE);
        let mut own = std::ptr::null_mut();
        ok(cuDeviceGetDefaultMemPool(&mut own, 0));
        assert_eq!(cuMemPoolDestroy(own), INVALID_VALUE);
    }
}

#[test]
fn what_is_not_supported_says_so() {
    let _session = Session::new();
    // SAFETY: the functions touch no argument.
    unsafe {
        let call = |name| gpu().driver_function::<unsafe extern "C" fn() -> u32>(name).unwrap()();
        for name in [
            c"cuArrayCreate_v2",
            c"cuTexObjectCreate",
            c"cuMemHostRegister_v2",
            c"cuMemCreate",
            c"cuMemAlloc",
        ] {
            assert_eq!(call(name), 801, "{name:?}");
        }
    }
}
