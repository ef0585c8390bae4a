//! Holds the tables against the revision in force: what other hands changed in them is found and put back.
//! In: the image, and the store read back piece by piece. Out: the writes that make the tables say the image again.
//! Invariant: every look takes in the small tables whole and a bounded slice of each large one, so all in turn.
//! Never: looks while a commit is not settled; takes what programs write (flows, counters) for damage.

use super::{
    affected::revision,
    image::{Entry, Image, is_vacant},
    prefix, services,
    services::ServiceWrite,
    write::{Key, Keyed, Store, StoreError, Write},
};
use abi::{Address, ClassEntry, Endpoint, NetKey, RowKey, RowRef, Word, maps};
use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

/// Entries of each large table that one look compares, and keys that it asks for.
const SLICE: usize = 1024;
/// Repairs of one look: each waits for a grace. What is left is found by the next.
const MENDS: usize = 16;

/// How far the walks through the large tables have come.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    addresses: Option<Address>,
    nets: Option<NetKey>,
    rows: Option<RowKey>,
    spans: Option<RowRef>,
    keys: BTreeMap<Keyed, Key>,
}

impl Walk {
    /// The next look: what would have to be written.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn look<S: Store>(&mut self, image: &Image, store: &S) -> Result<Vec<Write>, StoreError> {
        let mut wrong = Vec::new();
        let slots = store.sizes().of(&maps::ENDPOINTS);
        let wanted = small(image, slots).chain(self.slices(image));
        for write in wanted {
            if wrong.len() < MENDS && !store.holds(&write)? {
                wrong.push(write);
            }
        }
        for table in Keyed::ALL {
            let keys = store.keys(table, self.keys.get(&table), SLICE)?;
            match keys.last().filter(|_| keys.len() == SLICE) {
                Some(last) => drop(self.keys.insert(table, *last)),
                None => drop(self.keys.remove(&table)),
            }
            wrong.extend(keys.iter().filter(|key| !knows(image, key)).take(MENDS).map(deleted));
        }
        Ok(wrong)
    }

    fn slices(&mut self, image: &Image) -> Vec<Write> {
        let class = |entry: &Entry| {
            let words = ClassEntry { class: Word::settled(entry.class), endpoint: Word::settled(entry.owner) };
            Write::Class(entry.slot, words)
        };
        let addresses = slice(&image.addresses, &mut self.addresses, SLICE);
        let nets = slice(&image.nets, &mut self.nets, SLICE);
        let rows = slice(&image.rows, &mut self.rows, SLICE);
        let spans = slice(&image.spans, &mut self.spans, SLICE);
        let addresses = addresses.into_iter().flat_map(|(key, is)| [class(is), Write::Address(*key, is.slot)]);
        let nets = nets.into_iter().flat_map(|(key, is)| [class(is), Write::Net(*key, is.slot)]);
        let rows = rows.into_iter().map(|(key, row)| Write::Row(*key, *row));
        let spans = spans.into_iter().map(|(place, spans)| Write::Spans(place.offset, spans.clone()));
        spans.chain(rows).chain(addresses).chain(nets).collect()
    }
}

/// The tables that every look takes in whole.
fn small(image: &Image, slots: u32) -> impl Iterator<Item = Write> {
    let vacant = Endpoint { rev: revision(image.generation), ..Endpoint::default() };
    let endpoint = move |slot| Write::Endpoint(slot, image.endpoints.get(&slot).copied().unwrap_or(vacant));
    let sets = image.sets.iter().map(|(id, entry)| Write::Set(*id, *entry));
    let interfaces = image.interfaces.iter().map(|(index, slot)| Write::Interface(*index, *slot));
    [Write::Generation(image.generation)].into_iter().chain(sets).chain((0..slots).map(endpoint)).chain(interfaces)
}

/// At most `most` entries after the last ones; past the end the next slice is the first.
pub fn slice<'a, K: Ord + Clone, V>(map: &'a BTreeMap<K, V>, last: &mut Option<K>, most: usize) -> Vec<(&'a K, &'a V)> {
    let from = last.as_ref().map_or(Unbounded, Excluded);
    let part: Vec<_> = map.range((from, Unbounded)).take(most).collect();
    *last = part.last().filter(|_| part.len() == most).map(|(key, _)| (*key).clone());
    part
}

fn knows(image: &Image, key: &Key) -> bool {
    match key {
        Key::Interface(index) => image.interfaces.contains_key(index),
        Key::Address(address) => image.addresses.contains_key(address),
        Key::Net(net) => image.nets.contains_key(net),
        Key::Row(row) => image.rows.contains_key(row),
        // Looked at by `services::audit`.
        Key::Service(_) => true,
    }
}

fn deleted(key: &Key) -> Write {
    match *key {
        Key::Interface(index) => Write::DeleteInterface(index),
        Key::Address(address) => Write::DeleteAddress(address),
        Key::Net(net) => Write::DeleteNet(net),
        Key::Row(row) => Write::DeleteRow(row),
        Key::Service(key) => Write::Services(ServiceWrite::DeleteKey(key)),
    }
}

/// Whether a slot says what it should, however its words came to say it. Of an empty slot only the revision may remain.
#[must_use]
pub fn same_endpoint(found: &Endpoint, wanted: &Endpoint) -> bool {
    let plain = |entry: &Endpoint| Endpoint {
        egress: Word::settled(entry.egress.new()),
        ingress: Word::settled(entry.ingress.new()),
        sources: Word::settled(entry.sources.new()),
        rev: if is_vacant(entry) { 0 } else { entry.rev },
        ..*entry
    };
    found.is_settled() && plain(found) == plain(wanted)
}

/// Whether both words of a class slot say what they should.
#[must_use]
pub fn same_class(found: &ClassEntry, wanted: &ClassEntry) -> bool {
    let same = |found: Word, wanted: Word| found.is_settled() && found.new() == wanted.new();
    same(found.class, wanted.class) && same(found.endpoint, wanted.endpoint)
}

/// What a repair is about, for people.
#[must_use]
pub fn text(repair: &Write) -> String {
    match repair {
        Write::Generation(generation) => format!("GENERATION was not {generation}"),
        Write::Endpoint(slot, entry) if is_vacant(entry) => format!("ENDPOINTS slot {slot} was not empty"),
        Write::Endpoint(slot, Endpoint { ifindex: 0, .. }) => format!("ENDPOINTS slot {slot} (this node's)"),
        Write::Endpoint(slot, entry) => format!("ENDPOINTS slot {slot} (interface {})", entry.ifindex),
        Write::Interface(index, _) => format!("INTERFACES entry {index}"),
        Write::DeleteInterface(index) => format!("INTERFACES had a foreign entry {index}"),
        Write::Class(slot, _) => format!("CLASSES slot {slot}"),
        Write::Address(key, _) => format!("ADDRESSES entry {}", prefix::address_of(*key)),
        Write::DeleteAddress(key) => format!("ADDRESSES had a foreign entry {}", prefix::address_of(*key)),
        Write::Net(key, _) => format!("NETS entry {}", prefix::text(key)),
        Write::DeleteNet(key) => format!("NETS had a foreign entry {}", prefix::text(key)),
        Write::Set(id, _) => format!("SETS entry {id}"),
        Write::Row(key, _) => format!("ROWS entry (rule set {}, class {})", key.set, key.class),
        Write::DeleteRow(key) => format!("ROWS had a foreign entry (rule set {}, class {})", key.set, key.class),
        Write::Spans(offset, _) => format!("SPANS from {offset} on"),
        Write::Source(family, _) => format!("SOURCES entry {family}"),
        Write::Tunnel(key, _) => format!("TUNNELS entry {}", prefix::text(key)),
        Write::TunnelLocal(family, _) => format!("TUNNEL_LOCAL entry {family}"),
        Write::Masquerade(family, _) => format!("MASQUERADE entry {family}"),
        Write::Services(repair) => services::text(repair),
        Write::ClearHit(_) | Write::Grace | Write::FlushFlows(_) | Write::FlushAhead(_) => "counters and flows".into(),
    }
}
