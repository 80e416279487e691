//! Splits PTX text into tokens with their lines.

use super::SyntaxError;

/// A token.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Token<'a> {
    /// Name, `%` and `$` included.
    Word(&'a str),
    /// Directive or modifier, without its dot; `::` parts included (`shared::cta`).
    Dot(&'a str),
    /// Integer literal.
    Int(u64),
    /// `0f` literal.
    F32(u32),
    /// `0d` or decimal literal.
    F64(f64),
    /// String, without quotes.
    Text(&'a str),
    /// Any other character.
    Punct(char),
    /// End of the text.
    End,
}

/// A token and where it is.
pub(super) type Spanned<'a> = (Token<'a>, u32);

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%')
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

pub(super) fn tokens(text: &str) -> Result<Vec<Spanned<'_>>, SyntaxError> {
    let mut lexer = Lexer { text, at: 0, line: 1 };
    let mut all = Vec::with_capacity(text.len() / 4);
    loop {
        lexer.skip_blanks()?;
        let line = lexer.line;
        let token = lexer.next()?;
        all.push((token, line));
        if token == Token::End {
            return Ok(all);
        }
    }
}

impl<'a> Lexer<'a> {
    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error(&self, message: String) -> SyntaxError {
        SyntaxError { line: self.line, message }
    }

    fn skip_blanks(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.byte(0) {
                b'\n' => {
                    self.line += 1;
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'/' if self.byte(1) == b'/' => self.skip_line(),
                b'#' => self.skip_line(),
                b'/' if self.byte(1) == b'*' => {
                    let rest = &self.text[self.at..];
                    let end = rest.find("*/").ok_or_else(|| self.error("unterminated comment".into()))?;
                    self.line += rest[..end].matches('\n').count() as u32;
                    self.at += end + 2;
                }
                _ => return Ok(()),
            }
        }
    }

    fn skip_line(&mut self) {
        self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at);
    }

    fn next(&mut self) -> Result<Token<'a>, SyntaxError> {
        match self.byte(0) {
            0 if self.at >= self.text.len() => Ok(Token::End),
            b'"' => self.string(),
            b'.' if is_word(self.byte(1)) => {
                self.at += 1;
                Ok(Token::Dot(self.modifier()))
            }
            b'0'..=b'9' => self.number(),
            c if is_word(c) => Ok(Token::Word(self.word())),
            _ => {
                let c = self.text[self.at..].chars().next().unwrap_or('\0');
                self.at += c.len_utf8();
                Ok(Token::Punct(c))
            }
        }
    }

    fn word(&mut self) -> &'a str {
        let start = self.at;
        while is_word(self.byte(0)) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn modifier(&mut self) -> &'a str {
        let start = self.at;
        self.word();
        while self.byte(0) == b':' && self.byte(1) == b':' && is_word(self.byte(2)) {
            self.at += 2;
            self.word();
        }
        &self.text[start..self.at]
    }

    fn string(&mut self) -> Result<Token<'a>, SyntaxError> {
        let start = self.at + 1;
        let mut end = start;
        let bytes = self.text.as_bytes();
        while end < bytes.len() && bytes[end] != b'"' && bytes[end] != b'\n' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        if bytes.get(end) != Some(&b'"') {
            return Err(self.error("unterminated string".into()));
        }
        self.at = end + 1;
        Ok(Token::Text(&self.text[start..end]))
    }

    fn number(&mut self) -> Result<Token<'a>, SyntaxError> {
        let start = self.at;
        let word = self.word();
        if self.byte(0) == b'.' && self.byte(1).is_ascii_digit() && word.bytes().all(|c| c.is_ascii_digit()) {
            return self.decimal(start);
        }
        if word.bytes().all(|c| c.is_ascii_digit() || c == b'e' || c == b'E') && word.contains(['e', 'E']) {
            return self.decimal(start);
        }
        let wrong = || SyntaxError { line: self.line, message: format!("malformed number '{word}'") };
        let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).map_err(|_| wrong());
        match word.get(..2) {
            Some("0f" | "0F") if word.len() == 10 => Ok(Token::F32(radix(&word[2..], 16)? as u32)),
            Some("0d" | "0D") if word.len() == 18 => Ok(Token::F64(f64::from_bits(radix(&word[2..], 16)?))),
            _ => {
                let digits = word.trim_end_matches(['u', 'U']);
                Ok(Token::Int(match digits.get(..2) {
                    Some("0x" | "0X") => radix(&digits[2..], 16)?,
                    Some("0b" | "0B") => radix(&digits[2..], 2)?,
                    Some(_) if digits.starts_with('0') => radix(&digits[1..], 8)?,
                    _ => radix(digits, 10)?,
                }))
            }
        }
    }

    fn decimal(&mut self, start: usize) -> Result<Token<'a>, SyntaxError> {
        while is_word(self.byte(0)) || self.byte(0) == b'.' {
            self.at += 1;
        }
        if matches!(self.byte(0), b'+' | b'-') && matches!(self.text.as_bytes()[self.at - 1], b'e' | b'E') {
            self.at += 1;
            self.word();
        }
        let text = &self.text[start..self.at];
        text.parse().map(Token::F64).map_err(|_| self.error(format!("malformed number '{text}'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Token<'_>> {
        tokens(text).unwrap().into_iter().map(|(t, _)| t).collect()
    }

    #[test]
    fn instructions_and_literals() {
        use Token::*;
        assert_eq!(
            all("ld.global.L2::128B.f32 %f1, [%rd1+-4]; // c"),
            [
                Word("ld"),
                Dot("global"),
                Dot("L2::128B"),
                Dot("f32"),
                Word("%f1"),
                Punct(','),
                Punct('['),
                Word("%rd1"),
                Punct('+'),
                Punct('-'),
                Int(4),
                Punct(']'),
                Punct(';'),
                End
            ]
        );
        assert_eq!(
            all("0f3F800000 0d3FF0000000000000 0x1F 017 12U 0 1.5 2e3"),
            [F32(0x3f80_0000), F64(1.0), Int(31), Int(15), Int(12), Int(0), F64(1.5), F64(2000.0), End]
        );
    }

    #[test]
    fn lines_are_counted_through_comments() {
        let spans = tokens("a\n/* x\n y */ b // z\n\"q\\\"r\"").unwrap();
        let lines: Vec<u32> = spans.iter().map(|s| s.1).collect();
        assert_eq!(lines, [1, 3, 4, 4]);
        assert_eq!(spans[2].0, Token::Text("q\\\"r"));
        assert_eq!(tokens("a\n /* b").unwrap_err().line, 2);
        assert!(tokens("\"abc").is_err());
        assert!(tokens("0xzz").is_err());
    }
}
