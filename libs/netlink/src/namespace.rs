//! Network namespaces: opening them and working inside one.
//! In: a path or descriptor. Out: what the work returned.
//! Invariant: only a thread made for it ever changes its namespace, and that thread ends with the work.
//! Never: moves the caller's thread; forks.

use rustix::{
    fs::{Mode, OFlags},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// A namespace that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The path leads nowhere.
    #[error("network namespace {path:?}: {source}")]
    Open {
        /// The path.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// It is no network namespace, or the right to enter it is missing.
    #[error("enter the network namespace: {0}; is it one, and is this run by root?")]
    Enter(io::Error),
    /// None can be made, or no thread to work in it.
    #[error("prepare a network namespace: {0}; is this run by root?")]
    Prepare(io::Error),
}

/// Opens the namespace at `path` (`/run/netns/NAME`, `/proc/PID/ns/net`).
///
/// # Errors
/// There is nothing at `path`.
pub fn open(path: &Path) -> Result<OwnedFd, NamespaceError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| NamespaceError::Open { path: path.to_owned(), source: errno.into() })
}

/// The calling thread's own namespace.
///
/// # Errors
/// `/proc` is not mounted.
pub fn current() -> Result<OwnedFd, NamespaceError> {
    open(Path::new("/proc/thread-self/ns/net"))
}

/// Makes a namespace without a name; it lives as long as the descriptor.
///
/// # Errors
/// The right to make one is missing.
pub fn create() -> Result<OwnedFd, NamespaceError> {
    on_a_thread(|| {
        // SAFETY: NEWNET leaves the thread's descriptor table shared, which is the one thing `unshare` may break.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|errno| NamespaceError::Prepare(errno.into()))?;
        current()
    })?
}

/// Whether both are the same namespace.
///
/// # Errors
/// A descriptor cannot be looked at.
pub fn same(left: BorrowedFd<'_>, right: BorrowedFd<'_>) -> Result<bool, NamespaceError> {
    let identity = |fd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let identity = |fd| identity(fd).map_err(|errno| NamespaceError::Enter(errno.into()));
    Ok(identity(left)? == identity(right)?)
}

/// Does `work` inside a namespace, on a thread of its own, and waits for it. Sockets opened there stay there.
///
/// # Errors
/// The namespace cannot be entered; `work` was not started.
pub fn inside<T: Send>(namespace: impl AsFd, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    let namespace = namespace.as_fd();
    on_a_thread(move || {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
            .map_err(|errno| NamespaceError::Enter(errno.into()))?;
        Ok(work())
    })?
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned());
        let running = thread.spawn_scoped(scope, work).map_err(NamespaceError::Prepare)?;
        // A panic of the work is the caller's panic.
        Ok(running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
