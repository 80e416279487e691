//! Where a plan goes. An op says once which parts of the workspace it needs, which kernels, and which
//! launches of them; a sink measures that, compiles it, launches it or lists it.

use std::ffi::c_void;
use std::marker::PhantomData;

use bytemuck::Pod;
use cudarc::driver::sys::{CUdeviceptr, CUfunction, CUstream};

use super::device::DeviceInfo;
use super::engine::Engine;
use super::memory::Bare;
use super::queue::Precision;
use super::variant::{Math, Variant};
use crate::element::Dtype;
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Call, Check};
use crate::view::{Layout, ViewMut};

/// A call over bare pointers: what an op needs, and what it launches.
pub trait Planned: Call {
    /// What the kernels ask of strides beyond the one check.
    fn check_strides(&self) -> Result<()> {
        Ok(())
    }

    /// Tells the sink of parts and kernels, then begins, then launches.
    fn plan(&self, sink: &mut Sink<'_>) -> Result<()>;
}

/// The parameters of a kernel, as its source declares them under the same name.
pub trait Params: Pod {
    /// The kernel.
    const KERNEL: &'static str;
}

/// A kernel that a plan has told of, and that takes `P`.
#[derive(Debug)]
pub struct Kernel<P> {
    place: usize,
    params: PhantomData<P>,
}

impl<P> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P> Copy for Kernel<P> {}

/// What becomes of a plan.
#[allow(clippy::large_enum_variant)] // One lives on the stack of each call.
enum Aim<'e> {
    Measure,
    Compile(&'e Engine),
    /// Into lines of text: the launches, or the variants alone.
    List(&'e mut Vec<String>),
    Launch {
        engine: &'e Engine,
        stream: CUstream,
        given: usize,
        check: Check,
    },
}

/// Takes a plan.
pub struct Sink<'e> {
    op: &'static str,
    pub(super) device: &'e DeviceInfo,
    precision: Precision,
    base: CUdeviceptr,
    used: usize,
    kernels: Vec<(Variant, &'static str)>,
    functions: Vec<CUfunction>,
    aim: Aim<'e>,
}

/// Parts begin on boundaries of this many bytes, and so must the workspace: what the driver's allocators
/// give.
const ALIGNMENT: usize = 256;

impl<'e> Sink<'e> {
    fn new(op: &'static str, device: &'e DeviceInfo, precision: Precision, aim: Aim<'e>) -> Self {
        let (kernels, functions) = (Vec::with_capacity(8), vec![]);
        Self { op, device, precision, base: 0, used: 0, kernels, functions, aim }
    }

    /// Bytes of workspace of a call.
    pub(super) fn measure<C: Planned>(device: &DeviceInfo, precision: Precision, call: &C) -> Result<usize> {
        check(call, Check::new(C::OP))?;
        let mut sink = Sink::new(C::OP, device, precision, Aim::Measure);
        call.plan(&mut sink)?;
        Ok(sink.used)
    }

    /// Compiles what a call needs.
    pub(super) fn compile<C: Planned>(engine: &Engine, precision: Precision, call: &C) -> Result<()> {
        check(call, Check::new(C::OP))?;
        call.plan(&mut Sink::new(C::OP, engine.device(), precision, Aim::Compile(engine)))
    }

    /// The variants and the launches of a call, as text. What lies where does not matter.
    pub(super) fn list<C: Planned>(
        device: &DeviceInfo,
        precision: Precision,
        call: &C,
    ) -> Result<(Vec<Variant>, Vec<String>)> {
        check(call, Check::described(C::OP))?;
        let mut lines = vec![];
        let mut sink = Sink::new(C::OP, device, precision, Aim::List(&mut lines));
        call.plan(&mut sink)?;
        let variants = sink.kernels.into_iter().map(|(variant, _)| variant).collect();
        Ok((variants, lines))
    }

    /// Enqueues a call.
    ///
    /// # Safety
    /// All views of the call and the workspace name memory of the engine's context that is valid, for their
    /// reach, until the stream has run the call, and nobody else writes inputs or touches outputs and
    /// workspace meanwhile.
    pub(super) unsafe fn launch<C: Planned>(
        engine: &Engine,
        stream: CUstream,
        precision: Precision,
        call: &C,
        workspace: ViewMut<'_, u8, 1, Bare>,
    ) -> Result<()> {
        let check = check(call, Check::new(C::OP))?;
        let (base, [given]) = (workspace.data, workspace.layout.shape);
        let aim = Aim::Launch { engine, stream, given, check };
        let mut sink = Sink { base, ..Sink::new(C::OP, engine.device(), precision, aim) };
        call.plan(&mut sink)
    }

    /// The address of a part of the workspace for the product of `sizes` elements of `T`.
    pub(super) fn part<T>(&mut self, name: &'static str, sizes: &[usize]) -> Result<CUdeviceptr> {
        let count = sizes.iter().try_fold(size_of::<T>(), |product, &size| product.checked_mul(size));
        let end = count.and_then(|count| self.used.checked_add(count)?.checked_next_multiple_of(ALIGNMENT));
        let end = end.filter(|&end| isize::try_from(end).is_ok());
        let at = self.base.wrapping_add(self.used as u64);
        self.used = end.ok_or_else(|| {
            Error::new(self.op, ErrorKind::TooLarge { name: name.into(), sizes: sizes.to_vec() })
        })?;
        Ok(at)
    }

    /// Tells of a kernel.
    pub(super) fn kernel<P: Params>(&mut self, variant: Variant) -> Kernel<P> {
        debug_assert!(variant.source.kernels.contains(&P::KERNEL), "{} is not in {variant}", P::KERNEL);
        self.kernels.push((variant, P::KERNEL));
        Kernel { place: self.kernels.len() - 1, params: PhantomData }
    }

    /// After the last part and kernel, before the first step: whether there are to be any.
    pub(super) fn begin(&mut self) -> Result<bool> {
        match &mut self.aim {
            Aim::Measure => Ok(false),
            Aim::List(_) => Ok(true),
            Aim::Compile(engine) => {
                engine.prepare(self.op, &self.kernels, None)?;
                Ok(false)
            }
            Aim::Launch { engine, stream, given, check } => {
                claim(self.op, (self.base, *given), self.used, check)?;
                self.functions = engine.prepare(self.op, &self.kernels, Some(*stream))?;
                Ok(true)
            }
        }
    }

    /// One launch of the product of `blocks` blocks, all in x.
    pub(super) fn step<P: Params>(
        &mut self,
        kernel: Kernel<P>,
        blocks: &[usize],
        threads: u32,
        params: &P,
    ) -> Result<()> {
        let (variant, name) = self.kernels[kernel.place];
        let product = blocks.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor));
        // The widest grid is 2^31 - 1.
        let grid = product.and_then(|count| i32::try_from(count).ok()).ok_or_else(|| {
            Error::new(self.op, ErrorKind::TooLarge { name: "the grid".into(), sizes: blocks.to_vec() })
        })? as u32;
        // The small kernels of a source use none of the variant's dynamic shared memory.
        let shared_bytes = if variant.source.kernels[0] == name { variant.shared_bytes } else { 0 };
        let op = self.op;
        let line = || {
            format!(
                "{op}: {name} of {variant}: grid {grid}, block {threads}, {shared_bytes} bytes of dynamic shared memory"
            )
        };
        match &mut self.aim {
            Aim::Measure | Aim::Compile(_) => Ok(()),
            Aim::List(lines) => {
                lines.push(line());
                Ok(())
            }
            Aim::Launch { engine, stream, .. } => {
                super::jit::trace(line);
                let params = std::ptr::from_ref(params).cast_mut().cast::<c_void>();
                let function = self.functions[kernel.place];
                // SAFETY: the parameters are those of the kernel, and the memory they name is valid: the
                // promise of `launch`.
                unsafe { engine.launch(op, *stream, function, name, [grid, threads, shared_bytes], params) }
            }
        }
    }

    /// How elements of this type are multiplied.
    pub(super) fn math(&self, dtype: Dtype) -> Result<Math> {
        Math::choose(self.op, self.device, dtype, self.precision)
    }

    /// Sizes that kernels hold in 32 bits.
    pub(super) fn fit(&self, sizes: &[(&'static str, usize)]) -> Result<()> {
        sizes.iter().try_for_each(|&(name, size)| match i32::try_from(size) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::value(self.op, name, size, "at most 2^31 - 1 on a GPU")),
        })
    }
}

fn check<C: Planned>(call: &C, mut check: Check) -> Result<Check> {
    call.check(&mut check)?;
    call.check_strides()?;
    Ok(check)
}

/// Checks that a workspace has `wanted` bytes, which the call writes.
fn claim(
    op: &'static str,
    (address, given): (CUdeviceptr, usize),
    wanted: usize,
    check: &mut Check,
) -> Result<()> {
    if given < wanted {
        return Err(Error::new(op, ErrorKind::Workspace { given, wanted }));
    }
    if wanted == 0 {
        return Ok(());
    }
    if address == 0 || !address.is_multiple_of(ALIGNMENT as u64) {
        let rule = "a device address that is a multiple of 256, as allocators give it";
        return Err(Error::value(op, "the workspace's address", format_args!("{address:#x}"), rule));
    }
    check.add::<u8, 1>("the workspace", address, &Layout::contiguous([wanted]), true)
}
