//! The directory as a datastore: listed once, then watched.
//! In: saves, renames and removals in `DIR` and `DIR/.tortie/WorkloadAddress`. Out: batches of updates.
//! Invariant: the first batch is everything that is there and ends with `InSync`; a batch is never sent half.
//! Never: reads a file while it is written (a save counts when the file is closed); waits for time to pass.

use crate::{Problem, catalog::Catalog, objects::SHARED, workload};
use model::Update;
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
};

/// Changes that belong together: apply them all before calculating.
pub type Batch = Vec<Update>;
/// Where batches arrive. It closes when the [`FileStore`] is dropped.
pub type Updates = Receiver<Batch>;

/// A larger file is not read; its objects keep their last good revision.
const FILE_MAX: u64 = 64 << 20;
/// So often a file may be renamed while it is being read.
const RENAMES_MAX: usize = 100;
/// Batches that may wait. While the reader is slow, changes gather in the set of touched paths instead.
const BATCHES_MAX: usize = 16;

/// Why a directory cannot be a datastore.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot be used as a datastore: {reason}; it must be a directory that this agent may read and write")]
pub struct OpenError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// A watched directory. Dropping it ends the watch.
#[derive(Debug)]
pub struct FileStore {
    problems: Arc<Mutex<Vec<Problem>>>,
    _watcher: RecommendedWatcher,
}

impl FileStore {
    /// Lists `dir`, and watches it from then on.
    ///
    /// # Errors
    /// The directory cannot be read or watched, or its `.tortie` cannot be made.
    pub fn open(dir: &Path) -> Result<(Self, Updates), OpenError> {
        let failed = |reason: String| OpenError { path: dir.to_owned(), reason };
        let dirs = [dir.to_owned(), dir.join(SHARED).join(workload::KIND)];
        fs::read_dir(dir).map_err(|error| failed(error.to_string()))?;
        fs::create_dir_all(&dirs[1]).map_err(|error| failed(error.to_string()))?;

        let (wake, woken) = mpsc::sync_channel(1);
        let touched = Arc::new(Mutex::new(Touched::default()));
        let watcher = watch(&dirs, Arc::clone(&touched), wake).map_err(|error| failed(error.to_string()))?;

        let problems = Arc::new(Mutex::new(Vec::new()));
        let (send, updates) = mpsc::sync_channel(BATCHES_MAX);
        let mut reader = Reader::new(dirs, Arc::clone(&problems));
        let first = reader.first().map_err(|error| failed(error.to_string()))?;
        send.send(first).expect("the channel is empty and its receiver is here");
        let run = move || reader.run(&touched, &woken, &send);
        thread::Builder::new().name("datastore".into()).spawn(run).map_err(|error| failed(error.to_string()))?;
        Ok((Self { problems, _watcher: watcher }, updates))
    }

    /// All that is wrong with the manifests now, by file and line.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What happened since the reader last looked: at most one entry a file, however often it was touched.
#[derive(Debug, Default)]
struct Touched {
    paths: BTreeSet<PathBuf>,
    /// The kernel dropped events: everything must be listed again.
    all: bool,
}

fn watch(
    dirs: &[PathBuf; 2],
    touched: Arc<Mutex<Touched>>,
    wake: SyncSender<()>,
) -> Result<RecommendedWatcher, notify::Error> {
    let mut watcher = notify::recommended_watcher(move |event: Result<Event, notify::Error>| {
        let mut touched = touched.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(event) if event.need_rescan() => touched.all = true,
            Ok(event) => touched.paths.extend(event.paths.iter().filter(|path| counts(&event.kind, path)).cloned()),
            Err(error) => {
                tracing::warn!(%error, "watching the datastore directory: listing it again");
                touched.all = true;
            }
        }
        // A full channel already says that there is something to look at.
        let _ = wake.try_send(());
    })?;
    for dir in dirs {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Whether the file is whole after this event. One that was just created is not, unless it is a link to one that is.
fn counts(kind: &EventKind, path: &Path) -> bool {
    let is_link = || path.symlink_metadata().is_ok_and(|found| found.is_symlink() || found.nlink() > 1);
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => true,
        EventKind::Create(_) => is_link(),
        _ => false,
    }
}

/// Whether a path is a manifest and not a temporary file or an editor's copy.
fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().map(|extension| extension.to_string_lossy());
    !hidden && extension.is_some_and(|extension| ["yaml", "yml", "json"].contains(&&*extension))
}

/// A file's inode and text; `None`: it is not there.
type Reading = io::Result<Option<(u64, String)>>;

struct Reader {
    dirs: [PathBuf; 2],
    catalog: Catalog,
    /// Which file each path was when it was read: so a rename is seen as one change.
    inodes: BTreeMap<PathBuf, u64>,
    unlisted: Option<Problem>,
    problems: Arc<Mutex<Vec<Problem>>>,
}

impl Reader {
    fn new(dirs: [PathBuf; 2], problems: Arc<Mutex<Vec<Problem>>>) -> Self {
        Self { dirs, catalog: Catalog::default(), inodes: BTreeMap::new(), unlisted: None, problems }
    }

    fn first(&mut self) -> io::Result<Batch> {
        let everything = Touched { paths: BTreeSet::new(), all: true };
        self.readings(everything)?.into_iter().for_each(|(path, reading)| self.take_in(&path, reading));
        let mut batch = self.catalog.changes();
        batch.push(Update::InSync);
        self.tell_problems();
        Ok(batch)
    }

    /// Until the store or the receiver is dropped.
    fn run(mut self, touched: &Mutex<Touched>, woken: &Receiver<()>, send: &SyncSender<Batch>) {
        while woken.recv().is_ok() {
            let now = std::mem::take(&mut *touched.lock().unwrap_or_else(PoisonError::into_inner));
            match self.readings(now) {
                Ok(readings) => {
                    self.unlisted = None;
                    readings.into_iter().for_each(|(path, reading)| self.take_in(&path, reading));
                }
                Err(error) => {
                    self.cannot_list(&error);
                    touched.lock().unwrap_or_else(PoisonError::into_inner).all = true;
                }
            }
            let batch = self.catalog.changes();
            self.tell_problems();
            if !batch.is_empty() && send.send(batch).is_err() {
                return;
            }
        }
    }

    /// What the touched manifests say. A file that is gone here and new there was renamed: both sides belong into one
    /// batch. A directory that cannot be listed says nothing about its files.
    fn readings(&self, touched: Touched) -> io::Result<BTreeMap<PathBuf, Reading>> {
        let mut paths: BTreeSet<PathBuf> = touched.paths.into_iter().filter(|path| is_manifest(path)).collect();
        if touched.all {
            paths.extend(self.inodes.keys().cloned());
        }
        for _ in 0..RENAMES_MAX {
            let readings: BTreeMap<_, _> = paths.iter().map(|path| (path.clone(), text_of(path))).collect();
            // Listed after reading, so that what was renamed meanwhile is seen, too.
            let listed = self.listed()?;
            let missed = |path: &PathBuf, inode: &u64| {
                touched.all && !readings.contains_key(path) || self.is_renamed(&readings, path, *inode)
            };
            let again: Vec<PathBuf> =
                listed.into_iter().filter(|(path, inode)| missed(path, inode)).map(|(path, _)| path).collect();
            if again.is_empty() {
                return Ok(readings);
            }
            paths.extend(again);
        }
        Err(io::Error::other("its files are renamed faster than they can be read"))
    }

    /// Whether the file that one of `readings` found gone now stands at `path` and was not read there.
    fn is_renamed(&self, readings: &BTreeMap<PathBuf, Reading>, path: &Path, inode: u64) -> bool {
        let is_here = matches!(readings.get(path), Some(Ok(Some((read, _)))) if *read == inode);
        let left =
            |(old, reading): (&PathBuf, &Reading)| matches!(reading, Ok(None)) && self.inodes.get(old) == Some(&inode);
        !is_here && readings.iter().any(left)
    }

    fn cannot_list(&mut self, error: &io::Error) {
        let message =
            format!("cannot be listed: {error}; all stays as it was; restart the agent once it is there again");
        self.unlisted = Some(Problem { file: self.dirs[0].clone(), line: None, object: None, message });
    }

    /// All manifests, each with the inode of its directory entry.
    fn listed(&self) -> io::Result<BTreeMap<PathBuf, u64>> {
        let mut listed = BTreeMap::new();
        for dir in &self.dirs {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                listed.insert(entry.path(), entry.ino());
            }
        }
        listed.retain(|path, _| is_manifest(path));
        Ok(listed)
    }

    fn take_in(&mut self, path: &Path, reading: Reading) {
        match reading {
            Ok(Some((inode, text))) => {
                self.inodes.insert(path.to_owned(), inode);
                self.catalog.read(path, Ok(&text));
            }
            Ok(None) => {
                self.inodes.remove(path);
                self.catalog.remove(path);
            }
            Err(error) => self.catalog.read(path, Err(format!("cannot be read: {error}"))),
        }
    }

    fn tell_problems(&self) {
        let mut now = self.catalog.problems();
        now.extend(self.unlisted.clone());
        let mut told = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in now.iter().filter(|problem| !told.contains(problem)) {
            tracing::warn!("{problem}");
        }
        *told = now;
    }
}

/// `None`: there is no such file, or it is a directory. Anything else that is no plain file could block a reader.
fn text_of(path: &Path) -> Reading {
    let found = match path.metadata() {
        Ok(found) if found.is_dir() => return Ok(None),
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !found.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    if found.len() > FILE_MAX {
        return Err(io::Error::other(format!("larger than {} MiB", FILE_MAX >> 20)));
    }
    let read = path.symlink_metadata().and_then(|entry| Ok((entry.ino(), fs::read_to_string(path)?)));
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
