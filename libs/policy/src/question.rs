//! Questions: the single things that a rule set can ask of a class.
//! In: a rule set, or a class. Out: what the one asks, and what the other does not answer as a class of nothing does.
//! Invariant: a set answers a class that no question of its own finds with its default row.
//! Never: says what the answer does to a packet.

use crate::{Class, RuleSet};
use model::{Cidr, PortName, Selector, ServiceId};
use std::sync::Arc;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// Does this network hold it?
    Net(Cidr),
    /// Does this selector find it, or may it?
    Selector(Arc<Selector>),
    /// Does this selector of nodes find it?
    Node(Arc<Selector>),
    /// Does it serve this service?
    Service(Arc<ServiceId>),
    /// Has it a port of this name?
    Port(PortName),
    /// Are its ports not known?
    Portless,
}

impl RuleSet {
    /// What it asks of the peer or of the own address, some of it more than once.
    pub fn questions(&self) -> impl Iterator<Item = Question> + '_ {
        let names = || self.peer_port_names().cloned();
        self.nets()
            .map(Question::Net)
            .chain(self.selectors().cloned().map(Question::Selector))
            .chain(self.nodes().cloned().map(Question::Node))
            .chain(self.services().cloned().map(Question::Service))
            .chain(names().map(Question::Port))
            .chain(names().next().map(|_| Question::Portless))
    }
}

impl Class {
    /// The questions that find it.
    pub fn found(&self) -> impl Iterator<Item = Question> + '_ {
        let selectors = self.selectors.iter().chain(&self.unsure);
        let nets = self.nets.iter().copied().map(Question::Net);
        nets.chain(selectors.cloned().map(Question::Selector))
            .chain(self.nodes.iter().cloned().map(Question::Node))
            .chain(self.services.keys().cloned().map(Question::Service))
            .chain(self.ports.iter().map(|port| Question::Port(port.name.clone())))
            .chain(self.unknown_ports.then_some(Question::Portless))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compiled::Compiled, generate::Case, row};
    use std::collections::BTreeSet;

    #[test]
    fn a_class_that_no_question_finds_is_answered_by_the_default_row() {
        let (mut met, mut passed_over) = (0, 0);
        for seed in 1..=400 {
            let case = Case::from_seed(seed);
            let compiled = Compiled::of(&case.view);
            let addresses = case.view.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            let classes: BTreeSet<Class> = addresses.map(|address| compiled.class(*address)).collect();
            let both = compiled.sets.iter().flat_map(|(ingress, egress)| [ingress, egress]);
            for set in both.chain(compiled.at_hosts.iter().flat_map(|layers| layers.values())) {
                let asked: BTreeSet<Question> = set.questions().collect();
                for class in &classes {
                    if class.found().any(|question| asked.contains(&question)) {
                        met += 1;
                        continue;
                    }
                    passed_over += 1;
                    assert_eq!(row(set, class), row(set, &Class::default()), "seed {seed}: {set:?} {class:?}");
                }
            }
        }
        assert!(met > 1000 && passed_over > 1000, "{met} {passed_over}");
    }
}
