//! kube-proxy's rules: to which endpoints of a service port new flows may go (pkg/proxy/topology.go).
//! In: every endpoint of the port, a traffic policy, this node. Out: those that are chosen, in order.
//! Invariant: what is about to go is chosen only where nothing is ready, under each policy for itself.
//! Never: heeds hints under the policy Local, or once nothing is ready.

use crate::{Backend, Backends, Here, listed::Listed};
use model::{Hints, TrafficPolicy};
use std::sync::Arc;

/// `all`: the backends of `listed`.
pub(crate) fn choose(policy: TrafficPolicy, listed: &[Listed<'_>], all: &Arc<[Backend]>, here: &Here<'_>) -> Backends {
    let those = |wanted: &dyn Fn(&Listed<'_>) -> bool| -> Vec<Backend> {
        listed.iter().filter(|each| wanted(each)).map(|each| each.backend).collect()
    };
    let is_usable = |each: &Listed<'_>| each.is_ready() || each.is_going();
    let (ready, going) = match policy {
        TrafficPolicy::Cluster => {
            let heeded = Heeded::of(listed, here);
            (those(&|each| each.is_ready() && heeded.lets(each, here)), those(&|each| each.is_going()))
        }
        TrafficPolicy::Local => {
            (those(&|each| each.is_here && each.is_ready()), those(&|each| each.is_here && each.is_going()))
        }
    };
    let chosen = if ready.is_empty() { going } else { ready };
    let elsewhere = chosen.is_empty() && listed.iter().any(is_usable);
    let chosen = if chosen.len() == all.len() { Arc::clone(all) } else { chosen.into() };
    Backends { chosen, listed: Arc::clone(all), elsewhere }
}

/// Which hints count: all or none, so that no endpoint goes idle because another lacks its hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heeded {
    None,
    Nodes,
    Zones,
}

impl Heeded {
    fn of(listed: &[Listed<'_>], here: &Here<'_>) -> Self {
        let ready = || listed.iter().filter(|each| each.is_ready());
        let all = |says: fn(&Hints) -> bool| ready().all(|each| each.hints().is_some_and(says));
        let any_is_ours = |heeded: Self| ready().any(|each| heeded.lets(each, here));
        if all(|hints| !hints.nodes.is_empty()) && any_is_ours(Self::Nodes) {
            Self::Nodes
        } else if all(|hints| !hints.zones.is_empty()) && any_is_ours(Self::Zones) {
            Self::Zones
        } else {
            Self::None
        }
    }

    fn lets(self, each: &Listed<'_>, here: &Here<'_>) -> bool {
        match self {
            Self::None => true,
            Self::Nodes => each.hints().is_some_and(|hints| hints.nodes.contains(here.node)),
            Self::Zones => {
                each.hints().is_some_and(|hints| hints.zones.iter().any(|zone| here.zone == Some(zone.as_str())))
            }
        }
    }
}

#[cfg(test)]
mod tests;
