//! World -> Desired: from what the cluster says to what this node's kernel should hold. Pure, synchronous, no clock.
//! In: updates, attachments and observations. Out: [`Desired`].
//! Invariant: Desired is a function of the present World; how it came about leaves no trace.
//! Never: does I/O; produces a Desired before every watched kind has delivered its first full list.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod autodetection;
mod bgp;
mod blocks;
pub mod desired;
mod doubled;
mod floating;
mod host;
mod host_ports;
mod index;
mod ipip;
mod lifeline;
pub mod live;
mod masquerade;
mod node_ports;
mod node_routes;
mod pod_cidrs;
pub mod query;
mod remark;
pub mod resolve;
mod serve;
mod sources;
mod surroundings;
pub mod trial;
mod tunnel;
mod workload;
pub mod world;

pub use bgp::Bgp;
pub use desired::{
    AddressSpec, Desired, EndpointSpec, HostEndpointSpec, IpipSpec, Judges, Neighbour, NodeRoute, NodeSpec, Owner,
    TunnelEnd, TunnelSpec, Unroutable,
};
pub use live::{Latest, Live, Touched};
pub use masquerade::Masquerading;
pub use node_ports::NodePortAddresses;
pub use pod_cidrs::PodCidrs;
pub use query::Status;
pub use resolve::desired;
pub use trial::{Comparison, Difference, HostDifference, Trial, compare};
pub use world::{InSync, World};
