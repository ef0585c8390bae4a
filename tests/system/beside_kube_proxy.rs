//! Beside a real kube-proxy: it translates, and policy judges the backends that it chose.
//! In: manifests, a node, kube-proxy in each of its modes. Out: what programs on the node, in pods and outside meet.
//! Invariant: kube-proxy and the agent read the same directory.
//! Never: waits for kube-proxy's rules by time.

use crate::{
    services::slices_of,
    story::{Story, story, story_on},
};
use anyhow::{Context as _, Result, ensure};
use std::{net::IpAddr, path::Path};
use tests::{
    Fabric, NetNs, NodeSpec, Outcome,
    Probe::{self, Tcp, Udp},
    Servers,
    cgroup::Cgroup,
    flow::Connection,
    kube_proxy::{KubeProxy, Mode},
    probe::probe,
    server::Listen,
    wait,
};

pub const MODES: [Mode; 2] = [Mode::Nftables, Mode::Iptables];

/// Without a route nobody sends to an address, whoever translates it later.
pub const DEFAULT_ROUTES: [&str; 2] = ["route add default via 192.0.2.254", "route add ::/0 via 2001:db8::fe"];

/// Where the shop is reached from outside beside its node ports.
const EXTERNAL: [&str; 2] = ["198.51.100.10", "2001:db8:1::10"];

/// Where the shop is.
pub fn vips() -> [IpAddr; 2] {
    [[10, 96, 0, 10].into(), [0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10].into()]
}

/// The service `x/shop`: TCP 443 and UDP 53, behind which are ports 80 of these addresses.
pub fn shop(s: &Story, backends: &[IpAddr]) -> Result<()> {
    let ([v4, v6], [external_v4, external_v6]) = (vips(), EXTERNAL);
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: shop, namespace: x, creationTimestamp: '2026-01-01T00:00:00Z' }}\n\
         spec: {{ type: NodePort, clusterIP: '{v4}', clusterIPs: ['{v4}', '{v6}'], ipFamilies: [IPv4, IPv6], \
         externalIPs: ['{external_v4}', '{external_v6}'], ports: [{{ name: web, port: 443, targetPort: 80, nodePort: 30443 }}, \
         {{ name: dns, port: 53, targetPort: 80, nodePort: 30053, protocol: UDP }}] }}\n"
    );
    // kube-proxy masquerades what a pod here sends to itself, if it is told that the pod is here.
    let at = |address: &IpAddr| if is_here(s, address) { ", nodeName: node1" } else { "" };
    let told = |address: &IpAddr| (*address, format!("conditions: {{ ready: true }}{}", at(address)));
    text += &slices_of(&backends.iter().map(told).collect::<Vec<_>>());
    s.cluster.manifest("shop", &text)
}

fn is_here(s: &Story, address: &IpAddr) -> bool {
    s.pods.values().any(|pod| pod.addresses().contains(address))
}

#[test]
fn the_nodes_own_processes_reach_services_through_kube_proxy_in_both_modes() -> Result<()> {
    for mode in MODES {
        story(&["x/b"], |s| {
            shop(s, s.pod("x/b")?.addresses())?;
            s.node.namespace().ip(&DEFAULT_ROUTES)?;
            let proxy = KubeProxy::start(&s.cluster, &s.node, mode)?;
            for what in [Tcp(443), Udp(53)] {
                met(s.node.namespace(), what, Outcome::Allowed).with_context(|| proxy.log_tail())?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn pods_reach_services_through_kube_proxy_and_policy_judges_who_is_behind_them() -> Result<()> {
    for mode in MODES {
        beside(mode, &["x/a", "x/b"], |s| {
            let a = s.pod("x/a")?.namespace();
            shop(s, s.pod("x/b")?.addresses())?;
            by_both(a, Outcome::Allowed)?;
            ensure!(any_through_stack(s)?, "nothing went through the stack");
            s.policy("x/in", "{ podSelector: { matchLabels: { pod: b } }, ingress: [] }")?;
            by_both(a, Outcome::Refused)?;
            s.drop_policy("x/in")?;
            by_both(a, Outcome::Allowed)?;
            // Both ends', and neither knows the service's address.
            s.policy(
                "x/in",
                &format!("{{ podSelector: {{ matchLabels: {{ pod: b }} }}, ingress: [{{ from: [{A}] }}] }}"),
            )?;
            s.policy("x/out", &only_to("{ podSelector: { matchLabels: { pod: b } } }"))?;
            by_both(a, Outcome::Allowed)?;
            s.policy("x/out", &only_to(A))?;
            by_both(a, Outcome::Refused)
        })?;
    }
    Ok(())
}

#[test]
fn a_backend_elsewhere_is_reached_through_kube_proxy_only_by_whom_egress_rules_let_there() -> Result<()> {
    for mode in MODES {
        beside(mode, &["x/a"], |s| {
            let (a, elsewhere) = (s.pod("x/a")?, ["192.0.2.254".parse()?, "2001:db8::fe".parse()?]);
            let _servers = Servers::start(s.cluster.outside(), "elsewhere", &[Listen::Tcp(80), Listen::Udp(80)])?;
            for address in a.addresses() {
                Fabric::route(s.cluster.outside(), *address, 1)?;
            }
            shop(s, &elsewhere)?;
            by_both(a.namespace(), Outcome::Allowed)?;
            s.policy("x/out", &only_to(A))?;
            by_both(a.namespace(), Outcome::Refused)?;
            s.policy(
                "x/out",
                &only_to("{ ipBlock: { cidr: 192.0.2.254/32 } }, { ipBlock: { cidr: '2001:db8::fe/128' } }"),
            )?;
            by_both(a.namespace(), Outcome::Allowed)
        })?;
    }
    Ok(())
}

#[test]
fn own_5_a_pod_that_kube_proxy_sends_to_itself_is_judged_by_its_own_rules() -> Result<()> {
    for mode in MODES {
        beside(mode, &["x/a"], |s| {
            let a = s.pod("x/a")?;
            shop(s, a.addresses())?;
            by_both(a.namespace(), Outcome::Allowed)?;
            s.policy("x/in", &format!("{{ podSelector: {{}}, ingress: [{{ from: [{A}] }}] }}"))?;
            by_both(a.namespace(), Outcome::Allowed)?;
            s.policy("x/in", "{ podSelector: {}, ingress: [] }")?;
            by_both(a.namespace(), Outcome::Refused)
        })?;
    }
    Ok(())
}

#[test]
fn node_ports_and_external_addresses_of_kube_proxy_are_reached_from_outside_as_ingress_rules_say() -> Result<()> {
    for mode in MODES {
        beside(mode, &["x/b"], |s| {
            shop(s, s.pod("x/b")?.addresses())?;
            let externals = externals(s)?;
            let outside = |wanted| -> Result<()> {
                let (ports, at) = ([Tcp(30443), Udp(30053)], s.node.addresses());
                for (what, addresses) in ports.map(|what| (what, &at)).into_iter().chain([(Tcp(443), &externals)]) {
                    addresses.iter().try_for_each(|address| meets(s.cluster.outside(), *address, what, wanted))?;
                }
                Ok(())
            };
            outside(Outcome::Allowed)?;
            s.policy("x/in", "{ podSelector: {}, ingress: [] }")?;
            outside(Outcome::Refused)?;
            s.drop_policy("x/in")?;
            outside(Outcome::Allowed)
        })?;
    }
    Ok(())
}

#[test]
fn connections_live_over_both_switches_between_the_agent_and_kube_proxy() -> Result<()> {
    for mode in MODES {
        let cgroup = Cgroup::create()?;
        story_on(NodeSpec::new(1).cgroup(Some(cgroup.path())), &["x/a", "x/b"], |s| {
            s.node.namespace().ip(&DEFAULT_ROUTES)?;
            shop(s, s.pod("x/b")?.addresses())?;
            let externals = externals(s)?;
            // A pod's, the node's own, and from outside.
            let open = |s: &Story| -> Result<Vec<Connection>> {
                let (a, outside) = (s.pod("x/a")?.namespace(), s.cluster.outside());
                let inside = vips().into_iter().flat_map(|vip| [(a, vip, 443), (s.node.namespace(), vip, 443)]);
                let ports = s.node.addresses().into_iter().map(|own| (outside, own, 30443));
                let external = externals.iter().map(|external| (outside, *external, 443));
                let doors: Vec<_> = inside.chain(ports).chain(external).collect();
                for (from, at, port) in &doors {
                    cgroup.inside(|| meets(from, *at, Tcp(*port), Outcome::Allowed))?;
                }
                doors.into_iter().map(|(from, at, port)| cgroup.inside(|| Connection::open(from, at, port))).collect()
            };
            served_by(s, "tortie (no rules")?;
            let mut live = open(s)?;
            let proxy = KubeProxy::start(&s.cluster, &s.node, mode)?;
            served_by(s, "kube-proxy (kube-proxy's rules are there")?;
            wait::wait_until("flows go through the stack", wait::PATIENCE, || {
                by_both(s.pod("x/a")?.namespace(), Outcome::Allowed)?;
                any_through_stack(s)
            })?;
            live.extend(open(s)?);
            all_answer(&mut live, "after the switch to kube-proxy")?;
            // Its rules stay: they are what translates its connections until those end.
            drop(proxy);
            let mut arguments = s.node.agent.arguments().to_vec();
            arguments.extend(["--services", "tortie"].map(Into::into));
            s.node.agent.set_arguments(arguments);
            s.node.restart()?;
            served_by(s, "tortie (--services tortie, though")?;
            by_both(s.pod("x/a")?.namespace(), Outcome::Allowed)?;
            live.extend(open(s)?);
            all_answer(&mut live, "after the switch back")
        })
        .with_context(|| format!("kube-proxy by {}", mode.as_str()))?;
    }
    Ok(())
}

fn all_answer(live: &mut [Connection], when: &str) -> Result<()> {
    let mut silent = Vec::new();
    for (number, each) in live.iter_mut().enumerate() {
        if !each.answers().is_ok_and(|answers| answers) {
            silent.push(number);
        }
    }
    ensure!(silent.is_empty(), "{when}: {silent:?} of the connections, in the order they were opened, do not answer");
    Ok(())
}

#[test]
fn what_is_shown_says_that_kube_proxy_serves_and_which_policy_judges_behind_it() -> Result<()> {
    for mode in MODES {
        beside(mode, &["x/a", "x/b"], |s| {
            shop(s, s.pod("x/b")?.addresses())?;
            by_both(s.pod("x/a")?.namespace(), Outcome::Allowed)?;
            ensure!(s.node.show("status")?["nodeSockets"] == "are left to kube-proxy", "{}", s.node.show("status")?);
            let shown = s.node.show("services")?;
            for (kind, by) in [("ClusterIP", "kube-proxy"), ("NodePort", "kube-proxy, for pods tortie")] {
                let mut rows = shown.as_array().into_iter().flatten().filter(|row| row["type"] == kind).peekable();
                ensure!(rows.peek().is_some() && rows.all(|row| row["by"] == by), "{kind}: {shown:#}");
            }
            let question = ["explain", "--from", "x/a", "--to", "x/shop", "--port", "443", "--output", "json"];
            let explained =
                || -> Result<serde_json::Value> { Ok(serde_json::from_slice(&s.node.tortie(&question)?.stdout)?) };
            let said = explained()?;
            ensure!(said["by"] == "kube-proxy" && said["verdict"] == "allowed" && said["ALARM"].is_null(), "{said}");
            s.policy("x/in", "{ podSelector: { matchLabels: { pod: b } }, ingress: [] }")?;
            by_both(s.pod("x/a")?.namespace(), Outcome::Refused)?;
            let said = explained()?;
            ensure!(said["verdict"] == "refused" && said["ALARM"].is_null(), "{said}");
            ensure!(said["backends"].to_string().contains("x/in"), "{said}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn health_checks_of_load_balancers_are_answered_by_who_serves() -> Result<()> {
    for mode in MODES {
        story(&["x/b"], |s| {
            let balancer = format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{ name: front, namespace: x }}\nspec: {{ type: LoadBalancer, \
                 clusterIP: 10.96.0.11, externalTrafficPolicy: Local, healthCheckNodePort: {HEALTH_PORT}, \
                 ports: [{{ port: 443, targetPort: 80, nodePort: 30444 }}] }}\n"
            );
            s.cluster.manifest("front", &balancer)?;
            listens(s, "tortie")?;
            let proxy = KubeProxy::start(&s.cluster, &s.node, mode)?;
            served_by(s, "kube-proxy (kube-proxy's rules are there")?;
            // It tries again when it hears of a change.
            wait::wait_until("the agent lets the port go", wait::PATIENCE, || Ok(!listening(s)?.contains("tortie")))?;
            s.cluster.manifest("front", &balancer.replace("30444", "30445"))?;
            listens(s, "kube-proxy").with_context(|| proxy.log_tail())?;
            proxy.clean(&s.node)?;
            served_by(s, "tortie (no rules")?;
            listens(s, "tortie")
        })?;
    }
    Ok(())
}

const HEALTH_PORT: u16 = 32100;

/// Who listens at the port, as `ss` says.
fn listening(s: &Story) -> Result<String> {
    let filter = format!("sport = :{HEALTH_PORT}");
    let output = s.node.namespace().command(Path::new("ss"))?.args(["-Hltnp", &filter]).output().context("ss")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn listens(s: &Story, who: &str) -> Result<()> {
    wait::wait_until(
        &format!("{who} listens at port {HEALTH_PORT}"),
        wait::PATIENCE,
        || Ok(listening(s)?.contains(who)),
    )
}

/// The shop's external addresses, which who is outside sends to this node.
pub fn externals(s: &Story) -> Result<Vec<IpAddr>> {
    let all: Vec<IpAddr> = EXTERNAL.iter().map(|text| Ok(text.parse()?)).collect::<Result<_>>()?;
    all.iter().try_for_each(|external| Fabric::route(s.cluster.outside(), *external, 1))?;
    Ok(all)
}

#[test]
fn the_agent_serves_once_kube_proxys_rules_are_taken_away() -> Result<()> {
    for mode in MODES {
        story(&["x/a", "x/b"], |s| {
            s.node.namespace().ip(&DEFAULT_ROUTES)?;
            let proxy = KubeProxy::start(&s.cluster, &s.node, mode)?;
            served_by(s, "kube-proxy (kube-proxy's rules are there")?;
            proxy.clean(&s.node)?;
            served_by(s, "tortie (no rules")?;
            shop(s, s.pod("x/b")?.addresses())?;
            by_both(s.pod("x/a")?.namespace(), Outcome::Allowed)
        })?;
    }
    Ok(())
}

const A: &str = "{ podSelector: { matchLabels: { pod: a } } }";

/// The pod `a` may send to these alone.
fn only_to(peers: &str) -> String {
    format!("{{ podSelector: {{ matchLabels: {{ pod: a }} }}, policyTypes: [Egress], egress: [{{ to: [{peers}] }}] }}")
}

/// A story on a node where kube-proxy runs and the agent knows it.
pub fn beside(mode: Mode, pods: &[&str], test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    story(pods, |s| {
        s.node.namespace().ip(&DEFAULT_ROUTES)?;
        let proxy = KubeProxy::start(&s.cluster, &s.node, mode)?;
        served_by(s, "kube-proxy (kube-proxy's rules are there")?;
        test(s).with_context(|| {
            format!(
                "kube-proxy by {}:\n{}\n{:?}\n{:?}",
                mode.as_str(),
                proxy.log_tail(),
                s.node.show("drops"),
                s.node.show("conntrack")
            )
        })
    })
}

/// Waits until the agent says so of who translates services.
pub fn served_by(s: &Story, who: &str) -> Result<()> {
    wait::wait_until(&format!("services are served by {who}"), wait::PATIENCE, || {
        Ok(s.node.show("status")?["servicesBy"].as_str().is_some_and(|said| said.starts_with(who)))
    })
}

/// Whether the agent knows a flow that goes through the host's stack.
pub fn any_through_stack(s: &Story) -> Result<bool> {
    Ok(s.node.show("conntrack")?.as_array().is_some_and(|rows| rows.iter().any(|row| row["viaHost"] == true)))
}

/// Waits until this is met at the shop by TCP and UDP.
pub fn by_both(from: &NetNs, wanted: Outcome) -> Result<()> {
    [Tcp(443), Udp(53)].into_iter().try_for_each(|what| met(from, what, wanted))
}

pub fn meets(from: &NetNs, at: IpAddr, what: Probe, wanted: Outcome) -> Result<()> {
    wait::wait_until(&format!("{what} to {at}: {wanted}"), wait::PATIENCE, || Ok(probe(from, at, what)? == wanted))
}

/// Waits until this is met at the shop, at every address.
fn met(from: &NetNs, what: Probe, wanted: Outcome) -> Result<()> {
    wait::wait_until(&format!("{what} from {}: {wanted}", from.name()), wait::PATIENCE, || {
        let met = vips().map(|vip| probe(from, vip, what));
        Ok(met.into_iter().all(|met| met.is_ok_and(|met| met == wanted)))
    })
}
