//! Services: where one is reached, and how who reaches it is spread over who stands behind it.
//! In: a `v1` Service. Out: addresses, ports and the choices that its writer made.
//! Invariant: no two ports of a service share protocol and number, name, or node port.
//! Never: who stands behind it; slices say that (`endpointslice.rs`).

use crate::{Cidr, NamespaceName, PodId, Protocol};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, sync::Arc};

/// A service: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceId {
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A port of a service: `namespace/name:port`, or `namespace/name` where its only port has no name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortId {
    /// The service.
    pub service: ServiceId,
    /// The port's name; empty: it has none.
    pub port: String,
}

impl ServicePortId {
    /// Names what leads to one pod beside services: its name in the place of a service's.
    #[must_use]
    pub fn of_pod(PodId { namespace, name }: &PodId, port: String) -> Self {
        Self { service: ServiceId { namespace: namespace.clone(), name: name.to_string() }, port }
    }
}

impl fmt::Display for ServicePortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.port.is_empty() { "" } else { ":" };
        write!(f, "{}{separator}{}", self.service, self.port)
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub id: ServiceId,
    /// When it was made.
    pub created: Created,
    /// What it is.
    pub kind: ServiceKind,
    /// Its own addresses, at most one of each family; empty: it has none, or none yet.
    pub cluster_ips: Vec<IpAddr>,
    /// Further addresses that somebody brings to the nodes.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of load balancers that leave them as the destination of what they send on; of others none.
    pub load_balancer: Vec<IpAddr>,
    /// What it asks of whoever gives addresses to load balancers; `None`: it is none, or its status says where it is.
    pub request: Option<Arc<BalancerRequest>>,
    /// Who may ask a load balancer's address; empty: everybody.
    pub source_ranges: Vec<Cidr>,
    /// Its ports.
    pub ports: Box<[ServicePort]>,
    /// One client goes to one backend, until it has been silent for so many seconds.
    pub affinity_s: Option<u32>,
    /// Which backends those inside the cluster get.
    pub internal: TrafficPolicy,
    /// Which backends those outside get.
    pub external: TrafficPolicy,
    /// What who writes its slices was asked to hint at.
    pub distribution: Option<Distribution>,
    /// Where load balancers ask whether this node has backends.
    pub health_check_port: Option<u16>,
    /// Another service proxy takes care of it.
    pub unproxied: bool,
}

/// What a service of type LoadBalancer asks of whoever gives it addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BalancerRequest {
    /// `metadata.uid`; empty: it has none.
    pub uid: String,
    /// `spec.loadBalancerClass`; `None`: whoever is there.
    pub class: Option<String>,
    /// Exactly these addresses; empty: any.
    pub addresses: Vec<IpAddr>,
    /// Only of these pools, by name or network; empty: of any that gives by itself.
    pub pools: Vec<String>,
    /// What it asks cannot be read: nothing is given until it can.
    pub unread: Option<String>,
}

/// The addresses that an agent gave a service, as its load balancer's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAddresses {
    /// The service.
    pub service: ServiceId,
    /// They are read as `status.loadBalancer.ingress`, where that says nothing.
    pub addresses: Vec<IpAddr>,
    /// What it asked for and cannot have.
    #[serde(default)]
    pub remarks: Vec<String>,
}

impl Service {
    /// One of which nothing more is said: without addresses and ports.
    #[must_use]
    pub fn bare(id: ServiceId, kind: ServiceKind) -> Self {
        Self {
            id,
            created: Created::UNKNOWN,
            kind,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer: Vec::new(),
            request: None,
            source_ranges: Vec::new(),
            ports: [].into(),
            affinity_s: None,
            internal: TrafficPolicy::Cluster,
            external: TrafficPolicy::Cluster,
            distribution: None,
            health_check_port: None,
            unproxied: false,
        }
    }

    /// Whether it is a load balancer of which nobody has said an address.
    #[must_use]
    pub fn awaits_addresses(&self) -> bool {
        self.request.is_some() && self.load_balancer.is_empty()
    }
}

/// What a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKind {
    /// It has addresses inside the cluster.
    ClusterIp,
    /// And ports at every node's addresses.
    NodePort,
    /// And addresses of a load balancer.
    LoadBalancer,
    /// Its clients find its backends by name.
    Headless,
    /// It is another name for something elsewhere.
    ExternalName,
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::Headless => "Headless",
            Self::ExternalName => "ExternalName",
        })
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty: it has none.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
    /// Its number at the nodes' addresses.
    pub node_port: Option<u16>,
}

/// Which backends a packet may go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// Those of any node.
    #[default]
    Cluster,
    /// Those of the node that the packet has come to.
    Local,
}

impl fmt::Display for TrafficPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        })
    }
}

/// `spec.trafficDistribution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distribution {
    /// The former name of `PreferSameZone`.
    PreferClose,
    /// Backends of the client's zone first.
    PreferSameZone,
    /// Backends of the client's node first, then those of its zone.
    PreferSameNode,
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreferClose => "PreferClose",
            Self::PreferSameZone => "PreferSameZone",
            Self::PreferSameNode => "PreferSameNode",
        })
    }
}

/// When an object was made, as the API server writes it: `2026-11-26T01:55:00Z`. One that does not say counts as the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Created(u64);

impl Default for Created {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

impl Created {
    /// Nobody said when.
    pub const UNKNOWN: Self = Self(u64::MAX);

    /// From `metadata.creationTimestamp`; what is not of that form is not known.
    #[must_use]
    pub fn read(text: &str) -> Self {
        const FORM: &[u8] = b"0000-00-00T00:00:00Z";
        let fits = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
        if text.len() != FORM.len() || !text.as_bytes().iter().zip(FORM).all(fits) {
            return Self::UNKNOWN;
        }
        let digits = text.bytes().filter(u8::is_ascii_digit);
        Self(digits.fold(0, |number, digit| 10 * number + u64::from(digit - b'0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_comes_first_and_one_that_does_not_say_last() {
        let at = Created::read;
        assert!(at("2025-12-31T23:59:59Z") < at("2026-01-01T00:00:00Z"));
        for unknown in ["", "2026-01-01T00:00:00+01:00", "2026-01-01T00:00:0xZ", "yesterday", "2026-01-01T00:00:00ü"] {
            assert_eq!(at(unknown), Created::UNKNOWN, "{unknown}");
        }
        assert!(at("9999-12-31T23:59:59Z") < Created::UNKNOWN);
    }

    #[test]
    fn a_port_without_a_name_is_named_by_its_service_alone() {
        let service = ServiceId { namespace: "shop".into(), name: "web".into() };
        let of = |port: &str| ServicePortId { service: service.clone(), port: port.into() }.to_string();
        assert_eq!([of(""), of("http")], ["shop/web", "shop/web:http"]);
    }
}
