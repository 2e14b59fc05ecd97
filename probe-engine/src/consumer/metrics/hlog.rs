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
