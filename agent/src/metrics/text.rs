//! The text that Prometheus reads, in its own format or as OpenMetrics.
//! In: families and their samples. Out: lines of text.
//! Invariant: every sample stands under its family's HELP and TYPE; every value is a finite number.
//! Never: knows what is measured.

use std::fmt::Write as _;

/// Upper ends of the buckets of a duration, seconds.
pub const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up while its process or map lives; its name ends in `_total`.
    Counter,
    /// Counts by size.
    Histogram,
}

/// Durations, counted by length.
#[derive(Clone, Debug, Default)]
pub struct Durations {
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum_s: f64,
}

impl Durations {
    /// One more.
    pub fn add(&mut self, seconds: f64) {
        if let Some(place) = BUCKETS.iter().position(|end| seconds <= *end) {
            self.counts[place] += 1;
        }
        self.count += 1;
        self.sum_s += seconds;
    }
}

/// The text so far.
#[derive(Debug)]
pub struct Text {
    text: String,
    open: bool,
    family: &'static str,
}

impl Text {
    /// An empty one; `open`: as OpenMetrics.
    pub fn new(open: bool) -> Self {
        Self { text: String::new(), open, family: "" }
    }

    /// What to call the format.
    pub fn content_type(open: bool) -> &'static str {
        if open {
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        } else {
            "text/plain; version=0.0.4; charset=utf-8"
        }
    }

    /// Begins a family. OpenMetrics names a counter without its `_total`.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Self {
        self.family = name;
        let shown = if self.open { name.strip_suffix("_total").unwrap_or(name) } else { name };
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "# HELP {shown} {help}\n# TYPE {shown} {kind}");
        self
    }

    /// A value of the family.
    pub fn value(&mut self, labels: &[(&str, &str)], value: impl Into<Number>) -> &mut Self {
        self.sample("", labels, value.into())
    }

    /// The durations of a histogram.
    pub fn durations(&mut self, labels: &[(&str, &str)], durations: &Durations) -> &mut Self {
        let mut sum = 0;
        for (end, count) in BUCKETS.iter().zip(durations.counts) {
            sum += count;
            self.bucket(labels, &format!("{end:?}"), sum);
        }
        self.bucket(labels, "+Inf", durations.count);
        self.sample("_sum", labels, durations.sum_s.into());
        self.sample("_count", labels, durations.count.into())
    }

    fn bucket(&mut self, labels: &[(&str, &str)], end: &str, count: u64) {
        let labels: Vec<_> = labels.iter().copied().chain([("le", end)]).collect();
        self.sample("_bucket", &labels, count.into());
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], Number(value): Number) -> &mut Self {
        let pairs = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", pairs.collect::<Vec<_>>().join(",")) };
        let _ = writeln!(self.text, "{}{suffix}{labels} {value}", self.family);
        self
    }

    /// The whole text.
    pub fn end(mut self) -> String {
        if self.open {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// A finite number as text.
#[derive(Debug)]
pub struct Number(String);

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self(value.to_string())
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        u64::from(value).into()
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self(value.to_string())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self(if value.is_finite() { value } else { 0.0 }.to_string())
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(open: bool) -> String {
        let mut text = Text::new(open);
        text.family("a_total", Kind::Counter, "Things.").value(&[("by", "x\"\\\ny")], 3u64).value(&[], 0.5);
        let mut durations = Durations::default();
        [0.0004, 0.001, 0.3, 60.0].into_iter().for_each(|seconds| durations.add(seconds));
        text.family("b_seconds", Kind::Histogram, "Times.").durations(&[("of", "c")], &durations);
        text.end()
    }

    #[test]
    fn a_counter_is_named_as_each_format_wants_it() {
        let (plain, open) = (sample(false), sample(true));
        assert!(plain.starts_with(
            "# HELP a_total Things.\n# TYPE a_total counter\na_total{by=\"x\\\"\\\\\\ny\"} 3\na_total 0.5\n"
        ));
        assert!(open.starts_with("# HELP a Things.\n# TYPE a counter\na_total{"));
        assert!(open.ends_with("# EOF\n") && !plain.contains("EOF"));
    }

    #[test]
    fn buckets_count_everything_below_their_end() {
        let text = sample(true);
        for line in [
            "b_seconds_bucket{of=\"c\",le=\"0.0005\"} 1",
            "b_seconds_bucket{of=\"c\",le=\"0.001\"} 2",
            "b_seconds_bucket{of=\"c\",le=\"1.0\"} 3",
            "b_seconds_bucket{of=\"c\",le=\"30.0\"} 3",
            "b_seconds_bucket{of=\"c\",le=\"+Inf\"} 4",
            "b_seconds_count{of=\"c\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_not_written() {
        assert_eq!([Number::from(f64::NAN).0, Number::from(f64::INFINITY).0], ["0", "0"]);
    }
}
