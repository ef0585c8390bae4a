//! Services, as far as policies ask for them: who stands behind one, and at which ports.
//! In: EndpointSlices of `discovery.k8s.io/v1`. Out: the service each is of, its addresses and its ports.
//! Invariant: every address has every port of its slice; one that is not ready, or about to go, counts as any other
//! (felix/serviceindex).
//! Never: the addresses that a service itself has: policies are asked of who is behind them.

use crate::{NamespaceName, Protocol};
use std::{fmt, net::IpAddr};

/// A service: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Addresses of endpoints, each once, in order.
    pub addresses: Vec<IpAddr>,
    /// The ports at which each of them serves, in order.
    pub ports: Vec<(Protocol, u16)>,
}
