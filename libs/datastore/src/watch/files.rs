//! Files of the datastore as they stand now: their text, and which file a name means.
//! In: a path or directory. Out: text and identity, or a listing.
//! Invariant: a file keeps its identity through renames and saves in place; a new file never has an old one's.
//! Never: blocks on what is no plain file; reads without a bound.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Metadata},
    io,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A larger file is not read; its objects keep their last good revision.
const FILE_MAX: u64 = 64 << 20;

/// A file's identity and text; `None`: it is not there.
pub(crate) type Reading = io::Result<Option<(Identity, String)>>;

/// A file whatever its name. Inode numbers are used again, so the time of birth counts where the file system knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(super) inode: u64,
    pub(super) born: Option<SystemTime>,
}

impl Identity {
    fn new(entry: &Metadata) -> Self {
        Self { inode: entry.ino(), born: entry.created().ok() }
    }

    /// Of the entry itself, be it a link.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::new(&path.symlink_metadata()?))
    }
}

/// All entries of the directories, each with its inode.
pub(crate) fn listed(dirs: &[PathBuf]) -> io::Result<BTreeMap<PathBuf, u64>> {
    let mut listed = BTreeMap::new();
    for dir in dirs {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            listed.insert(entry.path(), entry.ino());
        }
    }
    Ok(listed)
}

/// The entries that are one of these files. Where no file is asked for, nothing is listed.
pub(super) fn listed_of(dirs: &[PathBuf], inodes: &BTreeSet<u64>) -> io::Result<BTreeMap<PathBuf, u64>> {
    let mut found = BTreeMap::new();
    for dir in dirs.iter().filter(|_| !inodes.is_empty()) {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if inodes.contains(&entry.ino()) {
                found.insert(entry.path(), entry.ino());
            }
        }
    }
    Ok(found)
}

/// What a path leads to; `None`: nothing, or a directory.
fn found(path: &Path) -> io::Result<Option<Metadata>> {
    match path.metadata() {
        Ok(found) => Ok(Some(found).filter(|found| !found.is_dir())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether there is, or may be, a file.
pub(super) fn is_there(path: &Path) -> bool {
    !matches!(found(path), Ok(None))
}

/// `None`: there is no such file, or it is a directory. Anything else that is no plain file could block a reader.
pub(crate) fn text_of(path: &Path) -> Reading {
    let Some(found) = found(path)? else { return Ok(None) };
    if !found.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    if found.len() > FILE_MAX {
        return Err(io::Error::other(format!("larger than {} MiB", FILE_MAX >> 20)));
    }
    let read = Identity::at(path).and_then(|identity| Ok((identity, fs::read_to_string(path)?)));
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
