//! Many calls at once and deaths at any moment: what is left is what is wanted, and nothing else.
//! In: ADD and DEL in random order, GC between them, `kill -9` of binary and agent. Out: what lies on disk and in the kernel.
//! Invariant: randomness comes from a seed that is printed.
//! Never: looks only through the agent's eyes.

use crate::story::{Story, story};
use anyhow::{Context as _, Result, bail, ensure};
use cni::{
    client::{CallError, ask},
    protocol::{Answer, Operation, Prepare},
};
use model::{AttachmentId, Mac, PodId};
use policy::generate::Dice;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::Path,
    sync::{
        Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tests::{
    Cluster, NetNs, Node, NodeSpec,
    cluster::pools,
    runtime::{Answer as Said, Call, Runtime, end},
    seed,
    wait::{PATIENCE, wait_until},
};

const CONTAINERS: usize = 200;
/// Kills of the CNI binary.
const KILLS: usize = 200;
/// Kills of the agent, with [`AT_ONCE`] ADDs under way.
const AGENT_KILLS: usize = 12;
const AT_ONCE: usize = 6;

fn call(namespace: &NetNs, container: &str) -> Call {
    Call {
        container: container.to_owned(),
        netns: Some(namespace.path()),
        interface: "eth0".to_owned(),
        args: format!("K8S_POD_NAMESPACE=storm;K8S_POD_NAME={container}"),
        conf: json!({}),
    }
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let texts = result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str());
    texts.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}

/// Everything of pods that lies on the node and in the datastore, by kind: what must be as many as there are pods.
fn kept(node: &Node, datastore: &Path) -> Result<BTreeMap<&'static str, usize>> {
    let files = |path: &Path| fs::read_dir(path).map_or(0, |all| all.flatten().filter(is_object).count());
    let shared = |kind: &str| files(&datastore.join(".tortie").join(kind));
    let links = node.namespace().ip_json("link show type veth")?;
    let cali = links.as_array().into_iter().flatten().filter(|link| is_pods(&link["ifname"])).count();
    let routes = |family| node.namespace().ip_json(&format!("{family} route show proto 84"));
    let count = |listing: &Value| listing.as_array().map_or(0, Vec::len);
    let neighbours = node.namespace().ip_json("neigh show nud permanent")?;
    let ours = neighbours.as_array().into_iter().flatten().filter(|entry| is_pods(&entry["dev"])).count();
    Ok(BTreeMap::from([
        ("links", cali),
        ("routes of v4", count(&routes("-4")?)),
        ("routes of v6", count(&routes("-6")?)),
        ("neighbours of both", ours / 2),
        ("endpoints", count(&node.show("endpoints")?)),
        ("records", files(&node.state_dir().join("attachments"))),
        ("addresses of both that handles count", counted(&datastore.join(".tortie/IPAMHandle"))? / 2),
        ("told addresses", shared("WorkloadAddress")),
        ("addresses of both", allocated(&datastore.join(".tortie/IPAMBlock"))? / 2),
    ]))
}

fn is_object(entry: &fs::DirEntry) -> bool {
    entry.path().extension().is_some_and(|extension| extension == "yaml" || extension == "json")
}

fn is_pods(name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.starts_with("cali"))
}

/// Addresses that handles count. There is one handle, of the node.
fn counted(handles: &Path) -> Result<usize> {
    let mut count = 0;
    let mut all = fs::read_dir(handles).into_iter().flatten().flatten().filter(is_object);
    if let Some(entry) = all.next() {
        let text = fs::read_to_string(entry.path())?;
        let (_, list) = text.split_once("block:\n").context("a handle without blocks")?;
        let each = list.lines().map_while(|line| line.strip_prefix("    ")?.rsplit_once(": ")?.1.parse::<usize>().ok());
        count = each.sum();
    }
    ensure!(all.next().is_none(), "more than one handle");
    Ok(count)
}

/// Addresses that the blocks give to somebody. An odd number is a family's too many.
fn allocated(blocks: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(blocks).into_iter().flatten().flatten().filter(is_object) {
        let text = fs::read_to_string(entry.path())?;
        let (_, list) = text.split_once("allocations:\n").context("a block without allocations")?;
        let all: Vec<_> = list.lines().map_while(|line| line.trim_start().strip_prefix("- ")).collect();
        ensure!(all.len() > 1, "allocations are not written as expected: {text}");
        count += all.iter().filter(|index| **index != "null").count();
    }
    ensure!(count % 2 == 0, "{count} addresses for pods of two families");
    Ok(count)
}

/// Waits until there is exactly so much of everything.
fn expect_kept(node: &Node, datastore: &Path, pods: usize) -> Result<()> {
    let mut last = BTreeMap::new();
    let came = wait_until(&format!("{pods} of everything"), PATIENCE, || {
        last = kept(node, datastore)?;
        Ok(last.values().all(|count| *count == pods))
    });
    came.with_context(|| format!("there are {last:?}"))
}

/// What the tables hold, without the flows.
fn used(node: &Node) -> Result<BTreeMap<String, u64>> {
    let capacity = node.show("capacity")?;
    let row = |row: &Value| Some((row["map"].as_str()?.to_owned(), row["used"].as_u64()?));
    let rows = capacity.as_array().context("no capacity")?.iter().filter_map(row);
    Ok(rows.filter(|(map, _)| map.starts_with("ENDPOINT") || map.starts_with("ADDRESS")).collect())
}

/// One container's part of the storm.
struct Storm<'a> {
    runtime: Runtime,
    held: &'a Mutex<BTreeMap<IpAddr, String>>,
}

impl Storm<'_> {
    /// ADD, perhaps again; DEL, perhaps again, perhaps of a namespace that is gone; ends attached or not, as it says.
    fn live(&self, namespace: NetNs, container: &str, mut dice: Dice) -> Result<Option<(NetNs, Value)>> {
        let mut call = call(&namespace, container);
        if dice.below(5) == 0 {
            self.runtime.call("DEL", &call)?.success().context("DEL before ADD")?;
        }
        let mut result = self.add(&call)?;
        for _ in 0..dice.below(3) {
            if dice.below(3) == 0 {
                result = self.add(&call)?;
            }
            self.del(&call, &result)?;
            result = self.add(&call)?;
        }
        if dice.below(2) == 0 {
            return Ok(Some((namespace, result)));
        }
        if dice.below(3) == 0 {
            drop(namespace);
            if dice.below(2) == 0 {
                call.netns = None;
            }
        }
        self.del(&call, &result)?;
        if dice.below(2) == 0 {
            self.runtime.call("DEL", &call)?.success().context("DEL again")?;
        }
        Ok(None)
    }

    fn add(&self, call: &Call) -> Result<Value> {
        let result = self.runtime.call("ADD", call)?.success().with_context(|| format!("ADD of {}", call.container))?;
        let mut held = self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for address in addresses(&result) {
            match held.insert(address, call.container.clone()) {
                Some(other) if other != call.container => bail!("{address} is {other}'s and {}'s", call.container),
                _ => {}
            }
        }
        Ok(result)
    }

    fn del(&self, call: &Call, result: &Value) -> Result<()> {
        {
            let mut held = self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            held.retain(|address, _| !addresses(result).contains(address));
        }
        self.runtime.call("DEL", call)?.success().with_context(|| format!("DEL of {}", call.container))?;
        Ok(())
    }
}

#[test]
fn cni_14_65_two_hundred_adds_and_dels_at_once_leave_exactly_what_is_attached() -> Result<()> {
    super::need_root()?;
    let cluster = Cluster::create()?;
    // Room for all of them on one node.
    cluster.manifest("pools", &pools(23, 119))?;
    let mut node = cluster.node(NodeSpec::new(1))?;
    node.start()?;
    let before = used(&node)?;
    ensure!(before.len() >= 2, "nothing is looked at in the tables: {before:?}");
    let storm = storm(&cluster, &node).with_context(|| node.agent.log_tail());
    let attached = storm?;
    expect_kept(&node, &cluster.datastore(), attached.len())?;
    for (container, (namespace, result)) in attached.iter().step_by(10) {
        let checked = Call { conf: json!({ "prevResult": result }), ..call(namespace, container) };
        node.runtime().call("CHECK", &checked)?.success().with_context(|| format!("CHECK of {container}"))?;
    }
    for (container, (namespace, _)) in &attached {
        node.runtime().call("DEL", &call(namespace, container))?.success()?;
    }
    expect_kept(&node, &cluster.datastore(), 0)?;
    wait_until("the tables are as before", PATIENCE, || Ok(used(&node)? == before))
}

fn storm(cluster: &Cluster, node: &Node) -> Result<BTreeMap<String, (NetNs, Value)>> {
    let mut dice = Dice(seed::of("the storm")?);
    let (held, start, over) = (Mutex::new(BTreeMap::new()), Barrier::new(CONTAINERS), AtomicBool::new(false));
    let names: Vec<_> = (0..CONTAINERS).map(|number| format!("box{number}")).collect();
    let namespaces: Vec<_> = names.iter().map(|name| NetNs::create(cluster.stem(), name)).collect::<Result<_>>()?;
    let seeds: Vec<_> = names.iter().map(|_| Dice(dice.number())).collect();
    thread::scope(|scope| {
        let collector = scope.spawn(|| collect_garbage(&node.runtime(), &names, &over));
        let lives: Vec<_> = names
            .iter()
            .zip(namespaces)
            .zip(seeds)
            .map(|((name, namespace), dice)| {
                let (runtime, held, start) = (node.runtime(), &held, &start);
                scope.spawn(move || {
                    start.wait();
                    let ended = Storm { runtime, held }.live(namespace, name, dice)?;
                    Ok::<_, anyhow::Error>(ended.map(|left| (name.clone(), left)))
                })
            })
            .collect();
        let mut attached = BTreeMap::new();
        let mut failed = Vec::new();
        for life in lives {
            match life.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(left) => attached.extend(left),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        over.store(true, Ordering::Relaxed);
        collector.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(failed.is_empty(), "{} of {CONTAINERS}: {}", failed.len(), failed.join("\n"));
        Ok(attached)
    })
}

/// GC again and again, as long as the storm goes on: all of them are valid.
fn collect_garbage(runtime: &Runtime, names: &[String], over: &AtomicBool) -> Result<()> {
    let valid: Vec<_> = names.iter().map(|name| json!({ "containerID": name, "ifname": "eth0" })).collect();
    let collect = Call {
        container: String::new(),
        netns: None,
        interface: String::new(),
        args: String::new(),
        conf: json!({ "cni.dev/valid-attachments": valid }),
    };
    while !over.load(Ordering::Relaxed) {
        runtime.call("GC", &collect)?.success().context("GC in the storm")?;
    }
    Ok(())
}

/// The runtime's answer to a death: DEL, or GC of everything.
fn clear(s: &Story, call: &Call, by_gc: bool) -> Result<()> {
    let mut call = call.clone();
    if by_gc {
        call.conf = json!({ "cni.dev/valid-attachments": [] });
    }
    s.node.runtime().call(if by_gc { "GC" } else { "DEL" }, &call)?.success()?;
    Ok(())
}

#[test]
fn cni_15_an_add_killed_at_any_moment_leaves_nothing_after_del_or_gc() -> Result<()> {
    story(&[], |s| {
        let mut dice = Dice(seed::of("the kills of ADD")?);
        let namespace = NetNs::create(s.cluster.stem(), "victim")?;
        let (begun, first) = (Instant::now(), call(&namespace, "whole"));
        s.node.runtime().call("ADD", &first)?.success()?;
        let whole = u64::try_from(begun.elapsed().as_micros())?;
        clear(s, &first, false)?;
        let mut wired = 0;
        for number in 0..KILLS {
            let call = call(&namespace, &format!("victim{number}"));
            let mut child = s.node.runtime().begin("ADD", &call)?;
            thread::sleep(Duration::from_micros(dice.number() % (whole + whole / 4)));
            child.kill()?;
            end(child)?;
            let links = || Ok::<_, anyhow::Error>(namespace.ip_json("link show")?.as_array().map_or(0, Vec::len));
            wired += usize::from(links()? > 1);
            clear(s, &call, number % 2 == 1)?;
            ensure!(links()? == 1, "kill {number} left an interface in the pod");
            // Each kill could leave something: looked at one by one only where all together are too many.
            if number % 20 == 19 {
                expect_kept(&s.node, &s.cluster.datastore(), 0).with_context(|| format!("kill {number}"))?;
            }
        }
        println!("{wired} of {KILLS} had wired their pod");
        ensure!(wired > 0 && wired < KILLS, "the kills came all at one end: {wired} of {KILLS}");
        Ok(())
    })
}

fn id(container: &str) -> AttachmentId {
    AttachmentId { network: "tortie".into(), container: container.into(), interface: "eth0".into() }
}

/// What the binary asks first.
fn prepare(container: &str, delegated: bool) -> Operation {
    Operation::Prepare(Prepare {
        id: id(container),
        pod: PodId::new("storm", container),
        labels: model::Labels::new(),
        mtu: None,
        mac: None,
        ips: vec![],
        delegated,
        host_ports: vec![],
        floating_ips: false,
        ip_addrs_no_ipam: false,
        pools: Default::default(),
        families: vec![],
        pod_cidrs: vec![],
    })
}

#[test]
fn cni_15_a_pair_that_a_dead_add_left_without_its_alias_goes_with_its_record_and_no_others() -> Result<()> {
    story(&[], |s| {
        for operation in [Operation::Del { id: id("half") }, Operation::Gc { network: "tortie".into(), keep: vec![] }] {
            let Answer::Prepared(prepared) = ask(&s.node.socket(), PATIENCE, prepare("half", false))? else {
                bail!("not prepared")
            };
            let (name, node) = (&prepared.host_interface.0, s.node.namespace());
            node.ip(&[
                &format!("link add {name} type veth peer name half0"),
                "link add cali0 type veth peer name other0",
            ])?;
            ask(&s.node.socket(), PATIENCE, operation)?;
            let links = node.ip_json("link show type veth")?.to_string();
            assert!(!links.contains(name.as_str()) && links.contains("cali0"), "{links}");
            node.ip(&["link del cali0"])?;
            expect_kept(&s.node, &s.cluster.datastore(), 0)?;
        }
        Ok(())
    })
}

#[test]
fn own_14_an_agent_killed_between_prepare_and_commit_leaves_nothing() -> Result<()> {
    story(&[], |s| {
        for delegated in [false, true] {
            let prepared = ask(&s.node.socket(), PATIENCE, prepare("half", delegated))?;
            ensure!(matches!(prepared, Answer::Prepared(_)), "{prepared:?}");
            s.node.agent.kill()?;
            s.node.start()?;
            expect_kept(&s.node, &s.cluster.datastore(), 0)?;
            let commit = Operation::Commit { id: id("half"), mac: Mac([2, 0, 0, 0, 0, 1]), addresses: vec![] };
            let refused = ask(&s.node.socket(), PATIENCE, commit).expect_err("nobody is prepared");
            ensure!(matches!(&refused, CallError::Refused(fault) if fault.code == 11), "{refused}");
        }
        Ok(())
    })
}

#[test]
fn cni_47_an_agent_killed_at_any_moment_of_adds_leaves_nothing_after_del_and_keeps_what_was_attached() -> Result<()> {
    story(&[], |s| {
        let mut dice = Dice(seed::of("the kills of the agent")?);
        let namespaces: Vec<_> = (0..AT_ONCE)
            .map(|number| NetNs::create(s.cluster.stem(), &format!("live{number}")))
            .collect::<Result<_>>()?;
        let mut attached = 0;
        for round in 0..AGENT_KILLS {
            let calls: Vec<_> = namespaces
                .iter()
                .enumerate()
                .map(|(number, namespace)| call(namespace, &format!("live{number}-{round}")))
                .collect();
            let runtime = s.node.runtime();
            let begun = calls.iter().map(|call| runtime.begin("ADD", call)).collect::<Result<Vec<_>>>()?;
            thread::sleep(Duration::from_micros(dice.number() % 400_000));
            s.node.agent.kill()?;
            let said = begun.into_iter().map(end).collect::<Result<Vec<_>>>()?;
            s.node.start()?;
            attached += survivors(&runtime, &calls, &said).with_context(|| format!("round {round}"))?;
            for call in &calls {
                runtime.call("DEL", call)?.success()?;
            }
            expect_kept(&s.node, &s.cluster.datastore(), 0).with_context(|| format!("round {round}"))?;
        }
        println!("{attached} of {} were attached", AGENT_KILLS * AT_ONCE);
        Ok(())
    })
}

/// Whoever was told of success is attached still; whoever was not is told to try again.
fn survivors(runtime: &Runtime, calls: &[Call], said: &[Said]) -> Result<usize> {
    let mut attached = 0;
    for (call, said) in calls.iter().zip(said) {
        match said.success() {
            Ok(result) => {
                let check = Call { conf: json!({ "prevResult": result }), ..call.clone() };
                runtime.call("CHECK", &check)?.success().context("CHECK after the agent's death")?;
                attached += 1;
            }
            Err(_) => {
                let (code, message) = said.failure()?;
                ensure!(code == 11, "{code} {message}");
            }
        }
    }
    Ok(attached)
}
