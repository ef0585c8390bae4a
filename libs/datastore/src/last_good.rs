//! The policies in force, and what they are made of, written down: a restart of the agent opens nothing that a broken
//! manifest should protect.
//! In: the policies, tiers, network sets, services, endpoint slices and profiles in force after each change. Out: at the next start, each one's file and last good document.
//! Invariant: a record is whole or not there (temporary file, fsync, rename) and lies under its policy's own name.
//! Never: makes a change of policy wait for the disk; gives up the folder for one of its files.

use crate::{
    Problem,
    convert::{Converted, convert},
    parallel,
};
use model::{Resource, ResourceKey};
use serde_json::Value;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Beside the folders of records, which all have a dot inside their names and none in front.
const TEMPORARY: &str = ".new";

/// One policy's last good document.
#[derive(Clone, Debug)]
pub(crate) struct Record<'a> {
    /// The manifest that gave it, within the datastore's directory.
    pub(crate) file: Cow<'a, str>,
    /// The object as JSON.
    pub(crate) document: &'a str,
}

impl Record<'_> {
    /// What a record is compared by: there may be tens of thousands.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.file, self.document).hash(&mut hasher);
        hasher.finish()
    }
}

/// The folder.
#[derive(Debug)]
pub(crate) struct LastGood {
    dir: PathBuf,
    /// Records that are there, by digest.
    kept: BTreeMap<ResourceKey, u64>,
    /// Objects whose record may not be what it should be.
    pending: BTreeSet<ResourceKey>,
    /// Those whose record could not be written: tried again after the next change.
    failed: BTreeSet<ResourceKey>,
    problems: BTreeMap<PathBuf, Problem>,
}

/// What the records stood for when they were read.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// Policies, and what they are made of.
    pub(crate) objects: BTreeMap<ResourceKey, Resource>,
    /// Which of them each manifest gave.
    pub(crate) given: BTreeMap<String, Vec<ResourceKey>>,
}

impl LastGood {
    /// Reads the folder, made if it is not there, and the policies that its records stand for.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Restored)> {
        fs::create_dir_all(dir)?;
        let mut this = Self {
            dir: dir.to_owned(),
            kept: BTreeMap::new(),
            pending: BTreeSet::new(),
            failed: BTreeSet::new(),
            problems: BTreeMap::new(),
        };
        let mut restored = Restored::default();
        for folder in entries(dir)?.into_iter().filter(|path| path.is_dir()) {
            match entries(&folder) {
                Ok(files) => {
                    let found = parallel::computed(&files, |file| read(file));
                    files.iter().zip(found).for_each(|(file, found)| this.take_in(file, found, &mut restored));
                }
                Err(error) => this.complain(&folder, &format!("cannot be listed: {error}")),
            }
        }
        Ok((this, restored))
    }

    fn take_in(&mut self, path: &Path, found: Result<Found, String>, restored: &mut Restored) {
        let found = found.and_then(|(file, document, resource)| {
            let key = resource.key();
            let is_its_own = self.path(&key).as_deref() == Some(path);
            let found = (key, file, document, resource);
            if is_its_own { Ok(found) } else { Err(format!("does not belong here: it is {}", found.0)) }
        });
        match found {
            Ok((key, file, document, resource)) => {
                self.kept.insert(key.clone(), Record { file: file.as_str().into(), document: &document }.digest());
                restored.objects.insert(key.clone(), resource);
                restored.given.entry(file).or_default().push(key);
            }
            Err(reason) => self.complain(path, &reason),
        }
    }

    /// Something about these objects has changed.
    pub(crate) fn plan(&mut self, touched: &BTreeSet<ResourceKey>) {
        self.pending.extend(touched.iter().filter(|key| folder(key).is_some()).cloned());
        self.pending.append(&mut self.failed);
        // What somebody has put right by removing it. A record that cannot be written is tried again below.
        self.problems.retain(|path, _| path.symlink_metadata().is_ok());
    }

    /// Whether [`Self::step`] has something to do.
    pub(crate) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes or removes one record, if it is not as it should be. `good`: the object as it can be read now; `in_force`:
    /// whether it is. What fails is reported, and tried again after the next change.
    pub(crate) fn step<'a>(
        &mut self,
        good: impl FnOnce(&ResourceKey) -> Option<Record<'a>>,
        in_force: impl FnOnce(&ResourceKey) -> bool,
    ) {
        let Some(key) = self.pending.pop_first() else { return };
        let Some(path) = self.path(&key) else { return };
        let record = good(&key);
        let digest = record.as_ref().map(Record::digest);
        let done = match &record {
            Some(_) if self.kept.get(&key) == digest.as_ref() => return,
            Some(record) => self.write(&path, record),
            None if !self.kept.contains_key(&key) || in_force(&key) => return,
            None => remove(&path),
        };
        match (done, digest) {
            (Err(error), _) => {
                self.complain(&path, &format!("cannot be written: {error}"));
                self.failed.insert(key);
            }
            (Ok(()), digest) => {
                self.problems.remove(&path);
                match digest {
                    Some(digest) => self.kept.insert(key, digest),
                    None => self.kept.remove(&key),
                };
            }
        }
    }

    /// All that is wrong with the folder.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values()
    }

    fn path(&self, key: &ResourceKey) -> Option<PathBuf> {
        folder(key).map(|(folder, name)| self.dir.join(folder).join(name))
    }

    fn write(&self, path: &Path, record: &Record<'_>) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.dir);
        if !folder.is_dir() {
            fs::create_dir_all(folder)?;
            sync(&self.dir)?;
        }
        let temporary = self.dir.join(TEMPORARY);
        let mut file = File::create(&temporary)?;
        file.write_all(print(record).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync(folder)
    }

    fn complain(&mut self, path: &Path, reason: &str) {
        let message = format!(
            "{reason}; the object that this path names would count as absent after a restart while its manifest cannot \
             be read; remove what stands here, or make room for it"
        );
        let problem = Problem { file: path.to_owned(), line: None, object: None, message };
        self.problems.insert(path.to_owned(), problem);
    }
}

/// The folder and the name that an object is kept under: `KIND.NAMESPACE`. `None`: it is not kept. Names of objects are
/// checked on reading: no slash, no leading dot, and short enough to name a file.
pub(crate) fn folder(key: &ResourceKey) -> Option<(String, &str)> {
    match key {
        ResourceKey::Policy(id) => Some((format!("{}.{}", id.kind, id.namespace), &id.name)),
        ResourceKey::Tier(name) => Some(("Tier.".to_owned(), &name.0)),
        ResourceKey::Profile(name) => Some(("Profile.".to_owned(), name)),
        ResourceKey::Service(id) => Some((format!("Service.{}", id.namespace), &id.name)),
        ResourceKey::ServiceAddresses(id) => Some((format!("ServiceAddresses.{}", id.namespace), &id.name)),
        ResourceKey::EndpointSlice(id) => Some((format!("EndpointSlice.{}", id.namespace), &id.name)),
        ResourceKey::NetworkSet(id) => {
            let folder =
                id.namespace.as_ref().map_or("GlobalNetworkSet.".to_owned(), |name| format!("NetworkSet.{name}"));
            Some((folder, &id.name))
        }
        ResourceKey::HostEndpoint(name) => Some(("HostEndpoint.".to_owned(), name)),
        ResourceKey::FelixConfiguration(name) => Some(("FelixConfiguration.".to_owned(), name)),
        ResourceKey::BgpConfiguration(name) => Some(("BGPConfiguration.".to_owned(), name)),
        ResourceKey::BgpPeer(name) => Some(("BGPPeer.".to_owned(), name)),
        ResourceKey::BgpFilter(name) => Some(("BGPFilter.".to_owned(), name)),
        ResourceKey::Pod(_)
        | ResourceKey::Namespace(_)
        | ResourceKey::Node(_)
        | ResourceKey::ServiceAccount(..)
        | ResourceKey::IpPool(_)
        | ResourceKey::IpReservation(_)
        | ResourceKey::IpamConfig(_)
        | ResourceKey::BlockClaim(_)
        | ResourceKey::WorkloadAddress(_)
        | ResourceKey::NodeVteps(_)
        | ResourceKey::NodeAddresses(_) => None,
    }
}

/// A record's file, its document, and what that says.
type Found = (String, String, Resource);

fn print(record: &Record<'_>) -> String {
    format!("{{\"file\": {}, \"object\": {}}}\n", Value::from(&*record.file), record.document)
}

fn read(path: &Path) -> Result<Found, String> {
    parse(&fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?)
}

pub(crate) fn parse(text: &str) -> Result<Found, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not a record of a policy: {error}"))?;
    let (Some(file), Some(object)) = (value.get("file").and_then(Value::as_str), value.get("object")) else {
        return Err("not a record of a policy: \"file\" or \"object\" is missing".to_owned());
    };
    match convert(object) {
        Converted::Known { resource, .. } => Ok((file.to_owned(), object.to_string(), resource)),
        Converted::Refused { error, .. } | Converted::Nameless { error } => Err(error.to_string()),
        Converted::NotEnforced { object: kind, .. } | Converted::Foreign { kind } => {
            Err(format!("{kind} is not kept here"))
        }
    }
}

/// The folder of a namespace goes with its last policy. A removal that a crash undoes is done again at the next start.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match path.parent().map(fs::remove_dir) {
        Some(Err(error)) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
