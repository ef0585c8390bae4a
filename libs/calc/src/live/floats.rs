//! Floating addresses, kept: of nodes with pods that ask for any, settled anew where something that they read may be another.
//! In: pods that may be others; who has which address, and services, as they are now. Out: frontends and endpoints in Desired.
//! Invariant: equal to working them out from the beginning; a node without such pods keeps who asks elsewhere, and pays nothing more.
//! Never: looks at pods that ask for none, or at any while nothing touches them; writes a frontend that is as it was.

use super::{
    claims::Claims,
    latest::Followed,
    peers::{Peers, place},
};
use crate::{
    World,
    floating::{self, Asking, Floating, Held},
};
use model::PodId;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

#[derive(Clone, Debug, Default)]
pub(super) struct Floats {
    /// Pods of this node that ask for any.
    here: BTreeSet<PodId>,
    /// Pods anywhere that do, by what they ask for.
    asking: Asking,
    of: BTreeMap<PodId, Vec<IpAddr>>,
    /// Something that they read may be another.
    is_stale: bool,
    now: Floating,
}

impl Floats {
    /// A pod, or what is attached of it, may be another.
    pub(super) fn hear(&mut self, world: &World, id: &PodId) {
        self.is_stale |= self.of.contains_key(id);
        if floating::asked(world, id).is_some() {
            self.here.insert(id.clone());
        } else {
            self.here.remove(id);
        }
        let wanted = floating::wanted(world, id).map(|asked| asked.addresses.clone());
        place(&mut self.of, &mut self.asking, id, wanted.unwrap_or_default());
        self.is_stale |= self.of.contains_key(id);
    }

    /// Somebody else may have these addresses now.
    pub(super) fn touch(&mut self, mut addresses: impl Iterator<Item = IpAddr>) {
        self.is_stale = self.is_stale || addresses.any(|address| self.asking.contains_key(&address));
    }

    /// The endpoints of these pods are about to be written anew, or all of them may float where they did not, or the other way round.
    pub(super) fn rewrite(&mut self, pods: &BTreeSet<PodId>, all: bool) {
        self.is_stale = self.is_stale || all || pods.iter().any(|id| self.here.contains(id));
    }

    /// After everything else: whoever has an address, and every service, is known. Endpoints that were written anew have none yet.
    pub(super) fn settle(&mut self, world: &World, (claims, peers): (&Claims, &Peers), desired: &mut Followed) {
        self.touch(desired.written().map(|frontend| frontend.address));
        if !std::mem::take(&mut self.is_stale) || (self.here.is_empty() && self.now == Floating::default()) {
            return;
        }
        let held = Held {
            pod: &|address| claims.holder(address).map(|(pod, _)| pod),
            node: &|address| peers.node_at(address),
            asking: &self.asking,
            services: &desired.services,
        };
        let now = floating::settle(world, self.here.iter(), &held);
        let all: BTreeSet<_> = self.now.frontends.keys().chain(now.frontends.keys()).copied().collect();
        for at in all.into_iter().filter(|at| self.now.frontends.get(at) != now.frontends.get(at)) {
            desired.put_service(at, now.frontends.get(&at).cloned());
        }
        let endpoints = desired.own().endpoints;
        for id in self.now.of.keys().chain(now.of.keys()) {
            if let Some(endpoint) = endpoints.get_mut(id) {
                endpoint.floating = now.of.get(id).cloned().unwrap_or_default();
            }
        }
        self.now = now;
    }

    pub(super) fn remarks(&self) -> &[String] {
        &self.now.remarks
    }
}
