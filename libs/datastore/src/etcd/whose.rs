//! Whose objects came into force here: an etcd that begins anew lacks every policy, and has a name of its own.
//! In: the cluster's name as ClusterInformation says it (`clusterGUID`). Out: whether it is another's; the name in a file, over restarts.
//! Invariant: nothing of another cluster comes into force before somebody has said that it is meant, by `tortie forget-cluster`.
//! Never: takes a file that cannot be read for none.

use crate::durable::{File, replace_all};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Beside the last good policies.
const FILE: &str = "cluster";

/// The cluster that is known.
#[derive(Debug, Default)]
pub(super) struct Whose {
    /// `None`: it is not written down.
    file: Option<PathBuf>,
    known: Option<String>,
    /// Why it is not written down.
    unwritten: Option<String>,
}

impl Whose {
    /// The one that is written down in this folder.
    pub(super) fn remembered(folder: &Path) -> io::Result<Self> {
        let file = folder.join(FILE);
        let known = match fs::read_to_string(&file) {
            Ok(text) => Some(text.trim().to_owned()).filter(|name| !name.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { file: Some(file), known, unwritten: None })
    }

    /// Whether this is another one's.
    pub(super) fn is_another(&self, said: Option<&str>) -> bool {
        self.known.as_deref().is_some_and(|known| said.is_some_and(|said| said != known))
    }

    /// The objects of this one come into force.
    pub(super) fn take(&mut self, said: &str) {
        if self.known.is_some() && self.unwritten.is_none() {
            return;
        }
        let known = self.known.get_or_insert_with(|| said.to_owned());
        let Some(path) = &self.file else { return };
        let file = File { path: path.clone(), text: format!("{known}\n").into_bytes(), lasts: true };
        let written = replace_all(&[file]);
        self.unwritten = written.err().map(|(path, error)| format!("{}: {error}", path.display()));
    }

    /// What keeps an agent that starts from knowing it.
    pub(super) fn trouble(&self) -> Option<String> {
        let why = self.unwritten.as_ref()?;
        Some(format!(
            "clusterGUID cannot be written down: {why}; an agent that starts would take another cluster's objects for these"
        ))
    }
}

/// Takes back whose objects came into force, where the last good policies are kept, for an agent that starts. False: nothing was written
/// down.
///
/// # Errors
/// The file cannot be removed.
pub fn forget_cluster(last_good: &Path) -> io::Result<bool> {
    match fs::remove_file(last_good.join(FILE)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
