//! The nearest allow: what a refused packet lacks, in the words of the rule.
//! In: casts that refuse. Out: which policies isolate, which rules are nearest, and what each asks for in vain.
//! Invariant: tests taken apart say together what the rule says.
//! Never: a kernel.

use super::cast::*;
use crate::{
    Decider, Outcome, evaluate,
    nearest::{Isolation, isolation},
};
use model::{Action, EntityMatch, Rule};

/// Why `from` may not open TCP 80 to `to`.
fn why(cast: &Cast, from: &str, to: &str) -> Isolation {
    let flow = Cast::flow(from, to);
    let Outcome { egress, ingress } = evaluate(&cast.0, &flow);
    let refusing = ingress.or(egress).expect("an end is asked");
    isolation(&cast.0, &flow, &refusing.decider).expect("it was refused because no rule matched")
}

type Said<'a> = Vec<(u16, Vec<(&'static str, &'a str)>)>;

fn lacks(isolation: &Isolation) -> Said<'_> {
    isolation
        .nearest
        .iter()
        .map(|near| (near.rule, near.lacks.iter().map(|lack| (lack.of, &*lack.text)).collect()))
        .collect()
}

#[test]
fn the_nearest_rule_comes_first_and_says_what_it_asks_for() {
    let port = |port| end_ports(&[(port, port)], &[]);
    let by_port = Rule { protocol: Some(TCP), destination: port(443), ..does(Action::Allow) };
    let by_both = Rule { source: end("role == 'client'"), ..by_port.clone() };
    let cast = Cast::new([global("default", "web").into([by_both, by_port])]);
    let found = why(&cast, "y/a", "x/a");
    assert_eq!(found.by, ["GlobalNetworkPolicy web"]);
    let said = lacks(&found);
    assert_eq!(said[0], (1, vec![("port", "asks for port 443, this is for 80")]));
    assert_eq!(
        said[1],
        (
            0,
            vec![
                ("label", "asks for a sender with role == \"client\"; y/a has none"),
                ("port", "asks for port 443, this is for 80")
            ]
        )
    );
}

#[test]
fn a_peer_in_another_namespace_lacks_the_namespace_and_nothing_else() {
    let from_own = peers([EntityMatch {
        selector: Some(written("projectcalico.org/namespace == 'x' && pod == 'a'").into()),
        ..EntityMatch::default()
    }]);
    let cast = Cast::new([policy("x", "own").ingress([from_own])]);
    let said = why(&cast, "y/a", "x/b");
    assert_eq!(lacks(&said), [(0, vec![("namespace", "asks for a sender in namespace x; y/a is in y")])]);
}

#[test]
fn each_kind_of_test_has_its_sentence() {
    let allow = || does(Action::Allow);
    let rows: [(Rule, &str, &str); 6] = [
        (Rule { protocol: Some(UDP), ..allow() }, "protocol", "asks for UDP, this is TCP"),
        (Rule { not_protocol: Some(TCP), ..allow() }, "protocol", "asks for any protocol but TCP, this is TCP"),
        (
            Rule { source: end_nets(&["203.0.113.0/24"], &[]), ..allow() },
            "network",
            "asks for a sender in 203.0.113.0/24; 10.65.2.1 is not",
        ),
        (
            Rule { source: end_nets(&[], &["10.65.0.0/16"]), ..allow() },
            "network",
            "leaves out a sender in 10.65.0.0/16",
        ),
        (Rule { destination: end_ports(&[], &[(80, 80)]), ..allow() }, "port", "leaves out port 80, this is for 80"),
        (Rule { unreadable: Some("spec.x".into()), ..allow() }, "reading", "cannot be read: spec.x"),
    ];
    for (rule, of, text) in rows {
        let cast = Cast::new([global("default", "p").into([rule])]);
        assert_eq!(lacks(&why(&cast, "y/a", "x/a")), [(0, vec![(of, text)])]);
    }
}

#[test]
fn a_pod_that_nothing_is_allowed_to_has_policies_and_no_nearest_rule() {
    let cast = Cast::new([policy("x", "closed").ingress([]), policy("x", "closed-too").ingress([])]);
    let found = why(&cast, "y/a", "x/a");
    assert_eq!((found.by.len(), found.nearest.len()), (2, 0));
    assert_eq!(found.direction, "ingress");
}

#[test]
fn a_deny_rule_that_matched_is_its_own_reason() {
    let cast = Cast::new([global("default", "p").into([does(Action::Deny)])]);
    let flow = Cast::flow("y/a", "x/a");
    let decider: Decider = evaluate(&cast.0, &flow).ingress.expect("asked").decider;
    assert_eq!(isolation(&cast.0, &flow, &decider), None);
}
