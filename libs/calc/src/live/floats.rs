//! Floating addresses, kept: of nodes with pods that ask for any, settled anew whenever anything changes.
//! In: pods that may be others; who has which address, and services, as they are now. Out: frontends and endpoints in Desired.
//! Invariant: equal to working them out from the beginning; a node without such pods pays nothing.
//! Never: looks at pods that ask for none.

use super::{claims::Claims, latest::Followed};
use crate::{
    World,
    floating::{self, Floating, Held},
};
use model::PodId;
use std::collections::BTreeSet;

#[derive(Clone, Debug, Default)]
pub(super) struct Floats {
    /// Pods of this node that ask for any.
    asking: BTreeSet<PodId>,
    now: Floating,
}

impl Floats {
    /// A pod, or what is attached of it, may be another.
    pub(super) fn hear(&mut self, world: &World, id: &PodId) {
        if floating::asked(world, id).is_some() {
            self.asking.insert(id.clone());
        } else {
            self.asking.remove(id);
        }
    }

    /// After everything else: whoever has an address, and every service, is known. Endpoints that were written anew have none yet.
    pub(super) fn settle(&mut self, world: &World, claims: &Claims, desired: &mut Followed) {
        if self.asking.is_empty() && self.now == Floating::default() {
            return;
        }
        let pod = |address| claims.holder(address).map(|(pod, _)| pod.clone());
        let held = Held { pod, services: &desired.services };
        let now = floating::settle(world, self.asking.iter(), &held).sharing(&self.now);
        for frontend in self.now.frontends.keys().filter(|at| !now.frontends.contains_key(at)) {
            desired.put_service(*frontend, None);
        }
        for (frontend, balance) in &now.frontends {
            desired.put_service(*frontend, Some(balance.clone()));
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
