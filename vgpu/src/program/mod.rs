//! A loaded module: its kernels decoded for execution, its globals placed in memory.

pub(crate) mod code;
mod context;
mod decode;
mod globals;
mod order;

use crate::memory::GlobalMemory;
use crate::ptx::{self, ast};
use code::{Code, Op, Pc};
use globals::Globals;
use std::collections::HashMap;
use std::sync::Arc;

/// Why a module was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct LoadError {
    /// Line in the PTX text, from 1; 0 where none is concerned.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

impl From<ptx::SyntaxError> for LoadError {
    fn from(error: ptx::SyntaxError) -> LoadError {
        LoadError { line: error.line, message: error.message }
    }
}

/// One kernel parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Param {
    /// Offset in the parameter buffer, in bytes.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// An instruction that the virtual GPU does not execute: its kernel fails at launch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsupported {
    /// Line in the PTX text.
    pub line: u32,
    /// Text of that line.
    pub text: String,
    /// What is not supported.
    pub message: String,
}

/// A kernel, ready to launch.
#[derive(Debug)]
pub struct Kernel {
    /// Entry name.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Size of the parameter buffer.
    pub param_bytes: u32,
    /// Static shared memory in bytes (the dynamic area begins after it, aligned).
    pub static_shared: u32,
    /// Local memory of a thread in bytes, without calls.
    pub local_bytes: u32,
    /// Constant memory of the module in bytes.
    pub const_bytes: u32,
    /// Registers per thread as declared, in 32-bit units.
    pub registers: u32,
    /// `.maxntid` (product), or `.reqntid`.
    pub max_threads: Option<u32>,
    /// `.reqntid`: the only block shape that may be launched.
    pub required_block: Option<[u32; 3]>,
    /// `.version`, major and minor.
    pub ptx_version: (u32, u32),
    /// `.target sm_..`, as 10 x major + minor.
    pub target: u32,
    pub(crate) code: Result<Code, Unsupported>,
    /// Keeps the module's variables alive as long as a kernel may use them.
    #[allow(dead_code)]
    globals: Arc<Globals>,
}

impl Kernel {
    /// The first instruction of the kernel, or of a function it calls, that the virtual GPU does not execute.
    pub fn unsupported(&self) -> Option<&Unsupported> {
        self.code.as_ref().err()
    }
}

/// A loaded module. Its globals are freed when it and its kernels are gone.
#[derive(Debug)]
pub struct Module {
    kernels: HashMap<String, Arc<Kernel>>,
    globals: Arc<Globals>,
}

impl Module {
    /// Parses PTX text and places its globals and constants in `memory`.
    ///
    /// # Errors
    /// Malformed PTX, with its line. Instructions that the virtual GPU does not know fail their kernel at
    /// launch.
    pub fn load(ptx: &str, memory: &Arc<GlobalMemory>) -> Result<Module, LoadError> {
        let module = ptx::parse(ptx)?;
        if module.version == (0, 0) {
            return Err(LoadError { line: 1, message: "the text has no .version".into() });
        }
        let functions: HashMap<&str, usize> =
            module.functions.iter().enumerate().map(|(index, f)| (f.name, index)).collect();
        let globals = Arc::new(Globals::place(&module, &functions, memory)?);
        let loader =
            Loader { module: &module, functions: &functions, globals: &globals, text: Arc::from(ptx) };
        let mut kernels = HashMap::new();
        for (index, function) in module.functions.iter().enumerate() {
            if function.entry {
                kernels.insert(function.name.to_string(), Arc::new(loader.kernel(index, function)));
            }
        }
        Ok(Module { kernels, globals })
    }

    /// The entry of that name.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        self.kernels.get(name).cloned()
    }

    /// Names of all entries, sorted.
    pub fn kernel_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Address and size of a `.global` or `.const` variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name)
    }
}

struct Loader<'m> {
    module: &'m ast::Module<'m>,
    functions: &'m HashMap<&'m str, usize>,
    globals: &'m Arc<Globals>,
    text: Arc<str>,
}

impl<'m> Loader<'m> {
    fn kernel(&self, index: usize, function: &'m ast::Function<'m>) -> Kernel {
        let mut context = context::Context::new(self.module, self.functions, self.globals, index);
        let (params, param_bytes) = parameters(&function.signature.params);
        for (variable, param) in function.signature.params.iter().zip(&params) {
            context.add_param(variable.name, param.offset);
        }
        let reachable = context::reachable(self.module, self.functions, index);
        let (static_shared, dynamic_shared) = context.place_shared(&reachable);
        let code = self.code(&mut context, &reachable, dynamic_shared);
        let threads = function.required_threads.or(function.max_threads);
        Kernel {
            name: function.name.to_string(),
            params,
            param_bytes,
            static_shared,
            local_bytes: code.as_ref().map_or(0, |code| code.functions[0].local_bytes),
            const_bytes: self.globals.const_bytes,
            registers: registers(function),
            max_threads: threads.map(|[x, y, z]| x.saturating_mul(y).saturating_mul(z)),
            required_block: function.required_threads,
            ptx_version: self.module.version,
            target: target(self.module.target),
            code,
            globals: self.globals.clone(),
        }
    }

    fn code(
        &self,
        context: &mut context::Context<'m>,
        reachable: &[usize],
        dynamic: u32,
    ) -> Result<Code, Unsupported> {
        let mut code = Code {
            dynamic_shared: dynamic,
            locations: self.module.locations.clone(),
            files: self.module.files.iter().map(|(&k, name)| (k, name.to_string())).collect(),
            text: self.text.clone(),
            ..Code::default()
        };
        let mut at = 0;
        while at < context.order.len() {
            self.add_function(context, at, &mut code)?;
            at += 1;
            // Functions reached by address only come last.
            if at == context.order.len() && context.indirect {
                context.indirect = false;
                for &index in reachable {
                    context.position(index);
                }
            }
        }
        code.by_module_index = vec![None; self.module.functions.len()];
        for (position, &index) in context.order.iter().enumerate() {
            code.by_module_index[index] = Some(position as u32);
        }
        Ok(code)
    }

    fn add_function(
        &self,
        context: &mut context::Context<'m>,
        at: usize,
        code: &mut Code,
    ) -> Result<(), Unsupported> {
        let function = &self.module.functions[context.order[at]];
        let fail = |(line, message): (u32, String)| {
            let text = self.text.lines().nth(line.max(1) as usize - 1).unwrap_or("").trim();
            Unsupported { line, text: text.to_string(), message }
        };
        let Some(body) = &function.body else {
            return Err(fail((function.line, format!("'{}' has no body", function.name))));
        };
        let mut decoded = decode::function(context, function, body).map_err(fail)?;
        order::assign(&mut decoded.instructions);
        let base = code.instructions.len() as Pc;
        for inst in &mut decoded.instructions {
            match &mut inst.op {
                Op::Branch { target } => *target += base,
                Op::BranchTable { targets, .. } => targets.iter_mut().for_each(|target| *target += base),
                _ => {}
            }
        }
        decoded.code.entry = base;
        code.instructions.append(&mut decoded.instructions);
        code.functions.push(decoded.code);
        Ok(())
    }
}

/// Offsets of parameters, and the size of their buffer.
fn parameters(variables: &[ast::Variable<'_>]) -> (Vec<Param>, u32) {
    let mut at = 0u32;
    let mut params = Vec::with_capacity(variables.len());
    for variable in variables {
        let (size, align) = (context::size_of(variable) as u32, variable.align.max(1));
        at = context::aligned(at, align);
        params.push(Param { offset: at, size, align });
        at = at.saturating_add(size);
    }
    (params, at)
}

fn registers(function: &ast::Function<'_>) -> u32 {
    let registers = function.body.iter().flat_map(|body| &body.registers);
    registers.filter(|ty| **ty != ast::Type::Pred).map(|ty| ty.bits().div_ceil(32)).sum()
}

fn target(name: &str) -> u32 {
    let digits: String = name.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}
