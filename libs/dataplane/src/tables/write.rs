//! The writes the kernel tables take, and the store that takes them.
//! In: one [`Write`] after another. Out: kernel maps that hold them, or the name of the map that refused.
//! Invariant: a word, a revision and the generation are each stored by one aligned store.
//! Never: decides what to write or in which order; the plan does.

use super::{
    services::{ServiceSnapshot, ServiceWrite},
    sizes::Sizes,
};
use abi::{
    Address, ClassEntry, Endpoint, Masquerade, NetKey, RowKey, RowRef, ServiceKey, SetEntry, Span, TunnelEnd,
    TunnelLocal,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// One step of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Spans at an offset that nothing refers to.
    Spans(u32, Arc<[Span]>),
    /// Counter of a hit id that gets a new meaning.
    ClearHit(u32),
    /// A rule set's default row, under an id that no endpoint uses.
    Set(u32, SetEntry),
    /// A row of its own.
    Row(RowKey, RowRef),
    /// Takes a row away.
    DeleteRow(RowKey),
    /// Both words of a class slot.
    Class(u32, ClassEntry),
    /// An exact address, new.
    Address(Address, u32),
    /// Takes an exact address away.
    DeleteAddress(Address),
    /// A network, new.
    Net(NetKey, u32),
    /// Takes a network away.
    DeleteNet(NetKey),
    /// An endpoint's slot.
    Endpoint(u32, Endpoint),
    /// An interface's slot, new.
    Interface(u32, u32),
    /// Takes an interface away.
    DeleteInterface(u32),
    /// One of the tables of services.
    Services(ServiceWrite),
    /// Puts everything before it in force.
    Generation(u64),
    /// Waits until no program runs that began before.
    Grace,
    /// The address from which ICMP errors come: of IPv4 (0) or IPv6 (1); all zero: none.
    Source(u32, Address),
    /// Behind which node a network lies; `None`: behind none.
    Tunnel(NetKey, Option<TunnelEnd>),
    /// From which of its addresses, and in which network, this node's wrapped packets come: of IPv4 (0) or IPv6 (1).
    TunnelLocal(u32, TunnelLocal),
    /// As whom this node stands for its pods outside, likewise.
    Masquerade(u32, Masquerade),
    /// Deletes flows that name one of these endpoint slots.
    FlushFlows(BTreeSet<u32>),
    /// Deletes flows stamped later than this generation, which only a foreign generation can have done.
    FlushAhead(u64),
}

/// A table that is found by keys, so that it can hold one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keyed {
    /// Of interface indexes.
    Interfaces,
    /// Of exact addresses.
    Addresses,
    /// Of networks.
    Nets,
    /// Of rule sets and classes.
    Rows,
    /// Of frontends, beside the others ([`super::services`]).
    Services,
}

impl Keyed {
    /// Those of policy.
    pub const ALL: [Self; 4] = [Self::Interfaces, Self::Addresses, Self::Nets, Self::Rows];
}

/// One of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// An interface's index.
    Interface(u32),
    /// An exact address.
    Address(Address),
    /// A network.
    Net(NetKey),
    /// A rule set and a class.
    Row(RowKey),
    /// A frontend.
    Service(ServiceKey),
}

/// A map did not take a write or give a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{map}: {reason}")]
pub struct StoreError {
    /// The map.
    pub map: &'static str,
    /// Why.
    pub reason: String,
}

/// Everything that can be read back from the tables, words as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The generation in force.
    pub generation: u64,
    /// Slots that are not all zero.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Interface index to slot.
    pub interfaces: BTreeMap<u32, u32>,
    /// Exact addresses to class slots.
    pub addresses: BTreeMap<Address, u32>,
    /// Networks to class slots.
    pub nets: BTreeMap<NetKey, u32>,
    /// The class slots that addresses and networks name.
    pub classes: BTreeMap<u32, ClassEntry>,
    /// Rule sets that are not all zero.
    pub sets: BTreeMap<u32, SetEntry>,
    /// Rows of their own.
    pub rows: BTreeMap<RowKey, RowRef>,
    /// What the rows refer to.
    pub spans: BTreeMap<RowRef, Arc<[Span]>>,
    /// Services.
    pub services: ServiceSnapshot,
}

/// Takes writes, gives back what is there.
pub trait Store {
    /// What is there.
    ///
    /// # Errors
    /// A map cannot be read, or refers outside another.
    fn read(&self) -> Result<Snapshot, StoreError>;

    /// Does one write.
    ///
    /// # Errors
    /// The kernel refuses it.
    fn write(&mut self, write: &Write) -> Result<(), StoreError>;

    /// What lies behind which node.
    ///
    /// # Errors
    /// The map cannot be read.
    fn tunnels(&self) -> Result<BTreeMap<NetKey, TunnelEnd>, StoreError>;

    /// Asks for a grace that begins after everything written so far; its number.
    fn ask_grace(&mut self) -> u64;

    /// The number up to which graces are over. Does not wait.
    ///
    /// # Errors
    /// The kernel refuses graces.
    fn graces_over(&self) -> Result<u64, StoreError>;

    /// Waits for a grace.
    ///
    /// # Errors
    /// The kernel refuses graces.
    fn await_grace(&mut self, grace: u64) -> Result<(), StoreError>;

    /// Whether the tables hold what this write puts there.
    ///
    /// # Errors
    /// A map cannot be read.
    fn holds(&self, write: &Write) -> Result<bool, StoreError>;

    /// Puts it there over whatever somebody else has put there, and waits for a grace.
    ///
    /// # Errors
    /// The kernel refuses it.
    fn mend(&mut self, write: &Write) -> Result<(), StoreError>;

    /// At most `most` keys after one, in the table's own order; the first ones if that one is gone or `None`.
    ///
    /// # Errors
    /// A map cannot be read.
    fn keys(&self, table: Keyed, after: Option<&Key>, most: usize) -> Result<Vec<Key>, StoreError>;

    /// How much fits.
    fn sizes(&self) -> Sizes;
}
