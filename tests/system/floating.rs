//! Floating addresses (`cni.projectcalico.org/floatingIPs`): a pod that is reached at an address that it knows nothing of, with real
//! sockets.
//! In: pods whose manifests ask for such addresses, on a node whose FelixConfiguration has them. Out: what those outside, other pods,
//! the pod and the node itself meet there.
//! Invariant: no interface has the address; who asks is seen by his own, and hears who he asked.
//! Never: waits for a change by time; an answer is the sign.

use crate::story::{Story, story_on};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tests::{
    NetNs, NodeSpec, Outcome, PodSpec,
    Probe::{self, Ping, Sctp, Tcp, Udp},
    flow::Connection,
    frame::{FrameSocket, parse_mac},
    probe::probe,
    server::Listen,
    wait::{PATIENCE, wait_until},
};

const FLOATS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 7))];
const ANNOTATION: &str = "cni.projectcalico.org/floatingIPs";
const ALL: [Probe; 4] = [Tcp(80), Udp(80), Sctp(80), Ping];

/// A pod that asks for these, in a network that allows it.
fn asking(id: &str, addresses: &[IpAddr]) -> PodSpec {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let conf = json!({ "feature_control": { "floating_ips": true } });
    let spec = PodSpec { conf, ..PodSpec::new(id) }.listen(Listen::Sctp(80));
    spec.annotation(ANNOTATION, &json!(list).to_string())
}

fn felix(s: &Story, spec: &str) -> Result<()> {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{ name: default }}\nspec: {spec}\n"
    );
    s.cluster.manifest("felix", &text)
}

/// A node with `x/a`, to which both addresses float, and `x/b` beside it; the host outside is told that the node has the way there.
fn floating(test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    story_on(NodeSpec::new(1), &["x/b"], |s| {
        felix(s, "{ floatingIPs: Enabled }")?;
        s.add(&asking("x/a", &FLOATS))?;
        let routes: Vec<_> = FLOATS
            .iter()
            .zip(s.node.addresses())
            .map(|(float, node)| format!("route add {float} via {node}"))
            .collect();
        s.cluster.outside().ip(&routes.iter().map(String::as_str).collect::<Vec<_>>())?;
        test(s)
    })
}

/// Those who may ask: outside, another pod, the pod itself, the node.
fn everybody(s: &Story) -> Result<[(&'static str, &NetNs); 4]> {
    let (other, own) = (s.pod("x/b")?.namespace(), s.pod("x/a")?.namespace());
    Ok([("outside", s.cluster.outside()), ("x/b", other), ("x/a", own), ("the node", s.node.namespace())])
}

fn meet(from: (&str, &NetNs), wanted: Outcome) -> Result<()> {
    for (float, what) in FLOATS.into_iter().flat_map(|float| ALL.map(|what| (float, what))) {
        let met = probe(from.1, float, what)?;
        ensure!(met == wanted, "{} meets {met} at {float}, {what}, and not {wanted}", from.0);
    }
    Ok(())
}

fn soon(why: &str, holds: impl Fn() -> Result<()>) -> Result<()> {
    let mut last = None;
    let held = wait_until(why, PATIENCE, || {
        last = holds().err();
        Ok(last.is_none())
    });
    held.with_context(|| last.map_or_else(String::new, |error| format!("{error:#}")))
}

#[test]
fn spf_4_everybody_reaches_the_pod_by_its_floating_addresses_and_policy_sees_who_it_is_at_the_pod_itself() -> Result<()>
{
    floating(|s| {
        s.node.namespace().sysctl("ipv4/conf/all/rp_filter", "1")?;
        soon("the addresses float", || everybody(s)?.into_iter().try_for_each(|who| meet(who, Outcome::Allowed)))?;
        let outside = "from: [{ ipBlock: { cidr: 192.0.2.254/32 } }, { ipBlock: { cidr: '2001:db8::fe/128' } }]";
        s.policy("x/in", &format!("{{ podSelector: {{ matchLabels: {{ pod: a }} }}, ingress: [{{ {outside} }}] }}"))?;
        let [outside, other, own, node] = everybody(s)?;
        soon("another pod is refused", || meet(other, Outcome::Refused))?;
        meet(own, Outcome::Refused)?;
        meet(outside, Outcome::Allowed)?;
        meet(node, Outcome::Allowed)?;
        // A rule about the floating address is about nobody: what is judged is the pod itself.
        let [v4, v6] = FLOATS;
        let to = format!("to: [{{ ipBlock: {{ cidr: {v4}/32 }} }}, {{ ipBlock: {{ cidr: '{v6}/128' }} }}]");
        s.drop_policy("x/in")?;
        s.policy(
            "x/out",
            &format!("{{ podSelector: {{ matchLabels: {{ pod: b }} }}, policyTypes: [Egress], egress: [{{ {to} }}] }}"),
        )?;
        soon("the pod's own address is asked for", || meet(everybody(s)?[1], Outcome::Refused))?;
        let to = "to: [{ podSelector: { matchLabels: { pod: a } } }]";
        s.policy(
            "x/out",
            &format!("{{ podSelector: {{ matchLabels: {{ pod: b }} }}, policyTypes: [Egress], egress: [{{ {to} }}] }}"),
        )?;
        soon("and found", || meet(everybody(s)?[1], Outcome::Allowed))
    })
}

#[test]
fn spf_4_what_floats_outlives_agents_and_ends_with_its_pod() -> Result<()> {
    floating(|s| {
        soon("the addresses float", || meet(everybody(s)?[0], Outcome::Allowed))?;
        let mut live = FLOATS
            .into_iter()
            .flat_map(|float| [s.cluster.outside(), s.node.namespace()].map(|from| Connection::open(from, float, 80)))
            .collect::<Result<Vec<_>>>()?;
        s.node.agent.kill()?;
        everybody(s)?.into_iter().try_for_each(|who| meet(who, Outcome::Allowed))?;
        s.node.start()?;
        everybody(s)?.into_iter().try_for_each(|who| meet(who, Outcome::Allowed))?;
        for connection in &mut live {
            ensure!(connection.answers()?, "it goes on");
        }
        let routes = |s: &Story| -> Result<String> {
            let [v4, v6] = ["-4 route", "-6 route"].map(|of| s.node.namespace().ip_json(of));
            Ok(format!("{}{}", v4?, v6?))
        };
        ensure!(FLOATS.iter().all(|float| routes(s).is_ok_and(|text| text.contains(&format!("\"{float}\"")))));
        let mut pod = s.pods.remove("x/a").context("the pod")?;
        pod.delete()?;
        for connection in &mut live {
            ensure!(!connection.answers().unwrap_or(false), "it ends with the pod");
        }
        let left = routes(s)?;
        ensure!(!FLOATS.iter().any(|float| left.contains(&format!("\"{float}\""))), "{left}");
        let met = probe(s.pod("x/b")?.namespace(), FLOATS[0], Tcp(80))?;
        ensure!(met != Outcome::Allowed, "{met}");
        // The next one has them.
        s.add(&asking("x/c", &FLOATS))?;
        soon("they float to the next", || meet(everybody_but_a(s)?, Outcome::Allowed))
    })
}

fn everybody_but_a(s: &Story) -> Result<(&'static str, &NetNs)> {
    Ok(("x/b", s.pod("x/b")?.namespace()))
}

#[test]
fn spf_4_an_address_follows_the_annotation_and_of_two_pods_one_has_it() -> Result<()> {
    floating(|s| {
        soon("the addresses float", || meet(everybody(s)?[1], Outcome::Allowed))?;
        // Another that is younger asks for the same.
        let younger = asking("x/c", &FLOATS);
        s.add(&younger)?;
        let problems = || Ok::<_, anyhow::Error>(s.node.show("status")?["problems"].to_string());
        let said = format!("pod x/c: {} does not float to it: it floats to the pod x/a", FLOATS[0]);
        soon("it is told", || {
            let problems = problems()?;
            ensure!(problems.contains(&said), "{problems}");
            Ok(())
        })?;
        let row = |s: &Story, pod: &str| -> Result<Value> {
            let rows = s.node.show("endpoints")?;
            let row = rows.as_array().into_iter().flatten().find(|row| row["pod"] == pod).cloned();
            row.with_context(|| format!("no row of {pod} in {rows}"))
        };
        let floats: Vec<_> = FLOATS.iter().map(ToString::to_string).collect();
        ensure!((&row(s, "x/a")?["floating"], &row(s, "x/c")?["floating"]) == (&json!(floats), &Value::Null));
        // The first wants them no more.
        s.cluster.pod_manifest(&asking("x/a", &[]), s.node.name())?;
        soon("it is the other's", || {
            ensure!(row(s, "x/c")?["floating"] == json!(floats) && row(s, "x/a")?["floating"].is_null());
            meet(everybody(s)?[1], Outcome::Allowed)
        })?;
        ensure!(!problems()?.contains("float"), "{}", problems()?);
        felix(s, "{ floatingIPs: Disabled }")?;
        soon("they float no more", || {
            ensure!(row(s, "x/c")?["floating"].is_null());
            let met = probe(s.pod("x/b")?.namespace(), FLOATS[0], Tcp(80))?;
            ensure!(met != Outcome::Allowed, "{met}");
            Ok(())
        })
    })
}

#[test]
fn spf_4_add_fails_where_the_network_does_not_allow_what_the_pod_asks_for_or_it_cannot_be_had() -> Result<()> {
    story_on(NodeSpec::new(1), &["x/b"], |s| {
        felix(s, "{ floatingIPs: Enabled }")?;
        let refused = |spec: &PodSpec| -> Result<String> {
            match s.node.pod(&s.cluster, spec) {
                Ok(_) => bail!("{} is attached", spec.id()),
                Err(error) => Ok(format!("{error:#}")),
            }
        };
        let before = s.node.show("status")?["attachments"].clone();
        let off = PodSpec { conf: json!({}), ..asking("x/off", &FLOATS) };
        let said = refused(&off)?;
        ensure!(said.contains("requested feature is not enabled: floating_ips"), "{said}");
        let torn = PodSpec { conf: asking("x/a", &[]).conf, ..PodSpec::new("x/torn") };
        let said = refused(&torn.annotation(ANNOTATION, "203.0.113.7"))?;
        ensure!(said.contains(ANNOTATION) && said.contains("is no JSON list of addresses"), "{said}");
        ensure!(s.node.show("status")?["attachments"] == before, "nothing is half made");
        Ok(())
    })
}

#[test]
fn spf_4_a_floating_address_is_shown_counted_and_explained() -> Result<()> {
    floating(|s| {
        soon("the addresses float", || meet(everybody(s)?[1], Outcome::Allowed))?;
        let rows = s.node.show("services")?;
        let frontend = FLOATS[0].to_string();
        let row = rows.as_array().into_iter().flatten().find(|row| row["frontend"] == frontend.as_str());
        let row = row.with_context(|| format!("no row in {rows}"))?;
        ensure!(row["service"] == format!("x/a:{frontend}") && row["type"] == "FloatingIP", "{row}");
        ensure!(row["backends"] == json!([s.pod("x/a")?.address().to_string()]), "{row}");
        ensure!(row["opened"].as_u64().is_some_and(|opened| opened >= 4), "{row}");
        ensure!(row["active"].as_u64().is_some_and(|active| active >= 1), "{row}");
        let explained = |from: &[&str], protocol: &str, port: &str| -> Result<Value> {
            let asked = [from, &["--to", &frontend, "--proto", protocol, "--port", port, "--output", "json"]].concat();
            let said = s.node.tortie(&asked)?;
            serde_json::from_slice(&said.stdout).with_context(|| format!("{said:?}"))
        };
        for (protocol, port) in [("tcp", "80"), ("udp", "53"), ("icmp", "8")] {
            for from in [["explain", "--from", "x/b"], ["explain", "--from", "192.0.2.254"]] {
                let said = explained(&from, protocol, port)?;
                ensure!(said["kind"] == "FloatingIP" && said["verdict"] == "allowed", "{said}");
                ensure!(said["ALARM"].is_null() && said["backends"][0]["pod"] == "x/a", "{said}");
            }
        }
        s.policy("x/in", "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ ports: [{ port: 81 }] }] }")?;
        soon("the port is shut", || {
            let said = explained(&["explain", "--from", "x/b"], "tcp", "80")?;
            ensure!(said["verdict"] == "refused" && said["ALARM"].is_null(), "{said}");
            Ok(())
        })?;
        for from in [["explain", "--from", "x/b"], ["explain", "--from", "192.0.2.254"]] {
            for (port, verdict) in [("80", "refused"), ("81", "allowed")] {
                let said = explained(&from, "tcp", port)?;
                ensure!(said["verdict"] == verdict && said["ALARM"].is_null(), "{said}");
            }
        }
        Ok(())
    })
}

#[test]
fn pkt_9_a_floating_address_of_the_nodes_network_is_answered_for_where_that_is_asked_for() -> Result<()> {
    story_on(NodeSpec::new(1), &["x/b"], |s| {
        let float: Ipv4Addr = "192.0.2.77".parse()?;
        felix(s, "{ floatingIPs: Enabled, localSubnetL2Reachability: PodsAndLoadBalancers }")?;
        s.add(&asking("x/a", &[float.into()]))?;
        let socket = FrameSocket::open(s.cluster.outside(), "br0")?;
        let outside: Ipv4Addr = "192.0.2.254".parse()?;
        let link = s.node.namespace().ip_json("link show dev eth0")?;
        let mac = parse_mac(link[0]["address"].as_str().unwrap_or_default())?;
        soon("it floats", || {
            let met = probe(s.pod("x/b")?.namespace(), float.into(), Tcp(80))?;
            ensure!(met == Outcome::Allowed, "{met}");
            Ok(())
        })?;
        ensure!(socket.arp(outside, float)?.is_none(), "it is of no pool, and nobody's to announce");
        let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: floating }\n\
                    spec: { cidr: 192.0.2.64/26, ipipMode: Never, vxlanMode: Never, allowedUses: [LoadBalancer] }\n";
        s.cluster.manifest("floating", pool)?;
        let answered = |wanted: bool| {
            wait_until(&format!("it is answered for: {wanted}"), PATIENCE, || {
                Ok(socket.arp(outside, float)?.is_some_and(|by| by == mac) == wanted)
            })
        };
        answered(true)?;
        ensure!(probe(s.cluster.outside(), float.into(), Tcp(80))? == Outcome::Allowed, "without any route");
        s.node.agent.kill()?;
        answered(true)?;
        s.node.start()?;
        answered(true)?;
        let mut pod = s.pods.remove("x/a").context("the pod")?;
        pod.delete()?;
        answered(false)
    })
}
