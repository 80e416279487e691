//! Devices, contexts, the stack of each thread, handles.

mod driver;

use std::ffi::{CStr, c_char};

use driver::*;

fn current() -> CUcontext {
    let mut context = std::ptr::null_mut();
    // SAFETY: the pointer is valid.
    ok(unsafe { cuCtxGetCurrent(&mut context) });
    context
}

#[test]
fn the_device_says_what_it_is() {
    let _session = Session::new();
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let mut name = [0 as c_char; 128];
        ok(cuDeviceGetName(name.as_mut_ptr(), 128, 0));
        let name = CStr::from_ptr(name.as_ptr()).to_str().unwrap();
        assert!(name.contains("vgpu") && name.contains("virtual"), "{name}");
        let mut short = [1 as c_char; 5];
        ok(cuDeviceGetName(short.as_mut_ptr(), 5, 0));
        assert_eq!(CStr::from_ptr(short.as_ptr()).to_bytes(), b"vgpu", "cut, with its zero");

        let (mut count, mut device) = (0, -1);
        ok(cuDeviceGetCount(&mut count));
        assert_eq!(count, 1);
        ok(cuDeviceGet(&mut device, 0));
        assert_eq!(cuDeviceGet(&mut device, 1), CUresult::CUDA_ERROR_INVALID_DEVICE);
        assert_eq!(cuDeviceGet(&mut device, -1), CUresult::CUDA_ERROR_INVALID_DEVICE);
        assert_eq!(cuDeviceGetCount(std::ptr::null_mut()), INVALID_VALUE);

        let (mut one, mut other) = (std::mem::zeroed(), std::mem::zeroed());
        ok(cuDeviceGetUuid_v2(&mut one, 0));
        ok(cuDeviceGetUuid_v2(&mut other, 0));
        let bytes = |uuid: CUuuid| uuid.bytes.map(|byte| byte as u8);
        assert_eq!(bytes(one), bytes(other));
        assert!(bytes(one).iter().any(|&byte| byte != 0));
    }
}

#[test]
fn error_codes_have_names_and_strings() {
    gpu();
    let text = |get: unsafe fn(CUresult, *mut *const c_char) -> CUresult, code: CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: a successful call gives a static string.
        unsafe {
            ok(get(code, &mut text));
            CStr::from_ptr(text).to_str().unwrap().to_owned()
        }
    };
    assert_eq!(text(cuGetErrorName, ILLEGAL_ADDRESS), "CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_eq!(text(cuGetErrorString, ILLEGAL_ADDRESS), "an illegal memory access was encountered");
    assert_eq!(text(cuGetErrorName, OK), "CUDA_SUCCESS");

    type Describe = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;
    let mut text = c"before".as_ptr();
    // SAFETY: the function has this type.
    let unknown = unsafe { gpu().driver_function::<Describe>(c"cuGetErrorName").unwrap()(12345, &mut text) };
    assert_eq!((unknown, text.is_null()), (1, true));
}

#[test]
fn contexts_stack_and_unknown_ones_are_refused() {
    let below = Session::new();
    let above = Session::new();
    assert_eq!(current(), above.context);
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let mut popped = std::ptr::null_mut();
        ok(cuCtxPopCurrent_v2(&mut popped));
        assert_eq!((popped, current()), (above.context, below.context));
        ok(cuCtxPushCurrent_v2(above.context));
        ok(cuCtxSetCurrent(below.context));
        assert_eq!(current(), below.context, "set replaces the top");
        ok(cuCtxPopCurrent_v2(&mut popped));
        assert_eq!(current(), below.context, "what was beneath is still there");
        ok(cuCtxPopCurrent_v2(&mut popped));
        assert!(current().is_null());
        assert_eq!(cuCtxPopCurrent_v2(&mut popped), INVALID_CONTEXT);
        assert_eq!(cuCtxSynchronize(), INVALID_CONTEXT);
        assert_eq!(cuCtxSetCurrent(0x1234_usize as CUcontext), INVALID_CONTEXT);
        ok(cuCtxSetCurrent(above.context));
        ok(cuCtxSetCurrent(std::ptr::null_mut()));
        assert!(current().is_null());
    }
}

#[test]
fn a_destroyed_context_takes_everything_with_it() {
    let session = Session::new();
    // So much that what other tests allocate meanwhile makes no difference.
    let large = 1 << 30;
    let (context, address, event, stream) = (session.context, alloc(large), event(), stream(BLOCKING));
    let module = load(KERNELS);
    let function = function(module, c"nothing");
    // SAFETY: every pointer is valid for its function; stale handles are what is tested.
    unsafe {
        let (mut free_before, mut free_after, mut total) = (0, 0, 0);
        ok(cuMemGetInfo_v2(&mut free_before, &mut total));
        ok(cuCtxPushCurrent_v2(context));
        ok(cuCtxDestroy_v2(context));
        assert_eq!(current(), context, "pushed twice, popped once");
        assert_eq!(cuCtxSynchronize(), CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        assert_eq!(cuCtxDestroy_v2(context), INVALID_CONTEXT);

        let _other = Session::new();
        assert_eq!(cuEventQuery(event), INVALID_HANDLE);
        assert_eq!(cuStreamSynchronize(stream), INVALID_HANDLE);
        assert_eq!(cuModuleUnload(module), INVALID_HANDLE);
        assert_eq!(launch(function, 1, 1, std::ptr::null_mut(), &[]), INVALID_HANDLE);
        assert_eq!(cuMemFree_v2(address), INVALID_VALUE);
        ok(cuMemGetInfo_v2(&mut free_after, &mut total));
        assert!(free_after > free_before + large / 2, "{free_after} {free_before}");
    }
}

#[test]
fn handles_of_one_kind_or_context_are_none_of_another() {
    let first = Session::new();
    let (stream_of_first, event_of_first) = (stream(BLOCKING), event());
    // SAFETY: every pointer is valid for its function; wrong handles are what is tested.
    unsafe {
        assert_eq!(cuEventRecord(stream_of_first.cast(), std::ptr::null_mut()), INVALID_HANDLE);
        assert_eq!(cuStreamSynchronize(event_of_first.cast()), INVALID_HANDLE);
        assert_eq!(cuEventDestroy_v2(std::ptr::null_mut()), INVALID_HANDLE);
        assert_eq!(cuStreamDestroy_v2(std::ptr::null_mut()), INVALID_HANDLE, "the null stream stays");
        let second = Session::new();
        assert_eq!(cuStreamSynchronize(stream_of_first), INVALID_HANDLE);
        assert_eq!(cuEventRecord(event_of_first, std::ptr::null_mut()), INVALID_HANDLE);
        ok(cuEventQuery(event_of_first));
        drop(second);
        ok(cuCtxSetCurrent(first.context));
        ok(cuEventDestroy_v2(event_of_first));
        assert_eq!(cuEventDestroy_v2(event_of_first), INVALID_HANDLE);
        ok(cuStreamDestroy_v2(stream_of_first));
        assert_eq!(cuStreamDestroy_v2(stream_of_first), INVALID_HANDLE);
    }
}

#[test]
fn each_of_eight_threads_has_its_own_current_context() {
    let outer = Session::new();
    std::thread::scope(|scope| {
        for index in 0..8 {
            scope.spawn(move || {
                assert!(current().is_null(), "a new thread has none");
                let session = Session::new();
                let values: Vec<u32> = (0..1000).map(|value| value * 8 + index).collect();
                let module = load(KERNELS);
                let (step, data) = (function(module, c"step"), upload(&values));
                for _ in 0..3 {
                    ok(launch(step, 10, 100, std::ptr::null_mut(), &[arg(&data)]));
                }
                let expected: Vec<u32> = values.iter().map(|value| value * 27 + 13).collect();
                assert_eq!(download(data, 1000), expected);
                assert_eq!(current(), session.context);
            });
        }
    });
    assert_eq!(current(), outer.context);
}

#[test]
fn the_primary_context_lives_while_it_is_retained() {
    let session = Session::new();
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let (mut one, mut two) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (mut flags, mut active) = (0, 0);
        ok(cuDevicePrimaryCtxRetain(&mut one, 0));
        ok(cuDevicePrimaryCtxRetain(&mut two, 0));
        assert_eq!(one, two);
        assert_eq!(current(), session.context, "retaining makes nothing current");
        assert_eq!(cuCtxDestroy_v2(one), INVALID_CONTEXT, "it is released, not destroyed");
        ok(cuDevicePrimaryCtxRelease_v2(0));
        ok(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
        assert_eq!(active, 1);
        ok(cuDevicePrimaryCtxRelease_v2(0));
        ok(cuDevicePrimaryCtxGetState(0, &mut flags, &mut active));
        assert_eq!(active, 0);
        assert_eq!(cuDevicePrimaryCtxRelease_v2(0), INVALID_CONTEXT);
        assert_eq!(cuCtxSetCurrent(one), INVALID_CONTEXT);
    }
}

#[test]
fn limits_and_configurations_are_kept() {
    let _session = Session::new();
    // SAFETY: every pointer is valid for its function.
    unsafe {
        let mut value = 0;
        ok(cuCtxSetLimit(CUlimit::CU_LIMIT_STACK_SIZE, 4096));
        ok(cuCtxGetLimit(&mut value, CUlimit::CU_LIMIT_STACK_SIZE));
        assert_eq!(value, 4096);
        let shmem = cuCtxGetLimit(&mut value, CUlimit::CU_LIMIT_SHMEM_SIZE);
        assert_eq!(shmem, CUresult::CUDA_ERROR_UNSUPPORTED_LIMIT);
        ok(cuCtxSetCacheConfig(CUfunc_cache::CU_FUNC_CACHE_PREFER_L1));
        let mut config = CUfunc_cache::CU_FUNC_CACHE_PREFER_NONE;
        ok(cuCtxGetCacheConfig(&mut config));
        assert_eq!(config, CUfunc_cache::CU_FUNC_CACHE_PREFER_L1);
        let (mut least, mut greatest) = (1, 1);
        ok(cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
        assert!(greatest < least);
        assert_eq!(cuCtxSetFlags(3), INVALID_VALUE, "two ways of waiting at once");
        ok(cuCtxSetFlags(4));
    }
}

#[test]
fn entry_points_are_found_by_name_and_version() {
    let _session = Session::new();
    type Find = unsafe extern "C" fn(*const c_char, *mut *const (), i32, u64, *mut u32) -> u32;
    // SAFETY: the functions have these types.
    let (find, same) = unsafe {
        let find = gpu().driver_function::<Find>(c"cuGetProcAddress_v2").unwrap();
        (find, |name: &CStr| gpu().driver_function::<*const ()>(name).unwrap())
    };
    let ask = |name: &CStr, version: i32| {
        let (mut address, mut status) = (std::ptr::null(), 9);
        // SAFETY: every pointer is valid.
        let code = unsafe { find(name.as_ptr(), &mut address, version, 0, &mut status) };
        (code, address, status)
    };
    assert_eq!(ask(c"cuMemAlloc", 12000), (0, same(c"cuMemAlloc_v2"), 0));
    assert_eq!(ask(c"cuInit", 12000), (0, same(c"cuInit"), 0));
    assert_eq!(ask(c"cuCtxCreate", 12000), (0, same(c"cuCtxCreate_v2"), 0));
    assert_eq!(ask(c"cuCtxCreate", 13000), (0, same(c"cuCtxCreate_v4"), 0));
    assert_eq!(ask(c"cuEventElapsedTime", 12000), (0, same(c"cuEventElapsedTime"), 0));
    assert_eq!(ask(c"cuNoSuchThing", 12000), (500, std::ptr::null(), 1));
    assert_eq!(ask(c"vgpu_version", 12000).0, 500, "not part of the driver's interface");
}
