//! The node's own slots: those of its host endpoints, and what holds for the node as a whole.
//! In: interfaces with a host endpoint, and the node's own. Out: a slot for each layer that has rules, named by its interface's.
//! Invariant: a layer without rules has no slot, or one that is open; an interface keeps its slots as long as it needs them.
//! Never: lets an interface that has a host endpoint go for want of room: then the whole revision is refused.

use super::{CommitError, Draft, Guarded, Lookup, Refusal};
use crate::tables::capacity::{Full, remedy};
use abi::{
    Endpoint, Layers, Word,
    endpoint::{
        ENDPOINT_HOST, ENDPOINT_KEEP_ESTABLISHED, ENDPOINT_READY, NODE_BESIDE, NODE_MASQUERADES,
        NODE_REFUSES_WORKLOADS, NODE_REJECTS, NODE_TRANSLATES, SLOT_HOST,
    },
    maps,
    rules::SET_OPEN,
    tunnel::VXLAN_PORT,
};
use calc::{Desired, HostEndpointSpec, Judges, desired::NodeSpec};
use policy::RuleSet;
use std::{collections::BTreeSet, sync::Arc};

/// What the slots of one interface have in common.
#[derive(Clone, Copy, Default)]
struct Gate {
    ifindex: u32,
    flags: u16,
}

impl Draft<'_> {
    /// Before the endpoints of pods: of those, the ones that come too much are refused one by one.
    pub(super) fn hosts(&mut self, desired: &Desired, lookup: Lookup<'_>) -> Result<(), CommitError> {
        let mut served = BTreeSet::new();
        for (name, spec) in &desired.host_endpoints {
            let Some(guarded) = lookup(name) else {
                self.refused_hosts.push((name.clone(), Refusal::NotAttached(name.clone())));
                continue;
            };
            match self.host_endpoint(spec, guarded) {
                Ok(slot) => {
                    served.insert(name);
                    self.names.hosts.set(&self.known.hosts, name.clone(), Some(slot));
                }
                // One more layer for an interface that is judged already: without it the others would be taken away.
                Err(full) if self.old.interfaces.contains_key(&guarded.ifindex) => return Err(whole(full)),
                Err(refusal) => self.refused_hosts.push((name.clone(), refusal)),
            }
        }
        for gone in self.known.hosts.keys().filter(|name| !served.contains(name)) {
            self.names.hosts.set(&self.known.hosts, gone.clone(), None);
        }
        self.node(&desired.node)
    }

    fn host_endpoint(&mut self, spec: &HostEndpointSpec, guarded: Guarded) -> Result<u32, Refusal> {
        let ifindex = guarded.ifindex;
        self.room_for(ifindex)?;
        let held = self.held_layers(ifindex);
        let asked = [&spec.untracked, &spec.pre_dnat, &spec.forward];
        let named = [held.untracked, held.pre_dnat, held.forward];
        let mut taken = Vec::new();
        let Some([local, untracked, pre_dnat, forward]) = self.slots(ifindex, asked, named, &mut taken) else {
            taken.into_iter().for_each(|slot| self.numbers.slots.remove(slot));
            return Err(Refusal::Full { map: maps::ENDPOINTS.name, size: self.sizes.of(&maps::ENDPOINTS) });
        };
        let keep = if spec.keep_established { ENDPOINT_KEEP_ESTABLISHED } else { 0 };
        let gate = Gate { ifindex, flags: keep };
        self.layer(gate, untracked, &spec.untracked);
        self.layer(gate, pre_dnat, &spec.pre_dnat);
        self.layer(gate, forward, &spec.forward);
        let own = Endpoint {
            layers: Layers { untracked, pre_dnat, forward, uplink: 0 },
            ..self.judged(gate, local, &spec.local)
        };
        self.endpoints.insert(local, own);
        self.interfaces.insert(ifindex, local);
        if guarded.is_uplink {
            self.uplink = local;
        }
        Ok(local)
    }

    /// The interface's own slot, and one for each other layer that is asked for.
    fn slots(&mut self, ifindex: u32, asked: [&Judges; 3], named: [u32; 3], taken: &mut Vec<u32>) -> Option<[u32; 4]> {
        let local = self.held_slot(ifindex);
        let local = local.map_or_else(|| self.fresh_slot(taken), Some)?;
        let mut slots = [local, 0, 0, 0];
        for (place, (judges, held)) in asked.into_iter().zip(named).enumerate() {
            slots[place + 1] = self.layer_slot(judges, held, taken)?;
        }
        Some(slots)
    }

    fn layer_slot(&mut self, judges: &Judges, held: u32, taken: &mut Vec<u32>) -> Option<u32> {
        let is_open = judges.ingress.is_none() && judges.egress.is_none();
        let is_held = self.old.endpoints.get(&held).is_some_and(|entry| entry.flags & ENDPOINT_HOST != 0);
        match (is_open, is_held) {
            (true, _) => Some(0),
            (false, true) => Some(held),
            (false, false) => self.fresh_slot(taken),
        }
    }

    fn fresh_slot(&mut self, taken: &mut Vec<u32>) -> Option<u32> {
        let slot = self.free_slot()?;
        taken.push(slot);
        Some(slot)
    }

    fn held_layers(&self, ifindex: u32) -> Layers {
        let own = self.held_slot(ifindex).and_then(|slot| self.old.endpoints.get(&slot));
        own.map(|entry| entry.layers).unwrap_or_default()
    }

    fn layer(&mut self, gate: Gate, slot: u32, judges: &Judges) {
        if slot != 0 {
            let entry = self.judged(gate, slot, judges);
            self.endpoints.insert(slot, entry);
        }
    }

    fn judged(&mut self, gate: Gate, slot: u32, judges: &Judges) -> Endpoint {
        Endpoint {
            egress: Word::settled(self.judge(judges.egress.as_ref())),
            ingress: Word::settled(self.judge(judges.ingress.as_ref())),
            ifindex: gate.ifindex,
            rev: self.old.endpoints.get(&slot).map_or(0, |found| found.rev),
            flags: ENDPOINT_READY | ENDPOINT_HOST | gate.flags,
            ..Endpoint::default()
        }
    }

    fn judge(&mut self, set: Option<&Arc<RuleSet>>) -> u32 {
        set.map_or(SET_OPEN, |set| self.asked(set))
    }

    /// The slot of this node, where there is something to say.
    fn node(&mut self, node: &NodeSpec) -> Result<(), CommitError> {
        let before = self.old.endpoints.get(&SLOT_HOST).copied().unwrap_or_default();
        let size = self.sizes.of(&maps::ENDPOINTS);
        let mut slot = |judges: &Judges, held: u32| {
            let slot = self.layer_slot(judges, held, &mut Vec::new());
            let slot = slot.ok_or_else(|| whole(Refusal::Full { map: maps::ENDPOINTS.name, size }))?;
            self.layer(Gate::default(), slot, judges);
            Ok::<u32, CommitError>(slot)
        };
        let pre_dnat = slot(&node.pre_dnat, before.layers.pre_dnat)?;
        let forward = slot(&node.forward, before.layers.forward)?;
        let inside = node.masquerading.as_ref().map(|masquerading| Arc::clone(&masquerading.inside));
        let untracked = slot(&Judges { egress: inside, ..Judges::default() }, before.layers.untracked)?;
        let flag = |given: bool, flag: u32| if given { flag } else { 0 };
        let says = flag(node.refuses_workloads, NODE_REFUSES_WORKLOADS)
            | flag(node.rejects, NODE_REJECTS)
            | flag(node.translates, NODE_TRANSLATES)
            | flag(node.beside, NODE_BESIDE)
            | flag(node.masquerading.is_some(), NODE_MASQUERADES);
        let layers = Layers { untracked, pre_dnat, forward, uplink: self.uplink };
        let port = node.vxlan_port.filter(|port| *port != VXLAN_PORT).map_or(0, u32::from);
        let words = Endpoint { egress: Word::settled(port), ingress: Word::settled(says), ..Endpoint::default() };
        let entry = Endpoint { layers, ..words };
        if entry != Endpoint::default() {
            self.endpoints.insert(SLOT_HOST, Endpoint { rev: before.rev, ..entry });
        }
        Ok(())
    }
}

/// What refuses the whole revision.
fn whole(refusal: Refusal) -> CommitError {
    let Refusal::Full { map, size } = refusal else { unreachable!("an interface that is judged is there") };
    let needed = u64::from(size) + 1;
    Full { map, needed, all_counted: true, size, demand: None, remedy: remedy(map, needed) }.into()
}
