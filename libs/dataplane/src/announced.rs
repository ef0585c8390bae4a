//! The addresses that this node answers for at its uplink, as the programs read them.
//! In: addresses, and until when. Out: two maps, by handles of its own.
//! Invariant: what an agent before left is gone before anything is answered anew.
//! Never: decides who holds an address.

use crate::{
    pins,
    tables::{StoreError, prefix::address_key},
};
use abi::{
    Address, Announcing,
    maps::{self, MapSpec},
};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use model::{Ifindex, Mac};
use std::{collections::BTreeSet, fmt, net::IpAddr, path::Path, time::Duration};

/// So many addresses fit.
pub const ROOM: usize = maps::ANNOUNCED.default_entries as usize;

/// The maps.
pub struct Announced {
    announcing: Array<MapData, Announcing>,
    addresses: HashMap<MapData, Address, u32>,
    held: BTreeSet<IpAddr>,
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
    /// Over the maps pinned below `bpffs`; from then on nothing is answered.
    ///
    /// # Errors
    /// They are not there, or cannot be written.
    pub fn open(bpffs: &Path) -> Result<Self, StoreError> {
        let announcing = open(bpffs, &maps::ANNOUNCING)?;
        let addresses = open(bpffs, &maps::ANNOUNCED)?;
        let mut opened = Self { announcing, addresses, held: BTreeSet::new() };
        opened.say(Announcing::default())?;
        let left: Vec<_> = opened.addresses.keys().collect::<Result<_, _>>().map_err(of_addresses)?;
        left.iter().try_for_each(|address| opened.addresses.remove(address)).map_err(of_addresses)?;
        Ok(opened)
    }

    /// What is answered for.
    #[must_use]
    pub fn held(&self) -> &BTreeSet<IpAddr> {
        &self.held
    }

    /// Answers for exactly these: first what is no more is taken out.
    ///
    /// # Errors
    /// The kernel refuses; what stands there then is [`Announced::held`].
    pub fn hold(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(), StoreError> {
        for gone in self.held.difference(wanted).copied().collect::<Vec<_>>() {
            if let Some(key) = address_key(gone) {
                self.addresses.remove(&key).map_err(of_addresses)?;
            }
            self.held.remove(&gone);
        }
        for new in wanted.difference(&self.held).copied().collect::<Vec<_>>() {
            if let Some(key) = address_key(new) {
                self.addresses.insert(&key, &1, 0).map_err(of_addresses)?;
                self.held.insert(new);
            }
        }
        Ok(())
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
