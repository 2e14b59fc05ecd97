//! The classic Prometheus text format, version 0.0.4: what a kubelet serves and every scraper reads.
//!
//! Not prometheus-client's encoder: that speaks OpenMetrics only, where a counter's `# TYPE` line has no `_total`,
//! bucket bounds read `1.0` instead of `1` (other series, to a scraper that does not normalise them) and `# EOF` ends the
//! text; `/metrics/probes` shall read as the kubelet's does. Source: `expfmt/text_create.go` of prometheus/common.
//!
//! A scraper that asks for it gets the same families as protobuf ([`super::protobuf`]): each is written once, for both.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::families::Spec;
use super::protobuf::Messages;

/// `Content-Type` of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How metrics are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// See the module.
    #[default]
    Text,
    /// Delimited messages of `io.prometheus.client.MetricFamily`: histograms are native beside classic.
    Protobuf,
}

impl Format {
    /// What a scraper likes best of the two, by its `Accept`.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let (mut text, mut protobuf) = (0.0_f64, 0.0_f64);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut weight = 1.0;
            let mut is_delimited_family = [false; 2];
            for part in parts {
                match part.split_once('=').map(|(name, value)| (name.trim(), value.trim().trim_matches('"'))) {
                    Some(("q", value)) => weight = value.parse().unwrap_or(0.0),
                    Some(("proto", "io.prometheus.client.MetricFamily")) => is_delimited_family[0] = true,
                    Some(("encoding", "delimited")) => is_delimited_family[1] = true,
                    _ => {}
                }
            }
            match &*media {
                "application/vnd.google.protobuf" if is_delimited_family == [true; 2] => {
                    protobuf = protobuf.max(weight)
                }
                "text/plain" => text = text.max(weight),
                _ => {}
            }
        }
        if protobuf > 0.0 && protobuf >= text { Format::Protobuf } else { Format::Text }
    }

    /// `Content-Type`
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Text => CONTENT_TYPE,
            Format::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

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

    /// Names and values, as they went in.
    pub(super) fn pairs(&self) -> Vec<(String, String)> {
        let (mut pairs, mut rest) = (Vec::new(), self.0.as_str());
        while let Some((name, after)) = rest.split_once("=\"") {
            let mut value = String::new();
            let mut characters = after.chars();
            loop {
                match characters.next() {
                    None | Some('"') => break,
                    Some('\\') => {
                        value.extend(characters.next().map(|escaped| if escaped == 'n' { '\n' } else { escaped }))
                    }
                    Some(character) => value.push(character),
                }
            }
            pairs.push((name.trim_start_matches(',').to_owned(), value));
            rest = characters.as_str();
        }
        pairs
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
    /// The same in fine buckets, where it is told in them too: by place, see [`fine_bucket`].
    pub(super) fine: Option<BTreeMap<i32, u64>>,
}

/// A fine bucket ends at two to the power of so many eighths of its place (schema 3 of native histograms): 9 % above the end of
/// the one below it.
pub(super) const FINE_SCHEMA: i32 = 3;

/// The place of a value above 0.
fn fine_bucket(value: f64) -> i32 {
    (value.max(1e-9).log2() * f64::from(1 << FINE_SCHEMA)).ceil() as i32
}

impl Buckets {
    /// Nothing observed.
    #[must_use]
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0, fine: None }
    }

    /// The same, to be told in fine buckets too.
    #[must_use]
    pub(super) fn fine(bounds: &'static [f64]) -> Self {
        Self { fine: Some(BTreeMap::new()), ..Self::new(bounds) }
    }

    /// Adds `count` observations of about `value`.
    pub(super) fn observe(&mut self, value: f64, count: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts[place] += count;
        self.sum += value * count as f64;
        if let Some(fine) = &mut self.fine {
            *fine.entry(fine_bucket(value)).or_default() += count;
        }
    }

    /// How many were observed.
    #[must_use]
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What is being written.
#[derive(Debug)]
pub(super) enum Text {
    /// As text.
    Text(String),
    /// As messages.
    Protobuf(Messages),
}

impl Text {
    /// Nothing written.
    #[must_use]
    pub(super) fn new(format: Format) -> Self {
        match format {
            Format::Text => Text::Text(String::new()),
            Format::Protobuf => Text::Protobuf(Messages::default()),
        }
    }

    /// Begins a family; a family without series leaves nothing behind.
    pub(super) fn family(&mut self, spec: &'static Spec) -> Family<'_> {
        match self {
            Text::Text(text) => Family::Text(TextFamily { text, spec, begun: false }),
            Text::Protobuf(messages) => {
                messages.begin(spec);
                Family::Protobuf(messages)
            }
        }
    }

    /// The whole of it.
    #[must_use]
    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Text::Text(text) => text.into_bytes(),
            Text::Protobuf(messages) => messages.finish(),
        }
    }
}

/// One family of series.
#[derive(Debug)]
pub(super) enum Family<'a> {
    /// As text.
    Text(TextFamily<'a>),
    /// As a message.
    Protobuf(&'a mut Messages),
}

impl Family<'_> {
    /// One series of a counter or a gauge.
    pub(super) fn value(&mut self, labels: &Labels, value: u64) {
        match self {
            Family::Text(text) => text.value(labels, format_args!("{value}")),
            Family::Protobuf(messages) => messages.value(labels, value as f64),
        }
    }

    /// One series of a counter or a gauge whose unit is seconds.
    pub(super) fn seconds(&mut self, labels: &Labels, nanos: u64) {
        let seconds = nanos as f64 / 1e9;
        match self {
            Family::Text(text) => text.value(labels, format_args!("{seconds}")),
            Family::Protobuf(messages) => messages.value(labels, seconds),
        }
    }

    /// One series of a histogram.
    pub(super) fn histogram(&mut self, labels: &Labels, buckets: &Buckets) {
        match self {
            Family::Text(text) => text.histogram(labels, buckets),
            Family::Protobuf(messages) => messages.histogram(labels, buckets),
        }
    }
}

/// The lines of one family.
#[derive(Debug)]
pub(super) struct TextFamily<'a> {
    text: &'a mut String,
    spec: &'static Spec,
    begun: bool,
}

impl TextFamily<'_> {
    fn value(&mut self, labels: &Labels, value: std::fmt::Arguments<'_>) {
        self.begin();
        self.line("", labels, None, value);
    }

    fn histogram(&mut self, labels: &Labels, buckets: &Buckets) {
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

    fn written(text: Text) -> String {
        String::from_utf8(text.finish()).expect("text")
    }

    #[test]
    fn a_scraper_gets_protobuf_where_it_likes_it_no_less_than_text() {
        // What Prometheus sends: without native histograms, and with them (2.40 and on, 3.0 and on).
        let family = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        let open = "application/openmetrics-text;version=1.0.0";
        for (accept, format) in [
            (format!("{open},{open};q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), Format::Text),
            (format!("{family},{open};q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), Format::Protobuf),
            (format!("{family};q=0.6, text/plain; q=0.5"), Format::Protobuf),
            (format!("{family};q=0.4, text/plain; q=0.5"), Format::Text),
            (format!("{family};q=0"), Format::Text),
            ("application/vnd.google.protobuf;encoding=text".to_owned(), Format::Text),
            ("*/*".to_owned(), Format::Text),
            (String::new(), Format::Text),
        ] {
            assert_eq!(Format::accepted(&accept), format, "{accept}");
        }
    }

    #[test]
    fn labels_are_read_back_as_they_went_in() {
        let pairs = [("a", "x\"y\\z\nn,b=\"c"), ("b", ""), ("c", "\\n")];
        let read = Labels::of(&pairs).pairs();
        assert_eq!(read, pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(Labels::none().pairs().is_empty());
    }

    #[test]
    fn a_fine_bucket_holds_what_is_at_most_its_end_and_above_the_one_below() {
        for value in [0.000_02_f64, 0.000_1, 0.5, 0.51, 1.0, 1.09, 60.0] {
            let end = |place: i32| 2_f64.powf(f64::from(place) / 8.0);
            let place = fine_bucket(value);
            assert!(end(place - 1) < value && value <= end(place), "{value}");
        }
        assert_eq!([0.5, 1.0, 2.0].map(fine_bucket), [-8, 0, 8]);
    }

    #[test]
    fn label_values_are_escaped_and_help_keeps_its_quotes() {
        let mut text = Text::new(Format::Text);
        const M: Spec = Spec::in_test("m", Kind::Gauge, "a \"b\" \\ \n c");
        text.family(&M).value(&Labels::of(&[("l", "a\"b\\c\nd")]), 7);
        assert_eq!(written(text), "# HELP m a \"b\" \\\\ \\n c\n# TYPE m gauge\nm{l=\"a\\\"b\\\\c\\nd\"} 7\n");
    }

    #[test]
    fn a_family_without_series_leaves_no_line() {
        let mut text = Text::new(Format::Text);
        const M: Spec = Spec::in_test("m", Kind::Gauge, "help");
        text.family(&M);
        assert_eq!(written(text), "");
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_it() {
        let mut buckets = Buckets::new(&[1.0, 2.5]);
        buckets.observe(1.0, 2);
        buckets.observe(2.6, 1);
        let mut text = Text::new(Format::Text);
        const H: Spec = Spec::in_test("h", Kind::Histogram, "help");
        text.family(&H).histogram(&Labels::none(), &buckets);
        let lines = "h_bucket{le=\"1\"} 2\nh_bucket{le=\"2.5\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 4.6\nh_count 3\n";
        assert_eq!(written(text), format!("# HELP h help\n# TYPE h histogram\n{lines}"));
    }
}
