//! Syntax tree of a PTX module. Names and opcodes borrow from the text.

use std::collections::HashMap;

/// Fundamental types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// Untyped bits of so many bits.
    B(u8),
    /// Unsigned integer.
    U(u8),
    /// Signed integer.
    S(u8),
    /// IEEE floating point of 16, 32, 64 bits.
    F(u8),
    /// bfloat16.
    Bf16,
    /// Two f16 in 32 bits.
    F16x2,
    /// Two bf16 in 32 bits.
    Bf16x2,
    /// Predicate.
    Pred,
}

impl Type {
    /// Parses `b32`, `f16x2`, ... without the leading dot.
    pub fn parse(name: &str) -> Option<Type> {
        Some(match name {
            "pred" => Type::Pred,
            "f16x2" => Type::F16x2,
            "bf16x2" => Type::Bf16x2,
            "bf16" => Type::Bf16,
            "b8" => Type::B(8),
            "b16" => Type::B(16),
            "b32" => Type::B(32),
            "b64" => Type::B(64),
            "b128" => Type::B(128),
            "u8" => Type::U(8),
            "u16" => Type::U(16),
            "u32" => Type::U(32),
            "u64" => Type::U(64),
            "s8" => Type::S(8),
            "s16" => Type::S(16),
            "s32" => Type::S(32),
            "s64" => Type::S(64),
            "f16" => Type::F(16),
            "f32" => Type::F(32),
            "f64" => Type::F(64),
            _ => return None,
        })
    }

    /// Width in bits (1 for a predicate).
    pub const fn bits(self) -> u32 {
        match self {
            Type::B(n) | Type::U(n) | Type::S(n) | Type::F(n) => n as u32,
            Type::Bf16 => 16,
            Type::F16x2 | Type::Bf16x2 => 32,
            Type::Pred => 1,
        }
    }

    /// Width in bytes.
    pub const fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// Whether it is a signed integer.
    pub const fn is_signed(self) -> bool {
        matches!(self, Type::S(_))
    }

    /// Whether it is a scalar floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, Type::F(_) | Type::Bf16)
    }
}

/// State spaces of variables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// `.global`
    Global,
    /// `.const`
    Const,
    /// `.shared`
    Shared,
    /// `.local`
    Local,
    /// `.param`
    Param,
}

/// Initial value of one element.
#[derive(Clone, PartialEq, Debug)]
pub enum Initial<'a> {
    /// Integer or bits.
    Int(i128),
    /// Floating point from a decimal literal.
    Float(f64),
    /// Address of a symbol plus an offset; `generic(sym)` gives its generic address.
    Symbol {
        /// Name.
        name: &'a str,
        /// Byte offset.
        offset: i64,
        /// Whether it is wrapped in `generic()`.
        generic: bool,
        /// `mask(symbol)`: which byte of the address is meant, as its shift.
        shift: u32,
    },
    /// A nested list.
    List(Vec<Initial<'a>>),
}

/// A variable in some space, or a parameter.
#[derive(Clone, PartialEq, Debug)]
pub struct Variable<'a> {
    /// Name (empty for unnamed parameters).
    pub name: &'a str,
    /// Space.
    pub space: Space,
    /// Element type.
    pub ty: Type,
    /// Alignment in bytes.
    pub align: u32,
    /// Size in bytes; `None` for `[]`.
    pub size: Option<u64>,
    /// Size of the innermost rows for initialisers of several dimensions; the outermost dimension is not in
    /// it.
    pub strides: Vec<u64>,
    /// Initialiser.
    pub init: Option<Initial<'a>>,
    /// `.extern`.
    pub external: bool,
    /// Line of the declaration.
    pub line: u32,
}

/// A register of a function, by declaration.
pub type RegId = u32;

/// A label of a function.
pub type LabelId = u32;

/// What an address is based on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Base<'a> {
    /// A register.
    Reg(RegId),
    /// A symbol.
    Symbol(&'a str),
    /// A constant.
    Absolute,
}

/// Instruction operands.
#[derive(Clone, PartialEq, Debug)]
pub enum Operand<'a> {
    /// Register.
    Reg(RegId),
    /// Negated predicate `!p`.
    Not(RegId),
    /// Part of a register, as video instructions take it (`%r1.b0`, `%r1.h10`): the selector without its dot.
    Part(Box<Operand<'a>>, &'a str),
    /// `-r`, as `vmad` takes it.
    Minus(Box<Operand<'a>>),
    /// Two destinations `a|b`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// Integer or raw bits.
    Int(i64),
    /// f32 literal, as bits (`0f...`).
    F32(u32),
    /// f64 literal (`0d...` or decimal).
    F64(f64),
    /// Symbol (variable or function), with offset.
    Symbol(&'a str, i64),
    /// Special register, with the component for vectors (`%tid.x`).
    Special(&'a str, &'a str),
    /// Label, resolved.
    Label(LabelId),
    /// `[base + offset]`.
    Address(Base<'a>, i64),
    /// `[base, coordinates]` of textures, surfaces and tensors, which nothing executes.
    Texture,
    /// `{a, b, ...}`.
    Vector(Vec<Operand<'a>>),
    /// `(a, b, ...)` of calls.
    List(Vec<Operand<'a>>),
    /// `_`.
    Sink,
}

/// One instruction.
#[derive(Clone, PartialEq, Debug)]
pub struct Instruction<'a> {
    /// Guard predicate and whether it is negated.
    pub guard: Option<(RegId, bool)>,
    /// Base opcode, as `ld`.
    pub name: &'a str,
    /// Modifiers, without dots, as `global`, `v4`, `f32`.
    pub mods: Vec<&'a str>,
    /// Operands.
    pub operands: Vec<Operand<'a>>,
    /// Line in the text.
    pub line: u32,
    /// Index into [`Module::locations`], 0 for none.
    pub loc: u32,
}

impl Instruction<'_> {
    /// Whether a modifier is present.
    pub fn has(&self, modifier: &str) -> bool {
        self.mods.contains(&modifier)
    }

    /// The opcode as written, without operands.
    pub fn opcode(&self) -> String {
        self.mods.iter().fold(self.name.to_string(), |text, m| text + "." + m)
    }
}

/// Body of a function.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Body<'a> {
    /// Type of each register.
    pub registers: Vec<Type>,
    /// Variables declared in the body, in any scope, by unique index; `Operand::Symbol` names are those of
    /// `symbols`.
    pub variables: Vec<Variable<'a>>,
    /// Instructions in order.
    pub instructions: Vec<Instruction<'a>>,
    /// Index of the instruction that each label stands before.
    pub labels: Vec<usize>,
    /// `.branchtargets` tables, by label.
    pub branch_tables: HashMap<LabelId, Vec<LabelId>>,
    /// `.calltargets` and `.callprototype`, by the label before them.
    pub prototypes: HashMap<&'a str, Prototype<'a>>,
}

/// Signature of an indirect call.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Prototype<'a> {
    /// Return parameters.
    pub returns: Vec<Variable<'a>>,
    /// Parameters.
    pub params: Vec<Variable<'a>>,
}

/// A function or kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct Function<'a> {
    /// Name.
    pub name: &'a str,
    /// `.entry`.
    pub entry: bool,
    /// Parameters and return parameters.
    pub signature: Prototype<'a>,
    /// `.maxntid`.
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// Body; `None` for a declaration.
    pub body: Option<Body<'a>>,
    /// Line of the directive.
    pub line: u32,
}

/// A module.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Module<'a> {
    /// `.version`.
    pub version: (u32, u32),
    /// `.target`, with the `sm_` prefix.
    pub target: &'a str,
    /// Module-scope variables.
    pub variables: Vec<Variable<'a>>,
    /// Functions.
    pub functions: Vec<Function<'a>>,
    /// Files of `.file`.
    pub files: HashMap<u32, &'a str>,
    /// (file, line) of `.loc`; entry 0 is unused.
    pub locations: Vec<(u32, u32)>,
}
