//! What is not known, cannot be read or cannot be seen counts against the traffic, whatever the rule's action.
//! In: the cast with a gap in it. Out: who is let in.
//! Invariant: an allow needs certainty, a deny does not, and a pass in doubt refuses.
//! Never: a gap that widens anything.

use super::cast::*;
use model::{Action, EntityMatch, PortMatch, Rule};

const OTHERS: &str = "x/b x/c y/a y/b y/c z/a z/b z/c";

fn into_a(rules: [Rule; 2]) -> Cast {
    let subject = "pod == 'a' && projectcalico.org/namespace == 'x'";
    Cast::new([global("default", "p").selecting(subject).into(rules)])
}

/// The first rule in doubt, the second open to everybody.
fn reach_with(rule: Rule, spoil: impl Fn(&mut Cast)) -> String {
    let mut cast = into_a([rule, does(Action::Allow)]);
    spoil(&mut cast);
    cast.reach("x/a")
}

fn forget_y(cast: &mut Cast) {
    cast.0.namespaces.remove(&"y".into());
}

#[test]
fn labels_of_a_namespace_that_nobody_described_count_against_the_traffic() {
    let from = |text: &str, action| Rule { source: end(text), ..does(action) };
    let only = |rule: Rule| {
        let mut cast = into_a([rule, does(Action::Log)]);
        forget_y(&mut cast);
        cast.reach("x/a")
    };
    assert_eq!(only(from("pcns.ns != 'z'", Action::Allow)), "x/b x/c", "y may be anything");
    assert_eq!(only(from("pcns.projectcalico.org/name == 'y'", Action::Allow)), "y/a y/b y/c", "its name is known");
    let without_y = "x/b x/c z/a z/b z/c";
    assert_eq!(reach_with(from("pcns.ns == 'nowhere'", Action::Deny), forget_y), without_y);
    assert_eq!(reach_with(from("pcns.ns == 'nowhere'", Action::Pass), forget_y), without_y, "a pass in doubt refuses");
    assert_eq!(reach_with(from("pcns.ns == 'nowhere'", Action::Log), forget_y), OTHERS);
}

#[test]
fn a_negated_selector_in_doubt_counts_against_the_traffic_as_well() {
    let not = |action| Rule {
        source: EntityMatch { not_selector: Some(written("pcns.ns == 'z'").into()), ..EntityMatch::default() },
        ..does(action)
    };
    let mut cast = into_a([not(Action::Allow), does(Action::Log)]);
    forget_y(&mut cast);
    assert_eq!(cast.reach("x/a"), "x/b x/c");
    assert_eq!(reach_with(not(Action::Deny), forget_y), "z/a z/b z/c");
}

#[test]
fn a_policy_that_may_apply_isolates_and_refuses_and_allows_nothing() {
    let maybe = |rules: [Rule; 2]| {
        let mut cast = Cast::new([global("default", "p").selecting("pcns.team == 'red'").into(rules)]);
        cast.0.namespaces.remove(&"x".into());
        cast
    };
    let cast = maybe([does(Action::Allow), does(Action::Log)]);
    assert_eq!((cast.reach("x/a").as_str(), cast.reach("y/a").is_empty()), ("", false));
    let mut passing = maybe([does(Action::Pass), does(Action::Log)]);
    assert_eq!(passing.reach("x/a"), "");
    passing.0.namespaces.insert("x".into(), labels(&[("team", "red")]));
    assert_eq!(passing.reach("x/a"), OTHERS, "described, it passes");
}

#[test]
fn the_account_of_a_pod_without_a_manifest_is_not_known() {
    let robot = |action| Rule { source: end("projectcalico.org/serviceaccount == 'robot'"), ..does(action) };
    let forget = |cast: &mut Cast| cast.pod("y/a").service_account = None;
    assert_eq!(reach_with(robot(Action::Deny), forget), "x/b x/c y/b y/c z/a z/b z/c");
    let other = Rule { source: end("projectcalico.org/serviceaccount != 'robot'"), ..does(Action::Allow) };
    let mut cast = into_a([other, does(Action::Log)]);
    forget(&mut cast);
    assert_eq!(cast.reach("x/a"), "x/b x/c y/b y/c z/a z/b z/c");
}

#[test]
fn cal_18_cnp_10_an_unreadable_deny_or_pass_refuses_everything_and_an_unreadable_allow_nothing() {
    let unread = |action| Rule { unreadable: Some("of another world".into()), ..does(action) };
    for (action, reach) in [(Action::Allow, OTHERS), (Action::Deny, ""), (Action::Pass, ""), (Action::Log, OTHERS)] {
        assert_eq!(reach_with(unread(action), |_| ()), reach, "{action:?}");
    }
}

#[test]
fn a_source_ports_name_of_a_pod_that_nobody_described_may_be_any() {
    let named = EntityMatch { ports: Some([PortMatch::Named("serve-80-tcp".into())].into()), ..end("pod == 'b'") };
    let forget = |cast: &mut Cast| cast.pod("y/b").ports = None;
    let denies = Rule { protocol: Some(TCP), source: named.clone(), ..does(Action::Deny) };
    assert_eq!(reach_with(denies, forget), "x/b x/c y/a y/c z/a z/b z/c");
    let allows = Rule { protocol: Some(TCP), source: named, ..does(Action::Allow) };
    let mut cast = into_a([allows, does(Action::Log)]);
    forget(&mut cast);
    assert!(cast.lets_from("x/b", 80, "x/a", TCP, 80) && !cast.lets_from("y/b", 80, "x/a", TCP, 80));
}
