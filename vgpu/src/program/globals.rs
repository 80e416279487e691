//! Module-scope variables: placed in device memory, with their initial values.

use super::LoadError;
use super::context::size_of;
use crate::exec::window;
use crate::memory::GlobalMemory;
use crate::ptx::ast::{Initial, Module, Space, Type, Variable};
use std::collections::HashMap;
use std::sync::Arc;

/// Addresses and sizes of the `.global` and `.const` variables of a module; freed with it.
#[derive(Debug)]
pub(super) struct Globals {
    memory: Arc<GlobalMemory>,
    places: HashMap<String, (u64, u64)>,
    pub(super) const_bytes: u32,
}

impl Drop for Globals {
    fn drop(&mut self) {
        for &(address, _) in self.places.values() {
            // Nobody else frees a module's variables; if the memory knows better there is nothing left to do.
            let _ = self.memory.free(address);
        }
    }
}

impl Globals {
    pub(super) fn place(
        module: &Module<'_>,
        functions: &HashMap<&str, usize>,
        memory: &Arc<GlobalMemory>,
    ) -> Result<Globals, LoadError> {
        let mut globals = Globals { memory: memory.clone(), places: HashMap::new(), const_bytes: 0 };
        let body_scope = module.functions.iter().filter_map(|f| f.body.as_ref()).flat_map(|b| &b.variables);
        let variables: Vec<&Variable<'_>> = module
            .variables
            .iter()
            .chain(body_scope)
            .filter(|v| matches!(v.space, Space::Global | Space::Const) && v.size.is_some())
            .collect();
        for variable in &variables {
            globals.reserve(variable)?;
        }
        for variable in &variables {
            globals.initialise(variable, functions)?;
        }
        Ok(globals)
    }

    pub(super) fn address(&self, name: &str) -> Option<u64> {
        self.places.get(name).map(|place| place.0)
    }

    pub(super) fn get(&self, name: &str) -> Option<(u64, u64)> {
        self.places.get(name).copied()
    }

    fn reserve(&mut self, variable: &Variable<'_>) -> Result<(), LoadError> {
        let fail = |message: String| LoadError { line: variable.line, message };
        if self.places.contains_key(variable.name) {
            return Err(fail(format!("'{}' is declared twice", variable.name)));
        }
        let size = size_of(variable);
        if variable.align > 256 {
            return Err(fail(format!("alignment {} of '{}' exceeds 256", variable.align, variable.name)));
        }
        let address = self
            .memory
            .alloc(size.max(1))
            .ok_or_else(|| fail(format!("no memory for the {size} bytes of '{}'", variable.name)))?;
        self.places.insert(variable.name.to_string(), (address, size));
        if variable.space == Space::Const {
            self.const_bytes = self.const_bytes.saturating_add(size as u32);
        }
        Ok(())
    }

    /// Variables without an initialiser are zero.
    fn initialise(&self, variable: &Variable<'_>, functions: &HashMap<&str, usize>) -> Result<(), LoadError> {
        let Some(address) = self.address(variable.name) else { return Ok(()) };
        let size = size_of(variable);
        let zeroed = self.memory.fill(address, &[0], size);
        let mut image = Vec::new();
        if let Some(init) = &variable.init {
            image = vec![0; size as usize];
            self.value(init, variable, functions, 0, 0, &mut image)
                .map_err(|message| LoadError { line: variable.line, message })?;
        }
        zeroed
            .and_then(|()| self.memory.write(address, &image))
            .map_err(|error| LoadError { line: variable.line, message: error.to_string() })
    }

    fn value(
        &self,
        init: &Initial<'_>,
        variable: &Variable<'_>,
        functions: &HashMap<&str, usize>,
        at: u64,
        depth: usize,
        image: &mut [u8],
    ) -> Result<(), String> {
        let bits = match init {
            Initial::List(items) => {
                let element = u64::from(variable.ty.bytes());
                let stride = variable.strides.get(depth).copied().unwrap_or(element);
                for (k, item) in items.iter().enumerate() {
                    self.value(item, variable, functions, at + k as u64 * stride, depth + 1, image)?;
                }
                return Ok(());
            }
            Initial::Int(value) => *value as u64,
            Initial::Float(value) => match variable.ty {
                Type::F(64) => value.to_bits(),
                _ => u64::from((*value as f32).to_bits()),
            },
            Initial::Symbol { name, offset, shift, .. } => {
                let base = match (self.address(name), functions.get(name)) {
                    (Some(address), _) => address,
                    (None, Some(&index)) => window::function(index),
                    _ => return Err(format!("initialiser names unknown symbol '{name}'")),
                };
                base.wrapping_add(*offset as u64) >> shift
            }
        };
        let width = variable.ty.bytes() as usize;
        let target = image.get_mut(at as usize..at as usize + width);
        let target = target.ok_or_else(|| format!("'{}' has too many initialisers", variable.name))?;
        target.copy_from_slice(&bits.to_le_bytes()[..width.min(8)]);
        Ok(())
    }
}
