//! Figures: medians of ratios to the first setup, with their spread.
//! In: one figure a round, row and setup. Out: a table for people, JSON for machines.
//! Invariant: a ratio is made within one round; the median is taken over rounds.
//! Never: drops a round.

use ::tests::traffic::Row;
use serde::Serialize;
use std::{fmt, time::Duration};

/// Figures of a run, round after round.
#[derive(Debug)]
pub struct Figures {
    setups: Vec<&'static str>,
    /// By row, then by setup: a figure a round.
    rows: Vec<(Row, Vec<Vec<f64>>)>,
}

/// Middle and ends of some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// Of these.
    pub fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (numbers.first(), numbers.last()) else {
            return Self { median: f64::NAN, min: f64::NAN, max: f64::NAN };
        };
        let (low, high) = (numbers[(numbers.len() - 1) / 2], numbers[numbers.len() / 2]);
        Self { median: f64::midpoint(low, high), min: *min, max: *max }
    }

    /// `median [lowest - highest]`.
    pub fn with_digits(&self, digits: usize) -> String {
        let Self { median, min, max } = self;
        format!("{median:.digits$} [{min:.digits$} - {max:.digits$}]")
    }
}

/// How long one thing took, time after time; milliseconds.
#[derive(Serialize)]
pub struct Waits {
    times: usize,
    p50: f64,
    p99: f64,
    most: f64,
}

impl Waits {
    pub fn of(took: &[Duration]) -> Self {
        let of = |percent| percentile(took, percent);
        Self { times: took.len(), p50: of(50), p99: of(99), most: of(100) }
    }

    /// The words above its columns.
    pub fn head() -> String {
        format!("{:>8}  {:>8}  {:>8}", "p50", "p99", "most")
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, most, .. } = self;
        write!(f, "{p50:>8.2}  {p99:>8.2}  {most:>8.2}")
    }
}

/// What a change took at a place.
#[derive(Serialize)]
pub struct Timed {
    pub place: String,
    #[serde(flatten)]
    pub waits: Waits,
}

/// In milliseconds; the smallest wait that so many of a hundred do not exceed.
pub fn percentile(waits: &[Duration], percent: usize) -> f64 {
    let mut sorted = waits.to_vec();
    sorted.sort();
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1e3)
}

#[derive(Serialize)]
struct Cell {
    setup: &'static str,
    row: Row,
    /// Exchanges a second; bulk: bytes a second.
    per_second: Spread,
    /// Against the first setup.
    ratio: Spread,
}

impl Figures {
    pub fn new(setups: Vec<&'static str>, rows: &[Row]) -> Self {
        let rows = rows.iter().map(|row| (*row, vec![Vec::new(); setups.len()])).collect();
        Self { setups, rows }
    }

    pub fn record(&mut self, row: Row, setup: usize, figure: f64) {
        if let Some((_, figures)) = self.rows.iter_mut().find(|(known, _)| *known == row) {
            figures[setup].push(figure);
        }
    }

    fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        self.setups.iter().enumerate().flat_map(move |(index, setup)| {
            self.rows.iter().map(move |(row, figures)| {
                let ratios = figures[index].iter().zip(&figures[0]).map(|(figure, bare)| figure / bare);
                Cell {
                    setup,
                    row: *row,
                    per_second: Spread::of(figures[index].clone()),
                    ratio: Spread::of(ratios.collect()),
                }
            })
        })
    }
}

impl Serialize for Figures {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.cells())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.setups.iter().map(|name| name.len()).max().unwrap_or(0);
        let first = self.setups.first().copied().unwrap_or_default();
        writeln!(f, "Against {first}: median of the rounds [lowest - highest].\n")?;
        write!(f, "{:width$}", "")?;
        for (row, _) in &self.rows {
            write!(f, "  {row:>18}")?;
        }
        for cell in self.cells() {
            if Some(cell.row) == self.rows.first().map(|(row, _)| *row) {
                write!(f, "\n{:width$}", cell.setup)?;
            }
            write!(f, "  {:>18}", cell.ratio.with_digits(2))?;
        }
        write!(f, "\n\n{:width$}", "the first, a second")?;
        for cell in self.cells().take(self.rows.len()) {
            let text = match cell.row {
                Row::Bulk => format!("{:.1} Gbit", cell.per_second.median * 8.0 / 1e9),
                _ => format!("{:.0}", cell.per_second.median),
            };
            write!(f, "  {text:>18}")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_wait_that_happened() {
        let waits: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!((percentile(&waits, 50), percentile(&waits, 99)), (100.0, 198.0));
        assert_eq!(percentile(&waits[..1], 99), 1.0);
    }

    #[test]
    fn a_ratio_is_made_within_its_round() {
        let mut figures = Figures::new(vec!["bare", "other"], &[Row::Bulk]);
        for (bare, other) in [(100.0, 90.0), (50.0, 45.0), (200.0, 180.0)] {
            figures.record(Row::Bulk, 0, bare);
            figures.record(Row::Bulk, 1, other);
        }
        let ratio = figures.cells().last().map(|cell| cell.ratio);
        assert_eq!(ratio, Some(Spread { median: 0.9, min: 0.9, max: 0.9 }));
    }
}
