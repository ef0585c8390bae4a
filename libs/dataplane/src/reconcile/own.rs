//! What the node's own processes open to services, where nobody asks when their sockets call: programs at the egress of the uplink and of
//! loopback lead it there packet by packet.
//! In: whether that is so. Out: loopback's settings, and the program at both interfaces.
//! Invariant: the program is nowhere before loopback takes what it hands back.
//! Never: stops the rest of a revision.

use super::{Pass, Reconciler};
use crate::{
    ApplyError,
    links::Guards,
    network::{Network, Seen},
    programs::{Hook, in_full},
    tables::Store,
    uplink,
};
use model::IfaceName;
use netlink::{LOOPBACK, Link};

impl<N: Network, G: Guards, S: Store> Reconciler<N, G, S> {
    /// Before the commit: until then the program finds no service. It is at loopback first, where what it hands back comes in.
    pub(super) fn guard_own(&mut self, pass: &mut Pass) {
        if !self.asks_by_packet {
            return;
        }
        let links: Vec<_> = self.own_links(&pass.seen).map(|link| (link.index, link.name.clone())).collect();
        for (index, name) in links {
            let prepared = if index == LOOPBACK { self.prepare_loopback(&name) } else { Ok(()) };
            let attach = |()| self.guards.attach(Hook::FromNode, index.0).map_err(|error| in_full(&error));
            if let Err(reason) = prepared.and_then(attach) {
                let step = format!("lead what the node itself sends by {name} to services");
                pass.failed.push((name.to_string(), ApplyError { step, reason }));
                if index == LOOPBACK {
                    return;
                }
            }
        }
    }

    pub(super) fn prepare_loopback(&mut self, name: &IfaceName) -> Result<(), String> {
        uplink::prepare(&mut self.network, (name, uplink::LOOPBACK), &self.state_dir)
    }

    /// Loopback, then the uplink.
    pub(super) fn own_links<'s>(&self, seen: &'s Seen) -> impl Iterator<Item = &'s Link> + use<'s, N, G, S> {
        let loopback = seen.links.values().find(|link| link.index == LOOPBACK);
        let uplink = self.uplink.as_ref().and_then(|name| seen.links.get(name));
        loopback.into_iter().chain(uplink)
    }

    /// Where the node's own packets leave, of what the last pass saw.
    fn own_indices(&self) -> impl Iterator<Item = u32> {
        [LOOPBACK.0].into_iter().chain(self.uplink_index())
    }

    /// Whether the node's own packets are led to services everywhere.
    pub fn leads_own(&self) -> bool {
        self.own_indices().all(|index| self.guards.is_attached(Hook::FromNode, index))
    }

    /// Whether they are led at this interface, or go on to be: a former uplink is none.
    pub(super) fn may_lead(&self, ifindex: u32) -> bool {
        (self.asks_by_packet || self.keeps_asked) && self.own_indices().any(|index| index == ifindex)
    }
}
