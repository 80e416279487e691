//! Decodes one function: operands to rows, opcodes to [`Op`]s.

mod atomic;
mod compare;
mod control;
mod convert;
mod float;
mod half;
mod integer;
mod matrix;
mod memory;
mod operand;
mod video;
mod warp;

use super::code::*;
use super::context::Context;
use crate::counters::Class;
use crate::exec::lanes::{Args, LaneOp, Row, TestOp};
use crate::ptx::ast::{Body, Function, Instruction, Type};
use std::collections::HashMap;

/// Why an instruction cannot be executed.
pub(super) type Decode<T> = Result<T, String>;

/// Where a register lives.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Row(Row, u8),
    Pred(Pred),
}

/// The state of decoding one function.
pub(super) struct Decoder<'c, 'm> {
    pub(super) context: &'c mut Context<'m>,
    function: &'m Function<'m>,
    body: &'m Body<'m>,
    places: Vec<Place>,
    rows: u32,
    preds: u32,
    constants: HashMap<(bool, u64), Row>,
    code: FunctionCode,
    /// Offsets of local and parameter variables in the frame.
    frame: HashMap<&'m str, u32>,
    frame_sizes: HashMap<&'m str, u32>,
    carry: Option<Pred>,
    out: Vec<Inst>,
    guard: Option<PredSource>,
    line: u32,
    loc: u32,
}

/// Decoded function: instructions with labels still as indices into `starts`.
pub(super) struct Decoded {
    pub(super) code: FunctionCode,
    pub(super) instructions: Vec<Inst>,
}

/// Decodes a function that has a body. The error is the line and what is not supported there.
pub(super) fn function<'m>(
    context: &mut Context<'m>,
    function: &'m Function<'m>,
    body: &'m Body<'m>,
) -> Result<Decoded, (u32, String)> {
    let mut decoder = Decoder {
        context,
        function,
        body,
        places: Vec::with_capacity(body.registers.len()),
        rows: 0,
        preds: 0,
        constants: HashMap::new(),
        code: FunctionCode::default(),
        frame: HashMap::new(),
        frame_sizes: HashMap::new(),
        carry: None,
        out: Vec::with_capacity(body.instructions.len() + 1),
        guard: None,
        line: function.line,
        loc: 0,
    };
    decoder.place_registers().map_err(|message| (function.line, message))?;
    decoder.place_frame().map_err(|message| (function.line, message))?;
    decoder.run()
}

impl<'m> Decoder<'_, 'm> {
    fn place_registers(&mut self) -> Decode<()> {
        for &ty in &self.body.registers {
            let place = match ty {
                Type::Pred => Place::Pred(self.new_pred()),
                Type::B(128) => Place::Row(self.new_rows(4), 128),
                _ if ty.bits() == 64 => Place::Row(self.new_rows(2), 64),
                _ => Place::Row(self.new_rows(1), ty.bits().max(16) as u8),
            };
            self.places.push(place);
        }
        Ok(())
    }

    fn new_rows(&mut self, count: u32) -> Row {
        self.rows += count;
        self.rows - count
    }

    fn new_pred(&mut self) -> Pred {
        self.preds += 1;
        self.preds - 1
    }

    /// Lays out local memory: parameters and results of the function, then its variables.
    fn place_frame(&mut self) -> Decode<()> {
        use crate::ptx::ast::Space;
        let mut at = 0u32;
        if !self.function.entry {
            let signature = &self.function.signature;
            for (variable, list) in
                signature.params.iter().map(|v| (v, 0)).chain(signature.returns.iter().map(|v| (v, 1)))
            {
                let size = variable.size.unwrap_or(0) as u32;
                at = at.next_multiple_of(variable.align.max(4));
                self.frame.insert(variable.name, at);
                self.frame_sizes.insert(variable.name, size);
                let slots = if list == 0 { &mut self.code.params } else { &mut self.code.returns };
                slots.push((at, size));
                at = grown(at, size)?;
            }
        }
        for variable in &self.body.variables {
            if !matches!(variable.space, Space::Local | Space::Param) {
                continue;
            }
            let size = variable.size.unwrap_or(0) as u32;
            // Scopes of call sequences declare the same names again and again: they share their place.
            if self.frame_sizes.get(variable.name).is_some_and(|&known| known >= size) {
                continue;
            }
            at = at.next_multiple_of(variable.align.max(8));
            self.frame.insert(variable.name, at);
            self.frame_sizes.insert(variable.name, size);
            at = grown(at, size)?;
        }
        self.code.local_bytes = at.next_multiple_of(16);
        Ok(())
    }

    fn run(mut self) -> Result<Decoded, (u32, String)> {
        let body = self.body;
        let mut starts = Vec::with_capacity(body.instructions.len() + 1);
        for instruction in &body.instructions {
            starts.push(self.out.len() as Pc);
            self.line = instruction.line;
            self.loc = instruction.loc;
            self.guard = None;
            let decoded = self.guarded(instruction);
            decoded.map_err(|message| (instruction.line, message))?;
        }
        starts.push(self.out.len() as Pc);
        self.guard = None;
        self.emit(Op::Return, Class::Control);
        self.patch(&starts);
        self.code.rows = self.rows;
        self.code.preds = self.preds;
        let constants = self.constants.iter().map(|(&(wide, bits), &row)| Constant { row, wide, bits });
        self.code.constants = constants.collect();
        Ok(Decoded { code: self.code, instructions: self.out })
    }

    fn guarded(&mut self, instruction: &'m Instruction<'m>) -> Decode<()> {
        if let Some((register, negated)) = instruction.guard {
            let Place::Pred(pred) = self.places[register as usize] else {
                return Err("the guard is not a predicate".into());
            };
            self.guard = Some(PredSource { pred, negated });
        }
        self.instruction(instruction)
    }

    /// Branch targets were emitted as label ids.
    fn patch(&mut self, starts: &[Pc]) {
        let pc = |label: Pc| starts[self.body.labels[label as usize]];
        for inst in &mut self.out {
            match &mut inst.op {
                Op::Branch { target } => *target = pc(*target),
                Op::BranchTable { targets, .. } => {
                    targets.iter_mut().for_each(|target| *target = pc(*target))
                }
                _ => {}
            }
        }
    }

    fn instruction(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        match i.name {
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "abs" | "neg" | "min" | "max"
            | "copysign" => self.arithmetic(i),
            "addc" | "subc" | "madc" => self.integer_carry(i),
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => self.unary_float(i),
            "sad" | "mul24" | "mad24" | "shl" | "shr" | "shf" | "bfe" | "bfi" | "bfind" | "popc" | "clz"
            | "brev" | "prmt" | "lop3" | "dp4a" | "dp2a" | "fns" | "szext" | "bmsk" => self.integer_other(i),
            "and" | "or" | "xor" | "not" | "cnot" => self.logic(i),
            name if name.starts_with('v') && name != "vote" => self.video(i),
            "setp" => self.setp(i),
            "set" => self.set(i),
            "selp" => self.selp(i),
            "slct" => self.slct(i),
            "testp" => self.testp(i),
            "mov" => self.mov(i),
            "cvt" => self.cvt(i),
            "cvta" => self.cvta(i),
            "ld" | "ldu" => self.load(i),
            "st" => self.store(i),
            "atom" | "red" => self.atomic(i),
            "cp" => self.copy_async(i),
            "ldmatrix" | "stmatrix" => self.tiles(i),
            "isspacep" => self.is_space(i),
            "prefetch" | "prefetchu" | "discard" | "applypriority" | "createpolicy" | "nanosleep"
            | "pmevent" | "setmaxnreg" | "griddepcontrol" => self.hint(i),
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" => self.control(i),
            "alloca" | "stacksave" | "stackrestore" => self.stack(i),
            "bar" | "barrier" => self.barrier(i),
            "membar" | "fence" => self.fence(i),
            "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => self.collective(i),
            "mma" | "wmma" | "movmatrix" => self.matrix(i),
            _ => Err(unsupported(i)),
        }
    }

    fn arithmetic(&mut self, i: &'m Instruction<'m>) -> Decode<()> {
        if i.has("u16x2") || i.has("s16x2") {
            return self.integer(i);
        }
        let ty = last_type(i)?;
        match ty {
            Type::F(32) | Type::F(64) => self.float(i, ty),
            Type::F(16) | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => self.half(i, ty),
            _ => self.integer(i),
        }
    }

    fn emit(&mut self, op: Op, class: Class) {
        self.emit_flops(op, class, 0);
    }

    fn emit_flops(&mut self, op: Op, class: Class, flops: u8) {
        let (guard, line, loc) = (self.guard, self.line, self.loc);
        self.out.push(Inst { op, guard, order: 0, line, loc, class, flops });
    }

    fn lanes(&mut self, run: LaneOp, d: Row, sources: &[Row], class: Class) {
        self.lanes_flops(run, d, sources, class, 0);
    }

    fn lanes_flops(&mut self, run: LaneOp, d: Row, sources: &[Row], class: Class, flops: u8) {
        self.emit_flops(Op::Lanes { run, args: args(d, sources) }, class, flops);
    }

    fn test(
        &mut self,
        run: TestOp,
        sources: &[Row],
        p: Option<Pred>,
        q: Option<Pred>,
        combine: Option<(Logic, PredSource)>,
    ) {
        self.emit(Op::Test { run, args: args(0, sources), p, q, combine }, Class::Compare);
    }
}

/// The end of a frame that holds so many bytes more.
fn grown(at: u32, size: u32) -> Decode<u32> {
    const LARGEST: u32 = 512 << 10;
    at.checked_add(size).filter(|&end| end <= LARGEST).ok_or_else(|| "too much local memory".to_string())
}

fn args(d: Row, sources: &[Row]) -> Args {
    let mut args = Args { d, s: [0; 4] };
    args.s[..sources.len()].copy_from_slice(sources);
    args
}

fn unsupported(i: &Instruction<'_>) -> String {
    format!("unsupported instruction '{}'", i.opcode())
}

/// The types among the modifiers, in order.
fn types(i: &Instruction<'_>) -> Vec<Type> {
    i.mods.iter().filter_map(|m| Type::parse(m)).collect()
}

fn last_type(i: &Instruction<'_>) -> Decode<Type> {
    types(i).last().copied().ok_or_else(|| unsupported(i))
}

/// Fails unless every modifier is a type or in the list: a modifier nobody reads would change nothing
/// silently.
fn only(i: &Instruction<'_>, known: &[&str]) -> Decode<()> {
    match i.mods.iter().find(|m| Type::parse(m).is_none() && !known.contains(m)) {
        None => Ok(()),
        Some(modifier) => Err(format!("unsupported modifier '.{modifier}' of '{}'", i.opcode())),
    }
}
