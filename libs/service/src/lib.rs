//! Services: which backends stand behind which address and port. Pure.
//! In: a Service and its EndpointSlices. Out: [`Frontend`]s, each with its [`Balance`].
//! Invariant: kube-proxy's rules, and every list in order with each backend once.
//! Never: knows of maps or of packets; says what policy makes of a backend.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod balance;
mod choose;
mod health;
mod listed;
mod maglev;
mod remark;
mod serve;

pub use balance::{Backend, Backends, Balance, Frontend, Kind};
pub use health::HealthCheck;
pub use maglev::{maglev, places};
pub use remark::{About, Remark};
pub use serve::{Served, serve};

use model::NodeName;
use std::{collections::BTreeSet, net::IpAddr};

/// The node that packets have come to.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// Its name.
    pub node: &'a NodeName,
    /// Its zone, where its labels say one.
    pub zone: Option<&'a str>,
    /// Its addresses at which node ports are served.
    pub addresses: &'a BTreeSet<IpAddr>,
    /// A foreign proxy translates in the host's stack; all addresses of the node.
    pub by_host: Option<&'a BTreeSet<IpAddr>>,
}
