//! Peers: exact addresses and networks, and the classes they fall into.
//! In: those that may differ, or all. Out: entries; classes that are met for the first time.
//! Invariant: a key keeps its class slot; an address whose owner has another slot is looked at, whatever else is new.
//! Never: compiles a row.

use super::{Draft, Way};
use crate::tables::{image::Entry, numbers::lowest, prefix};
use abi::{
    Address, NetKey,
    endpoint::{SLOT_HOST, SLOT_NONE},
    rules::CLASS_NONE,
};
use calc::{AddressSpec, Desired, Owner, Touched};
use model::{Cidr, Family};
use policy::Class;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

impl Draft<'_> {
    /// `touched`: those that may differ; `None`: any.
    pub(super) fn addresses(&mut self, desired: &Desired, touched: Option<&Touched>) {
        let keyed = |address: &IpAddr| Some((prefix::address_key(*address)?, desired.addresses.get(address)));
        let asked: BTreeMap<Address, Option<&AddressSpec>> = match touched {
            Some(touched) => touched.addresses.iter().chain(&self.moved(desired)).filter_map(keyed).collect(),
            None => {
                let held = self.old.addresses.keys().map(|key| (*key, None));
                held.chain(desired.addresses.keys().filter_map(keyed)).collect()
            }
        };
        for (key, spec) in asked {
            let entry = spec.map(|spec| {
                let (class, held) = (self.class(&spec.class), self.old.addresses.get(&key));
                let slot = held.map_or_else(|| lowest(&mut self.numbers.class_slots), |held| held.slot);
                Entry { slot, class, owner: self.owner(&spec.owner) }
            });
            let was = self.old.addresses.get(&key);
            self.recount(was, entry.as_ref());
            self.change.addresses.set(&self.old.addresses, key, entry);
        }
    }

    /// Addresses of endpoints that are served where they were not before, or no more.
    fn moved(&self, desired: &Desired) -> Vec<IpAddr> {
        let moved = self.names.endpoints.all(&self.known.endpoints);
        let specs = moved.filter_map(|(id, ..)| desired.endpoints.get(id));
        specs.flat_map(|spec| spec.addresses.iter().copied()).collect()
    }

    fn owner(&self, owner: &Owner) -> u32 {
        match owner {
            Owner::Elsewhere => SLOT_NONE,
            Owner::Host => SLOT_HOST,
            Owner::Endpoint(id) => self.names.endpoints.get(&self.known.endpoints, id).copied().unwrap_or(SLOT_NONE),
        }
    }

    /// The same for networks. One over all of IPv4 stands guard where an IPv6 network would reach it.
    pub(super) fn nets(&mut self, desired: &Desired, touched: Option<&Touched>) {
        let keyed = |net: &Cidr| Some((prefix::net_key(net)?, desired.nets.get(net)));
        let asked: BTreeMap<NetKey, Option<&Arc<Class>>> = match touched {
            Some(touched) => touched.nets.iter().filter_map(keyed).collect(),
            None => {
                let held = self.old.nets.keys().map(|key| (*key, None));
                held.chain(desired.nets.keys().filter_map(keyed)).collect()
            }
        };
        if asked.is_empty() {
            return;
        }
        for (key, class) in asked.into_iter().filter(|(key, _)| *key != prefix::ALL_V4) {
            let class = class.map(|class| self.class(class));
            self.net(key, class);
        }
        let is_guarded = prefix::guard(|key| self.change.nets.get(&self.old.nets, key).is_some());
        let own = desired.nets.get(&Cidr::all(Family::V4)).map(|class| self.class(class));
        self.net(prefix::ALL_V4, own.or(is_guarded.then_some(CLASS_NONE)));
    }

    fn net(&mut self, key: NetKey, class: Option<u32>) {
        let was = self.old.nets.get(&key);
        let entry = class.map(|class| {
            let slot = was.map_or_else(|| lowest(&mut self.numbers.class_slots), |held| held.slot);
            Entry { slot, class, owner: SLOT_NONE }
        });
        self.recount(was, entry.as_ref());
        self.change.nets.set(&self.old.nets, key, entry);
    }

    fn recount(&mut self, was: Option<&Entry>, is: Option<&Entry>) {
        let uses = &self.ledger.uses;
        if let Some(is) = is {
            self.uses.class(uses, is, Way::More);
        }
        if let Some(was) = was
            && self.uses.class(uses, was, Way::Less) == 0
        {
            self.doubtful.classes.insert(was.class);
        }
    }

    fn class(&mut self, content: &Arc<Class>) -> u32 {
        if **content == Class::default() {
            return CLASS_NONE;
        }
        if let Some(id) = self.met_classes.get(&Arc::as_ptr(content)) {
            return *id;
        }
        let known = self.names.classes.get(&self.known.classes, content).copied();
        let id = known.unwrap_or_else(|| {
            let id = lowest(&mut self.numbers.classes);
            self.names.classes.set(&self.known.classes, Arc::clone(content), Some(id));
            self.fresh_classes.add(id, content);
            self.fresh_class_ids.push(id);
            id
        });
        self.met_classes.insert(Arc::as_ptr(content), id);
        id
    }
}
