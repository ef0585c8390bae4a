//! Which of the agents does the chores: the one that holds a lease.
//! In: the lease as it is stored, and this machine's monotonic time. Out: whether this node holds it.
//! Invariant: it is taken from another only after this node saw it unchanged for [`EXPIRE`]. Two who believe that they hold it do no
//! harm: every write of the chores is compared.
//! Never: compares clocks of two machines; asks more often than [`RENEW`], nor, all nodes together, than twenty times a second.

use datastore::{
    Metadata, Object, ObjectError, Store,
    calendar::micro_time,
    lease::{KIND, Lease},
};
use model::NodeName;
use serde::Deserialize as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The lease.
pub const LEASE: &str = "chores";
/// Between two writes of who holds it.
pub const RENEW: Duration = Duration::from_secs(10);
/// So long it must have been unchanged.
pub const EXPIRE: Duration = Duration::from_secs(30);
/// So much longer nobody asks for it, for each node.
const FOR_EACH_NODE: Duration = Duration::from_millis(50);

/// One agent's part.
#[derive(Debug)]
pub struct Lead {
    store: Store,
    node: NodeName,
    /// The version of another's, and when it was seen first.
    seen: Option<(String, Duration)>,
    /// When it was written last by this agent.
    written: Option<Duration>,
    /// When to ask next.
    due: Duration,
}

impl Lead {
    /// Of `node`.
    pub fn new(store: Store, node: NodeName) -> Self {
        Self { store, node, seen: None, written: None, due: Duration::ZERO }
    }

    /// When to ask next.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// Whether this node holds it now; `nodes`: how many may want it.
    ///
    /// # Errors
    /// The store cannot be asked. What is held stays so until it would be another's.
    pub fn turn(&mut self, now: Duration, nodes: usize) -> Result<bool, ObjectError> {
        if now >= self.due {
            let others = FOR_EACH_NODE.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX));
            self.due = now + RENEW.max(if self.written.is_some() { Duration::ZERO } else { others });
            self.ask(now)?;
        }
        Ok(self.written.is_some_and(|written| now < written + EXPIRE))
    }

    fn ask(&mut self, now: Duration) -> Result<(), ObjectError> {
        let found = self.store.get(KIND, LEASE)?;
        let lease = found.as_ref().and_then(|found| Lease::deserialize(&found.spec).ok()).unwrap_or_default();
        let version = found.map(|found| found.metadata.resource_version.unwrap_or_else(|| "0".to_owned()));
        let is_own = lease.holder_identity == *self.node.0;
        if let Some(version) = version.as_ref().filter(|_| !is_own && !lease.holder_identity.is_empty()) {
            self.written = None;
            match &self.seen {
                Some((seen, since)) if seen == version && now >= *since + EXPIRE => {}
                Some((seen, _)) if seen == version => return Ok(()),
                _ => {
                    self.seen = Some((version.clone(), now));
                    return Ok(());
                }
            }
        }
        let object = self.object(version, &lease, is_own);
        let written = match &object.metadata.resource_version {
            Some(_) => self.store.update(&object),
            None => self.store.create(&object),
        };
        match written {
            Ok(_) => (self.written, self.seen) = (Some(now), None),
            // Somebody else was first.
            Err(ObjectError::Conflict { .. }) => self.written = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn object(&self, resource_version: Option<String>, before: &Lease, is_own: bool) -> Object {
        let now = micro_time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let lease = Lease {
            holder_identity: self.node.to_string(),
            lease_duration_seconds: u32::try_from(EXPIRE.as_secs()).unwrap_or_default(),
            lease_duration_milliseconds: 0,
            acquire_time: if is_own { before.acquire_time.clone() } else { now.clone() },
            renew_time: now,
            lease_transitions: before.lease_transitions + u64::from(!is_own),
        };
        Object {
            api_version: "coordination.k8s.io/v1".to_owned(),
            kind: KIND.to_owned(),
            metadata: Metadata { name: LEASE.to_owned(), resource_version },
            spec: serde_json::to_value(lease).expect("strings and numbers are always JSON"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lead(dir: &std::path::Path, node: &str) -> Lead {
        Lead::new(Arc::new(datastore::Objects::open(dir).expect("a store")), node.into())
    }

    #[test]
    fn one_holds_it_while_it_writes_and_another_after_it_was_silent_for_long() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut a, mut b) = (lead(dir.path(), "a"), lead(dir.path(), "b"));
        for at in (0..100).step_by(10) {
            assert_eq!(a.turn(seconds(at), 2).ok(), Some(true));
            assert_eq!(b.turn(seconds(at), 2).ok(), Some(false));
        }
        // The first dies at 90; the other sees its last write at 90.
        for (at, holds) in [(100, false), (110, false), (119, false), (120, true), (130, true)] {
            assert_eq!(b.turn(seconds(at), 2).ok(), Some(holds), "{at}");
        }
        assert_eq!(a.turn(seconds(131), 2).ok(), Some(false), "it was away, and knows that it lost it");
    }

    #[test]
    fn a_holder_that_cannot_write_stops_before_another_begins() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut a = lead(dir.path(), "a");
        assert_eq!(a.turn(seconds(0), 1).ok(), Some(true));
        std::fs::remove_dir_all(dir.path().join(".tortie")).expect("removed");
        std::fs::write(dir.path().join(".tortie"), "in the way").expect("written");
        assert!(a.turn(seconds(10), 1).is_err());
        assert!(a.turn(seconds(15), 1).is_ok_and(|holds| holds));
        let _refused = a.turn(seconds(30), 1);
        assert_eq!(a.turn(seconds(31), 1).ok(), Some(false));
    }

    #[test]
    fn the_same_node_goes_on_where_its_former_life_ended() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(lead(dir.path(), "a").turn(seconds(0), 1).ok(), Some(true));
        assert_eq!(lead(dir.path(), "a").turn(seconds(0), 1).ok(), Some(true));
    }
}
