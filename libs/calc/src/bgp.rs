//! What is said of BGP: kept for who speaks it, and asked by nothing else here.
//! In: BGPConfigurations, BGPPeers and BGPFilters. Out: they, by name; what of this node others are told.
//! Invariant: none of it changes what this node's kernel should hold.
//! Never: decides who speaks with whom (`bgp`).

use crate::World;
use model::{BgpConfiguration, BgpFilter, BgpPeer, Cidr, EndpointSlice, Resource, ResourceKey, Service};
use std::{collections::BTreeMap, sync::Arc};

/// The objects, by name.
#[derive(Clone, Debug, Default)]
pub struct Bgp {
    /// How nodes speak.
    pub configurations: BTreeMap<String, BgpConfiguration>,
    /// With whom.
    pub peers: BTreeMap<String, BgpPeer>,
    /// What is asked of routes.
    pub filters: BTreeMap<String, BgpFilter>,
}

impl Bgp {
    pub(crate) fn get(&self, key: &ResourceKey) -> Option<Resource> {
        match key {
            ResourceKey::BgpConfiguration(name) => {
                self.configurations.get(name).cloned().map(|object| Resource::BgpConfiguration(object.into()))
            }
            ResourceKey::BgpPeer(name) => self.peers.get(name).cloned().map(|object| Resource::BgpPeer(object.into())),
            ResourceKey::BgpFilter(name) => self.filters.get(name).cloned().map(Resource::BgpFilter),
            _ => None,
        }
    }

    /// `false`: what is desired stays as it is.
    pub(crate) fn set(&mut self, resource: Resource) -> bool {
        match resource {
            Resource::BgpConfiguration(object) => drop(self.configurations.insert(object.name.clone(), *object)),
            Resource::BgpPeer(object) => drop(self.peers.insert(object.name.clone(), *object)),
            Resource::BgpFilter(object) => drop(self.filters.insert(object.name.clone(), object)),
            _ => {}
        }
        false
    }

    /// `false`, likewise.
    pub(crate) fn remove(&mut self, key: &ResourceKey) -> bool {
        match key {
            ResourceKey::BgpConfiguration(name) => drop(self.configurations.remove(name)),
            ResourceKey::BgpPeer(name) => drop(self.peers.remove(name)),
            ResourceKey::BgpFilter(name) => drop(self.filters.remove(name)),
            _ => {}
        }
        false
    }
}

impl World {
    /// What is said of BGP.
    #[must_use]
    pub fn bgp(&self) -> &Bgp {
        &self.bgp
    }

    /// Blocks of this node, in order.
    #[must_use]
    pub fn own_blocks(&self) -> Vec<Cidr> {
        let own = self.blocks.of_node(&self.node).filter(|block| self.blocks.holder(*block) == Some(&self.node));
        own.collect()
    }

    /// Networks of this node's own interfaces, in order.
    #[must_use]
    pub fn own_networks(&self) -> Vec<Cidr> {
        let mut nets: Vec<_> = self.networks.values().flatten().copied().collect();
        nets.sort();
        nets.dedup();
        nets
    }

    /// All services and who stands behind them, for who tells of their addresses.
    #[must_use]
    pub fn services_and_slices(&self) -> (Vec<Arc<Service>>, Vec<Arc<EndpointSlice>>) {
        (self.services.values().cloned().collect(), self.slices.values().cloned().collect())
    }

    /// Where no encapsulation is wanted and a node is in no network of this one's, a speaker of BGP finds the way.
    pub fn leave_far_nodes(&mut self, leaves: bool) {
        self.leaves_far_nodes = leaves;
    }
}
