//! `VGPU_DELAY`: with it, what was not waited for is not there. A setting of the process, so the only test
//! here.

mod driver;

use std::time::Instant;

use driver::*;

#[test]
fn delayed_work_shows_a_missing_synchronisation() {
    let _session = Session::new();
    let (stream, data) = (stream(NON_BLOCKING), upload(&[7]));
    assert_eq!(gpu().set("delay", "soon"), Err(1));
    assert_eq!(gpu().set("delay", "100000"), Ok(()));
    // SAFETY: pinned memory lives until the session's end.
    unsafe {
        let mut pinned = std::ptr::null_mut();
        ok(cuMemAllocHost_v2(&mut pinned, 4));
        let pinned = pinned.cast::<u32>();
        pinned.write(0);
        let start = Instant::now();
        ok(cuMemcpyDtoHAsync_v2(pinned.cast(), data, 4, stream));
        assert_eq!(pinned.read_volatile(), 0, "read too early");
        assert_eq!(cuStreamQuery(stream), NOT_READY);
        ok(cuStreamSynchronize(stream));
        assert_eq!(pinned.read_volatile(), 7);
        assert!(start.elapsed().as_millis() >= 50, "half of the delay at least");
    }
    assert_eq!(gpu().set("delay", "0"), Ok(()));
}
