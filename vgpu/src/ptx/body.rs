//! Parser of function bodies: scopes, registers, labels, instructions and their operands.

use super::ast::*;
use super::lexer::Token;
use super::parser::{MAX_DEPTH, Parser, Result_, space};
use std::collections::HashMap;

/// Registers of one function beyond which a text is refused.
const MAX_REGISTERS: usize = 1 << 16;

/// Whether a word after a register selects bytes or halves of it (`b3`, `h10`, `b7654`).
fn is_part(word: &str) -> bool {
    let digits = word.strip_prefix(['b', 'h']).unwrap_or("");
    !digits.is_empty() && digits.len() <= 4 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'))
}

#[derive(Default)]
struct Scope<'a> {
    parent: usize,
    registers: HashMap<&'a str, RegId>,
    /// `%r<100>`: prefix, first id, count.
    ranges: Vec<(&'a str, RegId, u32)>,
    labels: HashMap<&'a str, LabelId>,
    symbols: HashMap<&'a str, &'a str>,
}

struct BodyParser<'a, 'p> {
    parser: &'p mut Parser<'a>,
    body: Body<'a>,
    scopes: Vec<Scope<'a>>,
    current: usize,
    /// Names used as labels or symbols, with the scope they are used in, to be resolved at the end.
    references: Vec<(usize, &'a str)>,
    tables: Vec<(usize, &'a str, Vec<&'a str>)>,
    loc: u32,
}

/// Parses `{ ... }` of a function.
pub(super) fn parse<'a>(parser: &mut Parser<'a>, _function: &Function<'a>) -> Result_<Body<'a>> {
    let scopes = vec![Scope::default()];
    let mut body = BodyParser {
        parser,
        body: Body::default(),
        scopes,
        current: 0,
        references: Vec::new(),
        tables: Vec::new(),
        loc: 0,
    };
    body.parser.expect('{')?;
    body.block(0)?;
    body.resolve()?;
    Ok(body.body)
}

impl<'a> BodyParser<'a, '_> {
    fn block(&mut self, depth: u32) -> Result_<()> {
        if depth > MAX_DEPTH {
            return self.parser.error("scopes are nested too deeply");
        }
        loop {
            match self.parser.peek() {
                Token::Punct('}') => {
                    self.parser.next();
                    return Ok(());
                }
                Token::Punct('{') => {
                    self.parser.next();
                    let outer = self.current;
                    self.current = self.scopes.len();
                    self.scopes.push(Scope { parent: outer, ..Scope::default() });
                    self.block(depth + 1)?;
                    self.current = outer;
                }
                Token::Punct(';') => {
                    self.parser.next();
                }
                Token::Dot(directive) => self.directive(directive)?,
                Token::Word(name) if self.parser.peek_at(1) == Token::Punct(':') => self.label(name)?,
                Token::Word(_) | Token::Punct('@') => self.instruction()?,
                _ => return self.parser.expected("an instruction"),
            }
        }
    }

    fn directive(&mut self, directive: &'a str) -> Result_<()> {
        match directive {
            "reg" => self.registers(),
            "loc" => {
                self.loc = self.parser.location()?;
                Ok(())
            }
            "pragma" => self.parser.skip_to_semicolon(),
            "extern" => {
                self.parser.next();
                self.variables(true)
            }
            _ if space(directive).is_some() => self.variables(false),
            _ => self.parser.expected("an instruction"),
        }
    }

    fn variables(&mut self, external: bool) -> Result_<()> {
        for variable in self.parser.variables(external)? {
            self.scopes[self.current].symbols.insert(variable.name, variable.name);
            self.body.variables.push(variable);
        }
        Ok(())
    }

    fn registers(&mut self) -> Result_<()> {
        self.parser.next();
        let mut ty = None;
        while let Token::Dot(name) = self.parser.peek() {
            match Type::parse(name) {
                Some(parsed) => ty = Some(parsed),
                None => return self.parser.expected("a register type"),
            }
            self.parser.next();
        }
        let Some(ty) = ty else { return self.parser.expected("a register type") };
        loop {
            let name = self.parser.word()?;
            let first = self.body.registers.len() as RegId;
            let scope = &mut self.scopes[self.current];
            let mut count = 1;
            if self.parser.accept('<') {
                count = self.parser.int()?;
                self.parser.expect('>')?;
                scope.ranges.push((name, first, count as u32));
            } else {
                scope.registers.insert(name, first);
            }
            if count < 0 || self.body.registers.len() + count as usize > MAX_REGISTERS {
                return self.parser.error("too many registers");
            }
            self.body.registers.extend(std::iter::repeat_n(ty, count as usize));
            if !self.parser.accept(',') {
                break;
            }
        }
        self.parser.expect(';')
    }

    fn label(&mut self, name: &'a str) -> Result_<()> {
        self.parser.next();
        self.parser.next();
        match self.parser.peek() {
            Token::Dot("branchtargets") => {
                self.parser.next();
                let mut targets = Vec::new();
                while targets.is_empty() || self.parser.accept(',') {
                    targets.push(self.parser.word()?);
                }
                self.define_label(name)?;
                self.tables.push((self.current, name, targets));
                self.parser.expect(';')
            }
            Token::Dot("callprototype") => {
                self.parser.next();
                let prototype = self.parser.prototype()?;
                self.body.prototypes.insert(name, prototype);
                // `.noreturn`, `.abi_preserve n`
                self.parser.skip_to_semicolon()
            }
            Token::Dot("calltargets") => self.parser.skip_to_semicolon(),
            _ => self.define_label(name).map(drop),
        }
    }

    fn define_label(&mut self, name: &'a str) -> Result_<LabelId> {
        let id = self.body.labels.len() as LabelId;
        self.body.labels.push(self.body.instructions.len());
        if self.scopes[self.current].labels.insert(name, id).is_some() {
            return self.parser.error(format!("label '{name}' is defined twice"));
        }
        Ok(id)
    }

    fn instruction(&mut self) -> Result_<()> {
        let line = self.parser.line();
        let mut guard = None;
        if self.parser.accept('@') {
            let negated = self.parser.accept('!');
            let name = self.parser.word()?;
            let Some(register) = self.register(name) else {
                return self.parser.error(format!("unknown predicate '{name}'"));
            };
            guard = Some((register, negated));
        }
        let line = if guard.is_some() { self.parser.line() } else { line };
        let name = self.parser.word()?;
        let mut mods = Vec::new();
        while let Token::Dot(modifier) = self.parser.peek() {
            mods.push(modifier);
            self.parser.next();
        }
        let mut operands = Vec::new();
        if !self.parser.accept(';') {
            loop {
                operands.push(self.operand(0)?);
                if self.parser.accept(';') {
                    break;
                }
                self.parser.expect(',')?;
            }
        }
        self.body.instructions.push(Instruction { guard, name, mods, operands, line, loc: self.loc });
        Ok(())
    }

    fn register(&self, name: &str) -> Option<RegId> {
        let mut at = self.current;
        loop {
            let scope = &self.scopes[at];
            if let Some(&id) = scope.registers.get(name) {
                return Some(id);
            }
            for &(prefix, first, count) in &scope.ranges {
                let index = name.strip_prefix(prefix).filter(|n| !n.starts_with('0') || *n == "0");
                if let Some(index) = index.and_then(|n| n.parse::<u32>().ok()).filter(|&i| i < count) {
                    return Some(first + index);
                }
            }
            if at == 0 {
                return None;
            }
            at = scope.parent;
        }
    }

    fn operand(&mut self, depth: u32) -> Result_<Operand<'a>> {
        if depth > 4 {
            return self.parser.error("operands are nested too deeply");
        }
        let operand = match self.parser.peek() {
            Token::Punct('{') => Operand::Vector(self.list('}', depth)?),
            Token::Punct('(') => Operand::List(self.list(')', depth)?),
            Token::Punct('[') => self.address()?,
            Token::Punct('!') => {
                self.parser.next();
                let name = self.parser.word()?;
                match self.register(name) {
                    Some(register) => Operand::Not(register),
                    None => return self.parser.error(format!("unknown predicate '{name}'")),
                }
            }
            Token::Punct('-') => self.negative()?,
            Token::Word(name) => self.named(name)?,
            Token::Int(value) => {
                self.parser.next();
                Operand::Int(value as i64)
            }
            Token::F32(bits) => {
                self.parser.next();
                Operand::F32(bits)
            }
            Token::F64(value) => {
                self.parser.next();
                Operand::F64(value)
            }
            _ => return self.parser.expected("an operand"),
        };
        if self.parser.accept('|') {
            let second = self.operand(depth + 1)?;
            return Ok(Operand::Pair(Box::new(operand), Box::new(second)));
        }
        Ok(operand)
    }

    fn negative(&mut self) -> Result_<Operand<'a>> {
        self.parser.next();
        let operand = match self.parser.peek() {
            Token::Int(value) => Operand::Int((value as i64).wrapping_neg()),
            Token::F32(bits) => Operand::F32(bits ^ 0x8000_0000),
            Token::F64(value) => Operand::F64(-value),
            Token::Word(name) if self.register(name).is_some() => {
                return Ok(Operand::Minus(Box::new(self.named(name)?)));
            }
            _ => return self.parser.expected("a number"),
        };
        self.parser.next();
        Ok(operand)
    }

    fn list(&mut self, close: char, depth: u32) -> Result_<Vec<Operand<'a>>> {
        self.parser.next();
        let mut items = Vec::new();
        while !self.parser.accept(close) {
            items.push(self.operand(depth + 1)?);
            if !self.parser.accept(',') && self.parser.peek() != Token::Punct(close) {
                return self.parser.expected(&format!("',' or '{close}'"));
            }
        }
        Ok(items)
    }

    fn named(&mut self, name: &'a str) -> Result_<Operand<'a>> {
        self.parser.next();
        if name == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(register) = self.register(name) {
            return match self.parser.peek() {
                Token::Dot(part) if is_part(part) => {
                    self.parser.next();
                    Ok(Operand::Part(Box::new(Operand::Reg(register)), part))
                }
                _ => Ok(Operand::Reg(register)),
            };
        }
        if name.starts_with('%') {
            let component = match self.parser.peek() {
                Token::Dot(component @ ("x" | "y" | "z" | "w")) => {
                    self.parser.next();
                    component
                }
                _ => "",
            };
            return Ok(Operand::Special(name, component));
        }
        if name == "WARP_SZ" {
            return Ok(Operand::Int(32));
        }
        let offset = self.parser.symbol_offset()?;
        self.references.push((self.current, name));
        Ok(Operand::Symbol(name, offset))
    }

    fn address(&mut self) -> Result_<Operand<'a>> {
        self.parser.next();
        let base = match self.parser.peek() {
            Token::Word(name) => {
                self.parser.next();
                match self.register(name) {
                    Some(register) => Base::Reg(register),
                    None if name.starts_with('%') => {
                        return self.parser.error(format!("unknown register '{name}'"));
                    }
                    None => Base::Symbol(name),
                }
            }
            _ => Base::Absolute,
        };
        let offset = match base {
            Base::Absolute => self.parser.int()?,
            _ => self.parser.symbol_offset()?,
        };
        if self.parser.peek() == Token::Punct(',') {
            return self.texture();
        }
        self.parser.expect(']')?;
        Ok(Operand::Address(base, offset))
    }

    /// The rest of `[base, coordinates]`.
    fn texture(&mut self) -> Result_<Operand<'a>> {
        while self.parser.accept(',') {
            self.operand(1)?;
        }
        self.parser.expect(']')?;
        Ok(Operand::Texture)
    }

    /// Replaces symbols that name labels, now that all labels are known.
    fn resolve(&mut self) -> Result_<()> {
        for (scope, name, targets) in std::mem::take(&mut self.tables) {
            let mut ids = Vec::new();
            for target in targets {
                match self.find_label(scope, target) {
                    Some(id) => ids.push(id),
                    None => return self.parser.error(format!("unknown label '{target}'")),
                }
            }
            if let Some(id) = self.find_label(scope, name) {
                self.body.branch_tables.insert(id, ids);
            }
        }
        let mut references = std::mem::take(&mut self.references).into_iter();
        let mut instructions = std::mem::take(&mut self.body.instructions);
        for instruction in &mut instructions {
            for operand in &mut instruction.operands {
                self.resolve_operand(operand, &mut references);
            }
        }
        self.body.instructions = instructions;
        Ok(())
    }

    fn resolve_operand(
        &self,
        operand: &mut Operand<'a>,
        references: &mut dyn Iterator<Item = (usize, &'a str)>,
    ) {
        match operand {
            Operand::Symbol(name, _) => {
                let scope = references.next().map_or(0, |(scope, _)| scope);
                if let Some(id) = self.find_label(scope, name) {
                    *operand = Operand::Label(id);
                }
            }
            Operand::Pair(a, b) => {
                self.resolve_operand(a, references);
                self.resolve_operand(b, references);
            }
            Operand::Vector(items) | Operand::List(items) => {
                for item in items {
                    self.resolve_operand(item, references);
                }
            }
            _ => {}
        }
    }

    fn find_label(&self, mut scope: usize, name: &str) -> Option<LabelId> {
        loop {
            if let Some(&id) = self.scopes[scope].labels.get(name) {
                return Some(id);
            }
            if scope == 0 {
                return None;
            }
            scope = self.scopes[scope].parent;
        }
    }
}
