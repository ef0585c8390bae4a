//! What a command spent where, for benches.
//! In: the end of each step, by name. Out: names and microseconds, on standard error, where `TORTIE_LAPS` is set.
//! Invariant: the steps fill the time from the first to the last.
//! Never: decides.

use std::{cell::RefCell, time::Instant};

/// Says that the steps are to be told.
const VARIABLE: &str = "TORTIE_LAPS";

/// Steps and how long they took.
#[derive(Debug)]
pub(crate) struct Steps(RefCell<(Instant, String)>);

impl Steps {
    /// The first step begins.
    pub(crate) fn begin() -> Self {
        Self(RefCell::new((Instant::now(), String::new())))
    }

    /// This step ends, and the next begins.
    pub(crate) fn end(&self, step: &str) {
        let (last, text) = &mut *self.0.borrow_mut();
        let now = Instant::now();
        text.push_str(&format!(" {step} {}", (now - *last).as_micros()));
        *last = now;
    }

    /// Tells them, if somebody wants to know.
    pub(crate) fn tell(&self) {
        if std::env::var_os(VARIABLE).is_some() {
            eprintln!("laps:{}", self.0.borrow().1);
        }
    }
}
