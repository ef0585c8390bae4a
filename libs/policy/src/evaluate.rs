//! The reference evaluator: what Kubernetes says a NetworkPolicy means, said as slowly and plainly as possible.
//! In: everything known of the endpoints, the policies as written, and one flow. Out: both ends' judgements.
//! Invariant: reads policies, labels and addresses only; the specification that compiler and kernel are held against.
//! Never: uses rule sets, classes, rows or anything of the compiler.

use crate::{Decider, Verdict};
use model::{Cidr, Labels, NamedPort, NamespaceName, PodId, Policy, Protocol};
use std::{collections::BTreeMap, net::IpAddr};

/// A pod as a policy sees it. Host-network and finished pods are not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod.
    pub id: PodId,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
}

/// All that policies can refer to.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Namespaces and their labels.
    pub namespaces: BTreeMap<NamespaceName, Labels>,
    /// Pods with addresses.
    pub endpoints: Vec<Endpoint>,
    /// Policies, in any order.
    pub policies: Vec<Policy>,
    /// Addresses of this node: traffic from them to a local pod is always let in (NP-52).
    pub host: Vec<Cidr>,
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: Protocol,
    /// Destination port; for ICMP `type << 8 | code`; 0 for protocols without ports.
    pub detail: u16,
}

/// One end's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Yes or no.
    pub verdict: Verdict,
    /// Why.
    pub decider: Decider,
}

/// Both ends' answers; `None` where that end is no pod, or is let in as this node's own traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The source pod's egress policy.
    pub egress: Option<Judgement>,
    /// The destination pod's ingress policy; not asked where egress refuses.
    pub ingress: Option<Judgement>,
}

/// Judges a flow.
#[must_use]
pub fn evaluate(view: &View, flow: &Flow) -> Outcome {
    let _ = (view, flow);
    todo!()
}
