//! Truth tables: who reaches whom, written as they are read (NP-H1).
//! In: a table of text, actors, a probe. Out: agreement in every cell, or both tables with the cells that differ.
//! Invariant: a cell holds for every family that both ends have; `-` is not asked.
//! Never: is content with most cells.

use crate::{NetNs, Outcome, Probe, probe, wait};
use anyhow::{Context as _, Result, bail, ensure};
use std::{fmt::Write as _, net::IpAddr, thread};

/// Who sends and receives.
#[derive(Clone, Debug)]
pub struct Actor<'a> {
    /// Its name in tables.
    pub name: String,
    /// Where its probes start.
    pub namespace: &'a NetNs,
    /// Where probes reach it.
    pub addresses: Vec<IpAddr>,
}

/// What is expected: first line the receivers, then one line a sender: its name and a letter for each receiver.
/// `.` allowed, `X` refused, `R` nobody listens, `U` unreachable, `-` not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    receivers: Vec<String>,
    rows: Vec<(String, Vec<char>)>,
}

impl Table {
    /// Reads a table.
    ///
    /// # Errors
    /// A row is longer or shorter than the first line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let receivers: Vec<_> = lines.next().context("an empty table")?.split_whitespace().map(str::to_owned).collect();
        let mut rows = Vec::new();
        for line in lines {
            let mut words = line.split_whitespace();
            let sender = words.next().unwrap_or_default().to_owned();
            let letters: Vec<_> = words.filter_map(|word| word.chars().next()).collect();
            ensure!(letters.len() == receivers.len(), "row {line:?} does not fit the columns {receivers:?}");
            rows.push((sender, letters));
        }
        Ok(Self { receivers, rows })
    }

    /// Waits until every cell is as expected.
    ///
    /// # Errors
    /// It did not come about in time: says what was seen last.
    pub fn expect(&self, actors: &[Actor<'_>], what: Probe) -> Result<()> {
        let mut last = String::new();
        let came = wait::wait_until(&format!("the table of {what}"), wait::PATIENCE, || {
            last = self.differences(actors, what)?;
            Ok(last.is_empty())
        });
        came.map_err(|error| if last.is_empty() { error } else { error.context(last) })
    }

    /// Probes every cell once; empty if all are as expected.
    ///
    /// # Errors
    /// A probe could not be made, or the table names somebody who is not there.
    pub fn differences(&self, actors: &[Actor<'_>], what: Probe) -> Result<String> {
        let find = |name: &str| {
            actors.iter().find(|actor| actor.name == name).with_context(|| format!("nobody here is called {name}"))
        };
        let mut cells = Vec::new();
        for (sender, letters) in &self.rows {
            for (receiver, letter) in self.receivers.iter().zip(letters).filter(|(_, letter)| **letter != '-') {
                cells.push((find(sender)?, find(receiver)?, *letter));
            }
        }
        let seen: Vec<_> = thread::scope(|scope| {
            let probes: Vec<_> =
                cells.iter().map(|(from, to, _)| scope.spawn(move || probe_families(from, to, what))).collect();
            probes
                .into_iter()
                .map(|probe| probe.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut wrong = String::new();
        for ((from, to, wanted), seen) in cells.iter().zip(seen) {
            for (address, outcome) in seen?.into_iter().filter(|(_, outcome)| outcome.letter() != *wanted) {
                let _ = writeln!(wrong, "{} to {} ({address}): wanted {wanted}, saw {outcome}", from.name, to.name);
            }
        }
        Ok(if wrong.is_empty() { wrong } else { format!("{what}, wanted\n{self}but\n{wrong}") })
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.rows.iter().map(|(sender, _)| sender.len()).chain([4]).max().unwrap_or(4);
        writeln!(f, "{:width$} {}", "", self.receivers.join(" "))?;
        for (sender, letters) in &self.rows {
            write!(f, "{sender:width$}")?;
            for (letter, receiver) in letters.iter().zip(&self.receivers) {
                write!(f, " {letter:^column$}", column = receiver.len())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Probes each address of `to` whose family `from` has.
fn probe_families(from: &Actor<'_>, to: &Actor<'_>, what: Probe) -> Result<Vec<(IpAddr, Outcome)>> {
    let can = |address: &&IpAddr| from.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4());
    let targets: Vec<_> = to.addresses.iter().filter(can).copied().collect();
    if targets.is_empty() {
        bail!("{} and {} share no family", from.name, to.name);
    }
    thread::scope(|scope| {
        let probes: Vec<_> = targets
            .into_iter()
            .map(|target| scope.spawn(move || Ok((target, probe::probe(from.namespace, target, what)?))))
            .collect();
        probes.into_iter().map(|probe| probe.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_prints_as_it_is_read() -> Result<()> {
        let table = Table::parse("     x/a x/b\n x/a  -  .\n y/a  X  .\n")?;
        assert_eq!(Table::parse(&table.to_string())?, table);
        assert!(Table::parse("x/a x/b\n x/a .\n").is_err());
        Ok(())
    }
}
