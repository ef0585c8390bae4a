//! BGP in a cluster: who asks by a CalicoNodeStatus how a node's BGP is, and what the node answers; passwords from Secrets.
//! In: nodes with real BIRDs, in one network; objects by kubectl. Out: statuses as kubectl shows them; sessions.
//! Invariant: it is the same in both groups of Calico's objects, and with the rights that agents are shipped with.
//! Never: waits for a period: what came later by the same agents says that it is over.

use crate::{
    story::{NATIVE, STORED, story},
    told::METRICS,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _};
use tests::{
    Cluster, Node, NodeSpec, PodSpec, Scrape, binaries,
    bird::{self, Router},
    wait::{self, PATIENCE},
};

pub fn spec(number: u8) -> Result<NodeSpec> {
    let program = binaries::bird()?.display().to_string();
    Ok(NodeSpec::new(number).argument("--bgp").argument("on").argument("--bird").argument(&program))
}

/// Asks a node.
fn ask(cluster: &Cluster, (group, version): (&str, &str), name: &str, spec: Value) -> Result<()> {
    let object = json!({ "apiVersion": format!("{group}/{version}"), "kind": "CalicoNodeStatus",
        "metadata": { "name": name }, "spec": spec });
    cluster.manifest(&format!("status-{name}"), &object.to_string())
}

fn object(cluster: &Cluster, name: &str) -> Result<Value> {
    cluster.get(&["caliconodestatus", name, "--show-managed-fields"])
}

/// Waits until the answer is so, and gives the object.
fn answered(cluster: &Cluster, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let last = std::cell::RefCell::new(Value::Null);
    let found = wait::wait_for(&format!("{name}: {what}"), PATIENCE, || {
        let object = object(cluster, name)?;
        let is_it = is_so(&object["status"]);
        last.replace(object["status"].clone());
        Ok(is_it.then_some(object))
    });
    found.with_context(|| format!("{name} says {}", last.borrow()))
}

/// Writes of statuses, of an agent since it began.
fn writes(node: &Node) -> Result<f64> {
    Scrape::of(node.namespace(), METRICS.into())?.value("tortie_datastore_writes_total{of=\"status\"}")
}

pub fn problems(node: &Node) -> Result<Vec<String>> {
    let said = node.show("status")?["problems"].as_array().cloned().unwrap_or_default();
    Ok(said.iter().filter_map(|problem| problem.as_str().map(str::to_owned)).collect())
}

#[test]
fn a_node_answers_who_asks_how_its_bgp_is_as_calicos_does_once_a_period_in_either_group() -> Result<()> {
    for group in [NATIVE, STORED] {
        let cluster = Cluster::served(group)?;
        let mut nodes = Vec::new();
        for number in [1, 2] {
            let mut node = cluster.node(spec(number)?)?;
            node.start()?;
            nodes.push(node);
        }
        cluster.namespace("x", &[])?;
        let pod = |node: &Node| node.pod(&cluster, &PodSpec::new(&format!("x/{}", node.name())));
        let _pods = nodes.iter().map(pod).collect::<Result<Vec<_>>>()?;
        let tails =
            || nodes.iter().map(|node| format!("{}:\n{}\n", node.name(), node.agent.log_tail())).collect::<String>();
        is_answered(&cluster, group, &nodes).with_context(tails).with_context(|| format!("{group:?}"))?;
    }
    Ok(())
}

fn is_answered(cluster: &Cluster, group: (&str, &str), nodes: &[Node]) -> Result<()> {
    let all = json!(["Agent", "BGP", "Routes"]);
    ask(cluster, group, "often", json!({ "node": "node1", "classes": all, "updatePeriodSeconds": 1 }))?;
    ask(cluster, group, "once", json!({ "node": "node2", "classes": all, "updatePeriodSeconds": 0 }))?;
    ask(cluster, group, "nobody", json!({ "node": "node3", "classes": all, "updatePeriodSeconds": 1 }))?;
    let has_met =
        |status: &Value| status["bgp"]["numberEstablishedV4"] == 1 && status["bgp"]["numberEstablishedV6"] == 1;
    let said = answered(cluster, "often", "both sessions are established", has_met)?;
    let status = &said["status"];
    for family in ["birdV4", "birdV6"] {
        let daemon = &status["agent"][family];
        ensure!(daemon["state"] == "Ready" && daemon["routerID"] == "192.0.2.1", "{daemon}");
        let is_said = |field: &str| daemon[field].as_str().is_some_and(|text| !text.is_empty());
        ensure!(["version", "lastBootTime", "lastReconfigurationTime"].iter().all(|field| is_said(field)), "{daemon}");
    }
    for (family, address) in [("V4", "192.0.2.2"), ("V6", "2001:db8::2")] {
        let peers = &status["bgp"][format!("peers{family}")];
        ensure!(peers.as_array().is_some_and(|peers| peers.len() == 1), "{peers}");
        let said = ["peerIP", "type", "state"].map(|field| peers[0][field].as_str().unwrap_or_default());
        ensure!(said == [address, "NodeMesh", "Established"], "{peers}");
        ensure!(status["bgp"][format!("numberNotEstablished{family}")] == 0, "{status}");
    }
    for (family, peer) in [("V4", "192.0.2.2"), ("V6", "2001:db8::2")] {
        answered(cluster, "often", "the block of its peer", |status| {
            let routes = status["routes"][format!("routes{family}")].as_array().cloned().unwrap_or_default();
            let from = |source: &str| routes.iter().find(|route| route["learnedFrom"]["sourceType"] == source);
            let learned = from("NodeMesh").is_some_and(|route| {
                let said = ["type", "gateway"].map(|field| route[field].as_str().unwrap_or_default());
                said == ["FIB", peer] && route["learnedFrom"]["peerIP"] == peer && route["interface"] == "eth0"
            });
            learned && from("Direct").is_some()
        })?;
    }
    answered(cluster, "often", "its own block", |status| {
        let routes = status["routes"]["routesV4"].as_array().cloned().unwrap_or_default();
        let is_own =
            |route: &Value| route["learnedFrom"]["sourceType"] == "Static" && route["interface"] == "blackhole";
        routes.iter().any(is_own)
    })?;
    writers(&said)?;
    once_a_period(cluster, nodes)?;
    // Asked for less, a node takes back what it has said of the rest.
    ask(cluster, group, "once", json!({ "node": "node2", "classes": ["Agent"], "updatePeriodSeconds": 0 }))?;
    answered(cluster, "once", "of its daemon alone", |status| {
        status["agent"]["birdV4"]["state"] == "Ready" && status.get("bgp").is_none() && status.get("routes").is_none()
    })?;
    ensure!(writes(&nodes[1])? == 2.0, "one answer to each question");
    for node in nodes {
        ensure!(problems(node)?.is_empty(), "{}: {:?}", node.name(), problems(node)?);
    }
    Ok(())
}

/// The status is the agent's, and nothing else of the object.
fn writers(object: &Value) -> Result<()> {
    let fields = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let own: Vec<_> = fields.iter().filter(|entry| entry["manager"] == "tortie").collect();
    ensure!(own.len() == 1 && own[0]["subresource"] == "status" && own[0]["operation"] == "Apply", "{fields:?}");
    Ok(())
}

/// Who asks often hears often, who asks once hears once, and who asks another hears nothing.
fn once_a_period(cluster: &Cluster, nodes: &[Node]) -> Result<()> {
    let once = answered(cluster, "once", "something", |status| status["lastUpdated"].is_string())?;
    let at = |object: &Value| object["status"]["lastUpdated"].as_str().unwrap_or_default().to_owned();
    let mut times = BTreeSet::new();
    wait::wait_until("it is answered again and again", PATIENCE, || {
        times.insert(at(&object(cluster, "often")?));
        Ok(times.len() >= 4)
    })?;
    ensure!(writes(&nodes[1])? == 1.0, "node2 was asked once");
    ensure!(object(cluster, "once")? == once, "and what it has said stands still");
    ensure!(object(cluster, "nobody")?.get("status").is_none(), "nobody answers for another node");
    // No more than one a second, whatever the answers themselves are heard as.
    let before = writes(&nodes[0])?;
    let first = times.len();
    wait::wait_until("four more", PATIENCE, || {
        times.insert(at(&object(cluster, "often")?));
        Ok(times.len() >= first + 4)
    })?;
    let written = writes(&nodes[0])? - before;
    ensure!(written <= 8.0, "{written} writes in the seconds of four answers");
    Ok(())
}

#[test]
fn a_node_without_bird_is_not_ready_and_takes_the_status_over_from_calicos_agent() -> Result<()> {
    for group in [NATIVE, STORED] {
        let cluster = Cluster::served(group)?;
        if group == STORED {
            choose_no_more(&cluster, group)?;
        }
        let mut node = cluster.node(NodeSpec::new(1))?;
        node.start()?;
        let done = takes_over(&cluster, group, &node);
        done.with_context(|| format!("{group:?}\n{}", node.agent.log_tail()))?;
    }
    Ok(())
}

/// As Calico's own definitions have it: the server cannot choose objects by their node.
fn choose_no_more(cluster: &Cluster, (group, _): (&str, &str)) -> Result<()> {
    let change = r#"[{ "op": "remove", "path": "/spec/versions/0/selectableFields" }]"#;
    let crd = format!("caliconodestatuses.{group}");
    let chosen = ["get", "caliconodestatus", "--field-selector=spec.node=node1"];
    // With Calico's definitions it cannot anyway.
    if cluster.kubectl(&chosen, "").is_ok() {
        cluster.kubectl(&["patch", "crd", &crd, "--type=json", "-p", change], "")?;
    }
    wait::wait_until("the server cannot choose any more", PATIENCE, || Ok(cluster.kubectl(&chosen, "").is_err()))
}

fn takes_over(cluster: &Cluster, group: (&str, &str), node: &Node) -> Result<()> {
    let all = json!(["Agent", "BGP", "Routes"]);
    ask(cluster, group, "n1", json!({ "node": "node9", "classes": all, "updatePeriodSeconds": 0 }))?;
    let theirs = json!({ "status": { "lastUpdated": "2026-01-01T00:00:00Z",
                "agent": { "birdV4": { "state": "Ready", "version": "1.6.8" } } } });
    let patch = [
        "patch",
        "caliconodestatus",
        "n1",
        "--subresource=status",
        "--type=merge",
        "--field-manager=node",
        "-p",
        &theirs.to_string(),
    ];
    cluster.kubectl(&patch, "")?;
    ask(cluster, group, "n1", json!({ "node": "node1", "classes": all, "updatePeriodSeconds": 0 }))?;
    let said = answered(cluster, "n1", "it is not ready", |status| {
        status["agent"]["birdV4"]["state"] == "NotReady" && status["agent"]["birdV6"]["state"] == "NotReady"
    })?;
    let bgp = json!({ "numberEstablishedV4": 0, "numberEstablishedV6": 0,
                "numberNotEstablishedV4": 0, "numberNotEstablishedV6": 0 });
    ensure!(said["status"]["bgp"] == bgp, "{said}");
    ensure!(said["status"]["lastUpdated"] != "2026-01-01T00:00:00Z", "{said}");
    ensure!(problems(node)?.is_empty(), "it is no trouble: {:?}", problems(node)?);
    Ok(())
}

#[test]
fn a_right_that_a_node_lacks_to_answer_is_named_until_it_has_it() -> Result<()> {
    story(&[], |s| {
        let role = s.cluster.get(&["clusterrole", "tortie"])?;
        let mut without = role.clone();
        let is_it = |rule: &Value| rule["resources"].to_string().contains("caliconodestatuses/status");
        without["rules"].as_array_mut().context("it has rules")?.retain(|rule| !is_it(rule));
        ensure!(without != role, "the role has the right");
        s.cluster.kubectl(&["replace", "-f", "-"], &without.to_string())?;
        ask(&s.cluster, NATIVE, "n1", json!({ "node": "node1", "classes": ["Agent"], "updatePeriodSeconds": 2 }))?;
        wait::wait_until("it is named", PATIENCE, || {
            Ok(problems(&s.node)?.iter().any(|said| said.contains("CalicoNodeStatus") && said.contains("forbidden")))
        })?;
        let given = json!({ "rules": role["rules"] }).to_string();
        s.cluster.kubectl(&["patch", "clusterrole", "tortie", "--type=merge", "-p", &given], "")?;
        answered(&s.cluster, "n1", "it is answered", |status| status["agent"]["birdV4"]["state"] == "NotReady")?;
        wait::wait_until("nothing is wrong any more", PATIENCE, || Ok(problems(&s.node)?.is_empty()))
    })
}

pub const PASSWORD: &str = "open sesame";
/// Who may read them: what users apply.
const RIGHT: &str = include_str!("../../deploy/bgp/passwords.yaml");

/// A router that speaks with node1 by the password alone.
pub fn router(cluster: &Cluster) -> Result<Router> {
    let text = format!(
        "router id 192.0.2.254; protocol device {{ scan time 1; }}
         protocol bgp n1 {{ local 192.0.2.254 as 65000; neighbor 192.0.2.1 as 64512; multihop; password \"{PASSWORD}\";
           connect retry time 1; connect delay time 1; error wait time 1, 2; ipv4 {{ import all; export none; }}; }}\n"
    );
    Router::start(cluster.outside(), &cluster.directory().join("router"), &text)
}

fn peer(cluster: &Cluster, name: &str, spec: &str) -> Result<()> {
    let text = format!("apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{ name: {name} }}\nspec: {spec}\n");
    cluster.manifest(&format!("peer-{name}"), &text)
}

/// Gives agents the right to the Secrets, as users do.
pub fn let_read(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["apply", "-f", "-"], RIGHT)?;
    let role = ["create", "rolebinding", "bgp-passwords", "--role=tortie-bgp-passwords"];
    let to_agents: Vec<_> = role.into_iter().chain(["--namespace=tortie-system", "--user=tortie"]).collect();
    cluster.kubectl(&to_agents, "").map(drop)
}

pub fn secret(cluster: &Cluster, name: &str, password: &str) -> Result<()> {
    let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": "tortie-system", "name": name },
        "stringData": { "router": password } });
    cluster.kubectl(&["apply", "-f", "-"], &object.to_string()).map(drop)
}

fn status(node: &Node) -> Result<Value> {
    let output = node.tortie(&["node", "status", "--output", "json"])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Waits until the session is so (`None`: there is none), and of the password this is said, or nothing.
pub fn session(node: &Node, info: Option<&str>, said: Option<&str>) -> Result<()> {
    let is_so = || {
        let status = status(node)?;
        let sessions = status["bgp"]["sessions"].as_array().cloned().unwrap_or_default();
        let with = sessions.iter().find(|session| session["peerAddress"] == "192.0.2.254");
        let is_session = match info {
            Some(info) => with.is_some_and(|with| with["info"].as_str().is_some_and(|said| said.starts_with(info))),
            None => with.is_none(),
        };
        let all = status["bgp"]["problems"].to_string();
        Ok(is_session && said.map_or(!all.contains("password"), |said| all.contains(said)))
    };
    wait::wait_until(&format!("the session is {info:?}, and it says {said:?}"), PATIENCE, is_so)
        .with_context(|| format!("{:?}\n{}", status(node), node.agent.log_tail()))
}

#[test]
fn a_session_has_its_password_from_the_secret_that_its_object_names_and_follows_it() -> Result<()> {
    let cluster = Cluster::served(NATIVE)?;
    let mut node = cluster.node(spec(1)?)?;
    let router = router(&cluster)?;
    peer(
        &cluster,
        "router",
        "{ peerIP: 192.0.2.254, asNumber: 65000, password: { secretKeyRef: { name: bgp-secrets, key: router } } }",
    )?;
    // Of another node's session nothing is read here.
    peer(
        &cluster,
        "other",
        "{ node: node2, peerIP: 192.0.2.253, asNumber: 65000, password: { secretKeyRef: { name: other, key: router } } }",
    )?;
    secret(&cluster, "bgp-secrets", PASSWORD)?;
    node.start()?;
    session(&node, None, Some("forbidden"))?;
    let speaker = wait::wait_for("BIRD runs", PATIENCE, || Ok(bird::of_agent(&node.state_dir())))?;
    let_read(&cluster)?;
    session(&node, Some("Established"), None)?;
    ensure!(problems(&node)?.is_empty(), "{:?}", problems(&node)?);

    secret(&cluster, "bgp-secrets", "another")?;
    wait::wait_until("the router hears nothing any more", PATIENCE, || {
        Ok(!router.ask("show protocols n1")?.contains("Established"))
    })?;
    secret(&cluster, "bgp-secrets", PASSWORD)?;
    session(&node, Some("Established"), None)?;
    cluster.kubectl(&["delete", "secret", "bgp-secrets", "--namespace=tortie-system"], "")?;
    session(&node, None, Some("there is no such Secret in the namespace tortie-system"))?;
    secret(&cluster, "bgp-secrets", PASSWORD)?;
    session(&node, Some("Established"), None)?;

    // The next agent does not cut it while it asks.
    let since = |text: &str| text.lines().find(|line| line.contains("Global_192_0_2_254")).map(str::to_owned);
    let socket = node.state_dir().join("bird/bird.ctl");
    let before = since(&bird::ask(&socket, "show protocols")?);
    node.agent.kill()?;
    node.start()?;
    session(&node, Some("Established"), None)?;
    ensure!(since(&bird::ask(&socket, "show protocols")?) == before, "the session was cut: {before:?}");
    ensure!(bird::of_agent(&node.state_dir()) == Some(speaker), "BIRD was never started again");
    is_told_to_nobody(&node)
}

/// The password stands in the file that BIRD reads, which is the owner's alone, and nowhere else.
fn is_told_to_nobody(node: &Node) -> Result<()> {
    let file = node.state_dir().join("bird/bird.conf");
    ensure!(fs::read_to_string(&file)?.contains(PASSWORD), "BIRD is told it");
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "and nobody else reads that");
    let shown = [status(node)?, node.show("status")?].map(|said| said.to_string());
    ensure!(shown.iter().all(|said| !said.contains(PASSWORD)) && !node.agent.log().contains(PASSWORD), "it was told");
    Ok(())
}
