//! The step from one image to the next: what differs, and the next image seen through it.
//! In: keys and what they shall be. Out: lookups in the next image; the keys that differ.
//! Invariant: what a step does not name is in both images the same.
//! Never: holds a second image.

use super::{
    edits::Edits,
    image::{Entry, Image},
    prefix,
};
use abi::{Address, Endpoint, NetKey, RowKey, RowRef, SetEntry, Span, endpoint::SLOT_NONE, rules::CLASS_NONE};
use std::sync::Arc;

/// What differs, table by table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Every packet is to be judged anew, though nothing else differs.
    pub is_renewed: bool,
    pub endpoints: Edits<u32, Endpoint>,
    pub interfaces: Edits<u32, u32>,
    pub addresses: Edits<Address, Entry>,
    pub nets: Edits<NetKey, Entry>,
    pub sets: Edits<u32, SetEntry>,
    pub rows: Edits<RowKey, RowRef>,
    pub spans: Edits<RowRef, Arc<[Span]>>,
}

impl Change {
    /// Both images are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { is_renewed, endpoints, interfaces, addresses, nets, sets, rows, spans } = self;
        !is_renewed
            && addresses.is_empty()
            && nets.is_empty()
            && endpoints.is_empty()
            && interfaces.is_empty()
            && sets.is_empty()
            && rows.is_empty()
            && spans.is_empty()
    }

    /// Makes an image the next one.
    pub fn apply(self, image: &mut Image) {
        if !self.is_empty() {
            image.generation += 1;
        }
        self.endpoints.apply(&mut image.endpoints);
        self.interfaces.apply(&mut image.interfaces);
        self.addresses.apply(&mut image.addresses);
        self.nets.apply(&mut image.nets);
        self.sets.apply(&mut image.sets);
        self.rows.apply(&mut image.rows);
        self.spans.apply(&mut image.spans);
    }
}

/// From an image, by a change.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    pub old: &'a Image,
    pub change: &'a Change,
}

impl<'a> Step<'a> {
    /// The generation of the next image.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.old.generation + u64::from(!self.change.is_empty())
    }

    /// Who has a slot next.
    #[must_use]
    pub fn endpoint(&self, slot: u32) -> Option<&'a Endpoint> {
        self.change.endpoints.get(&self.old.endpoints, &slot)
    }

    /// The class that an exact address resolves to next.
    #[must_use]
    pub fn class_of(&self, address: Address) -> u32 {
        let own = self.change.addresses.get(&self.old.addresses, &address);
        own.map_or_else(|| self.class_over(&prefix::host(address)), |entry| entry.class)
    }

    /// The class that a network resolves to next, by itself or by the longest one over it.
    #[must_use]
    pub fn class_over(&self, net: &NetKey) -> u32 {
        let found = prefix::longest(net, |key| self.change.nets.get(&self.old.nets, key));
        found.map_or(CLASS_NONE, |entry| entry.class)
    }

    /// The next owner of an address.
    #[must_use]
    pub fn owner_of(&self, address: Address) -> u32 {
        self.change.addresses.get(&self.old.addresses, &address).map_or(SLOT_NONE, |entry| entry.owner)
    }

    /// The row by which a set answers a class next.
    #[must_use]
    pub fn row(&self, set: u32, class: u32) -> RowRef {
        let default = || self.set(set).map(|entry| entry.row).unwrap_or_default();
        let own = self.change.rows.get(&self.old.rows, &RowKey { set, class });
        own.copied().unwrap_or_else(default)
    }

    /// A rule set's next entry.
    #[must_use]
    pub fn set(&self, set: u32) -> Option<&'a SetEntry> {
        self.change.sets.get(&self.old.sets, &set)
    }

    /// What a row refers to next.
    #[must_use]
    pub fn spans(&self, row: &RowRef) -> Option<&'a Arc<[Span]>> {
        self.change.spans.get(&self.old.spans, row)
    }
}
