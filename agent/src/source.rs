//! The datastore that the settings name.
//! In: [`Datastore`]. Out: what agents share; and, read by a thread of its own, batches of updates.
//! Invariant: whatever it is, the first batch is everything that is there.
//! Never: takes a directory that is not there for an empty one: it would open every pod.

use crate::{boot, config::Datastore};
use anyhow::{Context as _, Result, bail};
use datastore::{
    Cluster, ClusterObjects, Connection, Etcd, EtcdConnection, EtcdObjects, FileStore, Machine, Objects, Store, Teller,
    Updates, lease::Timing,
};
use model::NodeName;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

/// What is wrong with its objects now.
pub type Problems = Box<dyn Fn() -> Vec<String> + Send>;

/// Why there are no more updates.
pub type Ended = Box<dyn Fn() -> String + Send>;

/// What is read.
pub struct Opened {
    /// What is wrong with it.
    pub problems: Problems,
    /// Batches of updates.
    pub updates: Updates,
    /// Why there are no more.
    pub ended: Ended,
    /// Who tells it what becomes of it on this node; a directory and etcd are told nothing.
    pub teller: Option<Teller>,
}

/// A datastore, not read yet.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory of manifests.
    Directory(PathBuf),
    /// An API server, and its mirror.
    Cluster(Connection, Option<EtcdConnection>),
    /// etcd, and the API server that knows the pods and the services.
    Etcd(EtcdConnection, Option<Connection>),
}

impl Source {
    /// The one that is named.
    pub fn find(datastore: &Datastore) -> Result<Self> {
        match datastore {
            Datastore::Directory(dir) if !dir.is_dir() => {
                bail!("--datastore file:{}: there is no such directory; make it, or correct the path", dir.display())
            }
            Datastore::Directory(dir) => Ok(Self::Directory(dir.clone())),
            Datastore::Kubernetes(kubeconfig, mirror) => {
                let mirror = mirror.clone().map(EtcdConnection::open).transpose()?;
                Ok(Self::Cluster(Connection::open(kubeconfig.as_deref())?, mirror))
            }
            Datastore::Etcd(settings, kubeconfig) => {
                let cluster = kubeconfig.as_deref().map(|path| Connection::open(Some(path))).transpose()?;
                Ok(Self::Etcd(EtcdConnection::open(settings.clone())?, cluster))
            }
        }
    }

    /// What agents share.
    pub fn objects(&self) -> Result<Store> {
        Ok(match self {
            Self::Directory(dir) => Arc::new(Objects::open(dir)?),
            Self::Cluster(connection, _) => Arc::new(ClusterObjects::of(connection.clone())),
            Self::Etcd(etcd, cluster) => Arc::new(EtcdObjects::of(etcd.clone(), cluster.clone())),
        })
    }

    /// How leases are timed there.
    pub fn timing(&self) -> Timing {
        match self {
            Self::Directory(_) => Timing::FAST,
            Self::Cluster(..) | Self::Etcd(..) => Timing::SPARING,
        }
    }

    /// Whether namespaces are what profiles tell there: one without a profile lets nothing through.
    pub fn tells_profiles(&self) -> bool {
        matches!(self, Self::Etcd(..))
    }

    /// Writes that it was asked for, by what is written.
    pub fn writes(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Directory(_) => Vec::new(),
            Self::Cluster(connection, _) => connection.writes().collect(),
            Self::Etcd(etcd, cluster) => {
                let mut all: BTreeMap<_, u64> = etcd.writes().collect();
                for (what, count) in cluster.iter().flat_map(Connection::writes) {
                    *all.entry(what).or_default() += count;
                }
                all.into_iter().collect()
            }
        }
    }

    /// Begins to read it for `node`: the kernel checks programs meanwhile. The last good policies are kept in `last_good`.
    pub fn read(self, node: NodeName, last_good: PathBuf) -> Result<JoinHandle<Result<Opened>>> {
        let read = move || self.opened(&node, &last_good);
        thread::Builder::new().name("read".into()).spawn(read).context("reading the datastore")
    }

    fn opened(&self, node: &NodeName, last_good: &Path) -> Result<Opened> {
        let last_good = Some(last_good);
        Ok(match self {
            Self::Directory(dir) => {
                let (store, updates) = FileStore::open(dir, last_good)?;
                let problems = Box::new(move || store.problems().iter().map(ToString::to_string).collect());
                Opened { problems, updates, ended: Box::new(watch_ended), teller: None }
            }
            Self::Cluster(connection, mirror) => {
                let machine = Machine { node: node.clone(), boot: boot::number() };
                let (cluster, updates) = Cluster::open(connection, &machine, mirror.as_ref(), last_good)?;
                let (teller, cluster) = (Some(cluster.teller()), Arc::new(cluster));
                let theirs = Arc::clone(&cluster);
                let ended = Box::new(move || theirs.refused().unwrap_or_else(watch_ended));
                let problems = Box::new(move || cluster.problems().iter().map(ToString::to_string).collect());
                Opened { problems, updates, ended, teller }
            }
            Self::Etcd(connection, cluster) => {
                let (etcd, updates) = Etcd::open(connection, cluster.as_ref(), last_good)?;
                let problems = Box::new(move || etcd.problems().iter().map(ToString::to_string).collect());
                Opened { problems, updates, ended: Box::new(watch_ended), teller: None }
            }
        })
    }
}

fn watch_ended() -> String {
    "the datastore's watch has ended".to_owned()
}
