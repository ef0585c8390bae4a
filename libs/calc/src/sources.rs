//! Source addresses that are not their own, by which pods of this node may send.
//! In: what pods ask (`cni.projectcalico.org/allowedSourcePrefixes`), what FelixConfiguration allows. Out: a rule set, or why none.
//! Invariant: as in Calico, none while FelixConfiguration does not say `workloadSourceSpoofing: Any`.
//! Never: routes to such addresses; that is the administrator's, as in Calico.

use crate::{World, host::chosen, workload::described};
use model::{Cidr, PodId};
use policy::RuleSet;

/// The networks that a pod asks for.
fn asked<'a>(world: &'a World, id: &PodId) -> &'a [Cidr] {
    let asks = described(world, id).filter(|pod| !pod.finished).and_then(|pod| pod.asks.as_deref());
    asks.map(|asks| &*asks.sources).unwrap_or_default()
}

/// Whether it asks for any.
pub(crate) fn are_asked(world: &World, id: &PodId) -> bool {
    !asked(world, id).is_empty()
}

fn may(world: &World) -> bool {
    chosen(world, |felix| felix.source_spoofing).unwrap_or(false)
}

/// What is asked of the sources of its packets.
pub(crate) fn of(world: &World, id: &PodId) -> Option<RuleSet> {
    let nets = world.sources_of(id);
    (!nets.is_empty()).then(|| RuleSet::of_sources(nets))
}

impl World {
    /// The networks by which a pod may send beside its own addresses.
    #[must_use]
    pub fn sources_of(&self, id: &PodId) -> &[Cidr] {
        if may(self) { asked(self, id) } else { &[] }
    }

    /// Pods of this node that ask for sources and have none.
    #[must_use]
    pub fn refused_sources(&self) -> Vec<String> {
        let asking = || self.attached.keys().filter(|id| are_asked(self, id));
        let said = |id: &PodId| {
            format!(
                "pod {id}: it sends by its own addresses alone, for FelixConfiguration does not say \
                 workloadSourceSpoofing: Any; its annotation cni.projectcalico.org/allowedSourcePrefixes changes nothing"
            )
        };
        if may(self) { Vec::new() } else { asking().map(said).collect() }
    }
}
