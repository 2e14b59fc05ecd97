//! Histograms in the log format of HdrHistogram, version 1.2: what HistogramLogProcessor, HistogramLogAnalyzer and the readers of
//! other languages take. One line each, with a tag that says what it is of; values are microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use jiff::Timestamp;

use crate::results::latency::{LONGEST_US, Recorded, Series, Window};

/// The log of one interval: a window that began at `begin` and has lasted for `length`.
pub(super) fn write(all: &[(Series, Recorded)], window: Window, begin: Timestamp, length: Duration) -> Vec<u8> {
    let (mut log, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("[Histogram log format version 1.2]");
    builder.add_comment(&format!("[probe-engine: microseconds, window {}, from {begin}]", window.as_str()));
    let start = Duration::try_from(begin.as_duration()).unwrap_or_default();
    let mut writer = builder.begin_log_with(&mut log, &mut serializer).expect(NEVER);
    for (series, recorded) in all {
        let tag = tag(*series);
        let tag = Tag::new(&tag).expect("labels have neither spaces nor commas");
        writer.write_histogram(&histogram(recorded), start, length, Some(tag)).expect(NEVER);
    }
    log
}

const NEVER: &str = "writing to memory cannot fail";

/// `latency/tcp/success`, `lateness/tcp`, `phase/http/connect`, `handshake/tcp`, `turn`
fn tag(series: Series) -> String {
    match series {
        Series::Latency(handler, outcome) => format!("latency/{}/{}", handler.as_str(), outcome.as_str()),
        Series::Lateness(handler) => format!("lateness/{}", handler.as_str()),
        Series::Phase(handler, phase) => format!("phase/{}/{}", handler.as_str(), phase.as_str()),
        Series::Handshake(handler) => format!("handshake/{}", handler.as_str()),
        Series::Turn => "turn".to_owned(),
    }
}

fn histogram(recorded: &Recorded) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, LONGEST_US, 2).expect("1 us to one hour with 2 digits are valid");
    recorded.pairs().for_each(|(value_us, count)| histogram.saturating_record_n(value_us, count));
    histogram
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::shard::metrics::{HandlerKind, OutcomeKind};

    fn recorded() -> Recorded {
        let mut recorded = Recorded::default();
        [(150, 9_900), (2_000, 90), (1_000_000, 10)].into_iter().for_each(|(us, count)| recorded.record(us, count));
        recorded
    }

    fn log() -> Vec<u8> {
        let all = [(Series::Latency(HandlerKind::Http, OutcomeKind::Success), recorded()), (Series::Turn, recorded())];
        let begin = Timestamp::from_second(1_700_000_000).expect("a time");
        write(&all, Window::Minute, begin, Duration::from_secs(60))
    }

    #[test]
    fn a_log_is_read_back_as_what_was_recorded() {
        let log = log();
        let mut tags = Vec::new();
        for entry in IntervalLogIterator::new(&log) {
            let LogEntry::Interval(interval) = entry.expect("a line") else { continue };
            assert_eq!((interval.start_timestamp().as_secs(), interval.duration().as_secs()), (1_700_000_000, 60));
            let bytes = base64(interval.encoded_histogram());
            let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).expect("a histogram");
            let mut read = Recorded::default();
            read.add_histogram(&histogram);
            assert_eq!(read, recorded());
            tags.push(interval.tag().expect("a tag").as_str().to_owned());
        }
        assert_eq!(tags, ["latency/http/success", "turn"]);
    }

    fn base64(text: &str) -> Vec<u8> {
        let value = |digit: u8| match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u8> = text.bytes().filter(|digit| *digit != b'=').collect();
        let chunk = |chunk: &[u8]| {
            let bits = chunk.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(value(*digit)));
            let bits = bits << (6 * (4 - chunk.len()));
            bits.to_be_bytes()[1..chunk.len()].to_vec()
        };
        digits.chunks(4).flat_map(chunk).collect()
    }
}
