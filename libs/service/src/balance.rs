//! Frontends, and what stands behind each.
//! In: made by the rules of this crate. Out: values that tables are written from and that people read.
//! Invariant: lists are in order, each backend once; what is chosen is listed.
//! Never: a backend of the other family than its frontend.

use model::{Cidr, Protocol, ServiceId, ServicePortId};
use std::{fmt, net::IpAddr, sync::Arc};

/// Where packets reach a service: an address of it, a protocol, a port. Or a floating address: all of its protocols and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Where packets are sent to.
    pub address: IpAddr,
    /// TCP, UDP or SCTP; 0: any.
    pub protocol: Protocol,
    /// The port they are sent to; 0: any.
    pub port: u16,
}

impl Frontend {
    /// All protocols and ports of an address.
    #[must_use]
    pub const fn floating(address: IpAddr) -> Self {
        Self { address, protocol: Protocol(0), port: 0 }
    }
}

/// `10.96.0.1:443/TCP`, `[fd00::1]:443/TCP`; of a floating address `192.0.2.7`.
impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::floating(self.address) {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", std::net::SocketAddr::new(self.address, self.port), self.protocol)
    }
}

/// One backend: an address, mostly a pod's, and the port that it serves at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0: whichever was asked for.
    pub port: u16,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port == 0 {
            return self.address.fmt(f);
        }
        std::net::SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// The backends for packets from one side. Frontends of one service port that are served alike share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// New flows go to one of these.
    pub chosen: Arc<[Backend]>,
    /// All that slices list, unready and terminating ones too: flows to one of these live on, flows to any other are ended.
    pub listed: Arc<[Backend]>,
    /// None is chosen because those that serve are on other nodes, and the policy is Local: packets are dropped in silence, so
    /// that who sent them tries again. Where this is `false` and none is chosen they are refused with an answer.
    pub elsewhere: bool,
}

/// What a frontend is of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One of `clusterIPs`.
    ClusterIp,
    /// An address of this node at a `nodePort`.
    NodePort,
    /// One of `externalIPs`.
    ExternalIp,
    /// One of `status.loadBalancer.ingress`.
    LoadBalancer,
    /// An address of this node at the `hostPort` of a pod, which is the only backend. It is no service's: `of` names the pod and
    /// the port of the node.
    HostPort,
    /// An address that floats to a pod of this node, which is the only backend, at whichever port. `of` names the pod and the
    /// address.
    FloatingIp,
}

impl Kind {
    /// It is no service's, but one pod's.
    #[must_use]
    pub const fn is_pods(self) -> bool {
        matches!(self, Self::HostPort | Self::FloatingIp)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::HostPort => "HostPort",
            Self::FloatingIp => "FloatingIP",
        })
    }
}

/// What stands behind a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// For people and counters.
    pub of: ServicePortId,
    /// What the frontend is of its service.
    pub kind: Kind,
    /// Asked by pods and by this node.
    pub inside: Arc<Backends>,
    /// Asked by packets from outside; `None`: not reachable from there (ClusterIP).
    pub outside: Option<Arc<Backends>>,
    /// Packets from outside keep their source (externalTrafficPolicy Local): their backends are on this node.
    pub keeps_source: bool,
    /// New flows from outside find somebody by this node, whoever serves them.
    pub has_outside: bool,
    /// One client goes to one backend, until it has been silent for so many seconds.
    pub affinity_s: Option<u32>,
    /// Only these may ask; `None`: everybody (loadBalancerSourceRanges).
    pub sources: Option<Arc<[Cidr]>>,
    /// What pods open to it is left to a foreign proxy in the host's stack.
    pub by_host: bool,
}

impl Balance {
    /// What is sent to a host port goes to this pod, and to nobody else. `outside`: from there, too.
    #[must_use]
    pub fn of_host_port(of: ServicePortId, pod: Backend, outside: bool) -> Self {
        Self::of_pod(of, Kind::HostPort, pod, outside)
    }

    /// What is sent to a floating address goes to this pod, whoever asks.
    #[must_use]
    pub fn of_floating_ip(of: ServicePortId, pod: IpAddr) -> Self {
        Self::of_pod(of, Kind::FloatingIp, Backend { address: pod, port: 0 }, true)
    }

    fn of_pod(of: ServicePortId, kind: Kind, pod: Backend, outside: bool) -> Self {
        let one: Arc<[Backend]> = [pod].into();
        let inside = Arc::new(Backends { chosen: Arc::clone(&one), listed: one, elsewhere: false });
        Self {
            of,
            kind,
            outside: outside.then(|| Arc::clone(&inside)),
            inside,
            keeps_source: true,
            has_outside: outside,
            by_host: false,
            affinity_s: None,
            sources: None,
        }
    }

    /// Whether a service has it.
    #[must_use]
    pub fn is_of(&self, service: &ServiceId) -> bool {
        !self.kind.is_pods() && self.of.service == *service
    }

    /// Whether packets of one flow from outside may come to several nodes, which then should all send it to one backend. An
    /// address of this node's is asked nowhere else, and backends of this node alone are no others'.
    #[must_use]
    pub fn is_of_several_nodes(&self) -> bool {
        matches!(self.kind, Kind::ExternalIp | Kind::LoadBalancer) && !self.keeps_source
    }

    /// Whether new flows of this client are for any backend.
    #[must_use]
    pub fn lets_in(&self, client: IpAddr) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.iter().any(|range| range.contains(client)))
    }

    /// Those for either side.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backends>> {
        std::iter::once(&self.inside).chain(&self.outside)
    }
}
