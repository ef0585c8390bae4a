//! What Log rules wrote down: one line of the agent's log for each judgement that met one, within the programs' rate.
//! In: the programs' ring, and what hits, slots and addresses mean. Out: lines at level info, and a line for those left out.
//! Invariant: a line names who, whom, protocol and ports, the verdict and what decided, and every Log rule on the way.
//! Never: waits for a packet; slows one down, since a full ring only leaves lines out.

use crate::{
    OpenError,
    tables::{Store, Tables, names::Names, prefix},
};
use abi::{
    SpanKind,
    endpoint::{SLOT_HOST, SLOT_NONE},
    log::{LOG_ACCOUNT_MAP, LOG_MAP, LogRecord},
};
use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray, RingBuf},
};
use calc::EndpointSpec;
use model::{AttachmentId, Protocol};
use std::collections::BTreeMap;

/// The target of the lines: what a log filter calls them.
const TARGET: &str = "policy";

/// Where records come from.
pub struct PolicyLog {
    ring: RingBuf<MapData>,
    account: PerCpuArray<MapData, [u64; 2]>,
    /// Records left out that were spoken of.
    told: u64,
}

impl PolicyLog {
    /// Takes the programs' maps. What they wrote while no agent ran goes unread: what its numbers meant is forgotten.
    ///
    /// # Errors
    /// The object has none.
    pub fn of(ebpf: &mut Ebpf) -> Result<Self, OpenError> {
        let missing = |name: &str| OpenError::Missing { kind: "map", name: name.to_owned() };
        let mut take = |name: &str| ebpf.take_map(name).ok_or_else(|| missing(name));
        let (ring, account): (Map, Map) = (take(LOG_MAP)?, take(LOG_ACCOUNT_MAP)?);
        let mut ring = RingBuf::try_from(ring).map_err(|_| missing(LOG_MAP))?;
        while ring.next().is_some() {}
        let account = PerCpuArray::try_from(account).map_err(|_| missing(LOG_ACCOUNT_MAP))?;
        let mut log = Self { ring, account, told: 0 };
        log.told = log.left_out();
        Ok(log)
    }

    /// Writes a line for every record since the last time.
    pub fn write<S: Store>(&mut self, tables: &Tables<S>, wanted: &BTreeMap<AttachmentId, EndpointSpec>) {
        let mut known = None;
        while let Some(record) = self.ring.next() {
            let words = record.as_chunks::<8>().0;
            let Ok(words) = <[[u8; 8]; 6]>::try_from(words) else { continue };
            let record = LogRecord::from_words(words.map(u64::from_ne_bytes));
            let known = known.get_or_insert_with(|| Known::of(tables, wanted));
            tracing::info!(target: TARGET, "{}", known.line(&record));
        }
        let left_out = self.left_out();
        if left_out > self.told {
            tracing::warn!(target: TARGET, "{} lines of Log rules were left out: there were too many", left_out - self.told);
            self.told = left_out;
        }
    }

    /// Records that were left out since the programs were loaded.
    fn left_out(&self) -> u64 {
        self.account.get(&0, 0).map_or(self.told, |accounts| accounts.iter().map(|[_, left_out]| left_out).sum())
    }
}

/// What numbers mean.
struct Known<'a> {
    names: &'a Names,
    /// Who owns an address: endpoint slots by address.
    owners: BTreeMap<abi::Address, u32>,
    /// What people call an endpoint, by its slot.
    ends: BTreeMap<u32, String>,
}

impl<'a> Known<'a> {
    fn of<S: Store>(tables: &'a Tables<S>, wanted: &BTreeMap<AttachmentId, EndpointSpec>) -> Self {
        let (names, image) = (tables.names(), tables.image());
        let pods = names.endpoints.iter().filter_map(|(id, slot)| Some((*slot, wanted.get(id)?.pod.to_string())));
        let hosts = names.hosts.iter().map(|(interface, slot)| (*slot, format!("interface {interface}")));
        let layers = names.hosts.iter().flat_map(|(interface, slot)| {
            let layers = image.endpoints.get(slot).map(|entry| entry.layers).unwrap_or_default();
            let named = [layers.untracked, layers.pre_dnat, layers.forward].map(|layer| (layer, interface));
            named.into_iter().filter(|(layer, _)| *layer != SLOT_NONE)
        });
        let layers = layers.map(|(layer, interface)| (layer, format!("interface {interface}")));
        let of_all = image.endpoints.get(&SLOT_HOST).map(|entry| entry.layers).unwrap_or_default();
        let of_all = [of_all.pre_dnat, of_all.forward].into_iter().filter(|layer| *layer != SLOT_NONE);
        let of_all = of_all.map(|layer| (layer, "all interfaces".to_owned()));
        let node = [(SLOT_HOST, "this node".to_owned())];
        let owners = image.addresses.iter().map(|(address, entry)| (*address, entry.owner));
        Self {
            names,
            owners: owners.filter(|(_, owner)| *owner != SLOT_NONE).collect(),
            ends: node.into_iter().chain(of_all).chain(layers).chain(hosts).chain(pods).collect(),
        }
    }

    fn line(&self, record: &LogRecord) -> String {
        let protocol = Protocol((record.x >> 16) as u8);
        let detail = record.x as u16;
        let end = |address: abi::Address, port: u16| {
            let name = self.owners.get(&address).and_then(|slot| self.ends.get(slot));
            let ip = prefix::address_of(address);
            let place = match protocol.has_ports() {
                true => std::net::SocketAddr::new(ip, port).to_string(),
                false => ip.to_string(),
            };
            name.map_or_else(|| place.clone(), |name| format!("{name} ({place})"))
        };
        let [kind, code] = detail.to_be_bytes();
        let message = match protocol {
            Protocol::ICMP | Protocol::ICMPV6 => format!(" type {kind} code {code}"),
            _ => String::new(),
        };
        let (from, to) = (end(record.source, record.source_port), end(record.destination, detail));
        let whose = self.ends.get(&record.slot).map_or_else(|| format!("slot {}", record.slot), Clone::clone);
        let direction = if record.is_ingress { "ingress" } else { "egress" };
        let verdict = match record.span.kind() {
            SpanKind::Allow => "allowed",
            SpanKind::Next => "not decided",
            _ => "denied",
        };
        let (decider, logs) = match self.names.hit(record.span.hit) {
            Some(hit) => {
                (hit.decider.to_string(), hit.logs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            None => ("a rule that is no longer known".to_owned(), "one that is no longer known".to_owned()),
        };
        format!("{verdict}: {from} to {to} {protocol}{message}, {direction} of {whose}, by {decider}; logged by {logs}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::{Address, Span, rules::x_of};
    use model::{Direction, PolicyId, PolicyKind, TierName};
    use policy::{Decider, Hit, Verdict};

    fn rule(name: &str, place: u16) -> Decider {
        let policy = PolicyId { name: name.into(), namespace: "".into(), kind: PolicyKind::GlobalNetworkPolicy };
        Decider::Rule { tier: TierName::DEFAULT.into(), policy, direction: Direction::Ingress, place }
    }

    #[test]
    fn cal_8_a_line_names_both_ends_protocol_ports_verdict_and_rules() {
        let hit = Hit { logs: vec![rule("watch", 0)], ..Hit::new(Verdict::Deny, rule("watch", 1)) };
        let names = Names { hits: [(std::sync::Arc::new(hit), 7)].into(), ..Names::default() };
        let (client, db) = (Address::from_v4([10, 0, 0, 2]), Address::from_v4([10, 0, 0, 3]));
        let owners = [(db, 3)].into();
        let known = Known { names: &names, owners, ends: [(3, "default/db".to_owned())].into() };
        let record = LogRecord {
            source: client,
            destination: db,
            slot: 3,
            is_ingress: true,
            x: x_of(6, 5432),
            source_port: 40_000,
            span: Span::new(0, SpanKind::Deny, 7),
        };
        assert_eq!(
            known.line(&record),
            "denied: 10.0.0.2:40000 to default/db (10.0.0.3:5432) TCP, ingress of default/db, by GlobalNetworkPolicy watch \
             ingress rule 1; logged by GlobalNetworkPolicy watch ingress rule 0"
        );
        let ping = LogRecord { x: x_of(1, 0x0800), span: Span::new(0, SpanKind::Allow, 9), ..record };
        assert_eq!(
            known.line(&ping),
            "allowed: 10.0.0.2 to default/db (10.0.0.3) ICMP type 8 code 0, ingress of default/db, by a rule that is no \
             longer known; logged by one that is no longer known"
        );
    }
}
