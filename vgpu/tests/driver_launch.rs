//! Modules, functions, parameters, and what a launch is refused for.

mod driver;

use std::ffi::{CStr, CString, c_char, c_void};

use driver::*;

const NULL: CUstream = std::ptr::null_mut();

#[test]
fn parameters_come_by_pointers_or_in_a_buffer() {
    let _session = Session::new();
    let (fill, data) = (function(load(KERNELS), c"fill"), alloc(64));
    ok(launch(fill, 1, 16, NULL, &[arg(&data), arg(&5_u32), arg(&16_u32)]));
    assert_eq!(download(data, 16), [5; 16]);

    let mut buffer = data.to_le_bytes().to_vec();
    buffer.extend(6_u32.to_le_bytes());
    buffer.extend(8_u32.to_le_bytes());
    let with_buffer = |size: usize, pointers: *mut *mut c_void| {
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1),
            buffer.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(2),
            arg(&size),
            std::ptr::null_mut(),
        ];
        // SAFETY: the list ends as it must, the buffer is as long as is said, or longer.
        unsafe { cuLaunchKernel(fill, 1, 1, 1, 16, 1, 1, 0, NULL, pointers, extra.as_mut_ptr()) }
    };
    ok(with_buffer(16, std::ptr::null_mut()));
    assert_eq!(download(data, 16)[..], [[6; 8], [5; 8]].concat());
    assert_eq!(with_buffer(12, std::ptr::null_mut()), INVALID_VALUE, "too short for the parameters");
    let mut both = [arg(&data), arg(&5_u32), arg(&16_u32)];
    assert_eq!(with_buffer(16, both.as_mut_ptr()), INVALID_VALUE, "both ways at once");
    // SAFETY: no parameters where some are needed is what is tested.
    let none = unsafe {
        cuLaunchKernel(fill, 1, 1, 1, 16, 1, 1, 0, NULL, std::ptr::null_mut(), std::ptr::null_mut())
    };
    assert_eq!(none, INVALID_VALUE);
    assert_eq!(launch(fill, 1, 16, NULL, &[arg(&data), std::ptr::null_mut(), arg(&16_u32)]), INVALID_VALUE);
}

#[test]
fn dimensions_are_checked() {
    let _session = Session::new();
    let module = load(KERNELS);
    let nothing = function(module, c"nothing");
    let shape = |grid, block| launch_shape(nothing, grid, block, 0, NULL, &[]);
    ok(shape([1, 1, 1], [1024, 1, 1]));
    ok(shape([1, 1, 1], [4, 4, 64]));
    ok(shape([3, 2, 5], [33, 1, 1]));
    for block in
        [[0, 1, 1], [1, 0, 1], [1, 1, 0], [1025, 1, 1], [1, 1025, 1], [1, 1, 65], [32, 33, 1], [16, 16, 5]]
    {
        assert_eq!(shape([1, 1, 1], block), INVALID_VALUE, "block {block:?}");
    }
    for grid in [[0, 1, 1], [1, 0, 1], [1, 1, 0], [1 << 31, 1, 1], [1, 65536, 1], [1, 1, 65536]] {
        assert_eq!(shape(grid, [1, 1, 1]), INVALID_VALUE, "grid {grid:?}");
    }
    let (small, exact) = (function(module, c"small"), function(module, c"exact"));
    ok(launch(small, 1, 64, NULL, &[]));
    assert_eq!(launch(small, 1, 65, NULL, &[]), INVALID_VALUE, ".maxntid");
    ok(launch_shape(exact, [2, 1, 1], [32, 2, 1], 0, NULL, &[]));
    assert_eq!(launch(exact, 1, 64, NULL, &[]), INVALID_VALUE, ".reqntid");
    // SAFETY: no pointers.
    ok(unsafe { cuCtxSynchronize() });
}

#[test]
fn shared_memory_is_48_kib_until_raised() {
    let _session = Session::new();
    let (kernel, out) = (function(load(KERNELS), c"shared"), alloc(4));
    let run = |bytes: u32| launch_shape(kernel, [1, 1, 1], [1, 1, 1], bytes, NULL, &[arg(&out), arg(&bytes)]);
    let fixed = 8192;
    ok(run((48 << 10) - fixed));
    assert_eq!(download(out, 1), [77]);
    assert_eq!(run((48 << 10) - fixed + 4), INVALID_VALUE);
    let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let most = (163 << 10) - fixed; // of compute capability 8.0
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let mut value = 0;
        ok(cuFuncGetAttribute(&mut value, which, kernel));
        assert_eq!(value as u32, (48 << 10) - fixed);
        assert_eq!(cuFuncSetAttribute(kernel, which, most as i32 + 1), INVALID_VALUE);
        assert_eq!(cuFuncSetAttribute(kernel, which, -1), INVALID_VALUE);
        ok(cuFuncSetAttribute(kernel, which, most as i32));
        ok(cuMemsetD32_v2(out, 0, 1));
    }
    ok(run(most));
    assert_eq!(download(out, 1), [77]);
    assert_eq!(run(most + 4), INVALID_VALUE);
}

#[test]
fn functions_tell_their_attributes() {
    let _session = Session::new();
    let module = load(KERNELS);
    let attribute = |name: &CStr, which| {
        let mut value = -1;
        // SAFETY: the pointer is valid.
        ok(unsafe { cuFuncGetAttribute(&mut value, which, function(module, name)) });
        value
    };
    use CUfunction_attribute as Which;
    assert_eq!(attribute(c"shared", Which::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES), 8192);
    assert_eq!(attribute(c"small", Which::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 64);
    assert_eq!(attribute(c"nothing", Which::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
    assert_eq!(attribute(c"nothing", Which::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES), 0);
    assert_eq!(attribute(c"fill", Which::CU_FUNC_ATTRIBUTE_PTX_VERSION), 70);
    assert_eq!(attribute(c"fill", Which::CU_FUNC_ATTRIBUTE_BINARY_VERSION), 80);
    assert!(attribute(c"fill", Which::CU_FUNC_ATTRIBUTE_NUM_REGS) > 0);
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let (mut name, mut owner, mut missing) =
            (std::ptr::null(), std::ptr::null_mut(), std::ptr::null_mut());
        ok(cuFuncGetName(&mut name, function(module, c"fill")));
        assert_eq!(CStr::from_ptr(name), c"fill");
        ok(cuFuncGetModule(&mut owner, function(module, c"fill")));
        assert_eq!(owner, module);
        let unknown = cuModuleGetFunction(&mut missing, module, c"no_such_kernel".as_ptr());
        assert_eq!(unknown, CUresult::CUDA_ERROR_NOT_FOUND);
        let (mut offset, mut bytes) = (9, 9);
        ok(cuFuncGetParamInfo(function(module, c"fill"), 2, &mut offset, &mut bytes));
        assert_eq!((offset, bytes), (12, 4));
        assert_eq!(cuFuncGetParamInfo(function(module, c"fill"), 3, &mut offset, &mut bytes), INVALID_VALUE);
    }
    assert_eq!(function(module, c"fill"), function(module, c"fill"), "one handle for one function");
}

#[test]
fn variables_are_read_and_written_from_both_sides() {
    let _session = Session::new();
    let module = load(KERNELS);
    let out = alloc(20);
    let variable = |name: &CStr| {
        let (mut address, mut bytes) = (0, 0);
        // SAFETY: both pointers are valid.
        ok(unsafe { cuModuleGetGlobal_v2(&mut address, &mut bytes, module, name.as_ptr()) });
        (address, bytes)
    };
    let ((counter, counter_bytes), (table, table_bytes)) = (variable(c"counter"), variable(c"table"));
    assert_eq!((counter_bytes, table_bytes), (4, 16));
    assert_eq!(download(counter, 1), [7], "its initial value");
    let run = || ok(launch(function(module, c"variables"), 1, 1, NULL, &[arg(&out)]));
    run();
    assert_eq!(download(out, 5), [7, 1, 2, 3, 4]);
    // SAFETY: every pointer is valid for its function.
    unsafe {
        assert_eq!(download(counter, 1), [9], "written by the kernel");
        ok(cuMemcpyHtoD_v2(table + 4, [20_u32, 30].as_ptr().cast(), 8));
        assert_eq!(cuMemcpyHtoD_v2(table + 12, [20_u32, 30].as_ptr().cast(), 8), INVALID_VALUE);
        run();
        assert_eq!(download(out, 5), [9, 1, 20, 30, 4]);
        assert_eq!(cuMemFree_v2(counter), INVALID_VALUE, "it is the module's");
        let missing = cuModuleGetGlobal_v2(&mut 0, &mut 0, module, c"nobody".as_ptr());
        assert_eq!(missing, CUresult::CUDA_ERROR_NOT_FOUND);
        ok(cuModuleUnload(module));
        assert_eq!(cuModuleUnload(module), INVALID_HANDLE);
        assert_eq!(cuMemsetD32_v2(counter, 0, 1), INVALID_VALUE, "gone with its module");
    }
}

/// Loads an image with room for the error log; gives the code and the log.
fn load_with_log(image: &[u8]) -> (CUresult, String) {
    let mut log = [0 as c_char; 256];
    let mut options =
        [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), 256_usize as *mut c_void];
    let mut module = std::ptr::null_mut();
    let image = CString::new(image).unwrap();
    // SAFETY: the image ends with a zero, options and values are lists of two.
    unsafe {
        let pointer = image.as_ptr().cast();
        let code = cuModuleLoadDataEx(&mut module, pointer, 2, options.as_mut_ptr(), values.as_mut_ptr());
        let text = CStr::from_ptr(log.as_ptr()).to_str().unwrap().to_owned();
        assert!(values[1] as usize <= 256 && values[1] as usize >= text.len(), "{:?}", values[1]);
        (code, text)
    }
}

#[test]
fn images_that_cannot_run_are_refused_with_a_reason() {
    let _session = Session::new();
    let refused = |image: &[u8], code: CUresult, word: &str| {
        let (got, log) = load_with_log(image);
        assert_eq!(got, code, "{log}");
        assert!(log.contains(word), "{log}");
    };
    let no_binary = CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU;
    refused(b"\x7fELF\x02\x01\x01", no_binary, "cubin");
    refused(&[0x50, 0xed, 0x55, 0xba, 1], no_binary, "fat binary");
    refused(KERNELS.replace("sm_75", "sm_90").as_bytes(), no_binary, "sm_90");
    let newer = KERNELS.replace(".version 7.0", ".version 99.0");
    refused(newer.as_bytes(), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "99.0");
    let broken = KERNELS.replace("ld.param.u64 %a1, [out];", "ld.param.u64 %a1, [out;");
    refused(broken.as_bytes(), CUresult::CUDA_ERROR_INVALID_PTX, "line");
    refused(b"   ", CUresult::CUDA_ERROR_INVALID_IMAGE, "");
    assert_eq!(load_with_log(KERNELS.as_bytes()), (OK, String::new()));
    // SAFETY: null is what is tested.
    unsafe {
        let mut module = std::ptr::null_mut();
        assert_eq!(cuModuleLoadData(&mut module, std::ptr::null()), INVALID_VALUE);
        let missing = cuModuleLoad(&mut module, c"/no/such/file.ptx".as_ptr());
        assert_eq!(missing, CUresult::CUDA_ERROR_FILE_NOT_FOUND);
    }
}

#[test]
fn a_module_is_loaded_from_a_file() {
    let _session = Session::new();
    let path = std::env::temp_dir().join(format!("vgpu-test-{}.ptx", std::process::id()));
    std::fs::write(&path, KERNELS).unwrap();
    let mut module = std::ptr::null_mut();
    let name = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: every pointer is valid for its function.
    ok(unsafe { cuModuleLoad(&mut module, name.as_ptr()) });
    std::fs::remove_file(&path).unwrap();
    ok(launch(function(module, c"nothing"), 1, 1, NULL, &[]));
}

#[test]
fn cooperative_launches_must_fit_at_once() {
    let _session = Session::new();
    let nothing = function(load(KERNELS), c"nothing");
    let run = |blocks, threads| {
        // SAFETY: a kernel without parameters.
        unsafe {
            cuLaunchCooperativeKernel(nothing, blocks, 1, 1, threads, 1, 1, 0, NULL, std::ptr::null_mut())
        }
    };
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let (mut per_sm, mut sms) = (0, 0);
        ok(cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut per_sm, nothing, 1024, 0));
        let which = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        ok(cuDeviceGetAttribute(&mut sms, which, 0));
        assert_eq!(per_sm, 2, "2048 threads to a multiprocessor");
        let most = (per_sm * sms) as u32;
        ok(run(most, 1024));
        assert_eq!(run(most + 1, 1024), CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
        ok(cuCtxSynchronize());
    }
}

#[test]
fn launch_attributes_are_read() {
    let _session = Session::new();
    let (fill, data) = (function(load(KERNELS), c"fill"), alloc(64));
    let run = |attributes: &mut [CUlaunchAttribute]| {
        let mut arguments = [arg(&data), arg(&3_u32), arg(&16_u32)];
        // SAFETY: the structure is plain data, filled in below.
        unsafe {
            let mut config: CUlaunchConfig = std::mem::zeroed();
            (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
            (config.blockDimX, config.blockDimY, config.blockDimZ) = (16, 1, 1);
            config.attrs = attributes.as_mut_ptr();
            config.numAttrs = attributes.len() as u32;
            cuLaunchKernelEx(&config, fill, arguments.as_mut_ptr(), std::ptr::null_mut())
        }
    };
    // SAFETY: attributes are plain data.
    let attribute = |id| CUlaunchAttribute { id, ..unsafe { std::mem::zeroed() } };
    ok(run(&mut []));
    assert_eq!(download(data, 16), [3; 16]);
    let mut cooperative = attribute(CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE);
    cooperative.value.cooperative = 1;
    ok(run(&mut [cooperative]));
    let mut cluster = attribute(CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
    cluster.value.clusterDim.x = 2;
    cluster.value.clusterDim.y = 1;
    cluster.value.clusterDim.z = 1;
    assert_eq!(run(&mut [cluster]), NOT_SUPPORTED);
    // SAFETY: no pointers.
    ok(unsafe { cuCtxSynchronize() });
}

#[test]
fn occupancy_is_calculated() {
    let _session = Session::new();
    let module = load(KERNELS);
    let (nothing, shared) = (function(module, c"nothing"), function(module, c"shared"));
    let blocks = |kernel, threads, bytes| {
        let mut blocks = -1;
        // SAFETY: the pointer is valid.
        let code =
            unsafe { cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, kernel, threads, bytes) };
        (code, blocks)
    };
    assert_eq!(blocks(nothing, 32, 0), (OK, 32));
    assert_eq!(blocks(nothing, 256, 0), (OK, 8));
    assert_eq!(blocks(shared, 32, (40 << 10) - 8192), (OK, 4), "41 KiB each, of 164 KiB");
    assert_eq!(blocks(nothing, 0, 0).0, INVALID_VALUE);
    assert_eq!(blocks(nothing, 1025, 0), (OK, 0));
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let (mut grid, mut block, mut bytes) = (0, 0, 0);
        ok(cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, nothing, None, 0, 0));
        assert_eq!((grid, block), (2 * 108, 1024));
        ok(cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, nothing, None, 0, 100));
        assert_eq!((grid, block), (32 * 108, 64), "32 blocks of 2 warps; 21 of 3 are one warp less");
        ok(cuOccupancyAvailableDynamicSMemPerBlock(&mut bytes, shared, 2, 64));
        assert_eq!(bytes, (82 << 10) - (1 << 10) - 8192);
    }
}

#[test]
fn a_queued_launch_of_an_unloaded_module_is_found() {
    let _session = Session::new();
    let (module, stream, data) = (load(KERNELS), stream(NON_BLOCKING), upload(&[0; 32]));
    let (step, gate) = (function(module, c"step"), Gate::close(stream));
    ok(launch(step, 1, 32, stream, &[arg(&data)]));
    // SAFETY: the handles are live.
    unsafe {
        ok(cuModuleUnload(module));
        gate.open();
        assert_eq!(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
    }
    let report = gpu().fault().unwrap();
    assert!(report.contains("kernel step") && report.contains("after cuModuleUnload"), "{report}");
}
