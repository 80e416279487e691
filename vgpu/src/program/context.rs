//! What decoding a kernel shares between its functions: symbols, shared memory, callees.

use super::decode::Decode;
use super::globals::Globals;
use crate::exec::window;
use crate::ptx::ast::{Function, Module, Space, Variable};
use std::collections::HashMap;

/// What a name means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Symbol {
    /// Device address.
    Global(u64),
    /// Offset in the block's shared memory.
    Shared(u32),
    /// Offset in the parameter buffer.
    KernelParam(u32),
    /// Handle that `mov` gives for a function.
    Function(u64),
}

/// Shared by the functions of one kernel while they are decoded.
pub(super) struct Context<'m> {
    pub(super) module: &'m Module<'m>,
    functions: &'m HashMap<&'m str, usize>,
    globals: &'m Globals,
    /// Offsets of shared variables, by function (module scope: `None`) and name.
    shared: HashMap<(Option<&'m str>, &'m str), u32>,
    params: HashMap<&'m str, u32>,
    /// Functions of the kernel by index in the module, in order of decoding.
    pub(super) order: Vec<usize>,
    positions: HashMap<usize, u32>,
    /// Whether any function may be called.
    pub(super) indirect: bool,
}

impl<'m> Context<'m> {
    pub(super) fn new(
        module: &'m Module<'m>,
        functions: &'m HashMap<&'m str, usize>,
        globals: &'m Globals,
        entry: usize,
    ) -> Context<'m> {
        Context {
            module,
            functions,
            globals,
            shared: HashMap::new(),
            params: HashMap::new(),
            order: vec![entry],
            positions: HashMap::from([(entry, 0)]),
            indirect: false,
        }
    }

    pub(super) fn add_param(&mut self, name: &'m str, offset: u32) {
        self.params.insert(name, offset);
    }

    /// Places the shared variables that the kernel can reach. Returns the static size and where the dynamic
    /// area begins.
    pub(super) fn place_shared(&mut self, reachable: &[usize]) -> (u32, u32) {
        let mut at = 0u32;
        let mut dynamic_align = 16;
        let mut dynamic = Vec::new();
        let functions = &self.module.functions;
        let used = |name: &str| {
            reachable
                .iter()
                .filter_map(|&f| functions[f].body.as_ref())
                .any(|body| body.instructions.iter().any(|i| i.operands.iter().any(|o| mentions(o, name))))
        };
        let module_scope = self.module.variables.iter().map(|v| (None, v)).filter(|(_, v)| used(v.name));
        let bodies = reachable.iter().filter_map(|&f| Some((functions[f].name, functions[f].body.as_ref()?)));
        let body_scope = bodies.flat_map(|(name, body)| body.variables.iter().map(move |v| (Some(name), v)));
        for (scope, variable) in module_scope.chain(body_scope) {
            if variable.space != Space::Shared {
                continue;
            }
            match variable.size {
                Some(size) if !(variable.external && size == 0) => {
                    at = aligned(at, variable.align);
                    self.shared.insert((scope, variable.name), at);
                    at = at.saturating_add(size as u32);
                }
                _ => {
                    dynamic_align = dynamic_align.max(variable.align);
                    dynamic.push((scope, variable.name));
                }
            }
        }
        let begin = aligned(at, dynamic_align);
        for key in dynamic {
            self.shared.insert(key, begin);
        }
        (at, begin)
    }

    pub(super) fn symbol(&self, function: &Function<'_>, name: &'m str) -> Decode<Symbol> {
        if let Some((_, &at)) =
            self.shared.iter().find(|((scope, n), _)| *n == name && *scope == Some(function.name))
        {
            return Ok(Symbol::Shared(at));
        }
        if function.entry
            && let Some(&at) = self.params.get(name)
        {
            return Ok(Symbol::KernelParam(at));
        }
        if let Some(&at) = self.shared.get(&(None, name)) {
            return Ok(Symbol::Shared(at));
        }
        if let Some(address) = self.globals.address(name) {
            return Ok(Symbol::Global(address));
        }
        match self.functions.get(name) {
            Some(&index) => Ok(Symbol::Function(window::function(index))),
            None => Err(format!("unknown symbol '{name}'")),
        }
    }

    pub(super) fn is_defined(&self, name: &str) -> bool {
        self.functions.get(name).is_some_and(|&index| self.module.functions[index].body.is_some())
    }

    /// Position of a function among those of the kernel.
    pub(super) fn callee(&mut self, name: &str) -> Decode<u32> {
        match self.functions.get(name) {
            Some(&index) if self.module.functions[index].body.is_some() => Ok(self.position(index)),
            _ => Err(format!("call of '{name}', which has no body")),
        }
    }

    pub(super) fn position(&mut self, index: usize) -> u32 {
        let next = self.order.len() as u32;
        let position = *self.positions.entry(index).or_insert(next);
        if position == next {
            self.order.push(index);
        }
        position
    }
}

/// The next multiple of an alignment; sizes that no device has stay as large as they are.
pub(super) fn aligned(at: u32, align: u32) -> u32 {
    at.checked_next_multiple_of(align.max(1)).unwrap_or(u32::MAX)
}

fn mentions(operand: &crate::ptx::ast::Operand<'_>, name: &str) -> bool {
    use crate::ptx::ast::{Base, Operand};
    match operand {
        Operand::Symbol(symbol, _) | Operand::Address(Base::Symbol(symbol), _) => *symbol == name,
        Operand::Vector(items) | Operand::List(items) => items.iter().any(|item| mentions(item, name)),
        _ => false,
    }
}

/// Functions that a kernel can reach, the kernel first.
pub(super) fn reachable(module: &Module<'_>, functions: &HashMap<&str, usize>, entry: usize) -> Vec<usize> {
    let mut found = vec![entry];
    let mut at = 0;
    while at < found.len() {
        let Some(body) = &module.functions[found[at]].body else {
            at += 1;
            continue;
        };
        for i in body.instructions.iter().filter(|i| matches!(i.name, "call" | "mov")) {
            let indirect =
                i.name == "call" && i.operands.iter().any(|o| matches!(o, crate::ptx::ast::Operand::Reg(_)));
            if indirect {
                return (0..module.functions.len())
                    .filter(|&f| {
                        f == entry || !module.functions[f].entry && module.functions[f].body.is_some()
                    })
                    .collect();
            }
            for operand in &i.operands {
                if let crate::ptx::ast::Operand::Symbol(name, _) = operand
                    && let Some(&index) = functions.get(name)
                    && !found.contains(&index)
                {
                    found.push(index);
                }
            }
        }
        at += 1;
    }
    found
}

/// Size of a variable, where it has one.
pub(super) fn size_of(variable: &Variable<'_>) -> u64 {
    variable.size.unwrap_or(0)
}
