//! The datastore that the settings name.
//! In: [`Datastore`]. Out: what agents share; and, read by a thread of its own, batches of updates.
//! Invariant: whatever it is, the first batch is everything that is there.
//! Never: takes a directory that is not there for an empty one: it would open every pod.

use crate::config::Datastore;
use anyhow::{Context as _, Result, bail};
use datastore::{Cluster, ClusterObjects, Connection, FileStore, Objects, Store, Updates, lease::Timing};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

/// What is wrong with its objects now.
pub type Problems = Box<dyn Fn() -> Vec<String> + Send>;

/// A datastore, not read yet.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory of manifests.
    Directory(PathBuf),
    /// An API server.
    Cluster(Connection),
}

impl Source {
    /// The one that is named.
    pub fn find(datastore: &Datastore) -> Result<Self> {
        match datastore {
            Datastore::Directory(dir) if !dir.is_dir() => {
                bail!("--datastore file:{}: there is no such directory; make it, or correct the path", dir.display())
            }
            Datastore::Directory(dir) => Ok(Self::Directory(dir.clone())),
            Datastore::Kubernetes(kubeconfig) => Ok(Self::Cluster(Connection::open(kubeconfig.as_deref())?)),
        }
    }

    /// What agents share.
    pub fn objects(&self) -> Result<Store> {
        Ok(match self {
            Self::Directory(dir) => Arc::new(Objects::open(dir)?),
            Self::Cluster(connection) => Arc::new(ClusterObjects::of(connection.clone())),
        })
    }

    /// How leases are timed there.
    pub fn timing(&self) -> Timing {
        match self {
            Self::Directory(_) => Timing::FAST,
            Self::Cluster(_) => Timing::SPARING,
        }
    }

    /// Begins to read it: the kernel checks programs meanwhile. The last good policies are kept in `last_good`.
    pub fn read(self, last_good: PathBuf) -> Result<JoinHandle<Result<(Problems, Updates)>>> {
        let read = move || self.opened(&last_good);
        thread::Builder::new().name("read".into()).spawn(read).context("reading the datastore")
    }

    fn opened(&self, last_good: &Path) -> Result<(Problems, Updates)> {
        let last_good = Some(last_good);
        Ok(match self {
            Self::Directory(dir) => {
                let (store, updates) = FileStore::open(dir, last_good)?;
                (Box::new(move || store.problems().iter().map(ToString::to_string).collect()), updates)
            }
            Self::Cluster(connection) => {
                let (cluster, updates) = Cluster::open(connection, last_good)?;
                (Box::new(move || cluster.problems().iter().map(ToString::to_string).collect()), updates)
            }
        })
    }
}
