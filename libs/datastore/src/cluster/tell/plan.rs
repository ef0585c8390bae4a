//! What an object's status should say, and what a Node should: decided from what was read. Pure.
//! In: what was noted. Out: what is to be written, where it differs from what is there.
//! Invariant: a status that says the same in other words is left alone, whoever wrote it; who has written on a generation first has
//! the word on it, but for agents that start after that.
//! Never: a verdict on one node's affairs, or on what was before: every agent of a cluster comes to the same one.

use super::super::noted::{About, Condition, NODE_V4, NODE_V6, OwnNode};
use crate::catalog::Trouble;
use std::collections::BTreeMap;

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Of this generation of the object.
    pub(super) generation: i64,
    pub(super) status: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The verdict on an object of a kind, if it is to be written there. `is_start`: the agent sees it for the first time, and may know
/// better than one that is older.
pub(super) fn verdict(kind: &str, about: &About, is_start: bool) -> Option<Verdict> {
    // Whoever deletes it has the word.
    if about.is_going {
        return None;
    }
    // Two versions of agents may disagree, each of them on many nodes.
    let has_word = |found: &Condition| found.generation != 0 && found.generation == about.generation;
    if !is_start && about.condition.as_ref().is_some_and(has_word) {
        return None;
    }
    let (status, reason, message) = match (about.trouble, kind) {
        (Trouble::Refused, _) => (false, "Invalid", about.wrong.join("\n")),
        (Trouble::Partly, _) => (true, "PartlyUnreadable", about.wrong.join("\n")),
        (Trouble::None, "IPPool") if about.is_disabled => (false, "PoolDisabled", "spec.disabled is true".to_owned()),
        (Trouble::None, "IPPool") => (true, "OK", as_written()),
        (Trouble::None, "Tier") => (true, "Ready", as_written()),
        (Trouble::None, _) => (true, "Accepted", as_written()),
    };
    let verdict = Verdict { generation: about.generation, status, reason, message };
    let says = |found: &Condition| {
        let is_message = about.trouble == Trouble::None || found.message == verdict.message;
        found.status == status && found.reason == reason && is_message
    };
    (!about.condition.as_ref().is_some_and(says)).then_some(verdict)
}

fn as_written() -> String {
    "it was read as it is written".to_owned()
}

/// What is to be written on this node's own object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeVerdict {
    pub(super) annotations: BTreeMap<&'static str, String>,
    /// Pods may come.
    pub(super) is_available: bool,
}

/// The same for this node; `addresses`: its own on the network of nodes, with their prefix, at most one a family.
pub(super) fn node(addresses: &[String], seen: &OwnNode) -> Option<NodeVerdict> {
    let name = |address: &String| if address.contains(':') { NODE_V6 } else { NODE_V4 };
    let differs = |(name, address): &(&'static str, String)| seen.annotations.get(*name) != Some(address);
    let annotations: BTreeMap<_, _> =
        addresses.iter().map(|address| (name(address), address.clone())).filter(differs).collect();
    let verdict = NodeVerdict { annotations, is_available: seen.is_unavailable != Some(false) };
    (verdict != NodeVerdict::default()).then_some(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(trouble: Trouble, found: Option<(bool, &str, &str)>) -> About {
        let condition = found.map(|(status, reason, message)| Condition {
            status,
            reason: reason.into(),
            message: message.into(),
            since: String::new(),
            generation: 0,
        });
        About { generation: 3, trouble, wrong: vec!["spec.order: x".into()], condition, ..About::default() }
    }

    fn said(kind: &str, about: &About) -> Option<(bool, &'static str)> {
        verdict(kind, about, false).map(|verdict| (verdict.status, verdict.reason))
    }

    #[test]
    fn a_verdict_is_calicos_word_where_calico_has_one() {
        let fine = about(Trouble::None, None);
        assert_eq!(said("Tier", &fine), Some((true, "Ready")));
        assert_eq!(said("IPPool", &fine), Some((true, "OK")));
        assert_eq!(said("IPPool", &About { is_disabled: true, ..fine.clone() }), Some((false, "PoolDisabled")));
        assert_eq!(said("ClusterNetworkPolicy", &fine), Some((true, "Accepted")));
        let refused = About { wrong: vec!["a".into(), "b".into()], ..about(Trouble::Refused, None) };
        let refused = verdict("Tier", &refused, false).expect("a verdict");
        assert_eq!((refused.status, refused.reason, refused.message.as_str()), (false, "Invalid", "a\nb"));
        assert_eq!(said("ClusterNetworkPolicy", &about(Trouble::Partly, None)), Some((true, "PartlyUnreadable")));
    }

    #[test]
    fn what_stands_there_already_is_not_written_again_and_what_is_deleted_is_left_alone() {
        assert_eq!(said("Tier", &about(Trouble::None, Some((true, "Ready", "in other words")))), None);
        assert_eq!(said("Tier", &about(Trouble::None, Some((false, "Invalid", "")))), Some((true, "Ready")));
        assert_eq!(said("Tier", &about(Trouble::Refused, Some((false, "Invalid", "spec.order: x")))), None);
        assert!(said("Tier", &about(Trouble::Refused, Some((false, "Invalid", "spec.order: y")))).is_some());
        assert_eq!(said("Tier", &About { is_going: true, ..about(Trouble::None, None) }), None);
    }

    #[test]
    fn who_is_first_on_a_generation_has_the_word_until_an_agent_starts_or_the_object_is_another() {
        let of = |generation: i64| {
            let found = about(Trouble::None, Some((false, "Invalid", "an older agent cannot read it")));
            let condition = found.condition.clone().map(|condition| Condition { generation, ..condition });
            About { condition, ..found }
        };
        let reason = |about: &About, is_start| verdict("Tier", about, is_start).map(|verdict| verdict.reason);
        assert_eq!(reason(&of(3), false), None);
        assert_eq!(reason(&of(3), true), Some("Ready"));
        assert_eq!(reason(&of(2), false), Some("Ready"), "of what the object was");
        assert_eq!(reason(&of(0), false), Some("Ready"), "of nobody knows what");
        assert_eq!(reason(&About { generation: 0, ..of(0) }, false), Some("Ready"));
    }

    #[test]
    fn a_node_is_told_its_addresses_and_that_pods_may_come_once() {
        let addresses = ["192.0.2.1/24".to_owned(), "2001:db8::1/64".to_owned()];
        let all = node(&addresses, &OwnNode::default()).expect("nothing is there");
        assert_eq!(
            all.annotations.into_iter().collect::<Vec<_>>(),
            [(NODE_V4, addresses[0].clone()), (NODE_V6, addresses[1].clone())]
        );
        assert!(all.is_available);
        let annotations =
            [(NODE_V4.to_owned(), addresses[0].clone()), (NODE_V6.to_owned(), "2001:db8::9/64".to_owned())];
        let seen = OwnNode { annotations: annotations.into(), is_unavailable: Some(false) };
        let rest = node(&addresses, &seen).expect("one is another");
        assert_eq!((rest.annotations, rest.is_available), ([(NODE_V6, addresses[1].clone())].into(), false));
        assert_eq!(node(&addresses[..1], &seen), None);
        let kept_away = OwnNode { is_unavailable: Some(true), ..seen };
        assert!(node(&addresses[..1], &kept_away).is_some_and(|verdict| verdict.is_available));
    }
}
