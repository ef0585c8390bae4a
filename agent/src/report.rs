//! What a cluster is told of this node: its addresses once it serves pods, and what it could not do.
//! In: the agent as it is. Out: a report, from which who tells the cluster takes what is new.
//! Invariant: the same state gives the same report: nothing of it counts or is timed.
//! Never: what the kubelet says by itself, such as why a pod's ADD failed.

use crate::{detect::Detector, kernel::Kernel, owner::Agent};
use datastore::{Remark, Report};
use model::{Cidr, Family, ResourceKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// The report of now.
pub fn of<K: Kernel>(agent: &Agent<K>) -> Report {
    let serves = agent.ready().then(|| {
        let own = agent.world.own_node().map(|node| &*node.addresses).unwrap_or_default();
        let found = agent.detector.as_ref().map(Detector::told).unwrap_or_default();
        addresses(own, &agent.uplink_nets().copied().collect(), found)
    });
    Report { serves, remarks: put_off(agent).chain(not_in_force(agent)).collect() }
}

/// What was found for it; of a family of which nothing was to be found the first that the Node has in a network of the uplink, with
/// that network's prefix.
fn addresses(own: &[IpAddr], nets: &BTreeSet<Cidr>, detected: BTreeMap<Family, Option<String>>) -> Vec<String> {
    let mut found: BTreeMap<Family, String> = BTreeMap::new();
    for address in own {
        if let Some(net) = nets.iter().find(|net| net.contains(*address)) {
            found.entry(Family::of(*address)).or_insert_with(|| format!("{address}/{}", net.prefix_len()));
        }
    }
    found.retain(|family, _| !detected.contains_key(family));
    let detected = detected.into_iter().filter_map(|(family, address)| Some((family, address?)));
    found.extend(detected);
    found.into_values().collect()
}

/// What does not fit.
fn put_off<K: Kernel>(agent: &Agent<K>) -> impl Iterator<Item = Remark> {
    let remark = |(key, reason): (&ResourceKey, &str)| {
        let text = format!("its newest revision is put off where there is no room for it: {reason}");
        Remark { about: key.clone(), reason: "PutOff", text }
    };
    agent.setbacks.held().map(remark)
}

/// Pods that are not served as they should be.
fn not_in_force<K: Kernel>(agent: &Agent<K>) -> impl Iterator<Item = Remark> {
    let failed = &agent.outcome.failed;
    let attachments = (!failed.is_empty()).then(|| agent.world.attachments()).into_iter().flatten();
    let pods: BTreeMap<String, &model::PodId> =
        attachments.map(|attachment| (attachment.id.to_string(), &attachment.pod)).collect();
    failed.iter().filter_map(move |(item, reason)| {
        let about = ResourceKey::Pod((*pods.get(item)?).clone());
        Some(Remark { about, reason: "NotInForce", text: format!("its network is not as it should be: {reason}") })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_each_family_that_is_on_the_network_of_nodes_is_told_with_its_prefix() {
        let own: Vec<IpAddr> = ["203.0.113.9", "192.0.2.7", "192.0.2.8", "2001:db8::7"]
            .map(|text| text.parse().expect("an address"))
            .into();
        let nets: BTreeSet<Cidr> =
            ["192.0.2.0/24", "2001:db8::/64"].map(|text| text.parse().expect("a network")).into();
        let none = BTreeMap::new;
        assert_eq!(addresses(&own, &nets, none()), ["192.0.2.7/24", "2001:db8::7/64"]);
        assert_eq!(addresses(&own, &BTreeSet::new(), none()), [""; 0]);
        let found = [(Family::V4, Some("198.51.100.7/25".to_owned())), (Family::V6, None)];
        assert_eq!(addresses(&own, &nets, found.into()), ["198.51.100.7/25"], "it was looked for");
    }
}
