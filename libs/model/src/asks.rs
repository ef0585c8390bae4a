//! What a pod, or its namespace, asks of its addresses.
//! In: Calico's annotations, read. Out: values, and what could not be read.
//! Invariant: what could not be read is said; whoever attaches the pod refuses it then.
//! Never: decides whether it can be had.

use crate::{Cidr, Family, Mac};
use std::{collections::BTreeMap, net::IpAddr};

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
    /// Which annotation cannot be served, and why.
    pub refused: Option<String>,
}

impl PodAsks {
    /// With what the namespace asks for its pods, where the pod says nothing itself.
    #[must_use]
    pub fn or(mut self, namespace: Option<&PodAsks>) -> Self {
        let Some(namespace) = namespace else { return self };
        for (family, pools) in &namespace.pools {
            self.pools.entry(*family).or_insert_with(|| pools.clone());
        }
        self.refused = self.refused.or_else(|| namespace.refused.clone());
        self
    }
}
