//! Metrics as protobuf: what Prometheus asks for where it scrapes native histograms. Delimited messages, one family each.
//!
//! The messages are those of client_model's `metrics.proto` (package `io.prometheus.client`), as far as we use them: the field
//! numbers are its. A histogram has its classic buckets and, where they are known, native ones of schema 3, 9 % wide.

use prost::Message;

use super::families::Spec;
use super::text::{Buckets, FINE_SCHEMA, Kind, Labels};

/// What has been written, and the family that is being written.
#[derive(Debug, Default)]
pub(super) struct Messages {
    written: Vec<u8>,
    family: MetricFamily,
}

impl Messages {
    /// Begins a family; one without series leaves nothing behind.
    pub(super) fn begin(&mut self, spec: &'static Spec) {
        self.end();
        self.family = MetricFamily {
            name: spec.name().to_owned(),
            help: spec.help().to_owned(),
            r#type: metric_type(spec.kind()).into(),
            metric: Vec::new(),
        };
    }

    /// One series of a counter or a gauge.
    pub(super) fn value(&mut self, labels: &Labels, value: f64) {
        let (mut counter, mut gauge) = (None, None);
        match self.family.r#type() {
            MetricType::Counter => counter = Some(Number { value }),
            MetricType::Gauge | MetricType::Histogram => gauge = Some(Number { value }),
        }
        self.family.metric.push(Metric { label: pairs(labels), counter, gauge, histogram: None });
    }

    /// One series of a histogram.
    pub(super) fn histogram(&mut self, labels: &Labels, buckets: &Buckets) {
        let histogram = Some(histogram(buckets));
        self.family.metric.push(Metric { label: pairs(labels), histogram, ..Metric::default() });
    }

    fn end(&mut self) {
        if !self.family.metric.is_empty() {
            self.family.encode_length_delimited(&mut self.written).expect("a Vec has room");
        }
    }

    /// All of it.
    #[must_use]
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end();
        self.written
    }
}

fn metric_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    }
}

fn pairs(labels: &Labels) -> Vec<LabelPair> {
    labels.pairs().into_iter().map(|(name, value)| LabelPair { name, value }).collect()
}

fn histogram(buckets: &Buckets) -> Histogram {
    let mut cumulative_count = 0;
    let classic = buckets.bounds.iter().zip(&buckets.counts).map(|(upper_bound, count)| {
        cumulative_count += count;
        Bucket { cumulative_count, upper_bound: *upper_bound }
    });
    let mut histogram = Histogram {
        bucket: classic.collect(),
        sample_count: buckets.count(),
        sample_sum: buckets.sum,
        ..Histogram::default()
    };
    if let Some(fine) = &buckets.fine {
        histogram.schema = Some(FINE_SCHEMA);
        histogram.zero_threshold = Some(0.0);
        histogram.zero_count = Some(0);
        let (mut next, mut before) = (0, 0_i64);
        for (place, count) in fine {
            match histogram.positive_span.last_mut().filter(|_| *place == next) {
                Some(span) => span.length += 1,
                None => histogram.positive_span.push(BucketSpan { offset: place - next, length: 1 }),
            }
            next = place + 1;
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            histogram.positive_delta.push(count - before);
            before = count;
        }
        if fine.is_empty() {
            // Without a span a scraper takes it for a classic one; client_golang does the same.
            histogram.positive_span.push(BucketSpan { offset: 0, length: 0 });
        }
    }
    histogram
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

/// `Counter` and `Gauge`, which are alike as far as we use them.
#[derive(Clone, Copy, PartialEq, Message)]
struct Number {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, tag = "1")]
    cumulative_count: u64,
    #[prost(double, tag = "2")]
    upper_bound: f64,
}

/// Buckets that follow each other, so far behind the end of those before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
struct BucketSpan {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(double, tag = "2")]
    sample_sum: f64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    /// Each count minus the one before.
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    #[prost(enumeration = "MetricType", tag = "3")]
    r#type: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[cfg(test)]
mod tests {
    use super::super::text::{Format, Text};
    use super::*;

    fn families(mut bytes: &[u8]) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        while !bytes.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut bytes).expect("a message"));
        }
        families
    }

    #[test]
    fn a_family_with_series_is_one_message_and_one_without_is_none() {
        const A: Spec = Spec::in_test("a_total", Kind::Counter, "help");
        const B: Spec = Spec::in_test("b", Kind::Gauge, "help");
        let mut text = Text::new(Format::Protobuf);
        text.family(&A).value(&Labels::of(&[("l", "a\"b\\c\nd")]), 7);
        text.family(&B);
        text.family(&B).seconds(&Labels::none(), 1_500_000_000);
        let families = families(&text.finish());
        let of = |family: &MetricFamily| (family.name.clone(), family.r#type(), family.metric.len());
        assert_eq!(
            families.iter().map(of).collect::<Vec<_>>(),
            [("a_total".to_owned(), MetricType::Counter, 1), ("b".to_owned(), MetricType::Gauge, 1)]
        );
        assert_eq!(families[0].metric[0].label, [LabelPair { name: "l".to_owned(), value: "a\"b\\c\nd".to_owned() }]);
        assert_eq!(families[0].metric[0].counter, Some(Number { value: 7.0 }));
        assert_eq!(families[1].metric[0].gauge, Some(Number { value: 1.5 }));
    }

    #[test]
    fn native_buckets_are_spans_of_places_and_differences_of_counts() {
        let mut buckets = Buckets::fine(&[0.5, 2.0]);
        // Places -8, -7 and 0.
        [(0.5, 3), (0.51, 1), (1.0, 5)].into_iter().for_each(|(value, count)| buckets.observe(value, count));
        let of = histogram(&buckets);
        let spans: Vec<_> = of.positive_span.iter().map(|span| (span.offset, span.length)).collect();
        assert_eq!((spans, of.positive_delta), (vec![(-8, 2), (6, 1)], vec![3, -2, 4]));
        let classic: Vec<_> = of.bucket.iter().map(|bucket| (bucket.upper_bound, bucket.cumulative_count)).collect();
        assert_eq!((classic, of.sample_count, of.schema), (vec![(0.5, 3), (2.0, 9)], 9, Some(3)));
        assert_eq!(histogram(&Buckets::new(&[1.0])).schema, None);
    }

    #[test]
    fn an_empty_native_histogram_has_a_span_that_says_what_it_is() {
        let of = histogram(&Buckets::fine(&[1.0]));
        assert_eq!((of.positive_span, of.positive_delta), (vec![BucketSpan { offset: 0, length: 0 }], vec![]));
        assert!(histogram(&Buckets::new(&[1.0])).positive_span.is_empty());
    }
}
