//! PTX text: lexer, syntax tree, parser.
//!
//! The parser knows the grammar, not the instruction set: any opcode with any modifiers passes, and it is the
//! decoder ([`crate::program`]) that says which kernels hold instructions the virtual GPU does not execute.

pub mod ast;
mod body;
mod lexer;
mod parser;

pub use parser::parse;

/// A syntax error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyntaxError {
    /// Line in the text, from 1.
    pub line: u32,
    /// What was found and what was expected.
    pub message: String,
}
