//! What the cluster says: a directory of manifests, an API server or etcd, read, converted and watched; and objects that agents share.
//! In: `DIR/*.yaml` and `DIR/.tortie/KIND/NAME.yaml`. Out: batches of [`model::Update`], and [`Problem`]s for people.
//! Invariant: what cannot be read leaves its last good revision in force and is reported.
//! Never: decides what a policy means; blocks without a bound.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bgp;
pub mod calendar;
mod catalog;
pub mod census;
mod cluster;
mod convert;
pub mod crds;
mod document;
pub mod durable;
mod etcd;
mod fresh;
pub mod given;
pub mod hosts;
mod interfaces;
mod known;
mod last_good;
pub mod lease;
mod node_addresses;
mod node_status;
pub mod objects;
mod parallel;
mod problem;
pub mod settings;
mod shared;
pub mod snapshot;
mod standing;
mod vtep;
mod watch;
mod workload;
mod yaml;

pub use catalog::Catalog;
pub use cluster::{
    Cluster, ClusterObjects, ConnectError, Connection, Machine, Mirror, MirrorStanding, MirrorTold, Remark, Report,
    Teller,
};
pub use convert::parameters;
pub use etcd::{Etcd, EtcdConnection, EtcdError, EtcdObjects, EtcdSettings, forget_cluster};
pub use interfaces::NodeInterfaces;
pub use node_status::StatusRequest;
pub use objects::{Metadata, Object, ObjectError, Objects};
pub use problem::Problem;
pub use shared::{Described, Lack, Passwords, Shared, Store};
pub use vtep::vtep_mac;
pub use watch::{Batch, FileStore, OpenError, Updates};

/// The policy that a record of last good policies stands for.
///
/// # Errors
/// The text is no such record.
pub fn last_good_policy(record: &str) -> Result<model::Resource, String> {
    last_good::parse(record).map(|(_, _, resource)| resource)
}
