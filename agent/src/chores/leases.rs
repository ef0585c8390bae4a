//! Leases of nodes that are gone: heartbeats that nobody writes any more, and what such a node held and nobody wants.
//! In: leases as they are stored, and who lives. Out: those of nodes that are gone are removed.
//! Invariant: one is removed at the version at which it was seen at two looks, a grace apart.
//! Never: removes what a node that is there holds, or what a holder does whose heart beats: mirrors are no nodes.

use datastore::{
    ObjectError, Store,
    lease::{HEARTBEAT, Holder, KIND, Lease},
};
use ipam::audit::Census;
use model::NodeName;
use serde::Deserialize as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tracing::info;

/// What was seen of leases of nodes that are gone, and since when.
#[derive(Debug, Default)]
pub struct Stale {
    seen: BTreeMap<(String, Option<String>), Duration>,
}

impl Stale {
    /// Looks at all.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub fn look(
        &mut self,
        objects: &Store,
        census: &Census,
        grace: Duration,
        now: Duration,
    ) -> Result<(), ObjectError> {
        let earlier = std::mem::take(&mut self.seen);
        let (mut due, mut beating) = (Vec::new(), BTreeSet::new());
        for object in objects.list(KIND)? {
            let name = object.metadata.name;
            let lease = Lease::deserialize(&object.spec).unwrap_or_default();
            let Some(node) = node_of(&name, &lease).filter(|node| census.is_gone(node)) else { continue };
            let key = (name, object.metadata.resource_version);
            let since = earlier.get(&key).copied().unwrap_or(now);
            if since < now && now >= since + grace {
                due.push((key.clone(), node));
            } else if key.0.starts_with(HEARTBEAT) {
                beating.insert(node);
            }
            self.seen.insert(key, since);
        }
        due.retain(|(_, node)| !beating.contains(node));
        let asked: BTreeSet<NodeName> = due.iter().map(|(_, node)| node.clone()).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let there = objects.census(&asked, &BTreeSet::new())?.nodes;
        for ((name, version), node) in due.into_iter().filter(|(_, node)| !there.contains(node)) {
            match objects.delete(KIND, &name, version.as_deref()) {
                Ok(true) => info!(lease = name, %node, "was removed: the node is gone"),
                Ok(false) | Err(ObjectError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whose it is; of a lease that is nobody's, nobody.
fn node_of(name: &str, lease: &Lease) -> Option<NodeName> {
    match name.strip_prefix(HEARTBEAT) {
        Some(node) => Some(node.into()),
        None => Holder::read(&lease.holder_identity).map(|holder| holder.node.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datastore::{Metadata, Object};
    use std::sync::Arc;

    #[test]
    fn leases_of_a_node_that_is_gone_go_and_others_stay() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store: Store = Arc::new(datastore::Objects::open(dir.path()).expect("a store"));
        for (name, holder) in
            [("node.n1", "n1_1"), ("node.n2", "n2_1"), ("address-a", "n2_1"), ("address-b", "n1_1"), ("address-c", "")]
        {
            let metadata = Metadata { name: name.to_owned(), resource_version: None };
            let spec = serde_json::json!({ "holderIdentity": holder });
            let object = Object { api_version: "coordination.k8s.io/v1".into(), kind: KIND.into(), metadata, spec };
            store.create(&object).expect("written");
        }
        let census = Census { here: Some("n1".into()), nodes: ["n1".into()].into(), ..Census::default() };
        let names = || {
            let all = store.list(KIND).expect("listed").into_iter().map(|object| object.metadata.name);
            all.collect::<Vec<_>>()
        };
        let mut stale = Stale::default();
        let (grace, at) = (Duration::from_secs(60), Duration::from_secs);
        for now in [0, 59] {
            stale.look(&store, &census, grace, at(now)).expect("looked");
        }
        assert_eq!(names().len(), 5);
        stale.look(&store, &census, grace, at(60)).expect("looked");
        assert_eq!(names(), ["address-b", "address-c", "node.n1"]);
    }

    #[test]
    fn what_a_mirror_leads_stays_while_its_heart_beats_and_goes_with_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store: Store = Arc::new(datastore::Objects::open(dir.path()).expect("a store"));
        let object = |name: &str, version: Option<String>, spec| Object {
            api_version: "coordination.k8s.io/v1".into(),
            kind: KIND.into(),
            metadata: Metadata { name: name.to_owned(), resource_version: version },
            spec,
        };
        let held = serde_json::json!({ "holderIdentity": "mirror.m_1" });
        store.create(&object("mirror", None, held.clone())).expect("written");
        let mut beat = store.create(&object("node.mirror.m", None, held.clone())).expect("written");
        let census = Census { here: Some("n1".into()), nodes: ["n1".into()].into(), ..Census::default() };
        let count = || store.list(KIND).expect("listed").len();
        let (mut stale, grace) = (Stale::default(), Duration::from_secs(60));
        for now in [0, 100, 200, 300] {
            stale.look(&store, &census, grace, Duration::from_secs(now)).expect("looked");
            assert_eq!(count(), 2, "at {now}");
            let version = beat.metadata.resource_version.take();
            let spec = serde_json::json!({ "holderIdentity": "mirror.m_1", "leaseTransitions": now });
            beat = store.update(&object("node.mirror.m", version, spec)).expect("written");
        }
        for now in [400, 500] {
            stale.look(&store, &census, grace, Duration::from_secs(now)).expect("looked");
        }
        assert_eq!(count(), 0);
    }
}
