//! The directory as a datastore: listed once, then watched.
//! In: saves, renames and removals in `DIR` `DIR/.tortie/WorkloadAddress`, `NodeVteps`, `NodeAddresses`, `ServiceAddresses` and `BlockAffinity`. Out: batches of updates.
//! Invariant: the first batch is everything that is there and ends with `InSync`; a batch is never sent half.
//! Never: reads a file while it is written (a save counts when the file is closed); waits for time to pass.

mod events;
mod files;

use crate::{
    Problem, catalog,
    objects::SHARED,
    parallel, snapshot,
    standing::{Standing, Told},
};
pub(crate) use events::is_manifest;
use events::{Touched, watch};
use files::{Identity, Reading, is_there, listed_of};
pub(crate) use files::{listed, text_of};
use model::Update;
use notify::RecommendedWatcher;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, SyncSender, TryRecvError},
    },
    thread,
};

/// Changes that belong together: apply them all before calculating.
pub type Batch = Vec<Update>;
/// Where batches arrive. It closes when the [`FileStore`] is dropped and the last good policies are written down.
pub type Updates = Receiver<Batch>;

/// Files whose texts are read as objects at once: what all of them say is never there twice, as text and as read.
pub(crate) const FILES_AT_ONCE: usize = 2048;
/// So often a file may be renamed while it is being read.
const RENAMES_MAX: usize = 100;
/// Batches that may wait. While the reader is slow, changes gather in the set of touched paths instead.
pub(crate) const BATCHES_MAX: usize = 16;

/// Why a directory cannot be a datastore.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The manifests' directory.
    #[error(
        "{path}: cannot be used as a datastore: {reason}; it must be a directory that this agent may read and write"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The folder of last good policies: without it, a broken manifest would open what its policy protects.
    #[error(
        "{path}: last good policies cannot be kept here: {reason}; it must be a directory that this agent may write"
    )]
    LastGood {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A watched directory. Dropping it ends the watch.
#[derive(Debug)]
pub struct FileStore {
    problems: Told,
    _watcher: RecommendedWatcher,
}

impl FileStore {
    /// Lists `dir`, and watches it from then on. In `last_good`, a folder of its own, the policies in force outlive the
    /// process: one whose manifest cannot be read at the next start stays in force.
    ///
    /// # Errors
    /// The directory cannot be read or watched, or its `.tortie` or `last_good` cannot be made or listed.
    pub fn open(dir: &Path, last_good: Option<&Path>) -> Result<(Self, Updates), OpenError> {
        let failed = |reason: String| OpenError::Directory { path: dir.to_owned(), reason };
        let [workloads, addresses, vteps, own, claims] = snapshot::WATCHED.map(|kind| dir.join(SHARED).join(kind));
        let dirs = [dir.to_owned(), workloads, addresses, vteps, own, claims];
        fs::read_dir(dir).map_err(|error| failed(error.to_string()))?;
        dirs.iter().skip(1).try_for_each(fs::create_dir_all).map_err(|error| failed(error.to_string()))?;

        let (wake, woken) = mpsc::sync_channel(1);
        let touched = Arc::new(Mutex::new(Touched::default()));
        let watcher = watch(&dirs, Arc::clone(&touched), wake).map_err(|error| failed(error.to_string()))?;

        let problems = Arc::new(Mutex::new(Vec::new()));
        let (send, updates) = mpsc::sync_channel(BATCHES_MAX);
        let mut reader = Reader::new(dirs, Arc::clone(&problems));
        if let Some(path) = last_good {
            let failed = |error: io::Error| OpenError::LastGood { path: path.to_owned(), reason: error.to_string() };
            reader.remember(path).map_err(failed)?;
        }
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

struct Reader {
    dirs: [PathBuf; 6],
    standing: Standing,
    /// Which file each path was when it was read: so a rename is seen as one change.
    known: BTreeMap<PathBuf, Identity>,
    /// Manifests that are being saved, and where an editor has put the old file. Their objects stay.
    away: BTreeMap<PathBuf, PathBuf>,
    unlisted: Option<Problem>,
}

/// What the directory says of the touched manifests.
#[derive(Debug, Default)]
struct Look {
    readings: BTreeMap<PathBuf, Reading>,
    /// Those that are being saved, and where the old file is.
    away: BTreeMap<PathBuf, PathBuf>,
}

impl Reader {
    fn new(dirs: [PathBuf; 6], told: Told) -> Self {
        let standing = Standing::new(dirs[0].clone(), told);
        Self { dirs, standing, known: BTreeMap::new(), away: BTreeMap::new(), unlisted: None }
    }

    fn remember(&mut self, folder: &Path) -> io::Result<()> {
        self.standing.remember(folder)
    }

    fn first(&mut self) -> io::Result<Batch> {
        let look = self.look(Touched { all: true, ..Touched::default() })?;
        look.readings.keys().for_each(|path| self.standing.expect(path));
        self.take_in(look);
        let mut batch = self.changes();
        batch.push(Update::InSync);
        Ok(batch)
    }

    /// Until the store or the receiver is dropped.
    fn run(mut self, touched: &Mutex<Touched>, woken: &Receiver<()>, send: &SyncSender<Batch>) {
        while self.wait(woken) {
            let now = std::mem::take(&mut *touched.lock().unwrap_or_else(PoisonError::into_inner));
            match self.look(now) {
                Ok(look) => {
                    self.unlisted = None;
                    self.take_in(look);
                }
                Err(error) => {
                    self.cannot_list(&error);
                    touched.lock().unwrap_or_else(PoisonError::into_inner).all = true;
                }
            }
            let batch = self.changes();
            if !batch.is_empty() && send.send(batch).is_err() {
                break;
            }
        }
        while self.standing.keep_one() {}
    }

    /// For the next event. Until it comes the last good policies are written down, one by one, so that no change of
    /// policy waits for the disk. False: there will be none.
    fn wait(&mut self, woken: &Receiver<()>) -> bool {
        loop {
            match woken.try_recv() {
                Ok(()) => return true,
                Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) if self.standing.keep_one() => {}
                Err(TryRecvError::Empty) => return woken.recv().is_ok(),
            }
        }
    }

    fn changes(&mut self) -> Batch {
        let being_saved = self.away.iter().map(|(path, place)| being_saved(path, place));
        self.standing.tell_beside(self.unlisted.iter().cloned().chain(being_saved).collect());
        self.standing.changes()
    }

    /// What the touched manifests say. A file that is gone here and new there was renamed: both sides belong into one
    /// batch. A directory that cannot be listed says nothing about its files.
    fn look(&self, touched: Touched) -> io::Result<Look> {
        let left: BTreeSet<PathBuf> = touched.left.into_iter().chain(self.away.keys().cloned()).collect();
        let mut paths = touched.whole;
        if touched.all {
            paths.extend(self.known.keys().cloned());
        }
        for _ in 0..RENAMES_MAX {
            let asked: Vec<_> = paths.iter().cloned().collect();
            let texts = parallel::computed(&asked, |path| text_of(path));
            let mut readings: BTreeMap<_, _> = asked.into_iter().zip(texts).collect();
            for path in left.iter().filter(|path| !is_there(path)) {
                readings.entry(path.clone()).or_insert(Ok(None));
            }
            // Listed after reading, so that what was renamed meanwhile is seen, too; and only for what is gone.
            let listed = if touched.all {
                listed(&self.dirs)?
            } else {
                let gone = readings.iter().filter(|(_, reading)| matches!(reading, Ok(None)));
                listed_of(&self.dirs, &gone.filter_map(|(path, _)| Some(self.known.get(path)?.inode)).collect())?
            };
            let missed = |path: &PathBuf, inode: u64| {
                touched.all && !readings.contains_key(path) || self.is_renamed(&readings, path, inode)
            };
            let manifests = listed.iter().filter(|(path, _)| is_manifest(path));
            let again: Vec<_> = manifests.filter(|(path, inode)| missed(path, **inode)).map(|(path, _)| path).collect();
            if again.is_empty() {
                return Ok(self.settle(readings, &listed));
            }
            paths.extend(again.into_iter().cloned());
        }
        Err(io::Error::other("its files are renamed faster than they can be read"))
    }

    /// Whether the file that one of `readings` found gone now stands at `path` and was not read there.
    fn is_renamed(&self, readings: &BTreeMap<PathBuf, Reading>, path: &Path, inode: u64) -> bool {
        let is_here = matches!(readings.get(path), Some(Ok(Some((read, _)))) if read.inode == inode);
        let left = |(old, reading): (&PathBuf, &Reading)| {
            matches!(reading, Ok(None)) && self.known.get(old).is_some_and(|known| known.inode == inode)
        };
        !is_here && readings.iter().any(left)
    }

    /// Editors move the old file away before they write the new one. Meanwhile nothing is gone: neither while the old
    /// file lies here under a name that is no manifest's, nor once there is a new one, whose writer has yet to close it.
    fn settle(&self, readings: BTreeMap<PathBuf, Reading>, listed: &BTreeMap<PathBuf, u64>) -> Look {
        let mut look = Look::default();
        for (path, reading) in readings {
            let is_gone = matches!(reading, Ok(None));
            if is_gone && let Some(place) = self.moved_to(&path, listed) {
                look.away.insert(path, place);
            } else if !is_gone || !is_there(&path) {
                look.readings.insert(path, reading);
            }
        }
        look
    }

    fn moved_to(&self, path: &Path, listed: &BTreeMap<PathBuf, u64>) -> Option<PathBuf> {
        let known = self.known.get(path)?;
        // One that has left its place since it was listed causes another look.
        let is_it = |place: &Path| Identity::at(place).map_or(true, |found| found == *known);
        let places = listed.iter().filter(|(place, inode)| **inode == known.inode && !is_manifest(place));
        places.map(|(place, _)| place).find(|place| is_it(place)).cloned()
    }

    fn cannot_list(&mut self, error: &io::Error) {
        let message =
            format!("cannot be listed: {error}; all stays as it was; restart the agent once it is there again");
        self.unlisted = Some(Problem { file: self.dirs[0].clone(), line: None, object: None, message });
    }

    fn take_in(&mut self, look: Look) {
        self.away = look.away;
        let mut left = look.readings.into_iter();
        loop {
            let files: Vec<_> = left.by_ref().take(FILES_AT_ONCE).collect();
            if files.is_empty() {
                break;
            }
            let said = parallel::computed(&files, |(_, reading)| said(reading));
            for ((path, reading), said) in files.into_iter().zip(said) {
                match reading {
                    Ok(Some((identity, _))) => drop(self.known.insert(path.clone(), identity)),
                    Ok(None) => drop(self.known.remove(&path)),
                    Err(_) => {}
                }
                self.standing.take_in(&path, said);
            }
        }
    }
}

/// What a file says; `None`: it is gone.
pub(crate) fn said(reading: &Reading) -> Option<catalog::Reading> {
    match reading {
        Ok(Some((_, text))) => Some(catalog::Reading::of(Ok(text))),
        Ok(None) => None,
        Err(error) => Some(catalog::Reading::of(Err(format!("cannot be read: {error}")))),
    }
}

fn being_saved(path: &Path, place: &Path) -> Problem {
    let place = place.display();
    let message = format!(
        "was renamed to {place}; its objects stay in force until it is saved again, or {place} leaves this directory"
    );
    Problem { file: path.to_owned(), line: None, object: None, message }
}

#[cfg(test)]
mod tests;
