//! What a pod, or its namespace, asks of its addresses.
//! In: Calico's annotations, read. Out: values, and what could not be read.
//! Invariant: what could not be read is said; whoever attaches the pod refuses it then.
//! Never: decides whether it can be had.

use crate::{Cidr, Family, Mac};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

/// What is asked for (Calico cni-plugin/pkg/k8s/k8s.go).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodAsks {
    /// `ipAddrs`: exactly these, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// `ipAddrsNoIpam`: exactly these, at most one a family, whether a pool has them or not.
    pub named: Vec<IpAddr>,
    /// `ipv4pools`, `ipv6pools`: of these alone, by name or network.
    pub pools: BTreeMap<Family, Vec<String>>,
    /// `ipFamilies`: one of each; empty: nobody said.
    pub families: Vec<Family>,
    /// `hwAddr`: the MAC of its own interface.
    pub mac: Option<Mac>,
    /// `allowedSourcePrefixes`: source addresses beside its own by which it sends.
    pub sources: Vec<Cidr>,
    /// Whether its addresses outlive it, as far as that is said.
    pub keeps: Keeps,
    /// Which annotation cannot be served, and why.
    pub refused: Option<String>,
}

/// What is said of whether a pod's addresses are held for it once it is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// `tortie.dev/sticky-address`, of the pod or its namespace.
    pub asked: Option<bool>,
    /// `tortie.dev/sticky-for`, likewise: for so long.
    pub held: Option<Duration>,
    /// It is of a StatefulSet: there is none of its name but it.
    pub is_stateful: bool,
    /// It is of this virtual machine of KubeVirt, whose pods have another name each time.
    pub machine: Option<String>,
}

impl PodAsks {
    /// With what the namespace asks for its pods, where the pod says nothing itself.
    #[must_use]
    pub fn or(mut self, namespace: Option<&PodAsks>) -> Self {
        let Some(namespace) = namespace else { return self };
        for (family, pools) in &namespace.pools {
            self.pools.entry(*family).or_insert_with(|| pools.clone());
        }
        self.keeps.asked = self.keeps.asked.or(namespace.keeps.asked);
        self.keeps.held = self.keeps.held.or(namespace.keeps.held);
        self.refused = self.refused.or_else(|| namespace.refused.clone());
        self
    }
}
