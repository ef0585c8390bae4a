//! Whose addresses outlive them, and when what is held for a name is free again.
//! In: the agent's setting, what pods and namespaces say. Out: names that keep addresses; holds that are ended.
//! Invariant: who says no himself keeps none; a hold is ended only as it was seen.
//! Never: keeps addresses of further interfaces: they are of no name.

use super::{About, AllocateError, Allocator, Reach, Wish};
use ipam::hold::{Hold, Sticky};
use model::{Cidr, FIRST_INTERFACE, Keeps, PodId};
use serde::Deserialize;
use std::{collections::BTreeSet, net::IpAddr, time::Duration};

/// So long an address is held where nobody says for how long.
pub const HELD: Duration = Duration::from_secs(24 * 3600);

/// Pods whose addresses outlive them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum StickyAddresses {
    /// None.
    Off,
    /// Those that say so, or whose namespace does, and virtual machines of KubeVirt.
    #[default]
    Annotated,
    /// These, and all of StatefulSets that do not say otherwise.
    #[value(name = "statefulSets")]
    StatefulSets,
}

impl Allocator {
    /// The name for which what this wish gets is held once its pod is gone.
    pub(super) fn sticky_of(&self, wish: &Wish) -> Option<Sticky> {
        if self.sticky == StickyAddresses::Off || wish.id.interface != FIRST_INTERFACE {
            return None;
        }
        let Keeps { asked, held, is_stateful, machine } = &wish.keeps;
        let by_itself = machine.is_some() || *is_stateful && self.sticky == StickyAddresses::StatefulSets;
        let held = held.unwrap_or(HELD);
        let name =
            machine.as_ref().map_or_else(|| wish.pod.clone(), |machine| PodId::new(&wish.pod.namespace.0, machine));
        (asked.unwrap_or(by_itself) && !held.is_zero()).then_some(Sticky { name, is_machine: machine.is_some(), held })
    }

    /// The blocks that these addresses lie in where their pools have not changed.
    pub(super) fn blocks_of(&self, addresses: &[IpAddr]) -> Vec<Cidr> {
        let block = |address: &IpAddr| {
            let pool = self.rules.pools.values().find(|pool| pool.cidr.contains(*address))?;
            Cidr::new(*address, pool.block_size).ok()
        };
        addresses.iter().filter_map(block).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Ends holds, as far as they are as they were seen.
    pub fn end_holds(&self, holds: &[Hold]) -> Result<Vec<IpAddr>, AllocateError> {
        if holds.is_empty() {
            return Ok(Vec::new());
        }
        let handles: Vec<_> =
            holds.iter().map(|hold| hold.handle.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        self.decide_on(About::handles(&handles), Reach::Whole, |ledger| ledger.end_holds(holds), |_| {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::AttachmentId;
    use std::sync::Arc;

    fn wish(interface: &str, keeps: Keeps) -> Wish {
        let id = AttachmentId { network: "net".into(), container: "c".into(), interface: interface.into() };
        Wish { keeps, ..Wish::any(id, PodId::new("x", "web-0")) }
    }

    #[test]
    fn whose_addresses_outlive_them_the_setting_and_what_is_asked_decide() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut allocator =
            Allocator::new(Arc::new(datastore::Objects::open(dir.path()).expect("a store")), "n1".into());
        let asked = |asked: bool| Keeps { asked: Some(asked), ..Keeps::default() };
        let stateful = |asked: Option<bool>| Keeps { asked, is_stateful: true, ..Keeps::default() };
        let machine = || Keeps { machine: Some("vm1".into()), ..Keeps::default() };
        for (setting, expected) in [
            (StickyAddresses::Off, [false; 6]),
            (StickyAddresses::Annotated, [false, true, false, false, false, true]),
            (StickyAddresses::StatefulSets, [false, true, false, true, false, true]),
        ] {
            allocator.sticky = setting;
            let all = [Keeps::default(), asked(true), asked(false), stateful(None), stateful(Some(false)), machine()];
            let kept = all.map(|keeps| allocator.sticky_of(&wish("eth0", keeps)).is_some());
            assert_eq!(kept, expected, "{setting:?}");
        }
        assert_eq!(allocator.sticky_of(&wish("net1", asked(true))), None);
        let long = Keeps { held: Some(Duration::from_secs(60)), ..machine() };
        let sticky = allocator.sticky_of(&wish("eth0", long)).expect("it keeps it");
        assert_eq!((sticky.handle(), sticky.held.as_secs()), ("sticky-vm.x.vm1".to_owned(), 60));
        let none = Keeps { held: Some(Duration::ZERO), ..asked(true) };
        assert_eq!(allocator.sticky_of(&wish("eth0", none)), None, "for no time");
    }
}
