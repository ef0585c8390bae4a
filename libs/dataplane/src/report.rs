//! The tables as people and scripts read them: one flat object a row.
//! In: what is in force and what its numbers mean. Out: JSON arrays, the same for `tortie show` and for failing tests.
//! Invariant: read from the kernel's tables, or from the image that was written there.
//! Never: a row without the thing's own name.

use crate::{
    ReportError, conntrack,
    gauges::Gauges,
    staged,
    tables::{KernelStore, StoreError, Tables, image::Image, names::Names, prefix},
    usage::{Usage, filled, usages},
};
use abi::{
    Address, ConntrackEntry, DropReason, FlowKey,
    conntrack::{
        CT_HIGH_FIN, CT_HIGH_OPENED, CT_LOW_FIN, CT_REFUSED, CT_RESET, CT_VIA_HOST, NAT_LEADS, NAT_MASQUERADED,
        NAT_RETURNS, NAT_TRANSLATED, STATE_ANSWERED, STATE_ESTABLISHED, STATE_MIDWAY, STATE_NEW, STATE_TIME_WAIT,
    },
    endpoint::{SLOT_FIRST, SLOT_HOST, SLOT_NONE},
    maps,
    rules::HIT_NONE,
    verdict::DROP_REASONS,
};
use calc::{EndpointSpec, HostEndpointSpec, NodeSpec};
use model::{AttachmentId, IfaceName, PodId, Protocol, Selector};
use policy::{Decider, Hit};
use serde_json::{Value, json};
use service::Frontend;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

mod hosts;

/// The tables there are.
pub const TABLES: [&str; 9] =
    ["endpoints", "hostendpoints", "policies", "staged", "classes", "rulesets", "conntrack", "drops", "capacity"];

/// What a report is made from.
pub struct Reporter<'a> {
    /// Tables in force.
    pub tables: &'a Tables<KernelStore>,
    pub wanted: Wanted<'a>,
    gauges: &'a Gauges,
    hits: BTreeMap<u32, &'a Hit>,
    pods: BTreeMap<u32, &'a PodId>,
    hosts: BTreeMap<u32, String>,
}

/// What is wanted of the tables, and how far it is so.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Endpoints of pods.
    pub endpoints: &'a BTreeMap<AttachmentId, EndpointSpec>,
    /// Those that are completely in force.
    pub in_force: &'a BTreeSet<AttachmentId>,
    /// Host endpoints.
    pub hosts: &'a BTreeMap<IfaceName, HostEndpointSpec>,
    /// Those that are completely in force.
    pub hosts_in_force: &'a BTreeSet<IfaceName>,
    /// What holds for the node as a whole.
    pub node: &'a NodeSpec,
}

impl<'a> Reporter<'a> {
    /// With the numbers' meanings at hand: a report of flows asks for them thousands of times.
    pub fn new(tables: &'a Tables<KernelStore>, wanted: Wanted<'a>, gauges: &'a Gauges) -> Self {
        let names = tables.names();
        let hits = names.hits.iter().map(|(hit, id)| (*id, &**hit)).collect();
        let slots = names.endpoints.iter();
        let pods = slots.filter_map(|(id, slot)| Some((*slot, &wanted.endpoints.get(id)?.pod))).collect();
        let hosts = hosts::by_slot(&names.hosts, &tables.image().endpoints, wanted.hosts);
        Self { tables, wanted, gauges, hits, pods, hosts }
    }

    /// The rows of a table.
    ///
    /// # Errors
    /// No such table, or a map that cannot be read.
    pub fn rows(&self, table: &str) -> Result<Value, ReportError> {
        let rows = match table {
            "endpoints" => Ok(self.endpoints()),
            "hostendpoints" => self.host_endpoints(),
            "policies" => self.policies(),
            "staged" => staged::rows(self.names(), &|hit| self.tables.store().hit_count(hit)),
            "classes" => Ok(self.classes()),
            "rulesets" => Ok(self.rule_sets()),
            "conntrack" => self.flows(),
            "drops" => self.drops(),
            "capacity" => self.capacity(),
            _ => return Err(ReportError::UnknownTable { name: table.to_owned(), known: TABLES.to_vec() }),
        };
        rows.map(Value::Array).map_err(|StoreError { map, reason }| ReportError::Read { map, reason })
    }

    fn image(&self) -> &Image {
        self.tables.image()
    }

    fn names(&self) -> &Names {
        self.tables.names()
    }

    fn endpoints(&self) -> Vec<Value> {
        let row = |(id, spec): (&AttachmentId, &EndpointSpec)| {
            let slot = self.names().endpoints.get(id);
            let entry = slot.and_then(|slot| self.image().endpoints.get(slot));
            let mut row = json!({
                "pod": spec.pod.to_string(),
                "interface": spec.interface.to_string(),
                "ifindex": entry.map(|entry| entry.ifindex),
                "addresses": spec.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "mac": spec.mac.to_string(),
                "mtu": spec.mtu,
                "slot": slot,
                "ingressRuleSet": entry.map(|entry| entry.ingress.new()),
                "egressRuleSet": entry.map(|entry| entry.egress.new()),
                "revision": entry.map(|entry| entry.rev),
                "inForce": self.wanted.in_force.contains(id),
            });
            if let Some(set) = &spec.sources {
                row["allowedSourcePrefixes"] = set.nets().map(|net| net.to_string()).collect();
            }
            if !spec.floating.is_empty() {
                row["floating"] = spec.floating.iter().map(ToString::to_string).collect();
            }
            row
        };
        self.wanted.endpoints.iter().map(row).collect()
    }

    /// Deciders of flows, with the packets they decided since the agent first named them; Log rules, with those that met them.
    fn policies(&self) -> Result<Vec<Value>, StoreError> {
        let mut hits: BTreeMap<&Decider, Vec<u32>> = BTreeMap::new();
        for (hit, id) in self.names().hits.iter().filter(|(hit, _)| hit.decider.is_of_a_flow()) {
            let Hit { decider, logs, .. } = &**hit;
            [decider].into_iter().chain(logs).for_each(|rule| hits.entry(rule).or_default().push(*id));
        }
        let judged = |hit: &u32| self.tables.store().hit_count(*hit);
        let row = |(decider, hits): (&Decider, Vec<u32>)| {
            let policies: Vec<_> = decider.policies().iter().map(ToString::to_string).collect();
            Ok(json!({
                "policy": policies.join(", "),
                "tier": decider.tier().map(ToString::to_string),
                "direction": decider.direction().to_string(),
                "rule": decider.place(),
                "decides": decider.to_string(),
                "judged": hits.iter().map(judged).sum::<Result<u64, _>>()?,
                "hit": hits.first(),
            }))
        };
        hits.into_iter().map(row).collect()
    }

    fn classes(&self) -> Vec<Value> {
        let mut members: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (address, entry) in &self.image().addresses {
            members.entry(entry.class).or_default().push(ip_of(*address).to_string());
        }
        for (net, entry) in &self.image().nets {
            members.entry(entry.class).or_default().push(prefix::text(net));
        }
        let row = |(class, id): (&Arc<policy::Class>, &u32)| {
            let texts =
                |selectors: &BTreeSet<Arc<Selector>>| selectors.iter().map(ToString::to_string).collect::<Vec<_>>();
            json!({
                "class": id,
                "selectors": texts(&class.selectors),
                "unsure": texts(&class.unsure),
                "unknownPorts": class.unknown_ports,
                "nodeSelectors": texts(&class.nodes),
                "nets": class.nets.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "members": members.get(id).cloned().unwrap_or_default(),
            })
        };
        self.names().classes.iter().map(row).collect()
    }

    fn rule_sets(&self) -> Vec<Value> {
        let row = |(set, id): (&Arc<policy::RuleSet>, &u32)| {
            let judged = self.image().endpoints.iter().filter(|(slot, _)| **slot != SLOT_HOST);
            let users = judged.filter(|(_, entry)| entry.sets().contains(id)).count();
            let rows: Vec<_> = self.image().rows.iter().filter(|(key, _)| key.set == *id).map(|(_, row)| row).collect();
            let default = self.image().sets.get(id).map(|entry| entry.row.len);
            json!({
                "ruleSet": id,
                "direction": set.direction.to_string(),
                "policies": set.policies().map(|policy| policy.id.to_string()).collect::<Vec<_>>(),
                "endpoints": users,
                "rows": rows.len(),
                "spans": u64::from(default.unwrap_or(0)) + rows.iter().map(|row| u64::from(row.len)).sum::<u64>(),
            })
        };
        self.names().sets.iter().map(row).collect()
    }

    fn flows(&self) -> Result<Vec<Value>, StoreError> {
        let now_s = conntrack::now_s();
        let flows = self.tables.store().conntrack.flows()?;
        // What only leads to a flow is none.
        let flows = flows.iter().filter(|(_, entry)| !matches!(entry.nat_kind, NAT_LEADS | NAT_RETURNS));
        Ok(flows.map(|(key, entry)| self.flow(key, entry, now_s)).collect())
    }

    /// A flow, said from its opener's end.
    fn flow(&self, key: &FlowKey, entry: &ConntrackEntry, now_s: u32) -> Value {
        let low = (key.low, key.low_port, entry.low_slot);
        let high = (key.high, key.high_port, entry.high_slot);
        let (source, destination) = if entry.flags & CT_HIGH_OPENED != 0 { (high, low) } else { (low, high) };
        json!({
            "protocol": Protocol(key.protocol).to_string(),
            "source": ip_of(source.0).to_string(),
            "sourcePort": u16::from_be_bytes(source.1),
            "sourcePod": self.whose(source.2),
            "destination": ip_of(destination.0).to_string(),
            "destinationPort": u16::from_be_bytes(destination.1),
            "destinationPod": self.whose(destination.2),
            "hostEndpoint": self.hosts.get(&slot_of_zone(key.zone)),
            "service": frontend_of(key, entry).map(|through| SocketAddr::new(through.address, through.port).to_string()),
            "masqueradedAs": mask_of(entry).map(|mask| mask.to_string()),
            "viaHost": (entry.flags & CT_VIA_HOST != 0).then_some(true),
            "state": state_of(entry),
            "packets": entry.packets,
            "bytes": entry.bytes,
            "idleSeconds": now_s.saturating_sub(entry.seen_s),
            "egressBy": self.decided(entry.egress_hit),
            "ingressBy": self.decided(entry.ingress_hit),
            "generation": entry.stamp,
        })
    }

    fn decided(&self, hit: u32) -> Option<String> {
        if hit == HIT_NONE {
            return None;
        }
        let text = self.hits.get(&hit).map(|hit| hit.decider.to_string());
        Some(text.unwrap_or_else(|| "a rule that is no longer known".to_owned()))
    }

    fn whose(&self, slot: u32) -> Option<String> {
        match slot {
            SLOT_NONE => None,
            SLOT_HOST => Some("this node".to_owned()),
            slot if slot == self.tables.store().slot_of_gone() => Some("endpoints that are gone".to_owned()),
            slot => self.pods.get(&slot).map(ToString::to_string),
        }
    }

    fn drops(&self) -> Result<Vec<Value>, StoreError> {
        let gone = self.tables.store().slot_of_gone();
        let served = self.image().endpoints.keys().copied().filter(|slot| *slot >= SLOT_FIRST);
        let slots = [SLOT_NONE, SLOT_HOST, gone].into_iter().chain(served);
        let mut rows = Vec::new();
        for slot in slots {
            for reason in DropReason::ALL {
                let packets = self.tables.store().drop_count(slot * DROP_REASONS + *reason as u32)?;
                if packets > 0 {
                    let (pod, host) = (self.whose(slot), self.hosts.get(&slot));
                    let reason = reason.as_str();
                    let row =
                        json!({"pod": pod, "hostEndpoint": host, "slot": slot, "reason": reason, "packets": packets});
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }

    /// Every map, and their memory together.
    fn capacity(&self) -> Result<Vec<Value>, StoreError> {
        let usages = usages(&filled(self.tables), self.gauges)?;
        let row = |usage: &Usage| {
            json!({
                "map": usage.map.name,
                "used": usage.used,
                "size": usage.size,
                "pressurePercent": usage.percent(),
                "peak": usage.peak,
                "memoryBytes": usage.memory,
                "whenFull": usage.map.when_full,
                "setting": usage.setting(),
                "notCounted": (usage.map.name == maps::HITS.name).then(|| self.tables.uncounted()),
            })
        };
        let memory: u64 = usages.iter().map(|usage| usage.memory).sum();
        let sum = json!({"map": "all", "memoryBytes": memory});
        Ok(usages.iter().map(row).chain([sum]).collect())
    }
}

/// The slot that a flow's zone is named after, as far as it fits.
fn slot_of_zone([low, middle, high]: [u8; 3]) -> u32 {
    u32::from_le_bytes([low, middle, high, 0])
}

/// The service's address that a flow was opened to.
pub(crate) fn frontend_of(key: &FlowKey, entry: &ConntrackEntry) -> Option<Frontend> {
    let (address, port) = (ip_of(entry.nat), u16::from_be_bytes(entry.nat_port));
    let frontend = Frontend { address, protocol: Protocol(key.protocol), port };
    (entry.nat_kind == NAT_TRANSLATED).then_some(frontend)
}

/// As whom a pod's flow goes on outside of all pools.
pub(crate) fn mask_of(entry: &ConntrackEntry) -> Option<SocketAddr> {
    let mask = SocketAddr::new(ip_of(entry.nat), u16::from_be_bytes(entry.nat_port));
    (entry.nat_kind == NAT_MASQUERADED).then_some(mask)
}

/// What people call a flow's state.
pub(crate) fn state_of(entry: &ConntrackEntry) -> &'static str {
    match entry.state {
        _ if entry.flags & CT_REFUSED != 0 => "refused",
        _ if entry.flags & CT_RESET != 0 => "reset",
        STATE_NEW => "new",
        STATE_MIDWAY => "midway",
        STATE_ANSWERED => "answered",
        STATE_ESTABLISHED if entry.flags & (CT_LOW_FIN | CT_HIGH_FIN) != 0 => "half-closed",
        STATE_ESTABLISHED => "established",
        STATE_TIME_WAIT => "time-wait",
        _ => "closed",
    }
}

/// An address as people write it.
#[must_use]
pub fn ip_of(address: Address) -> IpAddr {
    let address = Ipv6Addr::from(address.to_bytes());
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}
