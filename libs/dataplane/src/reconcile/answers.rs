//! Answers in a service's name: whether processes of this very node stand behind one that is asked from outside.
//! In: one Desired after another, and the host's addresses. Out: the program at the uplink's egress, as long as it may be needed.
//! Invariant: it is there before the commit that leads the first packet to such a process, and goes when none is even listed: their
//! flows have ended then.
//! Never: looks at a service of which nothing changed, unless the host's addresses did.

use super::{Pass, Reconciler};
use crate::{ApplyError, links::Guards, network::Network, programs::Hook, programs::in_full, tables::Store};
use calc::Latest;
use service::{Backend, Balance, Frontend};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// Frontends with a process of this node behind them.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Those that new flows from outside go to it by.
    pub(super) chosen: BTreeSet<Frontend>,
    /// Those that list it, for whomever.
    pub(super) listed: BTreeSet<Frontend>,
    own: BTreeSet<IpAddr>,
    number: Option<u64>,
}

impl Answers {
    pub(super) fn hear(&mut self, latest: Latest<'_>, own: &BTreeSet<IpAddr>) {
        if let Some(touched) = latest.since(self.number).filter(|_| self.own == *own) {
            for frontend in &touched.services {
                self.put(*frontend, latest.services.get(frontend));
            }
        } else {
            *self = Self { own: own.clone(), ..Self::default() };
            for (frontend, balance) in &latest.services {
                self.put(*frontend, Some(balance));
            }
        }
        self.number = latest.number();
    }

    fn put(&mut self, frontend: Frontend, balance: Option<&Arc<Balance>>) {
        let has_own = |list: &[Backend]| list.iter().any(|backend| self.own.contains(&backend.address));
        let outside = balance.and_then(|balance| balance.outside.as_ref());
        let inside = balance.map(|balance| &balance.inside);
        let is_chosen = outside.is_some_and(|backends| has_own(&backends.chosen));
        let is_listed = outside.into_iter().chain(inside).any(|backends| has_own(&backends.listed));
        for (frontends, is_in) in [(&mut self.chosen, is_chosen), (&mut self.listed, is_listed)] {
            if is_in {
                frontends.insert(frontend);
            } else {
                frontends.remove(&frontend);
            }
        }
    }
}

impl<N: Network, G: Guards, S: Store> Reconciler<N, G, S> {
    /// Before the commit: until then the program finds no flow that it would touch. Where it cannot be attached, those who ask
    /// hear nobody they know, and the rest of the revision goes on.
    pub(super) fn guard_answers(&mut self, pass: &mut Pass, desired: Latest<'_>) {
        self.own.hear(desired);
        self.answers.hear(desired, &self.own.addresses);
        if self.answers.chosen.is_empty() {
            return;
        }
        let link = self.uplink.as_ref().and_then(|name| pass.seen.links.get(name));
        let Some((index, name)) = link.map(|link| (link.index.0, link.name.clone())) else { return };
        if let Err(error) = self.guards.attach(Hook::ToUplink, index) {
            let step = format!("have answers leave by {name} in their service's name");
            pass.failed.push((name.to_string(), ApplyError { step, reason: in_full(&error) }));
        }
    }

    /// Whether flows may be there that the program at this interface has to know.
    pub(super) fn may_answer(&self, ifindex: u32) -> bool {
        !self.answers.listed.is_empty() && self.uplink_index() == Some(ifindex)
    }
}
