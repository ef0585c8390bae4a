//! A host endpoint at the uplink, and the node's own settings, written into the tables by hand.
//! In: rules of each layer, as spans. Out: slots, rule sets and spans beside those of the agent's commits.
//! Invariant: everything is written before the one word that puts it in force: the interface's.
//! Never: a slot, set or span that a commit would hand out in a test of this size.

use super::{Kernel, UPLINK, map_mut};
use abi::{
    Endpoint, Layers, RowRef, SetEntry, Span, SpanKind, Word,
    endpoint::{ENDPOINT_HOST, ENDPOINT_READY, SLOT_HOST},
    maps,
    rules::{SET_DEFAULT_ONLY, SET_OPEN},
};
use aya::maps::{Array, HashMap, MapData};
use model::IfaceName;

/// The slots of its layers.
pub const LOCAL: u32 = 60;
const UNTRACKED: u32 = 61;
const PRE_DNAT: u32 = 62;
pub const FORWARD: u32 = 63;
/// First set and span that is free.
const SETS: u32 = 900;
const SPANS: u32 = 65_000;

/// What a layer says of one direction: spans by where they begin.
pub type Rules = &'static [(u32, SpanKind)];
/// No rules.
pub const OPEN: Rules = &[];
pub const ALLOW: Rules = &[(0, SpanKind::Allow)];
pub const DENY: Rules = &[(0, SpanKind::Deny)];

/// The layers of a host endpoint, each for what comes in and what goes out.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    pub local: [Rules; 2],
    pub forward: [Rules; 2],
    pub untracked: [Rules; 2],
    pub pre_dnat: Rules,
}

/// One without rules.
pub const NO_GUARD: Guard =
    Guard { local: [OPEN, OPEN], forward: [OPEN, OPEN], untracked: [OPEN, OPEN], pre_dnat: OPEN };

impl Kernel {
    /// Puts a host endpoint at the uplink in force, from the next generation on.
    pub fn guard(&mut self, guard: &Guard) {
        let generation = self.generation() + 1;
        let ifindex = self.index(&IfaceName(UPLINK.into())).0;
        let layers = Layers { untracked: UNTRACKED, pre_dnat: PRE_DNAT, forward: FORWARD, uplink: 0 };
        let all = [
            (UNTRACKED, guard.untracked),
            (PRE_DNAT, [guard.pre_dnat, OPEN]),
            (FORWARD, guard.forward),
            (LOCAL, guard.local),
        ];
        for (number, (slot, rules)) in all.into_iter().enumerate() {
            let number = 2 * u32::try_from(number).expect("four layers");
            let [ingress, egress] = [0, 1].map(|side| self.write_set(number + side, rules[side as usize]));
            let own = slot == LOCAL;
            let endpoint = Endpoint {
                ingress: Word::settled(ingress),
                egress: Word::settled(egress),
                rev: u32::try_from(generation).expect("a test commits seldom"),
                flags: if own { ENDPOINT_READY | ENDPOINT_HOST } else { ENDPOINT_READY },
                ifindex: if own { ifindex } else { 0 },
                layers: if own { layers } else { Layers::default() },
                ..Endpoint::default()
            };
            self.write_endpoint(slot, &endpoint);
        }
        let mut node = self.read_endpoint(SLOT_HOST);
        node.layers.uplink = LOCAL;
        self.write_endpoint(SLOT_HOST, &node);
        let mut interfaces: HashMap<&mut MapData, u32, u32> = map_mut(&mut self.programs, &maps::INTERFACES);
        interfaces.insert(&ifindex, &LOCAL, 0).expect("there is room");
        self.write_generation(generation);
    }

    /// Sets what the node's own slot says: `NODE_*`, and the rules of the host endpoint of all interfaces, if there is one.
    pub fn node_says(&mut self, says: u32, everywhere: Option<Guard>) {
        let layers = everywhere.map_or_else(Layers::default, |guard| {
            for (number, slot, rules) in [(8, FORWARD, guard.forward), (10, PRE_DNAT, [guard.pre_dnat, OPEN])] {
                let [ingress, egress] =
                    [0, 1].map(|side| Word::settled(self.write_set(number + side, rules[side as usize])));
                self.write_endpoint(slot, &Endpoint { ingress, egress, flags: ENDPOINT_READY, ..Endpoint::default() });
            }
            Layers { pre_dnat: PRE_DNAT, forward: FORWARD, ..Layers::default() }
        });
        let layers = Layers { uplink: self.read_endpoint(SLOT_HOST).layers.uplink, ..layers };
        let ingress = Word::settled(says);
        self.write_endpoint(SLOT_HOST, &Endpoint { ingress, layers, ..Endpoint::default() });
    }

    /// Writes the forward layer's slot as no commit would.
    pub fn change_gate(&mut self, change: impl FnOnce(&mut Endpoint)) {
        let mut endpoints: Array<&mut MapData, Endpoint> = map_mut(&mut self.programs, &maps::ENDPOINTS);
        let mut layer = endpoints.get(&FORWARD, 0).expect("a slot can be read");
        change(&mut layer);
        endpoints.set(FORWARD, &layer, 0).expect("a slot can be written");
    }

    /// The generation in force.
    pub fn generation(&mut self) -> u64 {
        let word: Array<&mut MapData, u64> = map_mut(&mut self.programs, &maps::GENERATION);
        word.get(&0, 0).expect("the generation can be read")
    }

    /// Puts another generation in force.
    pub fn write_generation(&mut self, generation: u64) {
        let mut word: Array<&mut MapData, u64> = map_mut(&mut self.programs, &maps::GENERATION);
        word.set(0, &generation, 0).expect("the generation can be written");
    }

    fn read_endpoint(&mut self, slot: u32) -> Endpoint {
        let endpoints: Array<&mut MapData, Endpoint> = map_mut(&mut self.programs, &maps::ENDPOINTS);
        endpoints.get(&slot, 0).expect("a slot can be read")
    }

    fn write_endpoint(&mut self, slot: u32, endpoint: &Endpoint) {
        let mut endpoints: Array<&mut MapData, Endpoint> = map_mut(&mut self.programs, &maps::ENDPOINTS);
        endpoints.set(slot, endpoint, 0).expect("a slot can be written");
    }

    /// Writes the rules as set `number` of the free ones; its id.
    fn write_set(&mut self, number: u32, rules: Rules) -> u32 {
        if rules.is_empty() {
            return SET_OPEN;
        }
        let (id, offset) = (SETS + number, SPANS + 16 * number);
        let mut spans: Array<&mut MapData, Span> = map_mut(&mut self.programs, &maps::SPANS);
        for (at, (start, kind)) in (0..).zip(rules) {
            spans.set(offset + at, &Span::new(*start, *kind, id), 0).expect("a span can be written");
        }
        let row = RowRef { offset, len: u32::try_from(rules.len()).expect("few") };
        let mut sets: Array<&mut MapData, SetEntry> = map_mut(&mut self.programs, &maps::SETS);
        sets.set(id, &SetEntry { row, flags: SET_DEFAULT_ONLY, pad: 0 }, 0).expect("a set can be written");
        id
    }
}
