//! One agent at a time: locks on the state directory and on the pins.
//! In: directories. Out: locks, held as long as the value lives.
//! Invariant: the kernel gives a lock back when its holder dies, however it dies.
//! Never: waits.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// A lock on a directory.
#[derive(Debug)]
#[must_use = "the lock is given back when this is dropped"]
pub struct Lock(#[expect(dead_code, reason = "held for its descriptor")] File);

/// The directory is not ours alone.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("{0}: in use by another agent; stop it, or give each agent its own --state-dir and --bpffs")]
    Held(PathBuf),
    /// Nothing can be made in the kernel's own folder before a bpffs is mounted there.
    #[error(
        "--bpffs {path}: cannot be made: {source}; mount a bpffs (`mount -t bpf bpf /sys/fs/bpf`), or give a directory elsewhere"
    )]
    Pins {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Locks `dir`, which is made if it is not there.
pub fn lock(dir: &Path) -> Result<Lock, LockError> {
    let io_error = |source| LockError::Io { path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(io_error)?;
    let file = File::open(dir).map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(LockError::Held(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error(source)),
    }
}

/// Locks the directory of pins, which is made if it is not there.
pub fn pins(dir: &Path) -> Result<Lock, LockError> {
    fs::create_dir_all(dir).map_err(|source| LockError::Pins { path: dir.to_owned(), source })?;
    lock(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_that_have_no_place_say_what_to_mount() {
        let error = pins(Path::new("/proc/pins")).expect_err("nothing can be made in /proc").to_string();
        assert!(error.contains("--bpffs /proc/pins") && error.contains("mount -t bpf"), "{error}");
    }

    #[test]
    fn a_second_agent_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = lock(dir.path()).expect("free");
        assert!(matches!(lock(dir.path()), Err(LockError::Held(_))));
        drop(first);
        assert!(lock(dir.path()).is_ok());
    }
}
