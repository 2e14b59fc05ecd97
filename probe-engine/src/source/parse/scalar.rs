//! What a plain YAML scalar is: by the rules of YAML 1.1 as `sigs.k8s.io/yaml` (go-yaml 2) has them, so that a
//! manifest means here what it means to kubectl: `yes` and `on` are booleans, `0777` is octal.

use std::borrow::Cow;

use granit_parser::Tag;

use super::tree::Value;

/// The value of a plain scalar without a tag.
pub(super) fn resolve(text: Cow<'_, str>) -> Value<'_> {
    // Only these first bytes can begin anything but a string; most scalars end here.
    match text.as_bytes().first() {
        None => return Value::Null,
        Some(b'~' | b'n' | b'N' | b'y' | b'Y' | b't' | b'T' | b'f' | b'F' | b'o' | b'O') => {
            if let Some(value) = word(&text) {
                return value;
            }
        }
        Some(b'0'..=b'9' | b'+' | b'-' | b'.') => {
            if let Some(value) = number(&text) {
                return value;
            }
        }
        Some(_) => {}
    }
    Value::String(text)
}

/// The value of a scalar with a tag; `Err` says what is wrong with it.
pub(super) fn tagged<'t>(tag: &Tag, text: Cow<'t, str>) -> Result<Value<'t>, String> {
    let Some(name) = tag.core_suffix() else {
        // The non-specific tag `!` makes a string of anything.
        return match tag.original().as_str() {
            "!" => Ok(Value::String(text)),
            other => Err(format!("tag {other} is not supported")),
        };
    };
    if name == "str" {
        return Ok(Value::String(text));
    }
    let value = resolve(text.clone());
    let fits = match name {
        "int" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_) | Value::Int(_)),
        "bool" => matches!(value, Value::Bool(_)),
        "null" => matches!(value, Value::Null),
        _ => return Err(format!("tag !!{name} is not supported")),
    };
    if fits { Ok(value) } else { Err(format!("{text:?} is not a !!{name}")) }
}

fn word(text: &str) -> Option<Value<'static>> {
    Some(match text {
        "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => return None,
    })
}

fn number(text: &str) -> Option<Value<'static>> {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Some(Value::Float(f64::INFINITY));
        }
        "-.inf" | "-.Inf" | "-.INF" => return Some(Value::Float(f64::NEG_INFINITY)),
        ".nan" | ".NaN" | ".NAN" => return Some(Value::Float(f64::NAN)),
        _ => {}
    }
    let digits: Cow<'_, str> = if text.contains('_') { Cow::Owned(text.replace('_', "")) } else { Cow::Borrowed(text) };
    whole(&digits).map(Value::Int).or_else(|| fraction(&digits).map(Value::Float))
}

/// A whole number as Go's `strconv.ParseInt(text, 0, 64)` reads it.
fn whole(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match lower.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some(two) if two.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    // `from_str_radix` would take a second sign.
    if !digits.bytes().next()?.is_ascii_alphanumeric() {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn fraction(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let mantissa_is_valid = match mantissa.split_once('.') {
        Some((whole, part)) => all_digits(whole) && all_digits(part) && !(whole.is_empty() && part.is_empty()),
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    let exponent_is_valid = exponent.is_none_or(|e| {
        let digits = e.strip_prefix(['-', '+']).unwrap_or(e);
        !digits.is_empty() && all_digits(digits)
    });
    if mantissa_is_valid && exponent_is_valid { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Value<'_> {
        resolve(Cow::Borrowed(text))
    }

    #[test]
    fn words_mean_what_they_mean_to_kubectl() {
        assert_eq!(plain("yes"), Value::Bool(true));
        assert_eq!(plain("off"), Value::Bool(false));
        assert_eq!(plain("~"), Value::Null);
        assert_eq!(plain(""), Value::Null);
        assert_eq!(plain("nginx"), Value::String("nginx".into()));
        assert_eq!(plain("yEs"), Value::String("yEs".into()));
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        assert_eq!(plain("8080"), Value::Int(8080));
        assert_eq!(plain("-1"), Value::Int(-1));
        assert_eq!(plain("0777"), Value::Int(511));
        assert_eq!(plain("0o777"), Value::Int(511));
        assert_eq!(plain("0x1F"), Value::Int(31));
        assert_eq!(plain("1_000"), Value::Int(1000));
        assert_eq!(plain("1.5"), Value::Float(1.5));
        assert_eq!(plain("1e3"), Value::Float(1000.0));
        assert_eq!(plain("089"), Value::Float(89.0));
        assert_eq!(plain("+-1"), Value::String("+-1".into()));
        assert_eq!(plain("1.2.3"), Value::String("1.2.3".into()));
        assert_eq!(plain("-"), Value::String("-".into()));
        assert_eq!(plain("0é"), Value::String("0é".into()));
        assert_eq!(plain("10.0.0.1"), Value::String("10.0.0.1".into()));
    }
}
