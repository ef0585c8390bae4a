//! Files that are whole at every moment, several at a time: what waits for the disk waits together.
//! In: paths and texts. Out: all of them in place and on the disk, or the first that is not.
//! Invariant: each is written beside, synced and renamed; renames keep the order given, so a crash leaves a beginning.
//! Never: locks; makes a directory.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
};

/// Waits at a time: a disk takes several as easily as one.
const TOGETHER: usize = 16;

/// Puts every file in place and returns once all are on the disk.
///
/// # Errors
/// The file or directory that could not be written, and why. Those before it in the list may be in place.
pub fn replace_all(files: &[(PathBuf, Vec<u8>)]) -> Result<(), (PathBuf, io::Error)> {
    together(files, |(path, text)| beside(&temporary(path), text).map_err(|error| (path.clone(), error)))?;
    for (path, _) in files {
        fs::rename(temporary(path), path).map_err(|error| (path.clone(), error))?;
    }
    let dirs: BTreeSet<&Path> = files.iter().filter_map(|(path, _)| path.parent()).collect();
    let dirs: Vec<_> = dirs.into_iter().collect();
    together(&dirs, |dir| sync_dir(dir).map_err(|error| (dir.to_path_buf(), error)))
}

/// Makes what was renamed into or removed from a directory last.
///
/// # Errors
/// The file system refuses.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Hidden, so that no reader takes it for an object.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

fn beside(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Does `work` for each of `items`, several at a time; the first error of the list.
fn together<T: Sync, E: Send>(items: &[T], work: impl Fn(&T) -> Result<(), E> + Sync) -> Result<(), E> {
    let share = items.len().div_ceil(TOGETHER).max(1);
    let shares: Vec<_> = items.chunks(share).collect();
    let all = |items: &[T]| items.iter().try_for_each(&work);
    let Some((last, others)) = shares.split_last() else { return Ok(()) };
    thread::scope(|scope| {
        let others: Vec<_> = others.iter().map(|items| scope.spawn(move || all(items))).collect();
        let last = all(last);
        let join = |thread: thread::ScopedJoinHandle<'_, Result<(), E>>| {
            // A panic of the work is the caller's panic.
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let mut results: Vec<_> = others.into_iter().map(join).collect();
        results.push(last);
        results.into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, names: impl Iterator<Item = String>) -> Vec<(PathBuf, Vec<u8>)> {
        names.map(|name| (dir.join(&name), name.into_bytes())).collect()
    }

    #[test]
    fn all_files_are_in_place_and_nothing_is_left_beside_them() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = files(dir.path(), (0..50).map(|number| format!("{number}.yaml")));
        replace_all(&files).expect("written");
        assert!(files.iter().all(|(path, text)| fs::read(path).is_ok_and(|found| found == *text)));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 50);
    }

    #[test]
    fn what_cannot_be_written_is_named_and_nothing_is_renamed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let files = files(dir.path(), ["a.yaml", "nowhere/b.yaml", "c.yaml"].map(str::to_owned).into_iter());
        let (path, _) = replace_all(&files).expect_err("there is no such directory");
        assert_eq!(path, files[1].0);
        assert!(!files[0].0.exists() && !files[2].0.exists());
    }
}
