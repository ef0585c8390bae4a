//! Who may talk to whom. Pure: rules in, verdicts and rows out.
//! In: policies and endpoints (`model`). Out: rule sets, their rows (`compile`), and the same answers said slowly (`evaluate`).
//! Invariant: for every packet the compiled rows and the reference evaluator agree; tests hold them together.
//! Never: does I/O, knows map ids, or shares code between compiler and evaluator.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod class;
pub mod compile;
#[cfg(any(test, feature = "generate"))]
pub mod compiled;
pub mod evaluate;
pub mod explain;
#[cfg(any(test, feature = "generate"))]
pub mod generate;
pub mod ruleset;

pub use class::{Active, Class, PodFacts, Selectors};
pub use compile::{Row, RowSpan, row};
pub use evaluate::{Endpoint, Flow, Judgement, Outcome, View, evaluate};
pub use explain::Explanation;
pub use ruleset::{Decider, PeerTest, PolicyRules, RuleSet, SetPort, SetRule, Verdict};

#[cfg(test)]
mod tests;
