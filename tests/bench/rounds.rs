//! Rounds: every row of every setup once, again and again.
//! In: setups that all stand. Out: their figures.
//! Invariant: a round measures one row of all setups before the next row; each round starts with another setup.
//! Never: leaves a round half measured in what it hands out.

use crate::{figures::Figures, progress, setups::Setup};
use ::tests::traffic::{Row, measure};
use anyhow::Result;
use clap::Args;
use std::time::Duration;

/// How long a run of them is.
#[derive(Clone, Debug, Args)]
pub struct Rounds {
    /// Rounds; each measures every row of every setup once.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Milliseconds a figure.
    #[arg(long, default_value_t = 500)]
    window: u64,
    /// Two rounds of 100 milliseconds a figure: to see that it runs.
    #[arg(long)]
    pub quick: bool,
}

impl Rounds {
    /// All of them. None of the setups is always the first on a warm machine.
    pub fn run(&self, rows: &[Row], setups: &[&dyn Setup]) -> Result<Figures> {
        let (rounds, window) = if self.quick { (2, 100) } else { (self.rounds, self.window) };
        let window = Duration::from_millis(window);
        let mut figures = Figures::new(setups.iter().map(|setup| setup.name()).collect(), rows);
        for round in 0..rounds {
            progress(&format!("round {} of {rounds}", round + 1));
            for row in rows {
                for place in 0..setups.len() {
                    let index = (place + round as usize) % setups.len();
                    figures.record(*row, index, measure(&setups[index].way(), *row, window)?);
                }
            }
        }
        progress("");
        Ok(figures)
    }
}
