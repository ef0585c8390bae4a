//! The addresses that this node answers for at its uplink, as the programs read them.
//! In: addresses, and how long each is answered for. Out: two maps, by handles of its own.
//! Invariant: what an agent before held by a lease is gone before anything is answered anew; what it answered for as long as there
//! is a pod goes on.
//! Never: decides who holds an address.

use crate::{
    pins,
    tables::{
        StoreError,
        prefix::{address_key, address_of},
    },
};
use abi::{
    Address, Announcing,
    announce::{ANNOUNCED_ENDPOINT, ANNOUNCED_LEASED},
    maps::{self, MapSpec},
};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use model::{Ifindex, Mac};
use std::{collections::BTreeMap, fmt, net::IpAddr, path::Path, time::Duration};

/// So many addresses fit.
pub const ROOM: usize = maps::ANNOUNCED.default_entries as usize;

/// How long an address is answered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lasts {
    /// As [`Announced::last_until`] says: another node may have it then.
    Leased,
    /// As long as a pod of this node has it.
    WithPod,
}

impl Lasts {
    const fn word(self) -> u32 {
        match self {
            Self::Leased => ANNOUNCED_LEASED,
            Self::WithPod => ANNOUNCED_ENDPOINT,
        }
    }
}

/// The maps.
pub struct Announced {
    announcing: Array<MapData, Announcing>,
    addresses: HashMap<MapData, Address, u32>,
    held: BTreeMap<IpAddr, Lasts>,
}

fn failed(map: &MapSpec, error: impl fmt::Display) -> StoreError {
    StoreError { map: map.name, reason: error.to_string() }
}

fn open<M: TryFrom<Map, Error = MapError>>(bpffs: &Path, spec: &MapSpec) -> Result<M, StoreError> {
    let pin = pins::maps_dir(bpffs).join(pins::map_name(spec));
    let data = MapData::from_pin(pin).map_err(|error| failed(spec, error))?;
    Map::from_map_data(data).and_then(M::try_from).map_err(|error| failed(spec, error))
}

impl Announced {
    /// Over the maps pinned below `bpffs`; from then on nothing that was leased is answered for.
    ///
    /// # Errors
    /// They are not there, or cannot be written.
    pub fn open(bpffs: &Path) -> Result<Self, StoreError> {
        let announcing = open(bpffs, &maps::ANNOUNCING)?;
        let addresses = open(bpffs, &maps::ANNOUNCED)?;
        let mut opened = Self { announcing, addresses, held: BTreeMap::new() };
        let former = opened.announcing.get(&0, 0).map_err(|error| failed(&maps::ANNOUNCING, error))?;
        opened.say(Announcing { until_ns: 0, ..former })?;
        let left: Vec<_> = opened.addresses.iter().collect::<Result<_, _>>().map_err(of_addresses)?;
        for (key, lasts) in left {
            if lasts == ANNOUNCED_ENDPOINT {
                opened.held.insert(address_of(key), Lasts::WithPod);
            } else {
                opened.addresses.remove(&key).map_err(of_addresses)?;
            }
        }
        Ok(opened)
    }

    /// What is answered for.
    #[must_use]
    pub fn held(&self) -> &BTreeMap<IpAddr, Lasts> {
        &self.held
    }

    /// Answers for exactly these: first what is no more is taken out.
    ///
    /// # Errors
    /// The kernel refuses; what stands there then is [`Announced::held`].
    pub fn hold(&mut self, wanted: &BTreeMap<IpAddr, Lasts>) -> Result<(), StoreError> {
        let gone: Vec<_> = self.held.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        for address in gone {
            if let Some(key) = address_key(address) {
                self.addresses.remove(&key).map_err(of_addresses)?;
            }
            self.held.remove(&address);
        }
        for (address, lasts) in wanted {
            if self.held.get(address) == Some(lasts) {
                continue;
            }
            if let Some(key) = address_key(*address) {
                self.addresses.insert(&key, &lasts.word(), 0).map_err(of_addresses)?;
                self.held.insert(*address, *lasts);
            }
        }
        Ok(())
    }

    /// Answers at this interface and with this MAC; nothing that is leased.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn answer_at(&mut self, interface: Ifindex, mac: Mac) -> Result<(), StoreError> {
        self.say(Announcing { until_ns: 0, ifindex: interface.0, mac: mac.0, pad: [0; 6] })
    }

    /// Answers for nothing, at the price of one array's look.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn be_silent(&mut self) -> Result<(), StoreError> {
        self.say(Announcing::default())
    }

    /// Answers until then (of the monotonic clock), at this interface and with this MAC.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn last_until(&mut self, until: Duration, interface: Ifindex, mac: Mac) -> Result<(), StoreError> {
        let until_ns = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        self.say(Announcing { until_ns, ifindex: interface.0, mac: mac.0, pad: [0; 6] })
    }

    fn say(&mut self, announcing: Announcing) -> Result<(), StoreError> {
        self.announcing.set(0, &announcing, 0).map_err(|error| failed(&maps::ANNOUNCING, error))
    }
}

fn of_addresses(error: MapError) -> StoreError {
    failed(&maps::ANNOUNCED, error)
}
