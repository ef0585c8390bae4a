//! A node with host endpoints: its own servers, a host outside, pods, and manifests of Calico's kinds.
//! In: manifests that come and go. Out: tables between the node, its pods and the outside host.
//! Invariant: the outside host knows the way to every pod; nothing here refuses by itself.
//! Never: waits for a change by time.

use crate::story::{Story, story_on};
use anyhow::{Result, ensure};
use std::{net::IpAddr, panic::resume_unwind, thread};
use tests::{
    Fabric, NetNs, NodeSpec, Outcome, Pod,
    Probe::{self, Tcp},
    Servers, Table,
    expect::Actor,
    fabric::{OUTSIDE_V4, OUTSIDE_V6},
    probe::probe,
    server::Listen,
    wait::{PATIENCE, wait_until},
};

/// TCP ports that the node and the outside host serve. Of these 22 is failsafe inwards, 2379 and 6443 both ways.
const PORTS: [u16; 6] = [22, 80, 81, 2379, 6443, 8055];

/// The node, its pods and the world around.
pub struct Gate<'a> {
    pub s: &'a mut Story,
    _servers: [Servers; 2],
}

/// Runs a test on a node with these pods, and servers on the node and outside.
pub fn gate(pods: &[&str], test: impl FnOnce(&mut Gate<'_>) -> Result<()>) -> Result<()> {
    gate_on(NodeSpec::new(1), pods, test)
}

/// The same, on a node of another make.
pub fn gate_on(spec: NodeSpec, pods: &[&str], test: impl FnOnce(&mut Gate<'_>) -> Result<()>) -> Result<()> {
    story_on(spec, pods, |s| {
        let ports: Vec<_> = PORTS.map(Listen::Tcp).into_iter().chain([Listen::Udp(53), Listen::Udp(80)]).collect();
        let servers = [
            Servers::start(s.node.namespace(), "node1", &ports)?,
            Servers::start(s.cluster.outside(), "outside", &ports)?,
        ];
        for address in s.pods.values().flat_map(Pod::addresses) {
            Fabric::route(s.cluster.outside(), *address, 1)?;
        }
        test(&mut Gate { s, _servers: servers })
    })
}

impl Gate<'_> {
    /// Writes a HostEndpoint of this node, labelled `host: NAME`; `spec` without braces and node.
    pub fn host_endpoint(&self, name: &str, spec: &str) -> Result<()> {
        self.s.cluster.manifest(&format!("hep-{name}"), &host_endpoint(name, spec))
    }

    /// Takes one away.
    pub fn drop_host_endpoint(&self, name: &str) -> Result<()> {
        self.s.cluster.remove(&format!("hep-{name}"))
    }

    /// Writes a GlobalNetworkPolicy.
    pub fn global(&self, name: &str, spec: &str) -> Result<()> {
        self.s.cluster.manifest(&format!("global-{name}"), &object("GlobalNetworkPolicy", name, spec))
    }

    /// Takes one away.
    pub fn drop_global(&self, name: &str) -> Result<()> {
        self.s.cluster.remove(&format!("global-{name}"))
    }

    /// Writes the FelixConfiguration of all nodes.
    pub fn felix(&self, spec: &str) -> Result<()> {
        self.s.cluster.manifest("felix", &object("FelixConfiguration", "default", spec))
    }

    /// Waits until the pods, `node1` and `outside` reach each other as the table says.
    pub fn expect(&self, what: Probe, table: &str) -> Result<()> {
        Table::parse(table)?.expect(&self.actors()?, what)
    }

    /// Looks once.
    pub fn expect_now(&self, what: Probe, table: &str) -> Result<()> {
        let wrong = Table::parse(table)?.differences(&self.actors()?, what)?;
        ensure!(wrong.is_empty(), "{wrong}");
        Ok(())
    }

    fn actors(&self) -> Result<Vec<Actor<'_>>> {
        let outside = Actor {
            name: "outside".to_owned(),
            namespace: self.s.cluster.outside(),
            addresses: [OUTSIDE_V4, OUTSIDE_V6].map(str::parse).into_iter().collect::<Result<_, _>>()?,
        };
        Ok(self.s.pods.values().map(Pod::actor).chain([self.s.node.actor(), outside]).collect())
    }

    /// Ports of the node that the outside host reaches, and of the outside host that the node reaches, over both families.
    pub fn open_ports(&self) -> Result<[Vec<u16>; 2]> {
        let (node, outside) = (self.s.node.namespace(), self.s.cluster.outside());
        let away: Vec<IpAddr> = [OUTSIDE_V4, OUTSIDE_V6].map(str::parse).into_iter().collect::<Result<_, _>>()?;
        let own = self.s.node.addresses();
        Ok([ports_open(outside, &own)?, ports_open(node, &away)?])
    }

    /// Waits until exactly these ports are open: of the node, and of the outside host.
    pub fn expect_ports(&self, inwards: &[u16], outwards: &[u16]) -> Result<()> {
        let mut last = Default::default();
        let came = wait_until(&format!("ports {inwards:?} open inwards, {outwards:?} outwards"), PATIENCE, || {
            last = self.open_ports()?;
            Ok(last == [inwards.to_vec(), outwards.to_vec()])
        });
        came.map_err(|error| error.context(format!("seen last: {last:?}")))
    }

    /// The row of a host endpoint's layer in `show hostendpoints`.
    pub fn row(&self, interface: &str, layer: &str) -> Result<serde_json::Value> {
        let rows = self.s.node.show("hostendpoints")?;
        let rows = rows.as_array().cloned().unwrap_or_default();
        let found = rows.into_iter().find(|row| row["interface"] == interface && row["layer"] == layer);
        Ok(found.unwrap_or_default())
    }

    /// Waits until a host endpoint is in force on this interface, or none is there.
    pub fn wait_in_force(&self, interface: &str, is_there: bool) -> Result<()> {
        wait_until(&format!("a host endpoint in force on {interface}: {is_there}"), PATIENCE, || {
            let row = self.row(interface, "local")?;
            Ok(if is_there { row["inForce"] == true } else { row.is_null() })
        })
    }
}

/// Which ports answer, at any of these addresses.
fn ports_open(from: &NetNs, to: &[IpAddr]) -> Result<Vec<u16>> {
    let asked: Vec<_> = PORTS.iter().flat_map(|port| to.iter().map(move |to| (*port, *to))).collect();
    let answers = thread::scope(|scope| {
        let probes: Vec<_> = asked.iter().map(|(port, to)| scope.spawn(move || probe(from, *to, Tcp(*port)))).collect();
        let answers = probes.into_iter().map(|probe| probe.join().unwrap_or_else(|panic| resume_unwind(panic)));
        answers.collect::<Result<Vec<_>>>()
    })?;
    let is_open = |port: &u16| {
        let mut of_port = asked.iter().zip(&answers).filter(|((asked, _), _)| asked == port);
        of_port.any(|(_, outcome)| *outcome == Outcome::Allowed)
    };
    Ok(PORTS.into_iter().filter(is_open).collect())
}

/// An object of `projectcalico.org/v3` without a namespace.
pub fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{ name: '{name}' }}\nspec: {spec}\n")
}

/// A HostEndpoint of node1.
pub fn host_endpoint(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {{ name: '{name}', labels: {{ host: '{name}' }} }}\n\
         spec: {{ node: node1, {spec} }}\n"
    )
}
