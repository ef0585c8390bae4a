//! A place: a node with pods, in a cluster of pods and policies.
//! In: how many of each. Out: a server and a client of its own, and a visitor from another node.
//! Invariant: every object is a file of its own, as an API server holds it, so that a change rewrites nothing else.
//! Never: more than one agent.

use crate::{
    door::Door,
    manifests::{self, Population},
    progress,
    setups::started,
};
use ::tests::{Binaries, Cluster, Fabric, Node, NodeSpec, Pod, PodSpec, netns::STEM, traffic::PORT};
use anyhow::{Context as _, Result};
use std::{net::IpAddr, process};

/// The visitor's address: no node's, and in no pool.
const VISITOR: [u8; 4] = [10, 127, 0, 1];

/// It stands.
pub struct Place {
    pub population: Population,
    // Dropped in this order: the pods' DEL needs the agent.
    pods: Vec<Pod>,
    pub node: Node,
    pub cluster: Cluster,
}

impl Place {
    /// `stem` tells its namespaces from those of others in this run.
    pub fn create(stem: &str, population: Population, laps: bool, binaries: &Binaries) -> Result<Self> {
        let cluster = Cluster::with_stem(&format!("{STEM}{}-{stem}", process::id()), binaries.clone())?;
        cluster.manifest("pools", &::tests::cluster::pools(23, 119))?;
        for name in population.namespaces() {
            cluster.namespace(&name, &[])?;
            cluster.manifest(&format!("account-{name}"), &manifests::account(&name).to_string())?;
        }
        progress(&format!("{stem}: {} pods, {} policies", population.pods(), population.policies));
        for number in 0..population.pods() {
            cluster.manifest(&format!("pod-{number}"), &Population::pod(number).to_string())?;
        }
        for number in 0..population.policies {
            cluster.manifest(&format!("policy-{number}"), &population.policy(number).to_string())?;
        }
        let node = started(&cluster, NodeSpec::new(1), laps.then_some(stem))?;
        let mut place = Self { population, pods: Vec::new(), node, cluster };
        for local in 0..population.locals {
            progress(&format!("{stem}: pod {local} of {}", population.locals));
            let pod = place.node.pod(&place.cluster, &place.local(local, "open"))?;
            place.pods.push(pod);
        }
        place.open()?;
        place.visitor("open")?;
        Fabric::route(place.cluster.outside(), place.server().address(), 1)?;
        place.cluster.outside().ip(&[&format!("address add {}/32 dev br0", IpAddr::from(VISITOR))])?;
        place.here().until_open()?;
        place.elsewhere().until_open()?;
        Ok(place)
    }

    /// In words.
    pub fn name(&self) -> String {
        let Population { policies, locals, .. } = self.population;
        let pods = self.population.pods() + locals;
        format!("{pods} pods, {locals} of them here; {policies} policies")
    }

    /// Its agent's process.
    pub fn agent(&self) -> Result<u32> {
        self.node.agent.pid().context("the agent has ended")
    }

    fn server(&self) -> &Pod {
        &self.pods[0]
    }

    /// From the client here to the server.
    pub fn here(&self) -> Door<'_> {
        let (from, to) = (self.pods[1].namespace(), self.server());
        Door { from, source: None, to: to.namespace(), address: to.address() }
    }

    /// From a pod of another node to the server, over the uplink.
    pub fn elsewhere(&self) -> Door<'_> {
        let (from, to) = (self.cluster.outside(), self.server());
        Door { from, source: Some(VISITOR.into()), to: to.namespace(), address: to.address() }
    }

    /// A pod here; the second is the client.
    fn local(&self, number: usize, door: &str) -> PodSpec {
        let app = self.population.app_of_local(number);
        let name = format!("{}/local{number}", Population::namespace(app));
        let pod = PodSpec::new(&name).silent().label("app", &format!("a{app}"));
        if number == 1 { pod.label("door", door) } else { pod }
    }

    /// Labels the client.
    pub fn client(&self, door: &str) -> Result<()> {
        self.cluster.pod_manifest(&self.local(1, door), self.node.name())
    }

    /// Labels the visitor.
    pub fn visitor(&self, door: &str) -> Result<()> {
        let visitor = PodSpec::new(&format!("{}/visitor", Population::namespace(0))).silent().label("door", door);
        let mut manifest = visitor.manifest("other0");
        manifest["status"] = serde_json::json!({ "podIP": IpAddr::from(VISITOR) });
        self.cluster.manifest("visitor", &manifest.to_string())
    }

    /// Writes the policy that lets both in.
    pub fn open(&self) -> Result<()> {
        self.door_at(PORT)
    }

    /// Writes it for another port.
    pub fn shut(&self) -> Result<()> {
        self.door_at(PORT + 1)
    }

    fn door_at(&self, port: u16) -> Result<()> {
        let policy = manifests::door(&Population::namespace(0), "local0", port);
        self.cluster.manifest("door", &policy.to_string())
    }
}
