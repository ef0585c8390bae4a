//! The tables of services and of announced addresses in memory.
//! In: what a test put into the node. Out: what the kernel's tables would say.
//! Invariant: as of the node's other tables; a twin remembers nothing.
//! Never: part of a program.

use std::collections::BTreeMap;

use abi::{
    Address, Affinity, AffinityKey, Announcing, Backend, Balancer, Frontend, Masquerade, Member, ServiceKey, SocketKey,
    SocketPeer, TunnelEnd,
};

use crate::fake::{Node, Twin};
use crate::sockets::Sockets;
use crate::tables::{Announcements, Services};

/// What is announced, and the clock that it ends by.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    /// As of the map.
    pub announcing: Announcing,
    /// `ANNOUNCED`.
    pub addresses: BTreeMap<Address, u32>,
    /// Nanoseconds.
    pub now_ns: u64,
}

/// What is remembered of sockets.
pub type Peers = BTreeMap<SocketKey, SocketPeer>;

/// What was counted of services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Flows by the slots of frontend and backend.
    pub opened: BTreeMap<(u32, u32), u32>,
    /// Packets by the frontend's slot.
    pub refused: BTreeMap<u32, u32>,
}

impl Services for Node {
    fn service(&self, key: &ServiceKey) -> Option<u32> {
        self.services.get(key).copied()
    }
    fn frontend(&self, slot: u32) -> Option<&Frontend> {
        self.frontends.get(slot as usize)
    }
    fn balancer(&self, id: u32) -> Option<&Balancer> {
        self.balancers.get(id as usize)
    }
    fn member(&self, index: u32) -> Option<Member> {
        self.members.get(index as usize).copied()
    }
    fn backend(&self, slot: u32) -> Option<&Backend> {
        self.backends.get(slot as usize)
    }
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.borrow().get(key).copied()
    }
    fn insert_affinity(&self, key: &AffinityKey, kept: &Affinity) {
        self.affinity.borrow_mut().insert(*key, *kept);
    }
    fn count_opened(&self, frontend: u32, backend: u32) {
        let mut counted = self.counted.borrow_mut();
        *counted.opened.entry((frontend, backend)).or_default() += 1;
    }
    fn count_refused(&self, frontend: u32) {
        *self.counted.borrow_mut().refused.entry(frontend).or_default() += 1;
    }
    fn own_address(&self, _: bool) -> Option<&Address> {
        self.source.as_ref()
    }
    fn masquerade(&self, _: bool) -> Option<&Masquerade> {
        self.masquerade.as_ref()
    }
    fn tunnel_behind(&self, address: &Address) -> Option<&TunnelEnd> {
        self.tunnels.get(address)
    }
    fn random(&self) -> u32 {
        // Half of all numbers apart, and one more: in turn, and each way in the long run.
        self.chance.replace(self.chance.get().wrapping_add(0x8000_0001))
    }
}

impl Sockets for Node {
    fn peer(&self, key: &SocketKey) -> Option<SocketPeer> {
        self.sockets.borrow().get(key).copied()
    }
    fn insert_peer(&self, key: &SocketKey, peer: &SocketPeer) {
        self.sockets.borrow_mut().insert(*key, *peer);
    }
    fn remove_peer(&self, key: &SocketKey) {
        self.sockets.borrow_mut().remove(key);
    }
}

impl Services for Twin<'_> {
    fn service(&self, key: &ServiceKey) -> Option<u32> {
        self.0.service(key)
    }
    fn frontend(&self, slot: u32) -> Option<&Frontend> {
        self.0.frontend(slot)
    }
    fn balancer(&self, id: u32) -> Option<&Balancer> {
        self.0.balancer(id)
    }
    fn member(&self, index: u32) -> Option<Member> {
        self.0.member(index)
    }
    fn backend(&self, slot: u32) -> Option<&Backend> {
        self.0.backend(slot)
    }
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.0.affinity(key)
    }
    fn insert_affinity(&self, _: &AffinityKey, _: &Affinity) {
        panic!("a dry run remembered a client")
    }
    fn count_opened(&self, _: u32, _: u32) {
        panic!("a dry run counted a flow")
    }
    fn count_refused(&self, _: u32) {}
    fn own_address(&self, v6: bool) -> Option<&Address> {
        self.0.own_address(v6)
    }
    fn masquerade(&self, v6: bool) -> Option<&Masquerade> {
        self.0.masquerade(v6)
    }
    fn tunnel_behind(&self, address: &Address) -> Option<&TunnelEnd> {
        self.0.tunnel_behind(address)
    }
    fn random(&self) -> u32 {
        self.0.random()
    }
}

impl Announcements for Node {
    fn announcing(&self) -> Option<&Announcing> {
        Some(&self.announced.announcing)
    }
    fn announced(&self, address: &Address) -> Option<u32> {
        self.announced.addresses.get(address).copied()
    }
    fn now_ns(&self) -> u64 {
        self.announced.now_ns
    }
}

impl Announcements for Twin<'_> {
    fn announcing(&self) -> Option<&Announcing> {
        self.0.announcing()
    }
    fn announced(&self, address: &Address) -> Option<u32> {
        self.0.announced(address)
    }
    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }
}
