//! `resource.Quantity`: `128Mi`, `1.5`, `100m`, `1e3`.

/// The quantity in whole units, rounded up; `None` = not a quantity. More than a u64 holds is cut to its maximum,
/// less than nothing to 0.
pub(super) fn whole(text: &str) -> Option<u64> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let scale = scale(suffix)?;
    if negative {
        return Some(0);
    }
    let mantissa: f64 = format!("0{whole}.{fraction}0").parse().ok()?;
    let exact = match whole.parse::<u64>() {
        // Whole numbers of binary or decimal units are exact; the rest is rounded up.
        Ok(n) if fraction.bytes().all(|b| b == b'0') && scale >= 1.0 => {
            let product = u128::from(n).saturating_mul(scale as u128);
            return Some(u64::try_from(product).unwrap_or(u64::MAX));
        }
        _ => mantissa * scale,
    };
    // `as` saturates, and NaN cannot come of finite factors.
    Some(exact.ceil() as u64)
}

fn scale(suffix: &str) -> Option<f64> {
    Some(match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            10f64.powi(i32::from(exponent.parse::<i8>().ok()?))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn quantities_are_read_in_all_three_notations() {
        assert_eq!(whole("128Mi"), Some(128 << 20));
        assert_eq!(whole("1.5Gi"), Some(3 << 29));
        assert_eq!(whole("1e3"), Some(1000));
        assert_eq!(whole("100m"), Some(1));
        assert_eq!(whole("64M"), Some(64_000_000));
        assert_eq!(whole(".5"), Some(1));
        assert_eq!(whole("-1"), Some(0));
        assert_eq!(whole("16E"), Some(16_000_000_000_000_000_000));
        assert_eq!(whole("1000E"), Some(u64::MAX));
    }

    #[test]
    fn other_texts_are_not_quantities() {
        for text in ["", "Mi", "1MiB", "1 Mi", "1.2.3", "e3", "1e999", "x"] {
            assert_eq!(whole(text), None, "{text}");
        }
    }
}
