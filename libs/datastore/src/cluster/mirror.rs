//! The mirror: what the API server says, told once to an etcd, and read there by all agents (docs/design/mirror.md).
//! In: an API server's objects. Out: records in an etcd; and from those, what watches of the API server would have said.
//! Invariant: what counts is what one writer wrote, as a whole and in its order: a record that somebody else took away, or a list
//! with a hole, takes nothing away from an agent.
//! Never: keeps an agent from the API server; is written by anybody but its one leader.

mod leader;
mod log;
mod reader;
mod records;
mod twins;

pub use leader::{Mirror, Standing as MirrorStanding, Told as MirrorTold};
pub(super) use reader::{Reader, calico, heard};

use std::time::Duration;

/// Before all keys.
const PREFIX: &str = "/tortie/mirror/v1/";
/// Before the keys of records.
const RECORDS: &str = "/tortie/mirror/v1/objects/";
/// What the leader says of the whole. It comes last in every list and in every write.
const STATE: &str = "/tortie/mirror/v1/state";

/// The leader says so often at least that it lives.
const BEAT: Duration = Duration::from_secs(2);
