//! This node's end of its tunnels: an address of a pool, claimed as Calico claims it, and told to the other nodes.
//! In: pools, and what the datastore says of this node, from the owner. Out: claims in the blocks; the end, told.
//! Invariant: an end is told only after its address is claimed, and the address given back only after the end is taken back.
//! Never: makes the owner wait; gives an address back because something could not be asked.

use crate::{
    allocate::{AllocateError, Allocator, Rules},
    mailbox::{Mailbox, put},
};
use anyhow::Result;
use calc::World;
use datastore::{ObjectError, Store, vtep_mac};
use ipam::Tunnel;
use model::{Family, IpPool, NodeName, NodeVteps, Truth, Vtep, Vteps};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, thread, time::Duration};

/// After what failed.
const AGAIN: Duration = Duration::from_secs(5);

/// What it has to go by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    rules: Rules,
    /// Their addresses of the node's own networks, which nobody else has.
    own: Vec<IpAddr>,
    /// Pools of which tunnels have addresses, by what they are for.
    pools: BTreeMap<Tunnel, Vec<String>>,
    /// What the datastore says now.
    said: Vteps,
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub struct Tunneller(Arc<Mailbox<Option<Known>>>);

/// Why there is no end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Address(#[from] AllocateError),
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl Tunneller {
    /// Over the objects that agents share.
    pub fn start(objects: Store, node: NodeName) -> Result<Self> {
        let shared = Arc::<Mailbox<Option<Known>>>::default();
        let theirs = Arc::clone(&shared);
        let mut worker = Worker { allocator: Allocator::new(objects, node.clone()), node, failed: None };
        thread::Builder::new().name("tunnel".into()).spawn(move || worker.run(&theirs))?;
        Ok(Self(shared))
    }

    /// Now and then: what it has to go by. Nothing, as long as the datastore has not said everything, or knows no such node.
    pub fn follow(&self, world: &World) {
        if world.in_sync().is_none() || world.own_node().is_none() || world.leaves_routes() {
            return;
        }
        let rules = Rules::of(world);
        let is_for_us = |pool: &&IpPool| {
            let is_selected = pool.nodes.matches(&rules.node_labels) == Truth::Yes;
            pool.uses.tunnel && !pool.disabled && is_selected
        };
        let mut pools = BTreeMap::<Tunnel, Vec<String>>::new();
        for pool in rules.pools.values().filter(is_for_us) {
            let of = match (pool.uses_vxlan(), pool.uses_ipip()) {
                (true, _) => Tunnel::Vxlan(pool.cidr.family()),
                (false, true) => Tunnel::Ipip,
                (false, false) => continue,
            };
            pools.entry(of).or_default().push(pool.name.clone());
        }
        let known = Known { own: world.tunnel_addresses().collect(), pools, said: world.vteps(), rules };
        self.0.tell(|told| put(told, Some(known)));
    }
}

struct Worker {
    allocator: Allocator,
    node: NodeName,
    /// What was told of last.
    failed: Option<String>,
}

impl Worker {
    fn run(&mut self, shared: &Mailbox<Option<Known>>) {
        let mut rest = None;
        loop {
            let known = shared.hear(rest).value.clone();
            let Some(known) = known else { continue };
            let done = self.make(&known);
            rest = done.is_err().then_some(AGAIN);
            let failed = done.err().map(|error| error.to_string());
            if let Some(error) = failed.as_ref().filter(|_| failed != self.failed) {
                tracing::warn!("this node's tunnels have no end for others: {error}");
            }
            self.failed = failed;
        }
    }

    /// Of the node's own network, or claimed.
    fn vxlan(&self, known: &Known, family: Family) -> Result<Option<IpAddr>, Failure> {
        if let Some(own) = known.own.iter().find(|address| Family::of(**address) == family) {
            return Ok(Some(*own));
        }
        let tunnel = Tunnel::Vxlan(family);
        let pools = known.pools.get(&tunnel);
        Ok(pools.map(|pools| self.allocator.tunnel(tunnel, pools)).transpose()?)
    }

    /// Claims first, then tells; takes back what was told, then gives back.
    fn make(&mut self, known: &Known) -> Result<(), Failure> {
        self.allocator.rules = known.rules.clone();
        let mut vteps = Vteps::default();
        if let Some(address) = self.vxlan(known, Family::V4)? {
            let mac = known.said.v4.map_or_else(|| vtep_mac(&self.node, false), |end| end.mac);
            vteps.v4 = Some(Vtep { address, mac });
        }
        if let Some(address) = self.vxlan(known, Family::V6)? {
            // One device has one MAC.
            let own = || known.said.v6.map_or_else(|| vtep_mac(&self.node, true), |end| end.mac);
            vteps.v6 = Some(Vtep { address, mac: vteps.v4.map_or_else(own, |end| end.mac) });
        }
        if let Some(pools) = known.pools.get(&Tunnel::Ipip)
            && let IpAddr::V4(address) = self.allocator.tunnel(Tunnel::Ipip, pools)?
        {
            vteps.ipip = Some(address);
        }
        if vteps != known.said {
            self.allocator.objects().tell_vteps(&NodeVteps { node: self.node.clone(), vteps })?;
            tracing::info!(?vteps, "this node's tunnels end there");
        }
        for tunnel in Tunnel::ALL.into_iter().filter(|tunnel| !known.pools.contains_key(tunnel)) {
            self.allocator.give_back_tunnel(tunnel)?;
        }
        Ok(())
    }
}
