//! The kernel's own: two nodes that route, wrap or masquerade without any rule or program.
//! In: what lies between the ends. Out: a way from a pod of one node to a pod of the other, or to a host outside.
//! Invariant: VXLAN as Calico sets it up: static forwarding entries and neighbours, on-link routes.
//! Never: filters.

use super::Part;
use crate::setups::{Setup, wire};
use ::tests::{
    Fabric, NetNs, fabric,
    netns::{STEM, run},
    traffic::Way,
};
use anyhow::{Result, bail};
use std::{net::IpAddr, path::Path, process};

/// What VXLAN takes of the uplink's 1500 bytes over IPv4.
const VXLAN_MTU: u32 = 1450;

/// Two nodes on one segment, a pod on each.
pub struct Kernel {
    name: &'static str,
    is_outside: bool,
    pods: [NetNs; 2],
    _nodes: [NetNs; 2],
    fabric: Fabric,
}

impl Kernel {
    pub fn create(name: &'static str, part: Part, which: &str) -> Result<Self> {
        let stem = format!("{STEM}{}-{which}-{}", process::id(), part.name());
        let fabric = Fabric::create(&stem)?;
        let nodes = [NetNs::create(&stem, "node1")?, NetNs::create(&stem, "node2")?];
        let pods = [NetNs::create(&stem, "pod1")?, NetNs::create(&stem, "pod2")?];
        for (number, (node, pod)) in (1..).zip(nodes.iter().zip(&pods)) {
            fabric.join(node, number)?;
            wire(node, pod, number)?;
            node.sysctl("ipv4/ip_forward", "1")?;
            match part {
                Part::Direct => lead(node, 3 - number)?,
                Part::Vxlan => wrap(node, pod, number)?,
                Part::Nat => masquerade(node)?,
                Part::Ipip => bail!("the kernel's own IPIP is not measured: not every kernel has it"),
            }
        }
        Ok(Self { name, is_outside: part == Part::Nat, pods, _nodes: nodes, fabric })
    }
}

impl Setup for Kernel {
    fn name(&self) -> &'static str {
        self.name
    }

    fn way(&self) -> Way<'_> {
        let [client, server] = &self.pods;
        if self.is_outside {
            return to_outside(client, &self.fabric);
        }
        Way::direct(client, server, [10, 98, 0, 2].into())
    }
}

/// From a pod to the host outside.
pub fn to_outside<'a>(client: &'a NetNs, fabric: &'a Fabric) -> Way<'a> {
    let address: IpAddr = fabric::OUTSIDE_V4.parse().expect("because the text is an address");
    Way::direct(client, fabric.outside(), address)
}

fn lead(node: &NetNs, other: u8) -> Result<()> {
    let [v4, _] = fabric::addresses(other);
    node.ip(&[&format!("route add 10.98.0.{other}/32 via {v4}")])
}

fn wrap(node: &NetNs, pod: &NetNs, number: u8) -> Result<()> {
    let other = 3 - number;
    let ([own, _], [remote, _]) = (fabric::addresses(number), fabric::addresses(other));
    let mac = |number: u8| format!("66:00:00:00:00:0{number}");
    node.ip(&[
        &format!("link add vxlan.calico type vxlan id 4096 dstport 4789 local {own} dev eth0 nolearning"),
        &format!("link set vxlan.calico address {} mtu {VXLAN_MTU} up", mac(number)),
        &format!("address add 10.98.1.{number}/32 dev vxlan.calico"),
        &format!("neighbour add 10.98.1.{other} lladdr {} dev vxlan.calico nud permanent", mac(other)),
        &format!("route add 10.98.0.{other}/32 via 10.98.1.{other} dev vxlan.calico onlink"),
    ])?;
    let forward = ["fdb", "add", &mac(other), "dev", "vxlan.calico", "dst", &remote];
    run(node.command(Path::new("bridge"))?.args(forward))?;
    node.ip(&[&format!("link set pod{number} mtu {VXLAN_MTU}")])?;
    pod.ip(&[&format!("link set eth0 mtu {VXLAN_MTU}")])
}

fn masquerade(node: &NetNs) -> Result<()> {
    let rules = "add table ip nat; add chain ip nat out { type nat hook postrouting priority srcnat; }; \
                 add rule ip nat out oifname eth0 masquerade";
    run(node.command(Path::new("nft"))?.arg(rules)).map(drop)
}
