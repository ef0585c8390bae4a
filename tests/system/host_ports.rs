//! Host ports (`hostPort`, the `portMappings` capability): one pod behind a port of this node, with real sockets.
//! In: pods whose ADD asks for them. Out: what those outside, pods and the node itself meet at the node's addresses.
//! Invariant: who asks knows addresses of the node alone, and is seen by his own.
//! Never: waits for a change by time; an answer is the sign.

use crate::{
    drift::hash,
    story::{Story, story_on},
};
use abi::{Address, ServiceKey, maps};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::net::IpAddr;
use tests::{
    NetNs, NodeSpec, Outcome, PodSpec,
    Probe::{self, Tcp, Udp},
    cgroup::Cgroup,
    flow::Connection,
    probe::probe,
    wait::{PATIENCE, wait_until},
};

const PORT: u16 = 8080;

/// A pod that is reached at these ports of the node.
fn hosting(id: &str, mappings: &Value) -> PodSpec {
    PodSpec { conf: json!({ "runtimeConfig": { "portMappings": mappings } }), ..PodSpec::new(id) }
}

fn both() -> Value {
    json!([
        { "hostPort": PORT, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": PORT, "containerPort": 81, "protocol": "UDP" },
    ])
}

/// A node whose own sockets are asked about, with `x/a` behind 8080 and `x/b` beside it.
fn hosted(test: impl FnOnce(&mut Story, &Cgroup) -> Result<()>) -> Result<()> {
    let cgroup = Cgroup::create()?;
    story_on(NodeSpec::new(1).cgroup(Some(cgroup.path())), &["x/b"], |s| {
        s.add(&hosting("x/a", &both()))?;
        test(s, &cgroup)
    })
}

/// What who is there meets at every address of the node.
fn meets(s: &Story, from: &NetNs, what: Probe) -> Result<Vec<Outcome>> {
    s.node.addresses().into_iter().map(|address| probe(from, address, what)).collect()
}

fn all_meet(s: &Story, from: &NetNs, wanted: Outcome) -> Result<()> {
    for what in [Tcp(PORT), Udp(PORT)] {
        let met = meets(s, from, what)?;
        ensure!(met.iter().all(|met| *met == wanted), "{what}: {met:?}, and not {wanted}");
    }
    Ok(())
}

/// Those who may ask: outside, another pod, the pod itself.
fn everybody(s: &Story) -> Result<[&NetNs; 3]> {
    Ok([s.cluster.outside(), s.pod("x/b")?.namespace(), s.pod("x/a")?.namespace()])
}

/// Of the node itself, by its own addresses and loopback.
fn node_meets(s: &Story, cgroup: &Cgroup, wanted: Outcome) -> Result<()> {
    let loopbacks: [IpAddr; 2] = ["127.0.0.1".parse()?, "::1".parse()?];
    for address in s.node.addresses().into_iter().chain(loopbacks) {
        for what in [Tcp(PORT), Udp(PORT)] {
            let met = cgroup.inside(|| probe(s.node.namespace(), address, what))?;
            ensure!(met == wanted, "the node meets {met} at {address}, {what}");
        }
    }
    Ok(())
}

#[test]
fn cni_90_everybody_reaches_the_pod_by_the_nodes_port_and_policy_sees_who_it_is_and_the_pods_port() -> Result<()> {
    hosted(|s, cgroup| {
        for from in everybody(s)? {
            all_meet(s, from, Outcome::Allowed)?;
        }
        node_meets(s, cgroup, Outcome::Allowed)?;
        let port = |protocol, port| format!("{{ protocol: {protocol}, port: {port} }}");
        let outside = "from: [{ ipBlock: { cidr: 192.0.2.254/32 } }, { ipBlock: { cidr: '2001:db8::fe/128' } }]";
        let rules = format!("{{ {outside}, ports: [{}, {}] }}", port("TCP", 80), port("UDP", 81));
        s.policy("x/in", &format!("{{ podSelector: {{ matchLabels: {{ pod: a }} }}, ingress: [{rules}] }}"))?;
        let [outside, other, itself] = everybody(s)?;
        wait_until("another pod is refused", PATIENCE, || Ok(all_meet(s, other, Outcome::Refused).is_ok()))?;
        all_meet(s, itself, Outcome::Refused)?;
        all_meet(s, outside, Outcome::Allowed)?;
        s.policy(
            "x/in",
            &format!(
                "{{ podSelector: {{ matchLabels: {{ pod: a }} }}, ingress: [{{ ports: [{}] }}] }}",
                port("TCP", PORT)
            ),
        )?;
        wait_until("the node's port opens nothing", PATIENCE, || Ok(all_meet(s, outside, Outcome::Refused).is_ok()))
    })
}

#[test]
fn cni_90_a_host_port_outlives_agents_and_ends_with_its_pod() -> Result<()> {
    hosted(|s, cgroup| {
        let mut live = Connection::open(s.cluster.outside(), s.node.addresses()[0], PORT)?;
        s.node.agent.kill()?;
        all_meet(s, s.cluster.outside(), Outcome::Allowed)?;
        s.node.start()?;
        for from in everybody(s)? {
            all_meet(s, from, Outcome::Allowed)?;
        }
        node_meets(s, cgroup, Outcome::Allowed)?;
        ensure!(live.answers()?, "the connection goes on");
        let mut pod = s.pods.remove("x/a").context("the pod")?;
        pod.delete()?;
        ensure!(!live.answers().unwrap_or(false), "it ends with the pod");
        for from in [s.cluster.outside(), s.pod("x/b")?.namespace()] {
            let met = meets(s, from, Tcp(PORT))?;
            ensure!(met.iter().all(|met| *met == Outcome::Reset), "the port is the node's again: {met:?}");
        }
        let rows = s.node.show("services")?;
        ensure!(rows == json!([]), "{rows}");
        // The next one has it.
        s.add(&hosting("x/c", &both()))?;
        all_meet(s, s.cluster.outside(), Outcome::Allowed)
    })
}

#[test]
fn cni_90_a_host_port_is_shown_explained_and_missed_by_check() -> Result<()> {
    hosted(|s, _| {
        let own = s.node.addresses()[0];
        ensure!(probe(s.pod("x/b")?.namespace(), own, Tcp(PORT))? == Outcome::Allowed);
        let rows = s.node.show("services")?;
        let frontend = format!("{own}:{PORT}/TCP");
        let row = rows.as_array().into_iter().flatten().find(|row| row["frontend"] == frontend.as_str());
        let row = row.with_context(|| format!("no row in {rows}"))?;
        ensure!(row["service"] == "x/a:8080/TCP" && row["type"] == "HostPort" && row["opened"] == 1, "{row}");
        let backends = json!([format!("{}:80", s.pod("x/a")?.address())]);
        ensure!(row["backends"] == backends, "{row}");
        let asked = ["explain", "--from", "x/b", "--to", &own.to_string(), "--port", "8080", "--output", "json"];
        let said = s.node.tortie(&asked)?;
        let said: Value = serde_json::from_slice(&said.stdout).with_context(|| format!("{said:?}"))?;
        ensure!(said["kind"] == "HostPort" && said["verdict"] == "allowed", "{said}");
        let pod = s.pod("x/a")?;
        let call = tests::runtime::Call {
            conf: json!({ "runtimeConfig": { "portMappings": both() }, "prevResult": pod.result() }),
            ..pod.call().clone()
        };
        let check = || s.node.runtime().call("CHECK", &call);
        check()?.success()?;
        let IpAddr::V4(v4) = own else { anyhow::bail!("{own} is not of IPv4") };
        let (address, port) = (Address::from_v4(v4.octets()), PORT.to_be_bytes());
        let key = ServiceKey { address, port, protocol: 6, pad: [0; 5] };
        // The agent puts it back at its next look, so it is taken away until CHECK comes first.
        wait_until("CHECK misses it", PATIENCE, || {
            let _ = hash::<ServiceKey, u32>(s, &maps::SERVICES)?.remove(&key);
            let (code, said) = check()?.failure()?;
            Ok(code == 100 && said.contains(&format!("{frontend} does not lead to pod x/a")))
        })?;
        wait_until("it is put back", PATIENCE, || Ok(check()?.success().is_ok()))?;
        all_meet(s, s.cluster.outside(), Outcome::Allowed)
    })
}

#[test]
fn cni_90_hostip_narrows_a_host_port_and_who_wants_one_that_is_taken_is_told() -> Result<()> {
    hosted(|s, cgroup| {
        let [v4, v6] = s.node.addresses()[..] else { anyhow::bail!("two addresses") };
        let narrow = json!([
            { "hostPort": 9000, "containerPort": 80, "protocol": "tcp", "hostIP": v4 },
            { "hostPort": 9001, "containerPort": 80, "protocol": "tcp", "hostIP": "::" },
            { "hostPort": 9002, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1" },
            { "hostPort": 0, "containerPort": 80, "protocol": "tcp" },
        ]);
        s.add(&hosting("x/narrow", &narrow))?;
        let outside = s.cluster.outside();
        for (port, expected) in [(9000, [true, false]), (9001, [false, true]), (9002, [false, false])] {
            for (address, expected) in [v4, v6].into_iter().zip(expected) {
                let wanted = if expected { Outcome::Allowed } else { Outcome::Reset };
                let met = probe(outside, address, Tcp(port))?;
                ensure!(met == wanted, "{address} at {port}: {met}");
            }
        }
        let met = cgroup.inside(|| probe(s.node.namespace(), "127.0.0.1".parse()?, Tcp(9002)))?;
        ensure!(met == Outcome::Allowed, "the node itself: {met}");
        let refused = |s: &mut Story, port: u16, part: &str| -> Result<()> {
            let spec = hosting("x/late", &json!([{ "hostPort": port, "containerPort": 80 }]));
            let said = s.add(&spec).err().map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(said.contains(part), "{said:?}");
            Ok(())
        };
        refused(s, PORT, "host port 8080/TCP of pod x/late is pod x/a's")?;
        refused(s, 9000, "is pod x/narrow's (192.0.2.1:9000/TCP)")?;
        s.cluster.manifest("node-port", "apiVersion: v1\nkind: Service\nmetadata: { name: door, namespace: x }\n\
            spec: { type: NodePort, clusterIPs: [10.96.0.11, 'fd00:96::11'], ports: [{ port: 80, nodePort: 30080 }] }\n")?;
        let shows = |s: &Story, part: &str| Ok(s.node.show("services")?.to_string().contains(part));
        wait_until("the node port is there", PATIENCE, || shows(s, ":30080/TCP"))?;
        refused(s, 30080, "is a node port of the service x/door")?;
        // A service that comes later hears that it has not got it.
        s.add(&hosting("x/early", &json!([{ "hostPort": 30081, "containerPort": 80 }])))?;
        s.cluster.manifest("node-port", "apiVersion: v1\nkind: Service\nmetadata: { name: door, namespace: x }\n\
            spec: { type: NodePort, clusterIPs: [10.96.0.11, 'fd00:96::11'], ports: [{ port: 80, nodePort: 30081 }] }\n")?;
        wait_until("it is told", PATIENCE, || shows(s, "is a host port of the pod x/early, which comes first"))?;
        ensure!(probe(s.cluster.outside(), v4, Tcp(30081))? == Outcome::Allowed, "and the pod keeps it");
        Ok(())
    })
}
