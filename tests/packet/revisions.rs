//! Policy changes under live flows: judged again once, then let be or refused for good.
//! In: a flow under one revision, its next packets under the next. Out: fates, and how often policy was asked.
//! Invariant: a new deny cuts at the next packet, in both directions (OWN-1); a harmless change is asked once.
//! Never: a refused flow comes back but by a new SYN.

use crate::{
    cast::{CLIENT, DB, Family, HEIR, OTHER},
    frame::{ACK, SYN},
    kernel::{Kernel, on_a_node},
    scenario::{Narrow as _, Rules as _, Scenario, allow, policy},
    table::{Action, Hook},
};
use abi::{DropReason, conntrack::CT_REFUSED};
use model::Direction;

const THERE: (u16, u16) = (40000, 80);
const BACK: (u16, u16) = (80, 40000);

fn open() -> Scenario {
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").pod(OTHER, "other")
}

fn denied() -> Scenario {
    open().policy(policy("deny", Some("db"), &[Direction::Ingress]))
}

fn still_allowed() -> Scenario {
    open().policy(policy("allow", Some("db"), &[Direction::Ingress]).ingress(allow().pods("client")))
}

fn establish(kernel: &mut Kernel, family: Family) {
    kernel.fresh();
    client(kernel, family, SYN);
    server(kernel, family, SYN | ACK);
    assert_eq!(client(kernel, family, ACK), Action::Redirect);
}

fn client(kernel: &mut Kernel, family: Family, flags: u8) -> Action {
    kernel.run(Hook::Pod(CLIENT), &CLIENT.tcp(family, DB, THERE, flags).bytes()).action
}

fn server(kernel: &mut Kernel, family: Family, flags: u8) -> Action {
    kernel.run(Hook::Pod(DB), &DB.tcp(family, CLIENT, BACK, flags).bytes()).action
}

#[test]
fn own_1_a_new_deny_cuts_an_established_flow_both_ways_until_a_new_syn_is_allowed() {
    on_a_node(|| {
        for family in Family::BOTH {
            let mut kernel = Kernel::new(&open());
            establish(&mut kernel, family);
            kernel.commit(&denied());
            assert_eq!(server(&mut kernel, family, ACK), Action::Drop, "the server's next segment, {family:?}");
            assert_eq!(client(&mut kernel, family, ACK), Action::Drop, "the client's next segment");
            let counted = kernel.seen().drops.into_keys().map(|(_, reason)| reason).collect::<Vec<_>>();
            assert!(counted.contains(&DropReason::FlowRefused), "counted as what it is: {counted:?}");
            let entries = kernel.seen().entries;
            assert!(entries.values().all(|entry| entry.flags & CT_REFUSED != 0), "a tombstone: {entries:?}");
            kernel.commit(&open());
            assert_eq!(server(&mut kernel, family, ACK), Action::Drop, "refused for good");
            assert_eq!(client(&mut kernel, family, SYN), Action::Redirect, "until a new SYN");
            assert_eq!(server(&mut kernel, family, SYN | ACK), Action::Redirect);
        }
    });
}

#[test]
fn a_harmless_change_is_asked_about_once() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&open());
        establish(&mut kernel, Family::V4);
        kernel.commit(&still_allowed());
        let before = kernel.seen().judged;
        assert_eq!(client(&mut kernel, Family::V4, ACK), Action::Redirect);
        let once = kernel.seen().judged;
        assert_eq!(once - before, 2, "both ends, once");
        assert_eq!(server(&mut kernel, Family::V4, ACK), Action::Redirect);
        assert_eq!(client(&mut kernel, Family::V4, ACK), Action::Redirect);
        assert_eq!(kernel.seen().judged, once, "and not again");
    });
}

#[test]
fn cal_14_established_flows_outlive_a_deny_where_the_setting_keeps_them() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&open().keeping_established());
        establish(&mut kernel, Family::V6);
        kernel.commit(&denied().keeping_established());
        assert_eq!(server(&mut kernel, Family::V6, ACK), Action::Redirect);
        assert_eq!(client(&mut kernel, Family::V6, ACK), Action::Redirect);
        kernel.fresh();
        assert_eq!(client(&mut kernel, Family::V6, SYN), Action::Drop, "a new one is refused");
    });
}

#[test]
fn np_22_a_peers_label_alone_can_cut_a_flow() {
    on_a_node(|| {
        let mut kernel = Kernel::new(&still_allowed());
        establish(&mut kernel, Family::V4);
        let mut relabelled = still_allowed();
        relabelled.cast[0].labels = [("app".to_owned(), "stranger".to_owned())].into();
        kernel.commit(&relabelled);
        assert_eq!(client(&mut kernel, Family::V4, ACK), Action::Drop);
    });
}

#[test]
fn own_4_a_pod_that_gets_anothers_address_gets_none_of_its_flows() {
    let heir = |keep: bool| {
        let scenario = Scenario::default().pod(CLIENT, "client").pod(OTHER, "other").pod(HEIR, "heir").policy(policy(
            "heir",
            Some("heir"),
            &[Direction::Ingress],
        ));
        if keep { scenario.keeping_established() } else { scenario }
    };
    on_a_node(|| {
        for (family, keep) in [(Family::V4, false), (Family::V6, false), (Family::V4, true), (Family::V6, true)] {
            let before = if keep { open().keeping_established() } else { open() };
            let mut kernel = Kernel::new(&before);
            establish(&mut kernel, family);
            kernel.commit(&heir(keep));
            let from_heir = HEIR.tcp(family, CLIENT, BACK, ACK).bytes();
            assert_eq!(kernel.run(Hook::Pod(HEIR), &from_heir).action, Action::Drop, "{family:?}, kept: {keep}");
            assert_eq!(client(&mut kernel, family, ACK), Action::Drop, "{family:?}, kept: {keep}");
        }
    });
}
