//! What a gate leaves to the uplink's program, and what else passes there, as a specification: an entry, or a mark, serves for nothing
//! that no service leads on.
//! In: the gated nodes of `led`. Out: verdicts, entries.
//! Invariant: every row says what a user or an attacker would see.
//! Never: looks inside a stage.

use crate::fake::{ALLOW, Bytes, Node, SOME, UPLINK, tcp, udp, v4};
use crate::outside::{self};
use crate::services::{PORT, TARGET, VIP};
use crate::tables::Arrival;
use crate::tracking::{ACK, FIN, OUTSIDE, RST, SYN, TO_B};
use crate::translation::Translated;
use crate::walk::{Hook, State, Verdict, walk};
use abi::DropReason::*;
use abi::conntrack::NAT_LEADS;
use abi::endpoint::SLOT_HOST;
use abi::rules::SET_OPEN;
use abi::{Word, handover};

use crate::led::{
    COMES, EXTERNAL, LOCAL, NOTHING, OTHER, PRE_DNAT, REFUSED, THROUGH, answers, asks, asks_udp, by, change, comes,
    connect, gated, gated_alone, leaves, rules,
};

#[test]
fn an_entry_of_what_a_service_leads_on_serves_for_nothing_else() {
    type Gone = fn(&mut Node);
    let no_frontend: Gone = |node| node.frontends[1].outside = Word::settled(0);
    let no_service: Gone = |node| {
        node.frontends.iter_mut().for_each(|frontend| frontend.outside = Word::settled(0));
        node.backends[1].standing = Word::settled(0);
    };
    for gone in [no_frontend, no_service] {
        let mut node = gated([ALLOW, NOTHING]);
        connect(&node, 4000);
        assert_eq!(asks_udp(&node, 4000), TO_B);
        gone(&mut node);
        for (_, flow) in node.flows().iter().filter(|(_, flow)| flow.nat_kind.get() == NAT_LEADS) {
            flow.forget();
        }
        assert_eq!((asks(&node, 4000, ACK), asks_udp(&node, 4000)), (REFUSED, REFUSED), "for the node itself");
        assert_eq!(asks(&node, 4000, SYN), REFUSED);
    }
    let node = gated([ALLOW, NOTHING]);
    connect(&node, 4000);
    assert_eq!(leaves(&node, 0, &tcp((0, VIP), 200, (PORT, 4000), ACK)), REFUSED, "the node's own");
    // An address that is not the node's: what is forwarded is asked about in its own name again.
    let mut node = gated([SOME, NOTHING]);
    let external = |node: &Node, flags| comes(node, &tcp(OUTSIDE, EXTERNAL, (4001, PORT), flags)).0;
    assert_eq!((external(&node, SYN), external(&node, ACK)), (TO_B, TO_B));
    let leads = node.flows().into_iter().find(|(_, flow)| flow.nat_kind.get() == NAT_LEADS);
    leads.expect("one leads").1.forget();
    let answer = tcp((0, EXTERNAL), 200, (PORT, 4001), SYN | ACK);
    assert_eq!(leaves(&node, 77, &answer), REFUSED, "what no backend's flow brings back");
    node.frontends[1].outside = Word::settled(0);
    assert_eq!((external(&node, ACK), external(&node, SYN)), (REFUSED, REFUSED));
}

#[test]
fn what_the_gate_left_to_the_uplinks_program_and_no_service_leads_on_goes_nowhere() {
    let mut node = gated([ALLOW, NOTHING]);
    connect(&node, 4000);
    let ahead = |node: &Node, frame: &[u8]| {
        let arrival = Arrival { handed: handover::to_cb_ahead(node.generation.get()), ..COMES };
        by(node, Hook::FromUplink, &arrival, frame).0
    };
    for flags in [SYN, ACK, RST] {
        assert_eq!(ahead(&node, &tcp(OUTSIDE, VIP, (4000, 22), flags)), REFUSED, "to the node");
    }
    assert_eq!(ahead(&node, &udp(OUTSIDE, 1, (4000, 53))), REFUSED);
    assert_eq!(ahead(&node, &tcp(OUTSIDE, 3, (4005, TARGET), SYN)), REFUSED, "straight to a pod");
    // Its backend is gone: it hears so, and the host's stack nothing.
    node.backends[1].standing = Word::settled(0);
    assert_eq!((asks(&node, 4000, ACK), asks(&node, 4000, RST)), (Err(BackendGone), REFUSED));
    // A backend that is this node itself is asked about as the node.
    let mut node = gated([ALLOW, NOTHING]);
    node.backends[1].address = v4(1);
    assert_eq!(asks(&node, 4000, SYN), REFUSED);
}

#[test]
fn a_flow_older_than_the_gate_goes_on_and_one_of_the_nodes_own_is_not_taken_for_it() {
    let mut node = gated([ALLOW, NOTHING]);
    node.interfaces.remove(&UPLINK);
    node.endpoints[SLOT_HOST as usize].layers.uplink = 0;
    outside::connect(&node, 4000);
    node.interfaces.insert(UPLINK, LOCAL);
    node.endpoints[SLOT_HOST as usize].layers.uplink = LOCAL;
    assert_eq!((asks(&node, 4000, ACK), answers(&node, 4000, ACK)), (TO_B, THROUGH));
    assert_eq!(asks(&node, 4001, ACK), REFUSED, "one that nobody knows");
    assert_eq!((asks(&node, 4000, FIN | ACK), answers(&node, 4000, FIN | ACK)), (TO_B, THROUGH));
    // A connection of the node's own, from before the service: its entry speaks for it, and no service is asked about.
    let mut node = gated([ALLOW, NOTHING]);
    let there = std::mem::replace(&mut node.frontends[1].outside, Word::settled(0));
    rules(&mut node, LOCAL, [ALLOW, NOTHING]);
    let own = |node: &Node, flags| asks(node, 4000, flags);
    assert_eq!(own(&node, SYN), Ok(Verdict::Untouched));
    assert_eq!(leaves(&node, 0, &tcp((0, VIP), 200, (PORT, 4000), SYN | ACK)), THROUGH);
    assert_eq!(own(&node, ACK), Ok(Verdict::Untouched));
    node.frontends[1].outside = there;
    assert_eq!(own(&node, ACK), Ok(Verdict::Untouched));
    assert_eq!(leaves(&node, 0, &tcp((0, VIP), 200, (PORT, 4000), ACK)), THROUGH);
    change(&mut node, LOCAL, NOTHING);
    assert_eq!(own(&node, ACK), Err(FlowRefused), "the node's own rules cut it");
}

#[test]
fn what_no_service_leads_on_is_asked_about_at_the_gate_alone() {
    // Straight to a pod, in a connection older than the gate.
    let mut node = gated([SOME, SET_OPEN]);
    node.interfaces.remove(&UPLINK);
    let straight = |node: &Node, flags| comes(node, &tcp(OUTSIDE, 3, (4000, TARGET), flags)).0;
    assert_eq!(straight(&node, SYN), TO_B);
    node.interfaces.insert(UPLINK, LOCAL);
    assert_eq!(straight(&node, ACK), TO_B);
    // By another interface of the node's: the uplink's rules are not for it.
    let node = gated([NOTHING, NOTHING]);
    assert_eq!(node.run(Hook::ToWorkload, 3, 77, &udp(OUTSIDE, 3, (5, 53))).0, TO_B);
    assert_eq!(comes(&node, &udp(OUTSIDE, 3, (5, 53))).0, REFUSED);
    // A flow that the local layer let in, of an address that was the node's, and is a service's now.
    let mut node = gated_alone();
    let there = std::mem::replace(&mut node.frontends[1].outside, Word::settled(0));
    rules(&mut node, LOCAL, [ALLOW, NOTHING]);
    node.endpoints[LOCAL as usize].layers.pre_dnat = PRE_DNAT;
    rules(&mut node, PRE_DNAT, [ALLOW, SET_OPEN]);
    assert_eq!(asks_udp(&node, 4000), Ok(Verdict::Untouched));
    node.owns(v4(VIP), 0);
    node.frontends[1].outside = there;
    rules(&mut node, PRE_DNAT, [NOTHING, SET_OPEN]);
    assert_eq!(asks_udp(&node, 4000), REFUSED);
}

#[test]
fn a_gate_knows_nothing_of_the_packet_before() {
    let node = gated([ALLOW, NOTHING]);
    let mut state = State::default();
    state.translation.is_hairpin = true;
    let syn = tcp(OUTSIDE, VIP, (4000, PORT), SYN);
    assert_eq!(walk(Hook::FromHostEndpoint, &node, &Bytes(&syn), &COMES, &mut state), THROUGH);
    assert_eq!((state.translation.end, state.translation.sends_back()), (Translated::Ahead, false));
}

#[test]
fn only_the_uplinks_gate_leaves_anything_to_the_uplinks_program() {
    let mut node = gated([ALLOW, NOTHING]);
    (node.endpoints[OTHER as usize].ifindex, node.endpoints[SLOT_HOST as usize].layers.uplink) = (8, LOCAL);
    node.interfaces.insert(8, OTHER);
    rules(&mut node, OTHER, [NOTHING, NOTHING]);
    let arrival = Arrival { ifindex: 8, ingress_ifindex: 8, ..COMES };
    let syn = tcp(OUTSIDE, VIP, (4000, PORT), SYN);
    assert_eq!(by(&node, Hook::FromHostEndpoint, &arrival, &syn).0, REFUSED, "no program translates there");
    assert_eq!(asks(&node, 4000, SYN), TO_B);
}
