//! Recursive-descent parser of module scope: directives, variables, signatures.

use super::SyntaxError;
use super::ast::*;
use super::body;
use super::lexer::{Spanned, Token, tokens};
use std::collections::HashMap;

/// Nesting of initialiser lists and scopes beyond which a text is refused.
pub(super) const MAX_DEPTH: u32 = 64;

/// Size of a variable beyond which a text is refused.
const MAX_BYTES: u64 = 1 << 31;
/// The same for parameters, local and shared memory.
const MAX_LOCAL_BYTES: u64 = 512 << 10;

/// Parses the text of a module.
///
/// # Errors
/// The first place where the text is not PTX.
pub fn parse(text: &str) -> Result<Module<'_>, SyntaxError> {
    let mut parser =
        Parser { tokens: tokens(text)?, at: 0, module: Module::default(), index: HashMap::new() };
    parser.module.locations.push((0, 0));
    parser.module()?;
    Ok(parser.module)
}

pub(super) type Result_<T> = Result<T, SyntaxError>;

pub(super) struct Parser<'a> {
    tokens: Vec<Spanned<'a>>,
    at: usize,
    pub(super) module: Module<'a>,
    index: HashMap<&'a str, usize>,
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Token<'a> {
        self.tokens[self.at].0
    }

    pub(super) fn peek_at(&self, ahead: usize) -> Token<'a> {
        self.tokens.get(self.at + ahead).map_or(Token::End, |t| t.0)
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens[self.at].1
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    pub(super) fn error<T>(&self, message: impl Into<String>) -> Result_<T> {
        Err(SyntaxError { line: self.line(), message: message.into() })
    }

    pub(super) fn expected<T>(&self, what: &str) -> Result_<T> {
        let found = match self.peek() {
            Token::Word(w) => format!("'{w}'"),
            Token::Dot(d) => format!("'.{d}'"),
            Token::Int(i) => format!("{i}"),
            Token::F32(bits) => format!("{}", f32::from_bits(bits)),
            Token::F64(x) => format!("{x}"),
            Token::Text(_) => "a string".to_string(),
            Token::Punct(c) => format!("'{c}'"),
            Token::End => "the end of the text".to_string(),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    pub(super) fn accept(&mut self, c: char) -> bool {
        let found = self.peek() == Token::Punct(c);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, c: char) -> Result_<()> {
        if self.accept(c) { Ok(()) } else { self.expected(&format!("'{c}'")) }
    }

    pub(super) fn word(&mut self) -> Result_<&'a str> {
        let Token::Word(word) = self.peek() else { return self.expected("a name") };
        self.at += 1;
        Ok(word)
    }

    pub(super) fn int(&mut self) -> Result_<i64> {
        let negative = self.accept('-');
        let Token::Int(value) = self.peek() else { return self.expected("an integer") };
        self.at += 1;
        Ok(if negative { (value as i64).wrapping_neg() } else { value as i64 })
    }

    fn small(&mut self) -> Result_<u32> {
        let value = self.int()?;
        u32::try_from(value).or_else(|_| self.error(format!("{value} is out of range")))
    }

    fn module(&mut self) -> Result_<()> {
        loop {
            match self.peek() {
                Token::End => return Ok(()),
                Token::Punct(';') => self.at += 1,
                Token::Dot(directive) => self.directive(directive)?,
                _ => return self.expected("a directive"),
            }
        }
    }

    fn directive(&mut self, directive: &'a str) -> Result_<()> {
        match directive {
            "version" => {
                self.at += 1;
                self.module.version = self.version()?;
            }
            "target" => {
                self.at += 1;
                self.module.target = self.word()?;
                while self.accept(',') {
                    self.word()?;
                }
            }
            "address_size" => {
                self.at += 1;
                if self.peek() != Token::Int(64) {
                    return self.error("only .address_size 64 is supported");
                }
                self.at += 1;
            }
            "file" => self.file()?,
            "loc" => {
                self.location()?;
            }
            "section" => self.skip_section()?,
            "pragma" | "alias" => self.skip_to_semicolon()?,
            _ => self.declaration()?,
        }
        Ok(())
    }

    fn version(&mut self) -> Result_<(u32, u32)> {
        // "8.8" is lexed as a decimal number.
        let Token::F64(value) = self.peek() else { return self.expected("a version such as 8.0") };
        self.at += 1;
        let tenths = (value * 10.0).round() as u32;
        Ok((tenths / 10, tenths % 10))
    }

    fn file(&mut self) -> Result_<()> {
        self.at += 1;
        let index = self.small()?;
        let Token::Text(name) = self.next() else { return self.expected("a file name") };
        self.module.files.insert(index, name);
        while self.accept(',') {
            self.int()?;
        }
        Ok(())
    }

    /// `.loc file line column [, function_name label [+ n], inlined_at file line column]`; the innermost line
    /// counts.
    pub(super) fn location(&mut self) -> Result_<u32> {
        self.at += 1;
        let (file, line) = (self.small()?, self.small()?);
        self.int()?;
        while self.accept(',') {
            match self.word()? {
                "function_name" => {
                    self.word()?;
                    self.symbol_offset()?;
                }
                "inlined_at" => {
                    for _ in 0..3 {
                        self.int()?;
                    }
                }
                other => return self.error(format!("unknown attribute '{other}' of .loc")),
            }
        }
        // Line 0 is code that belongs to no line: the one before it stays in force.
        if line != 0 {
            self.module.locations.push((file, line));
        }
        Ok(self.module.locations.len() as u32 - 1)
    }

    fn skip_section(&mut self) -> Result_<()> {
        while self.peek() != Token::Punct('{') {
            if self.next() == Token::End {
                return self.expected("'{'");
            }
        }
        self.at += 1;
        loop {
            match self.next() {
                Token::Punct('}') => return Ok(()),
                Token::End => return self.expected("'}'"),
                _ => {}
            }
        }
    }

    pub(super) fn skip_to_semicolon(&mut self) -> Result_<()> {
        loop {
            match self.next() {
                Token::Punct(';') => return Ok(()),
                Token::End => return self.expected("';'"),
                _ => {}
            }
        }
    }

    fn declaration(&mut self) -> Result_<()> {
        let mut external = false;
        loop {
            match self.peek() {
                Token::Dot("extern") => {
                    external = true;
                    self.at += 1;
                }
                Token::Dot("visible" | "weak" | "common" | "hidden") => self.at += 1,
                Token::Dot("entry") => return self.function(true),
                Token::Dot("func") => return self.function(false),
                Token::Dot(name) if space(name).is_some() => {
                    let variables = self.variables(external)?;
                    self.module.variables.extend(variables);
                    return Ok(());
                }
                _ => return self.expected("a variable or function"),
            }
        }
    }

    /// `.space .align n .type name[dims] = init, name2 ... ;`
    pub(super) fn variables(&mut self, external: bool) -> Result_<Vec<Variable<'a>>> {
        let mut variables = Vec::new();
        let head = self.variable_head(external)?;
        loop {
            let mut variable = head.clone();
            self.variable_name(&mut variable)?;
            if self.accept('=') {
                variable.init = Some(self.initial(0)?);
            }
            variables.push(variable);
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(variables)
    }

    fn variable_head(&mut self, external: bool) -> Result_<Variable<'a>> {
        let line = self.line();
        let (mut place, mut ty, mut align, mut vector) = (None, None, None, 1);
        loop {
            match self.peek() {
                Token::Dot("align") => {
                    self.at += 1;
                    let value = self.small()?;
                    if !value.is_power_of_two() || value > 4096 {
                        return self.error(format!("alignment {value} is not a power of two in range"));
                    }
                    align = Some(value);
                    continue;
                }
                Token::Dot("v2") => vector = 2,
                Token::Dot("v4") => vector = 4,
                // `.param .u64 .ptr .global .align 8 name`
                Token::Dot("ptr" | "managed") => {}
                Token::Dot("attribute") => {
                    self.at += 1;
                    self.skip_parentheses()?;
                    continue;
                }
                Token::Dot(name) if space(name).is_some() => place = place.or(space(name)),
                Token::Dot(name) if Type::parse(name).is_some() => ty = Type::parse(name),
                Token::Dot("texref" | "samplerref" | "surfref") => ty = Some(Type::B(64)),
                Token::Dot(_) => return self.expected("a type"),
                _ => break,
            }
            self.at += 1;
        }
        let (Some(space), Some(ty)) = (place, ty) else { return self.expected("a space and a type") };
        let size = u64::from(ty.bytes()) * vector;
        let align = align.unwrap_or(size as u32);
        Ok(Variable {
            name: "",
            space,
            ty,
            align,
            size: Some(size),
            strides: vec![],
            init: None,
            external,
            line,
        })
    }

    fn skip_parentheses(&mut self) -> Result_<()> {
        self.expect('(')?;
        loop {
            match self.next() {
                Token::Punct(')') => return Ok(()),
                Token::End => return self.expected("')'"),
                _ => {}
            }
        }
    }

    fn variable_name(&mut self, variable: &mut Variable<'a>) -> Result_<()> {
        if let Token::Word(name) = self.peek() {
            variable.name = name;
            self.at += 1;
        }
        let mut dims = Vec::new();
        while self.accept('[') {
            if self.accept(']') {
                dims.push(None);
                continue;
            }
            dims.push(Some(u64::from(self.small()?)));
            self.expect(']')?;
        }
        let element = variable.size;
        for dim in dims.iter().rev() {
            variable.strides.insert(0, variable.size.unwrap_or(0));
            let product = variable.size.zip(*dim).map(|(size, dim)| size.checked_mul(dim));
            variable.size = match product {
                Some(Some(size)) if size < MAX_BYTES => Some(size),
                Some(_) => return self.error("array is too large"),
                None => None,
            };
        }
        if dims.is_empty() {
            variable.strides = element.into_iter().collect();
        }
        let small = matches!(variable.space, Space::Local | Space::Param | Space::Shared);
        if small && variable.size.is_some_and(|size| size > MAX_LOCAL_BYTES) {
            return self.error(format!("'{}' is too large for its space", variable.name));
        }
        Ok(())
    }

    fn initial(&mut self, depth: u32) -> Result_<Initial<'a>> {
        if depth > MAX_DEPTH {
            return self.error("initialiser is nested too deeply");
        }
        if self.accept('{') {
            let mut items = Vec::new();
            while !self.accept('}') {
                items.push(self.initial(depth + 1)?);
                if !self.accept(',') && self.peek() != Token::Punct('}') {
                    return self.expected("',' or '}'");
                }
            }
            return Ok(Initial::List(items));
        }
        let negative = self.accept('-');
        let sign = if negative { -1 } else { 1 };
        match self.peek() {
            Token::Int(value) => {
                self.at += 1;
                // `0xFF(symbol)`: one byte of an address.
                if self.accept('(') {
                    let mut inner = self.initial(depth + 1)?;
                    self.expect(')')?;
                    if let Initial::Symbol { shift, .. } = &mut inner {
                        *shift = value.trailing_zeros() & 63;
                    }
                    return Ok(inner);
                }
                Ok(Initial::Int(i128::from(value) * sign))
            }
            Token::F32(bits) => {
                self.at += 1;
                Ok(Initial::Int(i128::from(bits)))
            }
            Token::F64(value) => {
                self.at += 1;
                Ok(Initial::Float(value * sign as f64))
            }
            Token::Word("generic") if self.peek_at(1) == Token::Punct('(') => {
                self.at += 2;
                let mut inner = self.initial(depth + 1)?;
                self.expect(')')?;
                if let Initial::Symbol { generic, .. } = &mut inner {
                    *generic = true;
                }
                let offset = self.symbol_offset()?;
                if let Initial::Symbol { offset: o, .. } = &mut inner {
                    *o += offset;
                }
                Ok(inner)
            }
            Token::Word(name) => {
                self.at += 1;
                let offset = self.symbol_offset()?;
                Ok(Initial::Symbol { name, offset, generic: false, shift: 0 })
            }
            _ => self.expected("an initialiser"),
        }
    }

    pub(super) fn symbol_offset(&mut self) -> Result_<i64> {
        if self.accept('+') {
            return self.int();
        }
        if self.peek() == Token::Punct('-') {
            return self.int();
        }
        Ok(0)
    }

    fn parameters(&mut self) -> Result_<Vec<Variable<'a>>> {
        let mut params = Vec::new();
        if !self.accept('(') {
            return Ok(params);
        }
        while !self.accept(')') {
            if let Token::Dot("reg") = self.peek() {
                return self.error("parameters in registers are not supported");
            }
            let mut param = self.variable_head(false)?;
            self.variable_name(&mut param)?;
            params.push(param);
            if !self.accept(',') && self.peek() != Token::Punct(')') {
                return self.expected("',' or ')'");
            }
        }
        Ok(params)
    }

    /// `_ (params) _ ;` of `.callprototype`.
    pub(super) fn prototype(&mut self) -> Result_<Prototype<'a>> {
        let returns = self.parameters()?;
        self.word()?;
        let params = self.parameters()?;
        Ok(Prototype { returns, params })
    }

    fn function(&mut self, entry: bool) -> Result_<()> {
        let line = self.line();
        self.at += 1;
        if let Token::Dot("attribute") = self.peek() {
            self.at += 1;
            self.skip_parentheses()?;
        }
        let returns = if entry { Vec::new() } else { self.parameters()? };
        let name = self.word()?;
        let params = self.parameters()?;
        let signature = Prototype { returns, params };
        let mut function =
            Function { name, entry, signature, max_threads: None, required_threads: None, body: None, line };
        self.function_directives(&mut function)?;
        if !self.accept(';') {
            function.body = Some(body::parse(self, &function)?);
        }
        self.add_function(function)
    }

    fn function_directives(&mut self, function: &mut Function<'a>) -> Result_<()> {
        while let Token::Dot(directive) = self.peek() {
            self.at += 1;
            match directive {
                "maxntid" => function.max_threads = Some(self.triple()?),
                "reqntid" => function.required_threads = Some(self.triple()?),
                "minnctapersm" | "maxnctapersm" | "maxnreg" | "abi_preserve" | "abi_preserve_control" => {
                    self.int()?;
                }
                "reqnctapercluster" | "maxclusterrank" => {
                    self.triple()?;
                }
                "pragma" => self.skip_to_semicolon()?,
                "noreturn" | "explicitcluster" | "blocksareclusters" | "unique" => {}
                other => return self.error(format!("unknown function directive '.{other}'")),
            }
        }
        Ok(())
    }

    fn triple(&mut self) -> Result_<[u32; 3]> {
        let mut triple = [1; 3];
        for (i, value) in triple.iter_mut().enumerate() {
            if i > 0 && !self.accept(',') {
                break;
            }
            *value = self.small()?;
        }
        Ok(triple)
    }

    fn add_function(&mut self, function: Function<'a>) -> Result_<()> {
        let Some(&at) = self.index.get(function.name) else {
            self.index.insert(function.name, self.module.functions.len());
            self.module.functions.push(function);
            return Ok(());
        };
        let known = &mut self.module.functions[at];
        if function.body.is_some() {
            if known.body.is_some() {
                let message = format!("function '{}' is defined twice", function.name);
                return Err(SyntaxError { line: function.line, message });
            }
            *known = function;
        }
        Ok(())
    }
}

pub(super) fn space(name: &str) -> Option<Space> {
    Some(match name {
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        _ => return None,
    })
}
