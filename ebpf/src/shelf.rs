//! The flow tables in memory: what the stages ask of CONNTRACK, NEWFLOW, CTQ and QUOTA.
//! In: keys and entries. Out: entries that stay in their place for as long as the tables live.
//! Invariant: behaves as the kernel's maps do: a full hash refuses, a full LRU hash forgets its oldest, a full queue refuses.
//! Never: part of a program.

use std::boxed::Box;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

use abi::conntrack::QUOTA_ALL;
use abi::{ConntrackEntry, FlowKey, Ticket, Timeout, Timeouts};

use crate::entry::Flow;
use crate::tables::{Inserted, Replaced};

/// Flows that stay where they are for as long as the node lives: a packet's stages hold on to them.
#[derive(Debug, Default)]
struct Shelf(OnceCell<Box<(Flow, Shelf)>>);

impl Shelf {
    fn put(&self, flow: Flow) -> usize {
        let (mut end, mut number) = (self, 0);
        while let Some(taken) = end.0.get() {
            (end, number) = (&taken.1, number + 1);
        }
        end.0.get_or_init(|| Box::new((flow, Self::default())));
        number
    }

    fn at(&self, number: usize) -> Option<&Flow> {
        let mut place = self.0.get()?;
        for _ in 0..number {
            place = place.1.0.get()?;
        }
        Some(&place.0)
    }
}

/// Tracked flows, and what goes with them.
#[derive(Debug, Default)]
pub struct FlowTables {
    shelf: Shelf,
    kept: RefCell<BTreeMap<FlowKey, usize>>,
    new: RefCell<BTreeMap<FlowKey, usize>>,
    ages: RefCell<VecDeque<FlowKey>>,
    queue: RefCell<VecDeque<Ticket>>,
    accounts: RefCell<BTreeMap<u32, i64>>,
    serial: Cell<u32>,
    /// The next entry that is inserted finds that another processor's packet has just done so.
    pub rival: Cell<bool>,
    /// Entries that fit into CONNTRACK.
    pub room: Cell<usize>,
    /// Entries that fit into NEWFLOW.
    pub new_room: Cell<usize>,
    /// Tickets that fit into CTQ.
    pub queue_room: Cell<usize>,
    /// Flows that an endpoint may own.
    pub quota: Cell<u32>,
    /// How long flows live.
    pub timeouts: Timeouts,
}

impl FlowTables {
    /// Empty ones with this much room each.
    pub(crate) fn with_room(room: usize) -> Self {
        Self {
            room: Cell::new(room),
            new_room: Cell::new(room),
            queue_room: Cell::new(2 * room),
            quota: Cell::new(room as u32),
            ..Self::default()
        }
    }

    /// All flows that nobody has declared gone: those of CONNTRACK first.
    pub fn live(&self) -> Vec<(FlowKey, &Flow)> {
        let mut all = self.kept();
        all.extend(self.new.borrow().iter().filter_map(|(key, place)| Some((*key, self.shelf.at(*place)?))));
        all.retain(|(_, flow)| flow.timeout.get() != Timeout::Gone as u8);
        all
    }

    /// All entries of CONNTRACK.
    pub fn kept(&self) -> Vec<(FlowKey, &Flow)> {
        self.kept.borrow().iter().filter_map(|(key, place)| Some((*key, self.shelf.at(*place)?))).collect()
    }

    /// Entries of NEWFLOW.
    pub fn new_count(&self) -> usize {
        self.new.borrow().len()
    }

    /// What the accounts say, those with nothing left out.
    pub fn accounts(&self) -> BTreeMap<u32, i64> {
        self.accounts.borrow().iter().filter(|(_, count)| **count != 0).map(|(slot, count)| (*slot, *count)).collect()
    }

    /// All tickets, in the order in which they are looked at.
    pub fn tickets(&self) -> Vec<Ticket> {
        self.queue.borrow().iter().copied().collect()
    }

    /// Takes the ticket at the queue's head.
    pub fn next_ticket(&self) -> Option<Ticket> {
        self.queue.borrow_mut().pop_front()
    }

    /// What the agent does about a freed slot: the entry goes, and leaves its owner's account.
    pub fn flush(&self, slot: u32) {
        let names = |flow: &Flow| flow.low_slot.get() == slot || flow.high_slot.get() == slot;
        for (key, flow) in self.kept().into_iter().filter(|(_, flow)| names(flow)) {
            self.remove(&key);
            self.count(flow.owner(), -1);
            self.count(QUOTA_ALL, -1);
        }
        self.new.borrow_mut().retain(|_, place| self.shelf.at(*place).is_some_and(|flow| !names(flow)));
    }

    pub(crate) fn flow(&self, key: &FlowKey) -> Option<&Flow> {
        self.shelf.at(*self.kept.borrow().get(key)?)
    }

    pub(crate) fn new_flow(&self, key: &FlowKey) -> Option<&Flow> {
        self.shelf.at(*self.new.borrow().get(key)?)
    }

    pub(crate) fn insert_new(&self, key: &FlowKey, entry: &ConntrackEntry) -> bool {
        let (mut new, mut ages) = (self.new.borrow_mut(), self.ages.borrow_mut());
        ages.retain(|known| known != key && new.contains_key(known));
        if !new.contains_key(key)
            && new.len() >= self.new_room.get()
            && let Some(oldest) = ages.pop_front()
        {
            new.remove(&oldest);
        }
        ages.push_back(*key);
        new.insert(*key, self.shelf.put(Flow::of(entry)));
        true
    }

    pub(crate) fn insert(&self, key: &FlowKey, entry: &ConntrackEntry) -> Inserted {
        let mut kept = self.kept.borrow_mut();
        if self.rival.take() {
            let rivals = ConntrackEntry { serial: self.next_serial(), ..*entry };
            kept.insert(*key, self.shelf.put(Flow::of(&rivals)));
            self.count(rivals.owner(), 1);
            self.count(QUOTA_ALL, 1);
            self.push(&Ticket { key: *key, serial: rivals.serial, pad: 0 });
        }
        if kept.contains_key(key) {
            return Inserted::Known;
        }
        if kept.len() >= self.room.get() {
            return Inserted::Full;
        }
        kept.insert(*key, self.shelf.put(Flow::of(entry)));
        Inserted::New
    }

    pub(crate) fn replace(&self, key: &FlowKey, entry: &ConntrackEntry) -> Replaced {
        match self.kept.borrow_mut().get_mut(key) {
            Some(place) => {
                *place = self.shelf.put(Flow::of(entry));
                Replaced::Done
            }
            None => Replaced::Gone,
        }
    }

    pub(crate) fn remove(&self, key: &FlowKey) -> bool {
        self.kept.borrow_mut().remove(key).is_some()
    }

    pub(crate) fn push(&self, ticket: &Ticket) -> bool {
        let fits = self.queue.borrow().len() < self.queue_room.get();
        if fits {
            self.queue.borrow_mut().push_back(*ticket);
        }
        fits
    }

    pub(crate) fn next_serial(&self) -> u32 {
        self.serial.set(self.serial.get() + 1);
        self.serial.get()
    }

    pub(crate) fn count(&self, account: u32, by: i64) -> i64 {
        let mut accounts = self.accounts.borrow_mut();
        let count = accounts.entry(account).or_default();
        *count += by;
        *count - by
    }
}
