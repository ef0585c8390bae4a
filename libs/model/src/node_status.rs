//! What somebody asks of a node's BGP: Calico's CalicoNodeStatus.
//! In: its spec. Out: values.
//! Invariant: a class is asked once, however often it is named.
//! Never: what is answered (`bgp`).

use std::{collections::BTreeSet, fmt, str::FromStr};

/// A part of what is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusClass {
    /// The BGP daemon itself.
    Agent,
    /// Its sessions.
    Bgp,
    /// Its routes.
    Routes,
}

impl StatusClass {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Bgp, Self::Routes];
}

impl fmt::Display for StatusClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "Agent",
            Self::Bgp => "BGP",
            Self::Routes => "Routes",
        })
    }
}

impl FromStr for StatusClass {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|class| class.to_string() == text).ok_or("Agent, BGP or Routes")
    }
}

/// What is asked, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusAsked {
    /// Which parts.
    pub classes: BTreeSet<StatusClass>,
    /// Seconds from one answer to the next; 0: there is one.
    pub period_s: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_read_as_it_is_written() {
        for class in StatusClass::ALL {
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert!("bgp".parse::<StatusClass>().is_err());
    }
}
