//! How long the steps of some work took, one after the other.
//! In: the end of each step, by name. Out: names and durations, in order.
//! Invariant: the steps fill the time from the first to the last; a step met again adds to itself.
//! Never: decides; it is logged where somebody asks for it.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// Steps and how long they took.
#[derive(Clone, Debug)]
pub struct Laps {
    last: Instant,
    steps: Vec<(&'static str, Duration)>,
}

impl Laps {
    /// The first step begins.
    #[must_use]
    pub fn start() -> Self {
        Self { last: Instant::now(), steps: Vec::new() }
    }

    /// This step ends, and the next begins.
    pub fn lap(&mut self, step: &'static str) {
        let now = Instant::now();
        self.add(step, now - self.last);
        self.last = now;
    }

    fn add(&mut self, step: &'static str, took: Duration) {
        match self.steps.iter_mut().find(|(known, _)| *known == step) {
            Some((_, sum)) => *sum += took,
            None => self.steps.push((step, took)),
        }
    }
}

/// `step microseconds`, one after the other.
impl fmt::Display for Laps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (step, took)) in self.steps.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{step} {}", took.as_micros())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_met_again_adds_to_itself() {
        let mut laps = Laps::start();
        laps.add("list", Duration::from_micros(3));
        laps.add("commit", Duration::from_micros(5));
        laps.add("list", Duration::from_micros(4));
        assert_eq!(laps.to_string(), "list 7 commit 5");
    }
}
