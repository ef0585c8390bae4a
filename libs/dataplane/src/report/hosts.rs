//! Host endpoints as people and scripts read them: one row a layer.
//! In: host endpoints as wanted, and the slots that their layers have. Out: rows, and whose a slot is.
//! Invariant: a layer that has no slot is told as what it is: open.
//! Never: a name for a slot that no host endpoint of the revision in force has.

use super::Reporter;
use crate::tables::StoreError;
use abi::{Endpoint, Layers, endpoint::SLOT_HOST, verdict::DROP_REASONS};
use calc::{HostEndpointSpec, Judges};
use model::IfaceName;
use policy::RuleSet;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// What the layer of a host endpoint of all interfaces is told as that is asked of pods.
const ALL_INTERFACES: &str = "*";

/// The host endpoints that have slots, and what they are called.
pub fn by_slot(
    served: &BTreeMap<IfaceName, u32>,
    endpoints: &BTreeMap<u32, Endpoint>,
    hosts: &BTreeMap<IfaceName, HostEndpointSpec>,
) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for (interface, slot) in served {
        let layers = endpoints.get(slot).map(|entry| entry.layers).unwrap_or_default();
        let called = hosts.get(interface).map_or_else(|| interface.to_string(), called);
        for slot in [*slot, layers.untracked, layers.pre_dnat, layers.forward] {
            names.insert(slot, called.clone());
        }
    }
    let of_node = endpoints.get(&SLOT_HOST).map(|entry| entry.layers).unwrap_or_default();
    names.extend([of_node.pre_dnat, of_node.forward].map(|slot| (slot, ALL_INTERFACES.to_owned())));
    names.remove(&0);
    names
}

fn called(spec: &HostEndpointSpec) -> String {
    format!("{} on {}", spec.name, spec.interface)
}

impl Reporter<'_> {
    pub(super) fn host_endpoints(&self) -> Result<Vec<Value>, StoreError> {
        let mut rows = Vec::new();
        for spec in self.wanted.hosts.values() {
            let local = self.names().hosts.get(&spec.interface).copied();
            let entry = local.and_then(|slot| self.image().endpoints.get(&slot)).copied().unwrap_or_default();
            let Layers { untracked, pre_dnat, forward, .. } = entry.layers;
            let layers = [
                ("local", local.unwrap_or_default(), &spec.local),
                ("untracked", untracked, &spec.untracked),
                ("preDNAT", pre_dnat, &spec.pre_dnat),
                ("forward", forward, &spec.forward),
            ];
            for (layer, slot, judges) in layers {
                rows.push(json!({
                    "hostEndpoint": spec.name,
                    "interface": spec.interface.to_string(),
                    "layer": layer,
                    "inForce": self.wanted.hosts_in_force.contains(&spec.interface),
                    "ingress": judged_by(judges.ingress.as_ref()),
                    "egress": judged_by(judges.egress.as_ref()),
                    "dropped": self.dropped(slot)?,
                    "slot": slot,
                }));
            }
        }
        rows.extend(self.asked_of_pods()?);
        Ok(rows)
    }

    /// What the host endpoint of all interfaces asks of what pods send and receive.
    fn asked_of_pods(&self) -> Result<Vec<Value>, StoreError> {
        let named = self.image().endpoints.get(&SLOT_HOST).map(|entry| entry.layers).unwrap_or_default();
        let node = &self.wanted.node;
        let layers = [("preDNAT", named.pre_dnat, &node.pre_dnat), ("forward", named.forward, &node.forward)];
        let asked = layers.into_iter().filter(|(.., judges)| judges.sets().next().is_some());
        let row = |(layer, slot, judges): (&str, u32, &Judges)| {
            Ok(json!({
                "hostEndpoint": ALL_INTERFACES,
                "interface": "of pods",
                "layer": layer,
                "inForce": slot != 0,
                "ingress": judged_by(judges.ingress.as_ref()),
                "egress": judged_by(judges.egress.as_ref()),
                "dropped": self.dropped(slot)?,
                "slot": slot,
            }))
        };
        asked.map(row).collect()
    }

    /// Packets dropped on a slot's account, whatever for.
    fn dropped(&self, slot: u32) -> Result<u64, StoreError> {
        let counters = slot * DROP_REASONS..(slot + 1) * DROP_REASONS;
        let counters = counters.filter(|_| slot != 0);
        counters.map(|index| self.tables.store().drop_count(index)).sum()
    }
}

/// Which policies are asked, in order.
fn judged_by(set: Option<&Arc<RuleSet>>) -> Vec<String> {
    let Some(set) = set else { return vec!["open".to_owned()] };
    let names: Vec<_> = set.policies().map(|policy| policy.id.to_string()).collect();
    if names.is_empty() { vec!["no policy".to_owned()] } else { names }
}
