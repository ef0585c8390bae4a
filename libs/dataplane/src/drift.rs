//! Drift: what other hands changed on the node, and was put back.
//! In: findings of a look. Out: values that the agent logs, counts and shows.
//! Invariant: a finding names the thing and what was wrong with it.
//! Never: a change that the agent made itself or was asked for.

use crate::{Applied, ApplyError};
use std::fmt;

/// How much a look takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What the kernel tells of by itself: links, routes, neighbours. Costs next to nothing.
    Told,
    /// That, and what has to be asked for: hooks, pins, settings, tables.
    Everything,
}

/// What kind of thing was found changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftKind {
    /// An interface: remade, set down, with another MAC.
    Link,
    /// A program of an interface: detached, or no longer the first in line.
    Program,
    /// A pin of a link or a map.
    Pin,
    /// An entry of a kernel table.
    Table,
    /// The route to a pod, or to another node's.
    Route,
    /// The neighbour entry of a pod.
    Neighbour,
    /// A sysctl.
    Setting,
}

impl DriftKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Link, Self::Program, Self::Pin, Self::Table, Self::Route, Self::Neighbour, Self::Setting];
}

impl fmt::Display for DriftKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Link => "link",
            Self::Program => "program",
            Self::Pin => "pin",
            Self::Table => "table",
            Self::Route => "route",
            Self::Neighbour => "neighbour",
            Self::Setting => "setting",
        })
    }
}

/// One thing that was put back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drift {
    /// What kind of thing.
    pub kind: DriftKind,
    /// Which, and what was wrong with it.
    pub found: String,
}

/// What a look came to.
#[derive(Debug, Default)]
pub struct Looked {
    /// Found changed, and put back.
    pub repaired: Vec<Drift>,
    /// Found changed, and cannot be put back now: why. The next look tries again.
    pub failed: Vec<(String, ApplyError)>,
    /// The pass that was needed where interfaces had changed.
    pub applied: Option<Applied>,
}

impl Looked {
    /// Found changed, and put back.
    pub(crate) fn repaired(&mut self, kind: DriftKind, found: impl Into<String>) {
        self.repaired.push(Drift { kind, found: found.into() });
    }

    /// Found changed, and not put back.
    pub(crate) fn failed(&mut self, item: impl fmt::Display, step: impl Into<String>, reason: impl fmt::Display) {
        self.failed.push((item.to_string(), ApplyError { step: step.into(), reason: reason.to_string() }));
    }
}
