//! Copies and memsets, synchronous and asynchronous.
//!
//! Memory of the caller's that is not pinned is treated as the real driver documents it: a copy from it is
//! taken when the call is made, a copy to it is complete when the call returns.

use std::sync::Arc;

use crate::driver::abi::{Copy2D, Copy2DEnd, HostAddress, In};
use crate::driver::capture;
use crate::driver::context::{Context, current};
use crate::driver::export;
use crate::driver::handle::Handle;
use crate::driver::status::{Result, Status};
use crate::driver::stream::{Stream, lock, resolve};
use crate::driver::work::{Fill, Place, Transfer, Work};

export! {
    fn cuMemcpy(destination: u64, source: u64, bytes: usize) {
        let context = current()?;
        synchronous(&context, linear(guess(&context, destination), guess(&context, source), bytes))
    }

    fn cuMemcpyAsync(destination: u64, source: u64, bytes: usize, stream: usize) {
        let context = current()?;
        asynchronous(&context, linear(guess(&context, destination), guess(&context, source), bytes), stream)
    }

    fn cuMemcpyHtoD_v2(destination: u64, source: HostAddress, bytes: usize) {
        synchronous(&current()?, linear(End::Device(destination), End::Host(source), bytes))
    }

    fn cuMemcpyHtoDAsync_v2(destination: u64, source: HostAddress, bytes: usize, stream: usize) {
        asynchronous(&current()?, linear(End::Device(destination), End::Host(source), bytes), stream)
    }

    fn cuMemcpyDtoH_v2(destination: HostAddress, source: u64, bytes: usize) {
        synchronous(&current()?, linear(End::Host(destination), End::Device(source), bytes))
    }

    fn cuMemcpyDtoHAsync_v2(destination: HostAddress, source: u64, bytes: usize, stream: usize) {
        asynchronous(&current()?, linear(End::Host(destination), End::Device(source), bytes), stream)
    }

    fn cuMemcpyDtoD_v2(destination: u64, source: u64, bytes: usize) {
        synchronous(&current()?, linear(End::Device(destination), End::Device(source), bytes))
    }

    fn cuMemcpyDtoDAsync_v2(destination: u64, source: u64, bytes: usize, stream: usize) {
        asynchronous(&current()?, linear(End::Device(destination), End::Device(source), bytes), stream)
    }

    fn cuMemcpyPeer(
        destination: u64,
        destination_context: Handle<Context>,
        source: u64,
        source_context: Handle<Context>,
        bytes: usize,
    ) {
        let context = current()?;
        destination_context.get()?;
        source_context.get()?;
        synchronous(&context, linear(End::Device(destination), End::Device(source), bytes))
    }

    fn cuMemcpyPeerAsync(
        destination: u64,
        destination_context: Handle<Context>,
        source: u64,
        source_context: Handle<Context>,
        bytes: usize,
        stream: usize,
    ) {
        let context = current()?;
        destination_context.get()?;
        source_context.get()?;
        asynchronous(&context, linear(End::Device(destination), End::Device(source), bytes), stream)
    }

    fn cuMemcpy2D_v2(copy: In<Copy2D>) {
        let context = current()?;
        let shape = rectangle(&context, &copy.get()?)?;
        synchronous(&context, shape)
    }

    fn cuMemcpy2DUnaligned_v2(copy: In<Copy2D>) {
        let context = current()?;
        let shape = rectangle(&context, &copy.get()?)?;
        synchronous(&context, shape)
    }

    fn cuMemcpy2DAsync_v2(copy: In<Copy2D>, stream: usize) {
        let context = current()?;
        let shape = rectangle(&context, &copy.get()?)?;
        asynchronous(&context, shape, stream)
    }

    fn cuMemsetD8_v2(destination: u64, value: u8, count: usize) {
        fill_now(row(destination, value.into(), 1, count))
    }

    fn cuMemsetD16_v2(destination: u64, value: u16, count: usize) {
        fill_now(row(destination, value.into(), 2, count))
    }

    fn cuMemsetD32_v2(destination: u64, value: u32, count: usize) {
        fill_now(row(destination, value, 4, count))
    }

    fn cuMemsetD8Async(destination: u64, value: u8, count: usize, stream: usize) {
        fill_in(row(destination, value.into(), 1, count), stream)
    }

    fn cuMemsetD16Async(destination: u64, value: u16, count: usize, stream: usize) {
        fill_in(row(destination, value.into(), 2, count), stream)
    }

    fn cuMemsetD32Async(destination: u64, value: u32, count: usize, stream: usize) {
        fill_in(row(destination, value, 4, count), stream)
    }

    fn cuMemsetD2D8_v2(destination: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill_now(Fill { pitch, rows: height, ..row(destination, value.into(), 1, width) })
    }

    fn cuMemsetD2D16_v2(destination: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill_now(Fill { pitch, rows: height, ..row(destination, value.into(), 2, width) })
    }

    fn cuMemsetD2D32_v2(destination: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill_now(Fill { pitch, rows: height, ..row(destination, value, 4, width) })
    }

    fn cuMemsetD2D8Async(
        destination: u64,
        pitch: usize,
        value: u8,
        width: usize,
        height: usize,
        stream: usize,
    ) {
        fill_in(Fill { pitch, rows: height, ..row(destination, value.into(), 1, width) }, stream)
    }

    fn cuMemsetD2D16Async(
        destination: u64,
        pitch: usize,
        value: u16,
        width: usize,
        height: usize,
        stream: usize,
    ) {
        fill_in(Fill { pitch, rows: height, ..row(destination, value.into(), 2, width) }, stream)
    }

    fn cuMemsetD2D32Async(
        destination: u64,
        pitch: usize,
        value: u32,
        width: usize,
        height: usize,
        stream: usize,
    ) {
        fill_in(Fill { pitch, rows: height, ..row(destination, value, 4, width) }, stream)
    }
}

/// One end of a copy as the caller names it.
#[derive(Clone, Copy)]
enum End {
    Device(u64),
    Host(HostAddress),
}

/// A copy as the caller describes it.
#[derive(Clone, Copy)]
struct Shape {
    destination: End,
    destination_pitch: usize,
    source: End,
    source_pitch: usize,
    width: usize,
    rows: usize,
}

fn linear(destination: End, source: End, width: usize) -> Shape {
    Shape { destination, destination_pitch: 0, source, source_pitch: 0, width, rows: 1 }
}

/// With unified addresses the driver tells from an address where it is.
fn guess(context: &Context, address: u64) -> End {
    match context.device.allocations.containing(address) {
        Some(_) => End::Device(address),
        None => End::Host(HostAddress(address as usize)),
    }
}

fn rectangle(context: &Context, copy: &Copy2D) -> Result<Shape> {
    let (destination, destination_pitch) = corner(context, &copy.destination, copy)?;
    let (source, source_pitch) = corner(context, &copy.source, copy)?;
    Ok(Shape { destination, destination_pitch, source, source_pitch, width: copy.width, rows: copy.height })
}

/// Where an end of a rectangle begins, and its pitch (0 for rows that follow each other).
fn corner(context: &Context, end: &Copy2DEnd, copy: &Copy2D) -> Result<(End, usize)> {
    const HOST: u32 = 1;
    const DEVICE: u32 = 2;
    const ARRAY: u32 = 3;
    const UNIFIED: u32 = 4;
    let pitch = if end.pitch == 0 { copy.width } else { end.pitch };
    let row_end = end.x.checked_add(copy.width).ok_or(Status::INVALID_VALUE)?;
    if copy.height > 1 && row_end > pitch {
        return Err(Status::INVALID_VALUE);
    }
    let offset =
        end.y.checked_mul(pitch).and_then(|rows| rows.checked_add(end.x)).ok_or(Status::INVALID_VALUE)?;
    let device = |address: u64| address.checked_add(offset as u64).ok_or(Status::INVALID_VALUE);
    let place = match end.memory_type {
        HOST => End::Host(end.host.plus(offset)),
        DEVICE => End::Device(device(end.device)?),
        UNIFIED => guess(context, device(end.device)?),
        ARRAY => return Err(Status::NOT_SUPPORTED),
        _ => return Err(Status::INVALID_VALUE),
    };
    Ok((place, pitch))
}

/// Checks an end against the allocations; gives its place and whether it is memory that is not pinned.
fn locate(context: &Context, end: End, pitch: usize, shape: &Shape) -> Result<(Place, bool)> {
    let allocations = &context.device.allocations;
    let above = (shape.rows - 1).checked_mul(pitch).ok_or(Status::INVALID_VALUE)?;
    let bytes = above.checked_add(shape.width).ok_or(Status::INVALID_VALUE)? as u64;
    match end {
        End::Device(address) => {
            allocations.check_range(address, bytes)?;
            let on_host = allocations.containing(address).is_some_and(|record| record.on_host());
            let place =
                if on_host { Place::Host(HostAddress(address as usize)) } else { Place::Device(address) };
            Ok((place, false))
        }
        End::Host(HostAddress(0)) => Err(Status::INVALID_VALUE),
        End::Host(address) => {
            let pinned = allocations.containing(address.0 as u64);
            if pinned.is_some() {
                allocations.check_range(address.0 as u64, bytes)?;
            }
            Ok((Place::Host(address), pinned.is_none()))
        }
    }
}

/// A copy that was checked.
struct Checked {
    transfer: Transfer,
    source_is_pageable: bool,
    destination_is_pageable: bool,
}

fn check(context: &Context, shape: Shape) -> Result<Checked> {
    let (destination, destination_is_pageable) =
        locate(context, shape.destination, shape.destination_pitch, &shape)?;
    let (source, source_is_pageable) = locate(context, shape.source, shape.source_pitch, &shape)?;
    let transfer = Transfer {
        destination,
        destination_pitch: shape.destination_pitch,
        source,
        source_pitch: shape.source_pitch,
        width: shape.width,
        rows: shape.rows,
    };
    Ok(Checked { transfer, source_is_pageable, destination_is_pageable })
}

fn synchronous(context: &Arc<Context>, shape: Shape) -> Result {
    capture::forbid_unsafe_call()?;
    let legacy = resolve(context, 0)?;
    if shape.width == 0 || shape.rows == 0 {
        return Ok(());
    }
    let checked = check(context, shape)?;
    legacy.submit_and_wait(context, Work::Transfer(checked.transfer))
}

fn asynchronous(context: &Arc<Context>, shape: Shape, stream: usize) -> Result {
    let stream = resolve(context, stream)?;
    if shape.width == 0 || shape.rows == 0 {
        return Ok(());
    }
    let Checked { mut transfer, source_is_pageable, destination_is_pageable } = check(context, shape)?;
    // A node of a graph reads and writes the caller's memory whenever the graph is launched.
    if is_captured(&stream) {
        return stream.submit(context, Work::Transfer(transfer));
    }
    if destination_is_pageable {
        return stream.submit_and_wait(context, Work::Transfer(transfer));
    }
    if source_is_pageable {
        transfer.source = stage(&transfer);
    }
    stream.submit(context, Work::Transfer(transfer))
}

fn is_captured(stream: &Stream) -> bool {
    lock(&stream.capture).is_some()
}

/// Takes a copy of what a transfer reads from the caller's memory.
fn stage(transfer: &Transfer) -> Place {
    let Place::Host(address) = transfer.source else { return transfer.source.clone() };
    let bytes = (transfer.rows - 1) * transfer.source_pitch + transfer.width;
    // SAFETY: the caller says that the memory can be read during this call.
    Place::Staged(unsafe { address.read(bytes) }.into())
}

fn row(destination: u64, value: u32, element_bytes: usize, count: usize) -> Fill {
    Fill { destination, pitch: 0, value, element_bytes, count, rows: 1 }
}

/// Checks alignment and range.
pub fn check_fill(context: &Context, fill: &Fill) -> Result {
    let invalid = Status::INVALID_VALUE;
    let unit = fill.element_bytes as u64;
    if !fill.destination.is_multiple_of(unit) || !(fill.pitch as u64).is_multiple_of(unit) {
        return Err(invalid);
    }
    let width = fill.count.checked_mul(fill.element_bytes).ok_or(invalid)?;
    if fill.rows > 1 && fill.pitch < width {
        return Err(invalid);
    }
    let above = fill.rows.saturating_sub(1).checked_mul(fill.pitch).ok_or(invalid)?;
    let bytes = above.checked_add(width).ok_or(invalid)?;
    context.device.allocations.check_range(fill.destination, bytes as u64)
}

fn fill_now(fill: Fill) -> Result {
    let context = current()?;
    capture::forbid_unsafe_call()?;
    check_fill(&context, &fill)?;
    let legacy = resolve(&context, 0)?;
    if fill.count == 0 || fill.rows == 0 {
        return Ok(());
    }
    legacy.submit_and_wait(&context, Work::Fill(fill))
}

fn fill_in(fill: Fill, stream: usize) -> Result {
    let context = current()?;
    let stream = resolve(&context, stream)?;
    check_fill(&context, &fill)?;
    if fill.count == 0 || fill.rows == 0 {
        return Ok(());
    }
    stream.submit(&context, Work::Fill(fill))
}
