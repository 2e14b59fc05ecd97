//! Text of others inside our messages: quoted as Go's `%q` does it, and bounded.

use std::fmt::Write as _;

/// Bytes of foreign text that one quotation shows. More: cut, and marked with `...`.
pub(crate) const QUOTED_BYTES_MAX: usize = 256;

/// `text` in double quotes, escaped so that one line stays one line whatever a target sends; at most
/// [`QUOTED_BYTES_MAX`] bytes of it.
pub(crate) fn quoted(text: &[u8]) -> String {
    quoted_up_to(text, QUOTED_BYTES_MAX)
}

/// As [`quoted`], with a bound of one's own.
pub(crate) fn quoted_up_to(text: &[u8], bytes_max: usize) -> String {
    let shown = &text[..text.len().min(bytes_max)];
    let mut out = String::with_capacity(shown.len() + 2);
    out.push('"');
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_escaped(&mut out, c);
        }
        for byte in chunk.invalid() {
            push_hex(&mut out, *byte);
        }
    }
    out.push('"');
    if shown.len() < text.len() {
        out.push_str("...");
    }
    out
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        '\0'..='\x1f' | '\x7f' => push_hex(out, c as u8),
        ' '..='~' => out.push(c),
        _ if c.is_control() || c.is_whitespace() || ('\u{202a}'..='\u{202e}').contains(&c) => {
            let _ = write!(out, "\\u{:04x}", c as u32);
        }
        _ => out.push(c),
    }
}

fn push_hex(out: &mut String, byte: u8) {
    let _ = write!(out, "\\x{byte:02x}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_and_broken_utf8_are_escaped() {
        assert_eq!(quoted(b"\x15\x03\x01\0\n\"\\"), r#""\x15\x03\x01\x00\n\"\\""#);
        assert_eq!(quoted(b"a\xffb"), r#""a\xffb""#);
        assert_eq!(quoted("h\u{e9}\u{202e}".as_bytes()), "\"h\u{e9}\\u202e\"");
    }

    #[test]
    fn long_text_is_cut() {
        let text = quoted(&[b'x'; QUOTED_BYTES_MAX + 1]);
        assert_eq!(text.len(), QUOTED_BYTES_MAX + 5);
        assert!(text.ends_with("\"..."));
    }
}
