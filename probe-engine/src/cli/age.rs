//! Durations as kubectl shows them (apimachinery `util/duration`, `HumanDuration`).

use jiff::{SignedDuration, Timestamp};

/// How long ago `at` was: `<unknown>` where it was not said.
#[must_use]
pub fn since(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(|| "<unknown>".to_owned(), |at| human(now.duration_since(at)))
}

/// Two units at most, the second one only while it matters: `119s`, `2m`, `9m59s`, `179m`, `7h59m`, `47h`, `7d23h`, `2y3d`.
#[must_use]
pub fn human(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if duration.is_negative() {
        return "0s".to_owned();
    }
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, 'd', hours % 24, 'h'),
        () if days < 730 => format!("{days}d"),
        () if days < 2_920 => two(days / 365, 'y', days % 365, 'd'),
        () => format!("{}y", days / 365),
    }
}

/// A short span of an attempt: `512us`, `1.2ms`, `1.203s`.
#[must_use]
pub fn short(nanos: u64) -> String {
    match nanos {
        0..1_000_000 => format!("{}us", nanos / 1_000),
        1_000_000..1_000_000_000 => format!("{:.1}ms", nanos as f64 / 1e6),
        _ => format!("{:.3}s", nanos as f64 / 1e9),
    }
}

fn two(major: i64, major_unit: char, minor: i64, minor_unit: char) -> String {
    if minor == 0 {
        return format!("{major}{major_unit}");
    }
    format!("{major}{major_unit}{minor}{minor_unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_kubectl() {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        const DAY: i64 = 24 * HOUR;
        for (seconds, expected) in [
            (-2, "<invalid>"),
            (0, "0s"),
            (1, "1s"),
            (119, "119s"),
            (2 * MINUTE, "2m"),
            (2 * MINUTE + 1, "2m1s"),
            (10 * MINUTE - 1, "9m59s"),
            (10 * MINUTE, "10m"),
            (10 * MINUTE + 59, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 70, "3h1m"),
            (8 * HOUR - 1, "7h59m"),
            (8 * HOUR, "8h"),
            (2 * DAY - 1, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + 5 * HOUR, "2d5h"),
            (8 * DAY - 1, "7d23h"),
            (8 * DAY, "8d"),
            (2 * 365 * DAY - 1, "729d"),
            (2 * 365 * DAY, "2y"),
            (2 * 365 * DAY + 3 * DAY, "2y3d"),
            (8 * 365 * DAY, "8y"),
            (9 * 365 * DAY + 40 * DAY, "9y"),
        ] {
            assert_eq!(human(SignedDuration::from_secs(seconds)), expected, "{seconds} s");
        }
        assert_eq!(human(SignedDuration::from_millis(-900)), "0s");
        assert_eq!(since(None, Timestamp::UNIX_EPOCH), "<unknown>");
    }

    #[test]
    fn short_spans_have_a_fitting_unit() {
        assert_eq!(short(512_345), "512us");
        assert_eq!(short(1_234_567), "1.2ms");
        assert_eq!(short(1_203_000_000), "1.203s");
    }
}
