//! Device `printf`: the format string over a packed argument buffer.

use super::finding::Step;
use std::io::Write;

/// Formats as C does. `argument(offset, bytes)` reads from the argument buffer, `text(address)` a string.
pub(crate) fn format(
    format: &[u8],
    argument: impl Fn(u64, u32) -> Step<u64>,
    text: impl Fn(u64) -> Step<Vec<u8>>,
) -> Step<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = 0;
    let mut offset = 0u64;
    while at < format.len() {
        if format[at] != b'%' {
            out.push(format[at]);
            at += 1;
            continue;
        }
        let mut spec = Spec::default();
        at = spec.parse(format, at + 1, |bytes| take(&mut offset, bytes, &argument))?;
        match spec.conversion {
            b'%' => out.push(b'%'),
            b's' => {
                let address = take(&mut offset, 8, &argument)?;
                let mut string = text(address)?;
                string.truncate(spec.precision.unwrap_or(usize::MAX));
                spec.pad(&mut out, "", &string);
            }
            b'c' => {
                let byte = take(&mut offset, 4, &argument)? as u8;
                spec.pad(&mut out, "", &[byte]);
            }
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                let value = f64::from_bits(take(&mut offset, 8, &argument)?);
                spec.float(&mut out, value);
            }
            b'd' | b'i' => {
                let bytes = if spec.long { 8 } else { 4 };
                let raw = take(&mut offset, bytes, &argument)?;
                let value = if spec.long { raw as i64 } else { i64::from(raw as i32) };
                spec.integer(&mut out, value < 0, value.unsigned_abs().to_string());
            }
            b'u' | b'x' | b'X' | b'o' | b'p' => {
                let bytes = if spec.long || spec.conversion == b'p' { 8 } else { 4 };
                let raw = take(&mut offset, bytes, &argument)?;
                let digits = match spec.conversion {
                    b'u' => raw.to_string(),
                    b'x' => format!("{raw:x}"),
                    b'X' => format!("{raw:X}"),
                    b'o' => format!("{raw:o}"),
                    _ => format!("0x{raw:x}"),
                };
                spec.integer(&mut out, false, digits);
            }
            _ => {}
        }
    }
    Ok(out)
}

/// The next argument, aligned to its size.
fn take(offset: &mut u64, bytes: u32, argument: &impl Fn(u64, u32) -> Step<u64>) -> Step<u64> {
    let at = offset.next_multiple_of(bytes.into());
    *offset = at + u64::from(bytes);
    argument(at, bytes)
}

#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    long: bool,
    conversion: u8,
}

impl Spec {
    fn parse(&mut self, format: &[u8], mut at: usize, mut star: impl FnMut(u32) -> Step<u64>) -> Step<usize> {
        // A width beyond this would only fill the output.
        const WIDEST: usize = 1024;
        let byte = |at: usize| format.get(at).copied().unwrap_or(0);
        loop {
            match byte(at) {
                b'-' => self.left = true,
                b'+' => self.plus = true,
                b' ' => self.space = true,
                b'0' => self.zero = true,
                b'#' => self.alternate = true,
                _ => break,
            }
            at += 1;
        }
        let mut number = |at: &mut usize| -> Step<usize> {
            if byte(*at) == b'*' {
                *at += 1;
                return Ok((star(4)? as usize).min(WIDEST));
            }
            let mut value = 0;
            while byte(*at).is_ascii_digit() {
                value = (value * 10 + usize::from(byte(*at) - b'0')).min(WIDEST);
                *at += 1;
            }
            Ok(value)
        };
        self.width = number(&mut at)?;
        if byte(at) == b'.' {
            at += 1;
            self.precision = Some(number(&mut at)?);
        }
        while matches!(byte(at), b'l' | b'h' | b'z' | b'j' | b't' | b'L') {
            self.long |= matches!(byte(at), b'l' | b'z' | b'j' | b't');
            at += 1;
        }
        self.conversion = byte(at);
        Ok((at + 1).min(format.len()))
    }

    fn pad(&self, out: &mut Vec<u8>, sign: &str, body: &[u8]) {
        let fill = self.width.saturating_sub(sign.len() + body.len());
        let zeros = self.zero && !self.left;
        if !self.left && !zeros {
            out.extend(std::iter::repeat_n(b' ', fill));
        }
        out.extend_from_slice(sign.as_bytes());
        if zeros {
            out.extend(std::iter::repeat_n(b'0', fill));
        }
        out.extend_from_slice(body);
        if self.left {
            out.extend(std::iter::repeat_n(b' ', fill));
        }
    }

    fn sign(&self, negative: bool) -> &'static str {
        match () {
            () if negative => "-",
            () if self.plus => "+",
            () if self.space => " ",
            () => "",
        }
    }

    fn integer(&self, out: &mut Vec<u8>, negative: bool, digits: String) {
        let missing = self.precision.unwrap_or(0).saturating_sub(digits.len());
        let prefix = if self.alternate && matches!(self.conversion, b'x' | b'X') { "0x" } else { "" };
        let body = format!("{prefix}{}{digits}", "0".repeat(missing));
        let sign = if matches!(self.conversion, b'd' | b'i') { self.sign(negative) } else { "" };
        self.pad(out, sign, body.as_bytes());
    }

    fn float(&self, out: &mut Vec<u8>, value: f64) {
        let precision = self.precision.unwrap_or(6);
        let magnitude = value.abs();
        let body = match self.conversion.to_ascii_lowercase() {
            _ if value.is_nan() => "nan".to_string(),
            _ if value.is_infinite() => "inf".to_string(),
            b'e' => exponent(magnitude, precision),
            b'g' => general(magnitude, precision.max(1), self.alternate),
            _ => format!("{magnitude:.precision$}"),
        };
        let body = if self.conversion.is_ascii_uppercase() { body.to_uppercase() } else { body };
        self.pad(out, self.sign(value.is_sign_negative() && !value.is_nan()), body.as_bytes());
    }
}

/// `%e`: at least two digits of exponent.
fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

/// `%g`: whichever of `%e` and `%f` the exponent calls for, without trailing zeros.
fn general(value: f64, precision: usize, keep_zeros: bool) -> String {
    let scientific = exponent(value, precision - 1);
    let power: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let trim = |text: &str| {
        if keep_zeros || !text.contains('.') {
            return text.to_string();
        }
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    if power < -4 || power >= precision as i32 {
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "+00"));
        return format!("{}e{exponent}", trim(mantissa));
    }
    let decimals = (precision as i32 - 1 - power).max(0) as usize;
    trim(&format!("{value:.decimals$}"))
}

/// Prints what a thread printed, in one piece.
pub(crate) fn write(text: &[u8]) {
    let mut out = std::io::stdout().lock();
    // A closed standard output is no reason to end a kernel.
    let _ = out.write_all(text).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str, words: &[u64]) -> String {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let argument = |at: u64, n: u32| {
            let mut word = [0; 8];
            word[..n as usize].copy_from_slice(&bytes[at as usize..(at + u64::from(n)) as usize]);
            Ok(u64::from_le_bytes(word))
        };
        let out = format(text.as_bytes(), argument, |_| Ok(b"text".to_vec()));
        String::from_utf8(out.expect("arguments are there")).unwrap()
    }

    #[test]
    fn conversions_follow_c() {
        let f = |x: f64| x.to_bits();
        assert_eq!(run("%d|%5u|%-4x|", &[7 << 32 | 0xffff_fffe, 255]), "-2|    7|ff  |");
        assert_eq!(run("%lld %s %c%%", &[u64::MAX, 0, 65]), "-1 text A%");
        assert_eq!(
            run("%f %.2f %e %g %g", &[f(1.5), f(-2.345), f(12345.678), f(0.0001), f(1e20)]),
            "1.500000 -2.35 1.234568e+04 0.0001 1e+20"
        );
        assert_eq!(run("%08.3f|%+d|%#x", &[f(-3.25), 5 | 255 << 32]), "-003.250|+5|0xff");
        assert_eq!(run("%*d|%.3d", &[4 | 9 << 32, 7]), "   9|007");
    }
}
