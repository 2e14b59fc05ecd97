//! Durations in the kubelet's words: as Go's `time.Duration` prints itself.

use std::fmt;
use std::time::Duration;

/// Prints `1s`, `1m0s`, `1.5s`, `300ms`, `0s`: largest unit first, no trailing zeros in the fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        if nanos < 1_000_000_000 {
            let (unit_ns, unit) = match nanos {
                0..1_000 => (1, "ns"),
                1_000..1_000_000 => (1_000, "µs"),
                _ => (1_000_000, "ms"),
            };
            decimal(f, nanos, unit_ns)?;
            return f.write_str(unit);
        }
        let minutes = self.0.as_secs() / 60;
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        decimal(f, nanos % 60_000_000_000, 1_000_000_000)?;
        f.write_str("s")
    }
}

/// `nanos` in units of `unit_ns` (a power of ten), without trailing zeros.
fn decimal(f: &mut fmt::Formatter<'_>, nanos: u128, unit_ns: u128) -> fmt::Result {
    write!(f, "{}", nanos / unit_ns)?;
    let mut rest = nanos % unit_ns;
    if rest == 0 {
        return Ok(());
    }
    f.write_str(".")?;
    let mut place = unit_ns / 10;
    while rest > 0 {
        write!(f, "{}", rest / place)?;
        rest %= place;
        place /= 10;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_go_prints_them() {
        let table = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (300_000_000, "300ms"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (1_000_000_001, "1.000000001s"),
            (59_000_000_000, "59s"),
            (60_000_000_000, "1m0s"),
            (61_050_000_000, "1m1.05s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_725_000_000_000, "1h2m5s"),
            (360_000_000_000_000, "100h0m0s"),
        ];
        for (nanos, text) in table {
            assert_eq!(GoDuration(Duration::from_nanos(nanos)).to_string(), text);
        }
    }
}
