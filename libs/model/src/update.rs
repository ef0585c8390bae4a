//! What a datastore says, one change at a time.
//! In: converted objects. Out: the only inputs of `calc::World` besides attachments and observations.
//! Invariant: `InSync` comes once, after every watched kind has delivered its first full list.
//! Never: an update for an object that could not be read; its last good revision stays.

use crate::{Resource, ResourceKey};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The object is now so.
    Set(Resource),
    /// The object is gone.
    Gone(ResourceKey),
    /// Everything that is there has been said.
    InSync,
    /// Something was not heard, or may not have been: what the datastore keeps beside its objects may be older than it was.
    Anew {
        /// All objects were listed once more; else changes go on where they were.
        listed: bool,
    },
}
