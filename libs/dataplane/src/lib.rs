//! Makes the kernel equal to what the calculation wants: tables, programs, links, routes, neighbours.
//! In: a complete `calc::Desired`, again and again. Out: what is in force, what failed, and readings of the tables.
//! Invariant: nothing in use is edited; one word puts a commit in force; a failed item does not stop its siblings.
//! Never: decides what is wanted; touches a route, link or neighbour that is not recognisably ours.
#![warn(missing_docs)]

mod accounts;
pub mod announced;
mod bpf;
mod cgroup;
mod clsact;
mod conntrack;
mod counts;
mod dataplane;
mod drift;
mod ends;
pub mod error;
mod frame;
mod gauges;
mod gratuitous;
pub mod growth;
pub mod heap;
mod host;
mod laps;
mod links;
mod masquerade;
mod network;
mod packet_log;
mod passage;
mod pins;
pub mod platform;
mod policy_log;
mod programs;
pub mod question;
mod reconcile;
mod report;
mod sockets;
mod sources;
mod staged;
pub mod tables;
mod tcx;
mod tracked;
mod twin;
mod uplink;
mod usage;

pub use announced::Announced;
pub use cgroup::Cgroup;
pub use counts::ServiceCounts;
pub use dataplane::{Applied, Commit, Dataplane, Options, cleanup};
pub use drift::{Drift, DriftKind, Extent, Looked};
pub use error::{ApplyError, CleanupError, OpenError, ReportError, TwinError};
pub use gauges::{Gauges, MapGauge};
pub use gratuitous::Caller;
pub use host::{NODE_ROUTE_PROTOCOL, is_pods};
pub use laps::Laps;
pub use masquerade::Standing;
pub use platform::{Attach, AttachedBy, Platform};
pub use question::{GateAnswer, Origin, Question, SOURCE_PORT, TwinAnswer};
pub use sockets::Sockets;
pub use staged::Tried;
pub use tables::{SizeError, Sizes, StoreError};
pub use tracked::{Gate, TrackedFlow};
pub use usage::{Filled, Usage, usages};
