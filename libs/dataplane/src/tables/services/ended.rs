//! Backends that are gone, so that whoever still talks with one can be told.
//! In: what steps left behind, once no program sends anything there. Out: all of it, once.
//! Invariant: after the tables were read anew nothing is known, and any may be gone.
//! Never: says whose sockets those are.

use abi::Address;
use std::collections::BTreeSet;

/// Address and port, in network order.
pub type At = (Address, [u8; 2]);

/// Those that went since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It may be any.
    Any,
    /// One of these.
    These(BTreeSet<At>),
}

impl Default for Ended {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Ended {
    /// Nobody went.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::These(these) if these.is_empty())
    }

    /// Whether this one may have gone.
    #[must_use]
    pub fn has(&self, at: At) -> bool {
        match self {
            Self::Any => true,
            Self::These(these) => these.contains(&at),
        }
    }

    /// These went, too.
    pub fn extend(&mut self, more: impl IntoIterator<Item = At>) {
        if let Self::These(these) = self {
            these.extend(more);
        }
    }
}
