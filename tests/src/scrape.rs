//! A scrape of the agent's metrics, read as strictly as the formats are written.
//! In: a namespace and a port. Out: every sample by its name and labels.
//! Invariant: a text that any careful reader would refuse is an error here, with its line.
//! Never: passes over a line.

use crate::NetNs;
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// For the whole answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Samples: `NAME{label="value",...}` as written, to the value.
#[derive(Clone, Debug, Default)]
pub struct Scrape(BTreeMap<String, f64>);

/// Gets a page: status line, headers and text.
///
/// # Errors
/// Nobody answers.
pub fn page(from: &NetNs, address: SocketAddr, path: &str, accept: &str) -> Result<(String, String)> {
    from.inside(|| {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connecting")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nAccept: {accept}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("reading the answer")?;
        let (head, text) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
        Ok((head.to_owned(), text.to_owned()))
    })
}

impl Scrape {
    /// Asks in both formats, and gives what the second says.
    ///
    /// # Errors
    /// Nobody answers, or a text is not as its format wants it.
    pub fn of(from: &NetNs, address: SocketAddr) -> Result<Self> {
        let get = |accept: &str, kind: &str| {
            let (head, text) = page(from, address, "/metrics", accept)?;
            ensure!(head.starts_with("HTTP/1.1 200 ") && head.contains(kind), "{head}");
            Ok(text)
        };
        Self::parse(&get("text/plain", "text/plain; version=0.0.4")?, false)?;
        let open = "application/openmetrics-text; version=1.0.0";
        Self::parse(&get(open, open)?, true)
    }

    /// Reads a text; `open`: of OpenMetrics.
    ///
    /// # Errors
    /// The line that is wrong.
    pub fn parse(text: &str, open: bool) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line has no end");
        let body = if open { text.strip_suffix("# EOF\n").context("no # EOF at the end")? } else { text };
        let mut reader = Reader { open, ..Reader::default() };
        for line in body.lines() {
            reader.line(line).with_context(|| format!("in the line {line:?}"))?;
        }
        reader.end_family()?;
        Ok(Self(reader.samples))
    }

    /// A sample's value.
    ///
    /// # Errors
    /// It is not there.
    pub fn value(&self, sample: &str) -> Result<f64> {
        self.0.get(sample).copied().with_context(|| format!("no sample {sample}"))
    }

    /// Samples whose name begins so, with their sum.
    #[must_use]
    pub fn sum(&self, begin: &str) -> f64 {
        self.0.iter().filter(|(sample, _)| sample.starts_with(begin)).map(|(_, value)| value).sum()
    }
}

#[derive(Default)]
struct Reader {
    open: bool,
    family: String,
    kind: String,
    has_help: bool,
    seen: BTreeSet<String>,
    /// Buckets of the present family: labels without `le`, to (end, count).
    buckets: BTreeMap<String, Vec<(f64, f64)>>,
    samples: BTreeMap<String, f64>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').context("no text")?;
            self.end_family()?;
            ensure!(self.seen.insert(name.to_owned()), "the family comes twice");
            ensure!(!help.is_empty() && is_name(name), "no name or no help");
            (self.family, self.kind, self.has_help) = (name.to_owned(), String::new(), true);
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("no type")?;
            ensure!(self.has_help && name == self.family, "not under its own HELP");
            ensure!(["gauge", "counter", "histogram"].contains(&kind), "an unknown type");
            let total = name.ends_with("_total");
            ensure!(
                kind != "counter" || total != self.open,
                "a counter's name has _total, but not in OpenMetrics' TYPE"
            );
            kind.clone_into(&mut self.kind);
            return Ok(());
        }
        ensure!(!line.starts_with('#') && !line.is_empty(), "neither a sample nor HELP nor TYPE");
        self.sample(line)
    }

    fn sample(&mut self, line: &str) -> Result<()> {
        let (sample, value) = line.rsplit_once(' ').context("no value")?;
        let value: f64 = value.parse().context("the value is no number")?;
        ensure!(value.is_finite() && value >= 0.0, "the value is not finite, or below zero");
        let (name, labels) = match sample.split_once('{') {
            Some((name, labels)) => (name, pairs(labels.strip_suffix('}').context("no }")?)?),
            None => (sample, Vec::new()),
        };
        ensure!(is_name(name) && !self.kind.is_empty(), "no name, or no TYPE above it");
        let suffix = name.strip_prefix(self.family.as_str()).context("not of the family above it")?;
        match (self.kind.as_str(), suffix) {
            ("gauge", "") | ("histogram", "_sum" | "_count") => {}
            ("counter", "_total") if self.open => {}
            ("counter", "") if !self.open => {}
            ("histogram", "_bucket") => self.bucket(&labels, value)?,
            (kind, suffix) => bail!("{suffix:?} does not end a sample of a {kind}"),
        }
        ensure!(self.samples.insert(sample.to_owned(), value).is_none(), "the sample comes twice");
        Ok(())
    }

    fn bucket(&mut self, labels: &[(String, String)], value: f64) -> Result<()> {
        let end = labels.iter().find(|(name, _)| name == "le").context("a bucket without le")?.1.clone();
        let end = if end == "+Inf" { f64::INFINITY } else { end.parse()? };
        let others: Vec<_> = labels.iter().filter(|(name, _)| name != "le").collect();
        let buckets = self.buckets.entry(format!("{others:?}")).or_default();
        if let Some((last_end, last)) = buckets.last() {
            ensure!(*last_end < end && *last <= value, "buckets out of order");
        }
        buckets.push((end, value));
        Ok(())
    }

    fn end_family(&mut self) -> Result<()> {
        for buckets in std::mem::take(&mut self.buckets).values() {
            let (end, count) = buckets.last().context("no bucket")?;
            ensure!(end.is_infinite(), "{}: the last bucket is not +Inf", self.family);
            let counts = self.samples.iter().filter(|(name, _)| name.starts_with(&format!("{}_count", self.family)));
            ensure!(counts.into_iter().any(|(_, value)| value == count), "{}: no _count of {count}", self.family);
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(valid) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// Labels as `a="b",c="d"`; values of ours hold no quotes.
fn pairs(labels: &str) -> Result<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').context("a label without =")?;
        let value =
            value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).context("a value not in quotes")?;
        ensure!(is_name(name) && !value.contains(['"', '\\', '\n']), "a label that cannot be");
        Ok((name.to_owned(), value.to_owned()))
    };
    labels.split(',').map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::Scrape;

    #[test]
    fn a_text_that_is_wrong_in_one_thing_is_refused() {
        let good = "# HELP a_total x y\n# TYPE a_total counter\na_total{b=\"c\"} 1\n";
        assert!(Scrape::parse(good, false).is_ok());
        for (part, other) in [
            ("# HELP a_total x y\n", ""),
            ("# TYPE a_total counter\n", ""),
            ("} 1\n", "} 1"),
            ("} 1", "} NaN"),
            ("} 1", "} -1"),
            ("\"c\"", "c"),
            ("a_total{", "b_total{"),
            ("} 1\n", "} 1\na_total{b=\"c\"} 2\n"),
            ("} 1\n", "} 1\n\n"),
        ] {
            assert!(Scrape::parse(&good.replacen(part, other, 1), false).is_err(), "{part:?} as {other:?}");
        }
        assert!(Scrape::parse(good, true).is_err(), "no end, and a TYPE with _total");
    }

    #[test]
    fn buckets_rise_and_end_with_the_count() {
        let text = |last: &str, count: u8| {
            format!(
                "# HELP a x\n# TYPE a histogram\na_bucket{{le=\"0.1\"}} 2\na_bucket{{le=\"{last}\"}} 3\na_count {count}\n"
            )
        };
        assert!(Scrape::parse(&text("+Inf", 3), false).is_ok());
        assert!(Scrape::parse(&text("+Inf", 4), false).is_err());
        assert!(Scrape::parse(&text("0.5", 3), false).is_err());
        assert!(Scrape::parse(&text("0.05", 3), false).is_err());
    }
}
