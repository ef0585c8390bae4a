//! A cgroup of a test's own, below the one that this process is in.
//! In: the version 2 hierarchy, wherever it is mounted. Out: a path for an agent; threads whose sockets are in it.
//! Invariant: a name carries the pid of its maker, so that two runs never meet and a later one removes what a killed one left.
//! Never: moves a thread that it did not make.

use crate::netns::{STEM, maker_is_gone};
use anyhow::{Context as _, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

/// The cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one that takes threads.
    ///
    /// # Errors
    /// There is no version 2 hierarchy, or the process lacks the right.
    pub fn create() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let above = own()?;
        sweep(&above);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = above.join(format!("{STEM}{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let made = Self { path };
        fs::write(made.path.join("cgroup.type"), "threaded").context("making it a cgroup of threads")?;
        Ok(made)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread of its own in it, as are the threads that it makes. Sockets that it returns stay in it.
    ///
    /// # Errors
    /// The thread cannot be moved, or `work` fails.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            fs::write(self.path.join("cgroup.threads"), "0").context("moving a thread to its cgroup")?;
            work()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // One that is left is removed by a later run.
        let _ = fs::remove_dir(&self.path);
    }
}

/// The version 2 cgroup of this process.
fn own() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading mounts")?;
    let mut mounted = mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4).map(PathBuf::from))?
    });
    let root = mounted.next().context("no cgroup v2 is mounted")?;
    let cgroups = fs::read_to_string("/proc/self/cgroup").context("reading this process' cgroup")?;
    let within = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?;
    Ok(root.join(within))
}

/// Removes those of runs that are gone.
fn sweep(above: &Path) {
    for entry in fs::read_dir(above).into_iter().flatten().flatten() {
        if maker_is_gone(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
