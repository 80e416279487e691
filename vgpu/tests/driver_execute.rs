//! `VGPU_EXECUTE=0`: launches are checked, and then nothing runs. A setting of the process, so the only test
//! here.

mod driver;

use driver::*;

#[test]
fn launches_that_are_not_executed_change_and_count_nothing() {
    let _session = Session::new();
    let (fill, data, stream) = (function(load(KERNELS), c"fill"), upload(&[7; 16]), stream(NON_BLOCKING));
    let fill_with = |value: u32| launch(fill, 1, 16, stream, &[arg(&data), arg(&value), arg(&16_u32)]);
    // SAFETY: the stream is this test's own and alive; every pointer is valid for its call.
    unsafe {
        assert_eq!(gpu().set("execute", "perhaps"), Err(1));
        assert_eq!(gpu().set("execute", "0"), Ok(()));
        gpu().reset();
        ok(fill_with(5));
        assert_eq!(launch(fill, 0, 16, stream, &[]), INVALID_VALUE, "launches are checked all the same");

        let (mut graph, mut executable) = (std::ptr::null_mut(), std::ptr::null_mut());
        ok(cuStreamBeginCapture_v2(stream, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED));
        ok(fill_with(6));
        ok(cuStreamEndCapture(stream, &mut graph));
        ok(cuGraphInstantiateWithFlags(&mut executable, graph, 0));
        ok(cuGraphLaunch(executable, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(data, 16), [7; 16]);
        assert!(gpu().launches().is_empty());

        assert_eq!(gpu().set("execute", "1"), Ok(()));
        ok(cuGraphLaunch(executable, stream));
        ok(cuStreamSynchronize(stream));
        assert_eq!(download(data, 16), [7; 16], "captured so");
        ok(fill_with(8));
        ok(cuStreamSynchronize(stream));
        assert_eq!((download(data, 16), gpu().launches().len()), (vec![8; 16], 1));
    }
}
