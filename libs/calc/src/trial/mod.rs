//! A trial: what would be otherwise if the cluster said something else.
//! In: what is desired now, and what would be. Out: flows judged by both; pods, peers and ports whose verdicts differ.
//! Invariant: judges as the programs do, by rule sets, classes and rows; every answer says where it was cut.
//! Never: changes what is desired.

mod compare;
mod hosts;

pub use compare::{Comparison, Difference, compare};
pub use hosts::HostDifference;

use crate::{AddressSpec, Desired, EndpointSpec, Owner};
use model::Cidr;
use policy::{Class, Flow, Judgement, Outcome, Row, RuleSet, Verdict};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// Judges flows by a [`Desired`].
#[derive(Debug)]
pub struct Trial<'a> {
    desired: &'a Desired,
    local: BTreeMap<IpAddr, &'a EndpointSpec>,
    nobody: Arc<Class>,
    /// By where set and class lie: both live as long as Desired.
    rows: BTreeMap<(usize, usize), Row>,
}

impl<'a> Trial<'a> {
    /// By this one.
    #[must_use]
    pub fn of(desired: &'a Desired) -> Self {
        let addresses = |spec: &'a EndpointSpec| spec.addresses.iter().map(move |address| (*address, spec));
        let local = desired.endpoints.values().flat_map(addresses).collect();
        Self { desired, local, nobody: Arc::default(), rows: BTreeMap::new() }
    }

    /// Both ends' answers, as far as they are on this node.
    pub fn outcome(&mut self, flow: &Flow) -> Outcome {
        let set = |spec: &&EndpointSpec| Arc::clone(&spec.egress);
        let (from, to) = (flow.source, flow.destination);
        let egress = self.local.get(&from).map(set).map(|set| self.judge(&set, (to, from), flow));
        let refused = egress.as_ref().is_some_and(|egress| egress.verdict == Verdict::Deny);
        let set = |spec: &&EndpointSpec| Arc::clone(&spec.ingress);
        let receiver = self.local.get(&to).filter(|_| !refused && !self.is_host(from)).map(set);
        let ingress = receiver.map(|set| self.judge(&set, (from, to), flow));
        Outcome { egress, ingress }
    }

    fn judge(&mut self, set: &Arc<RuleSet>, (peer, own): (IpAddr, IpAddr), flow: &Flow) -> Judgement {
        let (class, own) = (self.class(peer), self.class(own));
        let key = (Arc::as_ptr(set).addr(), Arc::as_ptr(&class).addr());
        self.rows.entry(key).or_insert_with(|| policy::row(set, &class)).judge(flow, &own)
    }

    fn is_host(&self, address: IpAddr) -> bool {
        self.desired.addresses.get(&address).is_some_and(|spec| spec.owner == Owner::Host)
    }

    fn class(&self, address: IpAddr) -> Arc<Class> {
        class_of(self.desired, &Cidr::host(address)).unwrap_or(&self.nobody).clone()
    }
}

/// The class of an address or network: its own, or that of the narrowest network over it.
fn class_of<'a>(desired: &'a Desired, net: &Cidr) -> Option<&'a Arc<Class>> {
    let exact = desired.addresses.get(&net.network()).filter(|_| *net == Cidr::host(net.network()));
    let over = || net.supernets().filter_map(|net| desired.nets.get(&net)).last();
    exact.map(|AddressSpec { class, .. }| class).or_else(over)
}

#[cfg(test)]
mod tests;
