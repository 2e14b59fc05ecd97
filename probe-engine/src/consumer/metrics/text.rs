//! The classic Prometheus text format, version 0.0.4: what a kubelet serves and every scraper reads.
//!
//! Not prometheus-client's encoder: that speaks OpenMetrics only, where a counter's `# TYPE` line has no `_total`,
//! bucket bounds read `1.0` instead of `1` (other series, to a scraper that does not normalise them) and `# EOF` ends the
//! text; `/metrics/probes` shall read as the kubelet's does. Source: `expfmt/text_create.go` of prometheus/common.

use std::fmt::Write;

use super::families::Spec;

/// `Content-Type` of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `TYPE` of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts per bucket.
    Histogram,
}

impl Kind {
    /// As the format has it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// The labels of one series, escaped once and used for all of its lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels(String);

impl Labels {
    /// No labels.
    #[must_use]
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// These labels, in this order; client_golang sorts them by name, so callers write them so.
    #[must_use]
    pub(super) fn of(labels: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (name, value) in labels {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
            text.push_str("=\"");
            push_escaped(&mut text, value, true);
            text.push('"');
        }
        Self(text)
    }
}

/// One histogram: counts per bucket, not cumulative, the last for what is longer than every bound.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Buckets {
    /// Upper bounds, rising.
    pub(super) bounds: &'static [f64],
    /// One more than bounds.
    pub(super) counts: Vec<u64>,
    /// Sum of what was observed.
    pub(super) sum: f64,
}

impl Buckets {
    /// Nothing observed.
    #[must_use]
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Adds `count` observations of about `value`.
    pub(super) fn observe(&mut self, value: f64, count: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts[place] += count;
        self.sum += value * count as f64;
    }

    /// How many were observed.
    #[must_use]
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The text being written.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a family; a family without series leaves no line behind.
    pub(super) fn family(&mut self, spec: &'static Spec) -> Family<'_> {
        Family { text: &mut self.0, spec, begun: false }
    }

    /// The whole text.
    #[must_use]
    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// One family of series.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    spec: &'static Spec,
    begun: bool,
}

impl Family<'_> {
    /// One series of a counter or a gauge.
    pub(super) fn value(&mut self, labels: &Labels, value: u64) {
        self.begin();
        self.line("", labels, None, format_args!("{value}"));
    }

    /// One series of a counter or a gauge whose unit is seconds.
    pub(super) fn seconds(&mut self, labels: &Labels, nanos: u64) {
        self.begin();
        self.line("", labels, None, format_args!("{}", nanos as f64 / 1e9));
    }

    /// One series of a histogram.
    pub(super) fn histogram(&mut self, labels: &Labels, buckets: &Buckets) {
        self.begin();
        let mut cumulative = 0;
        for (bound, count) in buckets.bounds.iter().zip(&buckets.counts) {
            cumulative += count;
            self.line("_bucket", labels, Some(*bound), format_args!("{cumulative}"));
        }
        let count = buckets.count();
        self.line("_bucket", labels, Some(f64::INFINITY), format_args!("{count}"));
        self.line("_sum", labels, None, format_args!("{}", buckets.sum));
        self.line("_count", labels, None, format_args!("{count}"));
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        self.text.push_str("# HELP ");
        self.text.push_str(self.spec.name());
        self.text.push(' ');
        push_escaped(self.text, self.spec.help(), false);
        self.text.push_str("\n# TYPE ");
        self.text.push_str(self.spec.name());
        self.text.push(' ');
        self.text.push_str(self.spec.kind().as_str());
        self.text.push('\n');
    }

    fn line(&mut self, suffix: &str, labels: &Labels, le: Option<f64>, value: std::fmt::Arguments<'_>) {
        self.text.push_str(self.spec.name());
        self.text.push_str(suffix);
        if le.is_some() || !labels.0.is_empty() {
            self.text.push('{');
            self.text.push_str(&labels.0);
            if let Some(bound) = le {
                let comma = if labels.0.is_empty() { "" } else { "," };
                let bound =
                    std::fmt::from_fn(|f| if bound.is_finite() { write!(f, "{bound}") } else { f.write_str("+Inf") });
                write!(self.text, "{comma}le=\"{bound}\"").expect(NEVER);
            }
            self.text.push('}');
        }
        writeln!(self.text, " {value}").expect(NEVER);
    }
}

const NEVER: &str = "writing to a String cannot fail";

/// A backslash and a line feed are escaped everywhere, a double quote in label values only.
fn push_escaped(text: &mut String, value: &str, quoted: bool) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quoted => text.push_str("\\\""),
            _ => text.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped_and_help_keeps_its_quotes() {
        let mut text = Text::default();
        const M: Spec = Spec::in_test("m", Kind::Gauge, "a \"b\" \\ \n c");
        text.family(&M).value(&Labels::of(&[("l", "a\"b\\c\nd")]), 7);
        assert_eq!(text.finish(), "# HELP m a \"b\" \\\\ \\n c\n# TYPE m gauge\nm{l=\"a\\\"b\\\\c\\nd\"} 7\n");
    }

    #[test]
    fn a_family_without_series_leaves_no_line() {
        let mut text = Text::default();
        const M: Spec = Spec::in_test("m", Kind::Gauge, "help");
        text.family(&M);
        assert_eq!(text.finish(), "");
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_it() {
        let mut buckets = Buckets::new(&[1.0, 2.5]);
        buckets.observe(1.0, 2);
        buckets.observe(2.6, 1);
        let mut text = Text::default();
        const H: Spec = Spec::in_test("h", Kind::Histogram, "help");
        text.family(&H).histogram(&Labels::none(), &buckets);
        let lines = "h_bucket{le=\"1\"} 2\nh_bucket{le=\"2.5\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.6\nh_count 3\n";
        assert_eq!(text.finish(), format!("# HELP h help\n# TYPE h histogram\n{lines}"));
    }
}
