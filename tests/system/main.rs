//! System tests: namespaces as nodes and pods, real sockets, the real agent and the real CNI binary.
//! In: the built programs. Out: what a user would see of them.
//! Invariant: each test has a cluster of its own, so tests run side by side and in any order.
//! Never: skips; without root or without the programs a test fails and says so.

mod addresses;
mod announced;
mod asked;
mod attach;
mod autodetected;
mod badinput;
mod beside_kube_proxy;
mod beside_kube_proxy_doors;
mod beside_kube_proxy_flows;
mod bgp;
mod capacity;
mod clean;
mod cni;
mod cni_storm;
mod cnitool;
mod containerd;
mod drift;
mod e2h;
mod explained;
mod floating;
mod flood;
mod foreign;
mod hep;
mod hep_explain;
mod hep_forward;
mod hep_layers;
mod hep_live;
mod hep_local;
mod hep_services;
mod host_ports;
mod ipam;
mod ipip;
mod kit;
mod masqueraded;
mod metrics;
mod neighbour;
mod nodes;
mod pod_cidrs;
mod policy_change;
mod policy_egress;
mod policy_ingress;
mod policy_language;
mod policy_log;
mod policy_ports;
mod policy_scope;
mod policy_services;
mod policy_staged;
mod pools;
mod reached;
mod restart;
mod restart_storm;
mod routed;
mod services;
mod services_change;
mod services_hosted;
mod services_outside;
mod services_ranges;
mod services_room;
mod services_shown;
mod services_sockets;
mod services_told;
mod sticky;
mod story;
mod tunnels;
mod way;
mod without_cgroup;

use anyhow::Result;

/// What every test here needs: it fails at once, and clearly, where this is missing.
fn need_root() -> Result<()> {
    anyhow::ensure!(rustix::process::getuid().is_root(), "system tests make network namespaces: run them as root");
    Ok(())
}
