//! Ports and protocols: NP rows about numbers, names, ranges and what has no ports.
//! In: the cast and policies. Out: which ports are open.
//! Invariant: each row names its conformance id.
//! Never: peers beyond what a port row needs.

use super::cast::*;
use model::{NamedPort, Protocol};

fn into_x(rules: [Allow; 1]) -> Cast {
    Cast::new([policy("x", "in").ingress(rules)])
}

fn out_of_x(rules: [Allow; 1]) -> Cast {
    Cast::new([policy("x", "out").egress(rules)])
}

#[test]
fn np_14_peer_and_port_are_and() {
    for protocol in [TCP, UDP, SCTP] {
        let cast = into_x([peers([namespaces(is("ns", "y"))]).port(protocol, 81)]);
        assert!(cast.lets("y/a", "x/a", protocol, 81));
        assert!(!cast.lets("y/a", "x/a", protocol, 80) && !cast.lets("z/a", "x/a", protocol, 81));
    }
}

#[test]
fn np_15_a_second_policy_opens_without_closing_the_first() {
    let first = policy("x", "first").ingress([all().port(TCP, 81)]);
    let second = policy("x", "second").ingress([all().port(TCP, 80)]);
    assert!(!Cast::new([first.clone()]).lets("y/a", "x/a", TCP, 80));
    let cast = Cast::new([first, second]);
    assert!(cast.lets("y/a", "x/a", TCP, 80) && cast.lets("y/a", "x/a", TCP, 81));
}

#[test]
fn np_17_np_18_an_ingress_name_is_the_port_of_the_pod_itself() {
    let cast = into_x([peers([namespaces(is("ns", "z"))]).named(TCP, "serve-81-tcp")]);
    assert!(cast.lets("z/a", "x/a", TCP, 81));
    assert!(!cast.lets("z/a", "x/a", TCP, 80) && !cast.lets("y/a", "x/a", TCP, 81));
}

#[test]
fn np_19_an_egress_name_is_the_port_of_each_destination() {
    let mut cast = out_of_x([all().named(TCP, "web")]);
    let web = |port| NamedPort { name: "web".into(), protocol: TCP, port };
    cast.pod("y/a").ports.get_or_insert_default().push(web(80));
    cast.pod("y/b").ports.get_or_insert_default().push(web(81));
    cast.pod("x/a").ports.get_or_insert_default().push(web(82));
    assert!(cast.lets("x/a", "y/a", TCP, 80) && !cast.lets("x/a", "y/a", TCP, 81));
    assert!(cast.lets("x/a", "y/b", TCP, 81) && !cast.lets("x/a", "y/b", TCP, 80));
    assert!(!cast.lets("x/a", "y/b", TCP, 82) && !cast.lets("x/a", STRANGER, TCP, 82));
}

#[test]
fn np_30_a_protocol_alone_is_all_its_ports_and_no_other_protocol() {
    let cast = into_x([all().any_port(TCP)]);
    assert!(cast.lets("y/a", "x/a", TCP, 0) && cast.lets("y/a", "x/a", TCP, u16::MAX));
    assert!(!cast.lets("y/a", "x/a", UDP, 80) && !cast.lets("y/a", "x/a", SCTP, 80));
}

#[test]
fn np_38_np_39_np_40_one_protocols_port_opens_no_others_and_still_isolates() {
    for (written, closed) in [(SCTP, [TCP, UDP]), (UDP, [TCP, SCTP]), (TCP, [UDP, SCTP])] {
        let cast = into_x([all().port(written, 81)]);
        assert!(cast.lets("y/a", "x/a", written, 81));
        assert!(closed.into_iter().all(|protocol| !cast.lets("y/a", "x/a", protocol, 81)));
    }
}

#[test]
fn np_43_np_44_np_h6_udp_and_sctp_are_isolated_as_tcp_is() {
    let cast = Cast::new([policy("x", "in").ingress([])]);
    assert!([UDP, SCTP].into_iter().all(|protocol| !cast.lets("y/a", "x/a", protocol, 80)));
}

#[test]
fn np_46_cyc_8_a_range_holds_both_its_ends() {
    let cast = into_x([all().range(TCP, 53, 80)]);
    assert!(cast.lets("y/a", "x/a", TCP, 53) && cast.lets("y/a", "x/a", TCP, 80));
    assert!(!cast.lets("y/a", "x/a", TCP, 52) && !cast.lets("y/a", "x/a", TCP, 81));
    assert!(into_x([all().range(TCP, 80, 80)]).lets("y/a", "x/a", TCP, 80));
}

#[test]
fn np_63_ports_leave_out_what_has_none_and_no_ports_leave_out_nothing() {
    let [from, to] = [block("y/a")[0].network(), block("x/a")[0].network()];
    for (protocol, detail) in [(Protocol::ICMP, 0x0800), (Protocol(50), 0)] {
        let asked = |cast: Cast| cast.outcome(from, to, protocol, detail).verdict();
        assert_eq!(asked(into_x([all().range(TCP, 0, u16::MAX)])), crate::Verdict::Deny);
        assert_eq!(asked(into_x([all()])), crate::Verdict::Allow);
    }
}

#[test]
fn np_67_cyc_9_a_name_that_the_pod_does_not_have_opens_nothing() {
    for cast in [into_x([all().named(TCP, "nowhere")]), out_of_x([all().named(TCP, "nowhere")])] {
        assert!(!cast.lets("x/b", "x/a", TCP, 80) && !cast.lets("x/b", "x/a", TCP, 81));
    }
}

#[test]
fn np_68_cyc_9_a_name_of_another_protocol_opens_nothing() {
    for cast in [into_x([all().named(UDP, "serve-80-tcp")]), out_of_x([all().named(UDP, "serve-80-tcp")])] {
        assert!(!cast.lets("x/b", "x/a", TCP, 80) && !cast.lets("x/b", "x/a", UDP, 80));
    }
}

#[test]
fn np_69_one_name_of_two_protocols_is_resolved_by_protocol() {
    for mut cast in [into_x([all().named(UDP, "dns")]), out_of_x([all().named(UDP, "dns")])] {
        let dns = |protocol, port| NamedPort { name: "dns".into(), protocol, port };
        cast.pod("x/a").ports.get_or_insert_default().extend([dns(TCP, 5300), dns(UDP, 53)]);
        assert!(cast.lets("x/b", "x/a", UDP, 53));
        assert!(!cast.lets("x/b", "x/a", UDP, 5300) && !cast.lets("x/b", "x/a", TCP, 5300));
    }
}

#[test]
fn cyc_9_a_port_that_nobody_serves_opens_no_other() {
    let cast = into_x([all().port(TCP, 7777)]);
    assert!(cast.lets("y/a", "x/a", TCP, 7777) && !cast.lets("y/a", "x/a", TCP, 80));
}
