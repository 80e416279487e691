//! PTX text: lexer, parser, syntax tree.
