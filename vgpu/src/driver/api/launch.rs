//! Kernel launches.

use std::ffi::c_void;
use std::sync::Arc;

use crate::driver::abi::{In, LaunchConfig};
use crate::driver::context::current;
use crate::driver::export;
use crate::driver::handle::Handle;
use crate::driver::launch::{Arguments, Launch, Shape, read_attributes};
use crate::driver::library::function_of;
use crate::driver::module::Function;
use crate::driver::status::{Result, Status};
use crate::driver::stream::resolve;
use crate::driver::work::Work;

export! {
    fn cuLaunchKernel(
        function: Handle<Function>,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared_bytes: u32,
        stream: usize,
        parameters: In<*const c_void>,
        extra: In<*const c_void>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, dynamic_shared: shared_bytes, cooperative: false };
        launch(function, shape, stream, &Arguments { pointers: parameters, extra })
    }

    fn cuLaunchCooperativeKernel(
        function: Handle<Function>,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared_bytes: u32,
        stream: usize,
        parameters: In<*const c_void>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, dynamic_shared: shared_bytes, cooperative: true };
        let none = In::from_raw(std::ptr::null());
        launch(function, shape, stream, &Arguments { pointers: parameters, extra: none })
    }

    fn cuLaunchKernelEx(
        config: In<LaunchConfig>,
        function: Handle<Function>,
        parameters: In<*const c_void>,
        extra: In<*const c_void>,
    ) {
        let config = config.get()?;
        let attributes = In::from_raw(config.attributes).list(config.attribute_count as usize)?;
        let shape = Shape {
            grid: config.grid,
            block: config.block,
            dynamic_shared: config.shared_bytes,
            cooperative: read_attributes(&attributes)?,
        };
        launch(function, shape, config.stream, &Arguments { pointers: parameters, extra })
    }
}

fn launch(function: Handle<Function>, shape: Shape, stream: usize, arguments: &Arguments) -> Result {
    let context = current()?;
    let function = function_of(&context, function)?;
    if !std::ptr::eq(function.context.as_ptr(), Arc::as_ptr(&context)) {
        return Err(Status::INVALID_CONTEXT);
    }
    let stream = resolve(&context, stream)?;
    let launch = Launch::new(&context.device, function, shape, arguments)?;
    stream.submit(&context, Work::Launch(Arc::new(launch)))
}
