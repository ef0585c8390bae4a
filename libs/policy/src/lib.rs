//! Who may talk to whom. Pure: rules in, verdicts and rows out.
//! In: policies and endpoints (`model`). Out: rule sets, their rows (`compile`), and the same answers said slowly (`evaluate`).
//! Invariant: for every packet the compiled rows and the reference evaluator agree; tests hold them together.
//! Never: does I/O, knows map ids, or shares code between compiler and evaluator.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod build;
mod canvas;
mod cell;
pub mod class;
pub mod compile;
#[cfg(any(test, feature = "generate"))]
pub mod compiled;
#[cfg(any(test, feature = "generate"))]
pub mod cyclonus;
pub mod decider;
pub mod evaluate;
pub mod explain;
pub mod facts;
#[cfg(any(test, feature = "generate"))]
pub mod generate;
pub mod host;
mod near;
pub mod nearest;
pub mod question;
pub mod rulebook;
pub mod ruleset;
mod sources;
pub mod staged;
pub mod stretch;
mod xset;

pub use build::{OwnAddresses, Subject, is_common};
pub use class::{Active, Class};
pub use compile::{Answer, PortSpan, Row, RowSpan, Rows, row};
pub use decider::{Decider, Hit, Preview, Verdict};
pub use evaluate::{AtHost, Endpoint, Flow, Judgement, Outcome, View, evaluate, evaluate_at};
pub use explain::Explanation;
pub use facts::{HostFacts, NodeFacts, PodFacts, SetFacts, Surroundings};
pub use host::{DEFAULT_ALLOW, EndpointProfile, Failsafes, HostLayer, HostSubject};
pub use question::Question;
pub use rulebook::{Applying, Rulebook, RuledTier};
pub use ruleset::{
    PacketTest, PeerTest, PolicyRules, ProfileRules, Profiles, RuleSet, SetAction, SetPort, SetRule, TierRules,
};

pub use model::Shared;

/// Policies that name the same peers share the selector, and so do classes.
pub type Selectors = Shared<model::Selector>;

#[cfg(test)]
mod tests;
