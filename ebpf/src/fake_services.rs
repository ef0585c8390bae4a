//! The tables of services in memory.
//! In: what a test put into the node. Out: what the kernel's tables would say.
//! Invariant: as of the node's other tables; a twin remembers nothing.
//! Never: part of a program.

use abi::{Affinity, AffinityKey, Backend, Balancer, Frontend, Member, ServiceKey};

use crate::fake::{Node, Twin};
use crate::tables::Services;

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
    fn random(&self) -> u32 {
        // Half of all numbers apart, and one more: in turn, and each way in the long run.
        self.chance.replace(self.chance.get().wrapping_add(0x8000_0001))
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
    fn random(&self) -> u32 {
        self.0.random()
    }
}
