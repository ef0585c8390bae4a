//! Cyclonus' cases: NetworkPolicies of every shape in one small cluster, and what Kubernetes says of each flow in it.
//! In: the family of addresses. Out: 230 cases of one or more steps, each with its tags.
//! Invariant: as many cases of each kind as Cyclonus has (CYC-1); expected verdicts owe nothing to the code under test.
//! Never: a probe; who holds something against the cases does that.

mod cases;
mod cluster;
mod meaning;
mod overlays;
mod written;

pub use cases::{Case, EXCLUDED, Kind, TAGS, allowing_dns, cases};
pub use cluster::{Change, Cluster, NAMESPACE_NAME, PORTS, PROTOCOLS, address};
pub use overlays::overlays;
pub use written::{Action, Allow, ClusterNetworkPolicy, Decide, Name, NetworkPolicy, Number, Peer, Port, Wanted};
