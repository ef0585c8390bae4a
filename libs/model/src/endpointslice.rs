//! EndpointSlices: who stands behind a service, and at which ports.
//! In: EndpointSlices of `discovery.k8s.io/v1`. Out: the service each is of, its endpoints and its ports.
//! Invariant: every endpoint has every port of its slice, and all its addresses are of one family.
//! Never: a port without a number; what stands behind a service by its name alone.

use crate::{NamespaceName, NodeName, Protocol, ServiceId};
use std::{fmt, net::IpAddr};

/// What names a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointSliceId {
    /// Its namespace.
    pub namespace: NamespaceName,
    /// Its name.
    pub name: String,
}

impl fmt::Display for EndpointSliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointSlice {}/{}", self.namespace, self.name)
    }
}

/// Some of the endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub id: EndpointSliceId,
    /// The service it is of; `None`: it is of none.
    pub service: Option<ServiceId>,
    /// Its endpoints, as they were written.
    pub endpoints: Box<[SliceEndpoint]>,
    /// The ports at which each of them serves, as they were written.
    pub ports: Box<[SlicePort]>,
    /// Another service proxy takes care of it, or it is of a headless service: no packets are sent its way. Policies see it
    /// all the same.
    pub unproxied: bool,
}

/// Where and how one serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its first address, to which packets for the service go.
    pub address: IpAddr,
    /// Further addresses: policies see them too.
    pub others: Box<[IpAddr]>,
    /// Whether it takes new flows.
    pub ready: bool,
    /// Whether it still answers, though it may be about to go.
    pub serving: bool,
    /// Whether it is about to go.
    pub terminating: bool,
    /// Where it runs, if anybody said.
    pub node: Option<NodeName>,
    /// For whom it is meant, if anybody said.
    pub hints: Option<Box<Hints>>,
}

/// For whom an endpoint is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Nodes of these zones; empty: nothing was said of zones.
    pub zones: Vec<String>,
    /// These nodes; empty: nothing was said of nodes.
    pub nodes: Vec<NodeName>,
}

/// A port of every endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    /// The name of the service's port that it stands behind; empty: that port has none.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

impl EndpointSlice {
    /// Every address of every endpoint. For policies one that is not ready, or about to go, counts as any other
    /// (felix/serviceindex).
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().flat_map(|end| std::iter::once(end.address).chain(end.others.iter().copied()))
    }

    /// Protocol and number of every port.
    pub fn numbers(&self) -> impl Iterator<Item = (Protocol, u16)> {
        self.ports.iter().map(|port| (port.protocol, port.port))
    }
}

impl SliceEndpoint {
    /// One that is ready, of which nothing else is known.
    #[must_use]
    pub fn ready_at(address: IpAddr) -> Self {
        Self { address, others: [].into(), ready: true, serving: true, terminating: false, node: None, hints: None }
    }
}
