//! Where an ADD spends its time: as the plugin and the agent measured it themselves.
//! In: what the plugin said on standard error, and the agent in its log. Out: milliseconds of each step.
//! Invariant: a plugin's steps and the rest (its process: start, reading, writing, end) sum up to the whole wait.
//! Never: models.

use crate::figures::Spread;
use serde::Serialize;
use std::{fmt, time::Duration};

/// How both begin a line of steps.
const MARK: &str = "laps:";

/// Steps by name, in the order they were met, with what is known of each.
#[derive(Clone, Debug, Default)]
struct Steps(Vec<(String, Vec<f64>)>);

impl Steps {
    fn of(&mut self, name: &str) -> &mut Vec<f64> {
        let place = self.0.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.0.push((name.to_owned(), Vec::new()));
            self.0.len() - 1
        });
        &mut self.0[place].1
    }
}

/// What the ADDs of one size of crowd spent.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    plugin: Steps,
    agent: Steps,
    adds: usize,
}

impl Spent {
    /// Takes in one ADD: how long it took, and what its plugin said.
    pub fn add(&mut self, took: Duration, said: &str) {
        self.adds += 1;
        let mut rest = took.as_secs_f64() * 1e3;
        let steps: Vec<_> =
            said.lines().filter_map(|line| line.split_once(MARK)).flat_map(|(_, text)| named(text)).collect();
        for (_, spent) in &steps {
            rest -= spent;
        }
        self.plugin.of("process").push(rest);
        for (name, spent) in steps {
            self.plugin.of(&name).push(spent);
        }
    }

    /// Takes in what the agent logged while they ran: a batch, with the pass that is a part of it, and waits for the disk.
    pub fn log(&mut self, text: &str) {
        for line in text.lines().filter(|line| line.contains(MARK)) {
            let Some((_, said)) = line.split_once(MARK) else { continue };
            let said = said.replace("laps=", "");
            for (name, spent) in named(&said) {
                self.agent.of(&name).push(spent);
            }
        }
    }

    /// Medians of the plugin's steps, and the agent's thread by ADD.
    pub fn report(&self) -> Report {
        let plugin = self.plugin.0.iter().map(|(name, spent)| (name.clone(), Spread::of(spent.clone())));
        #[expect(clippy::cast_precision_loss, reason = "a few hundred ADDs")]
        let each = |(name, spent): &(String, Vec<f64>)| (name.clone(), spent.iter().sum::<f64>() / self.adds as f64);
        Report { plugin: plugin.collect(), agent: self.agent.0.iter().map(each).collect() }
    }
}

/// Pairs of a name and microseconds, in milliseconds; everything else is passed over.
fn named(text: &str) -> Vec<(String, f64)> {
    let words: Vec<_> = text.split_whitespace().map(|word| word.trim_matches('"')).collect();
    let pair = |pair: &[&str]| {
        let is_name = pair[0].chars().all(|c| c.is_ascii_lowercase());
        Some((pair[0].to_owned(), pair[1].parse::<u32>().ok().filter(|_| is_name)?))
    };
    words.windows(2).filter_map(pair).map(|(name, spent)| (name, f64::from(spent) / 1e3)).collect()
}

/// Milliseconds.
#[derive(Serialize)]
pub struct Report {
    plugin: Vec<(String, Spread)>,
    agent: Vec<(String, f64)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  plugin:")?;
        for (name, spent) in &self.plugin {
            write!(f, "  {name} {}", spent.with_digits(2))?;
        }
        write!(f, "\n  agent, each ADD:")?;
        for (name, spent) in &self.agent {
            write!(f, "  {name} {spent:.2}")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_steps_do_not_tell_is_the_process() {
        let mut spent = Spent::default();
        spent.add(Duration::from_millis(5), "some remark\nlaps: open 100 prepare 2900 commit 1000\n");
        let text = spent.report().to_string();
        assert!(text.contains("process 1.00 [1.00 - 1.00]") && text.contains("prepare 2.90"), "{text}");
    }

    #[test]
    fn the_agents_steps_are_shared_by_the_adds_of_their_batch() {
        let mut spent = Spent::default();
        spent.add(Duration::from_millis(5), "");
        spent.add(Duration::from_millis(5), "");
        spent.log("2026-11-25T19:00:00Z DEBUG laps: batch asked=2 waited=0 laps=learn 3 begin 2000\nINFO prepared 7\n");
        let text = spent.report().to_string();
        assert!(text.contains("begin 1.00") && !text.contains("asked") && !text.contains("prepared"), "{text}");
    }
}
