//! A place: a node of a cluster that a real API server keeps.
//! In: how many pods and policies. Out: a server and a client, and a policy between them that comes and goes.
//! Invariant: no other policy is of these two; every object was acknowledged before something is measured.
//! Never: more than one agent.

use super::client::Client;
use crate::{
    door::{Door, REST},
    manifests::{self, Population, WALL},
    progress,
    setups::started,
};
use ::tests::{
    Binaries, Cluster, Node, NodeSpec, Pod, PodSpec,
    cluster::{NATIVE, pools},
    netns::STEM,
};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::{
    process, thread,
    time::{Duration, Instant},
};

/// Created in one call, so that progress shows.
const AT_ONCE: usize = 1000;

/// It stands.
pub struct Place {
    population: Population,
    // Dropped in this order: the pods' DEL needs the agent.
    client: Pod,
    server: Pod,
    _locals: Vec<Pod>,
    pub node: Node,
    pub cluster: Cluster,
}

impl Place {
    /// `stem` tells its namespaces from those of others in this run.
    pub fn create(stem: &str, population: Population, binaries: &Binaries) -> Result<Self> {
        let cluster = Cluster::with_stem(&format!("{STEM}{}-{stem}", process::id()), binaries.clone())?.serve()?;
        // A node has one block, and as many pods as a kubelet takes.
        cluster.define(NATIVE, &pools(23, 119))?;
        cluster.namespace("bench", &[])?;
        let asked = client(&cluster)?;
        for name in population.namespaces() {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            asked.create(vec![namespace])?;
            asked.create(vec![manifests::account(&name)])?;
        }
        let all = |what: &str, count: usize, one: &dyn Fn(usize) -> Value| {
            (0..count).step_by(AT_ONCE).try_for_each(|first| {
                progress(&format!("{stem}: {what} {first} of {count}"));
                asked.create((first..count.min(first + AT_ONCE)).map(one).collect())
            })
        };
        all("pod", population.pods(), &pod)?;
        all("policy", population.policies, &|number| population.policy(number))?;
        drop(asked);
        let node = started(&cluster, NodeSpec::new(1), None)?;
        let mut locals = Vec::new();
        for local in 0..population.locals {
            progress(&format!("{stem}: pod {local} of {} here", population.locals));
            let app = population.app_of_local(local);
            let name = format!("{}/local{local}", Population::namespace(app));
            let spec = PodSpec::new(&name).silent().label("app", &format!("a{app}"));
            locals.push(node.pod(&cluster, &spec)?);
        }
        let two = |name: &str| node.pod(&cluster, &PodSpec::new(name).silent().label("pod", &name["bench/".len()..]));
        let (client, server) = (two("bench/client")?, two("bench/server")?);
        let place = Self { population, client, server, _locals: locals, node, cluster };
        place.door().until_open()?;
        Ok(place)
    }

    /// In words.
    pub fn name(&self) -> String {
        let Population { policies, locals, .. } = self.population;
        let (here, pods) = (locals + 2, self.population.pods() + locals + 2);
        format!("{pods} pods, {here} of them here; {policies} policies")
    }

    /// Its agent's process.
    pub fn agent(&self) -> Result<u32> {
        self.node.agent.pid().context("the agent has ended")
    }

    /// The administrator.
    pub fn asked(&self) -> Result<Client<'_>> {
        client(&self.cluster)
    }

    /// Creates a policy that refuses; how long from its acknowledgement to the first packet refused.
    pub fn refused(&self) -> Result<Duration> {
        let (client, wall) = (self.asked()?, wall()?);
        let mut acknowledged = Duration::ZERO;
        let took = self.door().until_shut(|| {
            let begun = Instant::now();
            client.create(vec![wall.clone()])?;
            acknowledged = begun.elapsed();
            Ok(())
        })?;
        client.delete(vec![wall])?;
        self.door().until_open()?;
        thread::sleep(REST);
        Ok(took.saturating_sub(acknowledged))
    }

    /// Ends the agent and starts another, until that is ready.
    pub fn restarted(&mut self) -> Result<Duration> {
        self.node.agent.stop()?;
        let begun = Instant::now();
        self.node.agent.start()?;
        self.node.wait_ready()?;
        Ok(begun.elapsed())
    }

    fn door(&self) -> Door<'_> {
        let (from, to) = (self.client.namespace(), self.server.namespace());
        Door { from, source: None, to, address: self.server.address() }
    }
}

fn client(cluster: &Cluster) -> Result<Client<'_>> {
    Client::open(cluster.outside(), &cluster.administrator().context("there is no API server")?)
}

fn wall() -> Result<Value> {
    serde_saphyr::from_str(WALL).context("the policy that refuses")
}

/// A pod elsewhere with as much in it as one from a chart has.
pub fn pod(number: usize) -> Value {
    let mut pod = Population::pod(number);
    let name = pod["metadata"]["name"].clone();
    let environment: Vec<_> = (0..12)
        .map(|number| json!({ "name": format!("SETTING_{number}"), "value": format!("value-of-setting-{number}") }))
        .collect();
    let probe = json!({ "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 10 });
    let mounts = json!([
        { "name": "settings", "mountPath": "/etc/settings" },
        { "name": "scratch", "mountPath": "/tmp" },
    ]);
    pod["metadata"]["annotations"] = json!({ "prometheus.io/scrape": "true", "prometheus.io/port": "9090" });
    pod["spec"]["containers"] = json!([{
        "name": "serve", "image": "registry.example/team/serve:1.2.3", "args": ["--listen", ":8080", "--verbose"],
        "env": environment, "livenessProbe": probe, "readinessProbe": probe, "volumeMounts": mounts,
        "ports": [{ "name": "http", "containerPort": 8080 }],
        "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
    }]);
    pod["spec"]["volumes"] = json!([
        { "name": "settings", "configMap": { "name": name } }, { "name": "scratch", "emptyDir": {} },
    ]);
    let address = pod["status"]["podIP"].clone();
    let condition = |kind| json!({ "type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    pod["status"] = json!({
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "startTime": "2026-01-01T00:00:00Z",
        "conditions": conditions,
    });
    pod
}
