//! Objects that several agents share: `DIR/.tortie/KIND/NAME.yaml`, changed only by compare-and-swap.
//! In: [`Object`]s with the resource version each was read at. Out: as written, or [`ObjectError::Conflict`].
//! Invariant: a file is whole at every moment; two writers never both win; what is remembered of a file counts only while its
//! text is the same; what is not in [`FORGETTABLE`] outlives a crash of the machine.
//! Never: waits for the lock without a bound; overwrites what it has not seen.

use crate::{
    durable::{self, File as Fresh},
    lease, workload, yaml,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The directory inside the datastore's that holds shared objects.
pub(crate) const SHARED: &str = ".tortie";
/// Kinds that need not outlive a crash of the machine: what a handle holds the blocks say too, and a node tells of its pods
/// again when its agent starts. An empty file of them is what the crash left of it: none. Heartbeats of leases are written anew
/// all the time, too.
const FORGETTABLE: [&str; 2] = ["IPAMHandle", workload::KIND];
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(2);

/// A shared object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// Such as `crd.projectcalico.org/v1`.
    pub api_version: String,
    /// Such as `IPAMBlock`.
    pub kind: String,
    /// Name and version.
    pub metadata: Metadata,
    /// Everything else.
    pub spec: Value,
}

/// Name and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Unique within the kind.
    pub name: String,
    /// The version that was read. `None` on write: the object must not exist yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl FromStr for Object {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value = yaml::parse(text).map_err(|error| error.to_string())?;
        serde_json::from_value(value).map_err(|error| error.to_string())
    }
}

/// Why a shared object was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Somebody else was first: read it again and decide anew.
    #[error("{kind} {name}: written by another agent meanwhile (wanted version {wanted}, found {found})")]
    Conflict {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
        /// What the writer had read.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// The lock was held too long.
    #[error("{path}: still locked after {waited:?}; find its holder with `fuser {path}`")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// What is stored cannot be read.
    #[error("{path}: not a readable object: {reason}; restore it from a backup, or remove the file")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A kind or name that is no file name.
    #[error("{0:?} cannot name an object: use letters, digits, '-', '_', ':' and '.', not first, at most 240 bytes")]
    InvalidName(String),
    /// The API server, or etcd, refuses, cannot be reached, or says nothing.
    #[error("{kind} {name}: the server {server} was asked in vain: {reason}")]
    Server {
        /// The server.
        server: String,
        /// The kind.
        kind: String,
        /// The name; none: all of the kind.
        name: String,
        /// What it says.
        reason: String,
    },
    /// The object cannot be written as YAML.
    #[error("{kind} {name}: {reason}")]
    Unprintable {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The shared objects of one datastore directory. Cheap to clone; every clone and every process sees the same.
#[derive(Clone, Debug)]
pub struct Objects {
    root: PathBuf,
    /// What was read or written last, by path: reading YAML takes longer than reading the file.
    known: Arc<Mutex<BTreeMap<PathBuf, Known>>>,
}

/// A file's text and what it says.
#[derive(Debug)]
struct Known {
    text: String,
    object: Object,
}

impl Objects {
    /// The shared objects of datastore directory `dir`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(dir: &Path) -> Result<Self, ObjectError> {
        let root = dir.join(SHARED);
        fs::create_dir_all(&root).map_err(|source| io_error(&root, source))?;
        Ok(Self { root, known: Arc::default() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// One object, if it is there.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn get(&self, kind: &str, name: &str) -> Result<Option<Object>, ObjectError> {
        self.read(&self.path(kind, name)?)
    }

    /// All objects of a kind, by name.
    ///
    /// # Errors
    /// The directory or one of the objects cannot be read: a list with a hole is no list.
    pub fn list(&self, kind: &str) -> Result<Vec<Object>, ObjectError> {
        let dir = self.root.join(checked(kind)?);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io_error(&dir, source)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| io_error(&dir, source))?.path();
            if is_object_file(&path) {
                paths.push(path);
            }
        }
        paths.sort();
        self.known().retain(|path, _| path.parent() != Some(&*dir) || paths.binary_search(path).is_ok());
        paths.iter().filter_map(|path| self.read(path).transpose()).collect()
    }

    /// Writes an object: a new one if it carries no resource version, else only over exactly that version.
    /// Returns it with its new version.
    ///
    /// # Errors
    /// [`ObjectError::Conflict`] if somebody else was first; else the file system or the lock refused.
    pub fn write(&self, object: &Object) -> Result<Object, ObjectError> {
        self.write_all(std::slice::from_ref(object)).map(|mut written| written.remove(0))
    }

    /// As [`Objects::write`], several at once: in this order, so that a crash leaves a beginning of the list; waiting for
    /// the disk once.
    ///
    /// # Errors
    /// [`ObjectError::Conflict`] if somebody else was first with one of them: then none is written.
    pub fn write_all(&self, objects: &[Object]) -> Result<Vec<Object>, ObjectError> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let _locks = self.locks(objects.iter().map(|object| &*object.kind))?;
        let mut written = Vec::with_capacity(objects.len());
        let mut files: Vec<Fresh> = Vec::with_capacity(objects.len());
        for object in objects {
            let path = self.path(&object.kind, &object.metadata.name)?;
            // One that comes twice was not read at the version that the first gives it.
            let twice = files.iter().position(|other| other.path == path).map(|at: usize| &written[at]);
            let found = if twice.is_some() { version_of(twice) } else { version_of(self.read(&path)?.as_ref()) };
            require_version(&object.kind, &object.metadata.name, object.metadata.resource_version.as_deref(), &found)?;
            let mut fresh = object.clone();
            fresh.metadata.resource_version = Some(next_version(found.as_deref()));
            let lasts = !is_forgettable(&path);
            files.push(Fresh { path, text: text_of(&fresh)?.into_bytes(), lasts });
            written.push(fresh);
        }
        self.replace(files, &written)?;
        Ok(written)
    }

    fn replace(&self, files: Vec<Fresh>, written: &[Object]) -> Result<(), ObjectError> {
        for dir in files.iter().filter_map(|file| file.path.parent()) {
            fs::create_dir_all(dir).map_err(|source| io_error(dir, source))?;
        }
        durable::replace_all(&files).map_err(|(path, source)| ObjectError::Io { path, source })?;
        let mut known = self.known();
        for (Fresh { path, text, .. }, object) in files.into_iter().zip(written) {
            if let Ok(text) = String::from_utf8(text) {
                known.insert(path, Known { text, object: object.clone() });
            }
        }
        Ok(())
    }

    /// Removes an object; with `version`, only if it still has that one. False if it was not there.
    ///
    /// # Errors
    /// [`ObjectError::Conflict`] if somebody else changed it; else the file system or the lock refused.
    pub fn delete(&self, kind: &str, name: &str, version: Option<&str>) -> Result<bool, ObjectError> {
        let path = self.path(kind, name)?;
        let _locks = self.locks([kind].into_iter())?;
        if let Some(wanted) = version {
            let Some(object) = self.read(&path)? else { return Ok(false) };
            require_version(kind, name, Some(wanted), &version_of(Some(&object)))?;
        }
        self.known().remove(&path);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(io_error(&path, source)),
        }
    }

    fn path(&self, kind: &str, name: &str) -> Result<PathBuf, ObjectError> {
        Ok(self.root.join(checked(kind)?).join(format!("{}.yaml", checked(name)?)))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, path: &Path) -> Result<Option<Object>, ObjectError> {
        let text = match fs::read_to_string(path) {
            Ok(text) if text.is_empty() && is_forgettable(path) => return Ok(None),
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error(path, source)),
        };
        if let Some(known) = self.known().get(path).filter(|known| known.text == text) {
            return Ok(Some(known.object.clone()));
        }
        let corrupt = |reason| ObjectError::Corrupt { path: path.to_owned(), reason };
        let object: Object = text.parse().map_err(corrupt)?;
        self.known().insert(path.to_owned(), Known { text, object: object.clone() });
        Ok(Some(object))
    }

    /// Leases have a lock of their own: who renews one must not wait for those who wait for the disk.
    fn locks<'a>(&self, mut kinds: impl Iterator<Item = &'a str> + Clone) -> Result<Vec<File>, ObjectError> {
        let others = kinds.clone().any(|kind| kind != lease::KIND).then(|| self.lock(".lock"));
        let leases = kinds.any(|kind| kind == lease::KIND).then(|| self.lock(".lock-of-leases"));
        others.into_iter().chain(leases).collect()
    }

    /// The lock is the file's description: it is given back when the returned file is dropped, or the process dies.
    pub(crate) fn lock(&self, name: &str) -> Result<File, ObjectError> {
        let path = self.root.join(name);
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(|source| io_error(&path, source))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => return Err(io_error(&path, source)),
                Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_WAIT => {
                    return Err(ObjectError::Locked { path, waited: LOCK_WAIT });
                }
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_POLL),
            }
        }
    }
}

/// By the folder that it lies in, and its name.
fn is_forgettable(path: &Path) -> bool {
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (kind, name) = (part(path.parent().and_then(Path::file_name)), part(path.file_name()));
    FORGETTABLE.contains(&&*kind) || lease::is_heartbeat(&kind, &name)
}

/// Whether a directory entry is an object and not a temporary file, a lock or an editor's copy.
pub(crate) fn is_object_file(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    !hidden && path.extension().is_some_and(|extension| extension == "yaml")
}

pub(crate) fn checked(name: &str) -> Result<&str, ObjectError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let valid = !name.is_empty() && name.len() <= 240 && !name.starts_with('.') && name.chars().all(allowed);
    if valid { Ok(name) } else { Err(ObjectError::InvalidName(name.to_owned())) }
}

/// The version of what is there; an object written by hand without one has version "0".
fn version_of(object: Option<&Object>) -> Option<String> {
    object.map(|object| object.metadata.resource_version.clone().unwrap_or_else(|| "0".to_owned()))
}

fn require_version(kind: &str, name: &str, wanted: Option<&str>, found: &Option<String>) -> Result<(), ObjectError> {
    if wanted == found.as_deref() {
        return Ok(());
    }
    let say = |version: Option<&str>| version.unwrap_or("none").to_owned();
    Err(ObjectError::Conflict {
        kind: kind.to_owned(),
        name: name.to_owned(),
        wanted: say(wanted),
        found: say(found.as_deref()),
    })
}

/// Larger than the one before, and not met again when an object is deleted and made anew: nanoseconds of the clock.
fn next_version(found: Option<&str>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let last: u128 = found.and_then(|version| version.parse().ok()).unwrap_or(0);
    now.max(last.saturating_add(1)).to_string()
}

fn text_of(object: &Object) -> Result<String, ObjectError> {
    let unprintable =
        |reason| ObjectError::Unprintable { kind: object.kind.clone(), name: object.metadata.name.clone(), reason };
    yaml::print(object).map_err(unprintable)
}

fn io_error(path: &Path, source: io::Error) -> ObjectError {
    ObjectError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
