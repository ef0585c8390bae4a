//! Events of the directory, gathered until somebody looks.
//! In: what the kernel says of each file. Out: which manifests are whole again, and which names were left.
//! Invariant: at most one entry a file, however often it was touched; nothing is missed without `all` being set.
//! Never: reads a file.

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc::SyncSender},
};

/// What happened since the reader last looked; of one name, what happened last.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Manifests that are whole: to be read.
    pub(super) whole: BTreeSet<PathBuf>,
    /// Manifests whose file went away from its name. What stands there by now may be half written: its own event comes.
    pub(super) left: BTreeSet<PathBuf>,
    /// The kernel dropped events: everything must be listed again.
    pub(super) all: bool,
}

/// Gathers events of `dirs` in `touched` and wakes the reader after each.
pub(super) fn watch(
    dirs: &[PathBuf],
    touched: Arc<Mutex<Touched>>,
    wake: SyncSender<()>,
) -> Result<RecommendedWatcher, notify::Error> {
    let mut watcher = notify::recommended_watcher(move |event: Result<Event, notify::Error>| {
        if touched.lock().unwrap_or_else(PoisonError::into_inner).add(event) {
            // A full channel already says that there is something to look at.
            let _ = wake.try_send(());
        }
    })?;
    for dir in dirs {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// What an event means for a file.
enum Change {
    Whole,
    Left,
}

/// `None`: nothing yet, or nothing at all. The reader's own looks cause events, too, and must not wake it.
fn change(kind: EventKind, path: &Path) -> Option<Change> {
    let is_link = || path.symlink_metadata().is_ok_and(|found| found.is_symlink() || found.nlink() > 1);
    match kind {
        // Both sides have had their own events before this one.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) | EventKind::Remove(_) => Some(Change::Left),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            Some(Change::Whole)
        }
        // A file that was just created is not whole, unless it is a link to one that is.
        EventKind::Create(_) => is_link().then_some(Change::Whole),
        _ => None,
    }
}

impl Touched {
    /// False: there is nothing to look at.
    pub(super) fn add(&mut self, event: Result<Event, notify::Error>) -> bool {
        match event {
            Ok(event) if !event.need_rescan() => {
                event.paths.iter().filter(|path| self.path(event.kind, path)).count() > 0
            }
            Ok(_) => {
                self.all = true;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "watching the datastore directory: listing it again");
                self.all = true;
                true
            }
        }
    }

    /// Files that are no manifests leave no trace, and yet are a reason to look: one may be an editor's old file.
    fn path(&mut self, kind: EventKind, path: &Path) -> bool {
        let Some(change) = change(kind, path) else { return false };
        if is_manifest(path) {
            let (to, from) = match change {
                Change::Whole => (&mut self.whole, &mut self.left),
                Change::Left => (&mut self.left, &mut self.whole),
            };
            from.remove(path);
            to.insert(path.to_owned());
        }
        true
    }
}

/// Whether a path is a manifest and not a temporary file or an editor's copy.
pub(crate) fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().map(|extension| extension.to_string_lossy());
    !hidden && extension.is_some_and(|extension| ["yaml", "yml", "json"].contains(&&*extension))
}
