//! Metrics as OTLP: the messages of `opentelemetry.proto.metrics.v1`, for [`crate::consumer::otlp`].
//!
//! Names, labels and help are those of the text; a counter is a monotonic cumulative sum, a histogram has explicit bounds.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
};

use super::families::Spec;
use super::text::{Buckets, Kind, Labels};

/// What has been written.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// Since when counters count, in nanoseconds since 1970.
    since_ns: u64,
    /// When this is, on the same scale.
    at_ns: u64,
    metrics: Vec<Metric>,
}

impl Metrics {
    /// Nothing written.
    pub(super) fn new(since_ns: u64, at_ns: u64) -> Self {
        Self { since_ns, at_ns, metrics: Vec::new() }
    }

    /// Begins a family; one without series leaves nothing behind.
    pub(super) fn begin(&mut self, spec: &'static Spec) {
        self.end();
        let cumulative = AggregationTemporality::Cumulative.into();
        let data = match spec.kind() {
            Kind::Counter => {
                Data::Sum(Sum { data_points: Vec::new(), aggregation_temporality: cumulative, is_monotonic: true })
            }
            Kind::Gauge => Data::Gauge(Gauge { data_points: Vec::new() }),
            Kind::Histogram => {
                Data::Histogram(Histogram { data_points: Vec::new(), aggregation_temporality: cumulative })
            }
        };
        self.metrics.push(Metric {
            name: spec.name().to_owned(),
            description: spec.help().to_owned(),
            unit: unit(spec.name()).to_owned(),
            metadata: Vec::new(),
            data: Some(data),
        });
    }

    /// One series of a counter or a gauge.
    pub(super) fn value(&mut self, labels: &Labels, value: u64) {
        self.number(labels, Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    /// One series of a counter or a gauge whose unit is seconds.
    pub(super) fn seconds(&mut self, labels: &Labels, seconds: f64) {
        self.number(labels, Value::AsDouble(seconds));
    }

    fn number(&mut self, labels: &Labels, value: Value) {
        let (since_ns, at_ns) = (self.since_ns, self.at_ns);
        let point = |since_ns| NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: since_ns,
            time_unix_nano: at_ns,
            value: Some(value),
            ..NumberDataPoint::default()
        };
        match self.metrics.last_mut().and_then(|metric| metric.data.as_mut()) {
            Some(Data::Sum(sum)) => sum.data_points.push(point(since_ns)),
            Some(Data::Gauge(gauge)) => gauge.data_points.push(point(0)),
            _ => {}
        }
    }

    /// One series of a histogram.
    pub(super) fn histogram(&mut self, labels: &Labels, buckets: &Buckets) {
        let point = HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: self.since_ns,
            time_unix_nano: self.at_ns,
            count: buckets.count(),
            sum: Some(buckets.sum),
            bucket_counts: buckets.counts.clone(),
            explicit_bounds: buckets.bounds.to_vec(),
            ..HistogramDataPoint::default()
        };
        if let Some(Data::Histogram(histogram)) = self.metrics.last_mut().and_then(|metric| metric.data.as_mut()) {
            histogram.data_points.push(point);
        }
    }

    fn end(&mut self) {
        self.metrics.pop_if(|metric| match &metric.data {
            Some(Data::Sum(sum)) => sum.data_points.is_empty(),
            Some(Data::Gauge(gauge)) => gauge.data_points.is_empty(),
            Some(Data::Histogram(histogram)) => histogram.data_points.is_empty(),
            _ => true,
        });
    }

    /// All of it.
    pub(super) fn finish(mut self) -> Vec<Metric> {
        self.end();
        self.metrics
    }
}

/// In UCUM, as OTLP wants it; nothing where the name tells none.
fn unit(name: &str) -> &'static str {
    match name.trim_end_matches("_total") {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") => "By",
        _ => "",
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.pairs().into_iter().map(|(name, value)| attribute(&name, value)).collect()
}

/// A name and a text.
pub(crate) fn attribute(name: &str, value: String) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value)) };
    KeyValue { key: name.to_owned(), value: Some(value), ..KeyValue::default() }
}
