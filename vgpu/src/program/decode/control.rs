//! Branches, calls, barriers, fences.

use super::*;
use crate::ptx::ast::Operand;

impl<'m> Decoder<'_, 'm> {
    pub(super) fn control(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        match i.name {
            "bra" => {
                let Operand::Label(label) = self.operand(i, 0)? else {
                    return Err("the branch target is no label".into());
                };
                self.emit(Op::Branch { target: *label }, Class::Control);
            }
            "brx" => self.branch_table(i)?,
            "call" => return self.call(i),
            "ret" => self.emit(Op::Return, Class::Control),
            "exit" => self.emit(Op::Exit, Class::Control),
            "trap" => self.emit(Op::Trap { message: "trap executed" }, Class::Control),
            _ => self.emit(Op::Trap { message: "breakpoint executed without a debugger" }, Class::Control),
        }
        Ok(())
    }

    fn branch_table(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let index = self.src(i, 0, 32)?;
        let Operand::Label(table) = self.operand(i, 1)? else { return Err(unsupported(i)) };
        let targets = self.body.branch_tables.get(table).ok_or("the branch table is unknown")?.clone();
        self.emit(Op::BranchTable { index, targets }, Class::Control);
        Ok(())
    }

    /// `call (returns), target, (arguments), prototype`.
    fn call(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &["uni"])?;
        let mut operands = i.operands.iter().peekable();
        let returns: &[Operand<'_>] = match operands.peek() {
            Some(Operand::List(list)) => {
                operands.next();
                list
            }
            _ => &[],
        };
        let target = operands.next().ok_or("the call has no target")?;
        let arguments: &[Operand<'_>] = match operands.next() {
            Some(Operand::List(list)) => list,
            _ => &[],
        };
        let site = CallSite { args: self.slots(arguments)?, returns: self.slots(returns)? };
        let site = Box::new(site);
        let op = match target {
            Operand::Symbol(name, _) => match builtin(name) {
                Some(which) if !self.context.is_defined(name) => Op::CallBuiltin { which, site },
                _ => {
                    let function = self.context.callee(name)?;
                    Op::Call { function, site }
                }
            },
            Operand::Reg(register) => {
                let target = self.cell(*register)?;
                if target.bits != 64 {
                    return Err("an indirect call goes through a 64-bit register".into());
                }
                self.context.indirect = true;
                Op::CallIndirect { target: target.row, site }
            }
            _ => return Err(unsupported(i)),
        };
        self.emit(op, Class::Control);
        Ok(())
    }

    /// Places of the `.param` variables of a call sequence.
    fn slots(&self, operands: &[Operand<'_>]) -> Decode<Vec<(u32, u32)>> {
        let slot = |operand: &Operand<'_>| match operand {
            Operand::Symbol(name, _) => match (self.frame.get(name), self.declared_size(name)) {
                (Some(&at), Some(size)) => Ok((at, size)),
                _ => Err(format!("'{name}' is not a parameter")),
            },
            _ => Err("arguments of calls are .param variables".to_string()),
        };
        operands.iter().map(slot).collect()
    }

    /// Size of the last declaration of that name before this line: call sequences reuse names at several
    /// sizes.
    fn declared_size(&self, name: &str) -> Option<u32> {
        let mut before = self.body.variables.iter().filter(|v| v.name == name && v.line <= self.line);
        before
            .next_back()
            .and_then(|v| v.size)
            .map(|s| s as u32)
            .or_else(|| self.frame_sizes.get(name).copied())
    }

    /// `alloca`, `stacksave`, `stackrestore`.
    pub(super) fn stack(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &[])?;
        let bits = last_type(i)?.bits();
        let first = self.operand(i, 0)?;
        if i.name == "stackrestore" {
            let a = self.any_source(first, bits)?;
            self.emit(Op::StackRestore { a }, Class::Move);
            return Ok(());
        }
        let d = Cell { row: self.dest(first, bits)?, bits: if bits == 64 { 64 } else { 32 } };
        if i.name == "stacksave" {
            self.emit(Op::StackSave { d }, Class::Move);
            return Ok(());
        }
        let size = self.operand(i, 1)?;
        let size = self.any_source(size, bits)?;
        let align = match i.operands.get(2) {
            None => 8,
            Some(&Operand::Int(align)) if (1..=1 << 16).contains(&align) && align & (align - 1) == 0 => {
                align as u32
            }
            Some(_) => return Err("the alignment is not a power of two".into()),
        };
        self.emit(Op::Alloca { size, align, d }, Class::Move);
        Ok(())
    }

    pub(super) fn barrier(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        only(i, &["sync", "arrive", "red", "popc", "and", "or", "cta", "aligned", "warp", "cluster"])?;
        if i.has("cluster") {
            return Err(unsupported(i));
        }
        if i.has("warp") {
            let members = self.src(i, 0, 32)?;
            self.emit(Op::Collective(Box::new(Collective::Sync { members })), Class::Barrier);
            return Ok(());
        }
        let aligned = i.name == "bar" || i.has("aligned");
        let mut operands = i.operands.iter();
        let mut reduction = Reduction::None;
        if i.has("red") {
            let d = operands.next().ok_or("the reduction has no result")?;
            let last = i.operands.last().ok_or("the reduction has no source")?;
            let source = self.pred_source(last)?;
            reduction = if i.has("popc") {
                Reduction::Popc(self.dest(d, 32)?, source)
            } else {
                let p = self.pred_dest(d)?.ok_or("the reduction has no result")?;
                if i.has("and") { Reduction::And(p, source) } else { Reduction::Or(p, source) }
            };
        }
        let rest: Vec<&'m Operand<'m>> = operands.collect();
        let last = rest.len() - usize::from(i.has("red") && !rest.is_empty());
        let id = rest[..last].first().ok_or("the barrier has no number")?;
        let id = self.source(id, 32)?;
        let count = match rest[..last].get(1) {
            Some(count) => Some(self.source(count, 32)?),
            None => None,
        };
        let arrive = i.has("arrive");
        self.emit(Op::Barrier(Barrier { id, count, arrive, aligned, reduction }), Class::Barrier);
        Ok(())
    }

    pub(super) fn fence(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        let known =
            ["cta", "gl", "sys", "gpu", "cluster", "sc", "acq_rel", "proxy", "alias", "acquire", "release"];
        only(i, &known)?;
        let wide = !(i.has("cta") || i.has("cluster"));
        self.emit(Op::Fence { wide }, Class::Barrier);
        Ok(())
    }
}

fn builtin(name: &str) -> Option<Builtin> {
    Some(match name {
        "vprintf" => Builtin::Vprintf,
        "__assertfail" => Builtin::AssertFail,
        "malloc" => Builtin::Malloc,
        "free" => Builtin::Free,
        _ => return None,
    })
}
