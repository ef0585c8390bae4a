//! Source addresses beside its own by which a pod may send (`cni.projectcalico.org/allowedSourcePrefixes`).
//! In: networks. Out: a [`RuleSet`] that is asked of the source of a packet which is not the pod's own.
//! Invariant: what it allows it allows whole: a class has one span, whatever the packet is.
//! Never: a judge of flows; both ends' rules are asked all the same.

use crate::{PeerTest, ProfileRules, Profiles, RuleSet, SetAction, SetRule};
use model::{Cidr, Direction};

/// Stands in the place of a profile that allows, and nothing else does. No object is called so.
const SOURCES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
/// Likewise.
const POOLS: &str = "ippools/natOutgoing";

/// Whether a profile of this name stands for such a set.
pub(crate) fn is_name(profile: &str) -> bool {
    [SOURCES, POOLS].contains(&profile)
}

impl RuleSet {
    /// Of these networks, and of nothing else.
    #[must_use]
    pub fn of_sources(nets: &[Cidr]) -> Self {
        Self::of_nets(SOURCES, nets)
    }

    /// The same for what is not outside, which is asked of a packet's destination.
    #[must_use]
    pub fn of_networks(nets: &[Cidr]) -> Self {
        Self::of_nets(POOLS, nets)
    }

    fn of_nets(name: &str, nets: &[Cidr]) -> Self {
        let mut nets = nets.to_vec();
        nets.sort_unstable();
        nets.dedup();
        let peer = PeerTest { nets: Some(nets), ..PeerTest::default() };
        // The end is written out: what an endpoint's profiles end in decides of flows.
        let rules = vec![SetRule { peer, ..SetRule::new(0, SetAction::Allow) }, SetRule::new(1, SetAction::Deny)];
        let profiles = Profiles::Given(vec![ProfileRules { name: name.to_owned(), rules }]);
        Self { profiles, ..Self::new(Direction::Egress) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, Class, Verdict, row};

    /// What each span of the row for a class says; `None`: that depends on more than the class, or is said of a flow.
    fn verdicts(set: &RuleSet, class: &Class) -> Vec<Option<Verdict>> {
        let decided = |answer: &Answer| match answer {
            Answer::Decided(hit) => (!hit.decider.is_of_a_flow()).then_some(hit.verdict),
            Answer::Ports(_) | Answer::Cell(_) => None,
        };
        row(set, class).0.iter().map(|span| decided(&span.answer)).collect()
    }

    #[test]
    fn spf_2_a_class_on_the_networks_is_allowed_by_one_span_and_every_other_by_none() {
        let nets = ["198.51.100.0/24", "2001:db8::/64", "198.51.100.0/24"].map(|text| text.parse().expect("a network"));
        let set = RuleSet::of_sources(&nets);
        assert_eq!(set.nets().count(), 2);
        let on = |net: &str| Class { nets: [net.parse().expect("a network")].into(), ..Class::default() };
        for net in ["198.51.100.0/24", "2001:db8::/64"] {
            assert_eq!(verdicts(&set, &on(net)), [Some(Verdict::Allow)], "{net}");
        }
        for class in [Class::default(), on("198.51.0.0/16")] {
            assert_eq!(verdicts(&set, &class), [Some(Verdict::Deny)], "{class:?}");
        }
    }
}
