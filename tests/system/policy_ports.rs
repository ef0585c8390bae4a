//! NetworkPolicy, ports and protocols: NP-14, 15, 17 to 19, 30, 38 to 40, 43, 44, 46, 63, 64, 67 to 69 and 72.
//! In: policies as YAML. Out: tables of who reaches whom on which port, both families.
//! Invariant: each test sees at least one cell change, so that it knows the policy was heard.
//! Never: asks a pod for itself (NP-H2).

use crate::story::story;
use anyhow::Result;
use tests::{
    PodSpec,
    Probe::{Ping, Sctp, Tcp, Udp},
    server::Listen,
};

const FROM_Y: &str = "from: [{ namespaceSelector: { matchLabels: { ns: 'y' } } }]";

#[test]
fn np_14_a_rule_needs_peer_and_port() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        for (protocol, open, closed) in
            [("TCP", Tcp(81), Tcp(80)), ("UDP", Udp(81), Udp(80)), ("SCTP", Sctp(81), Sctp(80))]
        {
            let ports = format!("ports: [{{ protocol: {protocol}, port: 81 }}]");
            s.policy("x/p", &format!("{{ podSelector: {{}}, ingress: [{{ {FROM_Y}, {ports} }}] }}"))?;
            s.expect(open, "x/a\n x/b X\n y/a .")?;
            s.expect(closed, "x/a\n x/b X\n y/a X")?;
        }
        Ok(())
    })
}

#[test]
fn np_15_a_second_policy_opens_its_port_and_closes_none() -> Result<()> {
    story(&["x/a", "x/b", "y/a"], |s| {
        s.policy("x/one", &format!("{{ podSelector: {{}}, ingress: [{{ {FROM_Y}, ports: [{{ port: 81 }}] }}] }}"))?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/a X")?;
        s.expect(Tcp(81), "x/a\n x/b X\n y/a .")?;
        s.policy("x/two", &format!("{{ podSelector: {{}}, ingress: [{{ {FROM_Y}, ports: [{{ port: 80 }}] }}] }}"))?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/a .")?;
        s.expect(Tcp(81), "x/a\n x/b X\n y/a .")
    })
}

#[test]
fn np_17_a_named_port_without_protocol_is_tcp() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ port: serve-81-tcp }] }] }")?;
        s.expect(Tcp(80), "x/a\n y/a X")?;
        s.expect(Tcp(81), "x/a\n y/a .")
    })
}

#[test]
fn np_18_a_named_port_and_a_namespace() -> Result<()> {
    story(&["x/a", "y/a", "z/a"], |s| {
        s.policy(
            "x/p",
            &format!("{{ podSelector: {{}}, ingress: [{{ {FROM_Y}, ports: [{{ port: serve-80-tcp }}] }}] }}"),
        )?;
        s.expect(Tcp(80), "x/a\n y/a .\n z/a X")?;
        s.expect(Tcp(81), "x/a\n y/a X\n z/a X")
    })
}

#[test]
fn np_19_an_egress_name_is_the_destinations_own() -> Result<()> {
    story(&["x/a"], |s| {
        for (id, number) in [("y/a", 80), ("y/b", 81)] {
            s.add(&PodSpec::new(id).port("web", "TCP", number))?;
        }
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Egress], egress: [{ ports: [{ port: web }] }] }")?;
        s.expect(Tcp(80), "y/a y/b\n x/a . X")?;
        s.expect(Tcp(81), "y/a y/b\n x/a X .")
    })
}

#[test]
fn np_30_a_protocol_without_port_is_every_port_of_it() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ protocol: TCP }] }] }")?;
        s.expect(Udp(80), "x/a\n y/a X")?;
        s.expect(Tcp(80), "x/a\n y/a .")?;
        s.expect(Tcp(81), "x/a\n y/a .")
    })
}

#[test]
fn np_38_an_sctp_port_opens_no_tcp_port() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ protocol: SCTP, port: 81 }] }] }")?;
        s.expect(Tcp(81), "x/a\n y/a X")?;
        s.expect(Sctp(81), "x/a\n y/a .")
    })
}

#[test]
fn np_39_an_sctp_policy_isolates_for_tcp_too() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ protocol: SCTP, port: 80 }] }] }")?;
        s.expect(Tcp(80), "x/a\n y/a X")?;
        s.expect(Tcp(81), "x/a\n y/a X")
    })
}

#[test]
fn np_40_a_udp_port_opens_no_tcp_port() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ protocol: UDP, port: 81 }] }] }")?;
        s.expect(Tcp(81), "x/a\n y/a X")?;
        s.expect(Udp(81), "x/a\n y/a .")
    })
}

#[test]
fn np_43_a_refused_datagram_meets_silence_and_no_unreachable() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.expect(Udp(99), "x/a\n y/a R")?;
        s.policy("x/p", "{ podSelector: {}, policyTypes: [Ingress] }")?;
        s.expect(Udp(99), "x/a\n y/a X")
    })
}

#[test]
fn np_44_sctp_is_policed_by_port() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ protocol: SCTP, port: 80 }] }] }")?;
        s.expect(Sctp(81), "x/a\n y/a X")?;
        s.expect(Sctp(80), "x/a\n y/a .")
    })
}

#[test]
fn np_46_a_port_range_includes_both_its_ends() -> Result<()> {
    story(&["y/a"], |s| {
        s.add(&PodSpec::new("x/a").listen(Listen::Tcp(82)).listen(Listen::Tcp(79)))?;
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ port: 80, endPort: 81 }] }] }")?;
        s.expect(Tcp(79), "x/a\n y/a X")?;
        s.expect(Tcp(80), "x/a\n y/a .")?;
        s.expect(Tcp(81), "x/a\n y/a .")?;
        s.expect(Tcp(82), "x/a\n y/a X")?;
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ port: 82, endPort: 82 }] }] }")?;
        s.expect(Tcp(82), "x/a\n y/a .")?;
        s.expect(Tcp(81), "x/a\n y/a X")
    })
}

#[test]
fn np_63_a_rule_with_ports_lets_no_ping_pass() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.expect(Ping, "x/a\n y/a .")?;
        s.policy("x/p", &format!("{{ podSelector: {{}}, ingress: [{{ {FROM_Y}, ports: [{{ port: 80 }}] }}] }}"))?;
        s.expect(Ping, "x/a\n y/a X")?;
        s.expect(Tcp(80), "x/a\n y/a .")?;
        s.policy("x/p", &format!("{{ podSelector: {{}}, ingress: [{{ {FROM_Y} }}] }}"))?;
        s.expect(Ping, "x/a\n y/a .")
    })
}

#[test]
fn np_64_an_error_about_an_allowed_flow_passes_a_closed_door() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        // x/a is isolated both ways but for what it sends to port 99, where nobody listens: the "unreachable" that
        // answers it is let in.
        s.policy(
            "x/p",
            "{ podSelector: {}, policyTypes: [Ingress, Egress], egress: [{ ports: [{ protocol: UDP, port: 99 }] }] }",
        )?;
        s.expect(Tcp(80), "x/a y/a\n x/a - X\n y/a X -")?;
        s.expect(Udp(99), "y/a\n x/a R")
    })
}

#[test]
fn np_67_a_name_that_a_pod_lacks_matches_nothing() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ port: no-such-name }] }] }")?;
        s.expect(Tcp(80), "x/a\n y/a X")?;
        s.expect(Tcp(81), "x/a\n y/a X")
    })
}

#[test]
fn np_68_a_name_of_another_protocol_matches_nothing() -> Result<()> {
    story(&["x/a", "y/a"], |s| {
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ port: serve-80-tcp, protocol: UDP }] }] }")?;
        s.expect(Tcp(80), "x/a\n y/a X")?;
        s.expect(Udp(80), "x/a\n y/a X")
    })
}

#[test]
fn np_69_one_name_for_two_protocols_is_told_apart_by_protocol() -> Result<()> {
    story(&["y/a"], |s| {
        s.add(&PodSpec::new("x/a").port("dns", "TCP", 80).port("dns", "UDP", 81))?;
        s.policy("x/p", "{ podSelector: {}, ingress: [{ ports: [{ port: dns, protocol: UDP }] }] }")?;
        s.expect(Tcp(80), "x/a\n y/a X")?;
        s.expect(Udp(80), "x/a\n y/a X")?;
        s.expect(Udp(81), "x/a\n y/a .")
    })
}
