//! Texts from targets and manifests, made safe to show: no control character reaches the terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// For one line: every control character, and every character that moves or hides others, is written as an escape.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// For several lines: as [`line()`], with line ends and tabs kept.
#[must_use]
pub fn block(text: &str) -> Cow<'_, str> {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

/// For JSON that is already written: such characters stand only within its strings there, where `\u` is an escape.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| is_unsafe(c) && c != '\n') {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let shows_as_it_is = |c: char| !is_unsafe(c) || keep(c);
    if text.chars().all(shows_as_it_is) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if shows_as_it_is(c) {
            safe.push(c);
            continue;
        }
        let _ = match c {
            '\n' => write!(safe, "\\n"),
            '\r' => write!(safe, "\\r"),
            '\t' => write!(safe, "\\t"),
            '\0'..='\x7f' => write!(safe, "\\x{:02x}", u32::from(c)),
            _ => write!(safe, "\\u{{{:x}}}", u32::from(c)),
        };
    }
    Cow::Owned(safe)
}

/// C0, DEL and C1; line and paragraph separators; bidirectional and invisible format characters.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_escapes() {
        assert_eq!(line("HTTP probe failed with statuscode: 500"), "HTTP probe failed with statuscode: 500");
        assert_eq!(line("a\x1b[31mred\r\n\t\x07\x7f"), "a\\x1b[31mred\\r\\n\\t\\x07\\x7f");
        assert_eq!(line("c1 \u{9b}2J, bidi \u{202e}x"), "c1 \\u{9b}2J, bidi \\u{202e}x");
        assert_eq!(block("a\n\tb\x1b"), "a\n\tb\\x1b");
        assert_eq!(line("grün ✓ 日本"), "grün ✓ 日本");
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({"message": "\u{9b}2J\u{7f} \u{202e}\u{e0001} \u{1b} ok\n"});
        let written = serde_json::to_string_pretty(&value).expect("json");
        let safe = json(&written);
        assert!(!safe.chars().any(|c| is_unsafe(c) && c != '\n'), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).expect("json"), value);
    }
}
