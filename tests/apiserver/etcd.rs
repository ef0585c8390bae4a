//! Calico's objects in etcd, without Kubernetes: policies met by packets, addresses by Calico's own blocks, pods by their endpoints.
//! In: keys and values. Out: tables, blocks, endpoints.
//! Invariant: what is expected after a change differs from what was seen before it.
//! Never: waits for a change by time.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::{collections::BTreeMap, thread};
use tests::{Cluster, Node, NodeSpec, Pod, PodSpec, Probe, Probe::Tcp, Table, cluster::NATIVE, expect::Actor, wait};

/// Nodes, and pods on them, `node1` first. Fields are dropped in order: a pod's DEL needs the agent.
pub struct Story {
    pub pods: BTreeMap<String, Pod>,
    pub nodes: Vec<Node>,
    made: fn(&str) -> PodSpec,
    pub cluster: Cluster,
}

/// Runs a test on nodes with these pods, each labelled `pod: NAME`, in namespaces labelled `ns: NAME`.
pub fn story(is_secured: bool, pods: &[&[&str]], test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    story_on(Cluster::in_etcd(is_secured)?, labelled, pods, test)
}

/// The same on this cluster, with pods as they are made by `made`.
pub fn story_on(
    cluster: Cluster,
    made: fn(&str) -> PodSpec,
    pods: &[&[&str]],
    test: impl FnOnce(&mut Story) -> Result<()>,
) -> Result<()> {
    let mut story = Story { pods: BTreeMap::new(), nodes: Vec::new(), made, cluster };
    let done = story.start(pods).and_then(|()| test(&mut story));
    let logs: String = story.nodes.iter().map(|node| format!("{}\n", node.agent.log_tail())).collect();
    done.with_context(|| format!("the agents' logs end so:\n{logs}"))
}

impl Story {
    fn start(&mut self, pods: &[&[&str]]) -> Result<()> {
        for namespace in pods.iter().copied().flatten().filter_map(|pod| pod.split('/').next()) {
            self.profile(namespace)?;
        }
        for number in (1u8..).take(pods.len()) {
            let mut node = self.cluster.node(NodeSpec::new(number))?;
            let addresses: Vec<_> = node.addresses().iter().map(|address| json!({ "address": address })).collect();
            self.put(&format!("nodes/{}", node.name()), &json!({ "spec": { "addresses": addresses } }))?;
            node.start()?;
            self.nodes.push(node);
        }
        for (number, ids) in (1u8..).zip(pods) {
            ids.iter().try_for_each(|id| self.add(id, number))?;
        }
        Ok(())
    }

    /// One more pod on this node.
    pub fn add(&mut self, id: &str, number: u8) -> Result<()> {
        let own = format!("node{number}");
        let node = self.nodes.iter().find(|node| node.name() == own).context("a node")?;
        let spec = (self.made)(id);
        self.pods.insert(spec.id(), node.pod(&self.cluster, &spec)?);
        Ok(())
    }

    /// As Calico's controllers make it for a namespace.
    pub fn profile(&mut self, namespace: &str) -> Result<()> {
        let allow = json!([{ "action": "Allow", "source": {}, "destination": {} }]);
        let labels = json!({ "pcns.ns": namespace, "pcns.projectcalico.org/name": namespace });
        let spec = json!({ "ingress": allow, "egress": allow, "labelsToApply": labels });
        self.put(&format!("profiles/kns.{namespace}"), &json!({ "spec": spec }))
    }

    pub fn put(&mut self, name: &str, object: &Value) -> Result<()> {
        let (etcd, at) = self.cluster.etcd()?;
        etcd.put(at, name, object)
    }

    pub fn remove(&mut self, name: &str) -> Result<()> {
        let (etcd, at) = self.cluster.etcd()?;
        etcd.remove(at, name)
    }

    pub fn all(&mut self, prefix: &str) -> Result<Vec<(String, Value)>> {
        let (etcd, at) = self.cluster.etcd()?;
        etcd.all(at, prefix)
    }

    /// A policy that refuses what comes to the pod of this name from those that the selector means.
    pub fn refuse(&mut self, policy: &str, pod: &str, from: &str) -> Result<()> {
        let ingress = json!([{ "action": "Deny", "source": { "selector": from } }, { "action": "Allow" }]);
        let spec = json!({ "selector": format!("pod == '{pod}'"), "types": ["Ingress"], "ingress": ingress });
        self.put(&format!("globalnetworkpolicies/{policy}"), &json!({ "spec": spec }))
    }

    pub fn expect(&self, what: Probe, table: &str) -> Result<()> {
        let actors: Vec<Actor<'_>> = self.pods.values().map(Pod::actor).collect();
        Table::parse(table)?.expect(&actors, what)
    }

    /// While members choose who leads them they refuse.
    pub fn settled(&mut self, mut done: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let mut last = None;
        let tried = wait::wait_until("etcd takes a change", wait::PATIENCE, || {
            Ok(done(self).map_err(|why| last = Some(why)).is_ok())
        });
        tried.with_context(|| last.map_or_else(String::new, |why| format!("{why:#}")))
    }

    pub fn problem(&self, part: &str) -> Result<()> {
        wait::wait_until(part, wait::PATIENCE, || {
            Ok(self.nodes[0].show("status")?["problems"].to_string().contains(part))
        })
    }
}

/// Who told the runtime of the pod told it the labels, too.
fn labelled(id: &str) -> PodSpec {
    let mut spec = PodSpec::new(id);
    spec.conf = json!({ "args": { "cni": { "labels": { "pod": spec.name } } } });
    spec
}

pub fn is_refused(s: &Story) -> Result<()> {
    s.expect(Tcp(80), "x/a\n x/b X")
}

pub fn is_let_through(s: &Story) -> Result<()> {
    s.expect(Tcp(80), "x/a\n x/b .")
}

#[test]
fn etcd_a_policy_is_met_by_packets_and_knows_the_pods_of_other_nodes() -> Result<()> {
    story(false, &[&["x/a"], &["x/b", "y/c"]], |s| {
        s.expect(Tcp(80), "x/a\n x/b .\n y/c .")?;
        s.refuse("p", "a", "pod == 'b'")?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/c .")?;
        // By the labels of the namespace, of which a profile tells.
        let ingress =
            json!([{ "action": "Deny", "source": { "namespaceSelector": "ns == 'y'" } }, { "action": "Allow" }]);
        let spec = json!({ "selector": "pod == 'a'", "types": ["Ingress"], "ingress": ingress });
        s.put("networkpolicies/x/q", &json!({ "spec": spec }))?;
        s.remove("globalnetworkpolicies/p")?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/c X")?;
        s.remove("networkpolicies/x/q")?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/c .")
    })
}

#[test]
fn ipam_24_etcd_says_which_node_has_which_block_and_own_ones_lead_nowhere() -> Result<()> {
    story(false, &[&["x/a"], &["x/b", "x/c"]], |s| {
        for node in &s.nodes {
            // Of both families: its own block, and the other's, and none for a pod by itself.
            wait::wait_until("four blocks have routes", wait::PATIENCE, || Ok(node.routes()?.len() == 4))?;
            let routes = node.routes()?;
            let own: Vec<_> = routes.iter().filter(|(_, via)| *via == "blackhole").map(|(block, _)| block).collect();
            ensure!(own.len() == 2, "{}: {routes:?}", node.name());
            ensure!(routes.keys().all(|block| block.ends_with("/26") || block.ends_with("/122")), "{routes:?}");
        }
        s.expect(Tcp(80), "x/a x/b x/c\n x/a - . .\n x/b . - .\n x/c . . -")
    })
}

#[test]
fn etcd_that_is_killed_takes_nothing_away_and_is_heard_again_when_it_is_back() -> Result<()> {
    story(false, &[&["x/a", "x/b"]], |s| {
        s.refuse("p", "a", "all()")?;
        is_refused(s)?;
        s.cluster.etcd()?.0.kill()?;
        s.problem("all stays as it was")?;
        is_refused(s)?;
        // An agent that starts without it has what was in force.
        s.nodes[0].agent.stop()?;
        s.nodes[0].agent.start()?;
        is_refused(s)?;
        let (etcd, at) = s.cluster.etcd()?;
        etcd.run(at, true)?;
        s.nodes[0].wait_ready()?;
        is_refused(s)?;
        s.remove("globalnetworkpolicies/p")?;
        is_let_through(s)
    })
}

#[test]
fn etcd_that_says_nothing_takes_nothing_away_and_is_heard_when_it_speaks_again() -> Result<()> {
    story(false, &[&["x/a", "x/b"]], |s| {
        s.refuse("p", "a", "all()")?;
        is_refused(s)?;
        s.cluster.etcd()?.0.be_silent(true)?;
        s.problem("all stays as it was")?;
        is_refused(s)?;
        s.cluster.etcd()?.0.be_silent(false)?;
        s.remove("globalnetworkpolicies/p")?;
        is_let_through(s)
    })
}

#[test]
fn etcd_whose_leader_is_killed_is_heard_by_another_member() -> Result<()> {
    story_on(Cluster::create()?.with_etcd((3, false))?, labelled, &[&["x/a", "x/b"]], |s| {
        is_let_through(s)?;
        for round in 0..2 {
            let (etcd, at) = s.cluster.etcd()?;
            etcd.kill_leader(at)?;
            let (name, change) = (format!("globalnetworkpolicies/p{round}"), format!("p{round}"));
            s.settled(|s| s.refuse(&change, "a", "all()"))?;
            is_refused(s)?;
            let pod = format!("x/more{round}");
            s.settled(|s| s.add(&pod, 1))?;
            let (etcd, at) = s.cluster.etcd()?;
            etcd.run(at, true)?;
            s.settled(|s| s.remove(&name))?;
            is_let_through(s)?;
        }
        ensure!(used(s)? == 8, "{} addresses are held", used(s)?);
        Ok(())
    })
}

#[test]
fn etcd_that_has_forgotten_what_an_agent_did_not_hear_is_listed_anew() -> Result<()> {
    story(false, &[&["x/a", "x/b"]], |s| {
        s.refuse("p", "a", "all()")?;
        is_refused(s)?;
        // The agent hears nothing of what is done now.
        let (etcd, at) = s.cluster.etcd()?;
        etcd.kill()?;
        etcd.run(at, false)?;
        s.remove("globalnetworkpolicies/p")?;
        s.refuse("q", "b", "all()")?;
        let (etcd, at) = s.cluster.etcd()?;
        etcd.compact(at)?;
        etcd.kill()?;
        etcd.run(at, true)?;
        s.expect(Tcp(80), "x/a\n x/b .")?;
        s.expect(Tcp(80), "x/b\n x/a X")
    })
}

#[test]
fn etcd_in_which_nothing_is_any_more_takes_nothing_away() -> Result<()> {
    story(false, &[&["x/a", "x/b"]], |s| {
        s.refuse("p", "a", "all()")?;
        is_refused(s)?;
        let (etcd, at) = s.cluster.etcd()?;
        etcd.kill()?;
        etcd.forget()?;
        etcd.run(at, true)?;
        s.problem("clusterinformations/default: there is none")?;
        is_refused(s)
    })
}

#[test]
fn etcd_a_policy_that_cannot_be_read_keeps_its_last_good_revision_and_is_named() -> Result<()> {
    story(false, &[&["x/a", "x/b"]], |s| {
        s.refuse("p", "a", "all()")?;
        is_refused(s)?;
        let (etcd, at) = s.cluster.etcd()?;
        etcd.put_text(at, "globalnetworkpolicies/p", "no JSON")?;
        s.problem("globalnetworkpolicies/p: is no JSON")?;
        s.nodes[0].agent.stop()?;
        s.nodes[0].agent.start()?;
        s.nodes[0].wait_ready()?;
        is_refused(s)?;
        s.remove("globalnetworkpolicies/p")?;
        is_let_through(s)
    })
}

#[test]
fn etcd_is_asked_with_certificates_and_by_name_where_it_wants_that() -> Result<()> {
    story(true, &[&["x/a", "x/b"]], |s| {
        is_let_through(s)?;
        s.refuse("p", "a", "all()")?;
        is_refused(s)?;
        // With another run of etcd the token that the agent has is worth nothing.
        let (etcd, at) = s.cluster.etcd()?;
        etcd.kill()?;
        etcd.run(at, true)?;
        s.remove("globalnetworkpolicies/p")?;
        is_let_through(s)
    })
}

#[test]
fn etcd_holds_the_addresses_that_agents_give_at_once_in_calicos_blocks_and_the_pods_in_endpoints() -> Result<()> {
    story(false, &[&[], &[]], |s| {
        s.profile("x")?;
        let ids: Vec<Vec<String>> =
            [1, 2].iter().map(|node| (0..4).map(|pod| format!("x/p{node}-{pod}")).collect()).collect();
        let (nodes, cluster) = (&s.nodes, &s.cluster);
        let started = thread::scope(|scope| {
            let on = |(node, ids): (&'_ Node, &'_ Vec<String>)| -> Result<Vec<Pod>> {
                ids.iter().map(|id| node.pod(cluster, &labelled(id))).collect()
            };
            let threads: Vec<_> = nodes.iter().zip(&ids).map(|part| scope.spawn(move || on(part))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>>>()
        })?;
        let pods: Vec<Pod> = started.into_iter().flatten().collect();
        let mut addresses: Vec<String> = pods.iter().flat_map(Pod::addresses).map(ToString::to_string).collect();
        addresses.sort();
        let all = addresses.len();
        addresses.dedup();
        ensure!(all == 16 && addresses.len() == all, "an address was given twice, or not at all: {addresses:?}");
        ensure!(used(s)? == 16, "{} addresses are held", used(s)?);
        let told = |s: &mut Story| -> Result<Vec<String>> {
            let endpoints = s.all("/calico/resources/v3/projectcalico.org/workloadendpoints/x/")?;
            let networks = endpoints
                .iter()
                .flat_map(|(_, endpoint)| endpoint["spec"]["ipNetworks"].as_array().into_iter().flatten());
            let mut told: Vec<_> =
                networks.filter_map(|text| Some(text.as_str()?.split('/').next()?.to_owned())).collect();
            told.sort();
            Ok(told)
        };
        wait::wait_until("the endpoints say what the pods have", wait::PATIENCE, || Ok(told(s)? == addresses))?;
        drop(pods);
        ensure!(used(s)? == 0, "{} addresses are still held", used(s)?);
        ensure!(told(s)?.is_empty(), "endpoints of pods that are gone: {:?}", told(s)?);
        ensure!(s.all("/calico/ipam/v2/handle/")?.is_empty(), "handles of pods that are gone");
        let claims = s.all("/calico/ipam/v2/host/")?;
        ensure!(claims.iter().all(|(_, claim)| claim["state"] == "confirmed"), "{claims:?}");
        Ok(())
    })
}

#[test]
fn etcd_beside_kubernetes_pods_have_the_labels_that_its_api_server_says() -> Result<()> {
    let cluster = Cluster::served(NATIVE)?.with_etcd((1, false))?;
    cluster.namespace("x", &[])?;
    story_on(cluster, PodSpec::new, &[&["x/a", "x/b"]], |s| {
        is_let_through(s)?;
        s.refuse("p", "a", "pod == 'b'")?;
        is_refused(s)?;
        let endpoints = s.all("/calico/resources/v3/projectcalico.org/workloadendpoints/x/node1-k8s-b-eth0")?;
        let [(_, endpoint)] = &endpoints[..] else { bail!("one endpoint: {endpoints:?}") };
        let labels = &endpoint["metadata"]["labels"];
        ensure!(labels["pod"] == "b" && labels["projectcalico.org/serviceaccount"] == "default", "{endpoint}");
        ensure!(endpoint["spec"]["profiles"] == json!(["kns.x", "ksa.x.default"]), "{endpoint}");
        ensure!(endpoint["spec"]["ports"][0]["name"] == "serve-80-tcp", "{endpoint}");
        // One that it does not know is not attached without labels.
        let stranger = Pod::start(s.cluster.stem(), &PodSpec::new("x/stranger"), &s.nodes[0].runtime());
        let Err(refused) = stranger else { bail!("a pod that nobody knows is attached") };
        ensure!(format!("{refused:#}").contains("x/stranger"), "{refused:#}");
        Ok(())
    })
}

#[test]
fn etcd_of_two_endpoints_of_a_pod_the_one_that_was_made_last_counts_and_an_attachment_before_any() -> Result<()> {
    story(false, &[&["x/a"], &[]], |s| {
        // Its first node died, and nobody took its endpoint away: the name of that comes first.
        let stale = |pod: &str| {
            json!({ "metadata": { "labels": { "pod": "stale" } }, "spec": {
                "node": "dead", "pod": pod, "containerID": "of-old", "profiles": ["kns.x"], "ipNetworks": ["10.65.99.9/32"] } })
        };
        s.put("workloadendpoints/x/dead-k8s-b-eth0", &stale("b"))?;
        s.add("x/b", 2)?;
        is_let_through(s)?;
        s.refuse("p", "a", "pod == 'b'")?;
        is_refused(s)?;
        s.problem("which is newer and counts")?;
        // One of another container takes nothing from the pod that is attached here, even if it was made later.
        s.put("workloadendpoints/x/dead-k8s-a-eth0", &stale("a"))?;
        s.problem("workloadendpoints/x/dead-k8s-a-eth0, which is newer and counts")?;
        is_refused(s)
    })
}

#[test]
fn etcd_a_pod_of_a_profile_that_is_not_there_sends_and_gets_nothing_and_is_named() -> Result<()> {
    story(false, &[&["x/a", "x/b", "y/c"]], |s| {
        s.expect(Tcp(80), "x/a\n x/b .\n y/c .")?;
        s.remove("profiles/kns.x")?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/c X")?;
        s.expect(Tcp(80), "y/c\n x/b X")?;
        s.problem("Pod x/a: there is no profile kns.x")?;
        s.profile("x")?;
        s.expect(Tcp(80), "x/a\n x/b .\n y/c .")?;
        // One that is neither its namespace's nor its account's.
        let name = "workloadendpoints/x/node1-k8s-b-eth0";
        let found = s.all(&format!("/calico/resources/v3/projectcalico.org/{name}"))?;
        let (_, mut endpoint) = found.into_iter().next().context("the endpoint of b")?;
        endpoint["spec"]["profiles"] = json!(["special"]);
        s.put(name, &endpoint)?;
        s.expect(Tcp(80), "x/a\n x/b X\n y/c .")?;
        s.problem("Pod x/b: there is no profile special")?;
        let allow = json!([{ "action": "Allow", "protocol": "TCP", "destination": { "ports": [81] } }]);
        s.put("profiles/special", &json!({ "spec": { "egress": allow } }))?;
        s.expect(Tcp(81), "x/a\n x/b .")?;
        s.expect(Tcp(80), "x/a\n x/b X")?;
        s.expect(Tcp(81), "x/b\n x/a X")
    })
}

#[test]
fn etcd_that_is_restored_from_a_backup_gives_no_address_twice() -> Result<()> {
    story(false, &[&["x/a"], &[]], |s| {
        let (etcd, at) = s.cluster.etcd()?;
        etcd.kill()?;
        etcd.back_up()?;
        etcd.run(at, true)?;
        s.settled(|s| s.add("x/b", 1))?;
        s.settled(|s| s.add("x/c", 2))?;
        ensure!(used(s)? == 6, "{} addresses are held", used(s)?);
        let (etcd, at) = s.cluster.etcd()?;
        etcd.kill()?;
        etcd.restore()?;
        etcd.run(at, true)?;
        wait::wait_until("what pods have is held again", wait::PATIENCE, || Ok(used(s)? == 6))?;
        wait::wait_until("other nodes are told of them again", wait::PATIENCE, || {
            Ok(s.all("/calico/resources/v3/projectcalico.org/workloadendpoints/x/")?.len() == 3)
        })?;
        for (pod, node) in [("x/d", 1), ("x/e", 2)] {
            s.settled(|s| s.add(pod, node))?;
        }
        let mut addresses: Vec<_> = s.pods.values().flat_map(Pod::addresses).map(ToString::to_string).collect();
        addresses.sort();
        addresses.dedup();
        ensure!(addresses.len() == 10 && used(s)? == 10, "an address was given twice: {addresses:?}, {}", used(s)?);
        s.expect(Tcp(80), "x/a\n x/b .\n x/c .\n x/d .\n x/e .")
    })
}

#[test]
fn etcd_that_was_restored_and_has_come_further_than_was_heard_is_listed_anew() -> Result<()> {
    story(false, &[&["x/a", "x/b"]], |s| {
        is_let_through(s)?;
        let (etcd, at) = s.cluster.etcd()?;
        etcd.kill()?;
        etcd.back_up()?;
        etcd.run(at, true)?;
        let tier =
            |s: &mut Story, number: u32| s.put(&format!("tiers/t{number}"), &json!({ "spec": { "order": number } }));
        (0..30).try_for_each(|number| tier(s, number))?;
        s.refuse("p", "a", "all()")?;
        is_refused(s)?;
        // The agent hears nothing of what is done now: it is less than what was done before, and then more.
        let (etcd, at) = s.cluster.etcd()?;
        etcd.kill()?;
        etcd.restore()?;
        etcd.run(at, false)?;
        s.refuse("q", "b", "all()")?;
        (0..200).try_for_each(|number| tier(s, number))?;
        let (etcd, at) = s.cluster.etcd()?;
        etcd.kill()?;
        etcd.run(at, true)?;
        s.expect(Tcp(80), "x/b\n x/a X")?;
        s.expect(Tcp(80), "x/a\n x/b .")
    })
}

#[test]
fn etcd_in_which_calico_began_anew_is_taken_up_by_an_agent_that_starts_only_when_that_is_meant() -> Result<()> {
    let known = |cluster: &str| json!({ "spec": { "datastoreReady": true, "clusterGUID": cluster } });
    story(false, &[&["x/a", "x/b"]], |s| {
        s.put("clusterinformations/default", &known("first"))?;
        s.refuse("p", "a", "all()")?;
        is_refused(s)?;
        s.nodes[0].agent.stop()?;
        let (etcd, at) = s.cluster.etcd()?;
        etcd.kill()?;
        etcd.forget()?;
        etcd.run(at, true)?;
        s.profile("x")?;
        s.put("clusterinformations/default", &known("second"))?;
        s.nodes[0].agent.start()?;
        s.problem("clusterGUID is another cluster's")?;
        is_refused(s)?;
        s.nodes[0].agent.stop()?;
        s.nodes[0].forget_cluster()?;
        s.nodes[0].agent.start()?;
        is_let_through(s)
    })
}

/// Addresses that blocks say are held.
fn used(s: &mut Story) -> Result<usize> {
    let blocks = s.all("/calico/ipam/v2/assignment/")?;
    let slots = blocks.iter().flat_map(|(_, block)| block["allocations"].as_array().into_iter().flatten());
    Ok(slots.filter(|slot| !slot.is_null()).count())
}
