//! Addresses of many pods on few blocks, while agents and what keeps the blocks are killed.
//! In: ADD and DEL in random order on three nodes; `kill -9` of agents, and of the API server or etcd. Out: who has which address, and
//! what `tortie ipam check` says at rest.
//! Invariant: randomness comes from a seed that is printed; a call that fails is followed by DEL until that is done, as runtimes do.
//! Never: kills by the clock: so many calls succeed between two kills.

use crate::chores::said;
use anyhow::{Context as _, Result, ensure};
use policy::generate::Dice;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tests::{
    Cluster, NetNs, Node, NodeSpec, PodSpec,
    cluster::{NATIVE, pools},
    runtime::{Call, Runtime},
    seed, wait,
};

const NODES: u8 = 3;
/// Of each node. All together want 18 of 32 addresses of a family, in two blocks: one node at least has none, and borrows.
const PODS: usize = 6;
const KILLS: usize = 8;
/// What a kill has under way is tried again, and its agent has its programs verified first.
const LONG: Duration = Duration::from_secs(120);
/// The longest life of a pod.
const LIFE_MS: u64 = 500;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// A pod that comes and goes.
struct Life {
    runtime: Runtime,
    namespace: NetNs,
    name: String,
}

/// What all of them see.
#[derive(Default)]
struct Storm {
    held: Mutex<BTreeMap<IpAddr, String>>,
    calls: AtomicUsize,
    is_over: AtomicBool,
}

impl Life {
    fn call(&self) -> Call {
        Call {
            container: self.name.clone(),
            netns: Some(self.namespace.path()),
            interface: "eth0".to_owned(),
            args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=storm;K8S_POD_NAME={}", self.name),
            conf: json!({}),
        }
    }

    /// Until it is done: nothing else may keep an address.
    fn del(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.runtime.call("DEL", &self.call())?.success() {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > LONG => {
                    return Err(error).with_context(|| format!("DEL of {}", self.name));
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    /// ADD and DEL until the storm is over. Its addresses, if it is attached then.
    fn live(&self, storm: &Storm, mut dice: Dice) -> Result<Vec<IpAddr>> {
        while !storm.is_over() {
            let Ok(result) = self.runtime.call("ADD", &self.call())?.success() else {
                self.del()?;
                thread::sleep(PAUSE);
                continue;
            };
            let own = addresses(&result);
            storm.has(&self.name, &own)?;
            if storm.is_over() && dice.below(2) == 0 {
                return Ok(own);
            }
            // Who has it for long sees more often that another gets it.
            thread::sleep(Duration::from_millis(dice.number() % LIFE_MS));
            storm.gives_back(&own);
            self.del()?;
            storm.calls.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Vec::new())
    }
}

impl Storm {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn has(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        ensure!(addresses.len() == 2, "{name} has {addresses:?}");
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for address in addresses {
            let other = held.insert(*address, name.to_owned());
            ensure!(other.is_none(), "{address} is {other:?}'s and {name}'s");
        }
        Ok(())
    }

    /// Before DEL, after which another may have them.
    fn gives_back(&self, addresses: &[IpAddr]) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|address, _| !addresses.contains(address));
    }
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let texts = result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str());
    texts.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}

/// Lets them live and kills now and then; who is attached in the end.
fn storm(
    cluster: &mut Cluster,
    nodes: &mut [Node],
    lives: &[Life],
    kill_store: fn(&mut Cluster) -> Result<()>,
) -> Result<BTreeMap<IpAddr, String>> {
    let mut dice = Dice(seed::of("the storm")?);
    let storm = Storm::default();
    thread::scope(|scope| {
        let running: Vec<_> = lives
            .iter()
            .map(|life| {
                let (storm, dice) = (&storm, Dice(dice.number()));
                scope.spawn(move || life.live(storm, dice))
            })
            .collect();
        let kills = (0..KILLS).try_for_each(|number| {
            let enough = storm.calls.load(Ordering::Relaxed) + 1 + dice.below(40);
            wait::wait_until("pods come and go", LONG, || {
                let ended = running.iter().any(thread::ScopedJoinHandle::is_finished);
                Ok(ended || storm.calls.load(Ordering::Relaxed) >= enough)
            })?;
            match nodes.get_mut(dice.below(usize::from(NODES) + 1)) {
                Some(node) => node.agent.kill().and_then(|()| node.agent.start()),
                None => kill_store(cluster),
            }
            .with_context(|| format!("kill {number}"))
        });
        storm.is_over.store(true, Ordering::Relaxed);
        let ends = running.into_iter().map(|life| life.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let failed: Vec<_> = ends.filter_map(|end| end.err().map(|error| format!("{error:#}"))).collect();
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        kills
    })?;
    println!("{} came and went", storm.calls.load(Ordering::Relaxed));
    Ok(storm.held.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What blocks say is what pods have, and `check` finds nothing else.
fn is_at_rest(cluster: &mut Cluster, node: &Node, held: &BTreeMap<IpAddr, String>) -> Result<()> {
    let mut last = String::new();
    let came = wait::wait_until("blocks say what pods have", LONG, || {
        last = said(node, cluster, &["check", "--show-all-ips"])?;
        let are_all = held.keys().all(|address| last.contains(&format!("{address} ")));
        Ok(are_all && given(cluster)? == held.len() && last.contains("found 0 problems"))
    });
    came.with_context(|| format!("{} addresses: {held:?}\n{last}", held.len()))
}

/// Addresses that blocks give to somebody.
fn given(cluster: &mut Cluster) -> Result<usize> {
    if cluster.administrator().is_some() {
        return cluster.held_addresses();
    }
    let (etcd, at) = cluster.etcd()?;
    let blocks = etcd.all(at, "/calico/ipam/v2/assignment/")?;
    let slots = blocks.iter().flat_map(|(_, block)| block["allocations"].as_array().into_iter().flatten());
    Ok(slots.filter(|slot| !slot.is_null()).count())
}

fn run(mut cluster: Cluster, kill_store: fn(&mut Cluster) -> Result<()>) -> Result<()> {
    let (mut nodes, mut lives) = (Vec::new(), Vec::new());
    for number in 1..=NODES {
        let mut node = cluster.node(NodeSpec::new(number))?;
        for pod in 0..PODS {
            let name = format!("pod{number}-{pod}");
            cluster.pod_manifest(&PodSpec::new(&format!("storm/{name}")), node.name())?;
            let namespace = NetNs::create(cluster.stem(), &name)?;
            lives.push(Life { runtime: node.runtime(), namespace, name });
        }
        node.start()?;
        nodes.push(node);
    }
    let done = (|| {
        let held = storm(&mut cluster, &mut nodes, &lives, kill_store)?;
        nodes.iter_mut().try_for_each(Node::wait_ready)?;
        is_at_rest(&mut cluster, &nodes[0], &held)?;
        lives.iter().try_for_each(Life::del)?;
        is_at_rest(&mut cluster, &nodes[0], &BTreeMap::new())
    })();
    let logs: String = nodes.iter().map(|node| format!("{}\n", node.agent.log_tail())).collect();
    done.with_context(|| format!("the agents' logs end so:\n{logs}"))
}

#[test]
fn ipam_18_agents_and_an_api_server_that_are_killed_give_no_address_twice_and_lose_none() -> Result<()> {
    let cluster = Cluster::create()?.serve()?;
    let small = pools(28, 124).replace("10.65.0.0/16", "10.65.0.0/27").replace("fd00:65::/64", "fd00:65::/123");
    cluster.define(NATIVE, &small)?;
    cluster.namespace("storm", &[])?;
    run(cluster, |cluster| {
        cluster.kill_apiserver()?;
        cluster.start_apiserver()
    })
}

#[test]
fn ipam_18_agents_and_an_etcd_that_are_killed_give_no_address_twice_and_lose_none() -> Result<()> {
    let mut cluster = Cluster::in_etcd(false)?;
    let (etcd, at) = cluster.etcd()?;
    for (name, cidr, size) in [("pool-v4", "10.65.0.0/27", 28), ("pool-v6", "fd00:65::/123", 124)] {
        etcd.put(at, &format!("ippools/{name}"), &json!({ "spec": { "cidr": cidr, "blockSize": size } }))?;
    }
    run(cluster, |cluster| {
        let (etcd, at) = cluster.etcd()?;
        etcd.kill()?;
        etcd.run(at, true)
    })
}
