//! Agents that read a mirror of the API server: policies by kubectl met by packets, whoever is away.
//! In: an API server, an etcd with certificates and users, mirrors with the rights that they are shipped with. Out: tables, problems, watches of the API server.
//! Invariant: what is expected after a change differs from what was seen before it, and each phase changes a policy.
//! Never: waits for a change by time.

use crate::deploy::kustomized;
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::Child, time::Duration};
use tests::{
    Cluster, Etcd, Node, NodeSpec, Pod, PodSpec,
    Probe::Tcp,
    Table,
    cluster::NATIVE,
    expect::Actor,
    fabric,
    process::{end, log_tail, started},
    scrape::Scrape,
    wait,
};

const DENY: &str = "{ podSelector: {}, policyTypes: [Ingress] }";
const PREFIX: &str = "/tortie/mirror/";
/// An agent goes to the API server after half a minute, and comes back sooner.
const LONG: Duration = Duration::from_secs(90);

/// A node whose agent reads a mirror. Fields are dropped in order: a pod's DEL needs the agent.
struct Story {
    pods: BTreeMap<String, Pod>,
    node: Node,
    mirrors: BTreeMap<&'static str, Child>,
    etcd: Etcd,
    kubeconfig: PathBuf,
    /// Who watches pods there besides: the API server itself.
    others: f64,
    cluster: Cluster,
}

fn story(mirrors: &[&'static str], test: impl FnOnce(&mut Story) -> Result<()>) -> Result<()> {
    let cluster = Cluster::served(NATIVE)?;
    let kubeconfig = cluster.grant_mirrors()?;
    let address = fabric::OUTSIDE_V4.parse().context("the outside host's address")?;
    let etcd = Etcd::start(cluster.outside(), address, &cluster.directory().join("mirror-etcd"), (1, true))?;
    let mut spec = NodeSpec::new(1);
    for argument in etcd.reached("--mirror") {
        spec = spec.argument(argument.to_str().context("text")?);
    }
    let node = cluster.node(spec)?;
    let (pods, mirrors_run, others) = (BTreeMap::new(), BTreeMap::new(), watches(&cluster)?);
    let mut story = Story { pods, node, mirrors: mirrors_run, etcd, kubeconfig, others, cluster };
    let done = story.start(mirrors).and_then(|()| test(&mut story));
    let mut logs = vec![story.node.agent.log_tail()];
    logs.extend(mirrors.iter().map(|name| log_tail(&story.log(name))));
    done.with_context(|| format!("the logs end so:\n{}\n", logs.join("\n---\n")))
}

impl Story {
    fn start(&mut self, mirrors: &[&'static str]) -> Result<()> {
        mirrors.iter().try_for_each(|name| self.mirror(name))?;
        self.cluster.namespace("x", &[])?;
        self.node.start()?;
        for id in ["x/a", "x/b"] {
            let spec = PodSpec::new(id);
            self.pods.insert(spec.id(), self.node.pod(&self.cluster, &spec)?);
        }
        self.is_open()
    }

    fn log(&self, mirror: &str) -> PathBuf {
        self.cluster.directory().join(format!("mirror-{mirror}.log"))
    }

    /// Starts a mirror of this name.
    fn mirror(&mut self, name: &'static str) -> Result<()> {
        let mut command = self.cluster.outside().command(&self.cluster.binaries().agent)?;
        command.args(["mirror", "--node", name, "--health-address", "off", "--kubeconfig"]).arg(&self.kubeconfig);
        command.args(self.etcd.reached("--etcd-endpoints"));
        command.args(["--metrics-address", &metrics_of(name).to_string()]);
        let child = started(command, &self.log(name))?;
        self.mirrors.insert(name, child);
        Ok(())
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let child = self.mirrors.get(name).with_context(|| format!("no mirror {name}"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a pid is a positive number")?;
        kill_process(pid, signal).context("signalling a mirror")
    }

    fn kill(&mut self, name: &str) -> Result<()> {
        let mut child = self.mirrors.remove(name).with_context(|| format!("no mirror {name}"))?;
        child.kill().context("killing a mirror")?;
        child.wait().context("waiting for a mirror's end")?;
        Ok(())
    }

    /// Waits until one of them has mirrored everything.
    fn leader(&self) -> Result<&'static str> {
        wait::wait_for("a mirror leads", LONG, || {
            let state = self.etcd.all(self.cluster.outside(), &format!("{PREFIX}v1/state"))?;
            let Some((_, state)) = state.first().filter(|(_, state)| state["isBehind"] == false) else {
                return Ok(None);
            };
            Ok(self.mirrors.keys().find(|name| state["leader"] == **name).copied())
        })
    }

    /// Of the mirrors that are there, this one says that it leads, and what it holds.
    fn says_that_it_leads(&self, leader: &str) -> Result<()> {
        wait::wait_until("the mirrors say who leads", LONG, || {
            for name in self.mirrors.keys() {
                let said = Scrape::of(self.cluster.outside(), metrics_of(name))?;
                let is = |family| Ok::<_, anyhow::Error>(said.value(&format!("tortie_mirror_{family}"))? > 0.0);
                let is_whole = !is("behind")? && is("records")? && is("terms_total")?;
                if is("leads")? != (*name == leader) || (*name == leader && !is_whole) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn policy(&self) -> Result<()> {
        let metadata = "metadata: { namespace: x, name: p }";
        let text = format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n{metadata}\nspec: {DENY}\n");
        self.cluster.manifest("p", &text)
    }

    fn no_policy(&self) -> Result<()> {
        self.cluster.remove("p")
    }

    fn expect(&self, table: &str) -> Result<()> {
        let actors: Vec<Actor<'_>> = self.pods.values().map(Pod::actor).collect();
        Table::parse(table)?.expect(&actors, Tcp(80))
    }

    fn is_shut(&self) -> Result<()> {
        self.expect("x/a\n x/b X")
    }

    fn is_open(&self) -> Result<()> {
        self.expect("x/a\n x/b .")
    }

    /// Whether the agent says that it asks the API server itself.
    fn is_direct(&self) -> Result<bool> {
        Ok(self.node.show("status")?["problems"].to_string().contains("the API server is asked itself"))
    }

    /// Waits until it does, or does not.
    fn until_direct(&self, is_direct: bool) -> Result<()> {
        let what = if is_direct { "the agent asks the API server itself" } else { "the agent reads the mirror" };
        wait::wait_until(what, LONG, || Ok(self.is_direct()? == is_direct))
    }

    /// Waits until so many of ours watch pods at the API server.
    fn watched_by(&self, count: f64) -> Result<()> {
        wait::wait_until(&format!("{count} of ours watch pods"), LONG, || {
            Ok((watches(&self.cluster)? - self.others - count).abs() < 0.5)
        })
    }
}

/// How many watch pods at the API server.
/// Where a mirror is asked for its metrics, outside of all nodes.
fn metrics_of(mirror: &str) -> SocketAddr {
    let number = mirror.bytes().last().map_or(0, u16::from);
    ([127, 0, 0, 1], 9200 + number).into()
}

fn watches(cluster: &Cluster) -> Result<f64> {
    let text = cluster.kubectl(&["get", "--raw", "/metrics"], "")?;
    let is_it = |line: &&str| {
        line.starts_with("apiserver_longrunning_requests{")
            && line.contains("resource=\"pods\"")
            && line.contains("verb=\"WATCH\"")
    };
    Ok(text.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

impl Drop for Story {
    fn drop(&mut self) {
        self.mirrors.values_mut().for_each(end);
    }
}

#[test]
fn a_policy_by_kubectl_is_met_through_the_mirror_and_agents_watch_no_pods_at_the_api_server() -> Result<()> {
    story(&["m1"], |s| {
        s.leader()?;
        s.until_direct(false)?;
        s.watched_by(1.0)?;
        let shipped = kustomized(&s.cluster, "overlays/mirrored")?;
        s.cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"], &shipped)?;
        s.policy()?;
        s.is_shut()?;
        s.no_policy()?;
        s.is_open()?;
        // An agent that starts has what was in force from there.
        s.policy()?;
        s.is_shut()?;
        s.node.agent.stop()?;
        s.no_policy()?;
        s.node.agent.start()?;
        s.node.wait_ready()?;
        s.is_open()?;
        ensure!(!s.is_direct()?, "the mirror was not waited for");
        s.watched_by(1.0)
    })
}

#[test]
fn mirrors_of_which_the_leader_is_killed_are_one_mirror() -> Result<()> {
    story(&["m1", "m2"], |s| {
        let first = s.leader()?;
        s.until_direct(false)?;
        for changes in [Story::policy, Story::no_policy] {
            let leader = s.leader()?;
            s.kill(leader)?;
            changes(s)?;
            let next = s.leader()?;
            ensure!(next != leader, "{leader} still leads");
            if s.cluster.get(&["networkpolicies", "-n", "x"])?["items"].as_array().is_some_and(|all| !all.is_empty()) {
                s.is_shut()?;
            } else {
                s.is_open()?;
            }
            ensure!(!s.is_direct()?, "the agent did not wait for the next leader");
            s.mirror(leader)?;
        }
        ensure!(s.leader()? == first, "each has led");
        s.says_that_it_leads(first)?;
        s.watched_by(1.0)
    })
}

#[test]
fn a_leader_that_stood_still_writes_nothing_once_another_leads() -> Result<()> {
    story(&["m1"], |s| {
        s.leader()?;
        s.until_direct(false)?;
        s.policy()?;
        s.is_shut()?;
        s.mirror("m2")?;
        s.signal("m1", Signal::STOP)?;
        wait::wait_until("the other leads", LONG, || Ok(s.leader()? == "m2"))?;
        s.no_policy()?;
        s.is_open()?;
        s.signal("m1", Signal::CONT)?;
        let log = s.log("m1");
        wait::wait_until("the first one notices", LONG, || Ok(log_tail(&log).contains("a term is over")))?;
        s.policy()?;
        s.is_shut()?;
        s.no_policy()?;
        s.is_open()?;
        ensure!(s.leader()? == "m2" && !s.is_direct()?, "the first one has written");
        s.watched_by(1.0)
    })
}

#[test]
fn a_mirror_that_goes_is_replaced_by_the_api_server_until_it_is_back_and_no_change_is_lost() -> Result<()> {
    story(&["m1"], |s| {
        s.leader()?;
        s.until_direct(false)?;
        s.policy()?;
        s.is_shut()?;
        s.kill("m1")?;
        // Of this the agent hears once it asks the API server.
        s.no_policy()?;
        s.until_direct(true)?;
        s.is_open()?;
        s.policy()?;
        s.is_shut()?;
        s.mirror("m1")?;
        s.until_direct(false)?;
        s.watched_by(1.0)?;
        s.is_shut()?;
        s.no_policy()?;
        s.is_open()?;
        // etcd is away, not its writer.
        s.etcd.kill()?;
        s.policy()?;
        s.until_direct(true)?;
        s.is_shut()?;
        s.etcd.run(s.cluster.outside(), true)?;
        s.until_direct(false)?;
        s.is_shut()?;
        s.no_policy()?;
        s.is_open()
    })
}

#[test]
fn an_etcd_that_is_emptied_or_damaged_opens_nothing_and_is_filled_again() -> Result<()> {
    story(&["m1"], |s| {
        s.leader()?;
        s.until_direct(false)?;
        let policies = format!("{PREFIX}v1/objects/networkpolicies.networking.k8s.io/");
        for prefix in [PREFIX, &policies] {
            s.policy()?;
            s.is_shut()?;
            s.etcd.clear(s.cluster.outside(), prefix)?;
            let filled = || Ok(!s.etcd.all(s.cluster.outside(), &policies)?.is_empty());
            wait::wait_until("the policy is mirrored again", LONG, || {
                s.expect("x/a\n x/b X")?;
                filled()
            })?;
            s.is_shut()?;
            s.no_policy()?;
            s.is_open()?;
        }
        // All that it was is gone, and nobody fills it.
        s.policy()?;
        s.is_shut()?;
        s.kill("m1")?;
        s.etcd.clear(s.cluster.outside(), PREFIX)?;
        s.until_direct(true)?;
        s.is_shut()?;
        s.mirror("m1")?;
        s.until_direct(false)?;
        s.is_shut()?;
        s.no_policy()?;
        s.is_open()
    })
}

#[test]
fn without_a_mirror_an_agent_starts_by_the_api_server_and_without_that_by_the_mirror() -> Result<()> {
    story(&[], |s| {
        ensure!(s.is_direct()?, "who else was asked?");
        s.mirror("m1")?;
        s.until_direct(false)?;
        s.policy()?;
        s.is_shut()?;
        s.cluster.kill_apiserver()?;
        s.node.agent.stop()?;
        s.node.agent.start()?;
        s.is_shut()?;
        s.cluster.start_apiserver()?;
        s.node.wait_ready()?;
        s.no_policy()?;
        s.is_open()?;
        s.until_direct(false)
    })
}
