//! The test kit: nodes and pods as network namespaces, real sockets, the real binaries.
//! In: what a test wants to stand. Out: things that stand, and what their packets met.
//! Invariant: whatever the kit made is gone when its owner is dropped, also when a test fails.
//! Never: links against what it tests; it sees processes, sockets and interfaces, as a user does.

pub mod agent;
pub mod apiserver;
pub mod bare;
pub mod binaries;
pub mod bird;
pub mod cgroup;
pub mod cluster;
pub mod containerd;
pub mod control_plane;
pub mod etcd;
pub mod expect;
pub mod fabric;
pub mod flood;
pub mod flow;
pub mod frame;
pub mod image;
pub mod kube_proxy;
pub mod kubelet;
pub mod netns;
pub mod node;
pub mod places;
pub mod pod;
pub mod probe;
pub mod process;
pub mod raw;
pub mod routed;
pub mod runtime;
pub mod scrape;
pub mod seed;
pub mod server;
pub mod steady;
pub mod subnets;
pub mod tcx;
pub mod traffic;
pub mod wait;
pub mod way;

pub use agent::Agent;
pub use bare::BarePair;
pub use binaries::Binaries;
pub use cluster::Cluster;
pub use control_plane::ControlPlane;
pub use etcd::Etcd;
pub use expect::Table;
pub use fabric::Fabric;
pub use kubelet::Kubelet;
pub use netns::NetNs;
pub use node::{Node, NodeSpec};
pub use pod::{Pod, PodSpec};
pub use probe::{Outcome, Probe};
pub use scrape::Scrape;
pub use server::Servers;
